//! Which record is whose event, and the chain that they make.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that goes wrong stops")]

use claw::{
    Hash,
    json::{self, Limits},
    time::Instant,
};
use evidence::{
    chain::{Head, Kind},
    events::{Chain, Event, LATE, Made, PART, Runs, Told, payload_hash},
};
use proptest::prelude::*;
use serde_json::{Value, json};

const EXAMPLE: &str = include_str!("../../claw/tests/vectors/worked_example.json");

/// Records, by number.
#[derive(Default)]
struct Records(Vec<(Kind, String)>);

impl Records {
    fn add(&mut self, kind: Kind, body: &Value) -> &mut Self {
        self.0.push((kind, body.to_string()));
        self
    }

    fn told(&self) -> impl Iterator<Item = Told<'_>> {
        self.0.iter().enumerate().map(|(seq, (kind, body))| Told {
            seq: seq as u64,
            at: at(seq as u64),
            kind: *kind,
            body,
        })
    }

    fn made(&self) -> Vec<Made> {
        let mut runs = Runs::default();
        self.told().flat_map(|told| runs.take(&told)).collect()
    }

    /// What happened to a job, in words.
    fn words(&self, job: &str) -> Vec<String> {
        let of_job = |made: &Made| made.job == job;
        self.made().iter().filter(|made| of_job(made)).map(|made| made.event.event_type.to_owned()).collect()
    }
}

fn at(seq: u64) -> Instant {
    Instant(1_772_323_200_000_000_000 + seq * 1_000_000_000)
}

fn start(job: &str, agent: &str, own: bool) -> Value {
    json!({ "job": job, "agent": agent, "wpc_hash": "c1", "own_contract": own, "mode": "enforce" })
}

fn flip(group: &str, state: &str, whose: &str) -> Value {
    json!({ "flip": { "group": group, "state": state, "whose": whose }, "reason": "r" })
}

#[test]
fn a_chain_has_the_hashes_of_claws_own() {
    let example: Value = serde_json::from_str(EXAMPLE).unwrap();
    let events = example["event_chain"]["events"].as_array().unwrap();
    let mut chain = Chain::new("run_7f3a");
    let event = chain.append(1, "run_start", at(0), "{\"task\":\"triage\"}");
    assert_eq!(serde_json::from_str::<Value>(&event.to_json()).unwrap(), events[0]);
    assert_eq!(event.event_hash.to_string(), "WdbrSkLQOBj8yHd6BPQx0IUk1SAFz9gQ_EYckiawu9o");
    // Of the later ones the example has no payloads: their headers all the same.
    for (i, event) in events.iter().enumerate() {
        let mut header = event.clone();
        header.as_object_mut().unwrap().remove("event_hash_b64u");
        let member = |name: &str| format!("\"{name}\":{}", event[name]);
        let names = ["event_id", "run_id", "event_type", "timestamp", "payload_hash_b64u", "prev_hash_b64u"];
        let text = format!("{{{}}}", names.map(member).join(","));
        assert_eq!(event["event_hash_b64u"], Hash::of(text.as_bytes()).to_string(), "event {i}");
    }
}

#[test]
fn what_names_a_job_is_its_event() {
    let mut records = Records::default();
    records
        .add(Kind::Start, &json!({ "version": "0.1.0" }))
        .add(Kind::JobStart, &start("a", "bot", false))
        .add(Kind::JobStart, &start("b", "other", true))
        .add(Kind::Token, &json!({ "result": "presented", "job": "a" }))
        .add(Kind::Token, &json!({ "result": "revoked", "jobs": ["b"], "observed": ["a"] }))
        .add(Kind::Call, &json!({ "job": "a", "decision": "allowed" }))
        .add(Kind::Call, &json!({ "job": "a", "decision": "denied" }))
        .add(Kind::Call, &json!({ "job": "a", "decision": "held" }))
        .add(Kind::Call, &json!({ "decision": "unknown", "reason": "never_begun" }))
        .add(Kind::Approval, &json!({ "job": "a", "result": "asked" }))
        .add(Kind::Model, &json!({ "job": "a", "decision": "allowed" }))
        .add(Kind::Model, &json!({ "job": "a", "outcome": "ok" }))
        .add(Kind::Model, &json!({ "job": "a", "decision": "denied" }))
        .add(Kind::Alert, &json!({ "job": "a", "kind": "model_direct" }))
        .add(Kind::Checkpoint, &json!({}))
        .add(Kind::Drill, &json!({ "drill": {}, "actor": {} }))
        .add(Kind::Configuration, &json!({}))
        .add(Kind::JobEnd, &json!({ "job": "a" }));
    assert_eq!(
        records.words("a"),
        [
            "run_start",
            "token",
            "token",
            "tool_call",
            "tool_denied",
            "tool_held",
            "approval",
            "llm_call",
            "llm_result",
            "llm_denied",
            "bypass_alert",
            "run_end"
        ]
    );
    assert_eq!(records.words("b"), ["run_start", "token"]);
}

#[test]
fn what_happens_to_the_host_concerns_every_job_that_is_not_over() {
    let mut records = Records::default();
    records
        .add(Kind::JobStart, &start("a", "bot", false))
        .add(Kind::JobStart, &start("b", "other", false))
        .add(Kind::JobStart, &start("gone", "bot", false))
        .add(Kind::JobEnd, &json!({ "job": "gone" }))
        .add(Kind::Flip, &flip("crm", "killed", "host"))
        .add(Kind::Flip, &flip("crm", "live", "agent bot"))
        .add(Kind::Flip, &flip("mode", "lockdown", "job b"))
        .add(Kind::FlipFailed, &flip("crm", "killed", "job a"))
        .add(Kind::Flip, &flip("crm", "killed", "agent nobody"))
        .add(Kind::Flip, &json!({ "adopted": [{ "group": "crm", "whose": "agent other" }], "reason": "r" }))
        .add(Kind::Pin, &json!({ "result": "new", "server": "crm" }))
        .add(Kind::Alert, &json!({ "alert": "records_lost", "count": 3 }))
        .add(Kind::BreakGlass, &json!({ "verb": "break-glass" }));
    let common = ["tool_pin", "host_alert", "fence_removed"];
    let a = ["run_start", "tool_group_killed", "tool_group_restored", "flip_unproven"];
    let b = ["run_start", "tool_group_killed", "mode_changed", "tool_group_killed"];
    assert_eq!(records.words("a"), [&a[..], &common].concat());
    assert_eq!(records.words("b"), [&b[..], &common].concat());
    assert_eq!(records.words("gone"), ["run_start", "run_end"]);
}

#[test]
fn a_contract_concerns_those_that_are_under_it() {
    let mut records = Records::default();
    records
        .add(Kind::JobStart, &start("a", "bot", false))
        .add(Kind::JobStart, &start("own", "bot", true))
        .add(Kind::Contract, &json!({ "agent": "bot", "wpc_hash": "c2" }))
        .add(Kind::Contract, &json!({ "agent": "bot", "refused": "no" }))
        .add(Kind::Contract, &json!({ "wpc_hash": "c1", "expired": true }))
        .add(Kind::Contract, &json!({ "wpc_hash": "c2", "expired": true }));
    assert_eq!(records.words("a"), ["run_start", "policy_in_force", "policy_expired"]);
    assert_eq!(records.words("own"), ["run_start", "policy_expired"]);
    let made = records.made();
    let expired = |job: &str| made.iter().rfind(|made| made.job == job).unwrap().event.event_id.clone();
    assert_eq!((expired("a"), expired("own")), ("evt_5".into(), "evt_4".into()));
}

#[test]
fn of_decisions_a_job_has_its_own() {
    let entry = |job: &str, port: u16| json!({ "job": job, "remote": format!("192.0.2.1:{port}") });
    let mut records = Records::default();
    records
        .add(Kind::JobStart, &start("a", "bot", false))
        .add(Kind::JobStart, &start("b", "bot", false))
        .add(Kind::Decisions, &json!({ "decisions": [entry("a", 1), entry("b", 2), entry("a", 3), entry("none", 4)] }));
    let made = records.made();
    let of = |job: &str| made.iter().rfind(|made| made.job == job).unwrap().event.payload_hash;
    assert_eq!(of("a"), Hash::of(json!({ "decisions": [entry("a", 1), entry("a", 3)] }).to_string().as_bytes()));
    assert_eq!(of("b"), Hash::of(json!({ "decisions": [entry("b", 2)] }).to_string().as_bytes()));
}

#[test]
fn what_comes_late_is_still_its_jobs_and_a_name_that_is_given_again_is_another_run() {
    let mut records = Records::default();
    records
        .add(Kind::JobStart, &start("a", "bot", false))
        .add(Kind::JobEnd, &json!({ "job": "a" }))
        .add(Kind::Decisions, &json!({ "decisions": [{ "job": "a" }] }))
        .add(Kind::JobStart, &start("a", "bot", false))
        .add(Kind::Decisions, &json!({ "decisions": [{ "job": "a" }] }));
    let made = records.made();
    let runs: Vec<&str> = made.iter().map(|made| &*made.event.run_id).collect();
    assert_eq!(runs, ["run_a_0", "run_a_0", "run_a_0", "run_a_3", "run_a_3"]);
    assert_eq!(made[3].event.prev_hash, None);
    // Nobody is remembered for ever.
    let mut runs = Runs::default();
    for told in records.told().take(2) {
        runs.take(&told);
    }
    let late = |seq| Told { seq, at: at(seq), kind: Kind::Call, body: r#"{"job":"a","decision":"denied"}"# };
    assert_eq!(runs.clone().take(&late(1 + LATE)).len(), 1);
    assert_eq!(runs.take(&late(2 + LATE)), []);
    assert_eq!(runs, Runs::default());
}

#[test]
fn a_chain_begins_anew_with_every_part_and_every_hash_is_of_its_event() {
    let mut chain = Chain::new("run_a_0");
    let events: Vec<Event> = (0..2 * PART + 1).map(|seq| chain.append(seq, "tool_call", at(seq), "{}")).collect();
    for (i, event) in events.iter().enumerate() {
        let first = (i as u64).is_multiple_of(PART);
        assert_eq!(event.prev_hash, (!first).then(|| events[i - 1].event_hash), "event {i}");
    }
    assert_eq!((chain.events(), chain.head()), (2 * PART + 1, events.last().map(|event| event.event_hash)));
}

#[test]
fn a_payloads_hash_is_of_what_v8_would_write() {
    for same in ["{}", r#"{"a":1,"b":[true,null,"\u0001é\n"]}"#, r#"{"b":{"a":9007199254740991}}"#] {
        assert_eq!(payload_hash(same), Hash::of(same.as_bytes()), "{same}");
    }
    assert_eq!(payload_hash(r#"{"b":1.0,"7":2}"#), Hash::of(br#"{"7":2,"b":1}"#));
    assert_eq!(payload_hash(r#"{"b":18446744073709551615}"#), Hash::of(br#"{"b":18446744073709552000}"#));
    // What cannot be read is hashed as it stands.
    assert_eq!(payload_hash(r#"{"a":1,"a":2}"#), Hash::of(br#"{"a":1,"a":2}"#));
}

/// The hash of a payload that is read and written again, whatever it looks like.
fn written_again(text: &str) -> Hash {
    json::parse(text.as_bytes(), Limits { bytes: text.len(), depth: 128 })
        .map_or_else(|_| Hash::of(text.as_bytes()), |value| value.insertion_hash())
}

proptest! {
    #[test]
    fn a_payloads_hash_is_the_same_at_a_look(
        name in "[a-z0-9]{1,2}|\\PC{0,3}", text in any::<String>(), number in "-?[0-9]{1,17}([.eE]-?[0-9]{1,2})?", space in "[ \n]{0,1}",
        escape in "(\\\\([bfnrtu/\"]|u00[012][0-9a-fA-F]))?",
    ) {
        let (name, text) = (Value::from(name), Value::from(text));
        let body = format!(r#"{{"job":"a{escape}",{space}{name}:[{text},{number},null],"7":{text}}}"#);
        prop_assert_eq!(payload_hash(&body), written_again(&body), "{}", body);
        let body = format!(r#"{{"job":"a{escape}",{name}:[{text},{number},true]}}"#);
        prop_assert_eq!(payload_hash(&body), written_again(&body), "{}", body);
    }
}

#[test]
fn a_line_of_the_chain_is_read_without_its_body_being_written_anew() {
    // serde_json sorts what it reads: the body has to come from the line.
    let body = r#"{"job":"a","decision":"denied","agent":"z"}"#;
    let (line, _) =
        Head::default().append(Kind::Call, at(0), serde_json::value::RawValue::from_string(body.into()).unwrap());
    let told = Told::of_line(line.as_bytes()).unwrap();
    assert_eq!((told.seq, told.at, told.kind, told.body), (0, at(0), Kind::Call, body));
    assert!(Told::of_line(b"{}").is_none());
}

#[test]
fn a_body_of_another_shape_is_nobodys_event() {
    let mut records = Records::default();
    records.add(Kind::JobStart, &start("a", "bot", false));
    for (kind, body) in [
        (Kind::JobStart, json!({ "job": 1, "agent": "bot" })),
        (Kind::Flip, json!({ "flip": { "group": "crm", "whose": "host" } })),
        (Kind::Decisions, json!({ "decisions": { "job": "a" } })),
        (Kind::Token, json!({ "jobs": "a" })),
        (Kind::Call, json!({ "job": "", "decision": "allowed" })),
        (Kind::Call, json!({ "job": "a", "decision": "thought_about" })),
        (Kind::Alert, json!({ "kind": "dns" })),
    ] {
        records.add(kind, &body);
    }
    records.0.push((Kind::Pin, "{".into()));
    assert_eq!(records.words("a"), ["run_start"]);
}

/// Some record.
fn record() -> impl Strategy<Value = (Kind, Value)> {
    let job = prop::sample::select(vec!["a", "b", "c"]);
    let scope = prop::sample::select(vec!["host", "agent bot", "agent other", "job a", "job c"]);
    (0..9_u8, job, scope, any::<bool>(), "\\PC{0,12}").prop_map(|(what, job, whose, flag, text)| match what {
        0 => (Kind::JobStart, start(job, if job == "a" { "bot" } else { "other" }, flag)),
        1 => (Kind::JobEnd, json!({ "job": job, "text": text })),
        2 => (Kind::Flip, json!({ "flip": { "group": "crm", "state": "killed", "whose": whose }, "reason": text })),
        3 => (Kind::Decisions, json!({ "decisions": [{ "job": job, "name": text }, { "job": "b" }] })),
        4 => (Kind::Contract, json!({ "agent": "bot", "wpc_hash": text, "expired": flag })),
        5 => (Kind::Token, json!({ "jobs": [job, "b"], "observed": [] })),
        6 => (Kind::Pin, json!({ "server": text })),
        7 => (Kind::Checkpoint, json!({})),
        _ => (Kind::Call, json!({ "job": job, "decision": if flag { "allowed" } else { "denied" }, "tool": text })),
    })
}

proptest! {
    /// The daemon makes events as it writes; an export reads the lines that were written. Both have the same.
    #[test]
    fn what_is_derived_from_the_lines_is_what_was_made_while_they_were_written(
        records in prop::collection::vec(record(), 0..120), again in 0..120_usize,
    ) {
        let (mut head, mut lines) = (Head::default(), Vec::new());
        let (mut runs, mut made) = (Runs::default(), Vec::new());
        let mut saved = None;
        for (i, (kind, body)) in records.iter().enumerate() {
            let seq = head.next;
            let (line, next) = head.append(*kind, at(seq), body);
            let text = body.to_string();
            made.extend(runs.take(&Told { seq, at: at(seq), kind: *kind, body: &text }));
            lines.push(line);
            head = next;
            if i == again {
                saved = Some(serde_json::to_string(&runs).unwrap());
            }
        }
        let (mut derived, mut told) = (Runs::default(), Vec::new());
        for line in &lines {
            told.extend(derived.take(&Told::of_line(line.as_bytes()).unwrap()));
        }
        prop_assert_eq!(&told, &made);
        prop_assert_eq!(&derived, &runs);
        // And a daemon that starts anew goes on where it was.
        if let Some(saved) = saved {
            let mut anew: Runs = serde_json::from_str(&saved).unwrap();
            let rest: Vec<Made> = lines[again + 1..].iter().flat_map(|line| anew.take(&Told::of_line(line.as_bytes()).unwrap())).collect();
            prop_assert_eq!(&rest[..], &made[made.len() - rest.len()..]);
            prop_assert_eq!(anew, runs);
        }
    }
}
