//! SDKs of others, and OpenClaw, at the model gateway: what they get is what the provider said, and each call's receipt is this
//! host's, for this very call.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

use std::{collections::BTreeMap, fs};

use claw::{json, receipt::GatewayReceipt};
use e2e::{
    Identity::Nobody,
    World,
    parties::{Parties, Server},
};
use serde_json::{Value, json as object};

const BASE: &str = "http://127.0.0.1:9481";

/// A contract that gives these models, in force for the agent `a`; its hash.
fn models(world: &mut World, models: &[&str], guard: Value) -> String {
    let mut payload = world.payload(guard);
    payload["allowed_models"] = object!(models);
    let path = world.sign(&payload);
    world.json(&["wpc", "use", path.to_str().unwrap(), "--agent", "a"])["wpc_hash"].as_str().unwrap().to_owned()
}

/// A gateway before providers that all listen at one port.
fn world(parties: &dyn Fn(&World) -> (Parties, Server), port: u16, more: &str) -> (World, Parties, Server) {
    let mut world = World::new();
    let (parties, server) = parties(&world);
    let at = format!("http://127.0.0.1:{port}");
    world.configure(&format!(
        "[model]\nproxy = \"builtin\"\nkeys = {{ openai = \"sk-openai\", anthropic = \"sk-anthropic\", google = \"sk-google\" }}\n\
         endpoints = {{ openai = \"{at}\", anthropic = \"{at}\", google = \"{at}\" }}\n{more}"
    ));
    world.start();
    (world, parties, server)
}

fn ready(world: &World) {
    let serves = |world: &World| world.log_text().contains("serving models");
    world.eventually("the model gateway serves", serves);
}

/// What a client said of its calls, by name, each with its receipt's text: the order of members is part of what is signed.
fn told(out: &str) -> BTreeMap<String, (Value, Option<String>)> {
    let limits = json::Limits { bytes: 1 << 20, depth: 32 };
    let lines = out.lines().filter_map(|line| Some((json::parse(line.as_bytes(), limits).ok()?, line)));
    let each = lines.map(|(told, line)| {
        let receipt = told.get("receipt").filter(|receipt| matches!(receipt, json::Value::Object(_)));
        let receipt = receipt.map(ToString::to_string);
        let told: Value = serde_json::from_str(line).unwrap();
        (told["call"].as_str().unwrap().to_owned(), (told, receipt))
    });
    each.collect()
}

/// Verifies a receipt: by this host's key, for the request and the answer that the provider has seen.
fn verify(signer: &str, contract: &str, envelope: &str, seen: &[Value]) -> GatewayReceipt {
    let opened = GatewayReceipt::open(envelope.as_bytes()).unwrap_or_else(|error| panic!("{error}: {envelope}"));
    assert_eq!(opened.signer.to_string(), signer);
    let GatewayReceipt { request_hash, response_hash, binding, .. } = &opened.receipt;
    let both = (object!(request_hash.to_string()), object!(response_hash.to_string()));
    let same = |seen: &Value| (&seen["request"], &seen["response"]) == (&both.0, &both.1);
    assert!(seen.iter().any(same), "{envelope}: {seen:?}");
    assert_eq!(binding.policy_hash.as_ref().map(ToString::to_string).as_deref(), Some(contract), "{envelope}");
    assert!(binding.run_id.starts_with("run_"), "{envelope}");
    opened.receipt
}

#[test]
fn sdks_of_others_get_what_the_provider_says_and_a_receipt_of_each_call() {
    let bring = |world: &World| {
        let parties = Parties::bring(world);
        let words = ["node".to_owned(), parties.own("providers.mjs"), "3911".into()];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = parties.serve(world, &words, "127.0.0.1:3911");
        (parties, server)
    };
    let (mut world, parties, provider) = world(&bring, 3911, "");
    let allowed = ["gpt-test", "claude-test", "gemini-test", "overloaded"];
    let contract = models(&mut world, &allowed, object!({}));
    ready(&world);
    let (packages, clients) = (parties.npm(""), [parties.own("models.py"), parties.own("models.mjs")]);
    let mut said = BTreeMap::new();
    for words in [&["python3", &clients[0], BASE][..], &["node", &clients[1], BASE, &packages]] {
        let words = parties.words(words);
        let run = world.agent_runs("a", Nobody, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(run.status, 0, "{}\n{}\n{}", run.out, run.err, world.log_text());
        said.extend(told(&run.out));
    }
    let signer = world.json(&["status"])["model"]["signer"].as_str().unwrap().to_owned();
    // What the provider saw: nothing of what was refused, nothing twice, and the host's keys alone.
    let log = provider.said();
    let seen: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let made = said.values().filter(|(_, receipt)| receipt.is_some()).count();
    assert_eq!((made, seen.len()), (16, 16), "{said:#?}");
    for (name, (told, receipt)) in &said {
        let Some(receipt) = receipt else { continue };
        let receipt = verify(&signer, &contract, receipt, &seen);
        let failed = receipt.model == "overloaded";
        let expected = if failed { "no".to_owned() } else { format!("Hello, {}.", receipt.model) };
        if !failed {
            assert_eq!((receipt.tokens_input, receipt.tokens_output), (11, 3), "{name}");
        }
        assert_eq!(told["text"], expected, "{name}");
    }
    for seen in &seen {
        let key = match seen["path"].as_str().unwrap() {
            path if path.starts_with("/v1beta") => "sk-google",
            path if path.starts_with("/v1/messages") => "sk-anthropic",
            _ => "Bearer sk-openai",
        };
        assert_eq!(seen["credentials"], object!([key]), "{seen}");
    }
    for (name, (told, _)) in said.iter().filter(|(name, _)| name.contains("refused")) {
        assert!(told["text"].as_str().unwrap().ends_with("POLICY_MODEL_NOT_ALLOWED"), "{name}: {told}");
    }
    // None of them repeats what is refused.
    let refused = world.audit("model").iter().filter(|call| call["decision"] == "denied").count();
    assert_eq!(refused, said.keys().filter(|name| name.contains("refused")).count());
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn openclaw_calls_its_model_through_the_gateway_and_no_other_way() {
    let bring = |world: &World| {
        let parties = Parties::bring(world);
        let words = ["node".to_owned(), parties.own("model.mjs"), "3910".into()];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = parties.serve(world, &words, "127.0.0.1:3910");
        (parties, server)
    };
    let (mut world, parties, model) = world(&bring, 3910, "");
    models(&mut world, &["m1"], object!({}));
    ready(&world);
    let settings = parties.home.join(".openclaw");
    fs::create_dir(&settings).unwrap();
    let mut openclaw: Value = serde_json::from_str(&fs::read_to_string(parties.own("openclaw.json")).unwrap()).unwrap();
    openclaw["models"]["providers"]["mock"]["baseUrl"] = object!(format!("{BASE}/v1"));
    openclaw["mcp"] = object!({ "servers": {} });
    fs::write(settings.join("openclaw.json"), openclaw.to_string()).unwrap();
    for path in [settings.clone(), settings.join("openclaw.json")] {
        nix::unistd::chown(&path, Some(65534.into()), Some(65534.into())).unwrap();
    }
    let program = parties.npm("openclaw/openclaw.mjs");
    let words =
        ["node", &program, "agent", "--local", "--agent", "main", "--session-id", "s", "--json", "--message", "Hello."];
    let words = parties.words(&words);
    let run = world.agent_runs("a", Nobody, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(run.status, 0, "{}\n{}\n{}", run.out, run.err, world.log_text());
    let ended: Value = serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {}", run.out));
    assert_eq!(ended["payloads"][0]["text"], "Nothing to do.", "{ended}");
    assert!(model.said().contains("Nothing to do."), "{}", model.said());
    let calls = world.audit("model");
    assert!(calls.iter().any(|call| call["model"] == "m1" && call["streamed"] == true), "{calls:?}");
    assert!(calls.iter().all(|call| call["decision"] != "denied"), "{calls:?}");
    world.clawguard(&["audit", "verify"]).ok();
}
