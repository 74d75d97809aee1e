//! Observe mode: what passed only because of it is noted once, and becomes the contract that would have allowed it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::PathBuf};

use e2e::{Identity::Nobody, World};
use serde_json::{Value, json};

const OBSERVED: &str = "[[agent]]\nname = \"a\"\nmode = \"observe\"\n[model]\nhosts = [\"chat.example\"]";
const ENFORCED: &str = "[[agent]]\nname = \"a\"\n[model]\nhosts = [\"chat.example\"]";

/// A world in which agent `a` is only observed.
fn observed() -> World {
    let mut world = World::named();
    // What comes first belongs to [names].
    world.configure(OBSERVED);
    start(&mut world);
    world
}

/// Before the guard answers, names are asked for past it and not known, or do not exist.
fn start(world: &mut World) {
    let answers = |world: &World| world.log_text().matches("answering names").count();
    let before = answers(world);
    world.start();
    world.eventually("the guard answers", |world| answers(world) > before);
}

/// What an agent was seen to do.
fn seen(world: &World) -> Vec<Value> {
    let (status, view) = world.api("GET", "/v1/agents/a/observed", "");
    assert_eq!(status, 200, "{view}");
    view["entries"].as_array().unwrap().clone()
}

/// The draft's report, and the payload's file.
fn drafted(world: &World) -> (Value, PathBuf) {
    let path = world.directory.join("draft.json");
    let report = world.json(&["wpc", "new", "--from-observed", "a", "--out", path.to_str().unwrap()]);
    world.clawguard(&["wpc", "check", path.to_str().unwrap()]).ok();
    (report, path)
}

/// Signs a draft as it is, puts it in force, and has the agent held to it.
fn enforce(world: &mut World, draft: &PathBuf) {
    let payload: Value = serde_json::from_str(&fs::read_to_string(draft).unwrap()).unwrap();
    let signed = world.sign(&payload);
    world.clawguard(&["wpc", "check", signed.to_str().unwrap()]).ok();
    world.json(&["wpc", "use", signed.to_str().unwrap(), "--agent", "a"]);
    world.configure(ENFORCED);
    world.stop();
    start(world);
    let agents = world.json(&["status"])["agents"].clone();
    let agent = agents.as_array().unwrap().iter().find(|agent| agent["name"] == "a").unwrap().clone();
    assert_eq!(agent["mode"], "enforce");
}

fn named(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|line| line["what"].as_str().unwrap().to_owned()).collect()
}

fn does(world: &World, words: &[&str]) -> String {
    world.agent("a", Nobody, words).ok().out
}

#[test]
fn what_was_seen_passes_under_the_contract_that_is_made_of_it_and_nothing_else_does() {
    let mut world = observed();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "groups": ["crm"] }] }));
    let does_all = |world: &World| {
        [
            does(world, &["tls", "name", "crm.example"]),
            does(world, &["tls", "name", "git.example"]),
            // At the address of a name that the contract allows.
            does(world, &["tls", "name", "evil.example"]),
            does(world, &["tcp", "198.51.100.7:7001", "hello"]),
            does(world, &["udp", "203.0.113.99:7002", "hello"]),
            does(world, &["tcp", "10.1.2.3:7001", "hello"]),
        ]
    };
    let passed = [
        "hello from crm.example",
        "hello from git.example",
        "hello from evil.example",
        "ok hello",
        "ok hello",
        "ok hello",
    ];
    assert_eq!(does_all(&world), passed);
    // What is left out, later.
    assert_eq!(does(&world, &["tls", "name", "chat.example"]), "hello from chat.example");
    assert_eq!(does(&world, &["tcp", "169.254.169.254:80", "hello"]), "ok hello");
    let raw = does(&world, &["families"]);
    assert!(raw.lines().any(|line| line == "ping ok"), "{raw}");

    let entries = seen(&world);
    let git: Vec<&Value> = entries.iter().filter(|entry| entry["name"] == "git.example").collect();
    assert!(git.iter().any(|entry| entry["kind"] == "host" && entry["port"] == 443), "{entries:#?}");
    assert!(git.iter().any(|entry| entry["kind"] == "name"), "{entries:#?}");
    let evil = entries.iter().find(|entry| entry["name"] == "evil.example" && entry["kind"] == "host").unwrap();
    assert_eq!((&evil["reason"], &evil["tls"]), (&json!("sni_mismatch"), &json!(true)));
    let plain = entries.iter().find(|entry| entry["address"] == "198.51.100.7").unwrap();
    assert_eq!((&plain["kind"], &plain["command"]), (&json!("address"), &json!("probe")));
    assert!(plain["pid"].as_u64().unwrap() > 0 && plain["count"].as_u64().unwrap() > 0);

    let (report, draft) = drafted(&world);
    assert_eq!(
        named(&report["added"]),
        [
            "10.1.2.3:7001/tcp",
            "198.51.100.7:7001/tcp",
            "203.0.113.99:7002/udp",
            "evil.example:443/tcp",
            "git.example:443/tcp",
        ],
        "{report:#}"
    );
    let left_out = named(&report["left_out"]);
    for what in ["169.254.169.254:80/tcp", "chat.example:443/tcp", "datagram protocol 1"] {
        assert!(left_out.iter().any(|left| left == what), "{what}: {report:#}");
    }
    let egress = &report["payload"]["metadata"]["clawguard.v1"]["egress"];
    assert_eq!(egress[0], json!({ "host": "crm.example", "groups": ["crm"] }));
    // The same again is the same contract.
    assert_eq!(drafted(&world).0["payload"], report["payload"]);

    enforce(&mut world, &draft);
    assert_eq!(does_all(&world), passed);
    assert_eq!(does(&world, &["tls", "name", "chat.example"]), "none");
    assert_eq!(does(&world, &["tls", "name", "other.example"]), "none");
    let refused = ["tcp 169.254.169.254:80 EPERM", "tcp 198.51.100.7:7002 EPERM", "tcp 10.1.2.4:7001 EPERM"];
    let words = ["each", "tcp", "169.254.169.254:80", "tcp", "198.51.100.7:7002", "tcp", "10.1.2.4:7001"];
    assert_eq!(does(&world, &words).lines().collect::<Vec<_>>(), refused);
    let raw = does(&world, &["families"]);
    assert!(raw.lines().any(|line| line == "ping EPERM" || line == "ping EACCES"), "{raw}");
}

#[test]
fn an_agent_without_a_contract_is_observed_too() {
    let mut world = observed();
    assert_eq!(does(&world, &["tls", "name", "git.example"]), "hello from git.example");
    assert_eq!(does(&world, &["tcp", "198.51.100.7:7001", "hello"]), "ok hello");
    let mut listener = world.agent_on("a", Nobody, &["listen", "7700"]);
    listener.until("listening");
    assert_eq!(world.far.call("203.0.113.1:7700", "hello"), "HELLO");
    let (report, draft) = drafted(&world);
    assert_eq!(report["payload"]["policy_id"], "a");
    let added = named(&report["added"]);
    assert_eq!(
        added,
        ["198.51.100.7:7001/tcp", "203.0.113.10 to its port 7700/tcp", "git.example:443/tcp"],
        "{report:#}\n{:#?}",
        seen(&world)
    );
    drop(listener);
    enforce(&mut world, &draft);
    assert_eq!(does(&world, &["tls", "name", "git.example"]), "hello from git.example");
    assert_eq!(does(&world, &["tcp", "198.51.100.7:7001", "hello"]), "ok hello");
    assert_eq!(does(&world, &["tls", "name", "crm.example"]), "none");
    let mut listener = world.agent_on("a", Nobody, &["listen", "7700"]);
    listener.until("listening");
    assert_eq!(world.far.call("203.0.113.1:7700", "hello"), "HELLO");
    let mut closed = world.agent_on("a", Nobody, &["listen", "7702"]);
    closed.until("listening");
    assert_eq!(world.far.call("203.0.113.1:7702", "hello"), "<refused>");
}

#[test]
fn what_was_seen_outlives_the_daemon_and_is_begun_anew_on_record() {
    let mut world = observed();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example" }] }));
    assert_eq!(does(&world, &["tcp", "198.51.100.7:7001", "hello"]), "ok hello");
    let before = seen(&world);
    assert_eq!(before.len(), 1, "{before:#?}");
    world.stop();
    world.start();
    assert_eq!(seen(&world), before);
    // Again it is the same thing.
    assert_eq!(does(&world, &["tcp", "198.51.100.7:7001", "hello"]), "ok hello");
    let again = seen(&world);
    assert_eq!(again.len(), 1);
    assert!(again[0]["count"].as_u64() > before[0]["count"].as_u64(), "{again:#?}");
    assert_eq!(again[0]["first_at"], before[0]["first_at"]);
    let (status, answer) = world.api("DELETE", "/v1/agents/a/observed", "");
    assert_eq!((status, answer), (200, json!({ "agent": "a", "forgotten": 1 })));
    assert_eq!(seen(&world), [Value::Null; 0]);
    assert!(world.audit("configuration").iter().any(|body| body["observations_forgotten"] == 1));
    world.stop();
    world.start();
    assert_eq!(seen(&world), [Value::Null; 0]);
    assert_eq!(world.api("GET", "/v1/agents/nobody/observed", "").0, 404);
    // What is enforced is not observed.
    world.configure(ENFORCED);
    world.stop();
    world.start();
    assert_eq!(does(&world, &["tcp", "198.51.100.7:7001", "hello"]), "EPERM");
    assert_eq!(seen(&world), [Value::Null; 0]);
}
