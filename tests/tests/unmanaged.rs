//! What is not ClawGuard's: other processes, other programs on the same hooks, other instances.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::Path, process::Command};

use e2e::{Identity::Nobody, World};
use serde_json::json;

/// Attaches the egress program of a world's own instance to another cgroup, as another owner of BPF would attach its own:
/// by `bpftool`, which is told how.
fn bpftool(words: &[&str]) -> (bool, String) {
    let output = Command::new("bpftool").args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn egress_program(world: &World) -> String {
    let programs = world.attached_programs();
    let (_, id) = programs.iter().find(|(path, _)| path.ends_with("egress")).unwrap();
    id.to_string()
}

fn attached_to(cgroup: &Path) -> String {
    bpftool(&["cgroup", "show", cgroup.to_str().unwrap()]).1
}

#[test]
fn processes_that_are_nobodys_see_no_difference() {
    let mut world = World::new();
    let service = world.service("nobodys");
    let all = |world: &World| {
        [
            world.outside(&["ordinary"]).ok().out,
            world.outside_as_nobody(&["ordinary"]).finish().out,
            service.run(&["ordinary"]).ok().out,
        ]
    };
    let before = all(&world);
    assert!(before[0].len() > 100, "{}", before[0]);
    world.start();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    assert_eq!(all(&world), before);
    world.json(&["mode", "lockdown", "--reason", "test"]);
    assert_eq!(all(&world), before);
}

#[test]
fn programs_of_others_on_a_matched_cgroup_stay_and_both_must_allow() {
    let mut other = World::up();
    let program = egress_program(&other);
    // On a thread of its own: a world has its thread's network namespace.
    let service = other.service("shared");
    let cgroup = service.directory.to_str().unwrap().to_owned();
    let (done, said) = bpftool(&["cgroup", "attach", &cgroup, "egress", "id", &program, "multi"]);
    assert!(done, "{said}");
    let before = attached_to(&service.directory);
    assert!(before.contains(&program), "{before}");
    other.configure(&format!("[[agent]]\nname = \"prey\"\nmatch = {{ cgroup = \"{}\" }}", service.name));
    other.signal_daemon(nix::sys::signal::Signal::SIGHUP);
    other.use_contract("prey", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    other.eventually("the match", |_| attached_to(&service.directory).matches("cgroup_inet_egress").count() >= 2);
    assert_eq!(service.run(&["tcp", "203.0.113.99:443", "x"]).out, "EPERM");
    other.stop();
    other.clawguard(&["uninstall"]).ok();
    let after = attached_to(&service.directory);
    assert_eq!(after.matches("cgroup_inet_egress").count(), 1, "{after}");
    assert!(bpftool(&["cgroup", "detach", &cgroup, "egress", "id", &program]).0);
}

#[test]
fn a_hook_that_somebody_has_for_himself_is_said_and_nothing_is_half_fenced() {
    let mut world = World::up();
    let service = world.service("taken");
    let cgroup = service.directory.to_str().unwrap().to_owned();
    let program = egress_program(&world);
    // Without `multi`: nobody else may attach.
    let (done, said) = bpftool(&["cgroup", "attach", &cgroup, "egress", "id", &program]);
    assert!(done, "{said}");
    world.configure(&format!("[[agent]]\nname = \"prey\"\nmatch = {{ cgroup = \"{}\" }}", service.name));
    world.signal_daemon(nix::sys::signal::Signal::SIGHUP);
    world.eventually("the problem", |world| {
        let status = world.json(&["status"]);
        let agent = status["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == "prey").cloned();
        agent.is_some_and(|agent| agent["problem"].as_str().is_some_and(|problem| problem.contains("cannot")))
    });
    assert!(bpftool(&["cgroup", "detach", &cgroup, "egress", "id", &program]).0);
    // Once it is free, the match is made.
    world.use_contract("prey", json!({ "egress": [] }));
    world.eventually("the match", |_| service.run(&["tcp", "203.0.113.10:443", "x"]).out == "EPERM");
}

#[test]
fn two_instances_side_by_side_have_nothing_to_do_with_each_other() {
    let mut one = World::up();
    let mut other = one.sibling();
    other.start();
    one.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    other.use_contract("a", json!({ "egress": [{ "host": "chat.example", "tls": false }] }));
    let tries = ["each", "tcp", "203.0.113.10:443", "tcp", "203.0.113.20:443"];
    let said = |world: &World| world.agent("a", Nobody, &tries).ok().out;
    assert_eq!(said(&one), "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.20:443 EPERM");
    assert_eq!(said(&other), "tcp 203.0.113.10:443 EPERM\ntcp 203.0.113.20:443 ok hello");
    other.json(&["kill", "all", "--reason", "test"]);
    assert_eq!(said(&one), "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.20:443 EPERM");
    other.stop();
    other.clawguard(&["uninstall"]).ok();
    assert!(!fs::exists(other.pins()).unwrap());
    assert_eq!(said(&one), "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.20:443 EPERM");
}
