//! What the MCP gateway costs a call, against nginx in the same place; what its sessions take; what a kill of running calls takes.

use std::{fs, path::PathBuf, thread, time::Duration};

use e2e::{Outside, Service};
use serde_json::{Value, json};

use crate::{
    Line,
    daemon::{processor, status},
    host::{Host, fsync_ms},
    median, percentile,
    ways::Ways,
};

const ROUNDS: usize = 9;
const ECHO: &str = "127.0.0.1:9471";
pub(crate) const NGINX: &str = "127.0.0.1:9472";
const GATEWAY: &str = "127.0.0.1:9480";
/// The echo server's own path, and the gateway's for it.
const PATH: &str = "/mcp";
const PATH_THERE: &str = "/s/echo-mcp/mcp";

/// No limit that the bench reaches.
pub(crate) const UNLIMITED: &str = "[limits]\ncalls_per_minute = 100000000\nconcurrent_calls = 2000\nsessions = 4000\n";
const SERVER: &str = "[[mcp.server]]\nname = \"echo-mcp\"\nurl = \"http://127.0.0.1:9471/mcp\"\nrisk = \"low\"\n\
    tools = { read = [\"*\"] }\n";

/// A host whose agent reaches the echo server by the gateway, and the server.
struct Tools {
    host: Host,
    _echo: Outside,
}

impl Tools {
    fn new() -> Self {
        let mut host = Host::with(&format!("{UNLIMITED}{SERVER}"));
        let echo = host.worker_on(&host.plain, &["mcp-echo", ECHO]);
        host.fence(contract());
        let tools = Self { host, _echo: echo };
        tools.through(1, 1);
        tools
    }

    /// One caller's or more callers' calls, by the gateway.
    fn through(&self, count: usize, callers: usize) -> Vec<f64> {
        self.called(&self.host.fenced, GATEWAY, PATH_THERE, count, callers)
    }

    /// The same by one of the ways: none, nginx, the gateway.
    fn by(&self, way: usize, count: usize, callers: usize) -> Vec<f64> {
        match way {
            0 => self.called(&self.host.plain, ECHO, PATH, count, callers),
            1 => self.called(&self.host.plain, NGINX, PATH, count, callers),
            _ => self.through(count, callers),
        }
    }

    fn called(&self, service: &Service, at: &str, path: &str, count: usize, callers: usize) -> Vec<f64> {
        self.host.figures(service, &["mcp-call", at, path, &count.to_string(), &callers.to_string()])
    }

    /// The gateway's resident memory, in megabytes.
    fn resident(&self) -> f64 {
        status(self.host.gateway(), "VmRSS") as f64 / 1024.0
    }

    /// Calls that the server has and does not answer.
    fn waiting(&self) -> usize {
        let text = self.host.world.http_get(ECHO, "/waiting");
        text.rsplit("\r\n").next().unwrap().parse().unwrap()
    }
}

fn contract() -> Value {
    json!({
        "tools": { "allow": ["echo-mcp/*"] },
        "groups": [{ "name": "waits", "tools": ["echo-mcp/wait"] }],
    })
}

/// nginx as a reverse proxy of whoever is there, its connections kept at both ends, with one process that works: the gateway has one
/// thread.
pub(crate) fn nginx(host: &Host, of: &str, more: &str) -> (Service, Outside) {
    let directory = host.world.directory.join("nginx");
    fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(65534), Some(65534)).unwrap();
    let own = directory.display();
    let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!(" {name}_temp_path {own}/{name};\n"))
        .concat();
    let config = format!(
        "worker_processes 1;\ndaemon off;\npid {own}/pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n access_log off;\n keepalive_requests 1000000000;\n{places}\
         upstream echo {{ server {of}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{\n listen {NGINX} backlog=4096;\n location / {{\n proxy_pass http://echo;\n proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\n{more} }}\n }}\n}}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let service = host.world.service_of("nginx", tool().to_str().unwrap().to_owned());
    let running = service.start(&["-e", "stderr", "-p", &own.to_string(), "-c", file.to_str().unwrap()]);
    host.world.eventually("nginx serves", |_| std::net::TcpStream::connect(NGINX).is_ok());
    (service, running)
}

/// The host's own, or what `cargo xtask bench` unpacked.
fn tool() -> PathBuf {
    let unpacked = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("tools/nginx/usr/sbin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), unpacked]);
    let file = places.map(|place| place.join("nginx")).find(|file| file.is_file());
    file.unwrap_or_else(|| panic!("nginx is not here: `cargo xtask bench` gets it"))
}

/// How long a call takes, and how many there are in a second.
pub(crate) fn calls() -> Vec<Line> {
    const MANY: usize = 100;
    const EACH: usize = 300;
    let tools = Tools::new();
    let (_group, _nginx) = nginx(&tools.host, ECHO, "");
    let (mut one, mut many) = (Ways::default(), Ways::default());
    for number in 0..ROUNDS {
        one.round(number, |way| tools.by(way, 3000, 1));
        many.round(number, |way| tools.by(way, EACH, MANY));
    }
    // What each call costs whom: beside the rounds, so that the rounds have only their own.
    let processes = [tools.host.gateway(), tools.host.world.daemon_pid()];
    let before = processes.map(processor);
    tools.through(10 * EACH, MANY);
    let spent: Vec<f64> = processes.iter().zip(before).map(|(pid, before)| processor(*pid) - before).collect();
    let [gateway, daemon] = [spent[0], spent[1]].map(|seconds| seconds * 1e6 / (10 * EACH * MANY) as f64);
    let rate = many.of(2, 2);
    vec![
        one.line("an MCP `tools/call`, one caller, p50", 0, "80 us", |_| 80.0),
        one.line("an MCP `tools/call`, one caller, p99", 1, "400 us", |_| 400.0),
        many.line("an MCP `tools/call`, 100 callers, p50", 0, "3 × nginx", |nginx| 3.0 * nginx),
        Line::new(
            "MCP calls a second by the gateway, 100 callers, all of it on 2 processors",
            format!(
                "{rate:.0}; nginx {:.0}; directly {:.0}; a call takes {gateway:.0} us of processor in the gateway and \
                 {daemon:.0} us in the daemon",
                many.of(1, 2),
                many.of(0, 2)
            ),
            "20 000",
            rate >= 20_000.0,
        ),
    ]
}

/// What a thousand sessions take that do nothing.
pub(crate) fn sessions() -> Vec<Line> {
    const COUNT: &str = "1000";
    let line = |(what, how): (&str, &str)| {
        let tools = Tools::new();
        thread::sleep(Duration::from_secs(2));
        let before = tools.resident();
        let mut held = tools.host.worker_on(&tools.host.fenced, &["mcp-sessions", GATEWAY, PATH_THERE, COUNT, how]);
        thread::sleep(Duration::from_secs(2));
        let after = tools.resident();
        held.say("");
        assert_eq!(held.line(), format!("held {COUNT}"));
        Line::new(
            format!("the gateway's resident memory with 1 000 idle sessions, {what}"),
            format!("{after:.1} MB, {:.1} MB more than without them", after - before),
            "60 MB",
            after <= 60.0,
        )
    };
    [("each with a connection", "alone"), ("each with a connection and an open stream", "streams")].map(line).into()
}

/// What a kill of a thousand running calls takes, and until their callers know it.
pub(crate) fn kill() -> Vec<Line> {
    const COUNT: usize = 1000;
    let tools = Tools::new();
    let world = &tools.host.world;
    let mut callers = tools.host.worker_on(&tools.host.fenced, &["mcp-wait", GATEWAY, PATH_THERE, &COUNT.to_string()]);
    let (mut took, mut told) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        callers.say("");
        world.eventually("all calls are made", |_| tools.waiting() == COUNT);
        let asked = sys::clock::boot_ns();
        let (status, answer) = world.api("POST", "/v1/groups/waits/kill", r#"{"reason":"bench"}"#);
        took.push((sys::clock::boot_ns() - asked) as f64 / 1e6);
        assert_eq!((status, answer["calls_cancelled"].as_u64()), (200, Some(COUNT as u64)), "{answer}");
        let line = callers.until("answered");
        let words: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
        assert_eq!(words[0], COUNT as u64, "not all are told of a denial");
        told.push(words[1].saturating_sub(asked) as f64 / 1e6);
        // The server, too, has nothing left to do.
        world.eventually("all calls are given up", |_| tools.waiting() == 0);
        world.api("POST", "/v1/groups/waits/restore", r#"{"reason":"bench"}"#);
    }
    let fsync = fsync_ms(world);
    let line = |what: &str, took: &mut [f64]| {
        let (half, most) = (median(&mut took.to_vec()), percentile(took, 100));
        Line::new(
            format!("a kill of 1 000 running MCP calls, {what}"),
            format!("p50 {half:.0} ms, worst {most:.0} ms (an fsync here: {fsync:.2} ms)"),
            "100 ms",
            half <= 100.0,
        )
    };
    vec![line("its whole answer", &mut took), line("until the last of their callers is told", &mut told)]
}
