//! The switch: one group gone at once, live connections included, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, thread, time::Duration};

use e2e::{Identity::Nobody, World};
use serde_json::{Value, json};

fn contract() -> Value {
    json!({ "egress": [
        { "host": "crm.example", "tls": false, "groups": ["crm"], "class": "read" },
        { "cidr": "203.0.113.10/32", "ports": [7002], "protocol": "udp", "groups": ["crm"] },
        { "host": "chat.example", "tls": false, "groups": ["channel"] },
        { "host": "video.example", "tls": false, "groups": ["media"] },
    ], "groups": [{ "name": "crm", "risk": "low" }] })
}

fn kill(world: &World, group: &str) -> Value {
    world.json(&["kill", group, "--reason", "test"])
}

fn restore(world: &World, group: &str) -> Value {
    world.json(&["restore", group, "--reason", "test"])
}

#[test]
fn a_killed_groups_flows_stop_at_once_wake_up_and_nothing_else_stops() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let mut tcp = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    let mut udp = world.agent_on("a", Nobody, &["talk-udp", "203.0.113.10:7002"]);
    let mut chat = world.agent_on("a", Nobody, &["talk", "203.0.113.20:443"]);
    for talk in [&mut tcp, &mut udp, &mut chat] {
        talk.until("connected");
        assert_eq!(talk.ask("before", "got"), "got before");
    }
    let answer = kill(&world, "crm");
    assert_eq!(answer["state"], "killed");
    assert_eq!(answer["previous"], "live");
    assert_eq!(answer["sockets_destroyed"], 2);
    assert_eq!(answer["sockets_left"], 0);
    assert_eq!(answer["canary"], json!({ "before": "accepted", "after": "refused" }));
    assert_eq!(answer["enforced_by"], json!(["kernel"]));
    assert_eq!(answer["persisted"], true);
    // Blocked reads have woken.
    assert_eq!(tcp.until("read"), "read ECONNABORTED");
    assert!(udp.until("read").starts_with("read E"));
    world.far.clear();
    tcp.say("after");
    udp.say("after");
    assert_ne!(tcp.until("sent"), "sent ok");
    assert_ne!(udp.until("sent"), "sent ok");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(world.far.seen(b"after"), 0);
    // Chat goes on over the same connection.
    assert_eq!(chat.ask("still", "got"), "got still");
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "EPERM");
    let answer = restore(&world, "crm");
    assert_eq!((answer["state"].as_str(), answer["previous"].as_str()), (Some("live"), Some("killed")));
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
}

#[test]
fn what_was_queued_while_a_group_was_killed_is_not_delivered_after_its_restore() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    talk.until("connected");
    // The network stops carrying, so that what is sent stays in the socket's queue.
    ip("link set near0 down");
    talk.ask("queued-secret", "sent");
    kill(&world, "crm");
    ip("link set near0 up");
    ip("route replace default via 203.0.113.10 dev near0");
    world.far.clear();
    restore(&world, "crm");
    // Longer than TCP waits before it sends again.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(world.far.seen(b"queued-secret"), 0);
}

fn ip(words: &str) {
    assert!(std::process::Command::new("ip").args(words.split(' ')).status().unwrap().success());
}

#[test]
fn listeners_survive_a_kill() {
    let mut world = World::up();
    world.use_contract(
        "a",
        json!({
            "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }],
            "listen": [{ "cidr": "203.0.113.0/24", "ports": [7700] }],
        }),
    );
    let mut listener = world.agent_on("a", Nobody, &["listen", "7700"]);
    assert_eq!(listener.line(), "listening");
    kill(&world, "crm");
    assert_eq!(world.far.call("203.0.113.1:7700", "x"), "X");
}

#[test]
fn a_kill_can_concern_one_agent_or_one_job() {
    let mut world = World::up();
    world.use_contract("a", contract());
    world.use_contract("b", contract());
    let mut of_a = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    let mut other_of_a = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    let mut of_b = world.agent_on("b", Nobody, &["talk", "203.0.113.10:443"]);
    for talk in [&mut of_a, &mut other_of_a, &mut of_b] {
        talk.until("connected");
        talk.ask("x", "got");
    }
    let jobs = world.json(&["status"])["jobs"].clone();
    let of = |agent: &str| -> Vec<String> {
        let jobs = jobs.as_array().unwrap().iter().filter(|job| job["agent"] == agent);
        jobs.map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    let answer = world.json(&["kill", "crm", "--job", &of("a")[0], "--reason", "test"]);
    assert_eq!(answer["sockets_destroyed"], 1);
    assert_eq!(answer["canary"], json!({ "before": "accepted", "after": "refused" }));
    let answer = world.json(&["kill", "crm", "--agent", "a", "--reason", "test"]);
    assert_eq!(answer["sockets_destroyed"], 1);
    assert_eq!(of_b.ask("y", "got"), "got y");
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "EPERM");
    assert_eq!(world.agent("b", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
}

#[test]
fn modes_leave_chat_up_until_lockdown() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let words = ["each", "tcp", "203.0.113.10:443", "tcp", "203.0.113.20:443", "tcp", "203.0.113.30:443"];
    let tried = |world: &World| -> Vec<bool> {
        world.agent("a", Nobody, &words).ok().out.lines().map(|line| line.ends_with("ok hello")).collect()
    };
    // crm is class read; video has no class and counts as irreversible; chat is chat.
    for (mode, expected) in [
        ("normal", [true, true, true]),
        ("read-only", [true, true, false]),
        ("tools-off", [false, true, false]),
        ("lockdown", [false, false, false]),
        ("normal", [true, true, true]),
    ] {
        let answer = world.json(&["mode", mode, "--reason", "test"]);
        assert_eq!(answer["state"], mode);
        assert_eq!(tried(&world), expected, "{mode}");
    }
    for (group, expected) in [
        ("risk:high", [true, true, false]),
        ("class:irreversible", [true, true, false]),
        ("risk:low", [false, true, true]),
    ] {
        kill(&world, group);
        assert_eq!(tried(&world), expected, "{group}");
        restore(&world, group);
    }
}

#[test]
fn an_endpoint_is_dead_while_any_of_its_groups_is() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["one", "two"] }] }));
    let alive = |world: &World| world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out == "ok x";
    kill(&world, "one");
    kill(&world, "two");
    assert!(!alive(&world));
    restore(&world, "one");
    assert!(!alive(&world));
    restore(&world, "two");
    assert!(alive(&world));
}

#[test]
fn a_kill_survives_restart_reboot_and_reload() {
    let mut world = World::up();
    world.use_contract("a", contract());
    kill(&world, "crm");
    world.json(&["kill", "media", "--agent", "a", "--reason", "test"]);
    let holds = |world: &World| {
        let run = world.agent(
            "a",
            Nobody,
            &["each", "tcp", "203.0.113.10:443", "tcp", "203.0.113.30:443", "tcp", "203.0.113.20:443"],
        );
        assert_eq!(
            run.ok().out,
            "tcp 203.0.113.10:443 EPERM\ntcp 203.0.113.30:443 EPERM\ntcp 203.0.113.20:443 ok hello"
        );
    };
    holds(&world);
    world.stop();
    world.start();
    holds(&world);
    world.sigkill();
    world.start();
    holds(&world);
    // What a reboot leaves: the disk, and nothing of the kernel's.
    world.stop();
    world.clawguard(&["uninstall"]).ok();
    fs::remove_dir_all(world.directory.join("run")).unwrap();
    world.start();
    holds(&world);
    world.configure("[[agent]]\nname = \"new\"");
    world.signal_daemon(nix::sys::signal::Signal::SIGHUP);
    world.eventually("the new agent is known", |world| {
        world.json(&["status"])["agents"].as_array().unwrap().iter().any(|agent| agent["name"] == "new")
    });
    holds(&world);
    restore(&world, "crm");
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
}

#[test]
fn live_connections_are_ended_in_every_network_namespace() {
    let mut world = World::up();
    let mut contract = contract();
    contract["listen"] = json!([{ "cidr": "203.0.113.0/24", "ports": [443] }]);
    world.use_contract("a", contract);
    // The job makes itself a namespace in which every address is its own, and connects to itself.
    let mut hold = world.agent_on("a", e2e::Identity::NamespaceRoot, &["hold-mirror", "3", "203.0.113.10:443"]);
    assert_eq!(hold.until("holding"), "holding 3");
    let answer = kill(&world, "crm");
    assert_eq!((answer["sockets_destroyed"].as_u64(), answer["sockets_left"].as_u64()), (Some(3), Some(0)));
    assert_eq!(hold.finish().out.lines().last(), Some("alive 0"));
}

#[test]
fn nobody_inside_the_fence_flips_the_switch() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [], "unix_sockets": true }));
    let socket = world.directory.join("run/clawguard/control.sock");
    // Even if the socket were open to everybody.
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let copy = world.directory.join("clawguard");
    e2e::copy(&e2e::built("clawguard"), &copy);
    for identity in [Nobody, e2e::Identity::NamespaceRoot] {
        for words in [&["status"][..], &["kill", "all", "--reason", "x"], &["mode", "normal", "--reason", "x"]] {
            let mut all = vec![copy.to_str().unwrap()];
            all.extend(words);
            let run = world.agent_runs("a", identity, &all);
            assert_eq!(run.status, 4, "{words:?}: {} {}", run.out, run.err);
            assert!(run.err.contains("no agent operates its own fence"), "{}", run.err);
        }
    }
    assert!(world.audit("flip").is_empty());
}

#[test]
fn every_flip_is_recorded_with_who_why_and_what_before() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let answer = kill(&world, "crm");
    world.json(&["mode", "read-only", "--reason", "incident 7"]);
    let flips = world.audit("flip");
    assert_eq!(flips.len(), 2);
    assert_eq!(flips[0]["flip"]["flip_id"], answer["flip_id"]);
    assert_eq!(flips[0]["reason"], "test");
    let actor = &flips[0]["flip"]["actor"];
    assert_eq!((actor["channel"].as_str(), actor["uid"].as_u64()), (Some("control"), Some(0)));
    assert!(actor["executable"].as_str().unwrap().ends_with("clawguard"));
    assert!(actor["pid"].as_u64().unwrap() > 1 && actor["cgroup"].as_str().unwrap().starts_with('/'));
    assert_eq!(flips[1]["flip"]["previous"], "normal");
    assert_eq!(flips[1]["reason"], "incident 7");
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn groups_that_only_the_gateway_tells_apart_are_killed_and_stay_so() {
    let mut world = World::new();
    world.configure("[[mcp.server]]\nname = \"crm\"\nurl = \"https://crm.example/mcp\"\n");
    world.start();
    world.use_contract(
        "a",
        json!({ "tools": { "allow": ["crm/*"] }, "groups": [{ "name": "far", "tools": ["crm/get_*"] }] }),
    );
    for group in ["far", "mcp:crm", "tool:crm/DeleteCase"] {
        let answer = world.json(&["kill", group, "--reason", "test"]);
        assert_eq!((&answer["state"], &answer["previous"]), (&json!("killed"), &json!("live")), "{answer}");
        assert_eq!(answer["enforced_by"], json!(["gateway"]), "{answer}");
        assert!(answer["persisted"].as_bool().unwrap() && answer["effective_ns"].as_u64().unwrap() > 0);
    }
    let state = |world: &World, group: &str| {
        let groups = world.json(&["groups"]);
        let found = groups.as_array().unwrap().iter().find(|view| view["group"] == group).cloned();
        found.map(|view| view["state"].as_str().unwrap().to_owned())
    };
    world.stop();
    world.start();
    for group in ["far", "mcp:crm", "tool:crm/DeleteCase"] {
        assert_eq!(state(&world, group).as_deref(), Some("killed"), "{group}");
        world.json(&["restore", group, "--reason", "test"]);
    }
    assert_eq!(state(&world, "mcp:crm").as_deref(), Some("live"));
    assert_eq!(state(&world, "tool:crm/DeleteCase"), None);
    // What nobody could call is no group: a name that is mistyped takes nothing away, and says so.
    for wrong in ["mcp:crn", "tool:crn/DeleteCase"] {
        let run = world.clawguard(&["kill", wrong, "--reason", "x"]);
        assert_eq!(run.status, 1, "{wrong}: {}", run.err);
        assert!(run.err.contains("there is no group"), "{wrong}: {}", run.err);
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_one_clear_error() {
    let mut world = World::up();
    world.use_contract("a", contract());
    for (words, status, expected) in [
        (&["kill", "nothing", "--reason", "x"][..], 1, "there is no group nothing"),
        (&["kill", "NOT A GROUP", "--reason", "x"], 2, "names no group"),
        (&["kill", "all", "--reason", " "], 2, "a reason of 1 to 1000 bytes"),
        (&["kill", "all"], 2, "--reason"),
        (&["kill", "all", "--agent", "nobody", "--reason", "x"], 1, "there is no agent nobody"),
        (&["kill", "all", "--job", "none", "--reason", "x"], 1, "there is no job none"),
        (&["mode", "party", "--reason", "x"], 2, "\"party\" is no mode"),
        (&["restore", "mode:tools-off", "--reason", "x"], 1, "there is no group mode:tools-off"),
    ] {
        let run = world.clawguard(words);
        assert_eq!(run.status, status, "{words:?}: {}", run.err);
        assert!(run.err.contains(expected), "{words:?}: {}", run.err);
    }
    world.stop();
    let run = world.clawguard(&["kill", "all", "--reason", "x"]);
    assert_eq!(run.status, 3, "{}", run.err);
}

#[test]
fn a_drill_measures_the_switch_without_touching_anybody() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    talk.until("connected");
    let answer = world.json(&["drill"]);
    assert_eq!(answer["passed"], true);
    let groups: Vec<&str> = answer["groups"].as_array().unwrap().iter().map(|g| g["group"].as_str().unwrap()).collect();
    assert!(groups.contains(&"crm") && groups.contains(&"channel") && groups.contains(&"all"), "{groups:?}");
    assert_eq!(talk.ask("untouched", "got"), "got untouched");
    let live = world.json(&["drill", "crm", "--live"]);
    assert_eq!(live["groups"][0]["canary"], json!({ "before": "accepted", "after": "refused" }));
    assert_eq!(live["groups"][0]["restored"], "accepted");
    assert_eq!(talk.until("read"), "read ECONNABORTED");
    assert_eq!(world.audit("drill").len(), 2);
}

#[test]
fn a_kill_on_a_full_disk_holds_and_says_that_it_is_not_remembered() {
    let mut world = World::new();
    // The state lies on a disk of its own, small enough to fill.
    let state = world.directory.join("var/lib/clawguard");
    fs::create_dir_all(&state).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "none", state.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(mounted.success());
    world.start();
    world.use_contract("a", contract());
    let filler = state.join("filler");
    let fill = || {
        let mut size = 1 << 20;
        while size > 0 {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
            if std::io::Write::write_all(&mut file, &vec![1; size]).is_err() {
                size /= 2;
            }
        }
    };
    fill();
    // The first kill finds the room that was set aside for it.
    let first = kill(&world, "crm");
    assert_eq!(first["persisted"], true);
    fill();
    let run = world.clawguard(&["--json", "kill", "media", "--reason", "test"]);
    let answer: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((run.status, answer["persisted"].as_bool()), (1, Some(false)));
    // Nothing new is granted, once the last block of the chain is full too: no job, no restore.
    let run = (0..50)
        .map(|_| world.agent("a", Nobody, &["tcp", "203.0.113.30:443", "x"]))
        .inspect(|run| assert!(run.status == 1 || run.out == "EPERM", "{run:?}"))
        .find(|run| run.status == 1)
        .unwrap();
    assert!(run.err.contains("nothing new is granted while the audit chain cannot be written"), "{}", run.err);
    let run = world.clawguard(&["restore", "crm", "--reason", "test"]);
    assert!(run.status == 1 && run.err.contains("nothing new is granted while"), "{}", run.err);
    let status = world.json(&["status"]);
    assert!(status["warnings"].to_string().contains("the audit chain cannot be written"), "{status}");
    fs::remove_file(&filler).unwrap();
    restore(&world, "crm");
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
    // What waited for room is in the chain, in its order.
    let flips: Vec<Value> = world.audit("flip").iter().map(|record| record["flip"]["group"].clone()).collect();
    assert_eq!(flips, ["crm", "media", "crm"]);
    world.clawguard(&["audit", "verify"]).ok();
    world.stop();
    world.clawguard(&["uninstall"]).ok();
    assert!(std::process::Command::new("umount").arg(&state).status().unwrap().success());
}

#[test]
fn one_group_that_is_not_there_does_not_keep_the_others_up() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let run = world.clawguard(&["kill", "crmm", "crm", "media", "--reason", "test"]);
    assert_eq!(run.status, 1);
    assert!(run.err.contains("there is no group crmm"), "{}", run.err);
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "EPERM");
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.30:443", "x"]).ok().out, "EPERM");
    let answers = world.json(&["restore", "crm", "media", "--reason", "test"]);
    assert_eq!(answers.as_array().map(Vec::len), Some(2));
}

#[test]
fn a_kill_of_one_job_ends_with_the_job() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.20:443"]);
    talk.until("connected");
    let jobs = world.json(&["status"])["jobs"].clone();
    let job =
        jobs.as_array().unwrap().iter().find(|job| job["agent"] == "a").unwrap()["id"].as_str().unwrap().to_owned();
    world.json(&["kill", "crm", "--job", &job, "--reason", "test"]);
    assert_eq!(world.json(&["status"])["kills"].as_array().map(Vec::len), Some(1));
    drop(talk);
    world.eventually("no kill", |world| world.json(&["status"])["kills"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn a_hook_that_somebody_takes_off_is_seen() {
    let mut world = World::up();
    assert_eq!(world.metric("clawguard_hook_armed{hook=\"connect4\"}"), 1.0);
    let link = world.pins().join(format!("v{}/links/connect4", clawguard_common::ABI));
    sys::bpf::link_detach(sys::bpf::pinned(&link).unwrap()).unwrap();
    assert_eq!(world.metric("clawguard_hook_armed{hook=\"connect4\"}"), 0.0);
    assert_eq!(world.metric("clawguard_hook_armed{hook=\"connect6\"}"), 1.0);
    world.stop();
}

#[test]
fn a_kill_that_the_kernel_has_and_the_disk_has_not_stays() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let switch = world.directory.join("var/lib/clawguard/switch.json");
    let before = fs::read(&switch).ok();
    kill(&world, "crm");
    // As if the daemon had ended before it wrote.
    world.sigkill();
    match before {
        Some(before) => fs::write(&switch, before).unwrap(),
        None => fs::remove_file(&switch).unwrap(),
    }
    world.start();
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "EPERM");
    assert_eq!(world.json(&["status"])["kills"][0]["group"], "crm");
    restore(&world, "crm");
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
}
