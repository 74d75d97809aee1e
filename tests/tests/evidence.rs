//! What a job did can be shown to others: honest numbers, and everything that is handed out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{thread, time::Duration};

use e2e::{Identity::Nobody, World};
use serde_json::{Value, json};

fn contract() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false }] })
}

fn world() -> World {
    let mut world = World::new();
    world.configure("[audit]\ninterval_seconds = 1");
    world.start();
    world.use_contract("a", contract());
    world
}

/// An agent's job that runs; empty if none does.
fn job_of(world: &World, agent: &str) -> String {
    let jobs = world.json(&["status"])["jobs"].as_array().unwrap().clone();
    let own = jobs.iter().find(|job| job["agent"] == agent && job["state"] == "running");
    own.map_or_else(String::new, |job| job["id"].as_str().unwrap().to_owned())
}

/// Ends an agent's job.
fn end(world: &World, agent: &str) {
    let (status, body) = world.api("DELETE", &format!("/v1/jobs/{}", job_of(world, agent)), "");
    assert_eq!(status, 200, "{body}");
}

/// The numbers of an agent's last job that ended.
fn coverage(world: &World, agent: &str) -> Value {
    world.eventually("the record", |world| world.audit("coverage").iter().any(|body| body["agent"] == agent));
    world.audit("coverage").into_iter().rfind(|body| body["agent"] == agent).unwrap()
}

#[test]
fn connections_denials_and_processes_of_a_job_are_counted_exactly() {
    let world = world();
    let probe = world.probe();
    let script = format!(
        "for i in 1 2 3; do {probe} tcp 203.0.113.10:443 x; done; {probe} tcp 203.0.113.99:443 x; \
         {probe} tcp 203.0.113.99:443 x; (true; /bin/true) & wait; exit 0"
    );
    world.agent_runs("a", Nobody, &["sh", "-c", &script]).ok();
    let facts = coverage(&world, "a");
    assert_eq!(facts["lineage"], "counted", "{facts}");
    assert_eq!((facts["connections_total"].as_u64(), facts["unmediated_connections"].as_u64()), (Some(3), Some(0)));
    assert_eq!(facts["denied"], 2, "{facts}");
    // The first process, which looks after the others, the shell, five probes, and the subshell, which becomes /bin/true.
    assert_eq!(facts["processes_tracked"], 8, "{facts}");
    assert!(facts["root_pid"].as_u64().unwrap() > 1, "{facts}");
    assert_eq!((&facts["unmonitored_spawns"], &facts["escapes_suspected"]), (&json!(0), &json!(false)));
    assert_eq!((&facts["status"], &facts["heartbeat_interval_ms"]), (&json!("continuous"), &json!(250)), "{facts}");
    assert!(facts["max_gap_ms"].as_u64().unwrap() <= 1000, "{facts}");
}

#[test]
fn a_daemon_that_was_gone_for_more_than_a_second_says_that_it_was_interrupted() {
    let mut world = world();
    let job = world.agent_runs_on("a", Nobody, &["sleep", "60"]);
    world.eventually("the job", |world| !job_of(world, "a").is_empty());
    world.sigkill();
    thread::sleep(Duration::from_millis(1500));
    world.start();
    end(&world, "a");
    drop(job);
    let facts = coverage(&world, "a");
    assert_eq!(facts["status"], "interrupted", "{facts}");
    assert!(facts["max_gap_ms"].as_u64().unwrap() >= 1500, "{facts}");
    world.clawguard(&["audit", "verify"]).ok();
}
