//! MCP's conformance suite, run by an agent inside the fence: through the gateway a server scores what it scores by itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeMap, fs, path::Path};

use e2e::{Identity::Nobody, Run, World, parties::Parties};
use serde_json::{Value, json};

/// Each check of each scenario, and how it ended.
type Scores = BTreeMap<String, Vec<(String, String)>>;

fn scores(directory: &Path) -> Scores {
    let mut scores = Scores::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        // server-<scenario>-<time>
        let scenario = name.strip_prefix("server-").unwrap().split("-2026-").next().unwrap().to_owned();
        let text = fs::read_to_string(entry.path().join("checks.json")).unwrap();
        let checks: Vec<Value> = serde_json::from_str(&text).unwrap();
        let of = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
        let mut found: Vec<(String, String)> = checks
            .iter()
            .map(|check| (of(check, "id"), of(check, "status")))
            .filter(|(_, how)| how != "INFO")
            .collect();
        found.sort();
        scores.insert(scenario, found);
    }
    scores
}

fn words(parties: &Parties, url: &str, revision: &str, out: &Path) -> Vec<String> {
    let suite = parties.npm("@modelcontextprotocol/conformance/dist/index.js");
    parties.words(&["node", &suite, "server", "--url", url, "--requirements", revision, "-o", out.to_str().unwrap()])
}

fn passed(scores: &Scores) -> (usize, usize) {
    let all: Vec<&str> = scores.values().flatten().map(|(_, how)| how.as_str()).collect();
    let count = |status| all.iter().filter(|how| **how == status).count();
    (count("SUCCESS"), count("FAILURE"))
}

/// Runs the suite directly and through the gateway; answers both scores.
fn both(world: &World, parties: &Parties, revision: &str) -> (Scores, Scores) {
    let run = |name: &str, run: &dyn Fn(&[&str]) -> Run, url: &str| {
        let out = parties.home.join(format!("{name}-{revision}"));
        let words = words(parties, url, revision, &out);
        let ended = run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(out.is_dir(), "{ended:?}");
        let scores = scores(&out);
        println!("{revision} {name}: {:?}", passed(&scores));
        scores
    };
    let direct = run("direct", &|words| world.outside_runs(words), "http://127.0.0.1:3901/mcp");
    let through = run("through", &|words| world.agent_runs("a", Nobody, words), "http://127.0.0.1:9480/s/ref/mcp");
    (direct, through)
}

#[test]
fn through_the_gateway_a_server_scores_what_it_scores_by_itself() {
    let mut world = World::new();
    let parties = Parties::bring(&world);
    let _server = parties.reference(&world, 3901);
    world.configure("[[mcp.server]]\nname = \"ref\"\nurl = \"http://127.0.0.1:3901/mcp\"\nrisk = \"low\"\n");
    world.start();
    world.use_contract(
        "a",
        json!({ "tools": { "allow": ["*/*"] }, "mcp": {
            "resources": ["ref/*"], "prompts": ["ref/*"], "completion": ["ref"], "sampling": ["ref"], "elicitation": ["ref"],
            "elicitation_url": ["ref"], "roots": ["ref"], "tasks": ["ref"], "logging": ["ref"] } }),
    );
    for (revision, least) in [("2025-11-25", 83), ("2026-07-28", 196)] {
        let (direct, through) = both(&world, &parties, revision);
        assert!(passed(&direct).0 >= least, "{revision}: the reference server is not one: {direct:?}");
        assert_eq!(direct.keys().collect::<Vec<_>>(), through.keys().collect::<Vec<_>>());
        let worse: Vec<String> = direct
            .iter()
            .filter(|(scenario, score)| through[*scenario] != **score)
            .map(|(scenario, score)| format!("{scenario}\n  direct:  {score:?}\n  through: {:?}", through[scenario]))
            .collect();
        assert!(worse.is_empty(), "{revision}: {} differ\n{}\n{}", worse.len(), worse.join("\n"), world.log_text());
        // The server judges this too, but what reaches it is the gateway's own word.
        assert!(through["dns-rebinding-protection"].iter().all(|(_, how)| how == "SUCCESS"), "{through:?}");
    }
}
