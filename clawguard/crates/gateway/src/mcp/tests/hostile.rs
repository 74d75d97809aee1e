use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use control::calls::{Pin, Standing};
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::world::{PORT, Serve, Served, World, call, echo, event, usual};

const TOOLS: &[&str] = &["get_case", "delete_case"];

/// A request that a server has not answered: its id, and where its answer goes.
type Open = (Value, mpsc::Sender<String>);

fn everything() -> Value {
    json!({ "tools": { "allow": ["crm/*"] } })
}

/// Puts another contract in force.
async fn turn_to(world: &World, guard: Value) {
    world.daemon.contract.lock().unwrap()["metadata"]["clawguard.v1"] = guard;
    let before = world.daemon.kept.lock().unwrap().len();
    world.daemon.change(|rules| rules.jobs[0].contract = Some(format!("contract-{}", rules.serial)));
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() > before).await;
}

fn modern(method: &str, mut params: Value) -> (String, String) {
    params["_meta"] = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {} });
    (method.to_owned(), json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string())
}

async fn post_modern(world: &World, (method, body): (String, String)) -> super::world::Got {
    let headers = [
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", method.as_str()),
        ("mcp-name", "get_case"),
    ];
    world.http(Method::POST, "/s/crm/mcp", &headers, body).await
}

#[tokio::test]
async fn a_message_that_comes_slowly_is_judged_by_what_is_in_force_once_it_is_there() {
    let world = World::new(everything(), echo(TOOLS)).await;
    let session = world.session().await;
    world.call(&session, "get_case", json!({})).await;
    let body = call(7, "get_case", &json!({ "slow": 1 })).to_string();
    let mut stream = TcpStream::connect(world.at).await.unwrap();
    let head = format!(
        "POST /s/crm/mcp HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nContent-Type: application/json\r\nMcp-Session-Id: {session}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (first, rest) = body.split_at(10);
    stream.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    turn_to(&world, json!({ "tools": { "allow": ["crm/delete_case"] } })).await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut got = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut got)).await.unwrap().unwrap();
    assert!(got.contains("Unknown tool"), "{got}");
    assert_eq!(world.heard("tools/call").len(), 1);
}

#[tokio::test]
async fn a_call_that_waits_for_its_servers_list_is_judged_by_what_is_in_force_afterwards() {
    let open: Arc<Mutex<Vec<Open>>> = Arc::default();
    let lists = Arc::clone(&open);
    let serve: Serve = Arc::new(move |method, message, headers| {
        if message["method"] != "tools/list" {
            return echo(TOOLS)(method, message, headers);
        }
        let (sender, receiver) = mpsc::channel(4);
        lists.lock().unwrap().push((message["id"].clone(), sender));
        Served::Events(receiver)
    });
    let world = Arc::new(World::new(everything(), serve).await);
    let session = world.session().await;
    let waiting = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "get_case", json!({})).await })
    };
    world.eventually("the list is asked for", |_| open.lock().unwrap().len() == 1).await;
    turn_to(&world, json!({ "tools": { "allow": ["crm/delete_case"] } })).await;
    let (id, sender) = open.lock().unwrap().pop().unwrap();
    let list = json!({ "jsonrpc": "2.0", "id": id, "result": { "tools": [{ "name": "get_case" }, { "name": "delete_case" }] } });
    sender.send(event(&list)).await.unwrap();
    assert_eq!(waiting.await.unwrap().json()["error"]["message"], "Unknown tool: get_case");
    assert_eq!(world.heard("tools/call").len(), 0);
}

#[tokio::test]
async fn a_running_call_ends_with_the_contract_that_it_rests_on() {
    let serve: Serve = Arc::new(|_, message, _| {
        usual(&message, TOOLS).unwrap_or_else(|| {
            let (sender, receiver) = mpsc::channel(4);
            tokio::spawn(async move { sender.closed().await });
            Served::Events(receiver)
        })
    });
    let world = Arc::new(World::new(everything(), serve).await);
    let session = world.session().await;
    let running = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "get_case", json!({})).await })
    };
    world.eventually("the call runs", |world| world.heard("tools/call").len() == 1).await;
    world.daemon.change(|rules| rules.jobs[0].contract = None);
    assert_eq!(running.await.unwrap().last()["result"]["isError"], true);
}

#[tokio::test]
async fn a_server_of_which_nothing_is_given_hears_nothing() {
    let world = World::new(json!({ "tools": { "allow": ["db/*"] } }), echo(TOOLS)).await;
    assert_eq!(world.post("", &super::world::initialize()).await.json()["error"]["code"], -32601);
    let answer = world.call("", "get_case", json!({})).await.json();
    assert_eq!(answer["error"]["message"], "Unknown tool: get_case");
    for message in [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "secret": 1 } }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": "secret" } }),
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "message": "secret" } }),
    ] {
        assert!([200, 202].contains(&world.post("", &message).await.status));
    }
    assert_eq!(post_modern(&world, modern("server/discover", json!({}))).await.json()["error"]["code"], -32601);
    assert_eq!(world.heard.lock().unwrap().len(), 0);
    let refused = world.daemon.records().iter().filter(|record| record.get("refused").is_some()).count();
    assert_eq!(refused, 3);
}

#[tokio::test]
async fn a_killed_server_hears_nothing_in_a_session_that_it_has() {
    for group in ["all", "mode:tools-off", "mcp:crm"] {
        let world = World::new(everything(), echo(TOOLS)).await;
        let session = world.session().await;
        world.daemon.change(|rules| rules.killed.extend([group.to_owned()]));
        world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
        let heard = world.heard.lock().unwrap().len();
        let ask = |method: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": { "x": "secret" } });
        assert_eq!(world.post(&session, &ask("ping")).await.json()["result"], json!({}));
        assert_eq!(world.post(&session, &ask("tools/list")).await.json()["result"]["tools"], json!([]));
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "message": "secret" } });
        assert_eq!(world.post(&session, &told).await.status, 202);
        assert_eq!(world.call(&session, "get_case", json!({})).await.json()["result"]["isError"], true);
        assert_eq!(world.heard.lock().unwrap().len(), heard, "{group}");
    }
}

#[tokio::test]
async fn a_server_tells_only_what_the_contract_gives() {
    let told = |method: &str| json!({ "jsonrpc": "2.0", "method": method, "params": { "taskId": "t", "uri": "docs://a", "data": "x" } });
    let serve: Serve = Arc::new(move |_, message, _| {
        usual(&message, TOOLS).unwrap_or_else(|| {
            let (sender, receiver) = mpsc::channel(16);
            for method in [
                "notifications/message",
                "notifications/resources/updated",
                "notifications/resources/list_changed",
                "notifications/prompts/list_changed",
                "notifications/elicitation/complete",
                "notifications/tasks/status",
                "notifications/progress",
            ] {
                sender.try_send(event(&told(method))).unwrap();
            }
            let result = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "content": [] } });
            sender.try_send(event(&result)).unwrap();
            Served::Events(receiver)
        })
    });
    for (mcp, heard) in [
        (json!({}), vec!["notifications/progress"]),
        (json!({ "logging": ["crm"] }), vec!["notifications/message", "notifications/progress"]),
        (json!({ "prompts": ["crm/*"] }), vec!["notifications/prompts/list_changed", "notifications/progress"]),
    ] {
        let world = World::new(json!({ "tools": { "allow": ["crm/*"] }, "mcp": mcp }), Arc::clone(&serve)).await;
        let session = world.session().await;
        let events = world.call(&session, "get_case", json!({})).await.events();
        let methods: Vec<&str> = events.iter().filter_map(|event| event["method"].as_str()).collect();
        assert_eq!(methods, heard);
    }
}

#[tokio::test]
async fn what_a_server_asks_back_for_is_judged_in_whatever_answer_it_stands() {
    let asks = json!({ "a": { "method": "sampling/createMessage", "params": {} } });
    for asked in [asks, json!([{ "method": "sampling/createMessage" }])] {
        let serve: Serve = Arc::new(move |_, message, _| {
            let result = json!({ "tools": [], "resultType": "complete", "inputRequests": asked });
            Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
        });
        let world = World::new(everything(), serve).await;
        let got = post_modern(&world, modern("tools/list", json!({}))).await;
        assert!(got.json()["error"]["message"].is_string() && !got.body.contains("inputRequests"), "{got:?}");
    }
}

#[tokio::test]
async fn a_storm_of_what_a_server_may_not_ask_is_not_answered_one_by_one() {
    let serve: Serve = Arc::new(|_, message, _| {
        if message.get("method").is_none() {
            // It takes the refusal, and never says so.
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move { sender.closed().await });
            return Served::Events(receiver);
        }
        usual(&message, TOOLS).unwrap_or_else(|| {
            let (sender, receiver) = mpsc::channel(512);
            for id in 0..500 {
                let asked = json!({ "jsonrpc": "2.0", "id": id, "method": "sampling/createMessage", "params": {} });
                sender.try_send(event(&asked)).unwrap();
            }
            let result = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "content": [] } });
            sender.try_send(event(&result)).unwrap();
            Served::Events(receiver)
        })
    });
    let world = World::new(everything(), serve).await;
    let session = world.session().await;
    assert!(world.call(&session, "get_case", json!({})).await.last()["result"].is_object());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refusals = world.heard.lock().unwrap().iter().filter(|(_, body, _)| body.get("error").is_some()).count();
    assert!((1..=8).contains(&refusals), "{refusals}");
}

#[tokio::test]
async fn a_person_reads_all_that_a_held_call_gives_its_server() {
    let guard = json!({ "tools": { "allow": ["crm/*"], "approve": ["crm/delete_case"] } });
    let world = World::new(guard, echo(TOOLS)).await;
    let approved = || Standing::Approved { id: "ap-1".into(), by: "root".into() };
    world.daemon.approvals.lock().unwrap().extend([approved(), approved()]);
    let session = world.session().await;
    let mut asked = call(7, "delete_case", &json!({ "id": 1 }));
    asked["params"]["_meta"] = json!({ "progressToken": 1, "x/all": true });
    asked["params"]["really"] = json!("everything");
    world.post(&session, &asked).await;
    asked["params"]["inputResponses"] = json!({ "a": { "action": "accept" } });
    world.post(&session, &asked).await;
    let heard = world.heard("tools/call");
    let plain = json!({ "name": "delete_case", "arguments": { "id": 1 }, "_meta": { "progressToken": 1 } });
    assert_eq!(heard[0]["params"], plain);
    let held = world.daemon.held.lock().unwrap().clone();
    assert_eq!(held[0].arguments, r#"{"id":1}"#);
    assert_eq!(held[1].arguments, r#"{"arguments":{"id":1},"inputResponses":{"a":{"action":"accept"}}}"#);
}

#[tokio::test]
async fn a_definition_that_is_withdrawn_while_a_call_is_held_is_not_called() {
    let guard = json!({ "tools": { "approve": ["crm/delete_case"] } });
    let world = Arc::new(World::new(guard, echo(TOOLS)).await);
    let session = world.session().await;
    let pending = Standing::Pending { id: "ap-1".into(), expires_at: "2026-01-01T00:00:00Z".into() };
    let approved = Standing::Approved { id: "ap-1".into(), by: "root".into() };
    world.daemon.approvals.lock().unwrap().extend([pending, approved]);
    let waiting = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "delete_case", json!({})).await })
    };
    world.eventually("somebody is asked", |world| world.daemon.held.lock().unwrap().len() == 1).await;
    world.daemon.pins.lock().unwrap().insert("delete_case".into(), Pin::New);
    world.daemon.change(|rules| rules.servers[0].pins += 1);
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    world.daemon.decided.notify_one();
    let answer = waiting.await.unwrap().json();
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("approval_pending"), "{answer}");
    // Nor is the approval used up.
    assert_eq!(world.daemon.approvals.lock().unwrap().len(), 1);
    assert_eq!(world.heard("tools/call").len(), 0);
}

#[tokio::test]
async fn a_job_that_hammers_at_what_it_may_not_call_does_not_fill_the_disk() {
    let world = World::new(json!({ "tools": { "allow": ["crm/get_case"] } }), echo(TOOLS)).await;
    world.daemon.change(|rules| rules.limits.calls_per_minute = 5);
    let session = world.session().await;
    for _ in 0..60 {
        assert_eq!(world.call(&session, "delete_case", json!({})).await.json()["error"]["code"], -32602);
    }
    world.gate.limits.tell_refused(&world.gate.recorder);
    let told = |world: &World| -> u64 {
        world.daemon.records().iter().filter_map(|record| record["refused"]["count"].as_u64()).sum()
    };
    world.eventually("every refusal is told", |world| told(world) == 60).await;
    assert!(world.daemon.records().len() < 30);
}

#[tokio::test]
async fn a_record_has_the_beginning_of_long_arguments() {
    let world = World::new(everything(), echo(TOOLS)).await;
    world.daemon.change(|rules| rules.record_arguments = true);
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    let session = world.session().await;
    let long = json!({ "x": "\u{e9}".repeat(1 << 20) });
    let got = world.call(&session, "get_case", long).await;
    assert!(got.body.len() > 1 << 20);
    let records = world.daemon.records();
    let begun = records.iter().find_map(|record| record.get("begun")).unwrap();
    // A little more than the daemon keeps, so that it says that it was cut.
    let length = begun["arguments"].as_str().unwrap().len();
    assert!((1 + (64 << 10)..8 + (64 << 10)).contains(&length), "{length}");
}

#[tokio::test]
async fn of_a_server_with_more_tools_than_anybody_needs_only_so_many_are_shown() {
    let serve: Serve = Arc::new(|_, message, _| {
        let mut tools: Vec<Value> = (0..20_000).map(|i| json!({ "name": format!("t{i}") })).collect();
        tools.insert(0, json!({ "name": "t".repeat(300) }));
        match message["method"].as_str() {
            Some("tools/list") => {
                Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "tools": tools } }))
            }
            _ => usual(&message, &[]).unwrap(),
        }
    });
    let world = World::new(everything(), serve).await;
    let session = world.session().await;
    let listed = world.post(&session, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await.json();
    let tools = listed["result"]["tools"].as_array().unwrap();
    assert_eq!((tools.len(), tools[0]["name"].as_str()), (4095, Some("t0")));
}

#[tokio::test]
async fn what_a_server_says_of_who_may_ask_is_not_said_to_its_client() {
    for (said, passed) in [(401, 200), (403, 200), (500, 200), (404, 404)] {
        let serve: Serve = Arc::new(move |_, message, _| {
            usual(&message, TOOLS).unwrap_or_else(|| {
                let error = json!({ "code": -32000, "message": "log in" });
                Served::Json(said, json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }))
            })
        });
        let world = World::new(everything(), serve).await;
        let session = world.session().await;
        assert_eq!(world.call(&session, "get_case", json!({})).await.status, passed, "{said}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_left_alone_for_a_while() {
    let world = World::new(everything(), Arc::new(|_, _, _| Served::Nothing(503))).await;
    world.daemon.change(|rules| {
        let control::calls::Upstream::Http { sse, .. } = &mut rules.servers[0].upstream else { panic!() };
        *sse = true;
    });
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    let ask = || post_modern(&world, modern("tools/call", json!({ "name": "get_case", "arguments": {} })));
    for got in [ask().await, ask().await, ask().await] {
        assert_eq!(got.json()["result"]["isError"], true, "{got:?}");
    }
    assert_eq!(world.heard.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn large_messages_of_one_job_wait_for_each_other_and_small_ones_do_not() {
    let world = Arc::new(World::new(everything(), echo(TOOLS)).await);
    let session = world.session().await;
    let room = world.gate.limits.room(super::world::CALLER.slot);
    let all = room.large.acquire_many(64).await.unwrap();
    assert_eq!(world.call(&session, "get_case", json!({ "x": "small" })).await.status, 200);
    let large = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "get_case", json!({ "x": "y".repeat(1 << 20) })).await.status })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!large.is_finished());
    drop(all);
    assert_eq!(large.await.unwrap(), 200);
    // And of one job's connections another one's are not.
    let taken = Arc::clone(&room.connections).try_acquire_many_owned(2048).unwrap();
    assert!(Arc::clone(&room.connections).try_acquire_owned().is_err());
    assert!(Arc::clone(&world.gate.limits.room(9).connections).try_acquire_owned().is_ok());
    drop(taken);
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_keep_a_kill_from_its_call() {
    let serve: Serve = Arc::new(|_, message, _| {
        usual(&message, TOOLS).unwrap_or_else(|| {
            let (sender, receiver) = mpsc::channel(4);
            tokio::spawn(async move {
                let told = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "message": "x".repeat(1 << 20) } });
                while sender.send(event(&told)).await.is_ok() {}
            });
            Served::Events(receiver)
        })
    });
    let world = World::new(everything(), serve).await;
    let session = world.session().await;
    let headers = [("content-type", "application/json"), ("mcp-session-id", session.as_str())];
    let (status, _, mut stream) =
        world.open(Method::POST, "/s/crm/mcp", &headers, call(7, "get_case", &json!({})).to_string()).await;
    assert_eq!(status, 200);
    stream.frame().await.unwrap().unwrap();
    // All that lies between them is full by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.daemon.change(|rules| rules.killed.extend(["all".to_owned()]));
    let killed = |world: &World| world.daemon.records().iter().any(|record| record["ended"]["status"] == "killed");
    world.eventually("the call is recorded as killed", killed).await;
    world.eventually("the server is told", |world| world.heard("notifications/cancelled").len() == 1).await;
}

#[tokio::test]
async fn a_session_that_its_server_has_forgotten_ends_for_its_client_too() {
    let serve: Serve = Arc::new(|_, message, _| usual(&message, TOOLS).unwrap_or(Served::Nothing(404)));
    let world = World::new(everything(), serve).await;
    let session = world.session().await;
    for message in [call(7, "get_case", &json!({})), json!({ "jsonrpc": "2.0", "id": 8, "method": "tools/list" })] {
        assert_eq!(world.post(&session, &message).await.status, 404);
    }
    assert_eq!(world.heard("tools/list").len(), 1);
    assert!(world.daemon.records().iter().any(|record| record["ended"]["status"] == "error"));
}

#[tokio::test]
async fn what_was_judged_by_its_name_is_not_passed_on_under_another_one() {
    let token = format!("{}_{}", "ghp", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8");
    let guard =
        json!({ "tools": {}, "mcp": { "resources": ["crm/docs://*"] }, "data_classes": { "redact": ["secrets"] } });
    let serve: Serve = Arc::new(|_, message, _| {
        usual(&message, TOOLS).unwrap_or_else(|| {
            Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "contents": [] } }))
        })
    });
    let world = World::new(guard, serve).await;
    let session = world.session().await;
    let read = |uri: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": { "uri": uri } });
    assert!(world.post(&session, &read("docs://a")).await.json()["result"].is_object());
    assert!(world.post(&session, &read(&format!("docs://{token}"))).await.json()["error"].is_object());
    assert_eq!(world.heard("resources/read").len(), 1);
    assert!(!world.daemon.records().iter().any(|record| record.to_string().contains(&token)));
}

#[tokio::test]
async fn a_page_of_a_list_is_not_taken_for_the_whole() {
    let serve: Serve = Arc::new(|method, message, headers| {
        let page = |tool: &str| json!({ "tools": [{ "name": tool }] });
        let mut result = match (message["method"].as_str(), message["params"]["cursor"].as_str()) {
            (Some("tools/list"), None) => page("get_case"),
            (Some("tools/list"), Some(_)) => page("get-case"),
            _ => return echo(TOOLS)(method, message, headers),
        };
        if message["params"].get("cursor").is_none() {
            result["nextCursor"] = json!("2");
        }
        Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
    });
    let world = World::new(everything(), serve).await;
    let session = world.session().await;
    let last = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": "2" } });
    world.post(&session, &last).await;
    // Its name is not told apart from one on the page that was left out.
    let answer = world.call(&session, "get-case", json!({})).await.json();
    assert_eq!(answer["error"]["message"], "Unknown tool: get-case", "{answer}");
    assert_eq!(world.heard("tools/call").len(), 0);
}
