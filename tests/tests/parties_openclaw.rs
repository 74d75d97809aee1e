//! OpenClaw itself, inside the fence, with a model that does what it is told: its tools are allowed, not there, held until a
//! person agrees, and taken away while they run.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;

use e2e::{
    Identity::Nobody,
    Outside, World,
    parties::{Parties, Server, within},
};
use serde_json::{Value, json};

/// What the model has OpenClaw call, in this order.
const TOLD: [&str; 5] = [
    r#"everything__echo {"message":"first"}"#,
    r#"everything__get-env {"all":true}"#,
    r#"everything__get-sum {"a":40,"b":2}"#,
    r#"everything__trigger-long-running-operation {"duration":600,"steps":1200}"#,
    r#"everything__echo {"message":"last"}"#,
];

fn start(world: &mut World, parties: &Parties) -> (Vec<Server>, Outside) {
    let model = parties.serve(world, &["node", &parties.own("model.mjs"), "3910"], "127.0.0.1:3910");
    let everything = parties.everything(world, 3902);
    world.configure("[[mcp.server]]\nname = \"everything\"\nurl = \"http://127.0.0.1:3902/mcp\"\nrisk = \"low\"\n");
    world.start();
    world.use_contract(
        "a",
        json!({ "tools": {
                "allow": ["everything/echo", "everything/trigger-long-running-operation"], "approve": ["everything/get-sum"] },
            "groups": [{ "name": "slow", "tools": ["everything/trigger-long-running-operation"] }],
            "egress": [{ "cidr": "127.0.0.1/32", "ports": [3910], "protocol": "tcp", "groups": ["model"] }] }),
    );
    let settings = parties.home.join(".openclaw");
    fs::create_dir(&settings).unwrap();
    fs::copy(parties.own("openclaw.json"), settings.join("openclaw.json")).unwrap();
    for path in [settings.clone(), settings.join("openclaw.json")] {
        nix::unistd::chown(&path, Some(65534.into()), Some(65534.into())).unwrap();
    }
    let told = TOLD.map(|call| format!("call {call}")).join(" then ");
    let program = parties.npm("openclaw/openclaw.mjs");
    let words =
        ["node", &program, "agent", "--local", "--agent", "main", "--session-id", "s", "--json", "--message", &told];
    let words = parties.words(&words);
    let openclaw = world.agent_runs_on("a", Nobody, &words.iter().map(String::as_str).collect::<Vec<_>>());
    (vec![model, everything], openclaw)
}

/// What a tool gave OpenClaw's model, by the model's log of what it was asked.
fn given(ended: &Value, tool: usize) -> String {
    let text = ended["payloads"][0]["text"].as_str().unwrap_or_else(|| panic!("{ended}"));
    let from = text.split(&format!("Tool {tool} said: ")).nth(1).unwrap_or_else(|| panic!("{text}"));
    from.split(&format!("Tool {} said: ", tool + 1)).next().unwrap().to_owned()
}

#[test]
fn openclaws_tools_are_allowed_hidden_held_and_taken_away_while_they_run() {
    let mut world = World::new();
    let parties = Parties::bring(&world);
    let (servers, openclaw) = start(&mut world, &parties);

    let waiting = within(&world, 240, "a call waits for a person", || {
        world.json(&["approvals"]).as_array().unwrap().iter().find(|approval| approval["state"] == "pending").cloned()
    });
    assert_eq!(
        (&waiting["tool"], &waiting["arguments"]),
        (&json!("get-sum"), &json!(r#"{"a":40,"b":2}"#)),
        "{waiting}"
    );
    let posts = || servers[1].said().matches("POST").count();
    let before = posts();
    world.clawguard(&["approve", waiting["id"].as_str().unwrap(), "--reason", "test"]).ok();

    // The sum is one message to the server, the slow call is the next.
    within(&world, 60, "the slow call runs", || (posts() >= before + 2).then_some(()));
    let killed = world.json(&["kill", "slow", "--reason", "test"]);
    assert_eq!(killed["calls_cancelled"], 1, "{killed}");
    assert_eq!(killed["enforced_by"], json!(["gateway"]), "{killed}");

    let ended = openclaw.finish();
    assert_eq!(ended.status, 0, "{}\n{}", ended.out, world.log_text());
    let ended: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}", ended.out));
    assert!(given(&ended, 0).contains("Echo: first"), "{ended}");
    assert!(given(&ended, 1).contains("Unknown tool id"), "{ended}");
    assert!(given(&ended, 2).contains("42"), "{ended}");
    assert!(given(&ended, 3).contains("ClawGuard ended this call"), "{ended}");
    // Neither a denial nor a kill has OpenClaw give the server up.
    assert!(given(&ended, 4).contains("Echo: last"), "{ended}");

    let calls = world.audit("call");
    for (tool, status) in [("echo", "ok"), ("get-sum", "ok"), ("trigger-long-running-operation", "killed")] {
        let found = calls.iter().any(|call| call["tool"] == tool && call["status"] == status);
        assert!(found, "{tool}: {calls:?}");
    }
    assert!(calls.iter().all(|call| call["tool"] != "get-env" || call["decision"] == "denied"), "{calls:?}");
    world.clawguard(&["audit", "verify"]).ok();
}
