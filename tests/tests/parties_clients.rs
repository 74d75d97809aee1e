//! Clients and servers of others through the gateway: the Inspector in every era, Python's SDK, and MCP's server for trying
//! clients out, over HTTP and over stdio.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use e2e::{
    Identity::Nobody,
    Outside, Run, World, built, copy,
    parties::{EVERYTHING, Parties, Server, within},
};
use serde_json::{Value, json};

fn url(server: &str) -> String {
    format!("http://127.0.0.1:9480/s/{server}/mcp")
}

/// A world with the reference server, and server-everything over HTTP and over stdio.
fn world() -> (World, Parties, Vec<Server>) {
    let mut world = World::new();
    let parties = Parties::bring(&world);
    let servers = vec![parties.reference(&world, 3901), parties.everything(&world, 3902)];
    world.configure(&format!(
        "[[mcp.server]]\nname = \"ref\"\nurl = \"http://127.0.0.1:3901/mcp\"\nrisk = \"low\"\n\
         [[mcp.server]]\nname = \"everything\"\nurl = \"http://127.0.0.1:3902/mcp\"\nrisk = \"low\"\n\
         [[mcp.server]]\nname = \"local\"\ncommand = [\"{}\", \"{}\", \"stdio\"]\nrisk = \"low\"\n",
        parties.node(),
        parties.npm(EVERYTHING)
    ));
    world.start();
    world.use_contract(
        "a",
        json!({ "tools": { "allow": ["ref/test_simple_text", "everything/echo", "everything/get-sum", "local/echo", "local/get-env"] },
            "groups": [{ "name": "sums", "tools": ["everything/get-sum"] }] }),
    );
    (world, parties, servers)
}

fn agent(world: &World, parties: &Parties, words: &[&str]) -> Run {
    let words = parties.words(words);
    world.agent_runs("a", Nobody, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn agent_on(world: &World, parties: &Parties, words: &[&str]) -> Outside {
    let words = parties.words(words);
    world.agent_runs_on("a", Nobody, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The Inspector's command line.
fn inspector(world: &World, parties: &Parties, url: &str, era: &str, words: &[&str]) -> Run {
    let program = parties.npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js");
    let mut all = vec!["node", &program, "--cli", url, "--transport", "http", "--protocol-era", era, "--method"];
    all.extend(words);
    agent(world, parties, &all)
}

fn tools(listed: &Value) -> Vec<&str> {
    listed["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[test]
fn the_inspector_in_every_era_sees_and_calls_what_the_contract_allows() {
    let (world, parties, _servers) = world();
    for (server, era) in
        [("ref", "legacy"), ("ref", "auto"), ("ref", "modern"), ("everything", "legacy"), ("everything", "auto")]
    {
        let url = url(server);
        let (expected, tool, said) = if server == "ref" {
            (vec!["test_simple_text"], vec!["--tool-name", "test_simple_text"], "simple text response")
        } else {
            (vec!["echo", "get-sum"], vec!["--tool-name", "echo", "--tool-arg", "message=hello"], "Echo: hello")
        };
        let listed = inspector(&world, &parties, &url, era, &["tools/list"]).ok().json();
        assert_eq!(tools(&listed), expected, "{server} {era}");
        let words: Vec<&str> = [vec!["tools/call"], tool].concat();
        let called = inspector(&world, &parties, &url, era, &words).ok();
        assert!(called.out.contains(said), "{server} {era}: {called:?}");
        let denied = if server == "ref" { "test_image_content" } else { "get-tiny-image" };
        let refused = inspector(&world, &parties, &url, era, &["tools/call", "--tool-name", denied]);
        assert!(refused.status != 0 && !refused.out.contains("image/png"), "{server} {era}: {refused:?}");
    }
    world.clawguard(&["kill", "sums", "--reason", "test"]).ok();
    let killed = inspector(&world, &parties, &url("everything"), "legacy", &["tools/list"]).ok().json();
    assert_eq!(tools(&killed), ["echo"]);
}

#[test]
fn pythons_sdk_speaks_both_eras_through_the_gateway() {
    let (world, parties, _servers) = world();
    let script = parties.own("client.py");
    for (server, era, tool, arguments, said) in [
        ("ref", "legacy", "test_simple_text", "{}", "This is a simple text response for testing."),
        ("ref", "auto", "test_simple_text", "{}", "This is a simple text response for testing."),
        ("ref", "2026-07-28", "test_simple_text", "{}", "This is a simple text response for testing."),
        ("everything", "auto", "get-sum", r#"{"a":40,"b":2}"#, "The sum of 40 and 2 is 42."),
    ] {
        let words = ["/usr/bin/python3", &script, &url(server), era, tool, arguments];
        let run = agent(&world, &parties, &words);
        assert_eq!(run.status, 0, "{server} {era}: {}\n{:?}", run.err, world.audit("call"));
        let run = run.json();
        assert_eq!((&run["is_error"], &run["said"][0]), (&json!(false), &json!(said)), "{server} {era}: {run}");
        assert!(run["tools"].as_array().unwrap().len() <= 2, "{run}");
    }
}

#[test]
fn others_calls_are_held_until_a_person_agrees_and_are_ended_while_they_run() {
    let (mut world, parties, servers) = world();
    let slow = "trigger-long-running-operation";
    world.use_contract(
        "a",
        json!({ "tools": { "allow": [format!("everything/{slow}")], "approve": ["everything/get-sum"] },
            "groups": [{ "name": "slow", "tools": [format!("everything/{slow}")] }] }),
    );
    let (url, script) = (url("everything"), parties.own("client.py"));
    let inspector = parties.npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js");
    let python = |tool: &str, arguments: &str| {
        agent_on(&world, &parties, &["/usr/bin/python3", &script, &url, "auto", tool, arguments])
    };
    let sum = ["--cli", &url, "--transport", "http", "--protocol-era", "legacy", "--method", "tools/call"];
    let sum = [&["node", &inspector], &sum[..], &["--tool-name", "get-sum", "--tool-arg", "a=40", "b=2"]].concat();
    let clients: [&dyn Fn() -> Outside; 2] =
        [&|| python("get-sum", r#"{"a":40,"b":2}"#), &|| agent_on(&world, &parties, &sum)];
    for client in clients {
        let client = client();
        let waiting = within(&world, 60, "a call waits for a person", || {
            let approvals = world.json(&["approvals"]);
            approvals.as_array().unwrap().iter().find(|approval| approval["state"] == "pending").cloned()
        });
        assert_eq!(waiting["arguments"], json!(r#"{"a":40,"b":2}"#), "{waiting}");
        world.clawguard(&["approve", waiting["id"].as_str().unwrap(), "--reason", "test"]).ok();
        let ended = client.finish();
        assert!(ended.status == 0 && ended.out.contains("The sum of 40 and 2 is 42."), "{ended:?}");
    }
    let mut client = python(slow, r#"{"duration":600,"steps":6000}"#);
    client.until("progress");
    let killed = world.json(&["kill", "slow", "--reason", "test"]);
    assert_eq!(killed["calls_cancelled"], 1, "{killed}");
    let ended = client.finish();
    let last = ended.out.lines().last().unwrap_or_default();
    assert!(ended.status == 0 && last.contains("ClawGuard ended this call"), "{ended:?}\n{}", servers[1].said());
}

#[test]
fn a_stdio_server_of_others_runs_behind_the_gateway_and_knows_nothing_of_the_host() {
    let (world, parties, _servers) = world();
    // Where agents can run it.
    for name in ["clawguard", "clawguard-gateway"] {
        copy(&built(name), &world.directory.join(name));
    }
    let clawguard = world.directory.join("clawguard").to_str().unwrap().to_owned();
    let program = parties.npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js");
    let stdio = |words: &[&str]| {
        // The command that an agent configures in place of the server's.
        let mut all = vec!["node", &program, "--cli", &clawguard, "mcp-stdio", "local", "--method"];
        all.extend(words);
        agent(&world, &parties, &all)
    };
    let http = |words: &[&str]| inspector(&world, &parties, &url("local"), "legacy", words);
    for way in [&stdio as &dyn Fn(&[&str]) -> Run, &http] {
        assert_eq!(tools(&way(&["tools/list"]).ok().json()), ["echo", "get-env"]);
        let called = way(&["tools/call", "--tool-name", "echo", "--tool-arg", "message=hello"]).ok();
        assert!(called.out.contains("Echo: hello"), "{called:?}");
        let environment = way(&["tools/call", "--tool-name", "get-env"]).ok().json();
        let text = environment["content"][0]["text"].as_str().unwrap();
        let known: Value = serde_json::from_str(text).unwrap();
        let names: Vec<&String> = known.as_object().unwrap().keys().collect();
        assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "USER"], "{known}");
    }
}
