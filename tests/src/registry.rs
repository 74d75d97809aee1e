//! A registry of the test's own, in the test's own network namespace: it answers as it is told to, lies included.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use claw::{encoding::encode, key::Did, token::TokenHash};
use serde_json::{Value, json};

/// How the registry behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    #[default]
    Well,
    /// It hangs up.
    Down,
    /// It takes the request and says nothing.
    Silent,
    /// It sends a byte now and then.
    Slow,
    /// It answers without end.
    Endless,
    /// It sends whoever asks elsewhere.
    Redirects,
}

#[derive(Default)]
pub struct State {
    pub mood: Mood,
    /// Answers to `/v1/wpc/{hash}`, by what stands there for the hash.
    pub contracts: HashMap<String, String>,
    pub revoked: HashSet<String>,
    /// Whether it keeps bindings at all, and those it has.
    pub binds: bool,
    pub bound: HashMap<String, String>,
    pub keys: Vec<Did>,
    /// Every request's method and path.
    pub asked: Vec<String>,
    followers: Vec<TcpStream>,
    delay: Duration,
}

/// A running one. Its threads end with the test's process.
#[derive(Clone)]
pub struct Registry {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Registry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { binds: true, ..State::default() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || answer(stream, &state));
            }
        });
        Self { state, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Lets every answer take this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Offers an envelope's file under a hash: its own, or another's.
    pub fn offer(&self, hash: &str, envelope: &str) {
        let wrapped = format!("{{\"ok\":true,\"policy_hash_b64u\":\"{hash}\",\"envelope\":{envelope}}}");
        self.state().contracts.insert(hash.to_owned(), wrapped);
    }

    /// Revokes a token; tells the followers if they are to be told.
    pub fn revoke(&self, token: &str, push: bool) {
        let hash = TokenHash::of(token).to_string();
        let mut state = self.state();
        state.revoked.insert(hash.clone());
        if push {
            let event = format!("data: {}\n\n", json!({ "sequence": 1, "record": { "token_hash": hash } }));
            for follower in &mut state.followers {
                let _ = follower.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
            }
        }
    }

    /// How many follow its revocations.
    pub fn followers(&self) -> usize {
        self.state().followers.len()
    }

    pub fn asked(&self, start: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.starts_with(start)).count()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let Some((method, path, body)) = request(&mut stream) else { return };
    let (mood, delay) = {
        let mut state = state.lock().unwrap();
        state.asked.push(format!("{method} {path}"));
        (state.mood, state.delay)
    };
    thread::sleep(delay);
    match mood {
        Mood::Well => {}
        Mood::Down => return,
        Mood::Silent => return thread::sleep(Duration::from_secs(30)),
        Mood::Slow => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            for _ in 0..60 {
                if stream.write_all(b" ").is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(500));
            }
            return;
        }
        Mood::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"ok\":true,\"envelope\":\"");
            let much = [b'x'; 1 << 16];
            // Bounded all the same: 64 megabytes.
            for _ in 0..1024 {
                if stream.write_all(&much).is_err() {
                    return;
                }
            }
            return;
        }
        Mood::Redirects => {
            let _ = stream.write_all(
                format!("HTTP/1.1 302 Found\r\nLocation: /elsewhere{path}\r\nContent-Length: 0\r\n\r\n").as_bytes(),
            );
            return;
        }
    }
    if path == "/v1/revocations/stream" {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        if stream.write_all(head.as_bytes()).is_ok() {
            state.lock().unwrap().followers.push(stream);
        }
        return;
    }
    let (status, text) = route(&method, &path, &body, state);
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
}

fn request(stream: &mut TcpStream) -> Option<(String, String, String)> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut read = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    read.read_line(&mut first).ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        read.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).ok()?;
    Some((method, path, String::from_utf8(body).ok()?))
}

fn route(method: &str, path: &str, body: &str, state: &Mutex<State>) -> (u16, String) {
    let mut state = state.lock().unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let token = body["token"].as_str().unwrap_or_default();
    let hash = TokenHash::of(token).to_string();
    match (method, path) {
        ("GET", "/health") => (200, json!({ "status": "ok" }).to_string()),
        ("GET", "/v1/jwks") => {
            let keys: Vec<Value> = state
                .keys
                .iter()
                .map(|did| json!({ "kty": "OKP", "crv": "Ed25519", "kid": did.kid(), "x": encode(did.public_key()) }))
                .collect();
            (200, json!({ "keys": keys }).to_string())
        }
        ("POST", "/v1/tokens/introspect") => {
            let revoked = state.revoked.contains(&hash);
            (200, json!({ "active": !revoked, "revoked": revoked, "token_hash": hash }).to_string())
        }
        ("POST", "/v1/tokens/bind") if state.binds => {
            let binder = body["binder"].as_str().unwrap_or_default().to_owned();
            let winner = state.bound.entry(hash.clone()).or_insert_with(|| binder.clone());
            if *winner == binder {
                (200, json!({ "bound": true, "token_hash": hash, "binder": binder }).to_string())
            } else {
                (409, json!({ "error": "TOKEN_REPLAYED", "message": "bound" }).to_string())
            }
        }
        _ => match path.strip_prefix("/v1/wpc/").and_then(|hash| state.contracts.get(hash)) {
            Some(text) => (200, text.clone()),
            None => (404, json!({ "ok": false, "error": { "code": "NOT_FOUND", "message": "?" } }).to_string()),
        },
    }
}
