//! A request's way to the server and its answer's way back, judged on both.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use bytes::Bytes;
use hyper::{HeaderMap, Method, Response, StatusCode, header};
use mcp::{
    era::Era,
    json::{self, Json},
    message::{self, Id, Message, Outcome, Request},
};
use tokio::{
    sync::mpsc,
    time::{Duration, sleep_until, timeout},
};

use super::{
    answer,
    ask::Kind,
    call::Pending,
    context::Context,
    reply::{self, Reply, SESSION},
    session::{Link, Session},
    shut::no_tools,
    stream::{Way, pump},
    upstream::{Arrivals, Arrived, Asked, Failure},
};

/// How long a server may take to take what it is told.
const TELLING: Duration = Duration::from_secs(30);
/// Events that a client may leave unread before its server is held up; each may be as long as a message.
pub(crate) const MOST_UNREAD: usize = 4;

/// What a server answered with, before it is read.
pub(crate) struct Opened {
    pub(crate) status: StatusCode,
    pub(crate) arrivals: Arrivals,
    pub(crate) asked: Option<Asked>,
    /// The server's name for a session that it began.
    pub(crate) session: Option<header::HeaderValue>,
}

/// How a request ended that has no answer of the server's to pass on.
pub(crate) enum Cut {
    /// It was killed.
    Killed,
    /// The server failed.
    Failed(Failure),
}

/// Work that goes on by itself if whoever waits for it gives up.
pub(crate) struct GoesOn<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> GoesOn<T> {
    pub(crate) fn new(work: Pin<Box<impl Future<Output = T> + Send + 'static>>) -> Self {
        Self(Some(work))
    }
}

impl<T: Send + 'static> Future for GoesOn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<T> {
        let Some(mut work) = self.0.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for GoesOn<T> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            tokio::spawn(work);
        }
    }
}

impl Context {
    /// Sends a request.
    pub(crate) async fn open(
        &self,
        session: &Session,
        request: &Message,
        passed: &HeaderMap,
    ) -> Result<Opened, Failure> {
        match &session.link {
            Link::Duplex(duplex) => {
                let (arrivals, asked) = duplex.ask(request).await?;
                Ok(Opened { status: StatusCode::OK, arrivals, asked: Some(asked), session: None })
            }
            Link::Http => self.post(session.upstream.as_ref(), passed, request.to_bytes().into()).await,
        }
    }

    /// Makes a request over HTTP.
    pub(crate) async fn post(
        &self,
        upstream: Option<&header::HeaderValue>,
        passed: &HeaderMap,
        body: Bytes,
    ) -> Result<Opened, Failure> {
        let Some(http) = &self.server.http else {
            return Err(Failure::Unreachable(self.server.broken.clone().unwrap_or_default()));
        };
        let headers = headers(upstream, passed);
        let mut answer = http.send(Method::POST, http.target(), headers, body).await?;
        let status = answer.status;
        let session = answer.headers.get(SESSION).map(alone);
        let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let limit = self.limit();
        let arrivals = match (&*kind, status) {
            ("text/event-stream", StatusCode::OK) => Arrivals::events(answer, limit),
            ("application/json", _) => Arrivals::body(answer, limit),
            _ => {
                // Read to its end, so that the connection serves again.
                answer.whole(1 << 16).await?;
                if !status.is_success() {
                    return Err(Failure::Status(status.as_u16()));
                }
                Arrivals::nothing(limit)
            }
        };
        Ok(Opened { status, arrivals, asked: None, session })
    }

    /// Sends what is no request; what the server says to it is of no interest, and is not waited for for ever.
    pub(crate) async fn tell(&self, session: &Session, message: &Message) -> Result<(), Failure> {
        timeout(TELLING, self.tell_all(session, message)).await.unwrap_or(Err(Failure::Late))
    }

    async fn tell_all(&self, session: &Session, message: &Message) -> Result<(), Failure> {
        match &session.link {
            Link::Duplex(duplex) => duplex.tell(message).await,
            Link::Http => {
                let mut opened = self.post(session.upstream.as_ref(), &self.passed, message.to_bytes().into()).await?;
                if !opened.status.is_success() {
                    return Err(Failure::Status(opened.status.as_u16()));
                }
                // An answer to what is no request is no answer.
                while opened.arrivals.skip().await? {}
                Ok(())
            }
        }
    }

    /// Passes a request on and its answer back.
    pub(crate) async fn carry(
        self: Arc<Self>,
        session: Arc<Session>,
        request: Request,
        mut pending: Pending,
    ) -> Response<Reply> {
        let id = request.id.clone();
        let is_tool = pending.kind == Kind::Tool;
        let message = Message::Request(request);
        let opened = match until(&pending, self.open(&session, &message, &self.passed)).await {
            Ok(opened) => opened,
            Err(cut) => {
                // A server that does not know the session any more: its client begins another one.
                let lost = self.era == Era::Legacy && matches!(cut, Cut::Failed(Failure::Status(404)));
                let message = Box::pin(self.cut(&session, &id, is_tool, pending, cut)).await;
                if lost {
                    self.gate.sessions.remove(&session);
                }
                return answer::reply(if lost { StatusCode::NOT_FOUND } else { StatusCode::OK }, &message);
            }
        };
        let Opened { status, mut arrivals, asked, .. } = opened;
        if arrivals.is_one() {
            let arrived = match until(&pending, arrivals.next()).await {
                Ok(arrived) => arrived.and_then(|arrived| arrived.message),
                Err(cut) => {
                    let message = Box::pin(self.cut(&session, &id, is_tool, pending, cut)).await;
                    return answer::reply(StatusCode::OK, &message);
                }
            };
            return match arrived {
                // An error need not name a request that the server could not read.
                Some(Message::Response(response))
                    if response.id.as_ref() == Some(&id)
                        || (response.id.is_none() && matches!(response.outcome, Outcome::Error(_))) =>
                {
                    let settled = self.settle(&session, &id, pending, response).await;
                    answer::reply(passed_on(status), &settled)
                }
                _ => {
                    let cut = Cut::Failed(Failure::Garbage("it answered something else than the request".into()));
                    answer::reply(StatusCode::OK, &Box::pin(self.cut(&session, &id, is_tool, pending, cut)).await)
                }
            };
        }
        let mut first = None;
        if arrivals.is_shared() {
            // Whether there will be more than the answer is not known before something comes.
            match until(&pending, arrivals.next()).await {
                Ok(Some(arrived)) => first = Some(arrived),
                Ok(None) => {
                    let cut = Cut::Failed(session.ended().unwrap_or(Failure::Broken("it ended".into())));
                    return answer::reply(
                        StatusCode::OK,
                        &Box::pin(self.cut(&session, &id, is_tool, pending, cut)).await,
                    );
                }
                Err(cut) => {
                    let message = Box::pin(self.cut(&session, &id, is_tool, pending, cut)).await;
                    return answer::reply(StatusCode::OK, &message);
                }
            }
            if let Some(Arrived { message: Some(Message::Response(response)), .. }) = first {
                let settled = self.settle(&session, &id, pending, response).await;
                return answer::reply(StatusCode::OK, &settled);
            }
        }
        if let Some(began) = &mut pending.began {
            began.begun.otherwise = "unknown";
        }
        let (sender, receiver) = mpsc::channel(MOST_UNREAD);
        let way = Way { arrivals, asked, first, session, id, pending };
        tokio::spawn(pump(self, way, sender));
        reply::events(receiver)
    }

    /// The answer to a request that ended before the server answered, with the server told and the record written.
    pub(crate) async fn cut(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: &Id,
        is_tool: bool,
        pending: Pending,
        cut: Cut,
    ) -> Message {
        let late = matches!(cut, Cut::Failed(Failure::Late));
        if late || matches!(cut, Cut::Killed) {
            self.give_up(session, id);
        }
        if let Cut::Failed(failure) = &cut {
            tracing::warn!(server = %self.whose.server, %failure, detail = failure.detail(), "a request was not answered");
        }
        let status = match &cut {
            Cut::Killed => "killed",
            Cut::Failed(Failure::Late) => "timeout",
            Cut::Failed(_) => "error",
        };
        let recorded = match pending.began {
            Some(began) => began.begun.end(status).await,
            None => Ok(()),
        };
        if recorded.is_err() {
            return answer::unrecorded(id, is_tool, self.era);
        }
        match cut {
            // Whoever asks for a list now is told the same.
            Cut::Killed if matches!(pending.kind, Kind::Tools { .. }) => {
                message::result(id.clone(), no_tools(self.era))
            }
            Cut::Killed => answer::killed(id, is_tool, self.era),
            Cut::Failed(failure) => answer::failed(id, is_tool, &failure, self.era),
        }
    }

    /// Tells the server that nobody waits for an answer any more. In the era without sessions the closed stream says so.
    pub(crate) fn give_up(self: &Arc<Self>, session: &Arc<Session>, id: &Id) {
        if self.era == Era::Modern && matches!(session.link, Link::Http) {
            return;
        }
        let params = Json::object([
            ("requestId", Json::from(id.clone())),
            ("reason", Json::String("ended by the host's operator".into())),
        ]);
        let told = message::notification("notifications/cancelled", Some(params));
        let (context, session) = (Arc::clone(self), Arc::clone(session));
        tokio::spawn(async move {
            if let Err(failure) = context.tell(&session, &told).await {
                tracing::debug!(%failure, "a server was not told that a request is cancelled");
            }
        });
    }
}

/// The HTTP status of a server's that its client gets: those that say something of the message. What a server says of who may
/// ask is said to the gateway, not to its client.
const fn passed_on(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => status,
        _ => StatusCode::OK,
    }
}

/// Waits for something of a server's, but no longer than the call stands.
pub(crate) async fn until<T>(pending: &Pending, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Cut> {
    tokio::select! {
        biased;
        () = pending.killed() => Err(Cut::Killed),
        done = work => done.map_err(Cut::Failed),
        () = sleep_until(pending.until) => Err(Cut::Failed(Failure::Late)),
    }
}

/// The headers that a server gets: those that were judged, and its own name for the session.
pub(crate) fn headers(upstream: Option<&header::HeaderValue>, passed: &HeaderMap) -> HeaderMap {
    let mut headers = passed.clone();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    let both = header::HeaderValue::from_static("application/json, text/event-stream");
    headers.insert(header::ACCEPT, both);
    if let Some(name) = upstream {
        headers.insert(SESSION, name.clone());
    }
    headers
}

/// A header's value by itself: as it came, it keeps all that it came with in memory.
pub(crate) fn alone(value: &header::HeaderValue) -> header::HeaderValue {
    header::HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// Reads what a client sent.
pub(crate) fn read(body: &[u8]) -> Result<Message, (i64, String, Option<Id>)> {
    let value = json::parse(body).map_err(|flaw| (message::code::PARSE, flaw.to_string(), None))?;
    let id = message::id_of(&value);
    Message::read(value).map_err(|flaw| (flaw.code(), flaw.to_string(), id))
}
