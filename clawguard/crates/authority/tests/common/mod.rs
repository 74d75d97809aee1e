//! A server in this process, a clock that tests turn, and a small HTTP client.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use authority::{AdminToken, Clock, Ids, Limits, Server, Settings, keys::Directory};
use claw::{key::PrivateKey, time::Instant};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// The worked example: what upstream's services answered with fixed keys, clock and ids.
pub(crate) const VECTORS: &str = include_str!("../vectors/services.json");
pub(crate) const ADMIN: &str = "an-admin-token-of-the-tests";

pub(crate) fn vectors() -> Value {
    serde_json::from_str(VECTORS).unwrap()
}

/// The worked example's time, in seconds.
pub(crate) const START: u64 = 1_772_323_200;

pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) now: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    keep: bool,
}

pub(crate) fn fresh(name: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let data = std::env::temp_dir().join(format!("authority-{name}-{}-{count}", std::process::id()));
    let _ = fs::remove_dir_all(&data);
    data
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub(crate) fn with(name: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let data = fresh(name);
        sys::file::directory(&data, 0o700).unwrap();
        let (controls, scope) = (PrivateKey::from_seed(&[0x11; 32]), PrivateKey::from_seed(&[0x22; 32]));
        Directory::install(&data, &controls, scope).unwrap();
        Self::on(data, change)
    }

    /// On a data directory that is there.
    pub(crate) fn on(data: PathBuf, change: impl FnOnce(&mut Settings)) -> Self {
        let now = Arc::new(AtomicU64::new(START));
        let (clock, count) = (Arc::clone(&now), AtomicU64::new(0));
        let mut settings = Settings {
            data: data.clone(),
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            behind_proxy: false,
            admin: AdminToken::new(ADMIN),
            audiences: vec!["clawcontrols.com".into(), "clawscope.com".into(), "127.0.0.1".into()],
            limits: Limits::default(),
            clock: Clock::new(move || Instant(clock.load(Ordering::SeqCst) * 1_000_000_000)),
            ids: Ids::new(move || {
                let next = count.fetch_add(1, Ordering::SeqCst) + 1;
                Some(format!("00000000-0000-4000-8000-{next:012}"))
            }),
        };
        change(&mut settings);
        let (stop, stopped) = oneshot::channel::<()>();
        let (said, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(settings).await.unwrap();
                said.send(server.address().unwrap()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        let address = address.recv_timeout(Duration::from_secs(30)).unwrap();
        Self { address, data, now, stop: Some(stop), thread: Some(thread), keep: false }
    }

    /// Stops the server and leaves its files.
    pub(crate) fn stop(mut self) -> PathBuf {
        self.keep = true;
        self.data.clone()
    }

    pub(crate) fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        Client::new(self.address).call(method, path, headers, body).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, &[], &body.to_string())
    }

    pub(crate) fn admin(&self, method: &str, path: &str, body: &str) -> Reply {
        self.call(method, path, &[("authorization", &format!("Bearer {ADMIN}"))], body)
    }

    /// Issues a token with a scope and an audience.
    pub(crate) fn token(&self, scope: &str, aud: &str) -> String {
        let body = json!({ "sub": "did:key:zOperator", "aud": [aud], "scope": [scope], "ttl_sec": 3600 });
        let issued = self.admin("POST", "/v1/tokens/issue", &body.to_string());
        assert_eq!(issued.status, 200, "{}", issued.body);
        issued.json()["token"].as_str().unwrap().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        if !self.keep {
            let _ = fs::remove_dir_all(&self.data);
        }
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Status and clawscope's error code.
    pub(crate) fn error(&self) -> (u16, String) {
        let value = self.json();
        assert!(value["message"].is_string(), "{value}");
        (self.status, value["error"].as_str().unwrap_or("none").to_owned())
    }

    /// Status and clawcontrols' error code.
    pub(crate) fn wpc_error(&self) -> (u16, String) {
        let value = self.json();
        assert_eq!(value["ok"], json!(false), "{value}");
        (self.status, value["error"]["code"].as_str().unwrap_or("none").to_owned())
    }
}

/// One connection, kept.
pub(crate) struct Client<S: Read + Write = TcpStream> {
    stream: BufReader<S>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Follows the revocations; hands on each event's id and data.
    pub(crate) fn follow(self, path: &str, more: &str, each: impl FnMut(u64, Value) -> bool) {
        self.follow_as(path, &format!("authorization: Bearer {ADMIN}\r\n{more}"), each);
    }

    /// Follows them as somebody.
    pub(crate) fn follow_as(mut self, path: &str, more: &str, mut each: impl FnMut(u64, Value) -> bool) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{more}\r\n");
        if self.stream.get_mut().write_all(request.as_bytes()).is_err() {
            return;
        }
        let (mut id, mut line) = (0, String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(text) = line.strip_prefix("id: ") {
                let Ok(found) = text.trim().parse() else { return };
                id = found;
            } else if let Some(data) = line.strip_prefix("data: ") {
                // A server that was killed leaves half an event.
                let Ok(event) = serde_json::from_str(data) else { return };
                if !each(id, event) {
                    return;
                }
            }
        }
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<Reply> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        // Who is refused early may not get rid of all of it.
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        match self.reply() {
            Ok(reply) => Ok(reply),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = head[start..].trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Reply { status, head: head.to_ascii_lowercase(), body: String::from_utf8(body).unwrap() })
    }
}

/// A connection of which the bytes are looked at as they come.
pub(crate) struct Raw {
    stream: std::cell::RefCell<TcpStream>,
    seen: std::cell::RefCell<String>,
}

impl Raw {
    pub(crate) fn get(address: SocketAddr, path: &str) -> Self {
        Self::with(address, path, &format!("authorization: Bearer {ADMIN}\r\n"))
    }

    pub(crate) fn with(address: SocketAddr, path: &str, headers: &str) -> Self {
        let raw = Self::connect(address);
        raw.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n"));
        raw
    }

    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream: stream.into(), seen: String::new().into() }
    }

    pub(crate) fn send(&self, text: &str) {
        self.stream.borrow_mut().write_all(text.as_bytes()).unwrap();
    }

    fn more(&self) -> bool {
        let mut bytes = [0; 4096];
        // A reset is an end as well.
        let many = match self.stream.borrow_mut().read(&mut bytes) {
            Ok(many) => many,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing came for a minute"),
            Err(_) => 0,
        };
        self.seen.borrow_mut().push_str(&String::from_utf8_lossy(&bytes[..many]));
        many > 0
    }

    /// Chunks' frames are taken out, which is good enough for what is looked for.
    fn text(&self) -> String {
        let seen = self.seen.borrow();
        let Some((head, body)) = seen.split_once("\r\n\r\n") else { return seen.clone() };
        let lines = body.split("\r\n").filter(|line| u32::from_str_radix(line, 16).is_err());
        format!("{head}\r\n\r\n{}", lines.collect::<Vec<_>>().concat())
    }

    pub(crate) fn until(&self, wanted: &str) {
        while !self.text().contains(wanted) {
            assert!(self.more(), "it ended before {wanted:?}: {}", self.text());
        }
    }

    pub(crate) fn ended(&self) -> String {
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while self.more() {
            assert!(std::time::Instant::now() < until, "it did not end: {}", self.text());
        }
        self.text()
    }

    pub(crate) fn head(&self) -> String {
        self.seen.borrow().to_ascii_lowercase()
    }
}
