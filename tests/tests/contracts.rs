//! What is not a good contract is refused with one clear error, and what was in force before stays so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::PathBuf, thread, time::Duration};

use claw::{key::PrivateKey, time::Instant};
use e2e::{Identity::Nobody, World};
use serde_json::{Value, json};

fn crm() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }] })
}

/// Writes a file as it is.
fn raw(world: &World, text: &str) -> PathBuf {
    let path = world.directory.join("raw.json");
    fs::write(&path, text).unwrap();
    path
}

/// Offers a file; it must be refused with this said, once, and the agent must still be under what it was.
#[track_caller]
fn refused(world: &World, file: &std::path::Path, expected: &str) {
    let before = world.json(&["status"])["agents"].clone();
    let run = world.clawguard(&["wpc", "use", file.to_str().unwrap(), "--agent", "a"]);
    assert!(run.status == 4 || run.status == 1, "{}: {}\n{}", run.status, run.out, run.err);
    assert!(run.err.contains(expected), "{} does not say: {expected}", run.err);
    assert!(run.err.lines().count() <= 2, "one error and its remedy: {}", run.err);
    assert_eq!(world.json(&["status"])["agents"], before);
}

#[test]
fn what_is_wrong_is_refused_and_what_was_before_stays_in_force() {
    let mut world = World::up();
    world.use_contract("a", crm());
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    talk.until("connected");
    let offers = [
        (
            json!({ "egress": [{ "host": "crm.example", "groups": ["x"] }, { "host": "crm.example", "groups": ["y"] }] }),
            "different groups",
        ),
        (
            json!({ "egress": [
                { "cidr": "203.0.113.10/32", "ports": [443], "groups": ["x"] },
                { "host": "crm.example", "tls": false },
            ] }),
            "different groups",
        ),
        (json!({ "egres": [] }), "metadata.clawguard.v1.egres is unknown"),
        (
            json!({ "egress": [{ "host": "crm.example", "port": 443 }] }),
            "metadata.clawguard.v1.egress[0].port is unknown",
        ),
        (json!({ "egress": [{ "host": "crm.example", "ports": [0] }] }), "egress[0].ports"),
        (json!({ "egress": [{ "host": "crm.example", "ports": ["443"] }] }), "egress[0].ports"),
        (json!({ "egress": [{ "host": "CRM.example" }] }), "egress[0].host"),
        (json!({ "egress": [{ "cidr": "203.0.113.10/24", "ports": [443] }] }), "egress[0].cidr"),
        (json!({ "egress": [{ "host": "a.example", "cidr": "203.0.113.0/24" }] }), "egress[0]"),
        (json!({ "egress": "all" }), "metadata.clawguard.v1.egress is a string, not a list"),
        (json!({ "not_after": "2020-01-01T00:00:00Z" }), "expired"),
        (json!({ "not_before": "2100-01-01T00:00:00Z" }), "not in force before"),
        (json!({ "not_before": "2021-01-01T00:00:00Z", "not_after": "2020-01-01T00:00:00Z" }), "not_after"),
        (json!({ "not_after": "tomorrow" }), "metadata.clawguard.v1.not_after"),
        (json!({ "sequence": -1 }), "metadata.clawguard.v1.sequence"),
        (json!({ "sequence": 1.5 }), "metadata.clawguard.v1.sequence"),
        (json!({ "groups": [{ "name": "all" }] }), "groups[0]"),
        (json!({ "token": { "cst_max_ttl_seconds": 0 } }), "metadata.clawguard.v1.token"),
        (json!({ "token": { "cst_max_ttl": 900 } }), "metadata.clawguard.v1.token"),
    ];
    for (guard, expected) in offers {
        let payload = world.payload(guard);
        let file = world.sign(&payload);
        refused(&world, &file, expected);
    }
    // An entry outside of Claw's own list.
    let mut payload = world.payload(crm());
    payload["egress_allowlist"] = json!(["chat.example"]);
    refused(&world, &world.sign(&payload), "egress_allowlist");
    // An empty list covers nothing.
    payload["egress_allowlist"] = json!([]);
    refused(&world, &world.sign(&payload), "egress_allowlist");
    for missing in ["policy_id", "issuer_did", "policy_version"] {
        let mut payload = world.payload(crm());
        payload.as_object_mut().unwrap().remove(missing);
        refused(&world, &world.sign(&payload), &format!("{missing} is missing"));
    }
    let mut payload = world.payload(crm());
    payload["policy_versoin"] = json!("1");
    refused(&world, &world.sign(&payload), "policy_versoin is unknown");
    // All that time the contract from before was in force, and its connection alive.
    assert_eq!(talk.ask("still", "got"), "got still");
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]).ok().out, "EPERM");
}

#[test]
fn an_envelope_that_does_not_hold_is_refused() {
    let mut world = World::up();
    world.use_contract("a", crm());
    let payload = world.payload(json!({ "egress": [{ "host": "evil.example", "tls": false }] }));
    let good = fs::read_to_string(world.sign(&payload)).unwrap();
    let value: Value = serde_json::from_str(&good).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = value.clone();
        change(&mut value);
        value.to_string()
    };
    let other = PrivateKey::from_seed(&[9; 32]);
    let file = world.sign_by(&payload, &other);
    refused(&world, &file, "not trusted");
    let cases: [(String, &str); 12] = [
        // Another payload under the old hash, and another hash over the same payload.
        (with(&|v| v["payload"]["policy_id"] = json!("other")), "hash"),
        (with(&|v| v["payload_hash_b64u"] = json!("A".repeat(43))), "hash"),
        (with(&|v| v["signature_b64u"] = json!("A".repeat(86))), "signature"),
        (with(&|v| v["signer_did"] = json!(other.did().to_string())), "signature"),
        (with(&|v| v["algorithm"] = json!("none")), "algorithm"),
        (with(&|v| drop(v.as_object_mut().unwrap().remove("signature_b64u"))), "signature_b64u"),
        (with(&|v| v["extra"] = json!(1)), "extra"),
        // The same name twice: whoever reads the first and whoever reads the last would not read the same contract.
        (good.replacen("\"payload\":{", "\"payload\":{\"policy_id\":\"twice\",", 1), "twice"),
        (good[..good.len() / 2].to_owned(), "EOF"),
        (String::new(), "EOF"),
        ("[1e999]".into(), "number"),
        (format!("{}{}", "[".repeat(5 << 20), "]".repeat(5 << 20)), "deep"),
    ];
    for (text, expected) in cases {
        let file = raw(&world, &text);
        let before = world.json(&["status"])["agents"].clone();
        let run = world.clawguard(&["wpc", "use", file.to_str().unwrap(), "--agent", "a"]);
        let start: String = text.chars().take(60).collect();
        assert!(run.status == 4 || run.status == 1, "{start}: {} {}", run.status, run.err);
        assert!(run.err.contains(expected) && run.err.lines().count() <= 2, "{start}: {} lacks {expected}", run.err);
        assert_eq!(world.json(&["status"])["agents"], before);
        // Offered past the client, too.
        let (status, body) = world.api("PUT", "/v1/agents/a/wpc", &format!("{{\"envelope\":{text}}}"));
        assert!((400..500).contains(&status), "{start}: {status} {body}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(
        world.agent("a", Nobody, &["each", "tcp", "203.0.113.10:443", "tcp", "203.0.113.99:443"]).ok().out,
        "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.99:443 EPERM"
    );
}

#[test]
fn an_older_contract_comes_back_only_on_purpose() {
    let mut world = World::up();
    let older = world.payload(json!({ "sequence": 7, "egress": [{ "host": "evil.example", "tls": false }] }));
    let older = world.sign(&older);
    world.use_contract("a", json!({ "sequence": 8, "egress": [{ "host": "crm.example", "tls": false }] }));
    refused(&world, &older, "its sequence is 7, and 8 was accepted for policy_id test before");
    // For one job: the same.
    let path = older.to_str().unwrap();
    let run = world.clawguard(&["run", "--agent", "a", "--wpc", path, "--user", "nobody", "--", "true"]);
    assert_eq!(run.status, 4, "{}", run.err);
    assert!(run.err.contains("8 was accepted"), "{}", run.err);
    // For another agent, after a restart, and by the configuration: the same.
    world.sigkill();
    world.configure(&format!("[[agent]]\nname = \"b\"\nwpc = \"{}\"", older.display()));
    world.start();
    refused(&world, &older, "8 was accepted");
    let status = world.json(&["status"]);
    let b = status["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == "b").unwrap();
    assert!(b["problem"].as_str().unwrap().contains("its sequence is 7"), "{b}");
    assert_eq!(
        world.clawguard(&["wpc", "use", path, "--agent", "a", "--allow-rollback"]).status,
        2,
        "without a reason"
    );
    world
        .clawguard(&["wpc", "use", path, "--agent", "a", "--allow-rollback", "--reason", "the new one was wrong"])
        .ok();
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]).ok().out, "ok x");
    let recorded = world.audit("contract");
    assert_eq!(recorded.last().unwrap()["rollback"], "the new one was wrong");
}

/// A contract that lives for so many seconds.
fn for_seconds(world: &mut World, seconds: u64) -> u64 {
    let until = sys::clock::wall_ns() + seconds * 1_000_000_000;
    let mut contract = crm();
    contract["not_after"] = json!(Instant(until).format());
    world.use_contract("a", contract);
    until
}

fn wait_for(wall_ns: u64) {
    while sys::clock::wall_ns() < wall_ns + 20_000_000 {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_contract_expires_by_the_kernels_clock_without_a_daemon() {
    let mut world = World::up();
    let until = for_seconds(&mut world, 3);
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    let mut datagrams = world.agent_on("a", Nobody, &["talk-udp", "203.0.113.10:443"]);
    let mut later = world.agent_on("a", Nobody, &["scatter", "1", "203.0.113.10"]);
    talk.until("connected");
    datagrams.until("connected");
    later.until("ready");
    assert_eq!(talk.ask("before", "got"), "got before");
    world.sigkill();
    wait_for(until);
    world.far.clear();
    talk.say("after");
    datagrams.say("after");
    assert_eq!(datagrams.until("sent"), "sent EPERM");
    assert_eq!(later.ask("go", "attempts"), "attempts 1 passed 0");
    thread::sleep(Duration::from_millis(300));
    assert_eq!((world.far.seen(b"after"), world.far.frames(6, 443), world.far.frames(17, 443)), (0, 0, 0));
    // A daemon that comes back finds it expired.
    world.start();
    let run = world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]);
    assert!(run.status != 0 || run.out == "EPERM", "{run:?}");
    assert_eq!(talk.until("read"), "read ECONNABORTED");
}

#[test]
fn an_expired_contract_ends_its_live_connections_and_says_why() {
    let mut world = World::up();
    let until = for_seconds(&mut world, 2);
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    talk.until("connected");
    let late = world.agent_on("a", Nobody, &["spin"]);
    wait_for(until);
    assert_eq!(talk.until("read"), "read ECONNABORTED");
    let _ = late;
    let told = |world: &World| world.audit("contract").into_iter().find(|body| body["expired"] == true);
    world.eventually("the record", |world| told(world).is_some());
    assert_eq!(told(&world).unwrap()["sockets_destroyed"], 1);
    // Another one, and the agent goes on.
    world.use_contract("a", crm());
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
}

#[test]
fn a_new_contract_ends_what_it_no_longer_allows_and_nothing_else() {
    let mut world = World::up();
    world.use_contract(
        "a",
        json!({ "egress": [{ "host": "crm.example", "tls": false }, { "host": "chat.example", "tls": false }] }),
    );
    let mut crm = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    let mut chat = world.agent_on("a", Nobody, &["talk", "203.0.113.20:443"]);
    crm.until("connected");
    chat.until("connected");
    let view =
        world.use_contract("a", json!({ "egress": [{ "host": "chat.example", "tls": false, "groups": ["channel"] }] }));
    assert_eq!(view["sockets_destroyed"], 1);
    assert_eq!(crm.until("read"), "read ECONNABORTED");
    assert_eq!(chat.ask("on", "got"), "got on");
    // The flow goes on under the new contract's groups.
    world.clawguard(&["kill", "channel", "--reason", "test"]).ok();
    assert_eq!(chat.until("read"), "read ECONNABORTED");
}

#[test]
fn a_contract_whose_stored_copy_was_changed_is_not_taken_up_again() {
    let mut world = World::up();
    world.use_contract("a", crm());
    let stored = world.directory.join("var/lib/clawguard/contracts");
    world.stop();
    for entry in fs::read_dir(stored).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        fs::write(entry.path(), text.replace("crm.example", "evil.example")).unwrap();
    }
    world.start();
    let status = world.json(&["status"]);
    let agent = status["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == "a").unwrap();
    assert!(agent["problem"].as_str().unwrap().contains("hash"), "{agent}");
    let run = world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]);
    assert!(run.status != 0 && run.err.contains("no contract in force"), "{run:?}");
}

#[test]
fn a_job_can_have_a_contract_of_its_own() {
    let mut world = World::up();
    world.use_contract("a", crm());
    let payload = world.payload(json!({ "egress": [{ "host": "chat.example", "tls": false }] }));
    let file = world.sign(&payload);
    let probe = world.directory.join("probe");
    let words = ["each", "tcp", "203.0.113.10:443", "tcp", "203.0.113.20:443"];
    let mut all =
        vec!["run", "--agent", "a", "--user", "nobody", "--wpc", file.to_str().unwrap(), "--", probe.to_str().unwrap()];
    all.extend(words);
    assert_eq!(world.clawguard(&all).ok().out, "tcp 203.0.113.10:443 EPERM\ntcp 203.0.113.20:443 ok hello");
    assert_eq!(world.agent("a", Nobody, &words).ok().out, "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.20:443 EPERM");
}

#[test]
fn a_way_to_a_model_that_is_not_the_contracts_is_told_and_answered() {
    for (on_bypass, then) in [("alert", "ok x"), ("read-only", "EPERM"), ("halt", "EPERM")] {
        let mut world = World::up();
        world.use_contract(
            "a",
            json!({
                "egress": [
                    { "host": "crm.example", "tls": false, "class": "write" },
                    { "host": "chat.example", "tls": false, "class": "read" },
                ],
                "model": { "on_bypass": on_bypass },
            }),
        );
        let mut agent = world.agent_on("a", Nobody, &["each-line"]);
        assert_eq!(agent.ask("203.0.113.66:443", "tcp"), "tcp EPERM");
        world.eventually("the alert", |world| !world.audit("alert").is_empty());
        assert_eq!(world.audit("alert")[0]["kind"], "model_direct");
        let alerts = "clawguard_bypass_alerts_total{agent=\"a\",kind=\"model_direct\"}";
        world.eventually("the metric", |world| world.metric(alerts) >= 1.0);
        world.eventually("the answer", |_| agent.ask("203.0.113.10:443", "tcp") == format!("tcp {then}"));
        let reads = if on_bypass == "halt" { "tcp EPERM" } else { "tcp ok x" };
        assert_eq!(agent.ask("203.0.113.20:443", "tcp"), reads);
    }
}

/// A contract of the documentation, as it stands.
fn documented(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../clawguard/crates/policy/tests/vectors").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn contracts_of_the_other_two_forms_come_into_force_and_open_nothing_by_themselves() {
    let mut world = World::new();
    let servers = "[[mcp.server]]\nname = \"crm-mcp\"\nurl = \"https://crm.example/mcp\"\nrisk = \"low\"\n";
    world.configure(servers);
    world.start();
    for (name, id) in [("listed.json", "mcp-enterprise-agent-minimal"), ("profiled.json", "m365-readonly-triage")] {
        let file = world.sign(&documented(name));
        let file = file.to_str().unwrap();
        let checked = world.clawguard(&["wpc", "check", file]).ok().out;
        assert!(checked.contains("signed by") && checked.contains("denied"), "{checked}");
        let used = world.json(&["wpc", "use", file, "--agent", "a"]);
        assert_eq!(used["policy_id"], id);
        // In force for seven days, which nobody wrote into it.
        let until = Instant::parse(used["expires_at"].as_str().unwrap()).unwrap().0 - sys::clock::wall_ns();
        assert!(until > 6 * 86_400 * 1_000_000_000 && until < 7 * 86_400 * 1_000_000_000 + 1, "{used}");
        // Both demand a token.
        let run = world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]);
        assert!(run.status == 4 && run.err.contains("TOKEN_REQUIRED"), "{run:?}");
    }
}

#[test]
fn a_contract_without_an_expiry_lives_from_when_an_operator_used_it_and_no_restart_prolongs_it() {
    let mut world = World::new();
    let directory = world.directory.join("etc/clawguard/conf.d");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("50.toml"), "[trust]\ndefault_lifetime = \"5s\"\n").unwrap();
    world.start();
    let contract = json!({ "wpc_version": "v1", "policy_name": "short", "allowed_tools": [] });
    let file = world.sign(&contract);
    let file = file.to_str().unwrap();
    let used = world.json(&["wpc", "use", file, "--agent", "a"]);
    let expires = |world: &World| {
        let agents = world.json(&["status"])["agents"].as_array().unwrap().clone();
        agents.into_iter().find(|agent| agent["name"] == "a").unwrap()["expires_at"].clone()
    };
    assert_eq!(expires(&world), used["expires_at"]);
    thread::sleep(Duration::from_secs(1));
    for how in ["reload", "restart", "a job's own"] {
        match how {
            "reload" => world.signal_daemon(nix::sys::signal::Signal::SIGHUP),
            "restart" => {
                world.stop();
                world.start();
            }
            _ => {
                let probe = world.directory.join("probe");
                let words = ["run", "--agent", "a", "--wpc", file, "--user", "nobody", "--", probe.to_str().unwrap()];
                world.clawguard(&[&words[..], &["each"]].concat()).ok();
            }
        }
        thread::sleep(Duration::from_millis(300));
        assert_eq!(expires(&world), used["expires_at"], "{how}");
    }
    thread::sleep(Duration::from_secs(4));
    let probe = world.directory.join("probe");
    let words = ["run", "--agent", "a", "--wpc", file, "--user", "nobody", "--", probe.to_str().unwrap(), "each"];
    let run = world.clawguard(&words);
    assert!(run.status == 4 && run.err.contains("expired"), "{run:?}");
    world.stop();
    world.start();
    assert!(world.clawguard(&["status"]).ok().out.contains("it expired at"));
    // An operator's own word begins it again.
    let again = world.json(&["wpc", "use", file, "--agent", "a"]);
    assert!(again["expires_at"].as_str() > used["expires_at"].as_str());
}
