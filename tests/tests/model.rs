//! Model calls by the gateway: judged, receipted, and joined with what the kernel counted.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use claw::receipt::GatewayReceipt;
use clawguard_common::Connections;
use e2e::{Identity::Nobody, Outside, Provider, Run, World};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const AT: &str = "127.0.0.1:9481";

fn body(model: &str, stream: bool) -> String {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hi" }] }).to_string()
}

/// A contract that gives OpenAI's models, those of the tests.
fn contract(world: &mut World, agent: &str, receipts: bool) -> String {
    let mut payload = world.payload(json!({ "model": { "require_proxy_receipts": receipts },
        "egress": [{ "host": "crm.example", "ports": [443] }] }));
    payload["allowed_providers"] = json!(["openai"]);
    payload["allowed_models"] = json!(["gpt-*", "slow"]);
    let path = world.sign(&payload);
    world.json(&["wpc", "use", path.to_str().unwrap(), "--agent", agent])["wpc_hash"].as_str().unwrap().to_owned()
}

/// A world whose gateway calls a provider of the test's own.
fn world(more: &str) -> (World, Provider) {
    let mut world = World::new();
    let provider = Provider::start("127.0.0.1:3911");
    world.configure(&format!("{}{more}", provider.configuration()));
    world.start();
    (world, provider)
}

fn ready(world: &World, agent: &str) {
    world.eventually("the gateway calls models", |world| {
        let run = world.agent(agent, Nobody, &["model", "get", AT, "/health"]);
        run.status == 0 && run.out.starts_with("200")
    });
}

fn call(world: &World, agent: &str, model: &str) -> Run {
    world.agent(agent, Nobody, &["model", "call", AT, &body(model, false)])
}

/// The gateway's process.
fn gateway(world: &World) -> Pid {
    let cgroups = sys::cgroup::mount_point().unwrap();
    let form = format!("*{}*gateway.job/cgroup.procs", world.prefix());
    let found = world.outside_runs(&["find", cgroups.to_str().unwrap(), "-path", &form]);
    let pid = fs::read_to_string(found.out.lines().next().unwrap()).unwrap();
    Pid::from_raw(pid.trim().parse().unwrap())
}

/// Alerts of missing receipts.
fn missing(world: &World) -> Vec<Value> {
    world.audit("alert").into_iter().filter(|alert| alert["kind"] == "receipt_missing").collect()
}

fn job_of<'a>(status: &'a Value, agent: &str) -> Option<&'a Value> {
    status["jobs"].as_array().unwrap().iter().find(|job| job["agent"] == agent && job["state"] == "running")
}

/// Changes what the kernel has counted of a job's connections: to the gateway, and around it.
fn count(world: &World, agent: &str, change: impl Fn(&mut Connections)) {
    let map = newest(world).join("maps/CONNECTIONS");
    let map = sys::bpf::pinned(&map).unwrap();
    let jobs: Value =
        serde_json::from_str(&fs::read_to_string(world.directory.join("run/clawguard/jobs.json")).unwrap()).unwrap();
    let job = jobs.as_array().unwrap().iter().find(|job| job["agent"] == agent && job["over"] == false).unwrap();
    let slot = u32::try_from(job["slot"].as_u64().unwrap()).unwrap();
    let mut counted: Connections = sys::bpf::map_lookup(&map, &slot).unwrap().unwrap();
    change(&mut counted);
    sys::bpf::map_update(&map, &slot, &counted).unwrap();
}

fn newest(world: &World) -> PathBuf {
    fs::read_dir(world.pins()).unwrap().map(|entry| entry.unwrap().path()).max().unwrap()
}

#[test]
fn a_call_that_the_contract_gives_is_made_by_the_hosts_key_and_leaves_a_receipt_that_anybody_can_verify() {
    let (mut world, provider) = world("");
    let hash = contract(&mut world, "a", true);
    ready(&world, "a");
    let run = call(&world, "a", "gpt-5-mini").ok();
    let (status, text) = run.out.split_once(' ').unwrap();
    assert_eq!(status, "200", "{text}");
    let answer: Value = serde_json::from_str(text).unwrap();
    assert!(answer["_receipt_envelope"].is_object());
    // As it came: what is signed is this very text.
    let envelope = text.split_once("\"_receipt_envelope\":").unwrap().1.trim_end().strip_suffix('}').unwrap();
    let opened = GatewayReceipt::open(envelope.as_bytes()).unwrap();
    let status = world.json(&["status"]);
    assert_eq!(status["model"]["signer"], opened.signer.to_string());
    assert_eq!((&status["model"]["gateway"], &status["model"]["listening"]), (&json!("builtin"), &json!(true)));
    let asked = provider.heard().into_iter().find(|asked| asked.path == "/v1/chat/completions").unwrap();
    assert_eq!(asked.headers["authorization"], "Bearer sk-of-the-host");
    assert_eq!(opened.receipt.request_hash, claw::Hash::of(&asked.body));
    assert_eq!(opened.receipt.binding.policy_hash.unwrap().to_string(), hash);
    let records = world.audit("model");
    let made = records.iter().find(|record| record["decision"] == "allowed").unwrap();
    let ended = records.iter().find(|record| record["decision"].is_null()).unwrap();
    assert_eq!((&made["provider"], &made["model"]), (&json!("openai"), &json!("gpt-5-mini")));
    assert_eq!(ended["receipt"], envelope);
    assert_eq!(ended["call"], opened.receipt.binding.event_hash.to_string());
    assert_eq!(ended["outcome"], "ok");
    assert!(opened.receipt.binding.run_id.starts_with("run_"));
    assert!(world.metric("clawguard_model_calls_total{decision=\"allowed\",provider=\"openai\"}") >= 1.0);
    assert!(world.metric("clawguard_receipts_total{result=\"signed\"}") >= 1.0);
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn what_the_contract_does_not_give_is_refused_and_recorded() {
    let (mut world, provider) = world("");
    contract(&mut world, "a", false);
    world.use_contract("b", json!({ "egress": [{ "host": "crm.example" }] }));
    ready(&world, "a");
    let run = call(&world, "a", "o3-pro").ok();
    assert!(run.out.starts_with("403") && run.out.contains("POLICY_MODEL_NOT_ALLOWED"), "{}", run.out);
    let run = world.agent("a", Nobody, &["model", "get", AT, "/v1/did"]).ok();
    assert!(run.out.contains("receiptSignerDidKey"), "{}", run.out);
    // A contract that says nothing of models gives none.
    let run = call(&world, "b", "gpt-5-mini").ok();
    assert!(run.out.starts_with("403"), "{}", run.out);
    assert!(provider.heard().is_empty());
    world.eventually("both refusals are recorded", |world| {
        world.audit("model").iter().filter(|record| record["decision"] == "denied").count() >= 2
    });
    assert_eq!(missing(&world), [] as [Value; 0]);
}

#[test]
fn the_kill_of_the_group_model_ends_a_stream_that_runs_and_its_receipt_says_so() {
    let (mut world, _provider) = world("");
    contract(&mut world, "a", false);
    ready(&world, "a");
    let mut agent = world.agent_on("a", Nobody, &["model", "stream", AT, &body("slow", true)]);
    agent.until("ready");
    agent.say("go");
    agent.until("status 200");
    agent.until("data:");
    world.clawguard(&["kill", "model", "--reason", "test"]).ok();
    agent.until("cut");
    world.eventually("the end is recorded", |world| {
        world.audit("model").iter().any(|record| record["outcome"] == "killed" && record["receipt"].is_string())
    });
    let run = call(&world, "a", "gpt-5-mini");
    assert!(!run.out.starts_with("200"), "{}", run.out);
    world.clawguard(&["restore", "model", "--reason", "test"]).ok();
    assert!(call(&world, "a", "gpt-5-mini").ok().out.starts_with("200"));
}

#[test]
fn the_way_around_the_gateway_is_closed_and_told() {
    let (mut world, _provider) = world("");
    let mut payload = world.payload(json!({ "model": { "require_proxy_receipts": true },
        "egress": [{ "host": "api.openai.com" }, { "host": "crm.example" }] }));
    payload["allowed_providers"] = json!(["openai"]);
    let path = world.sign(&payload);
    world.json(&["wpc", "use", path.to_str().unwrap(), "--agent", "a"]);
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.66:443", "x"]).ok().out, "EPERM");
    world.eventually("it is told", |world| world.audit("alert").iter().any(|alert| alert["kind"] == "model_direct"));
}

#[test]
fn a_direct_call_that_a_contract_allows_is_told_as_one_without_a_receipt() {
    let (mut world, _provider) = world("");
    world.use_contract("a", json!({ "egress": [{ "host": "api.openai.com", "tls": false, "ports": [443] }] }));
    world.agent("a", Nobody, &["tcp", "203.0.113.66:443", "x"]).ok();
    let mut agent = world.agent_on("a", Nobody, &["each-line", "x"]);
    agent.ask("203.0.113.66:443", "");
    world.eventually("it is told", |world| missing(world).iter().any(|alert| alert["cause"] == "direct_connection"));
    // It is no more than told: the contract asks for no receipts.
    let status = world.json(&["status"]);
    assert!(job_of(&status, "a").unwrap()["stopped"].is_null(), "{status}");
}

/// An agent that makes so many calls over so many connections.
fn load(world: &World, agent: &str, connections: usize, calls: usize) -> Outside {
    let (connections, calls) = (connections.to_string(), calls.to_string());
    let words = ["model", "load", AT, &connections, &calls, &body("gpt-load", false)];
    world.agent_on(agent, Nobody, &words)
}

#[test]
fn under_load_nothing_is_told_of_what_fits_and_every_gap_is_found() {
    let (mut world, provider) = world("[limits]\ncalls_per_minute = 1000000\nconcurrent_calls = 1000\n");
    let agents = ["a", "b", "c", "d"];
    for agent in agents {
        contract(&mut world, agent, false);
    }
    ready(&world, "a");
    let (connections, calls) = (40, 10);
    let before = Instant::now();
    let mut running: Vec<Outside> = agents.iter().map(|agent| load(&world, agent, connections, calls)).collect();
    running.iter_mut().for_each(|agent| drop(agent.until("ready")));
    running.iter_mut().for_each(|agent| agent.say("go"));
    for agent in &mut running {
        let told = agent.line();
        assert_eq!(told, format!("answered {}", connections * calls));
        agent.until("done");
    }
    let made = agents.len() * connections * calls;
    println!("{made} calls over {} connections in {:?}", agents.len() * connections, before.elapsed());
    assert_eq!(provider.heard().len(), made);
    // Longer than the gateway may take to tell.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(missing(&world), [] as [Value; 0]);
    // Now the kernel has counted one more of one job, and one fewer of another.
    count(&world, "a", |counted| counted.models += 1);
    // The gateway has told of as many of the second as before: it must tell of one more for this to be found.
    count(&world, "b", |counted| counted.models -= 2);
    running[1].say("again");
    running[1].until("done");
    count(&world, "c", |counted| counted.direct += 1);
    world.eventually("every gap is told", |world| {
        let told = |agent: &str, cause: &str| {
            missing(world).iter().any(|alert| alert["agent"] == agent && alert["cause"] == cause)
        };
        told("a", "connection_unreported") && told("b", "connection_unseen") && told("c", "direct_connection")
    });
    let wrong: Vec<Value> = missing(&world).into_iter().filter(|alert| alert["agent"] == "d").collect();
    assert_eq!(wrong, [] as [Value; 0]);
    running.clear();
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn a_gap_ends_the_egress_of_a_job_whose_contract_demands_receipts() {
    let (mut world, _provider) = world("");
    contract(&mut world, "a", true);
    ready(&world, "a");
    let mut agent = load(&world, "a", 1, 1);
    agent.until("ready");
    agent.ask("go", "done");
    count(&world, "a", |counted| counted.models += 1);
    world.eventually("the job is stopped", |world| {
        job_of(&world.json(&["status"]), "a").is_some_and(|job| job["stopped"].is_string())
    });
    let alert = missing(&world).pop().unwrap();
    assert_eq!((&alert["cause"], &alert["failed_closed"]), (&json!("connection_unreported"), &json!(true)));
    assert!(world.metric("clawguard_bypass_alerts_total{agent=\"a\",kind=\"receipt_missing\"}") >= 1.0);
    // A daemon that starts anew keeps to it.
    world.stop();
    world.start();
    let status = world.json(&["status"]);
    assert!(job_of(&status, "a").unwrap()["stopped"].as_str().unwrap().contains("do not fit"), "{status}");
    drop(agent);
    // Another job of the same agent begins as any does.
    ready(&world, "a");
    assert!(call(&world, "a", "gpt-5-mini").ok().out.starts_with("200"));
}

#[test]
fn a_gateway_that_is_killed_amid_a_call_leaves_no_call_without_a_word_and_fails_those_who_demand_receipts() {
    let (mut world, _provider) = world("");
    contract(&mut world, "a", true);
    contract(&mut world, "b", false);
    ready(&world, "a");
    let mut agents: Vec<Outside> = ["a", "b"]
        .iter()
        .map(|agent| world.agent_on(agent, Nobody, &["model", "stream", AT, &body("slow", true)]))
        .collect();
    for agent in &mut agents {
        agent.until("ready");
        agent.say("go");
        agent.until("data:");
    }
    kill(gateway(&world), Signal::SIGKILL).unwrap();
    world.eventually("both calls are recorded as lost", |world| {
        world.audit("model").iter().filter(|record| record["outcome"] == "unknown").count() == 2
    });
    world.eventually("both are told", |world| missing(world).iter().any(|alert| alert["agent"] == "b"));
    let alerts = missing(&world);
    let of = |agent: &str| alerts.iter().find(|alert| alert["agent"] == agent).unwrap();
    assert_eq!((&of("a")["failed_closed"], &of("b")["failed_closed"]), (&json!(true), &json!(false)));
    assert!(alerts.iter().all(|alert| alert["cause"] == "call_lost"), "{alerts:?}");
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn a_daemon_that_is_killed_amid_a_call_tells_of_it_when_it_starts_anew() {
    let (mut world, _provider) = world("");
    contract(&mut world, "a", true);
    ready(&world, "a");
    let mut agent = world.agent_on("a", Nobody, &["model", "stream", AT, &body("slow", true)]);
    agent.until("ready");
    agent.say("go");
    agent.until("data:");
    world.sigkill();
    world.start();
    let alert = missing(&world).pop().unwrap();
    assert_eq!((&alert["cause"], &alert["failed_closed"]), (&json!("call_lost"), &json!(true)));
    let status = world.json(&["status"]);
    assert!(job_of(&status, "a").unwrap()["stopped"].is_string(), "{status}");
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn a_clawproxys_receipt_counts_if_it_is_for_this_very_call() {
    let mut world = World::new();
    let proxy = Provider::start("127.0.0.1:3911");
    let key = claw::key::PrivateKey::from_seed(&[21; 32]);
    proxy.signs([21; 32], None);
    let trusted = format!("receipt_signers = [\"{}\"]", key.did());
    world.trust_also(&trusted);
    world.configure(&format!("[model]\nproxy = \"http://{}\"\n", proxy.at));
    world.start();
    contract(&mut world, "a", true);
    contract(&mut world, "b", false);
    ready(&world, "a");
    let run = call(&world, "a", "gpt-5-mini").ok();
    assert!(run.out.starts_with("200") && run.out.contains("_receipt_envelope"), "{}", run.out);
    let ended = |world: &World| {
        let records = world.audit("model");
        records.into_iter().rfind(|record| record["decision"].is_null()).unwrap()
    };
    assert!(ended(&world)["receipt"].as_str().unwrap().contains(&key.did().to_string()));
    assert!(world.metric("clawguard_receipts_total{result=\"verified\"}") >= 1.0);
    assert_eq!(world.json(&["status"])["model"]["signer"], key.did().to_string());
    // One that is another run's is none.
    proxy.signs([21; 32], Some(|receipt| receipt.binding.run_id = "run_other_1".into()));
    drop(call(&world, "b", "gpt-5-mini"));
    world.eventually("it is told", |world| missing(world).iter().any(|alert| alert["agent"] == "b"));
    assert!(ended(&world)["receipt_missing"].as_str().unwrap().contains("another run's"));
    // Nor is a stranger's.
    proxy.signs([22; 32], None);
    drop(call(&world, "b", "gpt-5-mini"));
    world.eventually("it is refused", |world| {
        ended(world)["receipt_missing"].as_str().is_some_and(|why| why.contains("receipt_signers"))
    });
}

#[test]
fn on_a_full_disk_no_model_is_called() {
    let mut world = World::new();
    let provider = Provider::start("127.0.0.1:3911");
    let state = world.directory.join("var/lib/clawguard");
    fs::create_dir_all(&state).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=4m", "none", state.to_str().unwrap()];
    assert!(std::process::Command::new("mount").args(mount).status().unwrap().success());
    world.configure(&provider.configuration());
    world.start();
    contract(&mut world, "a", false);
    ready(&world, "a");
    assert!(call(&world, "a", "gpt-5-mini").ok().out.starts_with("200"));
    let mut agent = world.agent_on("a", Nobody, &["model", "calls", AT, &body("gpt-late", false)]);
    agent.until("ready");
    assert!(agent.ask("go", "answer").starts_with("answer 200"));
    let filler = state.join("filler");
    let mut size = 1 << 20;
    while size > 0 {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
        if std::io::Write::write_all(&mut file, &vec![1; size]).is_err() {
            size /= 2;
        }
    }
    // The last block of the chain takes a few.
    let refused = (0..50).map(|_| agent.ask("go", "answer")).find(|answer| !answer.starts_with("answer 200"));
    assert!(refused.is_some());
    let heard = provider.heard().len();
    for _ in 0..3 {
        assert!(!agent.ask("go", "answer").starts_with("answer 200"));
    }
    assert_eq!(provider.heard().len(), heard);
    assert!(world.clawguard(&["status"]).out.contains("the audit chain cannot be written"));
    fs::remove_file(&filler).unwrap();
    world.eventually("calls go on", |_| agent.ask("go", "answer").starts_with("answer 200"));
    drop(agent);
    world.clawguard(&["audit", "verify"]).ok();
    world.stop();
    world.clawguard(&["uninstall"]).ok();
    assert!(std::process::Command::new("umount").arg(&state).status().unwrap().success());
}
