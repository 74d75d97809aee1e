//! The official Rust SDK on both sides of the gateway: its client in every era, over HTTP and over `clawguard mcp-stdio`, and its
//! server over HTTP and over stdio. What reached the server is read from the server's own log.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;

use e2e::{
    Identity::Nobody,
    Outside, World, built, copy,
    parties::{Parties, Server, rmcp, within},
};
use serde_json::{Value, json};

/// Which server, and how its client gets to the gateway.
const HTTP: &str = "http";
const STDIO: &str = "stdio";

/// A world with rmcp's server in one of its two forms, under the name `rmcp`.
struct Tried {
    world: World,
    parties: Parties,
    party: String,
    log: String,
    _server: Option<Server>,
}

fn tried(server: &str) -> Tried {
    let mut world = World::new();
    let parties = Parties::bring(&world);
    let party = rmcp(&world);
    // Where agents can run it.
    for name in ["clawguard", "clawguard-gateway"] {
        copy(&built(name), &world.directory.join(name));
    }
    // Its user's, who is not the host's root where the daemon starts it.
    let log = parties.home.join("server.log").to_str().unwrap().to_owned();
    let listens = "127.0.0.1:3903";
    let (running, endpoint) = if server == HTTP {
        (
            Some(parties.serve(&world, &["env", &format!("LOG={log}"), &party, "server", listens], listens)),
            format!("url = \"http://{listens}/mcp\""),
        )
    } else {
        (None, format!("command = [\"{party}\", \"server\", \"stdio\"]\nenv = {{ LOG = \"{log}\" }}"))
    };
    world.configure(&format!("[[mcp.server]]\nname = \"rmcp\"\n{endpoint}\nrisk = \"low\"\n"));
    world.start();
    world.use_contract(
        "a",
        json!({ "tools": { "allow": ["rmcp/echo", "rmcp/slow", "rmcp/slower", "rmcp/ask"], "approve": ["rmcp/sum"] },
            "mcp": { "elicitation": ["rmcp"] }, "groups": [{ "name": "slow", "tools": ["rmcp/slow"] }] }),
    );
    Tried { world, parties, party, log, _server: running }
}

impl Tried {
    /// rmcp's client as an agent; `way` is what it connects to.
    fn client(&self, era: &str, way: &str) -> Outside {
        let clawguard = self.world.directory.join("clawguard").to_str().unwrap().to_owned();
        let place: &[&str] =
            if way == HTTP { &["http://127.0.0.1:9480/s/rmcp/mcp"] } else { &[&clawguard, "mcp-stdio", "rmcp"] };
        let words = self.parties.words(&[&[&self.party, "client", era], place].concat());
        self.world.agent_runs_on("a", Nobody, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// How often the server noted this.
    fn heard(&self, what: &str) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().lines().filter(|line| line.starts_with(what)).count()
    }

    /// Everything that a client is let do, kept from and stopped in.
    fn whole(&self, era: &str, way: &str, version: &str) {
        println!("{era} over {way}");
        let mut client = self.client(era, way);
        let ready = said(&client.until("ready"));
        assert_eq!(ready, json!({ "version": version, "server": "rmcp-party" }), "{era} {way}");
        self.allowed_and_hidden(&mut client);
        self.asked_back(&mut client);
        self.held(&mut client);
        self.killed(&mut client);
        let ended = client.finish();
        assert_eq!(ended.status, 0, "{era} {way}: {ended:?}");
    }

    fn allowed_and_hidden(&self, client: &mut Outside) {
        assert_eq!(said(&client.ask("list", "listed")), json!(["echo", "sum", "slow", "slower", "ask"]));
        echoes(client, "first");
        for tool in ["hidden", "Echo", "nothing"] {
            let refused = said(&client.ask(&format!("call {tool} {{}}"), "answer"));
            assert_eq!((&refused["code"], &refused["tool"]), (&json!(-32602), &json!(tool)), "{refused}");
            assert_eq!(refused["message"], json!(format!("Unknown tool: {tool}")), "{refused}");
            assert_eq!(self.heard(&format!("call {tool}")), 0);
        }
    }

    /// The server asks the client's person, as the contract lets it, in the era's own way.
    fn asked_back(&self, client: &mut Outside) {
        client.say("call ask {}");
        assert_eq!(said(&client.until("asked")), json!({ "message": "who is there?" }));
        let answer = said(&client.until("answer"));
        assert_eq!(answer, json!({ "tool": "ask", "is_error": false, "said": ["accept \"somebody\""] }));
    }

    fn held(&self, client: &mut Outside) {
        let before = self.heard("call sum");
        client.say(r#"call sum {"a":40,"b":2}"#);
        let waiting = within(&self.world, 30, "a call waits for a person", || {
            let approvals = self.world.json(&["approvals"]);
            approvals.as_array().unwrap().iter().find(|approval| approval["state"] == "pending").cloned()
        });
        assert_eq!(
            (&waiting["tool"], &waiting["arguments"]),
            (&json!("sum"), &json!(r#"{"a":40,"b":2}"#)),
            "{waiting}"
        );
        assert_eq!(self.heard("call sum"), before, "it is held");
        self.world.clawguard(&["approve", waiting["id"].as_str().unwrap(), "--reason", "test"]).ok();
        let answer = said(&client.until("answer"));
        assert_eq!(answer, json!({ "tool": "sum", "is_error": false, "said": ["42"] }));
        assert_eq!(self.heard("call sum"), before + 1);
    }

    /// What runs is ended at both ends, and nothing else is.
    fn killed(&self, client: &mut Outside) {
        let before = self.heard("cancelled slow");
        for tool in ["slow", "slower"] {
            client.say(&format!("call {tool} {{}}"));
            // What the server says of its progress arrives: it runs.
            client.until("progress 0");
            client.until("progress");
        }
        let killed = self.world.json(&["kill", "slow", "--reason", "test"]);
        assert_eq!((&killed["calls_cancelled"], &killed["enforced_by"]), (&json!(1), &json!(["gateway"])), "{killed}");
        let answer = said(&client.until("answer"));
        assert_eq!((&answer["tool"], &answer["is_error"]), (&json!("slow"), &json!(true)), "{answer}");
        assert!(answer["said"][0].as_str().unwrap().contains("ClawGuard ended this call"), "{answer}");
        within(&self.world, 10, "the server is told", || (self.heard("cancelled slow") > before).then_some(()));
        assert_eq!(said(&client.ask("list", "listed")), json!(["echo", "sum", "slower", "ask"]));
        echoes(client, "last");
        let refused = said(&client.ask("call slow {}", "answer"));
        assert!(refused["code"] == -32602 || refused["is_error"] == true, "{refused}");
        // The other one runs on, up to its own kill.
        assert_eq!(self.heard("cancelled slower"), 0, "only what was killed is cancelled");
        client.until("progress");
        self.world.clawguard(&["restore", "slow", "--reason", "test"]).ok();
        let killed = self.world.json(&["kill", "tool:rmcp/slower", "--reason", "test"]);
        assert_eq!(killed["calls_cancelled"], 1, "{killed}");
        assert_eq!(said(&client.until("answer"))["tool"], "slower");
        within(&self.world, 10, "the server is told", || (self.heard("cancelled slower") == 1).then_some(()));
        self.world.clawguard(&["restore", "tool:rmcp/slower", "--reason", "test"]).ok();
        fs::write(&self.log, "").unwrap();
    }
}

/// What a line of the client's says after its first word.
fn said(line: &str) -> Value {
    let (_, text) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn echoes(client: &mut Outside, message: &str) {
    let answer = said(&client.ask(&format!("call echo {}", json!({ "message": message })), "answer"));
    assert_eq!(answer, json!({ "tool": "echo", "is_error": false, "said": [format!("Echo: {message}")] }));
}

#[test]
fn rmcps_server_over_http_is_used_through_the_gateway_held_and_taken_away_while_it_runs() {
    let tried = tried(HTTP);
    tried.whole("legacy", HTTP, "2025-11-25");
    tried.whole("modern", HTTP, "2026-07-28");
    tried.whole("auto", STDIO, "2026-07-28");
    tried.whole("legacy", STDIO, "2025-11-25");
    tried.world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn rmcps_stdio_server_is_used_through_the_gateway_held_and_taken_away_while_it_runs() {
    let tried = tried(STDIO);
    tried.whole("legacy", STDIO, "2025-11-25");
    tried.whole("modern", STDIO, "2026-07-28");
    tried.whole("auto", HTTP, "2026-07-28");
    tried.world.clawguard(&["audit", "verify"]).ok();
}
