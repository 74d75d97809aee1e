//! Names: those that the contract names become addresses, through the guard alone, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, thread, time::Duration};

use e2e::{Identity::Nobody, RESOLVER, RESOLVER6, World};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const WAYS: [&str; 4] = ["udp", "udp-connected", "sendmmsg", "tcp"];

fn host(name: &str) -> Value {
    json!({ "host": name, "ports": [443], "tls": true })
}

/// A world in which agent `a` may reach these.
fn allowing(names: &[&str]) -> World {
    let mut world = World::named_up();
    world.use_contract("a", json!({ "egress": names.iter().map(|name| host(name)).collect::<Vec<_>>() }));
    world
}

/// What an agent is told who asks the world's resolver.
fn told(world: &World, agent: &str, name: &str, kind: &str) -> String {
    world.agent(agent, Nobody, &["names", "ask", "udp", RESOLVER, name, kind]).ok().out
}

#[test]
fn the_far_end_says_what_the_zone_says() {
    let mut world = World::named();
    let ask = |world: &World, how: &str, name: &str, kind: &str| {
        world.outside(&["names", "ask", how, RESOLVER, name, kind]).ok().out
    };
    for how in WAYS {
        let peer = if ["udp", "sendmmsg"].contains(&how) { "-" } else { "203.0.113.53:53" };
        let from = format!("from 203.0.113.53:53 peer {peer}");
        for (name, kind, data) in [
            ("crm.example", "A", "NOERROR 203.0.113.40 ttl 60"),
            ("CRM.Example", "AAAA", "NOERROR 2001:db8::40 ttl 60"),
            ("alias.example", "A", "NOERROR 203.0.113.40 ttl 60"),
            ("any.evil.example", "A", "NOERROR 203.0.113.40 ttl 60"),
            ("text.example", "A", "NOERROR - ttl -"),
            ("nowhere.example", "A", "NXDOMAIN - ttl -"),
        ] {
            assert_eq!(ask(&world, how, name, kind), format!("{data} {from}"), "{how} {name}");
        }
    }
    let hidden = ask(&world, "udp", "hidden.example", "HTTPS");
    assert!(hidden.contains("ech=") && hidden.contains("ipv4hint=203.0.113.99"), "{hidden}");
    assert!(ask(&world, "udp", "text.example", "TXT").contains("some"));
    assert_eq!((world.far.asked("alias.example"), world.far.asked("unasked.example")), (4, 0));
    world.zone("add changing.example A 1 203.0.113.10");
    assert!(ask(&world, "udp", "changing.example", "A").starts_with("NOERROR 203.0.113.10 ttl 1 "));
    world.zone("del changing.example");
    assert!(ask(&world, "udp", "changing.example", "A").starts_with("NXDOMAIN"));
    world.zone("code changing.example servfail");
    assert!(ask(&world, "udp", "changing.example", "A").starts_with("SERVFAIL"));
    world.zone("silent");
    assert_eq!(ask(&world, "udp", "crm.example", "A"), "TIMEOUT");
    world.zone("speak");
    assert!(ask(&world, "udp", "crm.example", "A").starts_with("NOERROR"));
}

#[test]
fn a_long_answer_comes_over_tcp() {
    let mut world = World::named();
    for host in 1..60 {
        world.zone(&format!("add many.example A 60 198.51.100.{host}"));
    }
    let ask = |how: &str| world.outside(&["names", "ask", how, RESOLVER, "many.example", "A"]).ok().out;
    assert!(ask("udp").starts_with("NOERROR - "));
    assert_eq!(ask("tcp").matches("198.51.100.").count(), 59);
    assert_eq!(world.outside(&["names", "look-up", "many.example"]).ok().out.split(' ').count(), 59);
}

#[test]
fn a_worlds_processes_ask_its_own_name_server_and_the_machines_files_stay() {
    let mut world = World::named();
    assert_eq!(world.outside(&["names", "look-up", "crm.example"]).ok().out, "203.0.113.40 2001:db8::40");
    assert_eq!(world.outside(&["names", "look-up", "nowhere.example"]).ok().out, "none");
    assert!(world.far.asked("nowhere.example") > 0);
    let own = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert!(own.contains(RESOLVER));
    for path in ["etc/resolv.conf", "etc/nsswitch.conf"] {
        let machines = fs::read_to_string(format!("/proc/1/root/{path}")).unwrap_or_default();
        assert_ne!(machines, fs::read_to_string(format!("/{path}")).unwrap());
    }
}

#[test]
fn what_the_contract_names_resolves_and_connects() {
    let mut world = allowing(&["crm.example", "alias.example"]);
    assert_eq!(world.agent("a", Nobody, &["names", "look-up", "crm.example"]).ok().out, "203.0.113.40 2001:db8::40");
    assert!(world.far.asked("crm.example") > 0);
    for name in ["crm.example", "alias.example"] {
        let run = world.agent("a", Nobody, &["tls", "name", name]).ok();
        assert_eq!(run.out, format!("hello from {name}"));
    }
}

#[test]
fn an_address_is_closed_until_its_name_was_asked_for() {
    let world = allowing(&["crm.example"]);
    let call = || world.agent("a", Nobody, &["tls", "to", "203.0.113.40:443", "crm.example"]).ok().out;
    assert_eq!(call(), "EPERM");
    assert!(told(&world, "a", "crm.example", "A").starts_with("NOERROR 203.0.113.40 "));
    assert_eq!(call(), "hello from crm.example");
    // The other family's address is another question's answer.
    let run = world.agent("a", Nobody, &["tls", "to", "[2001:db8::40]:443", "crm.example"]).ok();
    assert_eq!(run.out, "EPERM");
    assert!(told(&world, "a", "crm.example", "AAAA").starts_with("NOERROR 2001:db8::40 "));
    let run = world.agent("a", Nobody, &["tls", "to", "[2001:db8::40]:443", "crm.example"]).ok();
    assert_eq!(run.out, "hello from crm.example");
}

#[test]
fn an_answer_seems_to_come_from_the_resolver_that_was_asked() {
    let world = allowing(&["crm.example"]);
    for how in WAYS {
        for (resolver, seen) in [
            (RESOLVER, "203.0.113.53:53"),
            (RESOLVER6, "[2001:db8::53]:53"),
            ("::ffff:203.0.113.53", "[::ffff:203.0.113.53]:53"),
            // Nobody is there, and yet the guard answers: whoever is asked, it is asked.
            ("203.0.113.99", "203.0.113.99:53"),
        ] {
            let said = world.agent("a", Nobody, &["names", "ask", how, resolver, "crm.example", "A"]).ok().out;
            let peer = if ["udp", "sendmmsg"].contains(&how) { "-" } else { seen };
            assert!(said.starts_with("NOERROR 203.0.113.40 ttl "), "{how} {resolver}: {said}");
            assert!(said.ends_with(&format!(" from {seen} peer {peer}")), "{how} {resolver}: {said}");
        }
    }
}

#[test]
fn another_name_does_not_exist_and_no_question_for_it_leaves() {
    let mut world = allowing(&["crm.example"]);
    world.far.clear();
    for how in WAYS {
        for resolver in [RESOLVER, RESOLVER6, "::ffff:203.0.113.53", "203.0.113.99"] {
            for (name, kind) in [("evil.example", "A"), ("evil.example", "AAAA"), ("secret.crm.example", "TXT")] {
                let said = world.agent("a", Nobody, &["names", "ask", how, resolver, name, kind]).ok().out;
                assert!(said.starts_with("NXDOMAIN - ttl - "), "{how} {resolver} {name}: {said}");
            }
        }
    }
    assert_eq!(world.agent("a", Nobody, &["names", "look-up", "evil.example"]).ok().out, "none");
    assert_eq!((world.far.asked_at_all(), world.far.traffic()), (0, 0));
    let denied = world.json(&["explain"]);
    let denied = denied.as_array().unwrap();
    let of = |name: &str| denied.iter().find(|decision| decision["name"] == name).unwrap();
    for name in ["evil.example", "secret.crm.example"] {
        assert_eq!((of(name)["reason"].as_str(), of(name)["hook"].as_str()), (Some("not_in_contract"), Some("dns")));
    }
    let sentence = of("evil.example")["sentence"].as_str().unwrap();
    assert!(
        sentence.contains("asked for the name evil.example") && sentence.contains("no rule of contract"),
        "{sentence}"
    );
    // Whoever only asks for what it may not have goes around nothing.
    assert_eq!(world.metric("clawguard_bypass_alerts_total{agent=\"a\",kind=\"dns\"}"), 0.0);
}

#[test]
fn a_wildcard_is_for_what_is_below_it() {
    let world = allowing(&["*.shared.example"]);
    assert!(told(&world, "a", "one.shared.example", "A").starts_with("NOERROR 203.0.113.41 "));
    assert!(told(&world, "a", "a.b.shared.example", "A").starts_with("NOERROR 203.0.113.41 "));
    assert!(told(&world, "a", "shared.example", "A").starts_with("NXDOMAIN"));
    assert!(told(&world, "a", "notshared.example", "A").starts_with("NXDOMAIN"));
    let run = world.agent("a", Nobody, &["tls", "name", "one.shared.example"]).ok();
    assert_eq!(run.out, "hello from one.shared.example");
}

#[test]
fn a_wildcard_is_no_way_to_tell_a_name_server_much() {
    let mut world = World::named();
    // What comes first belongs to [names].
    world.configure("new_names_per_minute = 3");
    world.start();
    world.use_contract("a", json!({ "egress": [host("*.shared.example"), host("crm.example")] }));
    let mut asking = world.agent_on("a", Nobody, &["names", "each-line"]);
    let mut told = |name: &str| asking.ask(&format!("udp {RESOLVER} {name} A"), "");
    for n in 0..3 {
        assert!(told(&format!("n{n}.shared.example")).starts_with("NOERROR"));
    }
    for n in 3..10 {
        let said = told(&format!("n{n}.shared.example"));
        assert!(!said.starts_with("NOERROR"), "{said}");
    }
    // Those that are known, and those that the contract spells out, are asked for as before.
    assert!(told("n0.shared.example").starts_with("NOERROR"));
    assert!(told("crm.example").starts_with("NOERROR"));
    for n in 3..10 {
        assert_eq!(world.far.asked(&format!("n{n}.shared.example")), 0);
    }
}

#[test]
fn a_job_that_asks_without_end_is_slowed_and_no_other() {
    let mut world = World::named();
    world.configure("per_second = 5");
    world.start();
    for agent in ["a", "b"] {
        world.use_contract(agent, json!({ "egress": [host("crm.example")] }));
    }
    let mut asking = world.agent_on("a", Nobody, &["names", "each-line"]);
    let mut denied = 0;
    for _ in 0..30 {
        denied += usize::from(!asking.ask(&format!("udp {RESOLVER} crm.example A"), "").starts_with("NOERROR"));
    }
    assert!(denied > 0);
    assert!(told(&world, "b", "crm.example", "A").starts_with("NOERROR"));
}

#[test]
fn what_one_agent_learned_is_closed_to_another() {
    let mut world = allowing(&["crm.example"]);
    world.use_contract("b", json!({ "egress": [host("other.example")] }));
    assert_eq!(world.agent("b", Nobody, &["tls", "name", "other.example"]).ok().out, "hello from other.example");
    for name in ["other.example", "crm.example"] {
        let run = world.agent("a", Nobody, &["tls", "to", "203.0.113.44:443", name]).ok();
        assert_eq!(run.out, "EPERM", "{name}");
    }
    assert!(told(&world, "a", "other.example", "A").starts_with("NXDOMAIN"));
    // Nor under one contract.
    let hash = world.use_contract("c", json!({ "egress": [host("crm.example")] }))["wpc_hash"].clone();
    world.clawguard(&["wpc", "use", hash.as_str().unwrap(), "--agent", "d"]).ok();
    assert!(told(&world, "c", "crm.example", "A").starts_with("NOERROR"));
    let call = |agent: &str| world.agent(agent, Nobody, &["tls", "to", "203.0.113.40:443", "crm.example"]).ok().out;
    assert_eq!((call("c").as_str(), call("d").as_str()), ("hello from crm.example", "EPERM"));
}

#[test]
fn a_name_does_not_open_what_is_not_the_internets() {
    let mut world = allowing(&["crm.example", "inside.example"]);
    for (kind, address) in [
        ("A", "127.0.0.1"),
        ("A", "0.0.0.0"),
        ("A", "10.0.0.1"),
        ("A", "172.16.0.1"),
        ("A", "192.168.0.1"),
        ("A", "100.64.0.1"),
        ("A", "169.254.169.254"),
        ("A", "224.0.0.251"),
        ("A", "255.255.255.255"),
        ("AAAA", "::1"),
        ("AAAA", "::"),
        ("AAAA", "::ffff:10.0.0.1"),
        ("AAAA", "::ffff:127.0.0.1"),
        ("AAAA", "fe80::1"),
        ("AAAA", "fd00::1"),
        ("AAAA", "ff02::fb"),
        ("AAAA", "64:ff9b::a00:1"),
        ("AAAA", "2002:a00:1::1"),
    ] {
        world.zone(&format!("add inside.example {kind} 60 {address}"));
        let said = told(&world, "a", "inside.example", kind);
        assert!(!said.contains(address), "{address}: {said}");
        let to = if kind == "A" { format!("{address}:443") } else { format!("[{address}]:443") };
        let run = world.agent("a", Nobody, &["tls", "to", &to, "inside.example"]).ok();
        assert!(!run.out.starts_with("hello") && run.out != "TIMEOUT", "{address}: {}", run.out);
        world.zone("del inside.example");
    }
    // One such address does not take the others with it, nor do they bring it in.
    world.zone("add inside.example A 60 10.0.0.1");
    world.zone("add inside.example A 60 203.0.113.40");
    let said = told(&world, "a", "inside.example", "A");
    assert!(!said.contains("10.0.0.1"), "{said}");
}

#[test]
fn records_that_would_hide_a_name_are_not_handed_on() {
    let world = allowing(&["hidden.example"]);
    for kind in ["HTTPS", "SVCB", "ANY"] {
        let said = told(&world, "a", "hidden.example", kind);
        assert!(!said.contains("ech") && !said.contains("203.0.113.99"), "{kind}: {said}");
    }
    // The hint was none.
    assert_eq!(world.agent("a", Nobody, &["tls", "to", "203.0.113.99:443", "hidden.example"]).ok().out, "EPERM");
}

#[test]
fn a_resolver_that_is_silent_opens_nothing_and_comes_back() {
    let mut world = allowing(&["crm.example"]);
    world.zone("silent");
    let said = told(&world, "a", "crm.example", "A");
    assert!(said.starts_with("SERVFAIL") || said == "TIMEOUT", "{said}");
    assert_eq!(world.agent("a", Nobody, &["tls", "to", "203.0.113.40:443", "crm.example"]).ok().out, "EPERM");
    world.zone("speak");
    world.eventually("the name resolves", |world| told(world, "a", "crm.example", "A").starts_with("NOERROR"));
}

#[test]
fn an_address_that_a_name_no_longer_has_closes_in_time_for_whom_asks_again() {
    let mut world = allowing(&["crm.example", "moving.example"]);
    world.zone("add moving.example A 60 203.0.113.44");
    assert!(told(&world, "a", "moving.example", "A").starts_with("NOERROR 203.0.113.44 "));
    // A name's address is nobody else's name.
    world.far.clear();
    let run = world.agent("a", Nobody, &["tls", "to", "203.0.113.44:443", "crm.example"]).ok();
    assert!(!run.out.starts_with("hello"), "{}", run.out);
    assert_eq!((world.far.sni_seen("crm.example"), world.far.heard(b"crm.example")), (0, 0));
}

/// The processes of the gateway, in which the guard is.
fn gateways(world: &World) -> Vec<i32> {
    let status = world.json(&["status"]);
    let jobs = status["jobs"].as_array().unwrap().iter().filter(|job| job["agent"] == "gateway");
    let root = sys::cgroup::mount_point().unwrap();
    // Between two of them there is none.
    jobs.flat_map(|job| sys::cgroup::processes(&root.join(job["cgroup"].as_str().unwrap())).unwrap_or_default())
        .collect()
}

#[test]
fn without_the_guard_nothing_resolves_and_no_question_leaves() {
    let mut world = allowing(&["crm.example"]);
    let mut asking = world.agent_on("a", Nobody, &["names", "each-line"]);
    let mut ask = |how: &str, name: &str| asking.ask(&format!("{how} {RESOLVER} {name} A"), "");
    assert!(ask("udp", "crm.example").starts_with("NOERROR"));
    let signal = |world: &World, signal| {
        for pid in gateways(world) {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    };
    signal(&world, Signal::SIGSTOP);
    world.far.clear();
    for how in WAYS {
        for name in ["crm.example", "evil.example"] {
            let said = ask(how, name);
            assert!(!said.starts_with("NOERROR"), "{how} {name}: {said}");
        }
    }
    assert_eq!((world.far.asked_at_all(), world.far.traffic()), (0, 0));
    signal(&world, Signal::SIGCONT);
    // One that ends is started again.
    signal(&world, Signal::SIGKILL);
    world.eventually("the name resolves", |world| told(world, "a", "crm.example", "A").starts_with("NOERROR"));
    // And with the daemon gone nobody guards, and nothing passes.
    world.sigkill();
    thread::sleep(Duration::from_millis(200));
    world.far.clear();
    for how in WAYS {
        let said = ask(how, "evil.example");
        assert!(!said.starts_with("NOERROR"), "{how}: {said}");
    }
    assert_eq!(world.far.asked("evil.example"), 0);
}

#[test]
fn outside_the_fence_nothing_is_answered_otherwise() {
    let mut world = World::named();
    let before = world.outside(&["names", "ordinary"]).ok().out;
    assert!(before.contains("from [::ffff:203.0.113.53]:53") && before.contains("NXDOMAIN"), "{before}");
    world.start();
    world.use_contract("a", json!({ "egress": [host("crm.example")] }));
    world.agent("a", Nobody, &["names", "look-up", "crm.example"]).ok();
    assert_eq!(world.outside(&["names", "ordinary"]).ok().out, before);
    assert_eq!(world.outside_as_nobody(&["names", "ordinary"]).finish().out, before);
}

/// A world whose answers are good for a second, and one address that a name led to.
fn short_lived() -> World {
    let mut world = World::named();
    world.configure("ttl_floor_seconds = 1\n");
    world.zone("del crm.example");
    world.zone("add crm.example A 1 203.0.113.40");
    world.start();
    world.use_contract("a", json!({ "egress": [host("crm.example")] }));
    world
}

#[test]
fn when_an_answer_has_run_out_nothing_new_begins_and_what_lives_goes_on() {
    let world = short_lived();
    assert_eq!(told(&world, "a", "crm.example", "A"), "NOERROR 203.0.113.40 ttl 1 from 203.0.113.53:53 peer -");
    let mut held = world.agent_on("a", Nobody, &["tls", "hold", "203.0.113.40:443", "crm.example"]);
    held.until("connected");
    let call = || world.agent("a", Nobody, &["tls", "to", "203.0.113.40:443", "crm.example"]).ok().out;
    assert_eq!(call(), "hello from crm.example");
    world.eventually("the answer runs out", |_| call() == "EPERM");
    let denied = world.json(&["explain"]);
    let said = denied.as_array().unwrap().iter().find(|decision| decision["reason"] == "name_expired").unwrap();
    assert_eq!(said["name"], "crm.example", "{said}");
    assert!(said["sentence"].as_str().unwrap().contains("an address that crm.example led to"), "{said}");
    held.ask("GET / HTTP/1.1", "sent");
    held.ask("", "sent");
    assert_eq!(held.until("got"), "got hello from crm.example");
    // Whoever asks again may begin again.
    assert!(told(&world, "a", "crm.example", "A").starts_with("NOERROR"));
    assert_eq!(call(), "hello from crm.example");
}

#[test]
fn a_guard_that_is_killed_at_any_moment_opens_nothing_and_leaks_nothing() {
    let mut world = allowing(&["crm.example"]);
    world.far.clear();
    thread::scope(|scope| {
        let asking = ["udp", "tcp"].map(|how| {
            let world = &world;
            scope.spawn(move || {
                for _ in 0..12 {
                    for name in ["evil.example", "crm.example"] {
                        let said = world.agent("a", Nobody, &["names", "ask", how, RESOLVER, name, "A"]).ok().out;
                        assert!(name == "crm.example" || !said.starts_with("NOERROR"), "{said}");
                        let to = ["tls", "to", "203.0.113.41:443", "one.shared.example"];
                        assert_eq!(world.agent("a", Nobody, &to).ok().out, "EPERM");
                    }
                }
            })
        });
        for turn in 0..8 {
            thread::sleep(Duration::from_millis(37 * turn));
            for pid in gateways(&world) {
                // It may have gone meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for asked in asking {
            asked.join().unwrap();
        }
    });
    assert_eq!((world.far.asked("evil.example"), world.far.heard(b"shared.example")), (0, 0));
}

#[test]
fn in_another_network_namespace_no_name_is_answered() {
    let world = allowing(&["crm.example"]);
    let script = format!("ip link set lo up; {} names ask udp {RESOLVER} crm.example A", world.probe());
    let words = ["run", "--agent", "a", "--userns-root", "--", "unshare", "-n", "sh", "-c", &script];
    let run = world.clawguard(&words);
    assert!(!run.out.contains("NOERROR"), "{run:?}");
    let denied = world.json(&["explain"]).to_string();
    assert!(denied.contains("\"dns\""), "{denied}");
}

#[test]
fn no_job_asks_in_anothers_name() {
    let world = allowing(&["crm.example"]);
    let mut other = world.agent_on("a", Nobody, &["names", "each-line"]);
    assert!(other.ask(&format!("udp {RESOLVER} crm.example A"), "").starts_with("NOERROR"));
    let log = world.log_text();
    let port = log.lines().rev().find_map(|line| line.split_once("answering names port=")).unwrap().1.trim().to_owned();
    let mut words = vec!["each".to_owned()];
    for slot in 1..16 {
        words.extend(["udp".into(), format!("127.67.0.{slot}:{port}")]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = world.agent("a", Nobody, &words).ok().out;
    // Its own way is open, and nobody else's.
    assert_eq!(said.lines().filter(|line| !line.ends_with("EPERM")).count(), 1, "{said}");
}
