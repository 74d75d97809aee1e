//! Whatever is accepted and forwarded, another reader reads the same in it: the same method, the same name, the same arguments,
//! both in what came and in what was written. The other reader is serde_json, which takes the last of two members of one name.
//!
//! The messages are those of a session of either era, changed at random in ways in which readers are known to differ. The changes
//! are the same in every run.

#[path = "differential/mutate.rs"]
mod mutate;

use std::collections::{BTreeMap, HashSet};

use mcp::{
    json::Json,
    message::{Message, Outcome},
};
use mutate::{Change, Random, SEEDS};
use serde_json::Value;

/// How many changed messages are read.
const MESSAGES: usize = 100_000;

/// What we read, as the other reader would hold it. Fails where that would lose anything.
fn as_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::Number(text) => read(text.as_bytes()),
        Json::String(text) => Value::String(text.to_string()),
        Json::Array(items) => items.iter().map(as_value).collect(),
        Json::Object(members) => {
            let names: HashSet<&str> = members.iter().map(|(name, _)| &**name).collect();
            assert_eq!(names.len(), members.len(), "a name is there twice");
            members.iter().map(|(name, value)| (name.to_string(), as_value(value))).collect()
        }
    }
}

/// What the other reader reads.
fn read(text: &[u8]) -> Value {
    let read = serde_json::from_slice(text);
    assert!(read.is_ok(), "only we read {}: {read:?}", String::from_utf8_lossy(text));
    read.unwrap_or_default()
}

fn check(text: &[u8], message: &Message) {
    let shown = String::from_utf8_lossy(text);
    let came = read(text);
    let written = message.to_bytes();
    let mut forwarded = read(&written);
    assert_eq!(Message::parse(&written).as_ref(), Ok(message), "{shown}");
    assert!(!written.contains(&b'\n') && !written.contains(&b'\r'), "{shown}");

    for reading in [&came, &forwarded] {
        assert_eq!(reading.get("method").and_then(Value::as_str), message.method(), "{shown}");
        assert_eq!(reading.get("params").cloned(), message.params().map(as_value), "{shown}");
        let id = message.id().map_or(Value::Null, |id| as_value(&id.clone().into()));
        assert_eq!(reading.get("id").unwrap_or(&Value::Null), &id, "{shown}");
        for member in ["name", "uri", "arguments"] {
            let ours = message.params().and_then(|params| params.get(member)).map(as_value);
            assert_eq!(reading.pointer(&format!("/params/{member}")).cloned(), ours, "{shown}");
        }
    }
    if let Message::Response(response) = message {
        let (member, ours) = match &response.outcome {
            Outcome::Result(result) => ("/result", as_value(result)),
            Outcome::Error(error) => {
                assert_eq!(came.pointer("/error/message").and_then(Value::as_str), Some(&*error.message), "{shown}");
                ("/error/code", error.code.into())
            }
        };
        assert_eq!(came.pointer(member), Some(&ours), "{shown}");
        assert_eq!(forwarded.pointer(member), Some(&ours), "{shown}");
        // Of an error whose request nobody knows the id is written, as null.
        if response.id.is_none()
            && came.get("id").is_none()
            && let Some(forwarded) = forwarded.as_object_mut()
        {
            forwarded.remove("id");
        }
    }
    assert_eq!(came, forwarded, "{shown}");
}

#[test]
fn every_seed_is_accepted_as_it_stands() {
    for seed in SEEDS {
        let message = Message::parse(seed.as_bytes()).unwrap_or_else(|flaw| panic!("{seed}: {flaw}"));
        check(seed.as_bytes(), &message);
    }
}

#[test]
fn whatever_is_forwarded_another_reader_reads_the_same() {
    let mut random = Random::new(0x5eed);
    let mut accepted: BTreeMap<Change, usize> = BTreeMap::new();
    let mut refused: BTreeMap<Change, usize> = BTreeMap::new();
    // What only the other reader takes.
    let mut only_there = 0;
    for _ in 0..MESSAGES {
        let mut text = random.pick(&SEEDS).as_bytes().to_vec();
        let mut change = Change::Nothing;
        for _ in 0..=random.below(3).min(random.below(3)) {
            change = random.change(&mut text);
        }
        match Message::parse(&text) {
            Ok(message) => {
                check(&text, &message);
                *accepted.entry(change).or_default() += 1;
            }
            Err(_) => {
                only_there += usize::from(serde_json::from_slice::<Value>(&text).is_ok());
                *refused.entry(change).or_default() += 1;
            }
        }
    }
    println!("accepted {accepted:?}\nrefused {refused:?}\nof those, serde_json reads {only_there}");
    // A run in which nothing came through, or everything, would promise nothing.
    let total: usize = accepted.values().sum();
    assert!((MESSAGES / 4..MESSAGES * 3 / 4).contains(&total), "{total} were accepted");
    assert!(only_there > MESSAGES / 20, "{only_there} were refused although they are JSON");
    for change in Change::ALL {
        assert!(accepted.contains_key(&change) || refused.contains_key(&change), "{change:?} was never tried");
    }
}

#[test]
fn what_the_other_reader_reads_in_its_own_way_is_refused() {
    for (text, read) in [
        // It takes the last of two.
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#, true),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":{"y":1,"y":2}}}}"#,
            true,
        ),
        // A double's infinity, for others.
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1e999}}}"#, false),
        // Another's id.
        (r#"{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/list"}"#, true),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"tools/list"}"#, true),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#, true),
    ] {
        assert!(Message::parse(text.as_bytes()).is_err(), "{text}");
        assert_eq!(serde_json::from_str::<Value>(text).is_ok(), read, "{text}");
    }
}
