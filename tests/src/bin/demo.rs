//! The main job, to be watched: `cargo xtask demo`.
//!
//! One host and its far ends, in network namespaces of their own; ClawGuard in a directory of its own. Everything that is
//! shown is what the commands really said, and the demo ends with an error if one of them said something else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a demo that goes wrong says so and stops")]

use std::{fs, thread, time::Duration};

use e2e::{Identity::Nobody, World};
use serde_json::json;

const CRM: &str = "203.0.113.10:443";
const CHAT: &str = "203.0.113.20:443";
const MODEL: &str = "203.0.113.66:443";
const ELSEWHERE: &str = "203.0.113.99:443";

fn heading(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}

/// What a command said, indented below the command.
fn show(command: &str, said: &str) {
    println!("  $ {command}");
    for line in said.lines() {
        println!("    {line}");
    }
}

/// Runs `clawguard` and shows what it said.
fn clawguard(world: &World, words: &[&str]) -> String {
    let run = world.clawguard(words).ok();
    let home = world.directory.to_str().unwrap();
    let quoted: Vec<String> =
        words.iter().map(|word| if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() }).collect();
    show(&format!("clawguard {}", quoted.join(" ")).replace(home, ""), &run.out.replace(home, ""));
    run.out
}

/// The agent tries an address; what it got is shown and must begin like this.
fn agent_tries(world: &World, name: &str, to: &str, expected: &str) {
    let said = world.agent("crm-agent", Nobody, &["tcp", to, "hello"]).out;
    assert!(said.starts_with(expected), "{name}: {said} instead of {expected}");
    let meaning = match expected {
        "ok" => "connected; the far end answered",
        _ => "refused at connect(): EPERM, and nothing left the host",
    };
    println!("  agent -> {:40} {meaning}", format!("{name} ({to})"));
}

fn main() {
    let mut world = World::new();
    let file = |world: &World, name: &str| world.directory.join(name).to_str().unwrap().to_owned();
    println!(
        "ClawGuard: this host and four far ends, in network namespaces made for this demo. No packet leaves them."
    );

    heading("1. A contract: what the agent may reach, signed");
    let (key, plain, signed) = (file(&world, "key.jwk"), file(&world, "contract.json"), file(&world, "signed.json"));
    let made = world.json(&["keygen", "--out", &key]);
    let did = made["did"].as_str().unwrap().to_owned();
    println!("  $ clawguard keygen --out /key.jwk\n    {did}");
    world.trust(&did);
    let payload = json!({ "policy_version": "1", "policy_id": "crm-agent", "issuer_did": did, "metadata": { "clawguard.v1": {
        "sequence": 1,
        "not_after": "2100-01-01T00:00:00Z",
        "egress": [
            { "host": "crm.example", "tls": false, "class": "write", "groups": ["crm"] },
            { "host": "chat.example", "tls": false, "groups": ["channel"] },
        ],
        "groups": [{ "name": "crm", "risk": "low" }],
    } } });
    fs::write(&plain, serde_json::to_string_pretty(&payload).unwrap()).unwrap();
    clawguard(&world, &["wpc", "sign", &plain, "--key", &key, "--out", &signed]);
    clawguard(&world, &["wpc", "check", &signed]);

    heading("2. The daemon: every hook is tried by a canary before it says ready");
    world.start();
    clawguard(&world, &["wpc", "use", &signed, "--agent", "crm-agent"]);

    heading("3. The agent, inside the fence");
    agent_tries(&world, "crm.example", CRM, "ok");
    agent_tries(&world, "chat.example", CHAT, "ok");
    agent_tries(&world, "elsewhere.example", ELSEWHERE, "EPERM");
    agent_tries(&world, "api.openai.com", MODEL, "EPERM");
    let outside = world.outside(&["tcp", ELSEWHERE, "hello"]).out;
    assert_eq!(outside, "ok hello");
    println!("  anyone else -> {:34} connected; the fence is no business of theirs", format!("({ELSEWHERE})"));
    clawguard(&world, &["explain", "--last", "2"]);
    world.eventually("the alert", |world| world.metric("clawguard_bypass_alerts_total") > 0.0);

    heading("4. The switch: one flip cuts the live CRM stream; chat goes on");
    let mut crm = world.agent_on("crm-agent", Nobody, &["talk", CRM]);
    let mut chat = world.agent_on("crm-agent", Nobody, &["talk", CHAT]);
    for (name, talk) in [("crm ", &mut crm), ("chat", &mut chat)] {
        talk.until("connected");
        println!("  {name} stream: sent \"one\", {}", talk.ask("one", "got"));
    }
    let said = clawguard(&world, &["kill", "crm", "--reason", "the CRM is misused"]);
    assert!(said.contains("accepted before, refused after"));
    let woke = crm.until("read");
    assert_eq!(woke, "read ECONNABORTED");
    println!("  crm  stream: its blocked read woke with ECONNABORTED");
    println!("  chat stream: sent \"two\", {}", chat.ask("two", "got"));
    agent_tries(&world, "crm.example", CRM, "EPERM");
    clawguard(&world, &["restore", "crm", "--reason", "demo is over"]);
    agent_tries(&world, "crm.example", CRM, "ok");
    drop((crm, chat));

    heading("5. The evidence");
    thread::sleep(Duration::from_millis(1500));
    let metrics = world.http_get("127.0.0.1:9477", "/metrics");
    let told = ["clawguard_egress_decisions_total", "clawguard_bypass_alerts_total", "clawguard_kill_flips_total"];
    let lines: Vec<&str> = metrics.lines().filter(|line| told.iter().any(|name| line.starts_with(name))).collect();
    assert!(!lines.is_empty());
    show("curl -s 127.0.0.1:9477/metrics | grep -E 'decisions|bypass|flips'", &lines.join("\n"));
    clawguard(&world, &["audit", "verify"]);

    drop(world);
    println!("\nCleaned up: programs, cgroups, namespaces and files of this demo are gone.");
}
