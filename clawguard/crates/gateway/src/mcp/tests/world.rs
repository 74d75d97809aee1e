//! What a test has around the gateway.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use control::{
    calls::{Called, JobRules, Pin, Rules, ServerRules, Standing, Upstream},
    channel::{Answer, Ask, Question, Told},
};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};

use super::super::{data::Data, follow, follow_once, gate::Gate, reply::Reply, speak};
use crate::{callers::Caller, channel::Channel};

/// The port that hosts are compared with.
pub(super) const PORT: u16 = 9480;
pub(super) const CALLER: Caller = Caller { slot: 3, key: 77 };

/// What the daemon says, and what it was told.
pub(super) struct Daemon {
    pub(super) rules: Mutex<Rules>,
    changed: Notify,
    pub(super) contract: Mutex<Value>,
    pub(super) called: Mutex<Vec<Called>>,
    pub(super) kept: Mutex<Vec<(u64, u64)>>,
    /// Why nothing can be recorded, if so.
    pub(super) unrecorded: Mutex<Option<String>>,
    pub(super) pins: Mutex<BTreeMap<String, Pin>>,
    pub(super) approvals: Mutex<VecDeque<Standing>>,
    pub(super) decided: Notify,
    pub(super) held: Mutex<Vec<control::calls::Held>>,
}

/// What a server does with a request.
pub(super) type Serve = Arc<dyn Fn(&str, Value, HeaderMap) -> Served + Send + Sync>;

/// A server's answer.
pub(super) enum Served {
    Json(u16, Value),
    /// Events, each written as it stands.
    Events(mpsc::Receiver<String>),
    Nothing(u16),
    Raw(u16, &'static str, String, Vec<(&'static str, String)>),
}

pub(super) struct World {
    pub(super) daemon: Arc<Daemon>,
    pub(super) at: SocketAddr,
    pub(super) gate: Arc<Gate>,
    /// What the server heard: method of HTTP, body, headers.
    pub(super) heard: Arc<Mutex<Vec<(String, Value, HeaderMap)>>>,
}

/// An answer of the gateway's.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The messages of its events.
    pub(super) fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| !data.is_empty());
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// Its answer, whichever way it came.
    pub(super) fn last(&self) -> Value {
        self.events().pop().unwrap_or_else(|| self.json())
    }

    pub(super) fn session(&self) -> String {
        self.headers["mcp-session-id"].to_str().unwrap().to_owned()
    }
}

impl Daemon {
    pub(super) fn change(&self, change: impl FnOnce(&mut Rules)) {
        let mut rules = self.rules.lock().unwrap();
        change(&mut rules);
        rules.serial += 1;
        drop(rules);
        self.changed.notify_waiters();
    }

    async fn answer(&self, ask: Ask) -> Told {
        match ask {
            Ask::Rules { seen } => loop {
                let changed = self.changed.notified();
                let rules = self.rules.lock().unwrap().clone();
                if rules.serial != seen {
                    return Told::Rules(Box::new(rules));
                }
                changed.await;
            },
            Ask::Kept { serial, cancelled } => {
                self.kept.lock().unwrap().push((serial, cancelled));
                Told::Noted
            }
            Ask::Contract { .. } => Told::Contract(Some(self.contract.lock().unwrap().to_string())),
            Ask::Calls(calls) => match self.unrecorded.lock().unwrap().clone() {
                Some(why) => Told::Unrecorded(why),
                None => {
                    self.called.lock().unwrap().extend(calls);
                    Told::Noted
                }
            },
            Ask::Pins { definitions, .. } => {
                let pins = self.pins.lock().unwrap();
                let pin = |name: &String| pins.get(name).copied().unwrap_or(Pin::Accepted);
                Told::Pins(definitions.iter().map(|definition| pin(&definition.name)).collect())
            }
            Ask::Approval(held) => {
                self.held.lock().unwrap().push(*held);
                let next = self.approvals.lock().unwrap().pop_front();
                Told::Approval(next.unwrap_or(Standing::Impossible("nobody is there".into())))
            }
            Ask::Decided { .. } => {
                self.decided.notified().await;
                Told::Noted
            }
            _ => Told::Noted,
        }
    }

    /// The calls of which something was told, as JSON.
    pub(super) fn records(&self) -> Vec<Value> {
        self.called.lock().unwrap().iter().map(|called| serde_json::to_value(called).unwrap()).collect()
    }
}

async fn serve_daemon(daemon: Arc<Daemon>, stream: UnixStream) {
    let (read, write) = stream.into_split();
    let write = Arc::new(tokio::sync::Mutex::new(write));
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Question { id, ask } = serde_json::from_str(&line).unwrap();
        let (daemon, write) = (Arc::clone(&daemon), Arc::clone(&write));
        tokio::spawn(async move {
            let answered = !matches!(&ask, Ask::Calls(calls) if !calls.iter().any(Called::is_answered));
            let told = daemon.answer(ask).await;
            if !answered {
                return;
            }
            let text = serde_json::to_string(&Answer { id, told }).unwrap() + "\n";
            let _ = write.lock().await.write_all(text.as_bytes()).await;
        });
    }
}

impl World {
    /// A gateway before this server, for a job under this `clawguard.v1`.
    pub(super) async fn new(guard: Value, serve: Serve) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let upstream = serve_server(serve, Arc::clone(&heard)).await;
        let server = ServerRules {
            name: "crm".into(),
            upstream: Upstream::Http {
                url: format!("http://{upstream}/mcp"),
                addresses: Vec::new(),
                ca: None,
                headers: BTreeMap::from([("authorization".into(), "Bearer host".into())]),
                sse: false,
            },
            risk: "low".into(),
            read: Vec::new(),
            write: Vec::new(),
            irreversible: Vec::new(),
            pins: 1,
        };
        let job = JobRules {
            slot: CALLER.slot,
            key: CALLER.key,
            job: "job-1".into(),
            agent: "a".into(),
            contract: Some("contract".into()),
            killed: BTreeSet::new(),
            observe: false,
            token: None,
            stopped: None,
        };
        let rules =
            Rules { serial: 1, jobs: vec![job], servers: vec![server], approval_wait_seconds: 5, ..Rules::default() };
        let contract = json!({ "policy_version": "1", "policy_id": "test", "issuer_did": "did:key:zTest",
            "metadata": { "clawguard.v1": guard } });
        let daemon = Arc::new(Daemon {
            rules: Mutex::new(rules),
            changed: Notify::new(),
            contract: Mutex::new(contract),
            called: Mutex::default(),
            kept: Mutex::default(),
            unrecorded: Mutex::default(),
            pins: Mutex::default(),
            approvals: Mutex::default(),
            decided: Notify::new(),
            held: Mutex::default(),
        });
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(serve_daemon(Arc::clone(&daemon), theirs));
        let channel = Arc::new(Channel::over(ours.into_std().unwrap()).unwrap());
        let gate = Arc::new(Gate::new(Arc::clone(&channel), PORT, Data::new().unwrap()));
        let known = tokio::sync::watch::Sender::new(0);
        follow_once(&gate, &known).await.unwrap();
        let (following, recording) = (Arc::clone(&gate), Arc::clone(&gate.recorder));
        tokio::spawn(async move { follow(&following, &known).await });
        tokio::spawn(async move { recording.run(&channel).await });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let speaking = Arc::clone(&gate);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(speak(stream, CALLER, Arc::clone(&speaking)));
            }
        });
        Self { daemon, at, gate, heard }
    }

    /// Makes a request of any kind.
    pub(super) async fn http(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Got {
        let (status, headers, mut body) = self.open(method, path, headers, body).await;
        let mut all = Vec::new();
        while let Some(frame) = timeout(Duration::from_secs(10), body.frame()).await.expect("a body that ends") {
            all.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
        Got { status, headers, body: String::from_utf8(all).unwrap() }
    }

    /// The same, without reading the answer's body.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (u16, HeaderMap, Incoming) {
        let stream = TcpStream::connect(self.at).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let host = format!("127.0.0.1:{PORT}");
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body.into())).unwrap());
        let response = timeout(Duration::from_secs(10), response).await.expect("an answer").unwrap();
        let (head, body) = response.into_parts();
        (head.status.as_u16(), head.headers, body)
    }

    pub(super) async fn post(&self, session: &str, message: &Value) -> Got {
        let mut headers = vec![("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        if !session.is_empty() {
            headers.push(("mcp-session-id", session));
        }
        self.http(Method::POST, "/s/crm/mcp", &headers, message.to_string()).await
    }

    /// Begins a session; answers its name.
    pub(super) async fn session(&self) -> String {
        let got = self.post("", &initialize()).await;
        assert_eq!(got.status, 200, "{got:?}");
        let session = got.session();
        let told = self.post(&session, &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        assert_eq!(told.status, 202);
        session
    }

    pub(super) async fn call(&self, session: &str, tool: &str, arguments: Value) -> Got {
        self.post(session, &call(7, tool, &arguments)).await
    }

    /// Messages of a method that reached the server.
    pub(super) fn heard(&self, method: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|(_, body, _)| body.clone()).filter(|body| body["method"] == method).collect()
    }

    pub(super) async fn eventually(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..500 {
            if done(self) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not happen: {:#?}", self.daemon.records());
    }
}

pub(super) fn initialize() -> Value {
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "protocolVersion": "2025-11-25",
        "capabilities": { "sampling": {}, "roots": {} }, "clientInfo": { "name": "t", "version": "0" } } })
}

pub(super) fn call(id: impl Into<Value>, tool: &str, arguments: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
}

/// What every server of these tests answers to.
pub(super) fn usual(message: &Value, tools: &[&str]) -> Option<Served> {
    let id = message["id"].clone();
    let result = |result: Value| Some(Served::Json(200, json!({ "jsonrpc": "2.0", "id": id, "result": result })));
    let info = json!({ "name": "crm", "version": "1" });
    match message["method"].as_str()? {
        "initialize" => result(json!({ "protocolVersion": "2025-11-25", "serverInfo": info,
            "capabilities": { "tools": {}, "resources": {}, "prompts": {}, "logging": {} }, "instructions": "be good" })),
        "server/discover" => result(json!({ "supportedVersions": ["2026-07-28"], "serverInfo": info,
            "capabilities": { "tools": {} }, "resultType": "complete" })),
        "tools/list" => {
            let tool = |name: &&str| json!({ "name": name, "inputSchema": { "type": "object" } });
            result(json!({ "tools": tools.iter().map(tool).collect::<Vec<_>>() }))
        }
        method if method.starts_with("notifications/") => Some(Served::Nothing(202)),
        _ => None,
    }
}

/// A server that echoes what its tools are called with.
pub(super) fn echo(tools: &'static [&'static str]) -> Serve {
    Arc::new(move |_, message, _| {
        usual(&message, tools).unwrap_or_else(|| {
            let text = message["params"]["arguments"].to_string();
            let result = json!({ "content": [{ "type": "text", "text": text }] });
            Served::Json(200, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
        })
    })
}

async fn serve_server(serve: Serve, heard: Arc<Mutex<Vec<(String, Value, HeaderMap)>>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (serve, heard) = (Arc::clone(&serve), Arc::clone(&heard));
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let (serve, heard) = (Arc::clone(&serve), Arc::clone(&heard));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
                        heard.lock().unwrap().push((head.method.to_string(), value.clone(), head.headers.clone()));
                        Ok::<_, Infallible>(written(serve(head.method.as_str(), value, head.headers)))
                    }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    at
}

fn written(served: Served) -> Response<Reply> {
    let whole = |status: u16, kind: &str, text: String| {
        let builder =
            Response::builder().status(status).header("content-type", kind).header("mcp-session-id", "upstream-1");
        builder.body(Reply::Whole(Some(text.into()))).unwrap()
    };
    match served {
        Served::Json(status, value) => whole(status, "application/json", value.to_string()),
        Served::Nothing(status) => {
            let mut response = Response::new(Reply::Whole(None));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        }
        Served::Raw(status, kind, text, headers) => {
            let mut response = whole(status, kind, text);
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Served::Events(mut events) => {
            let (sender, receiver) = mpsc::channel(8);
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    if sender.send(Bytes::from(event)).await.is_err() {
                        return;
                    }
                }
            });
            Response::builder().header("content-type", "text/event-stream").body(Reply::Events(receiver)).unwrap()
        }
    }
}

/// An event with a message.
pub(super) fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}
