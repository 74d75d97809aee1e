//! The way to the MCP gateway: own loopback at its port, each job by itself, and nobody else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use e2e::{Identity::Nobody, Outside, Run, World};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const ASKED: &str = "GET /s/none/mcp HTTP/1.1\r\nHost: 127.0.0.1:9480\r\n\r\n";

/// A world in which agents `a` and `b` may reach something, none of it loopback.
fn two_agents() -> World {
    let mut world = World::up();
    for agent in ["a", "b"] {
        world.use_contract(agent, json!({ "egress": [{ "host": "crm.example", "ports": [443] }] }));
    }
    world.eventually("the gateway serves", |world| answered(&calls(world, "127.0.0.1:9480")));
    world
}

fn calls(world: &World, to: &str) -> Run {
    world.agent("a", Nobody, &["tcp", to, ASKED]).ok()
}

/// Whether it was the gateway, which speaks HTTP.
fn answered(run: &Run) -> bool {
    run.out.starts_with("ok HTTP/1.1 4")
}

/// An agent that goes on, and the end of the gateway's address for its job.
fn waiting(world: &World, agent: &str) -> (Outside, String) {
    let running = world.agent_on(agent, Nobody, &["each-line", ASKED]);
    let mut found = None;
    world.eventually("the job is there", |world| {
        found = slot(world, agent);
        found.is_some()
    });
    let slot = found.unwrap();
    (running, format!("127.67.{}.{}:{}", slot >> 8, slot & 255, port(world)))
}

/// The slot of an agent's job, as a daemon that starts anew would find it.
fn slot(world: &World, agent: &str) -> Option<u32> {
    let text = std::fs::read_to_string(world.directory.join("run/clawguard/jobs.json")).unwrap();
    let jobs: Value = serde_json::from_str(&text).unwrap();
    let entry = jobs.as_array().unwrap().iter().find(|entry| entry["agent"] == agent && entry["over"] == false)?;
    u32::try_from(entry["slot"].as_u64()?).ok()
}

/// At which port the gateway listens.
fn port(world: &World) -> u16 {
    let log = world.log_text();
    log.lines().rev().find_map(|line| line.split_once("serving MCP port=9480 at=")).unwrap().1.trim().parse().unwrap()
}

#[test]
fn localhost_at_its_port_is_the_gateway_however_it_is_written() {
    let world = two_agents();
    for to in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]", "[::]"] {
        let run = calls(&world, &format!("{to}:9480"));
        assert!(answered(&run), "{to}: {}", run.out);
    }
    // And nothing else is: the rest of loopback is the job's own, and so is every other port.
    for to in ["127.0.0.2:9480", "127.0.0.1:9482", "[::1]:9482"] {
        assert_eq!(calls(&world, to).out, "EPERM", "{to}");
    }
    assert_eq!(world.agent("a", Nobody, &["udp", "127.0.0.1:9480", "x"]).ok().out, "EPERM");
}

#[test]
fn a_port_from_which_somebody_called_before_is_none_to_wait_for() {
    let world = two_agents();
    // The gateway closes first, and its side of the connection waits for a minute.
    let twice = r#"
import socket
for time in range(3):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", 45123))
    s.settimeout(5)
    s.connect(("127.0.0.1", 9480))
    s.sendall(b"GET /s/none/mcp HTTP/1.1\r\nHost: 127.0.0.1:9480\r\nConnection: close\r\n\r\n")
    got = b""
    while part := s.recv(4096):
        got += part
    print(got[:10].decode())
    s.close()
"#;
    let run = world.agent_runs("a", Nobody, &["/usr/bin/python3", "-c", twice]);
    assert_eq!((run.status, run.out.as_str()), (0, "HTTP/1.1 4\nHTTP/1.1 4\nHTTP/1.1 4"), "{}", run.err);
}

#[test]
fn root_of_a_user_namespace_comes_by_the_same_way() {
    let world = two_agents();
    let run = world.agent("a", e2e::Identity::NamespaceRoot, &["tcp", "127.0.0.1:9480", ASKED]).ok();
    assert!(answered(&run), "{}", run.out);
}

#[test]
fn no_job_comes_by_anothers_address() {
    let mut world = two_agents();
    let (mut own, at) = waiting(&world, "b");
    assert_eq!(calls(&world, &at).out, "EPERM");
    // Its own address is its own by whatever way it comes.
    assert!(own.ask(&at, "tcp").contains("ok"), "{at}");
    // A contract that opens all of loopback does not open it either: the gateway's side looks too.
    let loopback = json!({ "egress": [{ "cidr": "127.0.0.0/8", "ports": [port(&world)] }] });
    world.use_contract("a", loopback);
    let said = calls(&world, &at).out;
    assert!(said == "TIMEOUT", "{at}: {said}");
    assert!(answered(&calls(&world, "127.0.0.1:9480")));
    assert!(own.ask(&at, "tcp").contains("ok"), "{at}");
}

#[test]
fn whoever_is_in_no_job_gets_nothing_of_the_gateway() {
    let world = two_agents();
    let (own, at) = waiting(&world, "b");
    for to in [at.clone(), format!("127.0.0.1:{}", port(&world)), "127.67.0.0:9480".into(), "203.0.113.1:9480".into()] {
        for run in [world.outside(&["tcp", &to, ASKED]), world.outside_as_nobody(&["tcp", &to, ASKED]).finish()] {
            assert!(["TIMEOUT", "ECONNREFUSED"].contains(&run.out.as_str()), "{to}: {}", run.out);
        }
    }
    drop(own);
}

#[test]
fn only_a_kill_of_everything_ends_the_way_to_the_gateway() {
    let world = two_agents();
    let mut held = world.agent_on("a", Nobody, &["talk", "127.0.0.1:9480"]);
    held.until("connected");
    for group in ["risk:high", "model", "class:write"] {
        world.clawguard(&["kill", group, "--reason", "test"]).ok();
    }
    assert!(answered(&calls(&world, "127.0.0.1:9480")));
    world.clawguard(&["kill", "all", "--reason", "test"]).ok();
    let ended = held.line();
    assert!(ended == "closed" || ended.starts_with("read"), "{ended}");
    assert_eq!(calls(&world, "127.0.0.1:9480").out, "EPERM");
    world.clawguard(&["restore", "all", "--reason", "test"]).ok();
    assert!(answered(&calls(&world, "127.0.0.1:9480")));
}

#[test]
fn without_a_gateway_nobody_answers_in_its_place() {
    let mut world = two_agents();
    let mut asking = world.agent_on("a", Nobody, &["each-line", ASKED]);
    assert!(asking.ask("127.0.0.1:9480", "tcp").starts_with("tcp ok"));
    let at = port(&world).to_string();
    world.sigkill();
    // Somebody else waits where it listened, as soon as the port is free.
    let mut others = Vec::new();
    world.eventually("the port is free", |world| {
        let mut other = world.outside_on(&["listen", &at]);
        let listens = other.line() == "listening";
        others.push(other);
        listens
    });
    assert_eq!(asking.ask("127.0.0.1:9480", "tcp"), "tcp EPERM");
    world.start();
}

#[test]
fn a_job_that_takes_the_port_is_in_nobodys_way() {
    let world = two_agents();
    let mut squatting = world.agent_on("b", Nobody, &["listen", "9480"]);
    assert_eq!(squatting.line(), "listening");
    for pid in gateways(&world) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    world.eventually("the gateway serves again", |world| answered(&calls(world, "127.0.0.1:9480")));
}

/// The processes of the gateway.
fn gateways(world: &World) -> Vec<i32> {
    let status = world.json(&["status"]);
    let jobs = status["jobs"].as_array().unwrap().iter().filter(|job| job["agent"] == "gateway");
    let root = sys::cgroup::mount_point().unwrap();
    jobs.flat_map(|job| sys::cgroup::processes(&root.join(job["cgroup"].as_str().unwrap())).unwrap_or_default())
        .collect()
}
