//! What the MCP gateway costs a call, against nginx in the same place; what its sessions take; what a kill of running calls takes.

use std::{fs, path::PathBuf, thread, time::Duration};

use e2e::{Outside, Service};
use serde_json::{Value, json};

use crate::{
    Line,
    daemon::status,
    host::{Host, fsync_ms},
    median, percentile,
};

const ROUNDS: usize = 9;
const ECHO: &str = "127.0.0.1:9471";
const NGINX: &str = "127.0.0.1:9472";
const GATEWAY: &str = "127.0.0.1:9480";
/// The echo server's own path, and the gateway's for it.
const PATH: &str = "/mcp";
const PATH_THERE: &str = "/s/echo-mcp/mcp";

/// No limit that the bench reaches.
const UNLIMITED: &str = "[limits]\ncalls_per_minute = 100000000\nconcurrent_calls = 2000\nsessions = 4000\n";
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

    fn called(&self, service: &Service, at: &str, path: &str, count: usize, callers: usize) -> Vec<f64> {
        self.host.figures(service, &["mcp-call", at, path, &count.to_string(), &callers.to_string()])
    }

    /// The gateway's process, which the daemon started.
    fn gateway(&self) -> i32 {
        let daemon = self.host.world.daemon_pid();
        let mut all = fs::read_dir("/proc").unwrap().flatten();
        all.find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("status")).ok()?;
            let is = text.starts_with("Name:\tclawguard-gatew") && text.contains(&format!("\nPPid:\t{daemon}\n"));
            is.then_some(pid)
        })
        .unwrap()
    }

    /// Its resident memory, in megabytes.
    fn resident(&self) -> f64 {
        status(self.gateway(), "VmRSS") as f64 / 1024.0
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

/// nginx as a reverse proxy, its connections kept at both ends, with one process that works: the gateway has one thread.
fn nginx(host: &Host) -> (Service, Outside) {
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
         upstream echo {{ server {ECHO}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{\n listen {NGINX} backlog=4096;\n location / {{\n proxy_pass http://echo;\n proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\n }}\n }}\n}}\n"
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

/// Seconds of processor that a process has had.
fn processor(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    // In hundredths: what the process did, and the kernel for it.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Figures of one kind of callers: directly, by nginx, by the gateway.
#[derive(Default)]
struct Ways([Vec<Vec<f64>>; 3]);

impl Ways {
    /// One round, its ways in another order each time.
    fn round(&mut self, tools: &Tools, number: usize, count: usize, callers: usize) {
        let mut order = [0, 1, 2];
        order.rotate_left(number % 3);
        for way in order {
            let plain = &tools.host.plain;
            self.0[way].push(match way {
                0 => tools.called(plain, ECHO, PATH, count, callers),
                1 => tools.called(plain, NGINX, PATH, count, callers),
                _ => tools.through(count, callers),
            });
        }
    }

    fn of(&self, way: usize, figure: usize) -> f64 {
        median(&mut self.0[way].iter().map(|round| round[figure]).collect::<Vec<_>>())
    }

    /// Microseconds that nginx and the gateway add: differences within a round, then their median.
    fn added(&self, figure: usize) -> [f64; 2] {
        [1, 2].map(|way| {
            let pairs = self.0[way].iter().zip(&self.0[0]);
            median(&mut pairs.map(|(by, directly)| by[figure] - directly[figure]).collect::<Vec<_>>()) / 1e3
        })
    }

    fn line(&self, what: &str, figure: usize, promised: &'static str, most: impl Fn(f64) -> f64) -> Line {
        let [nginx, gateway] = self.added(figure);
        let directly = self.of(0, figure) / 1e3;
        Line::new(
            format!("added to an MCP `tools/call`, {what}"),
            format!("{gateway:.0} us; nginx {nginx:.0} us; ratio {:.1}; directly {directly:.0} us", gateway / nginx),
            promised,
            gateway <= most(nginx),
        )
    }
}

/// How long a call takes, and how many there are in a second.
pub(crate) fn calls() -> Vec<Line> {
    const MANY: usize = 100;
    const EACH: usize = 300;
    let tools = Tools::new();
    let (_group, _nginx) = nginx(&tools.host);
    let (mut one, mut many) = (Ways::default(), Ways::default());
    for number in 0..ROUNDS {
        one.round(&tools, number, 3000, 1);
        many.round(&tools, number, EACH, MANY);
    }
    // What each call costs whom: beside the rounds, so that the rounds have only their own.
    let processes = [tools.gateway(), tools.host.world.daemon_pid()];
    let before = processes.map(processor);
    tools.through(10 * EACH, MANY);
    let spent: Vec<f64> = processes.iter().zip(before).map(|(pid, before)| processor(*pid) - before).collect();
    let [gateway, daemon] = [spent[0], spent[1]].map(|seconds| seconds * 1e6 / (10 * EACH * MANY) as f64);
    let rate = many.of(2, 2);
    vec![
        one.line("one caller, p50", 0, "80 us", |_| 80.0),
        one.line("one caller, p99", 1, "400 us", |_| 400.0),
        many.line("100 callers, p50", 0, "3 × nginx", |nginx| 3.0 * nginx),
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
