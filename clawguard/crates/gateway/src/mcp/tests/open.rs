//! Requests that are no calls, and streams: they have their limits, and a kill of the whole server ends them.

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::world::{Serve, Served, World, echo, event, initialize, usual};

fn guard() -> Value {
    json!({ "tools": { "allow": ["crm/*"] }, "mcp": { "resources": ["crm/*"], "tasks": ["crm"] } })
}

fn request(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 9, "method": method, "params": params })
}

/// Whether what was recorded refused this, for this reason; added up, it comes later.
fn refused(world: &World, method: &str, reason: &str) -> usize {
    world.gate.limits.tell_refused(&world.gate.recorder);
    let records = world.daemon.records();
    let found = records.iter().filter_map(|record| record.get("refused"));
    found.filter(|call| call["method"] == method && call["reason"] == reason && call["decision"] == "denied").count()
}

#[tokio::test]
async fn lists_and_the_like_are_as_many_a_minute_as_calls_may_be_and_take_none_of_the_calls() {
    let world = World::new(guard(), echo(&["quick"])).await;
    world.daemon.change(|rules| rules.limits.calls_per_minute = 4);
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    // Beginning the session is the first.
    let session = world.session().await;
    for method in ["tools/list", "ping", "resources/list"] {
        let got = world.post(&session, &request(method, &json!({}))).await.json();
        assert_eq!(got["error"], Value::Null, "{method}: {got}");
    }
    let heard = world.heard.lock().unwrap().len();
    for method in ["tools/list", "ping", "resources/list", "resources/subscribe"] {
        let got = world.post(&session, &request(method, &json!({ "uri": "docs://a" }))).await.json();
        assert_eq!(got["error"]["code"], -31000, "{method}: {got}");
        world.eventually("it is counted", |world| refused(world, method, "rate") == 1).await;
    }
    let another = world.post("", &initialize()).await.json();
    assert_eq!(another["error"]["code"], -31000, "{another}");
    let stream = world
        .http(Method::GET, "/s/crm/mcp", &[("accept", "text/event-stream"), ("mcp-session-id", session.as_str())], "")
        .await;
    assert_eq!(stream.status, 429, "{stream:?}");
    assert_eq!(world.heard.lock().unwrap().len(), heard, "nothing of it reached the server");
    for _ in 0..4 {
        assert_eq!(world.call(&session, "quick", json!({})).await.json()["result"]["isError"], Value::Null);
    }
    assert_eq!(world.call(&session, "quick", json!({})).await.json()["result"]["isError"], true);
}

/// A server that answers no `resources/list`, and listens for ever; `said` is told when one of its streams was closed.
fn silent(said: mpsc::UnboundedSender<String>) -> Serve {
    Arc::new(move |http, message, _| {
        let method = message["method"].as_str().unwrap_or(http).to_owned();
        if method != "GET" && method != "resources/list" {
            let none = json!({ "jsonrpc": "2.0", "id": message["id"], "result": {} });
            return usual(&message, &["quick"]).unwrap_or(Served::Json(200, none));
        }
        let (sender, receiver) = mpsc::channel(4);
        let said = said.clone();
        tokio::spawn(async move {
            let told = json!({ "jsonrpc": "2.0", "method": "notifications/resources/list_changed" });
            let mut sent = sender.send(event(&told)).await;
            // Whether somebody still reads shows as something is written.
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                sent = sender.send(":\n\n".into()).await;
            }
            let _ = said.send(method);
        });
        Served::Events(receiver)
    })
}

async fn next(body: &mut hyper::body::Incoming) -> String {
    let frame = timeout(Duration::from_secs(5), body.frame()).await.expect("something comes").unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn streams_and_requests_at_once_have_a_limit() {
    let (said, _closed) = mpsc::unbounded_channel();
    let world = Arc::new(World::new(guard(), silent(said)).await);
    world.daemon.change(|rules| {
        rules.limits.concurrent_calls = 1;
        rules.limits.sessions = 1;
    });
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    let session = world.session().await;
    let headers = [("accept", "text/event-stream"), ("mcp-session-id", session.as_str())];
    let (status, _, stream) = world.open(Method::GET, "/s/crm/mcp", &headers, "").await;
    assert_eq!(status, 200);
    assert_eq!(world.open(Method::GET, "/s/crm/mcp", &headers, "").await.0, 429);
    let waiting = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.post(&session, &request("resources/list", &json!({}))).await })
    };
    world.eventually("it waits", |world| world.heard("resources/list").len() == 1).await;
    let got = world.post(&session, &request("ping", &json!({}))).await.json();
    assert_eq!(got["error"]["code"], -31000, "{got}");
    for method in ["ping", "GET"] {
        world.eventually("it is counted", |world| refused(world, method, "concurrency") == 1).await;
    }
    // Places are given back.
    waiting.abort();
    drop(stream);
    let (mut pinged, mut listened) = (false, false);
    for _ in 0..200 {
        pinged = pinged || world.post(&session, &request("ping", &json!({}))).await.json()["error"] == Value::Null;
        listened = listened || world.open(Method::GET, "/s/crm/mcp", &headers, "").await.0 == 200;
        if pinged && listened {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a place was not given back: {pinged} {listened}");
}

#[tokio::test]
async fn a_kill_of_the_whole_server_ends_what_is_open_to_it_and_the_client_hears_when_it_is_given_back() {
    for group in ["all", "mcp:crm", "mode:tools-off"] {
        let (said, mut closed) = mpsc::unbounded_channel();
        let world = Arc::new(World::new(guard(), silent(said)).await);
        let session = world.session().await;
        let headers = [("accept", "text/event-stream"), ("mcp-session-id", session.as_str())];
        let (_, _, mut stream) = world.open(Method::GET, "/s/crm/mcp", &headers, "").await;
        assert!(next(&mut stream).await.contains("resources/list_changed"));
        let waiting = {
            let (world, session) = (Arc::clone(&world), session.clone());
            tokio::spawn(async move { world.post(&session, &request("resources/list", &json!({}))).await })
        };
        world.eventually("it waits", |world| world.heard("resources/list").len() == 1).await;
        world.daemon.change(|rules| rules.killed.extend([group.to_owned()]));
        let answer = waiting.await.unwrap().last();
        assert_eq!(answer["error"]["code"], -31000, "{group}: {answer}");
        let both = async { [closed.recv().await.unwrap(), closed.recv().await.unwrap()] };
        let mut ended = timeout(Duration::from_secs(5), both).await.expect("both streams end");
        ended.sort();
        assert_eq!(ended, ["GET", "resources/list"], "the server sees both end");
        assert!(next(&mut stream).await.contains("tools/list_changed"), "{group}");
        // Another one does not reach the server either.
        let gets = || world.heard.lock().unwrap().iter().filter(|(method, _, _)| method == "GET").count();
        assert_eq!(world.open(Method::GET, "/s/crm/mcp", &headers, "").await.0, 200);
        assert_eq!(gets(), 1);
        world.daemon.change(|rules| rules.killed.clear());
        assert!(next(&mut stream).await.contains("tools/list_changed"), "{group}");
        // The stream is the server's again.
        assert!(next(&mut stream).await.contains("resources/list_changed"), "{group}");
    }
}

#[tokio::test]
async fn another_kill_ends_nothing_that_is_open() {
    let (said, _closed) = mpsc::unbounded_channel();
    let world = Arc::new(World::new(guard(), silent(said)).await);
    let session = world.session().await;
    let waiting = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.post(&session, &request("resources/list", &json!({}))).await })
    };
    world.eventually("it waits", |world| world.heard("resources/list").len() == 1).await;
    world.daemon.change(|rules| rules.killed.extend(["mcp:other".to_owned(), "tool:crm/quick".to_owned()]));
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test]
async fn what_a_client_calls_itself_is_looked_through_like_arguments() {
    let mut guard = guard();
    guard["data_classes"] = json!({ "deny": ["secrets"] });
    let world = World::new(guard, echo(&["quick"])).await;
    let mut greeting = initialize();
    greeting["params"]["clientInfo"]["name"] = json!(format!("AKIA{}", "QYLPMN5HHHFPZAM2"));
    let got = world.post("", &greeting).await.json();
    assert_eq!(got["error"]["code"], -31000, "{got}");
    assert!(world.heard("initialize").is_empty());
    world.eventually("it is counted", |world| refused(world, "initialize", "data_class") == 1).await;
    world.session().await;
}

/// A server whose tool goes on as a task, in both eras.
fn tasked() -> Serve {
    Arc::new(|_, message, headers| {
        let modern = headers.get("mcp-protocol-version").is_some_and(|version| version == "2026-07-28");
        let result =
            |result: Value| Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }));
        let id = message["params"]["name"].as_str().map_or("?".to_owned(), |tool| format!("task-of-{tool}"));
        match message["method"].as_str() {
            Some("tools/call") if modern => result(json!({ "resultType": "task", "taskId": id, "status": "working" })),
            Some("tools/call") => result(json!({ "task": { "taskId": id, "status": "working" } })),
            Some("tasks/get") => result(json!({ "taskId": message["params"]["taskId"], "status": "completed" })),
            Some("tasks/cancel") => result(json!({})),
            _ => usual(&message, &["slow", "quick", "done"]).unwrap(),
        }
    })
}

#[tokio::test]
async fn a_task_of_a_killed_tool_is_cancelled_at_the_server_and_counted_once() {
    let world = World::new(guard(), tasked()).await;
    let session = world.session().await;
    for tool in ["slow", "quick", "done"] {
        let call = json!({ "name": tool, "arguments": {}, "task": {} });
        let made = world.post(&session, &request("tools/call", &call)).await.json();
        assert_eq!(made["result"]["task"]["taskId"], format!("task-of-{tool}"), "{made}");
    }
    // One has ended by itself.
    let got = world.post(&session, &request("tasks/get", &json!({ "taskId": "task-of-done" }))).await.json();
    assert_eq!(got["result"]["status"], "completed");
    world.daemon.change(|rules| rules.killed.extend(["tool:crm/slow".to_owned(), "tool:crm/done".to_owned()]));
    world.eventually("the server is told", |world| world.heard("tasks/cancel").len() == 1).await;
    assert_eq!(world.heard("tasks/cancel")[0]["params"]["taskId"], "task-of-slow");
    world.eventually("it is counted", |world| world.daemon.kept.lock().unwrap().last() == Some(&(2, 1))).await;
    let heard = world.heard.lock().unwrap().clone();
    let cancelled = heard.iter().find(|(_, body, _)| body["method"] == "tasks/cancel").unwrap();
    assert_eq!(cancelled.2["mcp-session-id"], "upstream-1", "within the session at the server");
    // What came before and what comes after is not told again.
    world.daemon.change(|rules| rules.killed.extend(["class:irreversible".to_owned()]));
    world.eventually("it is counted", |world| world.daemon.kept.lock().unwrap().last() == Some(&(3, 1))).await;
    world.eventually("the server is told", |world| world.heard("tasks/cancel").len() == 2).await;
    assert_eq!(world.heard("tasks/cancel")[1]["params"]["taskId"], "task-of-quick");
}

#[tokio::test]
async fn a_task_of_the_newer_era_is_cancelled_in_the_gateways_own_name() {
    let world = World::new(guard(), tasked()).await;
    let declared = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": { "extensions": { "io.modelcontextprotocol/tasks": {} } } });
    let call = request("tools/call", &json!({ "name": "slow", "arguments": {}, "_meta": declared }));
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "slow"),
    ];
    let made = world.http(Method::POST, "/s/crm/mcp", &headers, call.to_string()).await.json();
    assert_eq!(made["result"]["taskId"], "task-of-slow", "{made}");
    world.daemon.change(|rules| rules.killed.extend(["mcp:crm".to_owned()]));
    world.eventually("the server is told", |world| world.heard("tasks/cancel").len() == 1).await;
    let told = &world.heard("tasks/cancel")[0];
    assert_eq!(told["params"]["taskId"], "task-of-slow");
    let said = &told["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"];
    assert!(said["io.modelcontextprotocol/tasks"].is_object(), "{told}");
    world.eventually("it is counted", |world| world.daemon.kept.lock().unwrap().last() == Some(&(2, 1))).await;
}
