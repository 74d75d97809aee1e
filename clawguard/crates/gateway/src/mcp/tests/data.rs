use std::sync::Arc;

use serde_json::{Value, json};

use super::world::{Serve, Served, World, echo, usual};

/// Put together here, so that nobody who looks through repositories for tokens finds one.
fn token() -> String {
    format!("{}_{}", "ghp", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8")
}

fn guard(classes: &Value) -> Value {
    json!({ "tools": { "allow": ["crm/*"] }, "data_classes": classes })
}

fn leaks() -> Serve {
    Arc::new(|_, message, _| {
        usual(&message, &["get_case", "fails"]).unwrap_or_else(|| {
            let said = format!("the key is {}", token());
            if message["params"]["name"] == "fails" {
                return Served::Json(
                    200,
                    json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": 1, "message": said } }),
                );
            }
            let result = json!({ "content": [{ "type": "text", "text": said }] });
            Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
        })
    })
}

fn classes(world: &World) -> Value {
    let records = world.daemon.records();
    records.iter().find_map(|record| record["ended"].get("classes").cloned()).unwrap_or_default()
}

#[tokio::test]
async fn a_call_that_carries_what_the_contract_denies_is_not_made() {
    let world = World::new(guard(&json!({ "deny": ["secrets"] })), echo(&["get_case"])).await;
    let session = world.session().await;
    let answer = world.call(&session, "get_case", json!({ "note": token() })).await;
    assert!(answer.body.contains("data_class") && answer.body.contains("secrets"), "{answer:?}");
    assert!(!answer.body.contains(&token()));
    assert_eq!(world.heard("tools/call").len(), 0);
    assert!(!world.daemon.records().iter().any(|record| record.to_string().contains(&token())));
    assert_eq!(
        world.call(&session, "get_case", json!({ "note": "fine" })).await.json()["result"]["isError"],
        Value::Null
    );
}

#[tokio::test]
async fn an_answer_that_carries_what_the_contract_denies_is_withheld() {
    let world = World::new(guard(&json!({ "deny": ["secrets"] })), leaks()).await;
    let session = world.session().await;
    for tool in ["get_case", "fails"] {
        let answer = world.call(&session, tool, json!({})).await;
        assert!(answer.body.contains("withheld") && !answer.body.contains(&token()), "{tool}: {answer:?}");
    }
    assert_eq!(classes(&world), json!({ "secrets": 1 }));
}

#[tokio::test]
async fn what_is_to_be_redacted_is_on_either_way() {
    let world = World::new(guard(&json!({ "redact": ["secrets"] })), leaks()).await;
    let session = world.session().await;
    let answer = world.call(&session, "get_case", json!({ "note": token() })).await;
    assert!(answer.body.contains("[redacted:secrets]") && !answer.body.contains(&token()), "{answer:?}");
    assert_eq!(world.heard("tools/call")[0]["params"]["arguments"]["note"], "[redacted:secrets]");
    assert_eq!(classes(&world), json!({ "secrets": 2 }));
    // And in what is too large to be looked through beside others.
    let large = format!("{} {}", "x ".repeat(40_000), token());
    world.call(&session, "get_case", json!({ "note": large })).await;
    let heard = world.heard("tools/call").pop().unwrap().to_string();
    assert!(heard.contains("[redacted:secrets]") && !heard.contains(&token()));
}
