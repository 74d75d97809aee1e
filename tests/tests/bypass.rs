//! Ways around: another way to a model or to an MCP server than the contract's is told, counted, and answered as the
//! contract wants.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use e2e::{Identity::Nobody, RESOLVER, World};
use serde_json::{Value, json};

/// The host that has names of many.
const SHARED: &str = "203.0.113.40:443";
/// Where the world's `[hosts]` has a model's host.
const MODEL: &str = "203.0.113.66:443";

fn tls(name: &str) -> Value {
    json!({ "host": name, "ports": [443], "tls": true })
}

/// A world whose names are asked for, with `more` in the configuration, in which agent `a` may reach crm.example.
fn named(more: &str) -> World {
    let mut world = World::named();
    world.configure(more);
    world.start();
    world.use_contract("a", json!({ "egress": [tls("crm.example")] }));
    world
}

/// What agent `a` is told who asks for a name's address.
fn told(world: &World, name: &str) -> String {
    world.agent("a", Nobody, &["names", "ask", "udp", RESOLVER, name, "A"]).ok().out
}

/// What becomes of agent `a`'s ClientHello for a name at the address of crm.example.
fn greeted(world: &World, name: &str) -> String {
    world.agent("a", Nobody, &["names", "look-up", "crm.example"]).ok();
    world.agent("a", Nobody, &["tls", "hello", "whole", SHARED, name]).ok().out
}

/// How many alerts of a kind the metrics have of agent `a`.
fn counted(world: &World, kind: &str) -> f64 {
    world.metric(&format!("clawguard_bypass_alerts_total{{agent=\"a\",kind=\"{kind}\"}}"))
}

/// The record of the first alert that has this value in a field.
fn alert(world: &World, field: &str, value: &str) -> Value {
    let find = |world: &World| world.audit("alert").into_iter().find(|alert| alert[field] == value);
    world.eventually(&format!("an alert with {field} {value}"), |world| find(world).is_some());
    find(world).unwrap()
}

/// What `explain` says of a name that was refused by a hook.
fn explained(world: &World, hook: &str, name: &str) -> Value {
    let find = |world: &World| {
        let denied = world.json(&["explain", "--last", "1000"]);
        denied.as_array().unwrap().iter().find(|view| view["hook"] == hook && view["name"] == name).cloned()
    };
    world.eventually(&format!("{name} is explained"), |world| find(world).is_some());
    find(world).unwrap()
}

/// What every alert's record has, wherever it was raised.
#[track_caller]
fn is_whole(alert: &Value, hash: &Value) {
    assert_eq!((alert["agent"].as_str(), &alert["wpc_hash"]), (Some("a"), hash), "{alert}");
    assert!(alert["job"].as_str().is_some_and(|job| !job.is_empty() && job != "none"), "{alert}");
    assert!(alert["cgroup_id"].as_u64().is_some_and(|id| id > 0), "{alert}");
}

#[test]
fn asking_for_a_model_host_is_an_alert_and_no_question_leaves() {
    let mut world = World::named_up();
    let hash = world.use_contract("a", json!({ "egress": [tls("crm.example")] }))["wpc_hash"].clone();
    // One of the list, one of a suffix, and one with a star inside.
    let names = ["api.openai.com", "mine.openai.azure.com", "bedrock.eu-central-1.amazonaws.com"];
    for name in names {
        world.zone(&format!("add {name} A 60 203.0.113.40"));
        world.far.clear();
        assert!(told(&world, name).starts_with("NXDOMAIN"), "{name}");
        assert_eq!((world.far.asked_at_all(), world.far.traffic()), (0, 0), "{name}");
        let alert = alert(&world, "name", name);
        is_whole(&alert, &hash);
        assert_eq!(alert["kind"], "model_direct");
        assert_eq!((alert["reason"].as_str(), alert["verdict"].as_str()), (Some("model_direct"), Some("denied")));
        assert_eq!(alert["suspected"], Value::Null);
        // The guard hears a job ask, not a process.
        assert_eq!((alert["pid"].as_u64(), alert["remote"].as_str()), (Some(0), Some("")));
    }
    assert_eq!(counted(&world, "model_direct"), names.len() as f64);
    // What only resembles a pattern is another name.
    for name in ["bedrock.amazonaws.com", "bedrock.a.b.amazonaws.com"] {
        assert!(told(&world, name).starts_with("NXDOMAIN"), "{name}");
        assert_eq!(explained(&world, "dns", name)["reason"], "not_in_contract");
    }
    assert_eq!(counted(&world, "model_direct"), names.len() as f64);
}

#[test]
fn naming_a_model_host_in_sni_at_an_allowed_address_is_an_alert_and_does_not_arrive() {
    let mut world = World::named_up();
    let hash = world.use_contract("a", json!({ "egress": [tls("crm.example")] }))["wpc_hash"].clone();
    let names = ["api.anthropic.com", "bedrock-runtime.eu-west-1.amazonaws.com"];
    assert_eq!(greeted(&world, "crm.example"), "answered");
    for name in names {
        world.far.clear();
        assert_ne!(greeted(&world, name), "answered", "{name}");
        let alert = alert(&world, "name", name);
        is_whole(&alert, &hash);
        assert_eq!((alert["kind"].as_str(), alert["remote"].as_str()), (Some("model_direct"), Some(SHARED)));
        assert_eq!(alert["reason"], "sni_mismatch");
        // Whoever connected the socket.
        assert!(alert["pid"].as_u64().is_some_and(|pid| pid > 0), "{alert}");
        assert_eq!((world.far.sni_seen(name), world.far.heard(name.as_bytes())), (0, 0), "{name}");
    }
    assert_eq!(counted(&world, "model_direct"), names.len() as f64);
}

#[test]
fn connecting_to_a_model_hosts_fixed_address_is_an_alert_that_names_the_process() {
    let mut world = World::up();
    let hash = world.use_contract("a", json!({ "egress": [{ "host": "crm.example" }] }))["wpc_hash"].clone();
    assert_eq!(world.agent("a", Nobody, &["tcp", MODEL, "x"]).ok().out, "EPERM");
    let alert = alert(&world, "remote", MODEL);
    is_whole(&alert, &hash);
    assert_eq!((alert["kind"].as_str(), alert["command"].as_str()), (Some("model_direct"), Some("probe")));
    assert!(alert["pid"].as_u64().is_some_and(|pid| pid > 1), "{alert}");
    assert_eq!(alert["uid"], 65534);
    world.eventually("the count", |world| counted(world, "model_direct") == 1.0);
}

#[test]
fn the_configuration_adds_model_hosts() {
    let world = named("[model]\nhosts = [\"answers.example\", \"*.farm.example\"]");
    for name in ["answers.example", "one.farm.example", "a.b.farm.example"] {
        assert!(told(&world, name).starts_with("NXDOMAIN"), "{name}");
        assert_eq!(alert(&world, "name", name)["kind"], "model_direct", "{name}");
    }
    assert_eq!(counted(&world, "model_direct"), 3.0);
    assert_ne!(greeted(&world, "two.farm.example"), "answered");
    assert_eq!(alert(&world, "name", "two.farm.example")["reason"], "sni_mismatch");
    assert_eq!(counted(&world, "model_direct"), 4.0);
    // What lies above a wildcard is not below it.
    assert!(told(&world, "farm.example").starts_with("NXDOMAIN"));
    assert_eq!(counted(&world, "model_direct"), 4.0);
}

#[test]
fn a_model_host_that_the_contract_lists_is_no_alert() {
    let mut world = named("");
    world.zone("add api.openai.com A 60 203.0.113.40");
    world.use_contract("a", json!({ "egress": [tls("crm.example"), tls("api.openai.com")] }));
    assert!(told(&world, "api.openai.com").starts_with("NOERROR 203.0.113.40 "));
    assert_eq!(greeted(&world, "api.openai.com"), "answered");
    assert_eq!(world.far.sni_seen("api.openai.com"), 1);
    assert_eq!((counted(&world, "model_direct"), world.audit("alert").len()), (0.0, 0));
}

#[test]
fn a_model_host_in_a_contract_that_demands_receipts_is_refused_at_load() {
    let mut world = World::named_up();
    for host in ["api.openai.com", "*.amazonaws.com"] {
        let guard = json!({ "egress": [tls(host)], "model": { "require_proxy_receipts": true } });
        let payload = world.payload(guard);
        let file = world.sign(&payload);
        let run = world.clawguard(&["wpc", "use", file.to_str().unwrap(), "--agent", "a"]);
        assert!(run.status != 0 && run.err.contains("model host") && run.err.contains(host), "{host}: {run:?}");
    }
}

#[test]
fn a_model_runtime_on_this_host_or_in_its_network_is_a_way_to_a_model() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example" }] }));
    let mut outside = world.outside_on(&["listen", "11434"]);
    assert_eq!(outside.line(), "listening");
    assert_eq!(world.outside(&["tcp", "127.0.0.1:11434", "x"]).ok().out, "ok X");
    let places = ["127.0.0.1:11434", "[::1]:11434", "10.1.2.3:11434", "10.1.2.3:8000"];
    for place in places {
        assert_eq!(world.agent("a", Nobody, &["tcp", place, "x"]).ok().out, "EPERM", "{place}");
        assert_eq!(alert(&world, "remote", place)["kind"], "model_direct", "{place}");
    }
    // Another port there, and such a port elsewhere, are refused and nothing more.
    for place in ["127.0.0.1:11435", "10.1.2.3:5432", "203.0.113.99:11434"] {
        assert_eq!(world.agent("a", Nobody, &["tcp", place, "x"]).ok().out, "EPERM", "{place}");
    }
    world.eventually("the count", |world| counted(world, "model_direct") == places.len() as f64);
    assert_eq!(world.audit("alert").len(), places.len());
}

#[test]
fn an_unknown_host_whose_name_looks_like_a_models_is_named_as_suspected() {
    let mut world = named("");
    world.zone("add llm.corp.example A 60 203.0.113.40");
    world.far.clear();
    assert!(told(&world, "llm.corp.example").starts_with("NXDOMAIN"));
    assert_eq!(world.far.asked_at_all(), 0);
    let view = explained(&world, "dns", "llm.corp.example");
    assert_eq!((view["reason"].as_str(), view["suspected"].as_str()), (Some("not_in_contract"), Some("model")));
    assert!(view["sentence"].as_str().unwrap().ends_with("; it looks like a model call."), "{view}");
    assert!(world.log_text().contains("a refused name looks like a way around"));
    // A look at a name is no proof.
    assert_eq!((counted(&world, "model_direct"), world.audit("alert").len()), (0.0, 0));
    // On a flow it counts as what it surely is: a name that the contract does not allow there.
    assert_ne!(greeted(&world, "llm.corp.example"), "answered");
    let alert = alert(&world, "name", "llm.corp.example");
    assert_eq!((alert["kind"].as_str(), alert["suspected"].as_str()), (Some("sni_mismatch"), Some("model")));
    assert_eq!((counted(&world, "model_direct"), counted(&world, "sni_mismatch")), (0.0, 1.0));
    // A name that looks like nothing is suspected of nothing.
    assert!(told(&world, "evil.example").starts_with("NXDOMAIN"));
    assert_eq!(explained(&world, "dns", "evil.example")["suspected"], Value::Null);
    // The interval's records have it as well.
    world.eventually("the record", |world| {
        let records = world.audit("decisions");
        let mut all = records.iter().flat_map(|record| record["decisions"].as_array().unwrap());
        all.any(|decision| decision["name"] == "llm.corp.example" && decision["suspected"] == "model")
    });
}

#[test]
fn a_host_with_mcp_in_its_name_is_a_way_around_the_gateway() {
    let world = named("");
    assert!(told(&world, "mcp-tools.example").starts_with("NXDOMAIN"));
    let asked = alert(&world, "name", "mcp-tools.example");
    assert_eq!((asked["kind"].as_str(), asked["suspected"].as_str()), (Some("mcp_direct"), Some("mcp")));
    let view = explained(&world, "dns", "mcp-tools.example");
    assert!(view["sentence"].as_str().unwrap().ends_with("; it looks like a call of an MCP server."), "{view}");
    assert_ne!(greeted(&world, "mcp.other.example"), "answered");
    assert_eq!(alert(&world, "name", "mcp.other.example")["kind"], "mcp_direct");
    assert_eq!(counted(&world, "mcp_direct"), 2.0);
}

#[test]
fn a_configured_mcp_server_is_reached_through_the_gateway_alone() {
    let server = "[[mcp.server]]\nname = \"tickets\"\nurl = \"https://tickets.example/rpc\"\nrisk = \"low\"\n";
    let world = named(server);
    assert!(told(&world, "tickets.example").starts_with("NXDOMAIN"));
    let asked = alert(&world, "name", "tickets.example");
    assert_eq!((asked["kind"].as_str(), asked["reason"].as_str()), (Some("mcp_direct"), Some("mcp_direct")));
    assert_eq!(asked["suspected"], Value::Null);
    assert_eq!(counted(&world, "mcp_direct"), 1.0);
    drop(world);
    // One whose address is fixed is known by that.
    let mut world = World::new();
    world.configure(&server.replace("tickets.example", "video.example"));
    world.start();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example" }] }));
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.30:443", "x"]).ok().out, "EPERM");
    assert_eq!(alert(&world, "remote", "203.0.113.30:443")["kind"], "mcp_direct");
    world.eventually("the count", |world| counted(world, "mcp_direct") == 1.0);
}

#[test]
fn a_server_on_loopback_is_opened_by_no_entry_for_loopback() {
    let mut world = World::new();
    world.configure("[[mcp.server]]\nname = \"local\"\nurl = \"http://127.0.0.1:3001/mcp\"\nrisk = \"low\"\n");
    world.start();
    let egress = json!([{ "cidr": "127.0.0.0/8", "ports": [3001, 7601] }, { "cidr": "::1/128", "ports": [3001] }]);
    world.use_contract("a", json!({ "tools": { "allow": ["local/*"] }, "egress": egress }));
    let mut server = world.outside_on(&["listen", "3001"]);
    let mut other = world.outside_on(&["listen", "7601"]);
    assert_eq!((server.line(), other.line()), ("listening".into(), "listening".into()));
    assert_eq!(world.agent("a", Nobody, &["tcp", "127.0.0.1:7601", "x"]).ok().out, "ok X");
    let places = ["127.0.0.1:3001", "127.0.0.2:3001", "[::1]:3001"];
    for place in places {
        assert_eq!(world.agent("a", Nobody, &["tcp", place, "x"]).ok().out, "EPERM", "{place}");
        assert_eq!(alert(&world, "remote", place)["kind"], "mcp_direct", "{place}");
    }
    world.eventually("the count", |world| counted(world, "mcp_direct") == places.len() as f64);
}

#[test]
fn what_is_said_in_plain_words_where_tls_is_demanded_is_known_for_what_it_is() {
    let mut world = World::named_up();
    let contract = json!({ "egress": [tls("crm.example")], "model": { "on_bypass": "halt" } });
    let hash = world.use_contract("a", contract)["wpc_hash"].clone();
    let rpc = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"sk-secret-1\"}}";
    let behind = "POST /x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let said = [
        (rpc.to_owned(), "mcp_direct", Some("mcp")),
        (format!("{behind}{rpc}"), "mcp_direct", Some("mcp")),
        (
            "POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer sk-secret-2\r\n\r\n".into(),
            "model_direct",
            Some("model"),
        ),
        (format!("{behind}{{\"model\":\"a\",\"messages\":[\"sk-secret-3\"]}}"), "model_direct", Some("model")),
        ("GET / HTTP/1.1\r\nHost: crm.example\r\n\r\n".into(), "no_sni", None),
    ];
    world.agent("a", Nobody, &["names", "look-up", "crm.example"]).ok();
    for (text, kind, suspected) in said {
        let before = (counted(&world, kind), world.json(&["explain", "--last", "1000"]).as_array().unwrap().len());
        assert!(!world.agent("a", Nobody, &["tcp", SHARED, &text]).ok().out.starts_with("ok"), "{text}");
        world.eventually("the count", |world| counted(world, kind) == before.0 + 1.0);
        let views = world.json(&["explain", "--last", "1000"]);
        let views = views.as_array().unwrap();
        let view = views[before.1..].iter().find(|view| view["suspected"].as_str() == suspected).unwrap();
        assert_eq!((view["reason"].as_str(), view["remote"].as_str()), (Some("not_tls"), Some(SHARED)), "{text}");
    }
    for alert in world.audit("alert") {
        is_whole(&alert, &hash);
    }
    // A look is no proof: nothing is halted for it.
    assert_eq!(greeted(&world, "crm.example"), "answered");
    // What was looked at is not kept anywhere, and has not arrived.
    assert_eq!((world.far.seen(b"sk-secret"), world.far.heard(b"jsonrpc")), (0, 0));
    let kept = format!("{:?}{:?}", world.audit("alert"), world.audit("decisions"));
    assert!(!kept.contains("sk-secret") && !world.log_text().contains("sk-secret"));
}

#[test]
fn five_hundred_attempts_are_counted_one_by_one_and_told_a_few_times() {
    let mut world = World::new();
    let directory = world.directory.join("etc/clawguard/conf.d");
    std::fs::create_dir_all(&directory).unwrap();
    let limits = "[names]\nper_second = 10000\n[audit]\ninterval_seconds = 2\n";
    std::fs::write(directory.join("50.toml"), limits).unwrap();
    world.start();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example" }] }));
    let began = Instant::now();
    let mut connecting = world.agent_on("a", Nobody, &["each-line"]);
    for _ in 0..500 {
        assert_eq!(connecting.ask(MODEL, "tcp"), "tcp EPERM");
    }
    world.eventually("the count", |world| counted(world, "model_direct") == 500.0);
    let mut asking = world.agent_on("a", Nobody, &["names", "each-line"]);
    for _ in 0..500 {
        assert!(asking.ask(&format!("udp {RESOLVER} api.openai.com A"), "").starts_with("NXDOMAIN"));
    }
    world.eventually("the count", |world| counted(world, "model_direct") == 1000.0);
    // Each of the two kinds once in an interval.
    let most = 2 * (began.elapsed().as_secs() as usize / 2 + 2);
    let lines = world.log_text().matches("bypass attempt").count();
    assert!((2..=most).contains(&lines), "{lines} lines");
    assert_eq!(world.audit("alert").len(), lines);
}

/// A contract with a class of each kind, chat, and this `on_bypass`.
fn answering(on_bypass: &str) -> Value {
    json!({
        "egress": [
            { "host": "crm.example", "class": "write", "tls": false },
            { "host": "video.example", "class": "read", "tls": false },
            { "host": "chat.example", "groups": ["channel"], "tls": false },
        ],
        "model": { "on_bypass": on_bypass },
    })
}

/// Of [`answering`]'s three hosts, which can be reached.
const REACHED: &str = "each tcp 203.0.113.10:443 tcp 203.0.113.30:443 tcp 203.0.113.20:443";

fn reached(out: &str) -> Vec<bool> {
    out.lines().filter(|line| line.starts_with("tcp ")).map(|line| line.ends_with("ok hello")).collect()
}

/// What is still reached after an attempt: class write, class read, chat.
const ANSWERS: [(&str, [bool; 3], &[&str]); 3] = [
    ("alert", [true, true, true], &[]),
    ("read-only", [false, true, true], &["class:write", "class:irreversible"]),
    ("halt", [false, false, false], &["all"]),
];

#[test]
fn on_bypass_takes_effect_before_whoever_asked_has_an_answer() {
    for (on_bypass, left, groups) in ANSWERS {
        let mut world = World::up();
        world.use_contract("a", answering(on_bypass));
        world.use_contract("b", answering(on_bypass));
        let mut chat = world.agent_on("a", Nobody, &["talk", "203.0.113.20:443"]);
        chat.until("connected");
        assert_eq!(chat.ask("before", "got"), "got before");
        let probe = world.directory.join("probe").display().to_string();
        let script = format!("{probe} names ask udp {RESOLVER} api.openai.com A; {probe} {REACHED}");
        let tried = |world: &World| {
            let out = world.agent_runs("a", Nobody, &["sh", "-c", &script]).ok().out;
            // What is halted is told nothing more.
            assert!(out.starts_with("NXDOMAIN") || on_bypass == "halt", "{out}");
            reached(&out)
        };
        assert_eq!(tried(&world), left, "{on_bypass}");
        // Chat goes on over the connection that it has, unless all is halted.
        match left[2] {
            true => assert_eq!(chat.ask("after", "got"), "got after", "{on_bypass}"),
            false => assert_eq!(chat.until("read"), "read ECONNABORTED"),
        }
        // Nobody else is answered for it.
        let words: Vec<&str> = REACHED.split(' ').collect();
        assert_eq!(reached(&world.agent("b", Nobody, &words).ok().out), [true; 3], "{on_bypass}");
        let flips = world.audit("flip");
        assert_eq!(flips.len(), groups.len(), "{on_bypass}");
        for (flip, group) in flips.iter().zip(groups) {
            assert_eq!(
                (flip["flip"]["group"].as_str(), flip["flip"]["actor"]["channel"].as_str()),
                (Some(*group), Some("on_bypass"))
            );
        }
        // It outlives the daemon.
        world.stop();
        world.start();
        let now = |world: &World| reached(&world.agent("a", Nobody, &words).ok().out);
        assert_eq!(now(&world), left, "{on_bypass}");
        // An operator gives back what was taken, and the next attempt takes it again, in the same interval too.
        for round in 0..2 {
            for group in groups {
                world.json(&["restore", group, "--agent", "a", "--reason", "looked into"]);
            }
            assert_eq!(now(&world), [true; 3], "{on_bypass} {round}");
            assert_eq!(tried(&world), left, "{on_bypass} {round}");
        }
    }
}

#[test]
fn on_bypass_takes_effect_before_whoever_called_a_models_name_learns_that_it_is_refused() {
    let mut world = World::named_up();
    let crm = json!({ "host": "crm.example", "ports": [443], "tls": true, "class": "write" });
    let chat = json!({ "host": "chat.example", "ports": [443], "tls": true, "groups": ["channel"] });
    world.use_contract("a", json!({ "egress": [crm, chat], "model": { "on_bypass": "read-only" } }));
    let probe = world.directory.join("probe").display().to_string();
    let script = format!(
        "{probe} tls name crm.example; {probe} tls to {SHARED} api.openai.com; \
         {probe} tls name crm.example; {probe} tls name chat.example"
    );
    let out = world.agent_runs("a", Nobody, &["sh", "-c", &script]).ok().out;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[3]), ("hello from crm.example", "hello from chat.example"), "{out}");
    assert!(!lines[1].starts_with("hello") && !lines[2].starts_with("hello"), "{out}");
}

#[test]
fn on_bypass_takes_effect_at_once_after_a_connect() {
    for (on_bypass, left, groups) in ANSWERS {
        let mut world = World::up();
        world.use_contract("a", answering(on_bypass));
        let mut agent = world.agent_on("a", Nobody, &["each-line"]);
        for round in 0..2 {
            let began = Instant::now();
            assert_eq!(agent.ask(MODEL, "tcp"), "tcp EPERM");
            // The refusal does not wait for the answer; that comes by itself, after this one attempt.
            world.eventually("the answer", |_| (agent.ask("203.0.113.10:443", "tcp") == "tcp ok x") == left[0]);
            assert!(began.elapsed() < Duration::from_secs(1), "{on_bypass}: {:?}", began.elapsed());
            assert_eq!(agent.ask("203.0.113.30:443", "tcp") == "tcp ok x", left[1], "{on_bypass} {round}");
            assert_eq!(agent.ask("203.0.113.20:443", "tcp") == "tcp ok x", left[2], "{on_bypass} {round}");
            for group in groups {
                world.json(&["restore", group, "--agent", "a", "--reason", "looked into"]);
            }
            assert_eq!(agent.ask("203.0.113.10:443", "tcp"), "tcp ok x", "{on_bypass} {round}");
        }
    }
}

#[test]
fn whoever_asks_for_more_names_than_are_told_is_answered_all_the_same() {
    let mut world = World::new();
    let directory = world.directory.join("etc/clawguard/conf.d");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("50.toml"), "[names]\nper_second = 100000\n[audit]\ninterval_seconds = 600\n")
        .unwrap();
    world.start();
    world.use_contract("a", answering("halt"));
    let mut asking = world.agent_on("a", Nobody, &["names", "each-line"]);
    // More than are told of one job in an interval.
    for n in 0..600 {
        assert!(asking.ask(&format!("udp {RESOLVER} n{n}.evil.example A"), "").starts_with("NXDOMAIN"));
    }
    assert!(!asking.ask(&format!("udp {RESOLVER} api.openai.com A"), "").starts_with("NOERROR"));
    let words: Vec<&str> = REACHED.split(' ').collect();
    assert_eq!(reached(&world.agent("a", Nobody, &words).ok().out), [false; 3]);
    assert_eq!(counted(&world, "model_direct"), 1.0);
}

#[test]
fn where_it_is_only_observed_a_way_around_is_noted_and_passes() {
    let mut world = World::named();
    world.configure("[[agent]]\nname = \"a\"\nmode = \"observe\"");
    world.start();
    let contract = json!({ "egress": [tls("crm.example")], "model": { "on_bypass": "halt" } });
    let hash = world.use_contract("a", contract)["wpc_hash"].clone();
    world.zone("add api.openai.com A 60 203.0.113.40");
    assert!(told(&world, "api.openai.com").starts_with("NOERROR 203.0.113.40 "));
    assert_eq!(greeted(&world, "api.openai.com"), "answered");
    assert_eq!(world.far.sni_seen("api.openai.com"), 1);
    world.agent("a", Nobody, &["tcp", "10.1.2.3:11434", "x"]).ok();
    let of = |field, value: &str| alert(&world, field, value);
    for alert in [of("reason", "model_direct"), of("reason", "sni_mismatch"), of("remote", "10.1.2.3:11434")] {
        is_whole(&alert, &hash);
        assert_eq!(
            (alert["kind"].as_str(), alert["verdict"].as_str()),
            (Some("model_direct"), Some("observed")),
            "{alert}"
        );
    }
    // `halt` halts nothing here.
    assert!(world.audit("flip").is_empty());
    assert_eq!(greeted(&world, "crm.example"), "answered");
}
