use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use mcp::message::{self, Id, Message};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
    sync::mpsc,
    time::timeout,
};

use super::{
    super::upstream::{Duplex, Failure},
    world::{Serve, Served, World, event, usual},
};

/// A server of HTTP+SSE: what is posted is answered on the one stream.
fn old(endpoint: &'static str) -> Serve {
    let stream: Arc<Mutex<Option<mpsc::Sender<String>>>> = Arc::default();
    Arc::new(move |method, message, _| {
        if method == "GET" {
            let (sender, receiver) = mpsc::channel(16);
            sender.try_send(format!("event: endpoint\ndata: {endpoint}\n\n")).unwrap();
            *stream.lock().unwrap() = Some(sender);
            return Served::Events(receiver);
        }
        let answer = match usual(&message, &["get_case", "slow"]) {
            Some(Served::Json(_, answer)) => Some(answer),
            Some(_) => None,
            None if message["params"]["name"] == "slow" => None,
            None => Some(
                json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "content": [{ "type": "text", "text": "old" }] } }),
            ),
        };
        if let (Some(answer), Some(stream)) = (answer, &*stream.lock().unwrap()) {
            stream.try_send(event(&answer)).unwrap();
        }
        Served::Nothing(202)
    })
}

async fn old_world(endpoint: &'static str) -> World {
    let world = World::new(json!({ "tools": { "allow": ["crm/*"] } }), old(endpoint)).await;
    world.daemon.change(|rules| {
        let control::calls::Upstream::Http { sse, .. } = &mut rules.servers[0].upstream else { panic!() };
        *sse = true;
    });
    world.eventually("the rules are kept", |world| world.daemon.kept.lock().unwrap().len() == 2).await;
    world
}

#[tokio::test]
async fn a_server_of_the_oldest_kind_is_spoken_to_like_any_other() {
    let world = old_world("/messages?session=1").await;
    let session = world.session().await;
    let answer = world.call(&session, "get_case", json!({})).await.last();
    assert_eq!((&answer["id"], answer["result"]["content"][0]["text"].as_str()), (&json!(7), Some("old")));
    assert_eq!(world.call(&session, "no_such_tool", json!({})).await.last()["error"]["code"], -32602);
    // Its numbers are the gateway's own, and the client's come back.
    assert_ne!(world.heard("tools/call")[0]["id"], 7);
}

#[tokio::test]
async fn a_kill_reaches_a_call_on_a_shared_connection() {
    let world = Arc::new(old_world("/messages").await);
    let session = world.session().await;
    let running = {
        let (world, session) = (Arc::clone(&world), session.clone());
        tokio::spawn(async move { world.call(&session, "slow", json!({})).await })
    };
    world.eventually("the call runs", |world| world.heard("tools/call").len() == 1).await;
    world.daemon.change(|rules| rules.killed.extend(["all".to_owned()]));
    assert_eq!(running.await.unwrap().last()["result"]["isError"], true);
    world.eventually("the server is told", |world| world.heard("notifications/cancelled").len() == 1).await;
    let told = &world.heard("notifications/cancelled")[0]["params"]["requestId"];
    assert_eq!(told, &world.heard("tools/call")[0]["id"]);
}

#[tokio::test]
async fn an_endpoint_on_another_host_is_a_redirect() {
    for endpoint in ["http://127.0.0.1:9/steal", "https://evil.example/x", "//evil.example/x"] {
        let world = old_world(endpoint).await;
        let got = world.post("", &super::world::initialize()).await;
        assert!(got.json()["error"]["message"].as_str().unwrap().contains("redirects"), "{endpoint}: {got:?}");
    }
}

/// A process's ends of its pipes.
struct Process {
    lines: tokio::io::Lines<BufReader<pipe::Receiver>>,
    output: pipe::Sender,
}

fn process() -> (Arc<Duplex>, Process) {
    let (input, lines) = pipes();
    let (output, reading) = pipes();
    let duplex = Duplex::over_pipes(input, reading, 1 << 16).unwrap();
    let lines = BufReader::new(pipe::Receiver::from_owned_fd(lines).unwrap()).lines();
    (duplex, Process { lines, output: pipe::Sender::from_owned_fd(output).unwrap() })
}

/// Where one writes, and where one reads; neither blocks.
fn pipes() -> (OwnedFd, OwnedFd) {
    let (sender, receiver) = pipe::pipe().unwrap();
    (sender.into_nonblocking_fd().unwrap(), receiver.into_nonblocking_fd().unwrap())
}

impl Process {
    async fn hears(&mut self) -> Value {
        let line = timeout(Duration::from_secs(5), self.lines.next_line()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn says(&mut self, text: &str) {
        self.output.write_all(format!("{text}\n").as_bytes()).await.unwrap();
    }
}

fn ask(id: i64) -> Message {
    message::request(Id::Number(id), "tools/call", None)
}

#[tokio::test]
async fn answers_of_a_process_find_who_asked_and_what_it_prints_beside_them_is_no_message() {
    let (duplex, mut process) = process();
    let (mut first, _asked) = duplex.ask(&ask(5)).await.unwrap();
    let (mut second, _also) = duplex.ask(&ask(5)).await.unwrap();
    let (one, other) = (process.hears().await, process.hears().await);
    assert_ne!(one["id"], other["id"]);
    process.says("Server listening on stdio").await;
    process.says(r#"{"jsonrpc":"2.0","id":999,"result":{}}"#).await;
    for (asked, text) in [(&other, "other"), (&one, "one")] {
        process.says(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "text": text } }).to_string()).await;
    }
    for (arrivals, text) in [(&mut first, "one"), (&mut second, "other")] {
        let arrived = arrivals.next().await.unwrap().unwrap().message.unwrap();
        let Message::Response(response) = &arrived else { panic!("{arrived:?}") };
        assert_eq!(response.id, Some(Id::Number(5)));
        assert!(String::from_utf8(arrived.to_bytes()).unwrap().contains(text));
    }
}

#[tokio::test]
async fn whoever_waits_for_a_process_that_ends_learns_it() {
    let (duplex, process) = process();
    let (mut arrivals, _asked) = duplex.ask(&ask(1)).await.unwrap();
    drop(process);
    assert!(timeout(Duration::from_secs(5), arrivals.next()).await.unwrap().unwrap().is_none());
    assert!(duplex.ended().is_some());
    assert!(duplex.ask(&ask(2)).await.is_err());
}

#[tokio::test]
async fn a_line_without_end_ends_the_conversation() {
    let (duplex, mut process) = process();
    let (mut arrivals, _asked) = duplex.ask(&ask(1)).await.unwrap();
    let _ = process.output.write_all(&vec![b'x'; 100_000]).await;
    assert!(timeout(Duration::from_secs(5), arrivals.next()).await.unwrap().unwrap().is_none());
    assert_eq!(duplex.ended(), Some(Failure::TooLong(1 << 16)));
}

#[tokio::test]
async fn a_request_that_is_given_up_before_it_was_written_is_not() {
    let (duplex, mut process) = process();
    let long = |id: i64| {
        let params = mcp::json::Json::object([("x", mcp::json::Json::String("x".repeat(200_000).into()))]);
        message::request(Id::Number(id), "tools/call", Some(params))
    };
    // More than a pipe holds, so that what comes behind it waits.
    let (_first, _asked) = duplex.ask(&long(1)).await.unwrap();
    let (_second, killed) = duplex.ask(&ask(2)).await.unwrap();
    let (_third, _also) = duplex.ask(&ask(3)).await.unwrap();
    drop(killed);
    assert_eq!(process.hears().await["id"], 1);
    assert_eq!(process.hears().await["id"], 3);
}
