//! Answers that come in pieces: each as it comes, and what becomes of those that do not end well.

use std::time::Duration;

use claw::{Hash, encoding};
use tokio::time::sleep;

use super::world::{CHAT, EVENTS, Step, World, chunk, envelope, eventually};

const ASKED: &str = r#"{"model":"m","stream":true,"messages":[]}"#;
const DELTA: &str = "data: {\"choices\":[]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn trailer(number: u64) -> String {
    format!(":clawproxy_receipt_envelope_b64u={}\n\n", encoding::encode(envelope(number).as_bytes()))
}

#[tokio::test]
async fn each_event_leaves_as_it_comes_and_the_receipt_follows_the_last() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    let head = client.head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream; charset=utf-8"));
    for part in [DELTA, "data: {\"cho", "ices\":[]}\n\n", DONE] {
        steps.send(chunk(part)).unwrap();
        // What the provider has not sent yet is not waited for.
        assert_eq!(client.piece(&head).await.as_deref(), Some(part));
    }
    assert!(world.daemon.ends().is_empty());
    steps.send(Step::Send(b"0\r\n\r\n".to_vec())).unwrap();
    let end = world.daemon.end().await;
    assert_eq!(client.piece(&head).await, Some(trailer(end.number)));
    assert_eq!(client.piece(&head).await.as_deref(), Some(""));
    let sent = format!("{DELTA}{DELTA}{DONE}");
    assert_eq!((&*end.outcome, end.bytes_out), ("ok", sent.len() as u64));
    assert_eq!(end.response_hash, Hash::of(sent.as_bytes()).to_string());
    assert!(world.daemon.calls()[0].streamed);
}

#[tokio::test]
async fn what_is_there_in_many_pieces_leaves_in_few_and_every_byte_of_it() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    let events: Vec<String> = (0..1000).map(|n| format!("data: {{\"n\":{n}}}\n\n")).chain([DONE.into()]).collect();
    let mut sent = EVENTS.as_bytes().to_vec();
    for event in &events {
        sent.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
    }
    sent.extend_from_slice(b"0\r\n\r\n");
    steps.send(Step::Send(sent)).unwrap();
    let head = client.head().await;
    let mut pieces = Vec::new();
    while let Some(piece) = client.piece(&head).await.filter(|piece| !piece.is_empty()) {
        pieces.push(piece);
    }
    let end = world.daemon.end().await;
    assert_eq!(pieces.concat(), format!("{}{}", events.concat(), trailer(end.number)));
    assert!(pieces.len() < 100, "{} pieces", pieces.len());
    assert_eq!(end.response_hash, Hash::of(events.concat().as_bytes()).to_string());
    assert_eq!((&*end.outcome, end.bytes_out), ("ok", events.concat().len() as u64));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_call_at_the_provider() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    steps.send(chunk(DELTA)).unwrap();
    let head = client.head().await;
    assert_eq!(client.piece(&head).await.as_deref(), Some(DELTA));
    drop(client);
    let end = world.daemon.end().await;
    assert_eq!((&*end.outcome, end.status, end.bytes_out), ("client_gone", 200, DELTA.len() as u64));
    assert_eq!(end.response_hash, Hash::of(DELTA.as_bytes()).to_string());
    eventually("the provider is hung up on", || *world.provider.closed.lock().unwrap() == 1).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_ends_the_call_too() {
    let mut world = World::open().await;
    let _steps = world.provider.steps();
    let client = world.send("POST", CHAT, &[("x-idempotency-key", "n")], ASKED).await;
    world.provider.heard().await;
    drop(client);
    let end = world.daemon.end().await;
    assert_eq!((&*end.outcome, end.status, end.first_byte_us), ("client_gone", 0, None));
    eventually("the provider is hung up on", || *world.provider.closed.lock().unwrap() == 1).await;
    assert!(world.get("/v1/receipt/n").await.json()["receipt_envelope"].is_object());
}

#[tokio::test]
async fn a_client_that_has_heard_all_may_go_before_the_stream_ends() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    steps.send(chunk(DONE)).unwrap();
    let head = client.head().await;
    assert_eq!(client.piece(&head).await.as_deref(), Some(DONE));
    drop(client);
    sleep(Duration::from_millis(100)).await;
    steps.send(Step::Send(b"0\r\n\r\n".to_vec())).unwrap();
    assert_eq!(world.daemon.end().await.outcome, "ok");
}

#[tokio::test]
async fn whoever_asks_for_the_receipt_at_the_last_event_gets_it() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[("x-idempotency-key", "n")], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    steps.send(chunk(DONE)).unwrap();
    let head = client.head().await;
    assert_eq!(client.piece(&head).await.as_deref(), Some(DONE));
    let end = async {
        sleep(Duration::from_millis(200)).await;
        steps.send(Step::Send(b"0\r\n\r\n".to_vec())).unwrap();
    };
    let (got, ()) = tokio::join!(world.get("/v1/receipt/n"), end);
    assert_eq!((got.status, got.json()["receipt_envelope"].is_object()), (200, true), "{got:?}");
}

#[tokio::test]
async fn what_a_provider_cuts_is_cut() {
    let world = World::open().await;
    for (head, cut) in [
        (EVENTS.to_owned(), format!("{:x}\r\n{DELTA}\r\n", DELTA.len())),
        ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n".into(), "{\"a\":1}".into()),
    ] {
        let steps = world.provider.steps();
        let mut client = world.send("POST", CHAT, &[], ASKED).await;
        steps.send(Step::Send(format!("{head}{cut}").into_bytes())).unwrap();
        let began = client.head().await;
        steps.send(Step::Close).unwrap();
        let mut all = String::new();
        let ended = loop {
            match client.piece(&began).await {
                Some(piece) if piece.is_empty() => break true,
                Some(piece) => all += &piece,
                None => break false,
            }
        };
        assert!(!ended, "{all}");
        assert!(cut.contains(&all) && !all.is_empty() && !all.contains("receipt"), "{all}");
        eventually("its end", || world.daemon.ends().len() == world.daemon.calls().len()).await;
        let end = world.daemon.ends().pop().unwrap();
        assert_eq!((&*end.outcome, end.status, end.response_hash), ("cut", 200, Hash::of(all.as_bytes()).to_string()));
    }
}

#[tokio::test]
async fn a_provider_that_is_silent_is_not_waited_for_for_ever() {
    let world = World::open().await;
    world.change(|rules| rules.limits.call_seconds = 1).await;
    let _before = world.provider.steps();
    let got = world.post(CHAT, &[], ASKED).await;
    assert_eq!((got.status, &*got.code()), (504, "PROVIDER_TIMEOUT"));
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    // One that is slow, but goes on, is.
    for _ in 0..4 {
        sleep(Duration::from_millis(400)).await;
        steps.send(chunk(DELTA)).unwrap();
    }
    let got = client.get().await;
    assert_eq!((got.whole, &*got.body), (false, &*DELTA.repeat(4)));
    eventually("both ends", || world.daemon.ends().len() == 2).await;
    let ends = world.daemon.ends();
    assert_eq!(
        [(&*ends[0].outcome, ends[0].status), (&*ends[1].outcome, ends[1].status)],
        [("timeout", 0), ("timeout", 200)]
    );
}

#[tokio::test]
async fn a_provider_that_is_not_there_leaves_a_receipt_that_says_so() {
    let world = World::open().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.change(|rules| rules.model.providers[0].url = format!("http://{nobody}")).await;
    let got = world.post(CHAT, &[("x-idempotency-key", "n")], ASKED).await;
    assert_eq!((got.status, &*got.code()), (502, "PROVIDER_ERROR"));
    let end = world.daemon.end().await;
    assert_eq!((&*end.outcome, end.status, end.bytes_out), ("unreachable", 0, 0));
    assert_eq!(end.response_hash, Hash::of(b"").to_string());
    assert!(world.get("/v1/receipt/n").await.json()["receipt_envelope"].is_object());
}

#[tokio::test]
async fn a_stream_that_ends_within_an_event_gets_nothing_behind_it() {
    let world = World::open().await;
    world.provider.body(200, "text/event-stream", "data: 1\n\ndata: 2\n");
    let got = world.post(CHAT, &[], ASKED).await;
    assert_eq!((&*got.body, got.whole), ("data: 1\n\ndata: 2\n", true));
}

#[tokio::test]
async fn a_client_that_does_not_read_has_the_provider_wait() {
    let world = World::open().await;
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    let large = "x".repeat(1 << 20);
    for _ in 0..64 {
        steps.send(chunk(&large)).unwrap();
    }
    let head = client.head().await;
    sleep(Duration::from_millis(300)).await;
    steps.send(Step::Send(b"0\r\n\r\n".to_vec())).unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(world.daemon.ends().is_empty(), "all of it would be in memory");
    let mut bytes = 0;
    while let Some(piece) = client.piece(&head).await.filter(|piece| !piece.is_empty()) {
        bytes += piece.len();
    }
    assert_eq!((bytes, world.daemon.end().await.outcome.as_str()), (64 << 20, "ok"));
}
