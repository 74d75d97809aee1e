//! Calls that go to a clawproxy.

use claw::{Hash, encoding};
use serde_json::{Value, json};

use super::world::{CHAT, EVENT, RUN, World};

async fn world() -> World {
    let world = World::open().await;
    world
        .change(|rules| {
            rules.model.proxied = true;
            rules.model.providers.iter_mut().for_each(|provider| provider.url = provider.url.replace("/base", ""));
        })
        .await;
    world
}

const RECEIPT: &str = r#"{"envelope_version":"1","payload":{"z":1,"a":"x"}}"#;

#[tokio::test]
async fn a_clawproxy_learns_what_its_receipt_is_bound_to() {
    let mut world = world().await;
    for (path, target, provider) in [
        (CHAT, CHAT, "openai"),
        ("/v1/responses", "/v1/responses", "openai"),
        ("/v1/messages?beta=true", "/v1/messages", "anthropic"),
        ("/v1/proxy/google", "/v1/proxy/google", "google"),
        ("/v1/proxy/openai", "/v1/proxy/openai", "openai"),
    ] {
        world.provider.body(200, "application/json", "{}");
        let nonce = format!("n-{provider}-{}", path.len());
        let got =
            world.post(path, &[("x-idempotency-key", &nonce), ("authorization", "Bearer x")], r#"{"model":"m"}"#).await;
        assert_eq!(got.status, 200, "{got:?}");
        let heard = world.provider.heard().await;
        assert_eq!(heard.path(), target);
        for (name, value) in [
            ("x-cst", "tok.en"),
            ("x-run-id", RUN),
            ("x-event-hash", EVENT),
            ("x-policy-hash", "contract"),
            ("x-idempotency-key", &nonce),
            ("x-provider-api-key", &format!("sk-{provider}")),
        ] {
            assert_eq!(heard.header(name), [value], "{name}");
        }
        // What it refuses in strict mode.
        for name in ["authorization", "x-api-key", "x-goog-api-key"] {
            assert!(heard.header(name).is_empty(), "{name}");
        }
    }
    let got = world.post("/v1beta/models/m:generateContent", &[], "{}").await;
    assert_eq!((got.status, &*got.code()), (400, "ROUTE_NOT_PROXIED"));
}

#[tokio::test]
async fn its_receipt_is_handed_to_the_daemon_and_passed_on() {
    let world = world().await;
    let body = format!("{{\"id\":1,\"_receipt\":{{}},\"_receipt_envelope\":{RECEIPT}}}");
    world.provider.body(200, "application/json", &body);
    let got = world.post(CHAT, &[("x-idempotency-key", "n")], r#"{"model":"m"}"#).await;
    assert_eq!(got.body, body);
    let end = world.daemon.end().await;
    assert_eq!(end.receipt.as_deref(), Some(RECEIPT));
    let kept = world.get("/v1/receipt/n").await.json();
    assert_eq!(kept["receipt_envelope"], serde_json::from_str::<Value>(RECEIPT).unwrap());
}

#[tokio::test]
async fn its_comment_is_passed_on_and_no_part_of_what_is_hashed() {
    let world = world().await;
    let sent = "data: {}\n\ndata: [DONE]\n\n";
    let comment = format!(
        ":clawproxy_receipt_envelope_b64u={}\n:clawproxy_receipt_b64u={}\n\n",
        encoding::encode(RECEIPT.as_bytes()),
        encoding::encode(b"{}")
    );
    world.provider.body(200, "text/event-stream", &format!("{sent}{comment}"));
    let got = world.post(CHAT, &[], r#"{"model":"m","stream":true}"#).await;
    assert_eq!((got.body, got.whole), (format!("{sent}{comment}"), true));
    let end = world.daemon.end().await;
    assert_eq!((end.receipt.as_deref(), end.response_hash), (Some(RECEIPT), Hash::of(sent.as_bytes()).to_string()));
}

#[tokio::test]
async fn a_clawproxy_that_gives_none_is_told_of() {
    let world = world().await;
    *world.daemon.missing.lock().unwrap() = Some("clawproxy gave none".into());
    world.provider.body(200, "application/json", "{\"id\":1}");
    let got = world.post(CHAT, &[], r#"{"model":"m"}"#).await;
    assert_eq!(got.json(), json!({ "id": 1 }));
    assert_eq!(world.daemon.end().await.receipt, None);
}
