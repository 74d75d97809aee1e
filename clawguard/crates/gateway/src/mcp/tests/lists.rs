use std::sync::Arc;

use hyper::Method;
use serde_json::{Value, json};

use super::world::{Serve, Served, World, echo, usual};

fn resources() -> Serve {
    Arc::new(|_, message, _| {
        let id = message["id"].clone();
        let result = |result: Value| Served::Json(200, json!({ "jsonrpc": "2.0", "id": id, "result": result }));
        usual(&message, &[]).unwrap_or_else(|| match message["method"].as_str().unwrap() {
            "resources/list" => result(
                json!({ "resources": [{ "uri": "docs://a", "name": "a" }, { "uri": "secret://b", "name": "b" }] }),
            ),
            "resources/read" => result(json!({ "contents": [{ "uri": message["params"]["uri"], "text": "x" }] })),
            _ => result(json!({})),
        })
    })
}

#[tokio::test]
async fn a_greeting_offers_what_the_contract_gives_and_asks_for_no_more() {
    let world = World::new(
        json!({ "tools": { "allow": ["crm/*"] }, "mcp": { "prompts": ["crm/*"], "roots": ["crm"] } }),
        echo(&[]),
    )
    .await;
    let got = world.post("", &super::world::initialize()).await.json();
    assert_eq!(got["result"]["capabilities"], json!({ "tools": { "listChanged": true }, "prompts": {} }));
    assert_eq!(got["result"]["instructions"], "be good");
    // The server does not even hear of what it may not use.
    assert_eq!(world.heard("initialize")[0]["params"]["capabilities"], json!({ "roots": {} }));
}

#[tokio::test]
async fn resources_are_given_one_by_one_and_by_default_none() {
    let world = World::new(json!({ "tools": {}, "mcp": { "resources": ["crm/docs://*"] } }), resources()).await;
    let session = world.session().await;
    let ask = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let listed = world.post(&session, &ask("resources/list", json!({}))).await.json();
    assert_eq!(listed["result"]["resources"].as_array().unwrap().len(), 1);
    let read = world.post(&session, &ask("resources/read", json!({ "uri": "docs://a" }))).await.json();
    assert_eq!(read["result"]["contents"][0]["text"], "x");
    for (method, params) in [
        ("resources/read", json!({ "uri": "secret://b" })),
        ("resources/subscribe", json!({ "uri": "secret://b" })),
        ("prompts/list", json!({})),
        ("prompts/get", json!({ "name": "p" })),
        ("logging/setLevel", json!({ "level": "debug" })),
        ("completion/complete", json!({ "ref": { "type": "ref/resource", "uri": "docs://a" }, "argument": {} })),
        ("tasks/list", json!({})),
        ("sampling/createMessage", json!({})),
        ("server/discover", json!({})),
        ("x/y", json!({})),
    ] {
        let heard = world.heard.lock().unwrap().len();
        let answer = world.post(&session, &ask(method, params)).await.json();
        assert!(answer["error"]["code"].is_i64(), "{method}: {answer}");
        assert_eq!(world.heard.lock().unwrap().len(), heard, "{method} reached the server");
    }
}

#[tokio::test]
async fn a_session_is_one_jobs_with_one_server_and_ends_when_it_says_so() {
    let world = World::new(json!({ "tools": { "allow": ["crm/*"] } }), echo(&["get_case"])).await;
    let session = world.session().await;
    assert_eq!(world.call("no-such-session", "get_case", json!({})).await.status, 404);
    assert_eq!(world.call("", "get_case", json!({})).await.status, 400);
    // The server's own name opens nothing here.
    assert_eq!(world.call("upstream-1", "get_case", json!({})).await.status, 404);
    let ended = world.http(Method::DELETE, "/s/crm/mcp", &[("mcp-session-id", session.as_str())], "").await;
    assert_eq!(ended.status, 200);
    assert_eq!(world.call(&session, "get_case", json!({})).await.status, 404);
    let deleted = world
        .heard
        .lock()
        .unwrap()
        .iter()
        .any(|(method, _, headers)| method == "DELETE" && headers["mcp-session-id"] == "upstream-1");
    assert!(deleted);
}
