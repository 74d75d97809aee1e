//! What all callers pass: what is in force, who calls, and what of HTTP is taken at all.

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName},
};
use mcp::{
    era::{self, Era},
    header as checks,
    message::code,
};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{SemaphorePermit, watch},
    time::{Duration, timeout},
};

use super::{
    answer::{plain, reply},
    carry::{alone, read},
    context::Context,
    data::Data,
    limits::{LARGE, Limits, Room},
    record::Recorder,
    reply::{Reply, SESSION},
    running::Running,
    session::{Sessions, Whose},
    standing::Standing,
};
use crate::{callers::Caller, channel::Channel};

/// The job's token, where a client sends it.
const TOKEN: HeaderName = HeaderName::from_static("x-clawguard-cst");
/// What a client calls its session, by its own word.
const REPORTED: HeaderName = HeaderName::from_static("x-clawguard-session");
/// Bytes of such a word that are kept.
const LONGEST_REPORTED: usize = 128;
/// How long a message may take to come, and to find a place.
pub(crate) const READING: Duration = Duration::from_secs(30);

/// All that requests share.
pub(crate) struct Gate {
    pub(crate) daemon: Arc<Channel>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) sessions: Sessions,
    pub(crate) running: Arc<Running>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) data: Data,
    pub(crate) port: u16,
    standing: watch::Sender<Arc<Standing>>,
}

/// What is in force, watched.
pub(crate) struct Watched {
    receiver: watch::Receiver<Arc<Standing>>,
    before: Arc<Standing>,
    now: Arc<Standing>,
}

impl Watched {
    /// Waits until something else is in force.
    pub(crate) async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The gateway ends.
            std::future::pending::<()>().await;
        }
        let now = Arc::clone(&self.receiver.borrow_and_update());
        self.before = std::mem::replace(&mut self.now, now);
    }

    /// Whether the last change may show a job other tools of a server.
    pub(crate) fn tools_changed(&self, whose: &Whose) -> bool {
        let jobs = (self.before.job(whose.slot, whose.key), self.now.job(whose.slot, whose.key));
        let (Some(before), Some(now)) = jobs else { return false };
        let pins = |standing: &Standing| standing.servers.get(&*whose.server).map(|server| server.rules.pins);
        self.before.rules.killed != self.now.rules.killed
            || !before.same_as(now)
            || pins(&self.before) != pins(&self.now)
    }
}

impl Gate {
    pub(crate) fn new(daemon: Arc<Channel>, port: u16, data: Data) -> Self {
        Self {
            daemon,
            recorder: Arc::new(Recorder::new()),
            sessions: Sessions::default(),
            running: Arc::default(),
            limits: Arc::default(),
            data,
            port,
            standing: watch::Sender::new(Arc::new(Standing::empty())),
        }
    }

    /// What is in force.
    pub(crate) fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing.borrow())
    }

    /// The same, to be waited for.
    pub(crate) fn in_force(&self) -> watch::Receiver<Arc<Standing>> {
        self.standing.subscribe()
    }

    /// The same, watched from now on.
    pub(crate) fn watch(&self) -> Watched {
        let receiver = self.standing.subscribe();
        let now = Arc::clone(&receiver.borrow());
        Watched { receiver, before: Arc::clone(&now), now }
    }

    /// Puts other rules in force. Answers how many calls they end.
    pub(crate) fn put_in_force(&self, standing: Standing) -> u64 {
        let standing = Arc::new(standing);
        self.standing.send_replace(Arc::clone(&standing));
        let ended = self.running.end_disallowed(&standing) + self.sessions.cancel_tasks(&standing);
        self.sessions.tidy(&standing);
        ended
    }

    /// Answers a request.
    pub(crate) async fn answer(self: Arc<Self>, caller: Caller, request: Request<Incoming>) -> Response<Reply> {
        let since = Instant::now();
        let (head, body) = request.into_parts();
        if let Err(why) = own(&head.headers, self.port) {
            return plain(StatusCode::FORBIDDEN, code::INVALID_REQUEST, why);
        }
        let standing = self.standing();
        let Some(job) = standing.job(caller.slot, caller.key).map(Arc::clone) else {
            return plain(StatusCode::FORBIDDEN, code::INVALID_REQUEST, "this job is over");
        };
        let name = head.uri.path().strip_prefix("/s/").and_then(|rest| rest.strip_suffix("/mcp"));
        let Some(server) = name.and_then(|name| standing.servers.get(name)).map(Arc::clone) else {
            let why = "there is no such server: http://127.0.0.1:PORT/s/SERVER/mcp is expected";
            return plain(StatusCode::NOT_FOUND, code::INVALID_REQUEST, why);
        };
        if let Some(token) = head.headers.get(TOKEN) {
            let hash: String = Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            if job.rules.token.as_ref() != Some(&hash) {
                return plain(StatusCode::UNAUTHORIZED, code::INVALID_REQUEST, "the token is not this job's");
            }
        }
        let reported = head.headers.get(REPORTED).and_then(|text| text.to_str().ok());
        let reported = reported.map(|text| text.chars().take(LONGEST_REPORTED).collect());
        let version = head.headers.get(checks::VERSION);
        let modern = version.is_some_and(|version| version.as_bytes() == era::MODERN.as_bytes());
        let whose = Whose { slot: caller.slot, key: caller.key, server: server.rules.name.as_str().into() };
        let mut passed = HeaderMap::new();
        if let Some(version) = version.filter(|_| !modern) {
            passed.insert(checks::VERSION, alone(version));
        }
        let mut context = Context {
            gate: Arc::clone(&self),
            standing,
            job,
            server,
            whose,
            era: if modern { Era::Modern } else { Era::Legacy },
            reported,
            passed,
            since,
            bytes_in: 0,
        };
        match head.method {
            Method::POST => {
                let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
                if !kind.eq_ignore_ascii_case("application/json") {
                    let why = "Content-Type: application/json is expected";
                    return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, code::INVALID_REQUEST, why);
                }
                let room = self.limits.room(caller.slot);
                // As long as it is answered, a large message takes the place of another one.
                let (body, _large) = match timeout(READING, whole(body, context.limit(), &room)).await {
                    Ok(Ok(body)) => body,
                    Ok(Err(Unread::Broken)) => {
                        return plain(StatusCode::BAD_REQUEST, code::PARSE, "the body broke off");
                    }
                    Ok(Err(Unread::TooLong(limit))) => {
                        let why = format!("a message has at most {limit} bytes ([limits] message_bytes)");
                        return plain(StatusCode::PAYLOAD_TOO_LARGE, code::INVALID_REQUEST, &why);
                    }
                    Err(_) => {
                        let why = "the message did not come in time";
                        return plain(StatusCode::REQUEST_TIMEOUT, code::INVALID_REQUEST, why);
                    }
                };
                context.bytes_in = body.len() as u64;
                context.refresh();
                match read(&body) {
                    Ok(message) => context.message(&head.headers, message).await,
                    Err((code, why, id)) => {
                        context.malformed(&why).await;
                        let message = mcp::message::error(id, code, &why, None);
                        reply(StatusCode::BAD_REQUEST, &message)
                    }
                }
            }
            Method::GET | Method::DELETE if context.era == Era::Modern => {
                plain(StatusCode::METHOD_NOT_ALLOWED, code::INVALID_REQUEST, "this version has POST alone")
            }
            Method::GET => {
                let Some(session) = context.named_session(&head.headers) else { return no_session(&head.headers) };
                let last = head.headers.get("last-event-id").cloned();
                Box::pin(Arc::new(context).listen(session, last)).await
            }
            Method::DELETE => {
                let Some(session) = context.named_session(&head.headers) else { return no_session(&head.headers) };
                Box::pin(context.end(&session)).await
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, code::INVALID_REQUEST, "POST, GET or DELETE is expected"),
        }
    }
}

/// Whether a request is meant for this gateway, and does not come from a web page.
pub(crate) fn own(headers: &HeaderMap, port: u16) -> Result<(), &'static str> {
    let text = |name: HeaderName| -> Result<Option<&str>, &'static str> {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(|_| "a header is no text"),
            _ => Err("a header is there twice"),
        }
    };
    let host = text(header::HOST)?.ok_or("there is no Host")?;
    if !checks::is_own_host(host, port) {
        return Err("the Host is another one's");
    }
    match text(header::ORIGIN)? {
        Some(origin) if !checks::is_own_origin(origin, port) => Err("the Origin is another one's"),
        _ => Ok(()),
    }
}

/// What becomes of a request without the session that it needs.
pub(crate) fn no_session(headers: &HeaderMap) -> Response<Reply> {
    if headers.contains_key(SESSION) {
        plain(StatusCode::NOT_FOUND, code::INVALID_REQUEST, "Session not found")
    } else {
        plain(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, "Mcp-Session-Id is missing")
    }
}

/// Why a body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It broke off.
    Broken,
    /// It has more bytes than this.
    TooLong(usize),
}

/// The whole of a body, up to a limit; and its place, if it is large.
pub(crate) async fn whole(
    mut body: Incoming,
    limit: usize,
    room: &Room,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Unread> {
    let mut large = None;
    let mut all = BytesMut::new();
    let mut only: Option<Bytes> = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Unread::Broken) };
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + only.as_ref().map_or(0, Bytes::len) + data.len() > limit {
            return Err(Unread::TooLong(limit));
        }
        if large.is_none() && all.len() + only.as_ref().map_or(0, Bytes::len) + data.len() > LARGE {
            large = room.large.acquire().await.ok();
        }
        match only.take() {
            None if all.is_empty() => only = Some(data),
            first => {
                all.extend(first);
                all.extend_from_slice(&data);
            }
        }
    }
    Ok((only.unwrap_or_else(|| all.freeze()), large))
}
