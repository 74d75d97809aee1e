use std::sync::Arc;

use hyper::Method;
use serde_json::{Value, json};

use super::world::{Got, Served, World, echo, usual};

fn message(method: &str, params: Value) -> Value {
    let mut params = params;
    params["_meta"] = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": { "sampling": {} } });
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

async fn post(world: &World, method: &str, name: Option<&str>, params: Value) -> Got {
    let mut headers =
        vec![("content-type", "application/json"), ("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
    headers.extend(name.map(|name| ("mcp-name", name)));
    world.http(Method::POST, "/s/crm/mcp", &headers, message(method, params).to_string()).await
}

#[tokio::test]
async fn a_request_for_itself_is_judged_like_any_other() {
    let world = World::new(json!({ "tools": { "allow": ["crm/get_*"] } }), echo(&["get_case", "delete_case"])).await;
    let got =
        post(&world, "tools/call", Some("get_case"), json!({ "name": "get_case", "arguments": { "a": 1 } })).await;
    assert_eq!((got.status, got.json()["result"]["content"][0]["text"].as_str()), (200, Some("{\"a\":1}")));
    let heard = world.heard.lock().unwrap().clone();
    let (_, body, headers) = heard.iter().find(|(_, body, _)| body["method"] == "tools/call").unwrap();
    assert_eq!(
        (headers["mcp-method"].to_str().unwrap(), headers["mcp-name"].to_str().unwrap()),
        ("tools/call", "get_case")
    );
    assert_eq!(body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"], json!({}));
    let got = post(&world, "tools/call", Some("delete_case"), json!({ "name": "delete_case", "arguments": {} })).await;
    assert_eq!(got.json()["error"]["code"], -32602);
    let listed = post(&world, "tools/list", None, json!({})).await.json();
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 1);
    assert_eq!((&listed["result"]["cacheScope"], &listed["result"]["ttlMs"]), (&json!("private"), &json!(0)));
}

#[tokio::test]
async fn headers_that_say_something_else_than_the_body_are_refused_before_anything_is_called() {
    let world = World::new(json!({ "tools": { "allow": ["crm/get_*"] } }), echo(&["get_case", "get_other"])).await;
    let got = post(&world, "tools/call", Some("get_other"), json!({ "name": "get_case", "arguments": {} })).await;
    assert_eq!((got.status, got.json()["error"]["code"].as_i64()), (400, Some(-32020)));
    assert_eq!(world.heard.lock().unwrap().len(), 0);
    let got = post(&world, "x/unknown", None, json!({})).await;
    assert_eq!((got.status, got.json()["error"]["code"].as_i64()), (404, Some(-32601)));
    assert_eq!(world.http(Method::GET, "/s/crm/mcp", &[("mcp-protocol-version", "2026-07-28")], "").await.status, 405);
}

#[tokio::test]
async fn what_a_server_asks_back_for_is_judged() {
    let serve = Arc::new(|_: &str, message: Value, _: hyper::HeaderMap| {
        usual(&message, &["get_case"]).unwrap_or_else(|| {
            let asks = json!({ "a": { "method": "sampling/createMessage", "params": {} } });
            let result = json!({ "resultType": "input_required", "inputRequests": asks, "requestState": "s" });
            Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
        })
    });
    let ask = json!({ "name": "get_case", "arguments": {} });
    let world = World::new(json!({ "tools": { "allow": ["crm/*"] } }), serve.clone()).await;
    let answer = post(&world, "tools/call", Some("get_case"), ask.clone()).await.json();
    assert_eq!((&answer["result"]["isError"], &answer["result"]["resultType"]), (&json!(true), &json!("complete")));
    let world = World::new(json!({ "tools": { "allow": ["crm/*"] }, "mcp": { "sampling": ["crm"] } }), serve).await;
    let answer = post(&world, "tools/call", Some("get_case"), ask).await.json();
    assert_eq!(answer["result"]["resultType"], "input_required");
}

#[tokio::test]
async fn a_task_is_asked_for_by_the_job_whose_call_made_it_and_asks_for_no_more_than_the_contract_gives() {
    let task = json!({ "taskId": "t-1", "status": "input_required" });
    let given = task.clone();
    let serve = Arc::new(move |_: &str, message: Value, _: hyper::HeaderMap| {
        usual(&message, &["get_case"]).unwrap_or_else(|| {
            let mut result = given.clone();
            result["resultType"] = json!(if message["method"] == "tools/call" { "task" } else { "complete" });
            if message["method"] == "tasks/get" {
                result["inputRequests"] = json!({ "a": { "method": "sampling/createMessage", "params": {} } });
            }
            Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
        })
    });
    for (guard, passes) in [
        (json!({ "tools": { "allow": ["crm/*"] }, "mcp": { "tasks": ["crm"], "sampling": ["crm"] } }), true),
        (json!({ "tools": { "allow": ["crm/*"] }, "mcp": { "tasks": ["crm"] } }), false),
    ] {
        let world = World::new(guard, serve.clone()).await;
        let declared = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} }, "sampling": {} });
        let ask = async |method: &str, name: &str, params: Value, capabilities: &Value| {
            let mut message = message(method, params);
            message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities.clone();
            let version = ("mcp-protocol-version", "2026-07-28");
            let headers = [("content-type", "application/json"), version, ("mcp-method", method), ("mcp-name", name)];
            world.http(Method::POST, "/s/crm/mcp", &headers, message.to_string()).await
        };
        let made = ask("tools/call", "get_case", json!({ "name": "get_case", "arguments": {} }), &declared).await;
        assert_eq!(made.json()["result"]["taskId"], "t-1");
        let got = ask("tasks/get", "t-1", json!({ "taskId": "t-1" }), &declared).await.json();
        assert_eq!(got["result"]["inputRequests"].is_object(), passes, "{got}");
        assert_eq!(got["error"]["code"] == -31000, !passes, "{got}");
        let other = ask("tasks/get", "t-2", json!({ "taskId": "t-2" }), &declared).await.json();
        assert_eq!(other["error"]["code"], -32602);
        let without = ask("tasks/get", "t-2", json!({ "taskId": "t-2" }), &json!({})).await;
        assert_eq!((without.status, without.json()["error"]["code"].as_i64()), (400, Some(-32021)));
        assert_eq!(world.heard("tasks/get").len(), 1);
    }
}

#[tokio::test]
async fn a_client_may_begin_with_the_list() {
    let world = World::new(json!({ "tools": { "allow": ["crm/get_*"] } }), echo(&["get_case"])).await;
    let listed = post(&world, "tools/list", None, json!({})).await.json();
    assert_eq!(listed["result"]["tools"][0]["name"], "get_case", "{listed}");
    let got = post(&world, "tools/call", Some("get_case"), json!({ "name": "get_case", "arguments": {} })).await;
    assert_eq!(got.json()["result"]["content"][0]["text"], "{}", "{}", got.json());
    // Who it is was asked once.
    assert_eq!(world.heard("server/discover").len(), 1);
}

#[tokio::test]
async fn what_a_server_asks_back_for_is_judged_whatever_it_calls_its_answer() {
    for kind in [json!(null), json!("complete"), json!("x")] {
        let serve = Arc::new(move |_: &str, message: Value, _: hyper::HeaderMap| {
            usual(&message, &["get_case"]).unwrap_or_else(|| {
                let asks = json!({ "a": { "method": "elicitation/create", "params": { "mode": "url", "url": "https://evil.example" } } });
                let mut result = json!({ "content": [], "inputRequests": asks });
                if !kind.is_null() {
                    result["resultType"] = kind.clone();
                }
                Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
            })
        });
        let world =
            World::new(json!({ "tools": { "allow": ["crm/*"] }, "mcp": { "elicitation": ["crm"] } }), serve).await;
        let ask = json!({ "name": "get_case", "arguments": {} });
        let got = post(&world, "tools/call", Some("get_case"), ask).await;
        assert!(!got.body.contains("evil.example"), "{got:?}");
        assert_eq!(got.json()["result"]["isError"], true);
    }
}
