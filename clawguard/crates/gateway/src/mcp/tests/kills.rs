use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::world::{Serve, Served, World, event, usual};

fn guard() -> Value {
    json!({ "tools": { "allow": ["crm/*"] } })
}

/// A server whose `slow` tool says that it goes on, and never that it is done.
fn slow() -> Serve {
    Arc::new(|_, message, _| {
        usual(&message, &["slow", "quick"]).unwrap_or_else(|| {
            if message["params"]["name"] == "quick" {
                return Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "content": [] } }));
            }
            let (sender, receiver) = mpsc::channel(4);
            tokio::spawn(async move {
                let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": 1, "progress": 1 } });
                let _ = sender.send(event(&progress)).await;
                sender.closed().await;
            });
            Served::Events(receiver)
        })
    })
}

async fn killed(group: &str) {
    let world = Arc::new(World::new(guard(), slow()).await);
    let session = world.session().await;
    let running = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "slow", json!({})).await })
    };
    world.eventually("the call runs", |world| world.heard("tools/call").len() == 1).await;
    world.daemon.change(|rules| rules.killed.extend([group.to_owned()]));
    let got = running.await.unwrap();
    let answer = got.last();
    assert_eq!((&answer["id"], &answer["result"]["isError"]), (&json!(7), &json!(true)), "{group}");
    let kept = world.daemon.kept.lock().unwrap().last().copied();
    assert_eq!(kept, Some((2, 1)), "{group}");
    let ended = world.daemon.records().iter().find_map(|record| record.get("ended").cloned()).unwrap();
    assert_eq!(ended["status"], "killed");
    world.eventually("the server is told", |world| world.heard("notifications/cancelled").len() == 1).await;
    assert_eq!(world.heard("notifications/cancelled")[0]["params"]["requestId"], 7);
    // And no more of it.
    let answer = world.call(&session, "slow", json!({})).await.json();
    assert_eq!(answer["result"]["isError"], true);
    assert_eq!(world.heard("tools/call").len(), 1);
    world.daemon.change(|rules| rules.killed.clear());
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 3).await;
    assert_eq!(world.call(&session, "quick", json!({})).await.json()["result"]["isError"], Value::Null);
}

#[tokio::test]
async fn a_kill_ends_running_calls_by_every_group_that_they_belong_to() {
    for group in ["all", "mcp:crm", "risk:low", "class:irreversible", "mode:tools-off", "tool:crm/slow"] {
        killed(group).await;
    }
}

#[tokio::test]
async fn the_kill_of_one_tool_spares_the_others_and_is_said_to_whoever_listens() {
    let world = World::new(guard(), slow()).await;
    let session = world.session().await;
    let headers = [("accept", "text/event-stream"), ("mcp-session-id", session.as_str())];
    let (status, _, mut stream) = world.open(Method::GET, "/s/crm/mcp", &headers, "").await;
    assert_eq!(status, 200);
    world.daemon.change(|rules| rules.killed.extend(["tool:crm/slow".to_owned()]));
    let frame = tokio::time::timeout(Duration::from_secs(5), stream.frame()).await.unwrap().unwrap().unwrap();
    let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
    assert!(text.contains("notifications/tools/list_changed"), "{text}");
    let listed = world.post(&session, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await.json();
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(world.call(&session, "quick", json!({})).await.json()["result"]["isError"], Value::Null);
}

#[tokio::test]
async fn a_job_that_is_over_has_neither_calls_nor_sessions() {
    let world = Arc::new(World::new(guard(), slow()).await);
    let session = world.session().await;
    let running = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "slow", json!({})).await })
    };
    world.eventually("the call runs", |world| world.heard("tools/call").len() == 1).await;
    // Another job in the same slot.
    world.daemon.change(|rules| rules.jobs[0].key += 1);
    assert_eq!(running.await.unwrap().last()["result"]["isError"], true);
    assert_eq!(world.call(&session, "quick", json!({})).await.status, 403);
}

#[tokio::test]
async fn a_contract_that_no_longer_has_its_tool_ends_a_running_call() {
    let world = Arc::new(World::new(guard(), slow()).await);
    let session = world.session().await;
    let running = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "slow", json!({})).await })
    };
    world.eventually("the call runs", |world| world.heard("tools/call").len() == 1).await;
    // One that still has it does not.
    let contract = |tools: Value| {
        json!({ "policy_version": "1", "policy_id": "test", "issuer_did": "did:key:zTest",
        "metadata": { "clawguard.v1": { "tools": { "allow": tools } } } })
    };
    for (n, (hash, tools)) in [("second", json!(["crm/slow"])), ("third", json!(["crm/quick"]))].into_iter().enumerate()
    {
        *world.daemon.contract.lock().unwrap() = contract(tools);
        world.daemon.change(|rules| rules.jobs[0].contract = Some(hash.into()));
        world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == n + 2).await;
        assert_eq!(world.daemon.kept.lock().unwrap()[n + 1].1, n as u64, "{hash}");
    }
    assert_eq!(running.await.unwrap().last()["result"]["isError"], true);
}
