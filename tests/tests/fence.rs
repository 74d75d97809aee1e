//! What a contract allows passes, and nothing else, in either direction.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, thread, time::Duration};

use e2e::{Identity::Nobody, World};
use serde_json::json;

#[test]
fn what_the_contract_names_passes_and_the_rest_gets_an_errno_at_once() {
    let mut world = World::up();
    world.use_contract(
        "a",
        json!({ "egress": [
            { "host": "crm.example", "tls": false },
            { "host": "chat.example", "tls": false, "ports": [7001] },
            { "cidr": "203.0.113.30/32", "ports": [7002], "protocol": "udp" },
        ]}),
    );
    let run = world.agent(
        "a",
        Nobody,
        &[
            "each",
            "tcp",
            "203.0.113.10:443",
            "tcp",
            "[2001:db8::10]:443",
            "tcp",
            "203.0.113.20:7001",
            "udp",
            "203.0.113.30:7002",
            "tcp",
            "203.0.113.10:7001",
            "tcp",
            "203.0.113.20:443",
            "tcp",
            "203.0.113.30:7002",
            "udp",
            "203.0.113.10:443",
            "udp",
            "203.0.113.30:7001",
            "tcp",
            "203.0.113.99:443",
            "tcp",
            "[2001:db8::99]:443",
            "tcp",
            "[::ffff:203.0.113.10]:443",
            "tcp",
            "[::ffff:203.0.113.99]:443",
        ],
    );
    let expected = "tcp 203.0.113.10:443 ok hello\ntcp [2001:db8::10]:443 ok hello\ntcp 203.0.113.20:7001 ok hello\n\
        udp 203.0.113.30:7002 ok hello\ntcp 203.0.113.10:7001 EPERM\ntcp 203.0.113.20:443 EPERM\n\
        tcp 203.0.113.30:7002 EPERM\nudp 203.0.113.10:443 EPERM\nudp 203.0.113.30:7001 EPERM\n\
        tcp 203.0.113.99:443 EPERM\ntcp [2001:db8::99]:443 EPERM\n\
        tcp [::ffff:203.0.113.10]:443 ok hello\ntcp [::ffff:203.0.113.99]:443 EPERM";
    assert_eq!(run.ok().out, expected);
}

#[test]
fn a_connected_datagram_socket_is_judged_at_the_packet() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "cidr": "203.0.113.10/32", "ports": [443], "protocol": "udp" }] }));
    assert_eq!(world.agent("a", Nobody, &["udp-connected", "203.0.113.10:443", "x"]).ok().out, "ok x");
    world.far.clear();
    assert_eq!(world.agent("a", Nobody, &["udp-connected", "203.0.113.99:443", "x"]).ok().out, "EPERM");
    assert_eq!(world.far.traffic(), 0);
    // A mere connect(2), which glibc does for every address of a name, raises nothing.
    let denied = world.json(&["explain"]);
    let hooks: Vec<&str> = denied.as_array().unwrap().iter().map(|d| d["hook"].as_str().unwrap()).collect();
    assert_eq!(hooks, ["egress"]);
}

#[test]
fn a_job_reaches_its_own_listeners_on_loopback_and_nobody_elses() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [] }));
    world.use_contract("b", json!({ "egress": [] }));
    let own = world.agent("a", Nobody, &["own-loopback"]).ok();
    for line in own.out.lines() {
        assert!(line.ends_with(" ok own"), "{line}");
    }
    // The host's service, another agent's, and another job's of the same agent.
    let _host = started(world.outside_on(&["listen", "7601"]));
    let _other = started(world.agent_on("b", Nobody, &["listen", "7602"]));
    let _sibling = started(world.agent_on("a", Nobody, &["listen", "7603"]));
    for port in ["7601", "7602", "7603"] {
        for address in ["127.0.0.1", "0.0.0.0", "[::1]", "203.0.113.1"] {
            let run = world.agent("a", Nobody, &["tcp", &format!("{address}:{port}"), "x"]).ok();
            assert_eq!(run.out, "EPERM", "{address}:{port}");
        }
    }
    // Nor does the host reach an agent's listener.
    assert_eq!(world.outside(&["tcp", "127.0.0.1:7602", "x"]).ok().out, "TIMEOUT");
}

#[test]
fn a_loopback_service_is_reached_if_a_rule_names_it() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "cidr": "127.0.0.1/32", "ports": [7601] }] }));
    let _host = started(world.outside_on(&["listen", "7601"]));
    let _other = started(world.outside_on(&["listen", "7602"]));
    assert_eq!(world.agent("a", Nobody, &["tcp", "127.0.0.1:7601", "x"]).ok().out, "ok X");
    assert_eq!(world.agent("a", Nobody, &["tcp", "127.0.0.1:7602", "x"]).ok().out, "EPERM");
}

fn started(mut process: e2e::Outside) -> e2e::Outside {
    assert_eq!(process.line(), "listening");
    process
}

#[test]
fn inbound_is_closed_but_for_listen_rules() {
    let mut world = World::up();
    world.use_contract(
        "a",
        json!({ "listen": [
            { "cidr": "203.0.113.20/32", "ports": [7700] },
            { "cidr": "203.0.113.0/24", "ports": [7701], "protocol": "udp" },
            { "cidr": "2001:db8::/64", "ports": [7700] },
        ]}),
    );
    let _tcp = started(world.agent_on("a", Nobody, &["listen", "7700"]));
    let _closed = started(world.agent_on("a", Nobody, &["listen", "7702"]));
    let _udp = started(world.agent_on("a", Nobody, &["listen-udp", "7701"]));
    // The far end calls from 203.0.113.10, its first address.
    assert_eq!(world.far.call("203.0.113.1:7700", "hello"), "<refused>");
    assert_eq!(world.far.call("[2001:db8::1]:7700", "hello"), "HELLO");
    assert_eq!(world.far.call("[2001:db8::1]:7702", "hello"), "<refused>");
    assert_eq!(world.far.datagram("203.0.113.1:7701", "hello"), "HELLO");
    assert_eq!(world.far.datagram("[2001:db8::1]:7701", "hello"), "<silence>");
    world.use_contract("a", json!({ "listen": [{ "cidr": "203.0.113.0/24", "ports": [7700] }] }));
    assert_eq!(world.far.call("203.0.113.1:7700", "hello"), "HELLO");
    assert_eq!(world.far.datagram("203.0.113.1:7701", "hello"), "<silence>");
}

#[test]
fn an_accepted_connection_is_its_listeners_and_ends_with_its_rule() {
    let mut world = World::up();
    world.use_contract("a", json!({ "listen": [{ "cidr": "203.0.113.0/24", "ports": [7700] }] }));
    let mut listener = started(world.agent_on("a", Nobody, &["listen", "7700"]));
    assert_eq!(world.far.call("203.0.113.1:7700", "one"), "ONE");
    assert_eq!(listener.until("heard"), "heard one");
    world.clawguard(&["kill", "all", "--reason", "test"]).ok();
    assert_eq!(world.far.call("203.0.113.1:7700", "two"), "<refused>");
    world.clawguard(&["restore", "all", "--reason", "test"]).ok();
    assert_eq!(world.far.call("203.0.113.1:7700", "three"), "THREE");
}

#[test]
fn only_tcp_and_udp_sockets_can_be_made_and_mptcp_falls_back() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [] }));
    let run = world.agent("a", Nobody, &["families"]).ok();
    let said = |name: &str| run.out.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap().to_owned();
    for name in ["tcp4", "tcp6", "udp4", "route"] {
        assert_eq!(said(name), "ok", "{name}");
    }
    assert_eq!(said("mptcp"), "EPROTONOSUPPORT");
    for name in ["udplite", "ping", "raw"] {
        assert_eq!(said(name), "EPERM", "{name}");
    }
    for name in ["unix", "packet", "vsock", "alg", "diag"] {
        assert_eq!(said(name), "EAFNOSUPPORT", "{name}");
    }
    let run = world.agent("a", Nobody, &["sockopt"]).ok();
    assert!(run.out.starts_with("join EPERM\noptions EPERM\nttl ok\n"), "{}", run.out);
}

#[test]
fn unix_sockets_are_there_if_the_contract_says_so() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [], "unix_sockets": true }));
    let run = world.agent("a", Nobody, &["families"]).ok();
    assert!(run.out.lines().any(|line| line == "unix ok"));
    assert!(run.out.lines().any(|line| line == "vsock EAFNOSUPPORT"));
}

#[test]
fn a_socket_stays_fenced_when_its_process_leaves_the_cgroup() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    talk.until("connected");
    assert_eq!(talk.ask("one", "got"), "got one");
    // Host root moves the whole job out of its cgroup.
    let job =
        world.json(&["status"])["jobs"].as_array().unwrap().iter().find(|job| job["agent"] == "a").unwrap().clone();
    let root = sys::cgroup::mount_point().unwrap();
    let directory = root.join(job["cgroup"].as_str().unwrap());
    for pid in sys::cgroup::processes(&directory).unwrap() {
        fs::write(root.join("cgroup.procs"), pid.to_string()).unwrap();
    }
    world.far.clear();
    // The job's cgroup is empty: the job is over, and with it what its sockets may do.
    world.eventually("the job is over", |world| {
        world.json(&["status"])["jobs"].as_array().unwrap().iter().all(|job| job["agent"] != "a")
    });
    talk.say("two");
    talk.until("read");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(world.far.seen(b"two"), 0);
}

#[test]
fn a_process_in_the_slice_without_a_job_reaches_nothing() {
    let world = World::up();
    let slices: Vec<_> = sys::cgroup::tree(&sys::cgroup::mount_point().unwrap())
        .unwrap()
        .into_iter()
        .filter(|path| path.to_str().unwrap().ends_with("-agents.slice"))
        .collect();
    let ours = slices.iter().find(|slice| {
        // Ours is the one in which this world's gateway runs.
        let gateway = world.json(&["status"])["jobs"][0]["cgroup"].as_str().unwrap().to_owned();
        sys::cgroup::mount_point().unwrap().join(gateway).starts_with(slice)
    });
    let directory = ours.unwrap().join("stray");
    fs::create_dir(&directory).unwrap();
    let stray = world.in_cgroup(&directory);
    let run = stray.run(&["each", "tcp", "203.0.113.10:443", "udp", "203.0.113.10:443"]);
    assert_eq!(run.out, "tcp 203.0.113.10:443 EPERM\nudp 203.0.113.10:443 EPERM");
}

#[test]
fn an_agent_can_read_why_it_was_denied() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [] }));
    let script = format!(
        "{}/probe tcp 203.0.113.99:443 x; for i in 1 2 3 4 5 6 7 8 9 10; do [ -s $CLAWGUARD_DENIALS ] && break; sleep 0.1; done; \
         cat $CLAWGUARD_DENIALS; echo x > $CLAWGUARD_DENIALS",
        world.directory.display()
    );
    let run = world.agent_runs("a", Nobody, &["sh", "-c", &script]);
    let line = run.out.lines().nth(1).unwrap();
    let told: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(told["reason"], "not_in_contract");
    assert_eq!(told["remote"], "203.0.113.99:443");
    assert!(told["sentence"].as_str().unwrap().contains("no rule of contract"), "{told}");
    assert!(run.err.contains("Permission denied") || run.err.contains("Read-only"), "{}", run.err);
}

#[test]
fn a_wide_range_opens_neither_private_addresses_nor_the_metadata_service() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "cidr": "0.0.0.0/0", "ports": [80, 7001] }] }));
    let run = world.agent(
        "a",
        Nobody,
        &[
            "each",
            "tcp",
            "198.51.100.7:7001",
            "tcp",
            "10.1.2.3:7001",
            "tcp",
            "169.254.169.254:80",
            "tcp",
            "[64:ff9b::a9fe:a9fe]:80",
        ],
    );
    assert_eq!(
        run.ok().out,
        "tcp 198.51.100.7:7001 ok hello\ntcp 10.1.2.3:7001 EPERM\ntcp 169.254.169.254:80 EPERM\n\
         tcp [64:ff9b::a9fe:a9fe]:80 EPERM"
    );
    world.use_contract("a", json!({ "egress": [{ "cidr": "10.1.0.0/16", "ports": [7001] }] }));
    assert_eq!(world.agent("a", Nobody, &["tcp", "10.1.2.3:7001", "x"]).ok().out, "ok x");
}

#[test]
fn observe_mode_lets_everything_pass_and_records_what_it_would_deny() {
    let mut world = World::new();
    world.configure("[[agent]]\nname = \"a\"\nmode = \"observe\"");
    world.start();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }] }));
    let words = ["each", "tcp", "203.0.113.10:443", "tcp", "203.0.113.99:443", "udp", "203.0.113.99:7002"];
    let run = world.agent("a", Nobody, &words).ok();
    assert_eq!(run.out, "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.99:443 ok hello\nudp 203.0.113.99:7002 ok hello");
    let seen = world.json(&["explain"]);
    for decision in seen.as_array().unwrap() {
        assert_eq!(
            (decision["verdict"].as_str(), decision["reason"].as_str()),
            (Some("observed"), Some("not_in_contract"))
        );
    }
    assert!(!seen.as_array().unwrap().is_empty());
    // An operator's kill holds all the same.
    world.clawguard(&["kill", "crm", "--reason", "test"]).ok();
    assert!(
        world.agent("a", Nobody, &words).ok().out.starts_with("tcp 203.0.113.10:443 EPERM\ntcp 203.0.113.99:443 ok")
    );
}

#[test]
fn options_that_reach_around_the_packet_hooks_are_refused() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let lines = |out: String| out.lines().skip(3).map(str::to_owned).collect::<Vec<_>>();
    let refused = ["freebind EPERM", "device EPERM", "pacing EPERM", "txtime EPERM"];
    assert_eq!(lines(world.agent("a", Nobody, &["sockopt"]).ok().out), refused);
    // Anybody else may.
    let free = ["freebind ok", "device ok", "pacing ok", "txtime ok"];
    assert_eq!(lines(world.outside_as_nobody(&["sockopt"]).finish().out), free);
}

#[test]
fn a_rule_for_loopback_is_not_one_for_its_other_forms() {
    let mut world = World::up();
    let rule = |protocol: &str| json!({ "cidr": "127.0.0.1/32", "ports": [7003], "protocol": protocol });
    world.use_contract("a", json!({ "egress": [rule("udp"), rule("tcp")] }));
    for to in ["[2002:7f00:1::1]:7003", "[64:ff9b::7f00:1]:7003"] {
        world.outside(&["udp", to, "unfenced"]);
        assert!(world.far.seen(b"unfenced") > 0, "{to}");
        world.far.clear();
        assert_eq!(world.agent("a", Nobody, &["udp", to, "x"]).ok().out, "EPERM", "{to}");
        assert_eq!(world.agent("a", Nobody, &["tcp", to, "x"]).ok().out, "EPERM", "{to}");
        assert_eq!(world.far.traffic(), 0, "{to}");
    }
}
