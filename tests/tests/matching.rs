//! Services that ClawGuard did not start: found, fenced in place, and watched for sockets from outside.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use e2e::{Identity::Nobody, Service, World};
use serde_json::{Value, json};

fn contract() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false }] })
}

/// A world in which one service is an agent's, by its cgroup, and the daemon does not run yet.
fn matched(mode: &str) -> (World, Service) {
    let world = World::new();
    let service = world.service("prey");
    world.configure(&format!(
        "[[agent]]\nname = \"prey\"\nmode = \"{mode}\"\nmatch = {{ cgroup = \"{}\" }}\n[audit]\nimported_interval_seconds = 1",
        service.name
    ));
    (world, service)
}

#[test]
fn what_a_service_had_open_before_it_was_matched_is_ended() {
    let (mut world, service) = matched("enforce");
    let mut before = service.start(&["talk", "203.0.113.99:443"]);
    before.until("connected");
    assert_eq!(before.ask("one", "got"), "got one");
    world.start();
    world.use_contract("prey", contract());
    assert!(before.until("read").starts_with("read E"));
    world.far.clear();
    before.say("two");
    assert_ne!(before.until("sent"), "sent ok");
    assert_eq!(world.far.seen(b"two"), 0);
    let said = service.run(&["each", "tcp", "203.0.113.10:443", "tcp", "203.0.113.99:443"]).out;
    assert_eq!(said, "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.99:443 EPERM");
}

#[test]
fn a_socket_from_outside_is_found_ended_and_told() {
    let (mut world, service) = matched("enforce");
    world.start();
    world.use_contract("prey", contract());
    // Connected outside, then carried in by its process.
    let outside = world.service("outside");
    let mut mover = outside.start(&["talk", "203.0.113.99:443"]);
    mover.until("connected");
    assert_eq!(mover.ask("one", "got"), "got one");
    std::fs::write(service.directory.join("cgroup.procs"), mover.pid().to_string()).unwrap();
    world.eventually("the alert", |world| {
        world.metric("clawguard_bypass_alerts_total{agent=\"prey\",kind=\"imported_socket\"}") >= 1.0
    });
    assert!(mover.until("read").starts_with("read E"));
    let told = world.audit("alert");
    assert!(told.iter().any(|alert| alert["kind"] == "imported_socket" && alert["agent"] == "prey"), "{told:?}");
}

#[test]
fn in_observe_mode_a_matched_service_goes_on_and_a_kill_still_holds() {
    let (mut world, service) = matched("observe");
    world.start();
    world.use_contract("prey", json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }] }));
    let said = |to: &str| service.run(&["tcp", to, "x"]).out;
    assert_eq!(said("203.0.113.99:443"), "ok x");
    world.eventually("the count", |world| {
        world.metric("clawguard_egress_decisions_total{agent=\"prey\",reason=\"not_in_contract\",verdict=\"observed\"}")
            >= 1.0
    });
    world.json(&["kill", "crm", "--reason", "test"]);
    assert_eq!(said("203.0.113.10:443"), "EPERM");
}

#[test]
fn a_service_that_is_started_again_is_matched_again() {
    let (mut world, service) = matched("enforce");
    world.start();
    world.use_contract("prey", contract());
    let (name, directory) = (service.name.clone(), service.directory.clone());
    drop(service);
    std::fs::create_dir(&directory).unwrap();
    let again = world.in_cgroup(&directory);
    assert_eq!(again.name, name);
    world.eventually("the second match", |_| again.run(&["tcp", "203.0.113.99:443", "x"]).out == "EPERM");
    assert_eq!(world.agent("prey", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
}

#[test]
fn a_unit_that_starts_again_at_once_is_never_outside_the_fence_and_gets_nothing_more() {
    let mut world = World::up();
    world.use_contract("a", contract());
    world.use_contract("b", json!({ "egress": [{ "host": "evil.example", "tls": false, "ports": [9999] }] }));
    let service = world.service("restless");
    world.enrol(&service, "a").ok();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| service.run(&["flood", "2", "203.0.113.99:9999"]).out);
        for _ in 0..10 {
            world.enrol(&service, "a").ok();
            let other = world.enrol(&service, "b");
            assert!(other.status != 0 && other.err.contains("no agent operates its own fence"), "{other:?}");
        }
        let said = flood.join().unwrap();
        assert!(said.starts_with("ok 0 refused ") && said.ends_with(" other 0"), "{said}");
    });
    assert_eq!(world.far.frames(6, 9999), 0);
    let running = world.json(&["status"])["jobs"].as_array().unwrap().iter().filter(|job| job["agent"] == "a").count();
    assert_eq!(running, 1);
}
