//! Every decision is counted, recorded and can be checked.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::PathBuf};

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

fn chain(world: &World) -> PathBuf {
    let audit = world.directory.join("var/lib/clawguard/audit");
    fs::read_dir(audit).unwrap().map(|entry| entry.unwrap().path()).max().unwrap()
}

#[test]
fn decisions_are_counted_exactly_in_the_metrics_and_in_the_chain() {
    let mut world = world();
    let said = world.agent("a", Nobody, &["flood", "1", "203.0.113.99:443"]).ok().out;
    let words: Vec<u64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    let refused = words[1];
    assert!(refused > 1000, "{said}");
    world.eventually("the metric", |world| {
        world.metric("clawguard_egress_decisions_total{agent=\"a\",reason=\"not_in_contract\",verdict=\"denied\"}")
            == refused as f64
    });
    world.eventually("the records", |world| {
        let records = world.audit("decisions");
        let all = records.iter().flat_map(|record| record["decisions"].as_array().unwrap());
        let of = all.filter(|decision| decision["reason"] == "not_in_contract");
        of.map(|decision| decision["count"].as_u64().unwrap()).sum::<u64>() == refused
    });
    world.stop();
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn a_changed_dropped_moved_or_cut_record_is_found() {
    let mut world = world();
    world.json(&["kill", "all", "--reason", "test"]);
    world.json(&["restore", "all", "--reason", "test"]);
    world.stop();
    let path = chain(&world);
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    assert!(lines.len() > 6);
    let verdict = |text: &str| {
        fs::write(&path, text).unwrap();
        world.clawguard(&["audit", "verify"])
    };
    assert_eq!(verdict(&whole).status, 0);
    let swapped = {
        let mut lines = lines.clone();
        lines.swap(2, 3);
        lines.concat()
    };
    let dropped = {
        let mut lines = lines.clone();
        lines.remove(3);
        lines.concat()
    };
    let changed = whole.replacen("\"test\"", "\"best\"", 1);
    let first_gone = lines[1..].concat();
    let torn = whole[..whole.len() - 5].to_owned();
    for (what, text) in
        [("swapped", swapped), ("dropped", dropped), ("changed", changed), ("first gone", first_gone), ("torn", torn)]
    {
        let run = verdict(&text);
        assert_eq!(run.status, 1, "{what}: {}", run.out);
        assert!(run.out.starts_with("BROKEN in "), "{what}: {}", run.out);
    }
    fs::write(&path, &whole).unwrap();
}

#[test]
fn a_record_that_was_half_written_when_the_power_went_is_found_and_the_chain_goes_on() {
    let mut world = world();
    world.sigkill();
    let path = chain(&world);
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"seq\":9999,\"at\":\"20");
    fs::write(&path, text).unwrap();
    world.start();
    world.json(&["kill", "all", "--reason", "test"]);
    world.clawguard(&["audit", "verify"]).ok();
    assert_eq!(world.audit("flip").len(), 1);
    assert!(world.log_text().contains("torn_bytes"), "{}", world.log_text());
}

#[test]
fn decisions_are_told_as_they_are_made() {
    use std::io::{BufRead, BufReader, Write};
    let world = world();
    let socket = world.directory.join("run/clawguard/control.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    write!(stream, "GET /v1/decisions HTTP/1.1\r\nHost: clawguard\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.next().unwrap().unwrap().contains("200"));
    world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]);
    let told = lines.map(|line| line.unwrap()).find(|line| line.starts_with("data:")).unwrap();
    let told: Value = serde_json::from_str(told.trim_start_matches("data:").trim()).unwrap();
    assert_eq!((told["agent"].as_str(), told["remote"].as_str()), (Some("a"), Some("203.0.113.99:443")));
    assert!(told["sentence"].as_str().unwrap().contains("no rule of contract"));
}

#[test]
fn the_metrics_have_the_names_that_dashboards_rely_on() {
    let world = world();
    world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]);
    world.json(&["kill", "all", "--reason", "test"]);
    let text = world.http_get("127.0.0.1:9477", "/metrics");
    for name in [
        "clawguard_build_info{",
        "clawguard_hook_armed{hook=\"egress\"} 1",
        "clawguard_heartbeat_timestamp_seconds ",
        "clawguard_egress_decisions_total{",
        "clawguard_group_killed{group=\"all\"} 1",
        "clawguard_kill_flips_total{group=\"all\",to=\"killed\"} 1",
        "clawguard_kill_seconds_count 1",
        "clawguard_sockets_destroyed_total ",
        "clawguard_policy_info{agent=\"a\",wpc_hash=\"",
        "clawguard_map_entries{map=",
        "clawguard_map_capacity{map=",
        "clawguard_events_lost_total{source=",
        "clawguard_audit_records_total ",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    let gateway =
        text.lines().filter(|line| !line.starts_with('#') && line.contains("egress_decisions_total{agent=\"gateway\""));
    assert!(gateway.count() <= 4, "the gateway itself is a fenced job");
}
