//! Daemon and gateway are killed at random while everything is in use: nothing that anybody was told is missing afterwards.
//!
//! `CLAWGUARD_CRASHES` says how often (50), `CLAWGUARD_CRASH_SEED` which chances; the seed is printed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use e2e::{Identity::Nobody, McpServer, Outside, Provider, World, built};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const TOOLS: &str = "http://127.0.0.1:9480/s/crm-mcp/mcp";
const MODELS: &str = "127.0.0.1:9481";

/// Chance that can be had again (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A world with a server, a provider, and an agent that may use both.
fn world() -> World {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    let provider = Provider::start("127.0.0.1:3911");
    world.configure(&format!(
        "[audit]\ninterval_seconds = 1\n[limits]\ncalls_per_minute = 1000000\n{}{}",
        server.configuration("crm-mcp", "low"),
        provider.configuration()
    ));
    world.start();
    let mut payload = world.payload(json!({ "tools": { "allow": ["crm-mcp/*"] },
        "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }] }));
    payload["allowed_providers"] = json!(["openai"]);
    payload["allowed_models"] = json!(["gpt-*"]);
    let path = world.sign(&payload);
    world.json(&["wpc", "use", path.to_str().unwrap(), "--agent", "a"]);
    world.eventually("the gateway serves", |world| {
        let tools = world.agent("a", Nobody, &["tools", "list", TOOLS]);
        let models = world.agent("a", Nobody, &["model", "get", MODELS, "/health"]);
        tools.status == 0 && !tools.out.is_empty() && models.out.starts_with("200")
    });
    world
}

/// What goes on until it is told to stop, and then says what it was told.
struct Load<T>(JoinHandle<T>);

fn until_stopped<T: Default + Send + 'static>(
    stop: &Arc<AtomicBool>,
    mut turn: impl FnMut(&mut T) + Send + 'static,
) -> Load<T> {
    let stop = Arc::clone(stop);
    Load(thread::spawn(move || {
        let mut told = T::default();
        while !stop.load(Ordering::SeqCst) {
            turn(&mut told);
        }
        told
    }))
}

/// Asks the control API; `None` where nobody answers, or half.
fn ask(socket: &Path, path: &str, body: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(stream, "POST {path} HTTP/1.0\r\nHost: clawguard\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.0 200").then(|| serde_json::from_str(body).ok())?
}

/// Kills and gives back, all the time: answers the flips of which it was told that they are on disk.
fn flips(stop: &Arc<AtomicBool>, socket: PathBuf) -> Load<BTreeSet<String>> {
    until_stopped(stop, move |told: &mut BTreeSet<String>| {
        for what in ["kill", "restore"] {
            let answer = ask(&socket, &format!("/v1/groups/crm/{what}"), r#"{"reason":"under load"}"#);
            if let Some(answer) = answer.filter(|answer| answer["persisted"] == true) {
                told.insert(answer["flip_id"].as_str().unwrap().to_owned());
            }
            thread::sleep(Duration::from_millis(20));
        }
    })
}

/// Has a job do the same again and again: answers what `of` makes of its lines.
fn lines<T: Send + 'static + Default>(
    stop: &Arc<AtomicBool>,
    mut job: Outside,
    of: impl Fn(&mut T, &str) + Send + 'static,
) -> Load<(T, Option<Outside>)> {
    let stop = Arc::clone(stop);
    Load(thread::spawn(move || {
        let mut told = T::default();
        while !stop.load(Ordering::SeqCst) {
            let line = job.ask("again", "answer");
            of(&mut told, &line);
        }
        (told, Some(job))
    }))
}

fn gateway(world: &World) -> Option<Pid> {
    let form = format!("*{}*gateway.job/cgroup.procs", world.prefix());
    let found = world.outside_runs(&["find", sys::cgroup::mount_point().ok()?.to_str()?, "-path", &form]);
    let text = fs::read_to_string(found.out.lines().next()?).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

#[test]
fn whatever_is_killed_whenever_nothing_that_anybody_was_told_is_missing() {
    let rounds = number("CLAWGUARD_CRASHES").unwrap_or(50);
    let seed = number("CLAWGUARD_CRASH_SEED").unwrap_or_else(sys::clock::wall_ns) | 1;
    eprintln!("CLAWGUARD_CRASH_SEED={seed}");
    let mut chance = Chance(seed);
    let mut world = world();
    let stop = Arc::new(AtomicBool::new(false));
    let socket = world.directory.join("run/clawguard/control.sock");
    let flips = flips(&stop, socket);
    // Each call has arguments of its own, by which its record is known. Nobody tells a client that its gateway was killed.
    let probe = world.probe();
    let calls = format!(
        "n=0; while read -r x; do n=$((n+1)); echo \"answer $n $(timeout 5 {probe} tools call {TOOLS} get_case \"{{\\\"n\\\":$n}}\" 2>&1 | tail -n 1)\"; done"
    );
    let calls = world.agent_runs_on("a", Nobody, &["sh", "-c", &calls]);
    let calls = lines(&stop, calls, |told: &mut BTreeSet<String>, line| {
        let (number, answer) = line.strip_prefix("answer ").unwrap().split_once(' ').unwrap_or_default();
        if answer.contains("did get_case") {
            told.insert(claw::Hash::of(format!("{{\"n\":{number}}}").as_bytes()).to_string());
        }
    });
    let body = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    let mut models = world.agent_on("a", Nobody, &["model", "calls", MODELS, &body]);
    models.until("ready");
    let receipts = lines(&stop, models, |told: &mut BTreeSet<String>, line| {
        let answer = line.strip_prefix("answer 200 ").and_then(|text| serde_json::from_str::<Value>(text).ok());
        let envelope = answer.map(|answer| answer["_receipt_envelope"].clone()).filter(|envelope| !envelope.is_null());
        told.extend(envelope.map(|envelope| envelope["payload"]["receipt_id"].as_str().unwrap().to_owned()));
    });
    // Whoever is refused says so; the far end is never reached.
    let refused =
        format!("while read -r x; do echo \"answer $({probe} tcp 203.0.113.99:443 x 2>&1 | head -n 1)\"; done");
    let refused = world.agent_runs_on("a", Nobody, &["sh", "-c", &refused]);
    let refused = lines(&stop, refused, |told: &mut u64, line| *told += u64::from(!line.starts_with("answer ok")));

    let configuration = world.directory.join("etc/clawguard/clawguard.toml");
    let words = ["--config", configuration.to_str().unwrap()];
    let (mut daemons, mut gateways) = (0, 0);
    for _ in 0..rounds {
        thread::sleep(Duration::from_millis(50 + chance.below(400)));
        let which = chance.below(3);
        if which != 0
            && let Some(pid) = gateway(&world)
            && kill(pid, Signal::SIGKILL).is_ok()
        {
            gateways += 1;
        }
        if which != 1 {
            world.sigkill();
            daemons += 1;
            // Without waiting for its gateway: it is killed while that starts, too.
            world.start_with(&built("clawguard"), &words);
        }
    }
    world.eventually("the gateway serves", |world| {
        world.agent("a", Nobody, &["tools", "list", TOOLS]).out.contains("get_case")
    });
    stop.store(true, Ordering::SeqCst);
    let flips = flips.0.join().unwrap();
    let (calls, first) = calls.0.join().unwrap();
    let (receipts, second) = receipts.0.join().unwrap();
    let (refused, third) = refused.0.join().unwrap();
    eprintln!(
        "{daemons} daemons and {gateways} gateways were killed; told of: {} flips, {} calls, {} receipts, {refused} refusals",
        flips.len(),
        calls.len(),
        receipts.len()
    );
    assert!(!flips.is_empty() && !calls.is_empty() && !receipts.is_empty() && refused > 0);
    for job in [first, second, third].into_iter().flatten() {
        job.finish();
    }
    world.eventually("the jobs' ends", |world| {
        !world.json(&["status"])["jobs"].as_array().unwrap().iter().any(|job| job["agent"] == "a")
    });
    world.stop();
    world.clawguard(&["audit", "verify"]).ok();
    let missing = |kind: &str, told: &BTreeSet<String>, of: &dyn Fn(&Value) -> Option<String>| {
        let recorded: BTreeSet<String> = world.audit(kind).iter().filter_map(of).collect();
        let missing: Vec<&String> = told.difference(&recorded).collect();
        assert!(missing.is_empty(), "{kind}: {} of {} are not in the chain: {missing:?}", missing.len(), told.len());
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    missing("flip", &flips, &|body| text(&body["flip"]["flip_id"]));
    missing("call", &calls, &|body| text(&body["arguments_sha256"]));
    missing("model", &receipts, &|body| {
        let envelope: Value = serde_json::from_str(body["receipt"].as_str()?).ok()?;
        text(&envelope["payload"]["receipt_id"])
    });
    // The kernel counts on, whoever else is gone; and what was counted is in the record of the job's end.
    let counted: u64 = world.audit("coverage").iter().filter_map(|body| body["denied"].as_u64()).sum();
    assert!(counted >= refused, "{counted} of {refused} refusals were counted");
}
