//! Calls that are not made.

use claw::Hash;
use control::calls::Decision;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::world::{CHAT, World};

const ASKED: &str = r#"{"model":"gpt-5","messages":[]}"#;

/// Has a call refused: nothing reaches the provider, and one record says why.
async fn refused(world: &mut World, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let before = world.daemon.calls().len();
    let got = world.post(path, headers, body).await;
    assert!(world.provider.is_unasked(), "{path} {body}");
    let calls = world.daemon.calls();
    assert_eq!(calls.len(), before + 1, "{path} {body}: {got:?}");
    let call = calls.last().unwrap();
    assert_eq!((call.decision, &call.reason), (Decision::Denied, &got.code()), "{body}");
    assert_eq!((call.bytes_in, &call.request_hash), (body.len() as u64, &Hash::of(body.as_bytes()).to_string()));
    assert!(world.daemon.ends().is_empty());
    let repeats = got.header("x-should-retry");
    assert_eq!(repeats, (!matches!(got.status, 429 | 503)).then_some("false"), "{got:?}");
    (got.status, got.code())
}

#[tokio::test]
async fn no_model_is_called_that_the_contract_does_not_give() {
    let mut world = World::new(json!({})).await;
    assert_eq!(refused(&mut world, CHAT, &[], ASKED).await, (403, "POLICY_PROVIDER_NOT_ALLOWED".into()));
    let mut world = World::new(json!({ "allowed_providers": ["anthropic"], "allowed_models": ["claude-*"] })).await;
    assert_eq!(refused(&mut world, CHAT, &[], ASKED).await, (403, "POLICY_PROVIDER_NOT_ALLOWED".into()));
    assert_eq!(refused(&mut world, "/v1/messages", &[], ASKED).await, (403, "POLICY_MODEL_NOT_ALLOWED".into()));
    assert_eq!(world.daemon.calls().last().unwrap().rule.as_deref(), Some("allowed_models"));
    for (rule, code) in [
        (json!({ "minimum_model_identity_tier": "tee_measured" }), "POLICY_MODEL_IDENTITY_TIER_TOO_LOW"),
        (json!({ "receipt_privacy_mode": "encrypted" }), "POLICY_PRIVACY_MODE_UNSUPPORTED"),
        (json!({ "redaction_rules": [{ "path": "$..x", "action": "mask" }] }), "POLICY_REDACTION_UNSUPPORTED"),
    ] {
        let mut members = json!({ "allowed_models": ["*"] });
        members.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let mut world = World::new(members).await;
        assert_eq!(refused(&mut world, CHAT, &[], ASKED).await, (403, code.into()));
    }
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_not_read_at_all() {
    let mut world = World::open().await;
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","mod\u0065l":"b"}"#,
        r#"{"model":1}"#,
        r#"{"model":""}"#,
        r#"{"model":"a b"}"#,
        r#"{"model":"a","stream":"true"}"#,
        r#"{"model":"a","stream":1}"#,
        "\u{feff}{\"model\":\"a\"}",
        r#"{"model":"\ud800"}"#,
        // What passes over case, as some servers do, would call another model, or a tool of its own.
        r#"{"model":"a","Model":"b"}"#,
        r#"{"model":"a","TOOLS":[{"type":"web_search"}]}"#,
        "{\"model\":\"a\",\"tool\u{17f}\":[{\"type\":\"web_search\"}]}",
    ] {
        assert_eq!(refused(&mut world, CHAT, &[], body).await, (400, "INVALID_REQUEST".into()));
    }
    let path = "/v1beta/models/m:generateContent";
    for body in [r#"{"model":"models/n"}"#, r#"{"model":["m"]}"#] {
        assert_eq!(refused(&mut world, path, &[], body).await, (400, "INVALID_REQUEST".into()));
    }
    for path in [
        "/v1/chat/completions?alt=sse",
        "/v1/chat/completions?api-version=1",
        "/v1beta/models/m:generateContent?beta=true",
    ] {
        assert_eq!(refused(&mut world, path, &[], r#"{"model":"m"}"#).await, (400, "INVALID_REQUEST".into()), "{path}");
    }
    for header in [("content-type", "text/plain"), ("content-encoding", "gzip")] {
        assert_eq!(refused(&mut world, CHAT, &[header], ASKED).await, (415, "UNSUPPORTED_MEDIA_TYPE".into()));
    }
    assert_eq!(refused(&mut world, "/v1/proxy/mistral", &[], ASKED).await, (400, "UNKNOWN_PROVIDER".into()));
    assert_eq!(world.daemon.calls().last().unwrap().provider, "mistral");
}

#[tokio::test]
async fn what_a_provider_would_do_by_itself_is_not_asked_for() {
    let mut world = World::open().await;
    let tool = |path: &str, tool: &str| (path.to_owned(), format!(r#"{{"model":"m","tools":[{tool}]}}"#));
    let google = "/v1beta/models/m:generateContent";
    let more = |path: &str, more: &str| (path.to_owned(), format!(r#"{{"model":"m",{more}}}"#));
    for (path, body) in [
        tool("/v1/responses", r#"{"type":"mcp","server_url":"https://x.example"}"#),
        tool("/v1/responses", r#"{"type":"function"},{"type":"web_search"}"#),
        tool("/v1/responses", r#"{"kind":"function"}"#),
        more("/v1/responses", r#""prompt":{"id":"p"}"#),
        more("/v1/responses", r#""tools":{}"#),
        tool(CHAT, r#"{"type":"web_search"}"#),
        more(CHAT, r#""web_search_options":{}"#),
        tool("/v1/messages", r#"{"type":"web_fetch_20250910"}"#),
        tool("/v1/messages", r#"{"type":"mcp_toolset"}"#),
        more("/v1/messages", r#""mcp_servers":[]"#),
        tool(google, r#"{"googleSearch":{}}"#),
        tool(google, r#"{"functionDeclarations":[],"url_context":{}}"#),
    ] {
        assert_eq!(
            refused(&mut world, &path, &[], &body).await,
            (403, "POLICY_PROVIDER_TOOL_NOT_ALLOWED".into()),
            "{body}"
        );
    }
    for (path, body) in [
        tool(CHAT, r#"{"type":"function","function":{"name":"web_search"}}"#),
        tool("/v1/responses", r#"{"type":"function"},{"type":"custom"}"#),
        tool("/v1/messages", r#"{"name":"x"},{"type":"custom"},{"type":"bash_20250124"}"#),
        tool(google, r#"{"functionDeclarations":[]}"#),
        more(CHAT, r#""tools":null"#),
    ] {
        world.provider.body(200, "application/json", "{}");
        assert_eq!(world.post(&path, &[], &body).await.status, 200, "{body}");
    }
}

#[tokio::test]
async fn whoever_says_that_he_is_another_is_refused() {
    let mut world = World::open().await;
    assert_eq!(refused(&mut world, CHAT, &[("x-cst", "tok.en")], ASKED).await, (401, "TOKEN_MISMATCH".into()));
    let hash: String = Sha256::digest("tok.en").iter().map(|byte| format!("{byte:02x}")).collect();
    world.change(|rules| rules.jobs[0].token = Some(hash.clone())).await;
    assert_eq!(refused(&mut world, CHAT, &[("x-scoped-token", "other")], ASKED).await, (401, "TOKEN_MISMATCH".into()));
    for headers in [[("x-cst", "tok.en"), ("x-scoped-token", "other")], [("x-cst", "tok.en"), ("x-cst", "other")]] {
        assert_eq!(refused(&mut world, CHAT, &headers, ASKED).await, (400, "STRICT_AUTH_HEADERS".into()));
    }
    assert_eq!(
        refused(&mut world, CHAT, &[("x-policy-hash", "other")], ASKED).await,
        (403, "POLICY_HASH_MISMATCH".into())
    );
    let private = [("x-receipt-privacy-mode", "encrypted")];
    assert_eq!(refused(&mut world, CHAT, &private, ASKED).await, (403, "POLICY_PRIVACY_MODE_UNSUPPORTED".into()));
    for headers in [
        &[("x-cst", "tok.en"), ("x-scoped-token", "tok.en"), ("x-policy-hash", "contract")][..],
        &[("authorization", "Bearer other")],
        &[],
    ] {
        world.provider.body(200, "application/json", "{}");
        assert_eq!(world.post(CHAT, headers, ASKED).await.status, 200, "{headers:?}");
        assert_eq!(world.provider.heard().await.header("x-cst").len(), 0);
    }
    assert_eq!(world.daemon.calls().pop().unwrap().token, Some(hash));
}

#[tokio::test]
async fn a_web_page_and_another_host_get_nothing() {
    let world = World::open().await;
    for header in [("host", "llm.example:9481"), ("host", "127.0.0.1:9480"), ("origin", "https://page.example")] {
        let got = world.post(CHAT, &[header], ASKED).await;
        assert_eq!((got.status, &*got.code()), (403, "INVALID_REQUEST"), "{header:?}");
    }
    assert_eq!(world.get("/v1/models").await.status, 404);
    assert_eq!(world.get(CHAT).await.status, 405);
    assert!(world.daemon.calls().is_empty());
}

#[tokio::test]
async fn a_job_that_may_call_nothing_calls_no_model() {
    let mut world = World::open().await;
    world.change(|rules| rules.jobs[0].stopped = Some("its token has expired".into())).await;
    assert_eq!(refused(&mut world, CHAT, &[], ASKED).await, (403, "POLICY_REQUIRED".into()));
    world.change(|rules| rules.jobs[0].stopped = None).await;
    world.change(|rules| rules.closed = Some("the disk is full".into())).await;
    assert_eq!(refused(&mut world, CHAT, &[], ASKED).await, (503, "UNRECORDABLE".into()));
    world.change(|rules| rules.closed = None).await;
    *world.daemon.unrecorded.lock().unwrap() = Some("the disk is full".into());
    let got = world.post(CHAT, &[], ASKED).await;
    assert_eq!((got.status, &*got.code()), (503, "UNRECORDABLE"));
    assert!(world.provider.is_unasked());
    *world.daemon.unrecorded.lock().unwrap() = None;
    world.change(|rules| rules.model.providers.retain(|provider| provider.name != "openai")).await;
    assert_eq!(refused(&mut world, CHAT, &[], ASKED).await, (403, "PROVIDER_NOT_CONFIGURED".into()));
    world.change(|rules| rules.jobs[0].key += 1).await;
    assert_eq!(world.post(CHAT, &[], ASKED).await.code(), "JOB_OVER");
}

#[tokio::test]
async fn a_job_that_is_only_watched_is_told_of_and_not_held() {
    let mut world = World::new(
        json!({ "allowed_models": ["other"], "redaction_rules": [{ "path": "$.messages", "action": "remove" }] }),
    )
    .await;
    world.change(|rules| rules.jobs[0].observe = true).await;
    world.provider.body(200, "application/json", "{}");
    assert_eq!(world.post(CHAT, &[], ASKED).await.status, 200);
    assert_eq!(String::from_utf8(world.provider.heard().await.body).unwrap(), ASKED);
    let call = world.daemon.calls().pop().unwrap();
    assert_eq!((call.decision, &*call.reason), (Decision::Allowed, "POLICY_MODEL_NOT_ALLOWED"));
    world.daemon.told.lock().unwrap().clear();
    world.change(|rules| rules.killed.extend(["model".to_owned()])).await;
    assert_eq!(refused(&mut world, CHAT, &[], ASKED).await, (403, "MODEL_KILLED".into()));
}

#[tokio::test]
async fn a_call_that_is_known_is_not_made_again() {
    let mut world = World::open().await;
    let steps = world.provider.steps();
    let named = [("x-idempotency-key", "n-1")];
    let mut first = world.send("POST", CHAT, &named, ASKED).await;
    world.provider.heard().await;
    let again = world.post(CHAT, &named, ASKED).await;
    assert_eq!(
        (again.status, &*again.code(), again.header("x-should-retry")),
        (409, "IDEMPOTENCY_KEY_IN_USE", Some("false"))
    );
    assert_eq!(world.get("/v1/receipt/n-1").await.code(), "RECEIPT_INFLIGHT");
    steps.send(super::world::Step::Send(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n".to_vec())).unwrap();
    first.get().await;
    assert_eq!(world.post(CHAT, &named, ASKED).await.code(), "IDEMPOTENCY_KEY_IN_USE");
    assert!(world.provider.is_unasked());
    // Another job's is another name, and its receipt nobody else's.
    world.change(|rules| rules.jobs[0].key += 1).await;
    assert_eq!(world.gate.receipts.ask(78, "n-1"), super::super::receipts::Asked::Unknown);
    for wrong in [&[("x-idempotency-key", "a/b")][..], &[("x-idempotency-key", "a"), ("x-idempotency-key", "b")]] {
        world.change(|rules| rules.jobs[0].key = 77).await;
        assert_eq!(world.post(CHAT, wrong, ASKED).await.code(), "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn a_job_has_so_many_calls_and_no_more_mcp_included() {
    let world = World::open().await;
    world.change(|rules| rules.limits.concurrent_calls = 1).await;
    let _mcp = world.gate.shared.limits.call(77, &world.daemon.rules.lock().unwrap().limits).unwrap();
    let got = world.post(CHAT, &[], ASKED).await;
    assert_eq!((got.status, &*got.code(), got.header("x-should-retry")), (429, "CONCURRENCY_LIMITED", None));
    drop(_mcp);
    world.change(|rules| rules.limits.calls_per_minute = 3).await;
    assert_eq!((world.chat().await.status, world.chat().await.status), (200, 200));
    let mut codes = Vec::new();
    for _ in 0..2 {
        codes.push(world.post(CHAT, &[], ASKED).await.code());
    }
    assert_eq!(codes.last().map(String::as_str), Some("RATE_LIMITED"));
    world.change(|rules| rules.limits.message_bytes = 16).await;
    assert_eq!(world.post(CHAT, &[], ASKED).await.code(), "PAYLOAD_TOO_LARGE");
}
