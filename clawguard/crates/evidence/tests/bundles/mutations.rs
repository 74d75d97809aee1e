//! Flip, drop, swap, double, reorder: every node of a bundle, without and with new signatures.

use claw::Value;
use proptest::prelude::*;

use crate::support::{
    AGENT, GATEWAY, SENTINEL, Step, at, bundle, chain, enforcing, fault, judge, path, seal, text, trust,
};

/// Every node's way.
fn nodes(value: &Value) -> Vec<Vec<Step>> {
    fn walk(value: &Value, so_far: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
        let mut into = |step: Step, inner: &Value| {
            so_far.push(step);
            found.push(so_far.clone());
            walk(inner, so_far, found);
            so_far.pop();
        };
        match value {
            Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| into(Step::Index(i), item)),
            Value::Object(members) => members.iter().for_each(|(name, inner)| into(Step::Name((**name).into()), inner)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, &mut Vec::new(), &mut found);
    found
}

/// Everything that is done to one node.
fn changes(whole: &Value, way: &[Step]) -> Vec<(&'static str, Value)> {
    let mut made = Vec::new();
    let (last, parent) = way.split_last().unwrap();
    let mut copy = whole.clone();
    let node = at(&mut copy, way).clone();
    let mut put = |what, to: Value| {
        let mut changed = whole.clone();
        *at(&mut changed, way) = to;
        made.push((what, changed));
    };
    match &node {
        Value::String(old) => {
            let first = if old.starts_with('A') { "B" } else { "A" };
            let last = if old.ends_with('A') { "B" } else { "A" };
            let mut rest = old.chars();
            rest.next();
            put("its first character flipped", text(&format!("{first}{}", rest.as_str())));
            rest = old.chars();
            rest.next_back();
            put("its last character flipped", text(&format!("{}{last}", rest.as_str())));
            put("emptied", text(""));
            put("made null", Value::Null);
        }
        Value::Number(old) => {
            put("one more", Value::Number(old + 1.0));
            put("made a text", text("1"));
        }
        Value::Bool(old) => put("flipped", Value::Bool(!old)),
        Value::Null => put("made a text", text("AAAAAAAAAAA")),
        Value::Array(items) => {
            put("emptied", Value::Array(Vec::new()));
            put("made an object", Value::Object(Vec::new()));
            if items.len() > 1 {
                put("turned round", Value::Array(items.iter().rev().cloned().collect()));
            }
        }
        Value::Object(members) => {
            put("emptied", Value::Object(Vec::new()));
            put("made a list", Value::Array(Vec::new()));
            put("turned round", Value::Object(members.iter().rev().cloned().collect()));
            let more = [members.clone(), vec![("zzz".into(), Value::Null)]].concat();
            put("with one more", Value::Object(more));
        }
    }
    let mut dropped = whole.clone();
    match (at(&mut dropped, parent), last) {
        (Value::Array(items), Step::Index(i)) => _ = items.remove(*i),
        (Value::Object(members), Step::Name(name)) => members.retain(|(n, _)| **n != **name),
        _ => unreachable!(),
    }
    made.push(("dropped", dropped));
    if let Step::Index(i) = last {
        let mut doubled = whole.clone();
        let Value::Array(items) = at(&mut doubled, parent) else { unreachable!() };
        items.insert(*i, node);
        made.push(("doubled", doubled));
        let mut swapped = whole.clone();
        let Value::Array(items) = at(&mut swapped, parent) else { unreachable!() };
        if i + 1 < items.len() {
            items.swap(*i, i + 1);
            made.push(("swapped with the next", swapped));
        }
    }
    // An object of one member is the same turned round.
    made.retain(|(_, changed)| changed != whole);
    made
}

fn told(way: &[Step]) -> String {
    way.iter()
        .map(|step| match step {
            Step::Name(name) => format!(".{name}"),
            Step::Index(index) => format!("[{index}]"),
        })
        .collect::<String>()
        .trim_start_matches('.')
        .to_owned()
}

#[test]
fn nothing_in_a_bundle_can_be_changed() {
    let whole = bundle("host_evidence");
    let mut count = 0;
    for way in nodes(&whole) {
        for (what, changed) in changes(&whole, &way) {
            let place = told(&way);
            // An envelope's own date and the order of its own members are not signed.
            if place == "issued_at" && fault(&changed).is_none() {
                continue;
            }
            let fault = fault(&changed).unwrap_or_else(|| panic!("{place} {what}: valid"));
            assert!(!fault.place.is_empty(), "{place} {what}: {fault}");
            count += 1;
        }
    }
    assert!(count > 800, "{count}");
}

/// Whoever has the agent's key can write the bundle anew. What others signed, and the chain, still hold it.
#[test]
fn the_agent_itself_can_change_nothing_that_others_signed() {
    let whole = bundle("host_evidence");
    let mut count = 0;
    for part in ["payload.event_chain", "payload.receipts", "payload.coverage_attestations"] {
        let within = path(part);
        for way in nodes(&whole).into_iter().filter(|way| way.len() > within.len() && way.starts_with(&within)) {
            for (what, mut changed) in changes(&whole, &way) {
                let place = told(&way);
                seal(&mut changed, "", AGENT);
                // The inner envelope's order and date are not signed; what is left out as a whole is not there to be wrong.
                let unsigned = what == "turned round" && way.len() == within.len() + 1;
                // Two attestations of the same are not worse than one.
                let same = what == "doubled" && part.ends_with("attestations");
                let Some(fault) = fault(&changed) else {
                    assert!(
                        unsigned || same || (what == "dropped" && part == "payload.receipts"),
                        "{place} {what}: valid"
                    );
                    continue;
                };
                assert!(fault.place.starts_with("payload."), "{place} {what}: {fault}");
                // What was bound to an event that is gone is named in its place.
                let bound = what == "dropped" && part == "payload.event_chain";
                let named =
                    fault.place.starts_with(part) || fault.place.starts_with("payload.metadata.sentinels") || bound;
                assert!(named, "{place} {what}: {fault}");
                // Of several items the one that was changed, or the one after it.
                if let (Step::Index(i), "payload.event_chain") = (&way[within.len()], part)
                    && fault.place.starts_with(&format!("{part}["))
                    && way.len() > within.len() + 1
                {
                    let [here, next] = [*i, i + 1].map(|i| format!("{part}[{i}]"));
                    assert!(
                        fault.place.starts_with(&here) || fault.place.starts_with(&next),
                        "{place} {what}: {fault}"
                    );
                }
                count += 1;
            }
        }
    }
    assert!(count > 400, "{count}");
}

/// A signature does not make a signed thing right: what contradicts the rest is found however well it is signed.
#[test]
fn a_signed_receipt_is_still_of_one_run_and_one_event() {
    for (place, seed) in [
        ("payload.receipts[0]", GATEWAY),
        ("payload.coverage_attestations[0]", SENTINEL),
        ("payload.metadata.sentinels.egress_policy_receipt", AGENT),
    ] {
        let binding = path(&format!("{place}.payload.binding"));
        let whole = bundle("host_evidence");
        for way in nodes(&whole).into_iter().filter(|way| way.len() > binding.len() && way.starts_with(&binding)) {
            let name = told(&way);
            // Hashes of contract and token are what the gateway says; nothing in the bundle contradicts it.
            if name.ends_with("policy_hash") || name.ends_with("token_scope_hash_b64u") {
                continue;
            }
            for (what, mut changed) in changes(&whole, &way) {
                seal(&mut changed, place, seed);
                seal(&mut changed, "", AGENT);
                let fault = fault(&changed).unwrap_or_else(|| panic!("{name} {what}: valid"));
                assert!(fault.place.starts_with(place), "{name} {what}: {fault}");
            }
        }
    }
}

#[test]
fn events_that_are_left_out_leave_their_receipts_behind() {
    for i in 0..3 {
        let mut changed = bundle("host_evidence");
        let Value::Array(events) = at(&mut changed, &path("payload.event_chain")) else { panic!() };
        events.remove(i);
        chain(&mut changed);
        seal(&mut changed, "", AGENT);
        let fault = fault(&changed).unwrap_or_else(|| panic!("event {i} is not missed"));
        assert!(!fault.place.starts_with("payload.event_chain"), "{fault}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_changed_byte_is_found_or_means_the_same(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let whole = bundle("host_evidence");
        let mut bytes = whole.to_string().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let verdict = evidence::verify::verify(&bytes, &trust(), &enforcing());
        if verdict.is_valid() {
            // White space, or the envelope's date.
            let sound = judge(&whole, &enforcing());
            prop_assert_eq!(verdict.hash, sound.hash);
            prop_assert_eq!(verdict.claims, sound.claims);
        }
    }

    #[test]
    fn no_text_stops_the_verifier(text in "\\PC{0,200}", cut in any::<prop::sample::Index>()) {
        let whole = bundle("host_evidence").to_string();
        let half = whole.get(..cut.index(whole.len())).unwrap_or_default();
        for text in [text.as_str(), half] {
            prop_assert!(!evidence::verify::verify(text.as_bytes(), &trust(), &enforcing()).is_valid());
        }
    }
}
