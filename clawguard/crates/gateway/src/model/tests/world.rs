//! What a test has around the gateway.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use control::{
    calls::{Decision, JobRules, Rules},
    channel::{Answer, Ask, Question, Told},
    model::{ModelCall, ModelConnections, ModelEnd, ModelGrant, ModelRules, ProviderRules, Receipt},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};

use super::super::{gate::Gate, speak};
use crate::{
    callers::Caller,
    channel::Channel,
    mcp::{self, gate::Gate as Shared},
};

/// The port that hosts are compared with.
pub(super) const PORT: u16 = 9481;
pub(super) const CALLER: Caller = Caller { slot: 3, key: 77 };
/// What the daemon says of every call.
pub(super) const RUN: &str = "run_1";
pub(super) const EVENT: &str = "event-hash";
/// The receipt of the call of this number.
pub(super) fn envelope(number: u64) -> String {
    format!("{{\"envelope_version\":\"1\",\"payload\":{{\"b\":{number},\"a\":\"\u{e4}\"}}}}")
}
pub(super) const CHAT: &str = "/v1/chat/completions";

/// What the daemon says, and what it was told, in order.
pub(super) struct Daemon {
    pub(super) rules: Mutex<Rules>,
    changed: Notify,
    pub(super) contract: Mutex<Value>,
    pub(super) told: Mutex<Vec<Heard>>,
    pub(super) kept: Mutex<Vec<(u64, u64)>>,
    pub(super) connected: Mutex<Vec<ModelConnections>>,
    /// Why nothing can be recorded, if so.
    pub(super) unrecorded: Mutex<Option<String>>,
    /// Why there is no receipt, if so.
    pub(super) missing: Mutex<Option<String>>,
    /// Until this is notified a call's record is not written.
    pub(super) slow: Mutex<Option<Arc<Notify>>>,
}

/// Something that the daemon was told.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    Call(ModelCall),
    End(ModelEnd),
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
            Ask::Model(call) => {
                let slow = self.slow.lock().unwrap().clone();
                if let Some(slow) = slow {
                    slow.notified().await;
                }
                if let Some(why) = self.unrecorded.lock().unwrap().clone() {
                    return Told::Unrecorded(why);
                }
                let allowed = call.decision == Decision::Allowed;
                self.told.lock().unwrap().push(Heard::Call(*call));
                if !allowed {
                    return Told::Noted;
                }
                let grant = ModelGrant { run_id: RUN.into(), event_hash: EVENT.into(), token: Some("tok.en".into()) };
                Told::Model(Box::new(grant))
            }
            Ask::Receipt(end) => {
                let number = end.number;
                let own = end.receipt.clone();
                self.told.lock().unwrap().push(Heard::End(*end));
                if let Some(why) = self.unrecorded.lock().unwrap().clone() {
                    return Told::Unrecorded(why);
                }
                match self.missing.lock().unwrap().clone() {
                    Some(why) => Told::Receipt(Receipt::Missing(why)),
                    None => Told::Receipt(Receipt::Signed(own.unwrap_or_else(|| envelope(number)))),
                }
            }
            Ask::Connected(connections) => {
                self.connected.lock().unwrap().extend(connections);
                Told::Noted
            }
            _ => Told::Noted,
        }
    }

    pub(super) fn calls(&self) -> Vec<ModelCall> {
        let told = self.told.lock().unwrap();
        told.iter().filter_map(|heard| if let Heard::Call(call) = heard { Some(call.clone()) } else { None }).collect()
    }

    pub(super) fn ends(&self) -> Vec<ModelEnd> {
        let told = self.told.lock().unwrap();
        told.iter().filter_map(|heard| if let Heard::End(end) = heard { Some(end.clone()) } else { None }).collect()
    }

    /// The only end, once it is there.
    pub(super) async fn end(&self) -> ModelEnd {
        eventually("a call's end", || !self.ends().is_empty()).await;
        let ends = self.ends();
        assert_eq!(ends.len(), 1, "{ends:?}");
        ends[0].clone()
    }
}

pub(super) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen");
}

async fn serve_daemon(daemon: Arc<Daemon>, stream: UnixStream) {
    let (read, write) = stream.into_split();
    let write = Arc::new(tokio::sync::Mutex::new(write));
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Question { id, ask } = serde_json::from_str(&line).unwrap();
        let (daemon, write) = (Arc::clone(&daemon), Arc::clone(&write));
        tokio::spawn(async move {
            let told = daemon.answer(ask).await;
            let text = serde_json::to_string(&Answer { id, told }).unwrap() + "\n";
            let _ = write.lock().await.write_all(text.as_bytes()).await;
        });
    }
}

/// A provider that answers with these bytes, as they come. It hears what it is sent, and when the other side hangs up.
pub(super) struct Provider {
    pub(super) at: SocketAddr,
    heard: mpsc::UnboundedReceiver<Request>,
    answers: Arc<Mutex<VecDeque<mpsc::UnboundedReceiver<Step>>>>,
    /// Connections that were hung up on it.
    pub(super) closed: Arc<Mutex<usize>>,
}

/// What a provider does next.
pub(super) enum Step {
    Send(Vec<u8>),
    /// Hangs up.
    Close,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The line and the headers.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// A header's values.
    pub(super) fn header(&self, name: &str) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
    }

    pub(super) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok(Request { head, body })
}

impl Provider {
    async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (told, heard) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<VecDeque<mpsc::UnboundedReceiver<Step>>>> = Arc::default();
        let closed: Arc<Mutex<usize>> = Arc::default();
        let provider = Self { at, heard, answers: Arc::clone(&answers), closed: Arc::clone(&closed) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, answers, closed) = (told.clone(), Arc::clone(&answers), Arc::clone(&closed));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Ok(request) = read_request(&mut stream).await {
                        let _ = told.send(request);
                        let Some(mut steps) = answers.lock().unwrap().pop_front() else { return };
                        loop {
                            let mut byte = [0];
                            tokio::select! {
                                step = steps.recv() => match step {
                                    Some(Step::Send(bytes)) => {
                                        if stream.write_all(&bytes).await.is_err() {
                                            break;
                                        }
                                        let _ = stream.flush().await;
                                    }
                                    Some(Step::Close) => return,
                                    None => break,
                                },
                                read = stream.read(&mut byte) => {
                                    // Nothing is sent before an answer's end: this is the other side's end.
                                    assert!(!matches!(read, Ok(1)));
                                    *closed.lock().unwrap() += 1;
                                    return;
                                }
                            }
                        }
                    }
                });
            }
        });
        provider
    }

    /// Has the next request answered step by step; the answer ends when the sender does.
    pub(super) fn steps(&self) -> mpsc::UnboundedSender<Step> {
        let (sender, steps) = mpsc::unbounded_channel();
        self.answers.lock().unwrap().push_back(steps);
        sender
    }

    /// Has it answered with these bytes.
    pub(super) fn raw(&self, bytes: impl AsRef<[u8]>) {
        self.steps().send(Step::Send(bytes.as_ref().to_vec())).unwrap_or_default();
    }

    /// Has it answered with this body.
    pub(super) fn body(&self, status: u16, kind: &str, body: &str) {
        let length = body.len();
        self.raw(format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"));
    }

    /// What it was asked next.
    pub(super) async fn heard(&mut self) -> Request {
        timeout(Duration::from_secs(10), self.heard.recv()).await.expect("a request").unwrap()
    }

    pub(super) fn is_unasked(&mut self) -> bool {
        self.heard.try_recv().is_err()
    }
}

pub(super) fn chunk(text: &str) -> Step {
    Step::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes())
}

pub(super) const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

pub(super) struct World {
    pub(super) daemon: Arc<Daemon>,
    pub(super) provider: Provider,
    pub(super) gate: Arc<Gate>,
    pub(super) at: SocketAddr,
}

/// An answer of the gateway's, as it came.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
    /// Whether it ended as an answer does, and was not cut.
    pub(super) whole: bool,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A client's side of a connection. It reads HTTP by itself, so that it sees how an answer ends.
pub(super) struct Client {
    pub(super) stream: BufReader<TcpStream>,
}

impl Client {
    pub(super) async fn get(&mut self) -> Got {
        let mut got = self.head().await;
        got.whole = loop {
            match self.piece(&got).await {
                Some(piece) if piece.is_empty() => break true,
                Some(piece) => got.body += &piece,
                None => break false,
            }
        };
        got
    }

    pub(super) async fn head(&mut self) -> Got {
        let read = async {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(self.stream.read_line(&mut head).await.unwrap(), 0, "{head}");
            }
            head
        };
        let head = timeout(Duration::from_secs(10), read).await.expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Got { status, head, body: String::new(), whole: false }
    }

    /// The next piece: empty at the end, `None` where it was cut.
    pub(super) async fn piece(&mut self, of: &Got) -> Option<String> {
        timeout(Duration::from_secs(20), self.next(of)).await.expect("a piece")
    }

    async fn next(&mut self, of: &Got) -> Option<String> {
        let text = |bytes: Vec<u8>| Some(String::from_utf8(bytes).unwrap());
        if let Some(length) = of.header("content-length") {
            let mut all = vec![0; length.parse().unwrap()];
            if of.body.len() == all.len() {
                return Some(String::new());
            }
            return self.stream.read_exact(&mut all).await.ok().and_then(|_| text(all));
        }
        let mut size = String::new();
        if self.stream.read_line(&mut size).await.ok()? == 0 {
            return None;
        }
        let mut bytes = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
        self.stream.read_exact(&mut bytes).await.ok()?;
        bytes.truncate(bytes.len() - 2);
        text(bytes)
    }
}

pub(super) fn rules(provider: SocketAddr) -> Rules {
    let way = |name: &str, base: &str| ProviderRules {
        name: name.into(),
        url: format!("http://{provider}{base}"),
        addresses: Vec::new(),
        ca: None,
        key: Some(format!("sk-{name}")),
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
    let providers = vec![way("openai", "/base"), way("anthropic", ""), way("google", "")];
    let signer = claw::key::PrivateKey::from_seed(&[7; 32]).did().to_string();
    let model = ModelRules { providers, proxied: false, signer };
    Rules { serial: 1, jobs: vec![job], model, ..Rules::default() }
}

impl World {
    /// A gateway before a provider, for a job under a contract with these members.
    pub(super) async fn new(members: Value) -> Self {
        let provider = Provider::new().await;
        let mut contract = json!({ "policy_version": "1", "policy_id": "test", "issuer_did": "did:key:zTest" });
        contract.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let daemon = Arc::new(Daemon {
            rules: Mutex::new(rules(provider.at)),
            changed: Notify::new(),
            contract: Mutex::new(contract),
            told: Mutex::default(),
            kept: Mutex::default(),
            connected: Mutex::default(),
            unrecorded: Mutex::default(),
            missing: Mutex::default(),
            slow: Mutex::default(),
        });
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(serve_daemon(Arc::clone(&daemon), theirs));
        let channel = Arc::new(Channel::over(ours));
        let shared = Arc::new(Shared::new(channel, 9480, mcp::data()));
        let known = watch::Sender::new(0);
        mcp::follow_once(&shared, &known).await.unwrap();
        let following = Arc::clone(&shared);
        tokio::spawn(async move { mcp::follow(&following, &known).await });
        let gate = Arc::new(Gate::new(PORT, Arc::clone(&shared)));
        let telling = Arc::clone(&gate);
        tokio::spawn(async move { telling.connections.tell(&telling.shared).await });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let speaking = Arc::clone(&gate);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(speak(stream, CALLER, Arc::clone(&speaking)));
            }
        });
        Self { daemon, provider, gate, at }
    }

    /// One that gives every model.
    pub(super) async fn open() -> Self {
        Self::new(json!({ "allowed_models": ["*"] })).await
    }

    /// Changes the rules, and waits until they are in force.
    pub(super) async fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.daemon.change(change);
        let serial = self.daemon.rules.lock().unwrap().serial;
        eventually("rules in force", || self.daemon.kept.lock().unwrap().iter().any(|(kept, _)| *kept == serial)).await;
    }

    pub(super) async fn connect(&self) -> Client {
        Client { stream: BufReader::new(TcpStream::connect(self.at).await.unwrap()) }
    }

    /// Sends a request.
    pub(super) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Client {
        let mut client = self.connect().await;
        let mut text = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in [("host", "127.0.0.1:9481"), ("content-type", "application/json")] {
            if !headers.iter().any(|(there, _)| there.eq_ignore_ascii_case(name)) {
                text += &format!("{name}: {value}\r\n");
            }
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        client.stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.unwrap();
        client
    }

    pub(super) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
        self.send("POST", path, headers, body).await.get().await
    }

    pub(super) async fn get(&self, path: &str) -> Got {
        self.send("GET", path, &[], "").await.get().await
    }

    /// A chat, answered.
    pub(super) async fn chat(&self) -> Got {
        self.provider.body(200, "application/json", "{\"choices\":[]}");
        self.post(CHAT, &[], "{\"model\":\"m\",\"messages\":[]}").await
    }
}
