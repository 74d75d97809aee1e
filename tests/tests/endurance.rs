//! Not one packet more than the contract allows, whatever becomes of the daemon meanwhile: a hundred thousand attempts of
//! every kind for each disturbance, counted at the far end, and once without the fence to show that they would arrive.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, thread, time::Duration};

use e2e::{Identity::Nobody, World};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const ATTEMPTS: &str = "100000";
const OPEN: &str = "203.0.113.10:443";
const SHUT: &str = "203.0.113.99:9999";
const GONE: &str = "203.0.113.20:8443";

fn contract() -> Value {
    let both = |host: &str, port: u16, group: &str| {
        ["tcp", "udp"].map(
            |protocol| json!({ "host": host, "tls": false, "ports": [port], "protocol": protocol, "groups": [group] }),
        )
    };
    let egress = [both("crm.example", 443, "crm"), both("chat.example", 8443, "gone")].concat();
    json!({ "egress": egress })
}

/// The numbers of a storm's last line.
struct Outcome {
    attempts: u64,
    passed: u64,
    open: u64,
    failed: u64,
}

impl Outcome {
    fn of(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [attempts, passed, open, failed] = numbers[..] else { panic!("no outcome: {line}") };
        Self { attempts, passed, open, failed }
    }
}

/// What arrived of what must not: connections and datagrams to `SHUT` and `GONE`.
fn arrived(world: &mut World) -> [u64; 4] {
    [(6, 9999), (17, 9999), (6, 8443), (17, 8443)].map(|(protocol, port)| world.far.frames(protocol, port))
}

/// A storm while `disturb` does what it does; nothing arrives, and nobody outside notices anything.
fn storm(world: &mut World, disturb: impl FnOnce(&mut World)) -> Outcome {
    let ordinary = world.outside(&["ordinary"]).ok().out;
    if !world.running() {
        world.start();
    }
    // What is shut for this agent is open for its neighbours.
    let neighbours = json!({ "egress": [{ "host": "evil.example", "tls": false, "ports": [9999] },
        { "host": "evil.example", "tls": false, "ports": [9999], "protocol": "udp" }] });
    world.use_contract("0", neighbours.clone());
    world.use_contract("a", contract());
    world.use_contract("z", neighbours);
    let mut agent = world.agent_on("a", Nobody, &["storm", ATTEMPTS, OPEN, SHUT, GONE]);
    agent.until("established");
    world.clawguard(&["kill", "gone", "--reason", "test"]).ok();
    world.far.clear();
    agent.say("go");
    disturb(world);
    assert_eq!(world.outside(&["ordinary"]).ok().out, ordinary);
    let outcome = Outcome::of(agent.finish().out.lines().last().unwrap());
    assert_eq!(arrived(world), [0; 4]);
    assert_eq!(outcome.passed, 0);
    assert!(outcome.attempts >= 100_000);
    // What is allowed throughout got through: the far end was there to be reached.
    assert!(world.far.frames(6, 443) > 0 && world.far.frames(17, 443) > 0);
    outcome
}

#[test]
fn without_the_fence_all_of_it_arrives() {
    let mut world = World::new();
    let mut anybody = world.outside_as_nobody(&["storm", "3000", OPEN, SHUT, GONE]);
    anybody.until("established");
    world.far.clear();
    anybody.say("go");
    let outcome = Outcome::of(anybody.finish().out.lines().last().unwrap());
    assert!(outcome.passed * 10 > outcome.attempts * 9, "{} of {}", outcome.passed, outcome.attempts);
    assert_eq!(outcome.failed, 0);
    let arrived = arrived(&mut world);
    let at_least = [30, 48, 1, 10].map(|of_a_hundred| outcome.attempts / 100 * of_a_hundred);
    assert!(arrived.iter().zip(at_least).all(|(arrived, least)| *arrived >= least), "{arrived:?} of {at_least:?}");
}

#[test]
fn nothing_arrives_while_the_daemon_is_killed_again_and_again() {
    let mut world = World::new();
    let outcome = storm(&mut world, |world| {
        for _ in 0..4 {
            world.sigkill();
            thread::sleep(Duration::from_millis(200));
            world.start();
        }
    });
    assert_eq!(outcome.failed, 0, "of {}", outcome.open);
}

#[test]
fn nothing_arrives_while_the_daemon_starts_anew() {
    let mut world = World::new();
    let outcome = storm(&mut world, |world| {
        for _ in 0..4 {
            world.stop();
            world.start();
        }
    });
    assert_eq!(outcome.failed, 0, "of {}", outcome.open);
}

#[test]
fn nothing_arrives_while_an_upgrade_fails_and_the_old_programs_are_put_back() {
    let mut world = World::new();
    let outcome = storm(&mut world, |world| {
        let programs = world.attached_programs();
        assert_eq!(programs.len(), 12);
        for _ in 0..3 {
            world.stop();
            // A build that cannot start its canary: its self-test fails after its programs are attached.
            let broken = world.directory.join("clawguard");
            e2e::copy(&e2e::built("clawguard"), &broken);
            let said = world.start_unlinked(&broken);
            assert!(said.contains("canary"), "{said}");
            assert_eq!(world.attached_programs(), programs);
        }
        world.start();
        assert_ne!(world.attached_programs(), programs);
    });
    assert_eq!(outcome.failed, 0, "of {}", outcome.open);
}

#[test]
fn nothing_arrives_while_another_version_takes_over_and_gives_back() {
    let mut world = World::new();
    storm(&mut world, |world| {
        for build in ["clawguard-next", "clawguard"] {
            world.stop();
            world.start_with(&e2e::built(build), &[]);
            // The job is still there, and under its contract.
            let status = world.json(&["status"]);
            let job = status["jobs"].as_array().unwrap().iter().find(|job| job["agent"] == "a").cloned();
            let job = job.unwrap_or_else(|| panic!("the job is gone: {status}\n{}", world.log_text()));
            assert_eq!((job["state"].as_str(), status["kills"][0]["group"].as_str()), (Some("running"), Some("gone")));
            assert_eq!(world.agent("a", Nobody, &["tcp", OPEN, "x"]).ok().out, "ok x");
            assert_eq!(world.agent("a", Nobody, &["tcp", GONE, "x"]).ok().out, "EPERM");
        }
        let versions = fs::read_dir(world.pins()).unwrap().count();
        assert_eq!(versions, 1, "the other version's pins are gone");
    });
}

#[test]
fn nothing_arrives_while_the_daemon_stands_still() {
    let mut world = World::new();
    let outcome = storm(&mut world, |world| {
        world.signal_daemon(Signal::SIGSTOP);
        thread::sleep(Duration::from_secs(3));
        world.signal_daemon(Signal::SIGCONT);
    });
    assert_eq!(outcome.failed, 0, "of {}", outcome.open);
}

#[test]
fn nothing_arrives_while_the_ring_and_the_table_of_decisions_are_full() {
    let mut world = World::new();
    let outcome = storm(&mut world, |world| {
        // One job may take only so much of the table; so many jobs fill it.
        let scatter = |_| world.agent_on("a", Nobody, &["scatter", "4000", "203.0.113.99"]);
        let mut scatters: Vec<_> = (0..40).map(scatter).collect();
        scatters.iter_mut().for_each(|scatter| drop(scatter.until("ready")));
        // The daemon does not empty it meanwhile.
        world.signal_daemon(Signal::SIGSTOP);
        for scatter in &mut scatters {
            assert_eq!(scatter.ask("go", "attempts"), "attempts 4000 passed 0");
        }
        world.signal_daemon(Signal::SIGCONT);
    });
    assert_eq!(outcome.failed, 0, "of {}", outcome.open);
    let lost = world.json(&["status"])["lost"].clone();
    assert!(lost["event"].as_u64() > Some(10_000) && lost["destination"].as_u64() > Some(50_000), "{lost}");
    // Whoever came when it was full already is counted by agent and reason alone.
    assert!(lost["decision"].as_u64() < Some(40 * 4000), "{lost}");
}

#[test]
fn nothing_arrives_while_contracts_are_swapped_and_groups_flipped() {
    let mut world = World::new();
    let outcome = storm(&mut world, |world| {
        for n in 0..60 {
            let mut contract = contract();
            // Tables of another size each time.
            let more =
                (0..n * 10).map(|i| json!({ "cidr": format!("198.51.100.{}/32", i % 250), "ports": [1000 + i] }));
            contract["egress"].as_array_mut().unwrap().extend(more);
            world.use_contract("a", contract);
            world.clawguard(&["kill", "channel", "--reason", "test"]).ok();
            world.clawguard(&["restore", "channel", "--reason", "test"]).ok();
        }
    });
    assert_eq!(outcome.failed, 0, "of {}", outcome.open);
}
