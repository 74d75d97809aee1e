//! Providers and clients that do what they like.

use tokio::io::AsyncWriteExt;

use super::world::{CHAT, EVENTS, Step, World, chunk};

const ASKED: &str = r#"{"model":"m"}"#;

#[tokio::test]
async fn garbage_of_a_providers_harms_nobody() {
    let world = World::open().await;
    for bytes in [
        "garbage\r\n\r\n".to_owned(),
        "HTTP/1.1 999999 X\r\n\r\n".into(),
        "HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into(),
        format!("HTTP/1.1 200 X\r\n{}\r\n", "x: y\r\n".repeat(10_000)),
        "HTTP/1.1 200 X\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".into(),
        String::new(),
    ] {
        let steps = world.provider.steps();
        steps.send(Step::Send(bytes.clone().into_bytes())).unwrap();
        steps.send(Step::Close).unwrap();
        let got = world.post(CHAT, &[], ASKED).await;
        assert!(got.status == 502 || !got.whole || got.status == 101, "{bytes:.40}: {got:?}");
        assert!(!got.body.contains("_receipt"), "{got:?}");
    }
    super::world::eventually("every end", || world.daemon.ends().len() == world.daemon.calls().len()).await;
    assert_eq!(world.chat().await.status, 200);
}

#[tokio::test]
async fn a_receipt_that_a_provider_makes_up_is_not_the_last_word() {
    let world = World::open().await;
    world.provider.body(200, "application/json", r#"{"_receipt_envelope":{"forged":true}}"#);
    let got = world.post(CHAT, &[], ASKED).await;
    let end = world.daemon.end().await;
    // Who reads the last of two members, as JSON.parse does, reads ours.
    let ours: serde_json::Value = serde_json::from_str(&super::world::envelope(end.number)).unwrap();
    assert_eq!(got.json()["_receipt_envelope"], ours);
    let kept = world.get(&format!("/v1/receipt/{}", got.header("x-idempotency-key").unwrap())).await;
    assert_eq!(kept.json()["receipt_envelope"], ours);
}

#[tokio::test]
async fn one_answer_is_not_anothers() {
    let mut world = World::open().await;
    // More than was asked for, on a connection that would be used again.
    world.provider.raw("HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\nevil");
    assert_eq!(world.post(CHAT, &[], ASKED).await.body, "{}");
    world.provider.heard().await;
    world.provider.body(200, "text/plain", "fine");
    let next = world.post(CHAT, &[], ASKED).await;
    assert!(next.body != "evil", "{next:?}");
}

#[tokio::test]
async fn endless_lines_do_not_fill_the_memory() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    let head = client.head().await;
    for _ in 0..200 {
        steps.send(chunk(&"x".repeat(100_000))).unwrap();
    }
    steps.send(chunk("\n\ndata: {\"usage\":{\"completion_tokens\":4}}\n\n")).unwrap();
    steps.send(Step::Send(b"0\r\n\r\n".to_vec())).unwrap();
    let mut bytes = 0;
    while let Some(piece) = client.piece(&head).await.filter(|piece| !piece.is_empty()) {
        bytes += piece.len();
    }
    assert!(bytes > 20_000_000);
    assert_eq!(world.daemon.end().await.tokens_output, Some(4));
}

#[tokio::test]
async fn a_request_that_breaks_off_is_no_call() {
    let mut world = World::open().await;
    let mut client = world.connect().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1:9481\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{ASKED}"
    );
    client.stream.write_all(head.as_bytes()).await.unwrap();
    client.stream.shutdown().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(world.provider.is_unasked());
    // Two lengths, and a body that says that it is another's.
    let mut client = world.connect().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1:9481\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/did HTTP/1.1\r\n\r\n"
    );
    client.stream.write_all(head.as_bytes()).await.unwrap();
    assert!(client.head().await.status >= 400);
    assert!(world.provider.is_unasked());
}

#[tokio::test]
async fn a_providers_error_does_not_quote_the_hosts_key() {
    const KEY: &str = "sk-proj-AbCdEfGhIjKlMnOpQrStUv0123456789";
    let world = World::open().await;
    world.change(|rules| rules.model.providers.iter_mut().for_each(|provider| provider.key = Some(KEY.into()))).await;
    let body = format!("{{\"error\":\"no key: {KEY}, sk-proj-********6789\"}}");
    let sent = format!(
        "HTTP/1.1 401 X\r\nx-of: {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    world.provider.raw(sent);
    let got = world.post(CHAT, &[], r#"{"model":"m"}"#).await;
    let stars = "*".repeat(KEY.len());
    assert_eq!(
        (got.status, got.body.as_str()),
        (401, &*format!("{{\"error\":\"no key: {stars}, {}\"}}", "*".repeat(20)))
    );
    assert!(!format!("{got:?}").contains("6789"), "{got:?}");
    // The receipt is of what the provider sent.
    let end = world.daemon.end().await;
    assert_eq!((end.response_hash, end.bytes_out), (claw::Hash::of(body.as_bytes()).to_string(), body.len() as u64));
    // What succeeds passes as it is.
    world.provider.body(200, "text/plain", &body);
    assert_eq!(world.post(CHAT, &[], r#"{"model":"m"}"#).await.body, body);
}
