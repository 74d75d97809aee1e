//! Stdio servers: as confined as agents, known by what is started, and gone with whom they were started for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;

use e2e::{Identity::Nobody, Machine, World, copy, probe_path};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const URL: &str = "http://127.0.0.1:9480/s/files/mcp";

/// A world with a stdio server, agent `a` under a contract that has its tools, and more configuration for the server.
fn world(more: &str) -> World {
    let mut world = World::new();
    copy(&probe_path(), &world.directory.join("server"));
    configure(&world, more);
    world.start();
    world.use_contract(
        "a",
        json!({ "tools": { "allow": ["files/*"] }, "egress": [{ "host": "chat.example", "tls": false }] }),
    );
    world
}

fn configure(world: &World, more: &str) {
    let program = world.directory.join("server");
    world.configure(&format!(
        "[[mcp.server]]\nname = \"files\"\ncommand = [{program:?}, \"mcp\"]\nrisk = \"medium\"\n{more}"
    ));
}

fn run(world: &World, tool: &str, arguments: &Value) -> e2e::Run {
    world.agent("a", Nobody, &["tools", "call", URL, tool, &arguments.to_string()])
}

fn call(world: &World, tool: &str, arguments: &Value) -> String {
    let mut said = None;
    world.eventually("the gateway serves MCP", |world| {
        let run = run(world, tool, arguments);
        let answer: Option<Value> = serde_json::from_str(&run.out).ok();
        said = answer.and_then(|answer| answer["result"]["content"][0]["text"].as_str().map(str::to_owned));
        said.is_some()
    });
    said.unwrap()
}

fn about(world: &World) -> Value {
    serde_json::from_str(&call(world, "about", &json!({}))).unwrap()
}

/// The processes of all stdio servers.
fn processes(world: &World) -> Vec<i32> {
    let status = world.json(&["status"]);
    let root = sys::cgroup::mount_point().unwrap();
    let jobs = status["jobs"].as_array().unwrap().iter().filter(|job| job["origin"] == "server");
    jobs.flat_map(|job| sys::cgroup::processes(&root.join(job["cgroup"].as_str().unwrap())).unwrap_or_default())
        .collect()
}

/// An agent whose server runs.
fn held(world: &World) -> e2e::Outside {
    about(world);
    world.eventually("the servers of before are gone", |world| processes(world).is_empty());
    let mut agent = world.agent_on("a", Nobody, &["tools", "calls", URL, "about", "{}"]);
    agent.until("ready");
    assert!(agent.ask("", "answer").contains("Uid") || !processes(world).is_empty());
    assert_eq!(processes(world).len(), 2, "its first process and the server");
    agent
}

#[test]
fn a_server_is_given_what_its_configuration_says_and_nothing_else() {
    let secret = std::env::temp_dir().join(format!("clawguard-stdio-secret-{}", std::process::id()));
    fs::write(&secret, "of-the-host\n").unwrap();
    let world = world(&format!(
        "env = {{ TOKEN = \"file:{}\", PLAIN = \"v\" }}\ndirectory = \"/tmp\"\nprocesses = 300\nmemory_megabytes = 512\n",
        secret.display()
    ));
    let about = about(&world);
    fs::remove_file(secret).unwrap();
    let mut environment: Vec<&str> =
        about["environment"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    environment.sort_unstable();
    let home = nix::unistd::User::from_name("nobody").unwrap().unwrap().dir;
    let home = format!("HOME={}", home.display());
    let expected = [
        &home,
        "LANG=C.UTF-8",
        "LOGNAME=nobody",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "PLAIN=v",
        "TOKEN=of-the-host",
        "USER=nobody",
    ];
    assert_eq!(environment, expected);
    let descriptors: Vec<&str> = about["descriptors"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(descriptors, ["0 pipe", "1 pipe", "2 pipe"]);
    assert_eq!(about["uid"], "65534 65534 65534 65534");
    let none = "0000000000000000";
    assert_eq!((about["capabilities"].as_str(), about["bounding"].as_str()), (Some(none), Some(none)));
    assert_eq!((about["no_new_privs"].as_str(), about["seccomp"].as_str()), (Some("1"), Some("2")));
    assert_eq!((about["directory"].as_str(), about["processes"].as_u64()), (Some("/tmp"), Some(2)));
    // Where its cgroup bounds them all together there is no need of these.
    for (limit, most) in [("data", "536870912"), ("threads", "300")] {
        let limit = about[limit].as_str().unwrap();
        let by_cgroup = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|text| text.contains("pids"));
        assert!(limit == most || by_cgroup, "{limit}");
    }
    assert!(about["cgroup"].as_str().unwrap().contains("mcp\\x2dfiles.slice/mcp-"), "{}", about["cgroup"]);
    assert!(world.log_text().contains("a stdio server speaks to people"));
}

#[test]
fn a_server_reaches_what_its_own_contract_names_and_not_what_its_callers_does() {
    let mut world = world("");
    world.far.clear();
    // Without a contract, nothing.
    for to in ["203.0.113.10:443", "203.0.113.20:443", "203.0.113.99:443", "127.0.0.1:9480"] {
        assert_eq!(call(&world, "reach", &json!({ "to": to })), "EPERM", "{to}");
    }
    assert_eq!(world.far.traffic(), 0);
    let payload = world.payload(json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let contract = world.sign(&payload);
    configure(&world, &format!("wpc = {contract:?}\n"));
    world.signal_daemon(Signal::SIGHUP);
    world.eventually("the contract is in force", |world| {
        call(world, "reach", &json!({ "to": "203.0.113.10:443" })) == "ok from a server"
    });
    world.far.clear();
    for to in ["203.0.113.20:443", "203.0.113.99:443"] {
        assert_eq!(call(&world, "reach", &json!({ "to": to })), "EPERM", "{to}");
    }
    assert_eq!(world.far.traffic(), 0);
    // It is its user's files that it may write to, and no file of the fence's.
    for to in ["/etc/clawguard-was-here", "/proc/sys/kernel/core_pattern", "/sys/fs/bpf/x"] {
        assert_ne!(call(&world, "open", &json!({ "to": to })), "ok", "{to}");
    }
}

#[test]
fn a_server_ends_with_the_job_that_it_was_started_for() {
    let world = world("");
    let agent = held(&world);
    // Whatever the gateway does about it: this one does nothing any more.
    for pid in gateway(&world) {
        kill(pid, Signal::SIGSTOP).unwrap();
    }
    drop(agent);
    world.eventually("the server ended with its job", |world| {
        let mut ends = world.audit("job_end").into_iter();
        ends.any(|end| end["agent"] == "mcp-files" && end["actor"]["why"] == "its job is over")
    });
    world.eventually("the server is gone", |world| processes(world).is_empty());
}

/// The gateway's processes.
fn gateway(world: &World) -> Vec<Pid> {
    let status = world.json(&["status"]);
    let gateway = status["jobs"].as_array().unwrap().iter().find(|job| job["agent"] == "gateway").unwrap();
    let cgroup = sys::cgroup::mount_point().unwrap().join(gateway["cgroup"].as_str().unwrap());
    sys::cgroup::processes(&cgroup).unwrap().into_iter().map(Pid::from_raw).collect()
}

#[test]
fn a_server_ends_with_the_gateway_and_with_the_daemon() {
    let mut world = world("");
    let agent = held(&world);
    for pid in gateway(&world) {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    world.eventually("the server is gone", |world| processes(world).is_empty());
    drop(agent);
    let agent = held(&world);
    let left = processes(&world);
    world.sigkill();
    world.start();
    world.eventually("the server is gone", |world| processes(world).is_empty());
    for pid in left {
        assert!(
            !fs::exists(format!("/proc/{pid}/cgroup")).unwrap()
                || fs::read(format!("/proc/{pid}/cmdline")).unwrap().is_empty()
        );
    }
    drop(agent);
}

#[test]
fn a_kill_of_a_group_that_it_belongs_to_as_a_whole_ends_a_server_and_no_other_kill_does() {
    let world = world("");
    let agent = held(&world);
    let before = processes(&world);
    for words in [&["kill", "risk:high"][..], &["kill", "mcp:files", "--agent", "gateway"], &["kill", "class:write"]] {
        let mut all = words.to_vec();
        all.extend(["--reason", "test"]);
        world.clawguard(&all);
        assert_eq!(processes(&world), before, "{words:?}");
    }
    drop(agent);
    world.clawguard(&["restore", "class:write", "--reason", "test"]).ok();
    for words in
        [&["kill", "mcp:files"][..], &["kill", "risk:medium"], &["mode", "tools-off"], &["kill", "all", "--agent", "a"]]
    {
        let agent = held(&world);
        let mut all = words.to_vec();
        all.extend(["--reason", "test"]);
        world.clawguard(&all).ok();
        world.eventually("the server is gone", |world| processes(world).is_empty());
        let flips = world.audit("flip");
        assert_eq!(flips.last().unwrap()["stdio_servers_ended"], 1, "{words:?}");
        drop(agent);
        let refused = run(&world, "about", &json!({}));
        assert!(!refused.out.contains("environment"), "{words:?}: {}", refused.out);
        if words[0] == "mode" {
            all = vec!["mode", "normal", "--reason", "test"];
        } else {
            all[0] = "restore";
        }
        world.clawguard(&all).ok();
    }
}

#[test]
fn what_is_started_was_accepted_or_is_not_started() {
    let world = world("");
    about(&world);
    let program = world.directory.join("server");
    fs::remove_file(&program).unwrap();
    copy(&probe_path(), &program);
    // The same bytes are the same server.
    about(&world);
    // A program that still runs is not written to.
    world.eventually("the server has ended", |world| processes(world).is_empty());
    let script = "printf x >> \"$1\"";
    world.outside_runs(&["sh", "-c", script, "sh", program.to_str().unwrap()]).ok();
    let refused = run(&world, "about", &json!({}));
    assert!(!refused.out.contains("environment"), "{}", refused.out);
    world.eventually("the log says why", |world| world.log_text().contains("not what was accepted"));
    assert_eq!(processes(&world), [0; 0]);
    world.clawguard(&["pins", "accept", "files", "/stdio", "--reason", "test"]).ok();
    about(&world);
}

#[test]
fn nobody_else_is_a_stdio_servers_agent() {
    let mut world = world("");
    let run = world.agent("mcp-files", Nobody, &["spin"]);
    assert!(run.status != 0 && run.err.contains("the name of a stdio server"), "{run:?}");
    world.stop();
    configure(&world, "[[agent]]\nname = \"mcp-files\"\n");
    assert!(world.start_refused().contains("the stdio server's own"));
    configure(&world, "");
    world.start();
}

#[test]
fn under_the_shipped_unit_a_server_starts() {
    let mut world = World::new();
    world.configure("[[mcp.server]]\nname = \"files\"\ncommand = [\"/usr/bin/probe\", \"mcp\"]\nrisk = \"medium\"\n");
    let machine = Machine::boot(&world, &[]);
    let config = world.directory.join("etc/clawguard/clawguard.toml");
    fs::copy(config, machine.file("/etc/clawguard/clawguard.toml")).unwrap();
    machine.ok("systemctl start clawguard.service clawguard-gateway.service");
    let payload = world.payload(json!({ "tools": { "allow": ["files/*"] } }));
    fs::copy(world.sign(&payload), machine.file("/run/contract.json")).unwrap();
    machine.ok("clawguard wpc use /run/contract.json --agent a");
    let call = format!("clawguard run --agent a --user nobody -- /usr/bin/probe tools call {URL} about '{{}}'");
    machine.eventually(&format!("{call} | grep -q environment"));
    let about = machine.ok(&call);
    let about: Value = serde_json::from_str(&about).unwrap();
    let about: Value = serde_json::from_str(about["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(
        (about["uid"].as_str(), about["bounding"].as_str()),
        (Some("65534 65534 65534 65534"), Some("0000000000000000"))
    );
}
