//! Streams of events: the answers to requests, and what a server says by itself.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{HeaderMap, Method, Response, StatusCode, header};
use mcp::{
    era::Era,
    json::Json,
    message::{self, Id, Message, Notification, Request},
    sse::{Event, KEEP_ALIVE},
};
use policy::mcp::What;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, interval_at},
};

use super::{
    answer,
    ask::{Kind, asked_back},
    call::Pending,
    carry::{Cut, MOST_UNREAD, until},
    context::Context,
    reply::{self, Reply, SESSION},
    session::{Link, Session},
    task,
    upstream::{Arrivals, Arrived, Asked, Failure},
};

/// How often a stream on which nothing happens says that it lives.
const ALIVE: Duration = Duration::from_secs(15);

/// An answer that comes in events.
pub(crate) struct Way {
    pub(crate) arrivals: Arrivals,
    pub(crate) asked: Option<Asked>,
    pub(crate) first: Option<Arrived>,
    pub(crate) session: Arc<Session>,
    pub(crate) id: Id,
    pub(crate) pending: Pending,
}

/// Writes an event. One without a message says where to go on from.
fn event(id: Option<Box<str>>, retry: Option<u64>, message: Option<&Message>) -> Bytes {
    let data = message.map_or_else(Vec::new, Message::to_bytes);
    // What is written is text.
    let data = String::from_utf8(data).unwrap_or_default();
    Event { id, event: None, data, retry }.to_bytes().into()
}

fn list_changed(listen: Option<&Id>) -> Message {
    let params = listen.map(|id| {
        let meta = Json::object([("io.modelcontextprotocol/subscriptionId", Json::from(id.clone()))]);
        Json::object([("_meta", meta)])
    });
    message::notification("notifications/tools/list_changed", params)
}

/// Passes an event on, to whoever reads; whether somebody still does is noticed elsewhere.
async fn pass(out: &mpsc::Sender<Bytes>, event: Bytes) -> Result<(), Failure> {
    let _ = out.send(event).await;
    Ok(())
}

/// Passes on what comes for one request, up to its answer.
pub(crate) async fn pump(context: Arc<Context>, way: Way, out: mpsc::Sender<Bytes>) {
    let Way { mut arrivals, asked, first, session, id, pending } = way;
    let _open = session.stream();
    let is_tool = pending.kind == Kind::Tool;
    let listens = matches!(pending.kind, Kind::Listen { .. });
    let tells = pending.kind == Kind::Listen { tools: true };
    let mut resumable = false;
    let mut first = first;
    let mut watched = context.gate.watch();
    let mut alive = interval_at(Instant::now() + ALIVE, ALIVE);
    let cut = loop {
        let arrived = match first.take() {
            Some(first) => Ok(Some(first)),
            None => tokio::select! {
                arrived = until(&pending, arrivals.next()) => arrived,
                () = out.closed() => {
                    // In one era whoever hangs up has cancelled; in the other the call goes on, and its answer may be fetched. What is
                    // no call is over: nothing is to be recorded.
                    if context.era == Era::Modern || listens || (pending.began.is_none() && !resumable) {
                        if let Some(began) = pending.began {
                            let _ = began.begun.end("cancelled").await;
                        }
                        if !matches!(session.link, Link::Http) {
                            context.give_up(&session, &id);
                        }
                        return;
                    }
                    if resumable {
                        session.keep(id, pending);
                        return;
                    }
                    Box::pin(context.finish(&session, id, pending, arrivals)).await;
                    return;
                }
                () = watched.changed(), if listens => {
                    if let Some(note) = context.tools_changed(&watched, Some(&id)).filter(|_| tells) {
                        let _ = out.send(event(None, None, Some(&note))).await;
                    }
                    if context.now().is_none() {
                        return;
                    }
                    continue;
                }
                _ = alive.tick() => {
                    let _ = out.try_send(Bytes::from_static(KEEP_ALIVE));
                    continue;
                }
            },
        };
        let arrived = match arrived {
            Ok(Some(arrived)) => arrived,
            // Where a stream says where to go on from, its end is not the answer's.
            Ok(None) if resumable && context.era == Era::Legacy => {
                session.keep(id, pending);
                return;
            }
            Ok(None) => break Cut::Failed(session.ended().unwrap_or(Failure::Broken("the stream ended".into()))),
            Err(cut) => break cut,
        };
        resumable |= arrived.id.is_some();
        match arrived.message {
            None => {
                if let Err(cut) = until(&pending, pass(&out, event(arrived.id, arrived.retry, None))).await {
                    break cut;
                }
            }
            Some(Message::Response(response)) if response.id.as_ref() == Some(&id) => {
                let settled = Box::pin(context.settle(&session, &id, pending, response)).await;
                drop(out.send(event(arrived.id, arrived.retry, Some(&settled))).await);
                drop(asked);
                return;
            }
            Some(message) => {
                if let Some(message) = Box::pin(context.inward(&session, message)).await
                    && let Err(cut) =
                        until(&pending, pass(&out, event(arrived.id, arrived.retry, Some(&message)))).await
                {
                    break cut;
                }
            }
        }
    };
    if tells && matches!(cut, Cut::Killed) {
        drop(out.send(event(None, None, Some(&list_changed(Some(&id))))).await);
    }
    let message = Box::pin(context.cut(&session, &id, is_tool, pending, cut)).await;
    drop(out.send(event(None, None, Some(&message))).await);
}

impl Context {
    /// Reads a call's answer to its end although nobody waits for it, for the record.
    async fn finish(self: &Arc<Self>, session: &Arc<Session>, id: Id, pending: Pending, mut arrivals: Arrivals) {
        let is_tool = pending.kind == Kind::Tool;
        let cut = loop {
            match until(&pending, arrivals.next()).await {
                Ok(Some(arrived)) => match arrived.message {
                    Some(Message::Response(response)) if response.id.as_ref() == Some(&id) => {
                        self.settle(session, &id, pending, response).await;
                        return;
                    }
                    _ => {}
                },
                Ok(None) => break Cut::Failed(Failure::Broken("the stream ended".into())),
                Err(cut) => break cut,
            }
        };
        self.cut(session, &id, is_tool, pending, cut).await;
    }

    /// What of a server's own messages its client gets. What it may not ask is answered here.
    pub(crate) async fn inward(self: &Arc<Self>, session: &Arc<Session>, message: Message) -> Option<Message> {
        match message {
            Message::Notification(mut told) => {
                if self.withheld(told.params.as_mut()).await {
                    return None;
                }
                self.told(session, told)
            }
            Message::Request(mut asked) => {
                let withheld = self.withheld(asked.params.as_mut()).await;
                self.asked(session, asked, withheld)
            }
            Message::Response(response) => {
                // A call whose answer comes by another stream than it began on.
                let id = response.id.clone()?;
                let pending = session.take(&id)?;
                Some(self.settle(session, &id, pending, response).await)
            }
        }
    }

    /// Whether what a server says carries what the contract denies. What it wants redacted is, in its place.
    async fn withheld(&self, params: Option<&mut Json>) -> bool {
        let (Some(rules), Some(params)) = (self.job.data(), params) else { return false };
        let found = self.gate.data.look(rules, self.job.rules.observe, params).await;
        found.denied.is_some() && !self.job.rules.observe
    }

    fn told(&self, session: &Session, told: Notification) -> Option<Message> {
        let text = |name: &str| told.params.as_ref().and_then(|params| params.get(name)).and_then(Json::as_str);
        if &*told.method == "notifications/tasks/status"
            && let Some(task) = told.params.as_ref().and_then(task::ended)
        {
            session.task_over(task);
        }
        let needs = match &*told.method {
            "notifications/tools/list_changed" => {
                session.catalog.changed();
                None
            }
            "notifications/progress" | "notifications/cancelled" | "notifications/subscriptions/acknowledged" => None,
            "notifications/message" => Some(What::Logging),
            "notifications/resources/updated" => Some(What::Resource(text("uri")?)),
            "notifications/resources/list_changed" => Some(What::Resources),
            "notifications/prompts/list_changed" => Some(What::Prompts),
            "notifications/elicitation/complete" => Some(What::ElicitationUrl),
            "notifications/tasks/status" if session.call_of(text("taskId")?).is_some() => Some(What::Tasks),
            method => {
                tracing::debug!(method, "a server told what no contract knows of");
                return None;
            }
        };
        if needs.is_some_and(|what| !self.gives(what)) {
            return None;
        }
        Some(Message::Notification(told))
    }

    fn asked(self: &Arc<Self>, session: &Arc<Session>, asked: Request, withheld: bool) -> Option<Message> {
        let what = asked_back(&asked.method, asked.params.as_ref());
        let passes = &*asked.method == "ping" || what.is_some_and(|what| self.gives(what));
        if passes && !withheld && session.ask(asked.id.clone()) {
            return Some(Message::Request(asked));
        }
        // A server that asks faster than it hears the answers gets none.
        let place = session.refusal()?;
        tracing::warn!(server = %self.whose.server, method = %asked.method, "a server asked what the contract does not give");
        let refusal = match &*asked.method {
            "elicitation/create" => {
                message::result(asked.id, Json::object([("action", Json::String("decline".into()))]))
            }
            method => {
                let text = format!("Method not found: {method}");
                message::error(Some(asked.id), message::code::METHOD_NOT_FOUND, &text, None)
            }
        };
        let (context, session) = (Arc::clone(self), Arc::clone(session));
        tokio::spawn(async move {
            if let Err(failure) = context.tell(&session, &refusal).await {
                tracing::debug!(%failure, "a server was not told that it may not ask");
            }
            drop(place);
        });
        None
    }

    /// The notice that tools changed, if what is in force now shows others than what was when this was asked last.
    pub(crate) fn tools_changed(&self, watched: &super::gate::Watched, listen: Option<&Id>) -> Option<Message> {
        watched.tools_changed(&self.whose).then(|| list_changed(listen))
    }

    /// A client's stream for what a server says by itself.
    pub(crate) async fn listen(
        self: Arc<Self>,
        session: Arc<Session>,
        last: Option<header::HeaderValue>,
    ) -> Response<Reply> {
        let open = match self.open_other(&session.name, "GET", None, true).await {
            Ok(open) => open,
            Err(refused) => {
                let why = refused.reason.sentence();
                return answer::plain(StatusCode::TOO_MANY_REQUESTS, answer::REFUSED, why);
            }
        };
        let arrivals = match self.listen_to(&session, last).await {
            Ok(arrivals) => arrivals,
            Err(Failure::Status(404)) => {
                self.gate.sessions.remove(&session);
                return answer::plain(StatusCode::NOT_FOUND, message::code::INVALID_REQUEST, "Session not found");
            }
            Err(failure) => {
                tracing::warn!(server = %self.whose.server, %failure, detail = failure.detail(), "no stream of a server's");
                return answer::plain(StatusCode::BAD_GATEWAY, message::code::INTERNAL, &failure.to_string());
            }
        };
        let (sender, receiver) = mpsc::channel(MOST_UNREAD);
        tokio::spawn(async move {
            self.relay(session, arrivals, sender).await;
            drop(open);
        });
        reply::events(receiver)
    }

    /// What a server says by itself; `None` where there is nothing of it to be had now, and only the gateway speaks.
    async fn listen_to(
        &self,
        session: &Session,
        last: Option<header::HeaderValue>,
    ) -> Result<Option<Arrivals>, Failure> {
        match &session.link {
            _ if self.hears_nothing() => Ok(None),
            Link::Duplex(duplex) => Ok(Some(duplex.listen())),
            Link::Http => self.listen_http(session, last).await,
        }
    }

    /// Asks a server for its stream. One that has none is no error: the gateway still has things to say.
    async fn listen_http(
        &self,
        session: &Session,
        last: Option<header::HeaderValue>,
    ) -> Result<Option<Arrivals>, Failure> {
        let Some(http) = &self.server.http else { return Err(Failure::Unreachable(String::new())) };
        let mut headers: HeaderMap = self.passed.clone();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static("text/event-stream"));
        if let Some(name) = &session.upstream {
            headers.insert(SESSION, name.clone());
        }
        if let Some(last) = last {
            headers.insert("last-event-id", last);
        }
        let mut answer = http.send(Method::GET, http.target(), headers, Bytes::new()).await?;
        if answer.status == StatusCode::OK {
            return Ok(Some(Arrivals::events(answer, self.limit())));
        }
        let status = answer.status;
        answer.whole(1 << 16).await?;
        if status == StatusCode::METHOD_NOT_ALLOWED { Ok(None) } else { Err(Failure::Status(status.as_u16())) }
    }

    async fn relay(self: Arc<Self>, session: Arc<Session>, mut arrivals: Option<Arrivals>, out: mpsc::Sender<Bytes>) {
        let _open = session.stream();
        let mut watched = self.gate.watch();
        let mut hushed = self.hears_nothing();
        let mut alive = interval_at(Instant::now() + ALIVE, ALIVE);
        loop {
            if hushed {
                // The server learns that nobody listens; the client goes on listening to the gateway.
                arrivals = None;
            }
            let next = async {
                match &mut arrivals {
                    Some(arrivals) => arrivals.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                arrived = next => match arrived {
                    Ok(Some(arrived)) => {
                        let message = match arrived.message {
                            None => {
                                drop(out.send(event(arrived.id, arrived.retry, None)).await);
                                continue;
                            }
                            Some(message) => Box::pin(self.inward(&session, message)).await,
                        };
                        if let Some(message) = message {
                            drop(out.send(event(arrived.id, arrived.retry, Some(&message))).await);
                        }
                    }
                    Ok(None) => return,
                    Err(failure) => {
                        tracing::debug!(%failure, detail = failure.detail(), "a server's stream ended");
                        return;
                    }
                },
                () = out.closed() => return,
                () = watched.changed() => {
                    if let Some(note) = self.tools_changed(&watched, None) {
                        drop(out.send(event(None, None, Some(&note))).await);
                    }
                    if self.now().is_none() {
                        return;
                    }
                    let before = std::mem::replace(&mut hushed, self.hears_nothing());
                    if before && !hushed {
                        match self.listen_to(&session, None).await {
                            Ok(again) => arrivals = again,
                            // The client begins anew, and is told why it cannot.
                            Err(_) => return,
                        }
                    }
                }
                _ = alive.tick() => drop(out.try_send(Bytes::from_static(KEEP_ALIVE))),
            }
        }
    }
}
