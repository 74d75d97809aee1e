//! A message that is accepted is forwarded so that everybody reads in it what was judged: what is written reads the same again,
//! on one line, and another reader finds the same method, name and arguments in what came and in what was written.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use mcp::{
    definition::{Definition, collisions},
    era::{self, Era, Flaw},
    header::{self, Headers},
    json::{self, Json},
    list,
    message::{Message, Outcome},
};
use serde_json::Value;

fn as_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::Number(text) => serde_json::from_str(text).expect("a number is one for everybody"),
        Json::String(text) => Value::String(text.to_string()),
        Json::Array(items) => items.iter().map(as_value).collect(),
        Json::Object(members) => {
            let names: HashSet<&str> = members.iter().map(|(name, _)| &**name).collect();
            assert_eq!(names.len(), members.len(), "a name is there once");
            members.iter().map(|(name, value)| (name.to_string(), as_value(value))).collect()
        }
    }
}

/// The two forms of a value, and what they promise.
fn check_json(data: &[u8], value: &Json) {
    assert_eq!(serde_json::from_slice::<Value>(data).expect("what is read here is JSON"), as_value(value));
    let written = value.to_bytes();
    assert!(!written.iter().any(|byte| matches!(byte, 0..0x20 | 0x7f)), "it stands on one line");
    assert_eq!(json::parse(&written).as_ref(), Ok(value));
    let canonical = value.canonical();
    let again = json::parse(canonical.as_bytes()).expect("the canonical form is JSON");
    assert_eq!(again.canonical(), canonical);
}

fn check_message(data: &[u8], message: &Message) {
    let written = message.to_bytes();
    assert_eq!(Message::parse(&written).as_ref(), Ok(message));
    for text in [data, &written] {
        let read: Value = serde_json::from_slice(text).expect("a message is JSON");
        assert_eq!(read.get("method").and_then(Value::as_str), message.method());
        assert_eq!(read.get("params").cloned(), message.params().map(as_value));
        if let Some(id) = message.id() {
            assert_eq!(read.get("id"), Some(&as_value(&id.clone().into())));
        }
    }
}

/// A request of the modern era is accepted with the headers that are made from it.
fn check_headers(message: &Message) {
    let Message::Request(request) = message else { return };
    let params = request.params.as_ref();
    let version = params.and_then(|params| params.at(&["_meta", era::PROTOCOL_VERSION])).and_then(Json::as_str);
    let named =
        header::name_of(&request.method).is_none_or(|name| params.and_then(|p| p.get(name)?.as_str()).is_some());
    if version != Some(era::MODERN) || !named {
        return;
    }
    let made = header::mirrored(&request.method, params, &[]);
    let headers = Headers::read(made.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    match era::check(&headers.expect("what is encoded is fit for a header"), message) {
        Ok(Era::Modern) | Err(Flaw::Meta(_)) => {}
        other => panic!("{other:?}"),
    }
}

fn check_lists(message: Message) {
    let Message::Response(response) = message else { return };
    let Outcome::Result(mut result) = response.outcome else { return };
    list::tools(&mut result, |_| true);
    let tools = result.get("tools").and_then(Json::as_array).expect("it is a list now");
    let definitions: Vec<Definition> =
        tools.iter().map(|tool| Definition::of(tool).expect("each has a name")).collect();
    let names: HashSet<&str> = definitions.iter().map(|definition| &*definition.name).collect();
    assert_eq!(names.len(), definitions.len(), "each name is there once");
    let refused = collisions(names.iter().copied());
    let rest: Vec<&str> = names.iter().copied().filter(|name| !refused.contains(name)).collect();
    assert!(collisions(rest).is_empty(), "what is left is told apart");
    for tool in tools {
        let _ = header::params(tool);
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(value) = json::parse(data) else {
        assert!(Message::parse(data).is_err());
        return;
    };
    check_json(data, &value);
    let Ok(message) = Message::read(value) else { return };
    check_message(data, &message);
    check_headers(&message);
    check_lists(message);
});
