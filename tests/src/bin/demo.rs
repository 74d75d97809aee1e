//! The main job, to be watched: `cargo xtask demo`.
//!
//! One host and its far ends, in network namespaces of their own; ClawGuard in a directory of its own. Everything that is
//! shown is what the commands really said, and the demo ends with an error if one of them said something else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a demo that goes wrong says so and stops")]

use std::{fs, thread, time::Duration};

use e2e::{Identity::Nobody, McpServer, Outside, Provider, World};
use serde_json::{Value, json};

const CRM: &str = "203.0.113.10:443";
const CHAT: &str = "203.0.113.20:443";
const MODEL: &str = "203.0.113.66:443";
const ELSEWHERE: &str = "203.0.113.99:443";
const MCP: &str = "127.0.0.1:3901";
const TOOLS: &str = "http://127.0.0.1:9480/s/crm-mcp/mcp";
const PROVIDER: &str = "127.0.0.1:3911";
const MODELS: &str = "127.0.0.1:9481";

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

/// What a tool answered, in a line.
fn answered(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    let text = answer["result"]["content"][0]["text"].as_str().or_else(|| answer["error"]["message"].as_str());
    text.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// The agent calls a tool; what it was answered is shown and must have this in it.
fn agent_calls(world: &World, tool: &str, expected: &str) {
    let run = world.agent("crm-agent", Nobody, &["tools", "call", TOOLS, tool, r#"{"id":7}"#]).ok();
    let said = answered(&run.out);
    assert!(said.contains(expected), "{tool}: {said}");
    println!("  agent -> {tool:12} {said}");
}

/// Tools, by the same contract: allowed, not there, held for a person, taken away.
fn tools(world: &World, server: &McpServer) {
    heading("5. Tools: the same contract, at the only way that the kernel leaves to the MCP server");
    let listed = world.agent("crm-agent", Nobody, &["tools", "list", TOOLS]).ok().out;
    println!("  agent: tools/list   {listed}");
    agent_calls(world, "get_case", "did get_case");
    agent_calls(world, "delete_case", "Unknown tool");
    let direct = world.agent("crm-agent", Nobody, &["tcp", MCP, "x"]).out;
    assert_eq!(direct, "EPERM");
    println!("  agent -> {MCP} (the server itself): refused at connect(): EPERM");
    let mut held =
        world.agent_on("crm-agent", Nobody, &["tools", "call", TOOLS, "update_case", r#"{"id":7,"state":"closed"}"#]);
    let pending = || world.json(&["approvals"]);
    world.eventually("a call waits for a person", |world| {
        world.json(&["approvals"]).to_string().contains("update_case")
    });
    clawguard(world, &["approvals"]);
    let id = id_of(&pending());
    clawguard(world, &["approve", &id]);
    println!("  agent -> update_case  {}", answered(&held.line()));
    clawguard(world, &["kill", "mcp:crm-mcp", "--reason", "the MCP server is misused"]);
    agent_calls(world, "get_case", "killed");
    clawguard(world, &["restore", "mcp:crm-mcp", "--reason", "demo is over"]);
    agent_calls(world, "get_case", "did get_case");
    assert!(!server.called().iter().any(|tool| tool == "delete_case"));
    println!("  the server heard of   {}", server.called().join(" "));
}

/// One job whose commands are told to it, a line each.
fn job(world: &World) -> (Outside, String) {
    let script = format!("P={}; echo ready; while read -r line; do eval \"$line\" 2>&1; done", world.probe());
    let mut job = world.agent_runs_on("crm-agent", Nobody, &["sh", "-c", &script]);
    job.until("ready");
    let status = world.json(&["status"]);
    let mut jobs = status["jobs"].as_array().unwrap().iter();
    let own = jobs.find(|job| job["agent"] == "crm-agent" && job["state"] == "running");
    let id = own.unwrap_or_else(|| panic!("{status}"))["id"].as_str().unwrap();
    (job, id.to_owned())
}

/// The job calls a model; what it was answered is shown and must have this in it.
fn job_asks(job: &mut Outside, model: &str, expected: &str) {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Is the case closed?" }] });
    job.say(&format!("$P model call {MODELS} '{body}'"));
    let said = job.line();
    assert!(said.contains(expected), "{model}: {said} instead of {expected}");
    let answer: Value = serde_json::from_str(said.split_once(' ').unwrap().1).unwrap();
    let meaning = match answer.get("_receipt_envelope") {
        Some(receipt) => format!("answered, with a receipt signed by {}", receipt["signer_did"].as_str().unwrap()),
        None => answer["error"]["message"].as_str().unwrap().to_owned(),
    };
    println!("  agent -> {model:14} {meaning}");
}

/// Models, and what is left of a job that is over: a bundle that anybody can verify.
fn models(world: &World, provider: &Provider) {
    heading("6. Models: one way too, with the host's key; every call leaves a receipt");
    let (mut job, id) = job(world);
    job_asks(&mut job, "gpt-5-mini", "_receipt_envelope");
    job_asks(&mut job, "o9-untested", "error");
    let heard = provider.heard();
    assert_eq!(heard.len(), 1);
    println!(
        "  the provider was asked once, with the key {}; the agent had sent sk-dummy",
        heard[0].headers["authorization"].trim_start_matches("Bearer ")
    );
    job.say(&format!("$P tools call {TOOLS} get_case '{{\"id\":7}}'"));
    job.line();
    job.say(&format!("$P tcp {MODEL} x"));
    job.line();
    assert_eq!(job.finish().status, 0);
    world.eventually("the job's end", |world| world.audit("job_end").iter().any(|end| end["job"] == id.as_str()));

    heading("7. The evidence of that job, for whoever was not there");
    let file = |name: &str| world.directory.join(name).to_str().unwrap().to_owned();
    clawguard(world, &["bundle", "export", &id, "--out", &file("evidence")]);
    clawguard(world, &["bundle", "verify", &file("evidence"), "--trust", &file("evidence/trust.json")]);
}

/// The first approval's id, wherever it stands.
fn id_of(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(id_of).find(|id| !id.is_empty()).unwrap_or_default(),
        Value::Object(members) => match members.get("id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => members.values().map(id_of).find(|id| !id.is_empty()).unwrap_or_default(),
        },
        _ => String::new(),
    }
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
    let server = McpServer::start(MCP);
    let provider = Provider::start(PROVIDER);
    world.configure(&format!("{}{}", server.configuration("crm-mcp", "low"), provider.configuration()));
    let payload = json!({ "policy_version": "1", "policy_id": "crm-agent", "issuer_did": did,
        "allowed_providers": ["openai"], "allowed_models": ["gpt-*"], "metadata": { "clawguard.v1": {
        "sequence": 1,
        "not_after": "2100-01-01T00:00:00Z",
        "egress": [
            { "host": "crm.example", "tls": false, "class": "write", "groups": ["crm"] },
            { "host": "chat.example", "tls": false, "groups": ["channel"] },
        ],
        "tools": { "allow": ["crm-mcp/get_*"], "approve": ["crm-mcp/update_case"] },
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

    tools(&world, &server);

    models(&world, &provider);

    heading("8. The log of it all");
    thread::sleep(Duration::from_millis(1500));
    let metrics = world.http_get("127.0.0.1:9477", "/metrics");
    let told = [
        "clawguard_egress_decisions_total",
        "clawguard_bypass_alerts_total",
        "clawguard_kill_flips_total",
        "clawguard_mcp_calls_total",
        "clawguard_model_calls_total",
    ];
    let lines: Vec<&str> = metrics.lines().filter(|line| told.iter().any(|name| line.starts_with(name))).collect();
    assert!(!lines.is_empty());
    show("curl -s 127.0.0.1:9477/metrics | grep -E 'decisions|bypass|flips|calls'", &lines.join("\n"));
    clawguard(&world, &["audit", "verify"]);

    drop(world);
    println!("\nCleaned up: programs, cgroups, namespaces and files of this demo are gone.");
}
