//! The record of every call, without which none is answered; and a gateway whose servers or whose word are not there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    time::{Duration, Instant},
};

use e2e::{Identity::Nobody, McpServer, World};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const URL: &str = "http://127.0.0.1:9480/s/crm-mcp/mcp";

fn start(world: &mut World, server: &McpServer, mcp: &str) {
    world.configure(&format!("[mcp]\n{mcp}\n{}", server.configuration("crm-mcp", "low")));
    world.start();
    world.use_contract("a", json!({ "tools": { "allow": ["crm-mcp/*"], "deny": ["crm-mcp/delete_case"] } }));
    world.eventually("the gateway serves MCP", |world| {
        let run = world.agent("a", Nobody, &["tools", "list", URL]);
        run.status == 0 && !run.out.is_empty()
    });
    server.clear();
}

fn call(world: &World, tool: &str) -> Value {
    let run = world.agent("a", Nobody, &["tools", "call", URL, tool, r#"{"id":1,"secret":"s3cret"}"#]);
    serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {run:?}\n{}", world.log_text()))
}

#[test]
fn arguments_are_recorded_by_their_hash_and_in_full_only_where_the_host_wants_it() {
    for (mcp, there) in [("", false), ("record_arguments = true", true)] {
        let mut world = World::new();
        let server = McpServer::start("127.0.0.1:3901");
        start(&mut world, &server, mcp);
        call(&world, "get_case");
        call(&world, "delete_case");
        let calls = world.audit("call");
        let of = |tool: &str| calls.iter().find(|call| call["tool"] == tool).unwrap_or_else(|| panic!("{calls:?}"));
        let hash = claw::Hash::of(br#"{"id":1,"secret":"s3cret"}"#).to_string();
        for record in [of("get_case"), of("delete_case")] {
            assert_eq!(record["arguments_sha256"], hash.as_str(), "{record}");
            assert_eq!(record["arguments"].is_string(), there, "{record}");
        }
        assert_eq!(of("delete_case")["decision"], "denied");
        let text = calls.iter().map(Value::to_string).collect::<String>();
        assert_eq!(text.contains("s3cret"), there);
        let seconds = world.metric("clawguard_mcp_call_seconds_count");
        assert!(seconds >= 1.0, "{seconds}");
    }
}

#[test]
fn what_cannot_be_recorded_is_not_answered_and_nothing_new_begins() {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    let state = world.directory.join("var/lib/clawguard");
    fs::create_dir_all(&state).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "none", state.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(mounted.success());
    start(&mut world, &server, "");
    let mut agent = world.agent_on("a", Nobody, &["tools", "calls", URL, "get_case", "{}"]);
    agent.until("ready");
    assert!(agent.ask("go", "answer").contains("did get_case"));
    let filler = state.join("filler");
    let mut size = 1 << 20;
    while size > 0 {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
        if std::io::Write::write_all(&mut file, &vec![1; size]).is_err() {
            size /= 2;
        }
    }
    // The last block of the chain takes a few.
    let mut made = 0;
    let refused = (0..50).map(|_| agent.ask("go", "answer")).find(|answer| {
        made += usize::from(answer.contains("did get_case"));
        !answer.contains("did get_case")
    });
    let refused = refused.unwrap();
    assert!(refused.contains("\"isError\":true"), "{refused}");
    let called = server.called().len();
    assert!(called <= made + 2, "{called} calls, {made} answers");
    // And then none reaches the server.
    for _ in 0..3 {
        assert!(!agent.ask("go", "answer").contains("did get_case"));
    }
    assert_eq!(server.called().len(), called);
    fs::remove_file(&filler).unwrap();
    world.eventually("calls go on", |_| agent.ask("go", "answer").contains("did get_case"));
    // Every one that was made is in the chain, those that waited for room too.
    let recorded =
        world.audit("call").iter().filter(|call| call["tool"] == "get_case" && call["status"].is_string()).count();
    assert_eq!(recorded, server.called().len());
    world.clawguard(&["audit", "verify"]).ok();
    world.stop();
    world.clawguard(&["uninstall"]).ok();
    assert!(std::process::Command::new("umount").arg(&state).status().unwrap().success());
}

/// The gateway's process.
fn gateway(world: &World) -> Pid {
    let cgroups = sys::cgroup::mount_point().unwrap();
    let form = format!("*{}*gateway.job/cgroup.procs", world.prefix());
    let found = world.outside_runs(&["find", cgroups.to_str().unwrap(), "-path", &form]);
    let pid = fs::read_to_string(found.out.lines().next().unwrap()).unwrap();
    Pid::from_raw(pid.trim().parse().unwrap())
}

#[test]
fn a_daemon_that_stops_does_not_wait_for_a_gateway_that_hangs() {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    start(&mut world, &server, "");
    kill(gateway(&world), Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    world.stop();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    world.start();
    world.eventually("the next gateway serves", |world| world.agent("a", Nobody, &["tools", "list", URL]).status == 0);
    call(&world, "get_case");
}

#[test]
fn a_kill_says_what_became_of_the_gateway() {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    start(&mut world, &server, "");
    let answer = world.json(&["kill", "mcp:crm-mcp", "--reason", "test"]);
    assert_eq!((&answer["gateway"], &answer["calls_cancelled"]), (&json!("kept"), &json!(0)), "{answer}");
    world.json(&["restore", "mcp:crm-mcp", "--reason", "test"]);
    let pid = gateway(&world);
    kill(pid, Signal::SIGSTOP).unwrap();
    let answer = world.json(&["kill", "mcp:crm-mcp", "--reason", "test"]);
    assert_eq!((&answer["gateway"], &answer["state"]), (&json!("killed"), &json!("killed")), "{answer}");
    assert!(world.audit("alert").iter().any(|alert| alert["alert"] == "gateway_killed"));
    let flip = world.audit("flip").pop().unwrap();
    assert_eq!(flip["flip"]["gateway"], "killed", "{flip}");
}

#[test]
fn a_server_whose_secrets_are_not_there_is_not_reachable_and_that_is_told() {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    let secret = world.directory.join("secret");
    let configuration = format!(
        "[[mcp.server]]\nname = \"crm-mcp\"\nurl = \"http://{}/mcp\"\nrisk = \"low\"\nheaders = {{ Authorization = \"file:{}\" }}\n",
        server.at,
        secret.display()
    );
    world.configure(&configuration);
    world.start();
    world.use_contract("a", json!({ "tools": { "allow": ["crm-mcp/*"] } }));
    let status = world.json(&["status"]);
    assert!(status["mcp"]["servers"][0]["problem"].as_str().unwrap().contains("secret"), "{status}");
    assert!(
        world.clawguard(&["doctor"]).out.lines().any(|line| line.starts_with("FAIL") && line.contains("MCP servers"))
    );
    world.eventually("the gateway knows no such server", |world| {
        world.agent("a", Nobody, &["tools", "list", URL]).out.contains("there is no such server")
    });
    assert_eq!(server.heard("initialize").len(), 0);
    fs::write(&secret, "Bearer of-a-file\n").unwrap();
    world.signal_daemon(Signal::SIGHUP);
    world.eventually("the server is reachable", |world| {
        let run = world.agent("a", Nobody, &["tools", "list", URL]);
        run.status == 0 && run.out.contains("get_case")
    });
    assert_eq!(server.heard("initialize")[0].1["authorization"], "Bearer of-a-file");
    assert_eq!(world.json(&["status"])["mcp"]["servers"][0]["problem"], Value::Null);
}
