use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::world::{Serve, Served, World, call, event, usual};

/// A call's id, and where its answer goes.
type Open = (Value, mpsc::Sender<String>);

/// A server that asks its client something in the middle of a call, and is done when it is answered.
fn asks(method: &'static str) -> Serve {
    let open: Arc<Mutex<Option<Open>>> = Arc::default();
    Arc::new(move |_, message, _| {
        if message.get("method").is_none() && message.get("id").is_some() {
            // The client's answer, which becomes the tool's.
            if let Some((id, sender)) = open.lock().unwrap().take() {
                let text = message.to_string();
                let result =
                    json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [{ "type": "text", "text": text }] } });
                sender.try_send(event(&result)).unwrap();
            }
            return Served::Nothing(202);
        }
        usual(&message, &["ask"]).unwrap_or_else(|| {
            let (sender, receiver) = mpsc::channel(4);
            let asked = json!({ "jsonrpc": "2.0", "id": "s-1", "method": method, "params": { "messages": [], "maxTokens": 1 } });
            sender.try_send(event(&asked)).unwrap();
            *open.lock().unwrap() = Some((message["id"].clone(), sender));
            Served::Events(receiver)
        })
    })
}

#[tokio::test]
async fn what_a_server_may_not_ask_is_refused_for_its_client() {
    for (method, refusal) in [
        ("sampling/createMessage", "Method not found"),
        ("elicitation/create", "decline"),
        ("roots/list", "Method not found"),
        ("x/y", "Method not found"),
    ] {
        let world = World::new(json!({ "tools": { "allow": ["crm/*"] } }), asks(method)).await;
        let session = world.session().await;
        let got = world.call(&session, "ask", json!({})).await;
        let events = got.events();
        assert_eq!(events.len(), 1, "{method}: the client was asked: {events:?}");
        let text = events[0]["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(refusal) && text.contains("s-1"), "{method}: {text}");
    }
}

#[tokio::test]
async fn what_a_server_may_ask_is_answered_once_by_whoever_was_asked() {
    let guard = json!({ "tools": { "allow": ["crm/*"] }, "mcp": { "sampling": ["crm"] } });
    let world = Arc::new(World::new(guard, asks("sampling/createMessage")).await);
    let session = world.session().await;
    let answer = json!({ "jsonrpc": "2.0", "id": "s-1", "result": { "role": "assistant", "content": { "type": "text", "text": "42" }, "model": "m" } });
    // Nobody has asked yet.
    assert_eq!(world.post(&session, &answer).await.status, 400);
    let headers = [("content-type", "application/json"), ("mcp-session-id", session.as_str())];
    let (status, _, mut stream) =
        world.open(Method::POST, "/s/crm/mcp", &headers, call(7, "ask", &json!({})).to_string()).await;
    assert_eq!(status, 200);
    let first = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("sampling/createMessage"));
    // Another session's client cannot answer for this one.
    let other = world.session().await;
    assert_eq!(world.post(&other, &answer).await.status, 400);
    assert_eq!(world.post(&session, &answer).await.status, 202);
    let last = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&last).contains("42"));
    assert_eq!(world.post(&session, &answer).await.status, 400);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_taken_up_where_it_says() {
    let serve: Serve = Arc::new(|method, message, headers| {
        if method == "GET" {
            let (sender, receiver) = mpsc::channel(4);
            if headers.get("last-event-id").is_some_and(|id| id == "e-1") {
                let result = json!({ "jsonrpc": "2.0", "id": 7, "result": { "content": [] } });
                sender.try_send(format!("id: e-2\n{}", event(&result))).unwrap();
            }
            return Served::Events(receiver);
        }
        usual(&message, &["poll"]).unwrap_or_else(|| {
            let (sender, receiver) = mpsc::channel(4);
            sender.try_send("id: e-1\nretry: 10\ndata: \n\n".into()).unwrap();
            Served::Events(receiver)
        })
    });
    let world = World::new(json!({ "tools": { "allow": ["crm/*"] } }), serve).await;
    let session = world.session().await;
    let got = world.call(&session, "poll", json!({})).await;
    assert!(got.body.contains("id: e-1") && got.body.contains("retry: 10"), "{got:?}");
    assert!(!world.daemon.records().iter().any(|record| record.get("ended").is_some()));
    let headers = [("accept", "text/event-stream"), ("mcp-session-id", session.as_str()), ("last-event-id", "e-1")];
    let got = world.http(Method::GET, "/s/crm/mcp", &headers, "").await;
    assert_eq!(got.events()[0]["id"], 7, "{got:?}");
    assert!(got.body.contains("id: e-2"));
    let ended = world.daemon.records().iter().find_map(|record| record.get("ended").cloned()).unwrap();
    assert_eq!(ended["status"], "ok");
}
