//! The attack table of names: every way that is known to ask for, or to call, what the contract does not name at an address
//! that it does. First unfenced, so that it is seen to work, then fenced. The judges are the far end's name server and its
//! TLS hosts, which see what segments, records and retransmissions came to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{thread, time::Duration};

use e2e::{
    Identity::{self, NamespaceRoot, Nobody},
    World,
};
use serde_json::json;

/// Runs one attack and asks the far end whether the marker came, by whatever way, and what the attack said.
fn judge(world: &mut World, id: &str, n: usize, run: impl Fn(&World, &[&str]) -> String) -> (bool, String) {
    // Eight bytes that no other attack sends.
    let marker = format!("cg{n:06}");
    world.far.clear();
    let said = run(world, &["attack-names", id, &marker]);
    thread::sleep(Duration::from_millis(30));
    let reached = world.far.heard(marker.as_bytes()) > 0
        || world.far.asked_like(&marker) > 0
        || world.far.seen(marker.as_bytes()) > 0;
    (reached, said)
}

/// The rows, by the probe's own list.
fn rows(world: &World) -> Vec<(String, String)> {
    let listed = world.outside(&["attacks-names"]).ok().out;
    listed.lines().map(|line| line.split_once('\t').unwrap()).map(|(id, from)| (id.into(), from.into())).collect()
}

/// Each row must reach the far end without a fence, as the user whom agents become: one that does not shows nothing.
fn shown(world: &mut World) -> Vec<(String, String)> {
    let rows = rows(world);
    // The judge itself can say no.
    let harmless = |world: &World, _: &[&str]| world.outside(&["tls", "name", "crm.example"]).ok().out;
    assert_eq!(judge(world, "nothing", 0, harmless), (false, "hello from crm.example".into()));
    let mut idle = Vec::new();
    for (n, (id, _)) in rows.iter().enumerate() {
        let (reached, said) = judge(world, id, n, |world, words| world.outside_as_nobody(words).finish().out);
        if !reached {
            idle.push(format!("{id}: {said}"));
        }
    }
    assert!(idle.is_empty(), "these do not reach the far end even without a fence: {idle:?}");
    assert!(rows.len() >= 65, "only {} rows", rows.len());
    rows
}

/// What the contract of the attacked fence allows.
fn contract() -> serde_json::Value {
    let host = |name: &str| json!({ "host": name, "ports": [443], "tls": true });
    let names = ["crm.example", "customers.crm.example", "again.example", "sink.example", "rebound.example"].map(host);
    json!({ "egress": names })
}

fn fenced(identity: Identity) {
    let mut world = World::named_up();
    world.use_contract("prey", contract());
    let rows = shown(&mut world);
    let mut through = Vec::new();
    for (n, (id, source)) in rows.iter().enumerate() {
        let (reached, said) = judge(&mut world, id, 1000 + n, |world, words| world.agent("prey", identity, words).out);
        println!("{:9} {id:28} {source:12} {said}", if reached { "reached" } else { "stopped" });
        if reached {
            through.push(id.clone());
        }
    }
    assert!(through.is_empty(), "reached the far end: {through:?}");
    // And the fence is no wall.
    for name in ["crm.example", "customers.crm.example"] {
        let run = world.agent("prey", identity, &["tls", "name", name]).ok();
        assert_eq!(run.out, format!("hello from {name}"));
    }
}

#[test]
fn every_attack_reaches_the_far_end_without_a_fence() {
    shown(&mut World::named());
}

#[test]
fn no_attack_of_an_unprivileged_user_gets_a_name_through() {
    fenced(Nobody);
}

#[test]
fn no_attack_of_a_namespaces_root_gets_a_name_through() {
    fenced(NamespaceRoot);
}
