//! What the contract has left out of requests.

use mcp::json::{self, Json};
use policy::model::{Action, Redaction, Step};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::redact::redact,
    world::{CHAT, World},
};

fn rule(path: &str, action: Action) -> Redaction {
    Redaction::new(path, action).unwrap()
}

fn redacted(text: &str, rules: &[Redaction]) -> (Value, u64) {
    let mut body = json::parse(text.as_bytes()).unwrap();
    let places = redact(&mut body, rules);
    (serde_json::from_slice(&body.to_bytes()).unwrap(), places)
}

#[test]
fn each_action_does_what_it_says() {
    let text = r#"{"messages":[{"content":"a","role":"user"},{"content":[1,2]},{"role":"x"}],"user":"me"}"#;
    let (masked, places) = redacted(text, &[rule("$.messages[*].content", Action::Mask)]);
    assert_eq!(places, 2);
    assert_eq!(
        masked["messages"],
        json!([{ "content": "[REDACTED]", "role": "user" }, { "content": "[REDACTED]" }, { "role": "x" }])
    );
    let (hashed, _) = redacted(text, &[rule("user", Action::Hash)]);
    // `printf '"me"' | sha256sum`: of the canonical JSON, quotation marks included.
    assert_eq!(hashed["user"], format!("[HASH:sha256:{}]", claw::Hash::of(b"\"me\"")));
    let (removed, places) = redacted(text, &[rule("$.messages[0]", Action::Remove), rule("$.user", Action::Remove)]);
    assert_eq!((removed, places), (json!({ "messages": [{ "content": [1, 2] }, { "role": "x" }] }), 2));
    let (emptied, places) = redacted(text, &[rule("$.messages[*]", Action::Remove)]);
    assert_eq!((&emptied["messages"], places), (&json!([]), 3));
    let (same, places) = redacted(
        text,
        &[rule("$.nowhere.x", Action::Remove), rule("$.user.name", Action::Mask), rule("$.messages[9]", Action::Mask)],
    );
    assert_eq!((same, places), (serde_json::from_str(text).unwrap(), 0));
}

#[tokio::test]
async fn what_is_left_out_is_gone_before_it_is_judged_hashed_and_sent() {
    let rules =
        json!([{ "path": "$.messages[*].content", "action": "mask" }, { "path": "$.user", "action": "remove" }]);
    let mut world = World::new(json!({ "allowed_models": ["m"], "redaction_rules": rules })).await;
    world.provider.body(200, "application/json", "{}");
    let body = r#"{"model":"m","user":"me","messages":[{"content":"secret"},{"content":"words"}]}"#;
    assert_eq!(world.post(CHAT, &[], body).await.status, 200);
    let heard = world.provider.heard().await;
    assert_eq!(
        heard.json(),
        json!({ "model": "m", "messages": [{ "content": "[REDACTED]" }, { "content": "[REDACTED]" }] })
    );
    let call = world.daemon.calls().pop().unwrap();
    assert_eq!((call.redactions, call.request_hash), (3, claw::Hash::of(&heard.body).to_string()));
    assert_eq!(call.bytes_in, body.len() as u64);
    // What is judged is what is left.
    let mut world =
        World::new(json!({ "allowed_models": ["m"], "redaction_rules": [{ "path": "$.model", "action": "mask" }] }))
            .await;
    assert_eq!(world.post(CHAT, &[], body).await.code(), "POLICY_MODEL_NOT_ALLOWED");
    assert!(world.provider.is_unasked());
}

#[test]
fn a_rule_reaches_what_it_names_by_whatever_spelling_and_in_whatever_form() {
    let text = "$.messages[*].content[*].text";
    for (path, body) in [
        ("$.systemInstruction", r#"{"system_instruction":"SECRET"}"#),
        ("$.system_instruction", r#"{"systemInstruction":{"parts":[{"text":"SECRET"}]},"SystemInstruction":"SECRET"}"#),
        ("$.generationConfig.responseSchema", r#"{"generation_config":{"response_schema":{"x":"SECRET"}}}"#),
        ("$.contents[*].parts[*].inlineData.data", r#"{"contents":[{"parts":[{"inline_data":{"data":"SECRET"}}]}]}"#),
        ("$.contents[*].parts[*].text", r#"{"contents":{"parts":{"text":"SECRET"}}}"#),
        ("$.contents.parts.text", r#"{"contents":[{"parts":[{"text":"SECRET"},{"text":"SECRET"}]}]}"#),
        ("$.metadata.user_id", "{\"metadata\":{\"u\u{17f}er_ID\":\"SECRET\"}}"),
        ("$.messages[*].content", r#"{"input":[{"role":"user","content":"SECRET"}]}"#),
        ("$.messages[*].content", r#"{"input":[{"type":"function_call_output","output":"SECRET"}]}"#),
        ("$.messages[*].content", r#"{"input":"SECRET"}"#),
        ("$.messages[*].content", r#"{"messages":[],"contents":[{"parts":[{"text":"SECRET"}]}]}"#),
        ("$.input", r#"{"messages":[{"content":"SECRET"}]}"#),
        ("$.system", r#"{"instructions":"SECRET"}"#),
        ("$.messages[0].content", r#"{"input":"SECRET"}"#),
        (text, r#"{"messages":[{"content":"SECRET"},{"content":[{"type":"text","text":"SECRET"}]}]}"#),
        (text, r#"{"input":"SECRET"}"#),
        (text, r#"{"messages":[{"content":[{"type":"tool_result","content":"SECRET"}]}]}"#),
        (text, r#"{"messages":[{"content":[{"type":"tool_result","content":[{"type":"text","text":"SECRET"}]}]}]}"#),
        ("$.system[*].text", r#"{"systemInstruction":{"parts":[{"text":"SECRET"}]}}"#),
        ("$.systemInstruction.parts[*].text", r#"{"system":[{"type":"text","text":"SECRET"}]}"#),
        ("$.systemInstruction.parts", r#"{"system":[{"type":"text","text":"SECRET"}]}"#),
        (text, r#"{"contents":[{"parts":[{"text":"SECRET"}]}]}"#),
    ] {
        for action in Action::ALL {
            let (got, places) = redacted(body, &[rule(path, action)]);
            assert!(places > 0 && !got.to_string().contains("SECRET"), "{path}: {got}");
        }
    }
    for (path, body) in [
        ("$.messages[*].content[*].image_url.url", r#"{"messages":[{"content":"words"}]}"#),
        ("$.messages[*].role", r#"{"input":"words"}"#),
        ("$.messages[1].content", r#"{"input":"words"}"#),
        ("$.system", r#"{"systems":"words","messages":[{"content":"words"}]}"#),
    ] {
        let (same, places) = redacted(body, &[rule(path, Action::Mask)]);
        assert_eq!((same, places), (serde_json::from_str(body).unwrap(), 0), "{path}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!(1)), Just(json!("x")), Just(Value::Null)];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn path() -> impl Strategy<Value = String> {
    let step =
        prop_oneof![Just(".a".to_owned()), Just(".b".to_owned()), Just("[*]".to_owned()), Just("[1]".to_owned())];
    prop::collection::vec(step, 1..4).prop_map(|steps| format!("${}", steps.concat()))
}

/// Every place of a value that a path leads to, by JSON pointer.
fn places(value: &Value, steps: &[Step], at: &str, into: &mut Vec<String>) {
    let text = value.is_string() && steps.iter().all(Step::is_in_text);
    let Some((step, rest)) = steps.split_first().filter(|_| !text) else { return into.push(at.to_owned()) };
    match (step, value) {
        (Step::Member(_), Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                places(item, steps, &format!("{at}/{i}"), into);
            }
        }
        (Step::Items | Step::Item(0), Value::Object(_)) => places(value, rest, at, into),
        (Step::Member(name), Value::Object(members)) => {
            if let Some(inner) = members.get(&**name) {
                places(inner, rest, &format!("{at}/{name}"), into);
            }
        }
        (Step::Items, Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                places(item, rest, &format!("{at}/{i}"), into);
            }
        }
        (Step::Item(i), Value::Array(items)) => {
            if let Some(item) = items.get(*i) {
                places(item, rest, &format!("{at}/{i}"), into);
            }
        }
        _ => {}
    }
}

proptest! {
    /// Everything that a path leads to is changed, and nothing else is.
    #[test]
    fn a_rule_reaches_what_it_names_and_nothing_else(body in value(), path in path(), action in prop::sample::select(&[Action::Hash, Action::Mask][..])) {
        let rule = rule(&path, action);
        let mut expected = body.clone();
        let mut found = Vec::new();
        places(&body, &rule.steps, "", &mut found);
        for place in &found {
            let there = expected.pointer_mut(place).unwrap();
            let hash = || claw::Hash::of(json::parse(there.to_string().as_bytes()).unwrap().canonical().as_bytes());
            *there = match action {
                Action::Hash => format!("[HASH:sha256:{}]", hash()).into(),
                _ => "[REDACTED]".into(),
            };
        }
        let (got, count) = redacted(&body.to_string(), &[rule]);
        prop_assert_eq!((got, count), (expected, found.len() as u64));
    }

    /// What is removed is not there any more: no text of it is in what is sent.
    #[test]
    fn what_is_removed_leaves_nothing(body in value(), path in path()) {
        let rule = rule(&path, Action::Remove);
        let mut found = Vec::new();
        places(&body, &rule.steps, "", &mut found);
        let mut marked = body.clone();
        for place in &found {
            *marked.pointer_mut(place).unwrap() = "SECRET".into();
        }
        let (got, count) = redacted(&marked.to_string(), std::slice::from_ref(&rule));
        prop_assert_eq!(count, found.len() as u64);
        prop_assert!(!got.to_string().contains("SECRET"));
    }

    /// What is sent is one thing to everybody: written anew, it reads as what was judged.
    #[test]
    fn what_is_sent_reads_as_what_was_judged(body in value(), path in path(), action in prop::sample::select(&Action::ALL[..])) {
        let mut judged = json::parse(body.to_string().as_bytes()).unwrap();
        redact(&mut judged, &[rule(&path, action)]);
        let sent = judged.to_bytes();
        let read: Json = json::parse(&sent).unwrap();
        prop_assert_eq!(&read, &judged);
        prop_assert_eq!(read.to_bytes(), sent);
    }
}
