//! What a test has around the gateway.

use std::{
    collections::BTreeSet,
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
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Notify, watch},
    time::sleep,
};

use super::super::{gate::Gate, speak};
pub(super) use super::{
    client::{Client, Got},
    provider::{EVENTS, Provider, Step, chunk},
};
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

pub(super) struct World {
    pub(super) daemon: Arc<Daemon>,
    pub(super) provider: Provider,
    pub(super) gate: Arc<Gate>,
    pub(super) at: SocketAddr,
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
        let channel = Arc::new(Channel::over(ours.into_std().unwrap()).unwrap());
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
