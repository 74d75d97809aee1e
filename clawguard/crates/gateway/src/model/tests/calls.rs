//! A call that is given: what the provider gets, what the client gets, and what the daemon is told.

use claw::Hash;
use control::calls::Decision;
use serde_json::{Value, json};

use super::world::{CHAT, EVENT, Heard, RUN, World, envelope, eventually};

const ASKED: &str = r#"{ "model": "gpt-5", "n": 1.0, "messages": [{"role":"user","content":"h\u00e9"}] }"#;
const ANSWER: &str = "{\"id\":\"x\", \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}\n";

#[tokio::test]
async fn what_is_sent_is_what_was_judged_and_hashed_under_the_hosts_own_key() {
    let mut world = World::open().await;
    world.provider.body(200, "application/json", ANSWER);
    let dummies = [
        ("authorization", "Bearer dummy"),
        ("x-api-key", "dummy"),
        ("x-goog-api-key", "dummy"),
        ("x-provider-api-key", "dummy"),
        ("cookie", "dummy"),
        ("openai-organization", "dummy"),
        ("user-agent", "OpenAI/JS"),
        ("x-forwarded-for", "dummy"),
    ];
    let got = world.post(CHAT, &dummies, ASKED).await;
    assert_eq!((got.status, got.whole), (200, true), "{got:?}");
    let heard = world.provider.heard().await;
    assert_eq!(heard.path(), "/base/v1/chat/completions");
    assert!(!heard.head.contains("dummy"), "{heard:?}");
    assert_eq!(heard.header("authorization"), ["Bearer sk-openai"]);
    assert_eq!(
        (heard.header("user-agent"), heard.header("accept-encoding")),
        (vec!["OpenAI/JS".into()], vec!["identity".into()])
    );
    // Numbers keep their text.
    let body = String::from_utf8(heard.body.clone()).unwrap();
    assert_eq!(body, "{\"model\":\"gpt-5\",\"n\":1.0,\"messages\":[{\"role\":\"user\",\"content\":\"h\u{e9}\"}]}");
    let [call] = &world.daemon.calls()[..] else { panic!() };
    assert_eq!(
        (call.decision, &*call.reason, &*call.provider, &*call.model),
        (Decision::Allowed, "allowed", "openai", "gpt-5")
    );
    assert_eq!((&*call.route, call.streamed, call.bytes_in), (CHAT, false, ASKED.len() as u64));
    assert_eq!(call.request_hash, Hash::of(&heard.body).to_string());
    assert_eq!((&*call.contract, call.rule.as_deref()), ("contract", Some("allowed_models[0]")));
}

#[tokio::test]
async fn the_answer_is_the_providers_with_the_receipt_as_its_last_member() {
    let world = World::open().await;
    world.provider.body(200, "application/json", ANSWER);
    let got = world.post(CHAT, &[("x-idempotency-key", "n-1")], ASKED).await;
    let end = world.daemon.end().await;
    let receipt = envelope(end.number);
    assert_eq!(
        got.body,
        format!("{},\"_receipt_envelope\":{receipt}}}\n", ANSWER.trim_end().strip_suffix('}').unwrap())
    );
    assert_eq!((got.header("x-run-id"), got.header("x-event-hash")), (Some(RUN), Some(EVENT)));
    assert_eq!(got.header("x-idempotency-key"), Some("n-1"));
    assert_eq!((&*end.outcome, end.status, end.bytes_out), ("ok", 200, ANSWER.len() as u64));
    assert_eq!(end.response_hash, Hash::of(ANSWER.as_bytes()).to_string());
    assert_eq!((end.tokens_input, end.tokens_output), (Some(3), Some(5)));
    assert!(end.first_byte_us.unwrap() <= end.duration_us);
    let kept = world.get("/v1/receipt/n-1?run_id=run_1&event_hash_b64u=event-hash").await.json();
    assert_eq!(kept["receipt_envelope"], serde_json::from_str::<Value>(&receipt).unwrap());
    assert_eq!((&kept["nonce"], &kept["binding"]["run_id"]), (&json!("n-1"), &json!(RUN)));
    assert_eq!(world.get("/v1/receipt/n-1?run_id=other").await.code(), "RECEIPT_BINDING_MISMATCH");
    assert_eq!(world.get("/v1/receipt/n-2").await.code(), "RECEIPT_NOT_FOUND");
}

#[tokio::test]
async fn nothing_is_sent_before_its_record_and_nothing_ends_before_its_receipt() {
    let mut world = World::open().await;
    let slow = std::sync::Arc::new(tokio::sync::Notify::new());
    *world.daemon.slow.lock().unwrap() = Some(std::sync::Arc::clone(&slow));
    world.provider.body(200, "text/plain", "fine");
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(world.provider.is_unasked());
    slow.notify_one();
    let got = client.get().await;
    assert_eq!((got.body.as_str(), got.whole), ("fine", true));
    let told = world.daemon.told.lock().unwrap().clone();
    assert!(matches!(&told[..], [Heard::Call(call), Heard::End(end)] if call.number == end.number), "{told:?}");
}

#[tokio::test]
async fn each_provider_is_asked_in_its_own_words() {
    let mut world = World::open().await;
    let named = r#"{"model":"m"}"#;
    for (path, body, target, key, provider) in [
        (CHAT, named, "/base/v1/chat/completions", "authorization: Bearer sk-openai", "openai"),
        ("/v1/responses", named, "/base/v1/responses", "authorization: Bearer sk-openai", "openai"),
        (
            "/v1/proxy/openai",
            r#"{"model":"m","input":"x"}"#,
            "/base/v1/responses",
            "authorization: Bearer sk-openai",
            "openai",
        ),
        ("/v1/proxy/openai", named, "/base/v1/chat/completions", "authorization: Bearer sk-openai", "openai"),
        ("/v1/messages", named, "/v1/messages", "x-api-key: sk-anthropic", "anthropic"),
        ("/v1/messages?beta=true", named, "/v1/messages?beta=true", "x-api-key: sk-anthropic", "anthropic"),
        ("/v1/proxy/anthropic", named, "/v1/messages", "x-api-key: sk-anthropic", "anthropic"),
        ("/v1/proxy/google", named, "/v1beta/openai/chat/completions", "authorization: Bearer sk-google", "google"),
        (
            "/v1beta/models/m:generateContent?key=dummy",
            "{}",
            "/v1beta/models/m:generateContent",
            "x-goog-api-key: sk-google",
            "google",
        ),
        (
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            r#"{"model":"models/m"}"#,
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            "x-goog-api-key: sk-google",
            "google",
        ),
    ] {
        world.provider.body(200, "application/json", "{}");
        let got = world.post(path, &[], body).await;
        assert_eq!(got.status, 200, "{path}: {got:?}");
        let heard = world.provider.heard().await;
        assert_eq!(heard.path(), target, "{path}");
        assert!(heard.head.contains(key), "{path}: {heard:?}");
        assert_eq!(String::from_utf8(heard.body.clone()).unwrap(), body, "{path}");
        let call = world.daemon.calls().pop().unwrap();
        assert_eq!((&*call.provider, &*call.model), (provider, "m"), "{path}");
        assert_eq!(call.streamed, path.contains("stream"), "{path}");
        let version = heard.header("anthropic-version");
        assert_eq!(version, if provider == "anthropic" { vec!["2023-06-01"] } else { Vec::new() }, "{path}");
    }
}

#[tokio::test]
async fn an_error_of_the_providers_passes_as_it_came_and_its_receipt_can_be_asked_for() {
    let world = World::open().await;
    for (status, kind, body) in [
        (400, "application/json", "{\"error\":{}}"),
        (429, "application/json", "{}"),
        (500, "text/html", "<p>"),
        (302, "text/plain", ""),
        (529, "application/json", "{\"type\":\"error\"}"),
    ] {
        let headers = "retry-after: 7\r\nlocation: http://127.0.0.1:1/\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: 1\r\n";
        world.provider.raw(format!(
            "HTTP/1.1 {status} X\r\n{headers}content-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        let got = world.post(CHAT, &[("x-idempotency-key", &format!("n{status}"))], r#"{"model":"m"}"#).await;
        assert_eq!((got.status, &*got.body, got.whole), (status, body, true));
        assert_eq!((got.header("retry-after"), got.header("content-type")), (Some("7"), Some(kind)));
        assert_eq!((got.header("x-hop"), got.header("keep-alive")), (None, None));
        let kept = world.get(&format!("/v1/receipt/n{status}")).await.json();
        assert_eq!(kept["status"], status);
        assert!(kept["receipt_envelope"].is_object());
        let end = world.daemon.ends().pop().unwrap();
        assert_eq!((&*end.outcome, end.status), ("provider_error", status));
        assert_eq!(end.response_hash, Hash::of(body.as_bytes()).to_string());
    }
}

#[tokio::test]
async fn an_answer_without_a_place_for_a_receipt_passes_unchanged() {
    let world = World::open().await;
    for (kind, body) in [
        ("application/json", "[{\"a\":1}]"),
        ("text/plain", "{}"),
        ("application/json", "{\"a\":"),
        ("application/json", ""),
    ] {
        world.provider.body(200, kind, body);
        let got = world.post(CHAT, &[], r#"{"model":"m"}"#).await;
        assert_eq!((&*got.body, got.whole), (body, true));
        let nonce = got.header("x-idempotency-key").unwrap().to_owned();
        assert!(world.get(&format!("/v1/receipt/{nonce}")).await.json()["receipt_envelope"].is_object());
    }
    let packed =
        "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}";
    world.provider.raw(packed);
    let got = world.post(CHAT, &[], r#"{"model":"m"}"#).await;
    assert_eq!((&*got.body, got.header("content-encoding")), ("{}", Some("gzip")));
}

#[tokio::test]
async fn a_call_without_a_receipt_ends_without_one() {
    let world = World::open().await;
    *world.daemon.missing.lock().unwrap() = Some("no key".into());
    world.provider.body(200, "application/json", ANSWER);
    let got = world.post(CHAT, &[("x-idempotency-key", "n")], ASKED).await;
    assert_eq!((&*got.body, got.whole), (ANSWER, true));
    assert_eq!(world.get("/v1/receipt/n").await.code(), "RECEIPT_NOT_FOUND");
}

#[tokio::test]
async fn the_answer_of_a_call_whose_end_is_not_recorded_does_not_end() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let body = "{\"a\":1}";
    let mut client = world.send("POST", CHAT, &[("x-idempotency-key", "n")], ASKED).await;
    steps
        .send(super::world::Step::Send(
            format!("HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len())
                .into_bytes(),
        ))
        .unwrap();
    let head = client.head().await;
    *world.daemon.unrecorded.lock().unwrap() = Some("the disk is full".into());
    steps.send(super::world::Step::Send(body.into())).unwrap();
    assert_eq!(client.piece(&head).await.as_deref(), Some("{\"a\":1"));
    assert_eq!(client.piece(&head).await, None);
    // It was made all the same.
    *world.daemon.unrecorded.lock().unwrap() = None;
    assert_eq!(world.post(CHAT, &[("x-idempotency-key", "n")], ASKED).await.code(), "IDEMPOTENCY_KEY_IN_USE");
}

#[tokio::test]
async fn connections_are_counted_and_those_by_which_nothing_was_called_apart() {
    let world = World::open().await;
    world.chat().await;
    drop(world.connect().await);
    world.get("/health").await;
    world.post(CHAT, &[], "no JSON").await;
    let last = || world.daemon.connected.lock().unwrap().last().copied();
    eventually("connections are told", || last().is_some_and(|told| (told.accepted, told.empty) == (4, 2))).await;
    let told = last().unwrap();
    assert_eq!((told.slot, told.key), (3, 77));
}

#[tokio::test]
async fn whoever_asks_learns_whose_receipts_these_are() {
    let world = World::open().await;
    let signer = world.daemon.rules.lock().unwrap().model.signer.clone();
    let did = world.get("/v1/did").await.json();
    assert_eq!((&did["id"], &did["deployment"]["receiptSignerDidKey"]), (&json!(signer), &json!(signer)));
    assert_eq!(world.get("/health").await.json()["signingEnabled"], json!(true));
    world.change(|rules| rules.model.signer.clear()).await;
    assert_eq!(world.get("/v1/did").await.code(), "SIGNING_NOT_CONFIGURED");
}
