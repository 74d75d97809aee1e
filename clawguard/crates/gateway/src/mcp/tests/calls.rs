use std::sync::Arc;

use control::calls::{Pin, Standing};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::world::{PORT, Served, World, call, echo, usual};

fn guard() -> Value {
    json!({ "tools": { "allow": ["crm/get_*", "crm/update_case"], "deny": ["crm/get_secret"], "approve": ["crm/delete_case"] } })
}

const LIMITS: claw::json::Limits = claw::json::Limits { bytes: 1 << 20, depth: 32 };

const TOOLS: &[&str] = &["get_case", "get_secret", "update_case", "delete_case", "other"];

fn is_refused(answer: &Value, word: &str) {
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(word), "{text}");
}

#[tokio::test]
async fn an_allowed_call_arrives_as_it_was_judged_and_its_record_stands_before_its_answer() {
    let world = World::new(guard(), echo(TOOLS)).await;
    let session = world.session().await;
    let got = world.call(&session, "get_case", json!({ "id": 1, "big": 123456789012345678_u64 })).await;
    assert_eq!(got.json()["result"]["content"][0]["text"], r#"{"big":123456789012345678,"id":1}"#);
    let records = world.daemon.records();
    let begun = records.iter().find_map(|record| record.get("begun")).unwrap();
    assert_eq!((begun["tool"].as_str(), begun["decision"].as_str()), (Some("get_case"), Some("allowed")));
    assert_eq!(
        (begun["server"].as_str(), begun["rule"].as_str()),
        (Some("crm"), Some("metadata.clawguard.v1.tools.allow[0]"))
    );
    assert!(begun["definition"].as_str().is_some_and(|hash| hash.len() == 43), "{begun}");
    assert_eq!(begun["arguments"], Value::Null);
    let ended = records.iter().find_map(|record| record.get("ended")).unwrap();
    assert_eq!((&ended["number"], ended["status"].as_str()), (&begun["number"], Some("ok")));
    // Of the result that the caller has, not of what the server wrote.
    let result = claw::json::parse(got.json()["result"].to_string().as_bytes(), LIMITS).unwrap();
    assert_eq!(ended["result_hash"].as_str(), Some(&*result.canonical_hash().to_string()));
    // The host's own credentials, and the server's own name for the session; nothing of the client's.
    let heard = world.heard.lock().unwrap();
    let (_, _, headers) = heard.iter().find(|(_, body, _)| body["method"] == "tools/call").unwrap();
    assert_eq!(
        (headers["authorization"].to_str().unwrap(), headers["mcp-session-id"].to_str().unwrap()),
        ("Bearer host", "upstream-1")
    );
}

#[tokio::test]
async fn what_the_contract_hides_is_an_unknown_tool_and_never_reaches_the_server() {
    let world = World::new(guard(), echo(TOOLS)).await;
    let session = world.session().await;
    for tool in ["get_secret", "other", "GET_CASE", "get_nothing", "get_case\u{200b}", "get_case "] {
        let answer = world.call(&session, tool, json!({})).await.json();
        assert_eq!(answer["error"]["code"], -32602, "{tool}: {answer}");
        assert_eq!(answer["error"]["message"], format!("Unknown tool: {tool}"));
    }
    assert_eq!(world.heard("tools/call").len(), 0);
    let refused: Vec<Value> =
        world.daemon.records().iter().filter_map(|record| record.get("refused").cloned()).collect();
    assert_eq!(refused.len(), 6);
    let unseen = refused.iter().find(|call| call["tool"] == "get_nothing").unwrap();
    assert_eq!((unseen["reason"].as_str(), unseen["alert"].as_str()), (Some("tool_unseen"), Some("tool_unseen")));
}

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_is_withheld_and_a_closed_daemon_makes_no_call() {
    let world = World::new(guard(), echo(TOOLS)).await;
    let session = world.session().await;
    world.call(&session, "get_case", json!({})).await;
    let before = world.heard("tools/call").len();
    *world.daemon.unrecorded.lock().unwrap() = Some("the disk is full".into());
    let answer = world.call(&session, "get_case", json!({ "secret": 1 })).await;
    is_refused(&answer.json(), "could not record");
    assert!(!answer.body.contains("secret"));
    world.daemon.change(|rules| rules.closed = Some("the disk is full".into()));
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    is_refused(&world.call(&session, "get_case", json!({})).await.json(), "unrecordable");
    assert_eq!(world.heard("tools/call").len(), before + 1);
}

#[tokio::test]
async fn a_held_call_waits_for_a_person_and_is_made_once() {
    let world = Arc::new(World::new(guard(), echo(TOOLS)).await);
    let session = world.session().await;
    let pending = || Standing::Pending { id: "ap-1".into(), expires_at: "2026-01-01T00:00:00Z".into() };
    let approved = || Standing::Approved { id: "ap-1".into(), by: "root".into() };
    world.daemon.approvals.lock().unwrap().extend([pending(), approved()]);
    let waiting = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "delete_case", json!({ "b": 1, "a": "\u{202e}x" })).await })
    };
    world.eventually("somebody is asked", |world| world.daemon.held.lock().unwrap().len() == 1).await;
    assert_eq!(world.heard("tools/call").len(), 0);
    world.daemon.decided.notify_one();
    assert_eq!(waiting.await.unwrap().json()["result"]["isError"], Value::Null);
    assert_eq!(world.heard("tools/call").len(), 1);
    let held = world.daemon.held.lock().unwrap()[0].clone();
    assert_eq!(held.arguments, "{\"a\":\"\u{202e}x\",\"b\":1}");
    assert_eq!(held.call.arguments_hash, claw::Hash::of(held.arguments.as_bytes()).to_string());
    // Refused, and impossible.
    let refused = Standing::Refused { id: "ap-2".into(), reason: "not today".into() };
    world.daemon.approvals.lock().unwrap().push_back(refused);
    is_refused(&world.call(&session, "delete_case", json!({})).await.json(), "not today");
    is_refused(&world.call(&session, "delete_case", json!({})).await.json(), "approval_impossible");
    assert_eq!(world.heard("tools/call").len(), 1);
}

#[tokio::test]
async fn a_person_who_is_slow_leaves_the_call_pending() {
    let world = World::new(guard(), echo(TOOLS)).await;
    world.daemon.change(|rules| rules.approval_wait_seconds = 0);
    let session = world.session().await;
    let pending = Standing::Pending { id: "ap-9".into(), expires_at: "2026-01-01T00:00:00Z".into() };
    world.daemon.approvals.lock().unwrap().push_back(pending);
    let answer = world.call(&session, "delete_case", json!({})).await.json();
    is_refused(&answer, "approval_pending");
    is_refused(&answer, "ap-9");
    assert_eq!(world.heard("tools/call").len(), 0);
}

#[tokio::test]
async fn what_nobody_accepted_is_hidden_and_not_called() {
    let world = World::new(guard(), echo(TOOLS)).await;
    world.daemon.pins.lock().unwrap().insert("update_case".into(), Pin::Changed);
    let session = world.session().await;
    let listed = world.post(&session, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await.json();
    let names: Vec<&str> =
        listed["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["get_case", "delete_case"]);
    let answer = world.call(&session, "update_case", json!({})).await.json();
    assert_eq!(answer["error"]["code"], -32602);
    // Another server under the same name: nothing of it is callable, and its instructions reach no model.
    world.daemon.pins.lock().unwrap().insert(String::new(), Pin::Changed);
    let got = world.post("", &super::world::initialize()).await;
    assert_eq!(got.json()["result"]["instructions"], Value::Null);
    let other = got.session();
    assert_eq!(world.call(&other, "get_case", json!({})).await.json()["error"]["code"], -32602);
    assert_eq!(world.heard("tools/call").len(), 0);
}

#[tokio::test]
async fn too_many_calls_are_refused_and_added_up() {
    let world = World::new(guard(), echo(TOOLS)).await;
    world.daemon.change(|rules| rules.limits.calls_per_minute = 5);
    let session = world.session().await;
    let mut refused = 0;
    for _ in 0..40 {
        refused += usize::from(world.call(&session, "get_case", json!({})).await.json()["result"]["isError"] == true);
    }
    assert_eq!((refused, world.heard("tools/call").len()), (35, 5));
    world.gate.limits.tell_refused(&world.gate.recorder);
    let told = |world: &World| -> u64 {
        let records = world.daemon.records();
        records.iter().filter_map(|record| record["refused"]["count"].as_u64()).sum()
    };
    world.eventually("every refusal is told", |world| told(world) == 35).await;
    assert!(world.daemon.records().len() < 30);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_servers_nonsense_is_no_answer() {
    for (what, served) in [
        (
            "redirects",
            Served::Raw(307, "text/plain", String::new(), vec![("location", "http://127.0.0.1:9/steal".into())]),
        ),
        (
            "no MCP message",
            Served::Raw(200, "application/json", "{\"jsonrpc\":\"2.0\",\"id\":7,\"id\":8}".into(), vec![]),
        ),
        ("no MCP message", Served::Json(200, json!({ "jsonrpc": "2.0", "id": 8, "result": {} }))),
        ("status 500", Served::Raw(500, "text/html", "<html>".into(), vec![])),
    ] {
        let served = std::sync::Mutex::new(Some(served));
        let world = World::new(
            guard(),
            Arc::new(move |_, message, _| {
                usual(&message, TOOLS).unwrap_or_else(|| served.lock().unwrap().take().unwrap())
            }),
        )
        .await;
        let session = world.session().await;
        is_refused(&world.call(&session, "get_case", json!({})).await.json(), what);
        let ended = world.daemon.records().iter().find_map(|record| record.get("ended").cloned()).unwrap();
        assert_eq!(ended["status"], "error");
    }
}

#[tokio::test]
async fn two_calls_at_once_have_their_own_answers() {
    let world = Arc::new(World::new(guard(), echo(TOOLS)).await);
    let session = world.session().await;
    let calls = (0..20).map(|n| {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { (n, world.post(&session, &call(n, "get_case", &json!({ "n": n }))).await.json()) })
    });
    for done in calls.collect::<Vec<_>>() {
        let (n, answer) = done.await.unwrap();
        assert_eq!(answer["id"], n);
        assert_eq!(answer["result"]["content"][0]["text"], format!("{{\"n\":{n}}}"));
    }
}

#[tokio::test]
async fn in_the_era_of_sessions_a_client_that_hangs_up_has_not_cancelled_its_call() {
    let world = World::new(guard(), echo(TOOLS)).await;
    let session = world.session().await;
    world.call(&session, "get_case", json!({})).await;
    let body = call(8, "get_case", &json!({})).to_string();
    let mut stream = tokio::net::TcpStream::connect(world.at).await.unwrap();
    let head = format!(
        "POST /s/crm/mcp HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMcp-Session-Id: {session}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    let ended = |world: &World| {
        let records = world.daemon.records();
        records.iter().filter_map(|record| record["ended"]["status"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    world.eventually("the end of a call that nobody waits for", |world| ended(world).len() == 2).await;
    assert_eq!((ended(&world), world.heard("tools/call").len()), (vec!["ok".into(), "ok".into()], 2));
}
