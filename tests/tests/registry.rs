//! A registry gives contracts, and nothing else: down, slow, lying or compromised, it opens nothing and takes nothing away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, time::Duration};

use claw::key::PrivateKey;
use e2e::{
    Identity::Nobody,
    Run, World,
    registry::{Mood, Registry},
};
use serde_json::{Value, json};

const CRM: &str = "203.0.113.10:443";

fn crm() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }] })
}

fn asking(world: &World, registry: &Registry, more: &str) {
    let directory = world.directory.join("etc/clawguard/conf.d");
    fs::create_dir_all(&directory).unwrap();
    let text = format!("[registry]\nclawcontrols = \"{}\"\n{more}", registry.url());
    fs::write(directory.join("50-registry.toml"), text).unwrap();
}

fn up() -> (World, Registry) {
    let mut world = World::new();
    let registry = Registry::start();
    asking(&world, &registry, "");
    world.start();
    (world, registry)
}

/// Signs a contract and offers it; answers its hash.
fn offered(world: &mut World, registry: &Registry, guard: Value) -> String {
    let payload = world.payload(guard);
    let file = world.sign(&payload);
    let hash = world.json(&["wpc", "hash", file.to_str().unwrap()])["wpc_hash"].as_str().unwrap().to_owned();
    registry.offer(&hash, fs::read_to_string(file).unwrap().trim());
    hash
}

fn view(world: &World) -> Value {
    world.json(&["status"])["registries"][0].clone()
}

fn in_force(world: &World) -> Value {
    let agents = world.json(&["status"])["agents"].as_array().unwrap().clone();
    agents.into_iter().find(|agent| agent["name"] == "a").map_or(Value::Null, |agent| agent["wpc_hash"].clone())
}

/// A job of its own under a contract that is named by its hash; it calls the host that `crm` names.
fn run_under(world: &World, hash: &str) -> Run {
    let probe = world.directory.join("probe");
    let probe = probe.to_str().unwrap();
    world.clawguard(&["run", "--agent", "a", "--wpc", hash, "--user", "nobody", "--", probe, "tcp", CRM, "x"])
}

#[test]
fn a_contract_comes_by_its_hash_and_stays_when_the_registry_goes() {
    let (mut world, registry) = up();
    let hash = offered(&mut world, &registry, crm());
    world.clawguard(&["wpc", "use", &hash, "--agent", "a"]).ok();
    assert_eq!(world.agent("a", Nobody, &["tcp", CRM, "x"]).ok().out, "ok x");
    world.eventually("the registry is up", |world| view(world)["up"] == true);
    assert_eq!(world.metric("clawguard_registry_up{registry=\"clawcontrols\"}"), 1.0);
    registry.mood(Mood::Down);
    world.eventually("the registry is seen to be down", |world| view(world)["up"] == false);
    assert_eq!(world.metric("clawguard_registry_up{registry=\"clawcontrols\"}"), 0.0);
    assert!(view(&world)["last_success"].is_string());
    assert!(world.clawguard(&["status"]).ok().out.contains("DOWN since some time after"));
    // What was verified stays in force, also for a daemon that starts anew, from the cache and nowhere else.
    assert_eq!(world.agent("a", Nobody, &["tcp", CRM, "x"]).ok().out, "ok x");
    world.stop();
    world.start();
    assert_eq!(in_force(&world), json!(hash));
    assert_eq!(world.agent("a", Nobody, &["tcp", CRM, "x"]).ok().out, "ok x");
    assert_eq!(registry.asked(&format!("GET /v1/wpc/{hash}")), 1);
    // The cache is verified again: what was changed in it, or put in another's place, is not taken.
    world.stop();
    let stored = world.directory.join(format!("var/lib/clawguard/contracts/{hash}.json"));
    let other = world.payload(json!({ "egress": [{ "host": "evil.example", "tls": false }] }));
    fs::copy(world.sign(&other), stored).unwrap();
    world.start();
    let run = world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]);
    assert!(run.status != 0 && run.err.contains("no contract in force"), "{run:?}");
    assert!(world.clawguard(&["status"]).ok().out.contains("was asked for"));
}

#[test]
fn a_registry_that_is_down_slow_or_lies_gives_nothing_and_what_is_in_force_stays() {
    let (mut world, registry) = up();
    let first = offered(&mut world, &registry, crm());
    world.clawguard(&["wpc", "use", &first, "--agent", "a"]).ok();
    let wanted = offered(&mut world, &registry, crm());
    let other = world.payload(json!({ "egress": [{ "host": "evil.example", "tls": false }] }));
    let other = fs::read_to_string(world.sign(&other)).unwrap();
    let stranger = PrivateKey::from_seed(&[0x99; 32]);
    let payload = world.payload(crm());
    let by_stranger = fs::read_to_string(world.sign_by(&payload, &stranger)).unwrap();
    let right = registry.state().contracts[&wanted].clone();
    let refused = |world: &World, hash: &str, says: &str| {
        let run = world.clawguard(&["wpc", "use", hash, "--agent", "a"]);
        assert!(run.status != 0 && run.err.contains(says), "{says}: {run:?}");
        assert!(run.err.lines().count() <= 2, "one error and its remedy: {}", run.err);
        assert_eq!(in_force(world), json!(first), "{says}");
        assert_eq!(world.agent("a", Nobody, &["tcp", CRM, "x"]).ok().out, "ok x", "{says}");
        assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]).out, "EPERM", "{says}");
    };
    for (mood, says) in [
        (Mood::Down, "does not answer"),
        (Mood::Silent, "does not answer"),
        (Mood::Slow, "broke off"),
        (Mood::Endless, "more than"),
        (Mood::Redirects, "status 302"),
    ] {
        registry.mood(mood);
        refused(&world, &wanted, says);
    }
    registry.mood(Mood::Well);
    refused(&world, &claw::Hash::of(b"nowhere").to_string(), "status 404");
    let lies = [
        (other.trim().to_owned(), "was asked for"),
        (right.replace("crm.example", "evil.example"), "changed after it was signed"),
        ("{}".to_owned(), "no \"payload\""),
        ("[]".to_owned(), "not an object"),
        ("null".to_owned(), "not an object"),
    ];
    for (envelope, says) in lies {
        let text = if envelope.starts_with("{\"ok\"") {
            envelope
        } else {
            format!("{{\"ok\":true,\"policy_hash_b64u\":\"{wanted}\",\"envelope\":{envelope}}}")
        };
        registry.state().contracts.insert(wanted.clone(), text);
        refused(&world, &wanted, says);
    }
    registry.state().contracts.insert(wanted.clone(), "not json".into());
    refused(&world, &wanted, "no wrapped envelope");
    // Another's signature of the very same payload.
    let hash = claw::json::parse(payload.to_string().as_bytes(), claw::json::Limits { bytes: 1 << 20, depth: 16 });
    let hash = hash.unwrap().canonical_hash().to_string();
    registry.offer(&hash, by_stranger.trim());
    refused(&world, &hash, "is not trusted");
    // And once it tells the truth, the contract comes.
    registry.state().contracts.insert(wanted.clone(), right);
    world.clawguard(&["wpc", "use", &wanted, "--agent", "a"]).ok();
    assert_eq!(in_force(&world), json!(wanted));
    let refusals = world.audit("contract").into_iter().filter(|body| body["refused"].is_string()).count();
    assert!(refusals >= 4, "{refusals}");
}

#[test]
fn a_lower_sequence_is_refused_wherever_it_comes_from() {
    let (mut world, registry) = up();
    let old = offered(&mut world, &registry, crm());
    let new = offered(&mut world, &registry, crm());
    world.clawguard(&["wpc", "use", &new, "--agent", "a"]).ok();
    let run = world.clawguard(&["wpc", "use", &old, "--agent", "a"]);
    assert!(run.status == 4 && run.err.contains("sequence"), "{run:?}");
    let run = run_under(&world, &old);
    assert!(run.status == 4 && run.err.contains("sequence"), "{run:?}");
}

#[test]
fn an_agent_whose_contract_is_not_here_gets_it_once_the_registry_gives_it() {
    let mut world = World::new();
    let registry = Registry::start();
    registry.mood(Mood::Down);
    asking(&world, &registry, "");
    let hash = offered(&mut world, &registry, crm());
    world.configure(&format!("[[agent]]\nname = \"a\"\nwpc = \"{hash}\"\n"));
    world.start();
    assert_eq!(in_force(&world), Value::Null);
    let run = world.agent("a", Nobody, &["tcp", CRM, "x"]);
    assert!(run.status != 0 && run.err.contains("no contract in force"), "{run:?}");
    registry.mood(Mood::Well);
    // The look is every fifteen seconds.
    let until = std::time::Instant::now() + Duration::from_secs(40);
    while in_force(&world) != json!(hash) {
        assert!(std::time::Instant::now() < until, "the contract does not come");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(world.agent("a", Nobody, &["tcp", CRM, "x"]).ok().out, "ok x");
}

#[test]
fn a_job_may_be_under_a_contract_that_only_the_registry_has() {
    let (mut world, registry) = up();
    world.use_contract("a", json!({ "egress": [{ "host": "chat.example", "tls": false }] }));
    let hash = offered(&mut world, &registry, crm());
    let run = run_under(&world, &hash);
    assert_eq!(run.ok().out, "ok x");
}

/// While the registry is silent and callers wait for it, the switch does not.
#[test]
fn a_silent_registry_holds_no_kill_up() {
    let (mut world, registry) = up();
    world.use_contract("a", crm());
    registry.mood(Mood::Silent);
    let waits: Vec<_> = (0..12_u8)
        .map(|i| world.clawguard_on(&["wpc", "use", &claw::Hash::of(&[i]).to_string(), "--agent", "a"]))
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let killed = world.json(&["kill", "crm", "--reason", "test"]);
    assert_eq!(killed["state"], "killed");
    // Few of them may wait at once, and they wait still: the kill did not wait for them.
    assert!(registry.asked("GET /v1/wpc/") <= 4, "{}", registry.asked("GET /v1/wpc/"));
    let waiting = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(waits.iter().filter(|wait| waiting(wait.pid())).count() >= 4);
    for wait in waits {
        assert_ne!(wait.finish().status, 0);
    }
}

#[test]
fn the_operators_own_requests_verify_what_they_get() {
    let (mut world, registry) = up();
    let hash = offered(&mut world, &registry, crm());
    let out = world.directory.join("fetched.json");
    let words = ["wpc", "fetch", &hash, "--out", out.to_str().unwrap()];
    assert_eq!(world.json(&words)["wpc_hash"], json!(hash));
    world.clawguard(&["wpc", "verify", out.to_str().unwrap()]).ok();
    let other = offered(&mut world, &registry, crm());
    let lie = registry.state().contracts[&other].clone();
    registry.state().contracts.insert(hash.clone(), lie);
    let run = world.clawguard(&words);
    assert!(run.status == 1 && run.err.contains("the registry gave"), "{run:?}");
    let url = registry.url().replace("127.0.0.1", "registry.example");
    let run = world.clawguard(&["wpc", "fetch", &hash, "--authority", &url]);
    assert!(run.status != 0 && run.err.contains("https://"), "{run:?}");
}
