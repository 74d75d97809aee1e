//! What the daemon takes, and what starting an agent takes.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use e2e::Identity::Nobody;
use serde_json::json;

use crate::{
    Line,
    host::{Host, addresses, contract},
    median,
};

pub(crate) fn run() -> Vec<Line> {
    let mut host = Host::new();
    host.fence(json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    host.world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let (mut plain, mut fenced) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let started = Instant::now();
        assert!(Command::new("true").status().unwrap().success());
        plain.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        host.world.agent_runs("a", Nobody, &["true"]).ok();
        fenced.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let more = median(&mut fenced) - median(&mut plain);
    vec![Line::new("`clawguard run true` over plain `true`, p50", format!("{more:.1} ms"), "15 ms", more <= 15.0)]
}

pub(crate) fn status(pid: i32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Voluntary context switches of all of a process's threads.
fn wakeups(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks
        .map(|task| {
            let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
        })
        .sum()
}

pub(crate) fn memory() -> Vec<Line> {
    let mut host = Host::new();
    host.fence(contract(&addresses(100_000), "tcp"));
    let pid = host.world.daemon_pid();
    // What starting left behind, blocking threads included, is over by then.
    thread::sleep(Duration::from_secs(8));
    let resident = status(pid, "VmRSS") as f64 / 1024.0;
    let before = wakeups(pid);
    thread::sleep(Duration::from_secs(20));
    let a_second = (wakeups(pid) - before) as f64 / 20.0;
    vec![
        Line::new(
            "the daemon's resident memory, 100 000 entries",
            format!("{resident:.1} MB"),
            "40 MB",
            resident <= 40.0,
        ),
        Line::new(
            "wakeups a second when idle, the heartbeat's one included",
            format!("{a_second:.2}"),
            "0 beyond the heartbeat",
            a_second <= 1.5,
        ),
    ]
}

/// Denied connects, all of them counted.
pub(crate) fn count() -> Vec<Line> {
    let mut host = Host::new();
    host.fence(json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let seconds = 5.0;
    let tried = host.worker(&host.fenced, &["denied", &seconds.to_string(), "203.0.113.99:443"]);
    thread::sleep(Duration::from_millis(1500));
    let counted = host.world.metric("clawguard_egress_decisions_total{agent=\"timed\",reason=\"not_in_contract\"");
    vec![Line::new(
        "denied connects that are not counted",
        format!("{} of {tried} at {:.0} a second", tried - counted, tried / seconds),
        "0 at 100 000 a second",
        counted == tried && tried / seconds >= 100_000.0,
    )]
}
