//! What an agent configures in place of a stdio server's command: its messages go to the gateway and back. It runs as the agent, and
//! decides nothing.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue},
};
use mcp::{
    era,
    header::{self, Param},
    json::Json,
    message::{self, Id, Message, code},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    reply::SESSION,
    upstream::{Arrivals, Failure, Http},
};

/// Bytes of one message.
const LIMIT: usize = 16 << 20;

/// One client's conversation.
struct Bridge {
    http: Arc<Http>,
    out: mpsc::Sender<Vec<u8>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
    under_way: HashMap<Id, AbortHandle>,
    /// The arguments that headers repeat, by tool, as the lists said that passed by.
    repeated: HashMap<Box<str>, Vec<Param>>,
}

/// Speaks for standard input and output, until the input ends.
pub(crate) async fn run(url: &str) -> Result<(), String> {
    let http = Arc::new(Http::new(url, &[], None, std::iter::empty())?);
    let (out, lines) = mpsc::channel(64);
    let writing = tokio::spawn(write(lines));
    let bridge = Arc::new(Bridge { http, out, state: Mutex::default() });
    let mut input = BufReader::new(tokio::io::stdin()).take(0);
    let mut line = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        line.clear();
        input.set_limit(LIMIT as u64);
        match input.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        while tasks.try_join_next().is_some() {}
        let text = line.trim_ascii();
        if !text.is_empty() {
            bridge.take(text, &mut tasks).await;
        }
    }
    // What is under way is nobody's any more.
    tasks.shutdown().await;
    bridge.end().await;
    drop(bridge);
    writing.await.map_err(|error| error.to_string())?.map_err(|error| format!("standard output: {error}"))
}

async fn write(mut lines: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    let mut output = tokio::io::stdout();
    while let Some(mut line) = lines.recv().await {
        line.push(b'\n');
        output.write_all(&line).await?;
        output.flush().await?;
    }
    Ok(())
}

impl Bridge {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn say(&self, message: &Message) {
        // A client that does not read any more has ended.
        let _ = self.out.send(message.to_bytes()).await;
    }

    async fn take(self: &Arc<Self>, text: &[u8], tasks: &mut JoinSet<()>) {
        let message = match Message::parse(text) {
            Ok(message) => message,
            Err(flaw) => {
                self.say(&message::error(None, flaw.code(), &flaw.to_string(), None)).await;
                return;
            }
        };
        let version = message.params().and_then(|params| params.at(&["_meta", era::PROTOCOL_VERSION]));
        let modern = version.and_then(Json::as_str) == Some(era::MODERN);
        if let Message::Notification(told) = &message
            && &*told.method == "notifications/cancelled"
        {
            // Over HTTP the newer era cancels by hanging up.
            let named = told.params.as_ref().and_then(|params| params.get("requestId")).and_then(Id::read);
            let hung_up = self.lock().session.is_none();
            if hung_up {
                if let Some(task) = named.and_then(|id| self.lock().under_way.remove(&id)) {
                    task.abort();
                }
                return;
            }
        }
        let headers = self.headers(&message, modern);
        let begins = matches!(&message, Message::Notification(told) if &*told.method == "notifications/initialized");
        match &message {
            // What begins a session is waited for: what follows needs its name.
            Message::Request(request) if &*request.method == "initialize" => self.request(&message, headers).await,
            Message::Request(request) => {
                let (bridge, id) = (Arc::clone(self), request.id.clone());
                let task = tasks.spawn(async move {
                    bridge.request(&message, headers).await;
                    if let Some(id) = message.id() {
                        bridge.lock().under_way.remove(id);
                    }
                });
                self.lock().under_way.insert(id, task);
            }
            _ => {
                if let Err(failure) = self.post(&message, headers).await {
                    tracing::warn!(%failure, detail = failure.detail(), "a message was not delivered");
                }
            }
        }
        if begins {
            let bridge = Arc::clone(self);
            tasks.spawn(async move { bridge.listen().await });
        }
    }

    fn headers(&self, message: &Message, modern: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if modern {
            let method = message.method().unwrap_or_default();
            let tool = message.params().and_then(|params| params.get("name")).and_then(Json::as_str);
            let state = self.lock();
            let repeated = tool.and_then(|tool| state.repeated.get(tool)).map(Vec::as_slice).unwrap_or_default();
            for (name, value) in header::mirrored(method, message.params(), repeated) {
                if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
                    headers.insert(name, value);
                }
            }
            return headers;
        }
        let state = self.lock();
        if let Some(session) = &state.session {
            headers.insert(SESSION, session.clone());
        }
        if let Some(version) = &state.version {
            headers.insert(header::VERSION, version.clone());
        }
        headers
    }

    /// Makes a request and says what comes for it.
    async fn request(&self, message: &Message, headers: HeaderMap) {
        let id = message.id().cloned();
        let failure = match self.post(message, headers).await {
            Ok(mut arrivals) => loop {
                match arrivals.next().await {
                    Ok(Some(arrived)) => {
                        let Some(message) = arrived.message else { continue };
                        let last = matches!(&message, Message::Response(_));
                        self.note(&message);
                        self.say(&message).await;
                        if last {
                            return;
                        }
                    }
                    Ok(None) => break Failure::Broken("it ended without an answer".into()),
                    Err(failure) => break failure,
                }
            },
            Err(failure) => failure,
        };
        let text = format!("the gateway: {failure} {}", failure.detail());
        self.say(&message::error(id, code::INTERNAL, text.trim(), None)).await;
    }

    /// Notes what version a session speaks, and what tools want repeated in headers.
    fn note(&self, message: &Message) {
        let Message::Response(response) = message else { return };
        let message::Outcome::Result(result) = &response.outcome else { return };
        if let Some(version) = result.get("protocolVersion").and_then(Json::as_str) {
            self.lock().version = version.parse().ok();
        }
        for tool in result.get("tools").and_then(Json::as_array).unwrap_or_default() {
            let name = tool.get("name").and_then(Json::as_str);
            if let (Some(name), Ok(params)) = (name, header::params(tool)) {
                self.lock().repeated.insert(name.into(), params);
            }
        }
    }

    async fn post(&self, message: &Message, headers: HeaderMap) -> Result<Arrivals, Failure> {
        let body = Bytes::from(message.to_bytes());
        let answer = self.http.send(Method::POST, self.http.target(), headers, body).await?;
        if let Some(session) = answer.headers.get(SESSION) {
            self.lock().session = Some(session.clone());
        }
        let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match kind {
            kind if kind.starts_with("text/event-stream") => Ok(Arrivals::events(answer, LIMIT)),
            kind if kind.starts_with("application/json") => Ok(Arrivals::body(answer, LIMIT)),
            _ if answer.status.is_success() => Ok(Arrivals::nothing(LIMIT)),
            _ => Err(Failure::Status(answer.status.as_u16())),
        }
    }

    /// Says what the server says by itself.
    async fn listen(&self) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        {
            let state = self.lock();
            let (Some(session), version) = (&state.session, &state.version) else { return };
            headers.insert(SESSION, session.clone());
            if let Some(version) = version {
                headers.insert(header::VERSION, version.clone());
            }
        }
        let answer = self.http.send(Method::GET, self.http.target(), headers, Bytes::new()).await;
        let Some(answer) = answer.ok().filter(|answer| answer.status == StatusCode::OK) else { return };
        let mut arrivals = Arrivals::events(answer, LIMIT);
        while let Ok(Some(arrived)) = arrivals.next().await {
            if let Some(message) = arrived.message {
                self.say(&message).await;
            }
        }
    }

    /// Ends the session.
    async fn end(&self) {
        let mut headers = HeaderMap::new();
        {
            let state = self.lock();
            let Some(session) = &state.session else { return };
            headers.insert(SESSION, session.clone());
            if let Some(version) = &state.version {
                headers.insert(header::VERSION, version.clone());
            }
        }
        let ended = self.http.send(Method::DELETE, self.http.target(), headers, Bytes::new()).await;
        if let Err(failure) = ended {
            tracing::debug!(%failure, "the session was not ended");
        }
    }
}
