use hyper::Method;
use serde_json::json;

use super::world::{PORT, World, call, echo};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn world() -> World {
    World::new(json!({ "tools": { "allow": ["crm/*"] } }), echo(&["get_case"])).await
}

#[tokio::test]
async fn a_message_that_two_readers_could_read_differently_is_refused() {
    let world = world().await;
    let session = world.session().await;
    let headers = [JSON, ("mcp-session-id", session.as_str())];
    let heard = world.heard.lock().unwrap().len();
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"get_case"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_case","na\u006de":"other"}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_case","arguments":{"a":NaN}}}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"\\ud800\"}}",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"} x"#,
        "",
    ] {
        let got = world.http(Method::POST, "/s/crm/mcp", &headers, body).await;
        assert_eq!(got.status, 400, "{body}: {got:?}");
        assert!(got.json()["error"]["code"].is_i64());
    }
    assert_eq!(world.heard.lock().unwrap().len(), heard);
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{{\"a\":{}1{}}}}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    assert_eq!(world.http(Method::POST, "/s/crm/mcp", &headers, deep).await.status, 400);
    let long = call(1, "get_case", &json!({ "a": "x".repeat(5 << 20) })).to_string();
    assert_eq!(world.http(Method::POST, "/s/crm/mcp", &headers, long).await.status, 413);
}

#[tokio::test]
async fn a_web_page_and_another_host_are_refused() {
    let world = world().await;
    let own = format!("127.0.0.1:{PORT}");
    let body = super::world::initialize().to_string();
    for headers in [
        [JSON, ("host", "evil.example"), ("accept", "*/*")],
        [JSON, ("host", "127.0.0.1:80"), ("accept", "*/*")],
        [JSON, ("host", own.as_str()), ("origin", "http://evil.example")],
        [JSON, ("host", own.as_str()), ("origin", "null")],
    ] {
        assert_eq!(world.http(Method::POST, "/s/crm/mcp", &headers, body.clone()).await.status, 403, "{headers:?}");
    }
    assert_eq!(world.heard.lock().unwrap().len(), 0);
    let local = format!("localhost:{PORT}");
    let origin = format!("http://localhost:{PORT}");
    let headers = [JSON, ("host", local.as_str()), ("origin", origin.as_str())];
    assert_eq!(world.http(Method::POST, "/s/crm/mcp", &headers, body.clone()).await.status, 200);
    // No other path, no other kind of body, no other method.
    for path in ["/s/other/mcp", "/s/crm/mcp/", "/mcp", "/s//mcp", "/s/crm/../crm/mcp"] {
        assert_eq!(world.http(Method::POST, path, &[JSON], body.clone()).await.status, 404, "{path}");
    }
    assert_eq!(
        world.http(Method::POST, "/s/crm/mcp", &[("content-type", "text/plain")], body.clone()).await.status,
        415
    );
    assert_eq!(world.http(Method::PUT, "/s/crm/mcp", &[JSON], body).await.status, 405);
}

#[tokio::test]
async fn a_token_that_is_sent_has_to_be_the_jobs() {
    let world = world().await;
    let body = super::world::initialize().to_string();
    let with = [JSON, ("x-clawguard-cst", "a.b.c")];
    assert_eq!(world.http(Method::POST, "/s/crm/mcp", &with, body.clone()).await.status, 401);
    world.daemon.change(|rules| rules.jobs[0].token = Some("00".repeat(32)));
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    assert_eq!(world.http(Method::POST, "/s/crm/mcp", &with, body.clone()).await.status, 401);
    use sha2::Digest;
    let hash: String = sha2::Sha256::digest("a.b.c").iter().map(|byte| format!("{byte:02x}")).collect();
    world.daemon.change(|rules| rules.jobs[0].token = Some(hash));
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 3).await;
    assert_eq!(world.http(Method::POST, "/s/crm/mcp", &with, body).await.status, 200);
    let heard = world.heard.lock().unwrap();
    assert!(
        heard.iter().all(|(_, _, headers)| !headers.contains_key("x-clawguard-cst")),
        "the client's token went upstream"
    );
}
