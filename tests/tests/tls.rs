//! TLS: an address that many share is open for the names that the contract names, and for no other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{thread, time::Duration};

use e2e::{Identity::Nobody, World};
use serde_json::{Value, json};

/// The host that has names of many.
const SHARED: &str = "203.0.113.40:443";

fn host(name: &str) -> Value {
    json!({ "host": name, "ports": [443], "tls": true })
}

/// A world in which agent `a` may call for these, and has asked where they are.
fn allowing(names: &[&str]) -> World {
    let mut world = World::named_up();
    world.use_contract("a", json!({ "egress": names.iter().map(|name| host(name)).collect::<Vec<_>>() }));
    for name in names {
        assert_ne!(world.agent("a", Nobody, &["names", "look-up", name]).ok().out, "none", "{name}");
    }
    world.far.clear();
    world
}

/// The reasons of what was denied, without repetitions.
fn reasons(world: &World) -> Vec<String> {
    let denied = world.json(&["explain"]);
    let mut reasons: Vec<String> =
        denied.as_array().unwrap().iter().map(|denial| denial["reason"].as_str().unwrap().to_owned()).collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

#[test]
fn the_far_end_hears_a_name_in_whatever_pieces_it_comes() {
    let mut world = World::named();
    for how in ["whole", "bytes", "large", "versions"] {
        world.far.clear();
        let run = world.outside(&["tls", "hello", how, SHARED, "evil.example"]).ok();
        assert_eq!(run.out, "answered", "{how}");
        assert_eq!((world.far.sni_seen("EVIL.example"), world.far.sni_seen("crm.example")), (1, 0), "{how}");
        assert_eq!(world.far.hello_names(443), ["evil.example"], "{how}");
    }
    world.far.clear();
    assert_eq!(world.far.hello_names(443), [""; 0]);
    for id in ["tls-two-names", "tls-two-lists"] {
        world.far.clear();
        world.outside(&["attack-names", id, "cg000000"]).ok();
        assert_eq!(world.far.hello_names(443), ["crm.example", "cg000000.evil.example"], "{id}");
    }
    world.far.clear();
    world.outside(&["attack-names", "tls-records-byte-by-byte", "cg000000"]).ok();
    assert_eq!(world.far.hello_names(443), ["cg000000.evil.example"]);
    // The bytes that were sent first do not arrive; those that took their place do.
    for id in ["tls-sendfile-changed", "tls-sendfile-changed-v6", "tls-zerocopy-changed", "tls-vmsplice-changed"] {
        world.far.clear();
        world.outside(&["attack-names", id, "cg000000"]).ok();
        assert_eq!(world.far.hello_names(443), ["cg000000.evil.example"], "{id}");
        assert!(world.far.seen(b"customers.crm.example") > 0, "{id}");
    }
    // One that asks for a second ClientHello gets it.
    world.far.clear();
    world.outside(&["attack-names", "tls-second-hello", "cg000000"]).ok();
    assert_eq!(world.far.hello_names(443), ["again.example", "cg000000.evil.example"]);
}

#[test]
fn each_of_a_hosts_names_is_greeted_by_its_own() {
    let world = World::named();
    for name in ["crm.example", "evil.example", "any.shared.example"] {
        assert_eq!(world.outside(&["tls", "name", name]).ok().out, format!("hello from {name}"));
    }
    assert_eq!(world.outside(&["tls", "to", "[2001:db8::40]:443", "evil.example"]).ok().out, "hello from evil.example");
}

#[test]
fn the_right_name_passes_and_another_at_the_same_address_does_not() {
    let mut world = allowing(&["crm.example"]);
    for at in [SHARED, "[2001:db8::40]:443", "[::ffff:203.0.113.40]:443"] {
        world.far.clear();
        assert_eq!(
            world.agent("a", Nobody, &["tls", "to", at, "crm.example"]).ok().out,
            "hello from crm.example",
            "{at}"
        );
        assert_eq!(world.far.sni_seen("crm.example"), 1, "{at}");
        world.far.clear();
        let run = world.agent("a", Nobody, &["tls", "to", at, "evil.example"]).ok();
        assert!(!run.out.starts_with("hello"), "{at}: {}", run.out);
        thread::sleep(Duration::from_millis(300));
        assert_eq!((world.far.sni_seen("evil.example"), world.far.heard(b"evil.example")), (0, 0), "{at}");
        assert_eq!(world.far.seen(b"evil.example"), 0, "{at}");
    }
    // What is left of a job when it ends may say good-bye no more.
    let reasons: Vec<String> = reasons(&world).into_iter().filter(|reason| reason != "job_over").collect();
    assert_eq!(reasons, ["sni_mismatch"]);
    let denied = world.json(&["explain"]);
    assert!(denied.to_string().contains("evil.example"), "the name is told: {denied}");
    assert!(world.metric("clawguard_bypass_alerts_total{agent=\"a\",kind=\"sni_mismatch\"}") > 0.0);
}

#[test]
fn a_hello_is_read_as_servers_read_it_whatever_its_size_and_pieces() {
    let mut world = allowing(&["crm.example"]);
    for how in ["whole", "bytes", "large", "versions"] {
        for (name, said) in
            [("crm.example", Some("answered")), ("CRM.Example", Some("answered")), ("evil.example", None)]
        {
            world.far.clear();
            let run = world.agent("a", Nobody, &["tls", "hello", how, SHARED, name]).ok();
            match said {
                Some(said) => assert_eq!(run.out, said, "{how} {name}"),
                None => {
                    assert_ne!(run.out, "answered", "{how} {name}");
                    assert_eq!((world.far.heard(name.as_bytes()), world.far.sni_seen(name)), (0, 0), "{how} {name}");
                }
            }
        }
    }
}

#[test]
fn every_way_of_calling_wrong_has_its_reason() {
    for (id, reason) in [
        ("tls-other-name", "sni_mismatch"),
        ("tls-no-name", "no_sni"),
        ("tls-plaintext", "not_tls"),
        ("tls-garbage-first", "not_tls"),
        ("tls-two-names", "not_tls"),
        ("tls-two-lists", "not_tls"),
        ("tls-record-version", "not_tls"),
        ("tls-early-data", "not_tls"),
        ("tls-ech", "ech"),
        ("quic", "quic"),
    ] {
        let world = allowing(&["crm.example", "customers.crm.example"]);
        world.agent("a", Nobody, &["attack-names", id, "cg000000"]).ok();
        assert!(reasons(&world).contains(&reason.to_owned()), "{id}: {:?}", reasons(&world));
    }
}

#[test]
fn the_hello_that_a_server_asks_for_must_be_for_the_same_names() {
    let mut world = allowing(&["again.example", "crm.example", "customers.crm.example", "sink.example"]);
    world.agent("a", Nobody, &["attack-names", "tls-second-hello", "cg000000"]).ok();
    assert_eq!(world.far.hello_names(443), ["again.example"]);
    assert_eq!(world.far.heard(b"cg000000"), 0);
}

#[test]
fn what_is_sent_again_is_what_was_judged() {
    let mut world = allowing(&["crm.example", "customers.crm.example"]);
    for id in ["tls-sendfile-changed", "tls-sendfile-changed-v6", "tls-zerocopy-changed", "tls-vmsplice-changed"] {
        world.far.clear();
        world.agent("a", Nobody, &["attack-names", id, "cg000000"]).ok();
        assert_eq!((world.far.heard(b"cg000000"), world.far.seen(b"cg000000")), (0, 0), "{id}");
    }
}

#[test]
fn what_a_service_sends_again_from_a_page_is_what_was_judged() {
    let mut world = allowing(&["crm.example", "customers.crm.example"]);
    // Whom ClawGuard did not start may send pages, and rewrite them before they are sent again.
    let service = world.service("pages");
    world.enrol(&service, "a").ok();
    for id in ["tls-sendfile-changed", "tls-sendfile-changed-v6", "tls-vmsplice-changed"] {
        world.far.clear();
        service.run(&["attack-names", id, "cg000000"]);
        assert_eq!((world.far.heard(b"cg000000"), world.far.seen(b"cg000000")), (0, 0), "{id}");
    }
    assert!(world.metric("clawguard_bypass_alerts_total{agent=\"a\",kind=\"no_sni\"}") > 0.0);
}

#[test]
fn a_rule_that_does_not_ask_for_tls_judges_the_address_alone() {
    let mut world = World::named_up();
    let plain = json!({ "host": "sink.example", "ports": [443], "tls": false });
    world.use_contract("a", json!({ "egress": [plain] }));
    assert_eq!(world.agent("a", Nobody, &["names", "look-up", "sink.example"]).ok().out, "203.0.113.43");
    world.agent("a", Nobody, &["tcp", "203.0.113.43:443", "in plain words"]).ok();
    assert_eq!(world.far.heard(b"in plain words"), 1);
}

#[test]
fn a_connection_that_was_greeted_well_goes_on() {
    let world = allowing(&["crm.example"]);
    let mut held = world.agent_on("a", Nobody, &["tls", "hold", SHARED, "crm.example"]);
    held.until("connected");
    // Its name's server may be gone by then.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(held.ask("GET / HTTP/1.1", "sent"), "sent ok");
    assert_eq!(held.ask("", "sent"), "sent ok");
    assert_eq!(held.until("got"), "got hello from crm.example");
}

#[test]
fn a_kill_ends_what_was_greeted() {
    let mut world = World::named_up();
    let crm = json!({ "host": "crm.example", "ports": [443], "tls": true, "groups": ["crm"] });
    world.use_contract("a", json!({ "egress": [crm] }));
    world.agent("a", Nobody, &["names", "look-up", "crm.example"]).ok();
    let mut held = world.agent_on("a", Nobody, &["tls", "hold", SHARED, "crm.example"]);
    held.until("connected");
    world.clawguard(&["kill", "crm", "--reason", "test"]).ok();
    world.far.clear();
    held.say("GET / HTTP/1.1");
    held.say("");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(world.far.bytes(6, 443), 0);
    let run = world.agent("a", Nobody, &["tls", "to", SHARED, "crm.example"]).ok();
    assert!(!run.out.starts_with("hello"), "{}", run.out);
}

#[test]
fn outside_the_fence_any_name_is_called_as_before() {
    let mut world = allowing(&["crm.example"]);
    for name in ["crm.example", "evil.example"] {
        assert_eq!(world.outside(&["tls", "name", name]).ok().out, format!("hello from {name}"));
    }
    world.far.clear();
    world.outside(&["attack-names", "tls-no-name", "cg000000"]).ok();
    assert_eq!(world.far.heard(b"cg000000"), 1);
}

#[test]
fn a_name_is_called_where_it_led_and_not_where_another_did() {
    let mut world = World::named_up();
    let host = |name: &str| json!({ "host": name, "ports": [443], "tls": true });
    world.use_contract("a", json!({ "egress": [host("crm.example"), host("*.shared.example")] }));
    for name in ["crm.example", "one.shared.example"] {
        world.agent("a", Nobody, &["names", "look-up", name]).ok();
    }
    let call = |world: &World, at: &str, name: &str| world.agent("a", Nobody, &["tls", "to", at, name]).ok().out;
    assert_eq!(call(&world, "203.0.113.41:443", "one.shared.example"), "hello from one.shared.example");
    world.far.clear();
    assert!(!call(&world, "203.0.113.41:443", "crm.example").starts_with("hello"));
    assert!(!call(&world, SHARED, "one.shared.example").starts_with("hello"));
    assert_eq!((world.far.heard(b"crm.example"), world.far.heard(b"one.shared.example")), (0, 0));
}

#[test]
fn a_kill_of_one_of_two_names_at_an_address_spares_the_other() {
    let mut world = World::named_up();
    let host = |name: &str, group: &str| json!({ "host": name, "ports": [443], "tls": true, "groups": [group] });
    world.use_contract(
        "a",
        json!({ "egress": [host("crm.example", "crm"), host("customers.crm.example", "customers")] }),
    );
    for name in ["crm.example", "customers.crm.example"] {
        world.agent("a", Nobody, &["names", "look-up", name]).ok();
    }
    let mut held = ["crm.example", "customers.crm.example"].map(|name| {
        let mut held = world.agent_on("a", Nobody, &["tls", "hold", SHARED, name]);
        held.until("connected");
        held
    });
    let killed = world.json(&["kill", "crm", "--reason", "test"]);
    assert_eq!((killed["sockets_destroyed"].as_u64(), killed["sockets_left"].as_u64()), (Some(1), Some(0)), "{killed}");
    assert_eq!(killed["canary"], json!({ "before": "accepted", "after": "refused" }), "{killed}");
    let call = |name: &str| world.agent("a", Nobody, &["tls", "to", SHARED, name]).ok().out;
    assert!(!call("crm.example").starts_with("hello"));
    assert_eq!(call("customers.crm.example"), "hello from customers.crm.example");
    held[1].ask("GET / HTTP/1.1", "sent");
    held[1].ask("", "sent");
    assert_eq!(held[1].until("got"), "got hello from customers.crm.example");
    world.clawguard(&["restore", "crm", "--reason", "test"]).ok();
    assert_eq!(call("crm.example"), "hello from crm.example");
}
