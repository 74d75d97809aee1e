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

/// Seconds of processor that a process has had, the kernel's for it and those of its threads that are gone included.
pub(crate) fn processor(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    // In hundredths.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
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

/// What is spent on jobs that do nothing.
pub(crate) fn idle() -> Vec<Line> {
    const JOBS: usize = 100;
    const SECONDS: f64 = 20.0;
    let mut host = Host::new();
    host.fence(contract(&addresses(100), "tcp"));
    host.world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let processes = [host.world.daemon_pid(), host.gateway()];
    let mut jobs = Vec::new();
    let mut measured = |count: usize| {
        while jobs.len() < count {
            jobs.push(host.world.agent_runs_on("a", Nobody, &["sleep", "600"]));
        }
        let running = |job: &serde_json::Value| job["agent"] == "a" && job["state"] == "running";
        host.world.eventually("all jobs run", |world| {
            world.json(&["status"])["jobs"].as_array().unwrap().iter().filter(|job| running(job)).count() == count
        });
        // What starting left behind, blocking threads included, is over by then.
        thread::sleep(Duration::from_secs(8));
        let before = processes.map(|pid| (processor(pid), wakeups(pid)));
        thread::sleep(Duration::from_secs_f64(SECONDS));
        let after = processes.map(|pid| (processor(pid), wakeups(pid)));
        let spent = |at: usize| 1e3 * (after[at].0 - before[at].0) / SECONDS;
        let woken = |at: usize| (after[at].1 - before[at].1) as f64 / SECONDS;
        [spent(0), spent(1), woken(0), woken(1)]
    };
    let (none, all) = (measured(0), measured(JOBS));
    let share = (all[0] + all[1]) / 10.0;
    let words = |of: [f64; 4]| {
        format!(
            "daemon {:.1} ms of processor and {:.1} wakeups a second, gateway {:.1} ms and {:.1}",
            of[0], of[2], of[1], of[3]
        )
    };
    vec![Line::new(
        format!("daemon and gateway with {JOBS} managed jobs that do nothing"),
        format!("{}; with none {}", words(all), words(none)),
        "1 % of one core",
        share <= 1.0,
    )]
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
