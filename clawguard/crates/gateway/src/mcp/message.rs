//! What a client sends, message by message.

use std::sync::Arc;

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{HeaderName, HeaderValue},
};
use mcp::{
    decide::{Defined, Verdict, decide},
    era::{self, Era},
    header::{self, Headers},
    json::Json,
    message::{self, Id, Message, Notification, Outcome, Request, code},
};
use policy::mcp::What;
use tokio::time::{Duration, Instant};

use super::{
    answer::{self, plain, reply},
    ask::{Asks, CLIENT_CAPABILITIES, Kind, asks, told},
    call::{Arguments, Pending, Refused, Subject},
    carry::{GoesOn, Opened},
    context::Context,
    gate::no_session,
    reply::{self as replies, Reply, SESSION},
    session::{Link, Session, Sessions},
    upstream::{Duplex, Failure},
};

/// What a call of a tool may have beside its name.
const OF_CALLS: [&str; 6] = ["name", "arguments", "_meta", "task", "inputResponses", "requestState"];
/// Pages of a list that the gateway asks for by itself.
const MOST_PAGES: usize = 64;
/// How long a server that could not be reached is left alone, where every request would begin anew.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a stream of notifications may stay open.
const LISTENING: Duration = Duration::from_secs(24 * 3600);

impl Context {
    /// Judges a message and does what it is for.
    pub(crate) async fn message(mut self, headers: &HeaderMap, message: Message) -> Response<Reply> {
        let said = Headers::read(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        let checked = said.and_then(|said| Ok((era::check(&said, &message)?, said)));
        let said = match checked {
            Ok((era, said)) => {
                self.era = era;
                said
            }
            Err(flaw) => {
                let status = StatusCode::from_u16(flaw.status()).unwrap_or(StatusCode::BAD_REQUEST);
                return reply(status, &flaw.answer(message.id().cloned()));
            }
        };
        let message = match self.shut_out(headers, message).await {
            Ok(message) => message,
            Err(answered) => return answered,
        };
        match message {
            Message::Request(request) if self.era == Era::Legacy && &*request.method == "initialize" => {
                Box::pin(Arc::new(self).initialize(request)).await
            }
            Message::Request(request) => {
                let session = match self.session(headers).await {
                    Ok(session) => session,
                    Err(refused) => return refused.unwrap_or_else(|failure| self.unreachable(&request, &failure)),
                };
                Arc::new(self).request(session, request, &said).await
            }
            Message::Notification(told) => {
                let session = match self.session(headers).await {
                    Ok(session) => session,
                    Err(Ok(refused)) => return refused,
                    Err(Err(failure)) => return plain(StatusCode::BAD_GATEWAY, code::INTERNAL, &failure.to_string()),
                };
                Box::pin(self.notification(&session, told)).await
            }
            Message::Response(response) => {
                let Some(session) = self.named_session(headers) else { return no_session(headers) };
                if !response.id.as_ref().is_some_and(|id| session.answers(id)) {
                    return plain(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, "nobody asked this");
                }
                Box::pin(self.response(&session, response)).await
            }
        }
    }

    /// The session that a request names, if it is this job's and with this server.
    pub(crate) fn named_session(&self, headers: &HeaderMap) -> Option<Arc<Session>> {
        let name = headers.get(SESSION)?.to_str().ok()?;
        self.gate.sessions.find(name, &self.whose)
    }

    /// The session that a request belongs to.
    async fn session(&self, headers: &HeaderMap) -> Result<Arc<Session>, Result<Response<Reply>, Failure>> {
        if self.era == Era::Legacy {
            return self.named_session(headers).ok_or_else(|| Ok(no_session(headers)));
        }
        if let Some(session) = self.gate.sessions.shared(&self.whose) {
            return Ok(session);
        }
        // One after the other: each might start a process, and the first one's serves them all.
        let opening = self.gate.sessions.opening(&self.whose);
        let mut failed = opening.lock().await;
        if let Some(session) = self.gate.sessions.shared(&self.whose) {
            return Ok(session);
        }
        if let Some((_, failure)) = failed.as_ref().filter(|(at, _)| at.elapsed() < AGAIN) {
            return Err(Err(failure.clone()));
        }
        let (link, process) = Box::pin(self.link()).await.map_err(|failure| {
            *failed = Some((Instant::now(), failure.clone()));
            Err(failure)
        })?;
        let session = Session::new("".into(), self.whose.clone(), link, None, process, None);
        Ok(self.gate.sessions.share(Arc::new(session)))
    }

    /// Makes a way to the server.
    async fn link(&self) -> Result<(Link, Option<(String, Arc<crate::channel::Channel>)>), Failure> {
        let limit = self.limit();
        match &self.server.http {
            Some(http) if self.server.is_sse() => Ok((Link::Duplex(Duplex::over_events(http, limit).await?), None)),
            Some(_) => Ok((Link::Http, None)),
            None if self.server.broken.is_some() => {
                Err(Failure::Unreachable(self.server.broken.clone().unwrap_or_default()))
            }
            None => {
                // Nothing is started for what would be refused anyway.
                let killed = [&self.standing.rules.killed, &self.job.rules.killed];
                let whole = self.job.other(&self.whose.server, What::Logging);
                if whole.killed(killed).is_some_and(|group| !group.starts_with("class:")) {
                    return Err(Failure::NotStarted("an operator has switched it off".into()));
                }
                let daemon = Arc::clone(&self.gate.daemon);
                let spawned = daemon.spawn(self.whose.slot, self.whose.key, &self.whose.server).await;
                let (id, input, output) =
                    spawned.map_err(|error| Failure::NotStarted(error.to_string()))?.map_err(Failure::NotStarted)?;
                let duplex =
                    Duplex::over_pipes(input, output, limit).map_err(|error| Failure::NotStarted(error.to_string()))?;
                Ok((Link::Duplex(duplex), Some((id, daemon))))
            }
        }
    }

    fn unreachable(&self, request: &Request, failure: &Failure) -> Response<Reply> {
        tracing::warn!(server = %self.whose.server, %failure, detail = failure.detail(), "no way to a server");
        let is_tool = &*request.method == "tools/call";
        reply(StatusCode::OK, &answer::failed(&request.id, is_tool, failure, self.era))
    }

    /// Begins a session.
    async fn initialize(self: Arc<Self>, mut request: Request) -> Response<Reply> {
        let limits = &self.standing.rules.limits;
        let Some(place) = self.gate.limits.session(self.whose.key, limits) else {
            let text = "this job has too many sessions; end one first";
            return reply(StatusCode::OK, &message::error(Some(request.id), answer::REFUSED, text, None));
        };
        let Ok(name) = Sessions::name() else {
            let text = "no name for a session could be had";
            return reply(StatusCode::OK, &message::error(Some(request.id), code::INTERNAL, text, None));
        };
        // A killed server is greeted, and its client told when it is given back: that ends nothing here.
        let _open = match self.open_other("", "initialize", request.params.as_mut(), false).await {
            Ok(open) => open,
            Err(refused) => {
                return reply(StatusCode::OK, &answer::refused(&request.id, "initialize", "", refused.reason));
            }
        };
        // What the contract does not give the server it is not told of either.
        if let Some(capabilities) = request.params.as_mut().and_then(|params| params.get_mut("capabilities")) {
            self.strip_client(capabilities);
        }
        let link = match self.link().await {
            Ok(link) => link,
            Err(failure) => return self.unreachable(&request, &failure),
        };
        let id = request.id.clone();
        let pending = Pending { kind: Kind::Greeting, began: None, open: None, until: self.patience() };
        let message = Message::Request(request);
        // Until the server has named its session there is only the way to it.
        let early = Session::new("".into(), self.whose.clone(), link.0, None, link.1, Some(place));
        let opened = match super::carry::until(&pending, self.open(&early, &message, &self.passed)).await {
            Ok(opened) => opened,
            Err(cut) => {
                let early = Arc::new(early);
                return reply(StatusCode::OK, &self.cut(&early, &id, false, pending, cut).await);
            }
        };
        let Opened { status, mut arrivals, session: upstream, asked } = opened;
        let session = Arc::new(early.named(name, upstream));
        let settled = loop {
            match super::carry::until(&pending, arrivals.next()).await {
                Ok(Some(arrived)) => match arrived.message {
                    Some(Message::Response(response)) if response.id.as_ref() == Some(&id) || response.id.is_none() => {
                        let good = matches!(response.outcome, Outcome::Result(_));
                        let settled = self.settle(&session, &id, pending, response).await;
                        if good && is_result(&settled) {
                            self.gate.sessions.add(&session);
                        }
                        break settled;
                    }
                    _ => {}
                },
                Ok(None) => {
                    let cut = super::carry::Cut::Failed(Failure::Broken("it ended without an answer".into()));
                    break self.cut(&session, &id, false, pending, cut).await;
                }
                Err(cut) => break self.cut(&session, &id, false, pending, cut).await,
            }
        };
        drop(asked);
        let mut response = reply(status, &settled);
        if is_result(&settled)
            && let Ok(name) = session.name.parse()
        {
            response.headers_mut().insert(SESSION, name);
        }
        response
    }

    fn strip_client(&self, capabilities: &mut Json) {
        for (capability, what) in CLIENT_CAPABILITIES {
            if !self.may_ever(what) {
                drop(capabilities.remove(capability));
            }
        }
    }

    /// Until when a request has to be answered.
    fn patience(&self) -> Instant {
        Instant::now() + Duration::from_secs(u64::from(self.standing.rules.limits.call_seconds))
    }

    /// Judges a request and passes it on.
    async fn request(
        mut self: Arc<Self>,
        session: Arc<Session>,
        mut request: Request,
        said: &Headers<'_>,
    ) -> Response<Reply> {
        Arc::make_mut(&mut self).refresh();
        if self.era == Era::Modern
            && let Some(params) = &mut request.params
            && let Some(meta) = params.get_mut("_meta")
            && let Some(capabilities) = meta.get_mut(era::CLIENT_CAPABILITIES)
        {
            self.strip_client(capabilities);
        }
        let (first, kind) = asks(&request.method, request.params.as_ref(), self.era);
        let stays = matches!(kind, Kind::Listen { .. });
        let mut open = None;
        if let Asks::Free | Asks::Others(_, false) = first {
            let method = request.method.clone();
            match self.open_other(&session.name, &method, request.params.as_mut(), stays).await {
                Ok(opened) => open = Some(opened),
                Err(refused) => {
                    return reply(StatusCode::OK, &answer::refused(&request.id, &method, "", refused.reason));
                }
            }
        }
        // Once more: what was redacted is judged by what it is now.
        let (asks, kind) = asks(&request.method, request.params.as_ref(), self.era);
        let until = if stays { Instant::now() + LISTENING } else { self.patience() };
        let began = match asks {
            Asks::Free if self.era == Era::Modern && matches!(kind, Kind::Tools { .. }) => {
                // In this era a client may begin with the list; how its tools stand depends on whose they are.
                if let Err(failure) = Box::pin(self.meet(&session)).await {
                    tracing::warn!(server = %self.whose.server, %failure, detail = failure.detail(), "it is not known who a server is");
                }
                None
            }
            Asks::Free => None,
            Asks::Unknown => {
                let status = if self.era == Era::Modern { StatusCode::NOT_FOUND } else { StatusCode::OK };
                let text = format!("Method not found: {}", request.method);
                return reply(status, &message::error(Some(request.id), code::METHOD_NOT_FOUND, &text, None));
            }
            Asks::Others(whats, recorded) => {
                let target = target(&request);
                let mut judged = whats.iter().map(|what| self.job.other(&self.whose.server, *what));
                let denied = |judged: &mcp::decide::Judged| {
                    !matches!(decide(judged, &self.facts(Defined::None)), Verdict::Allow | Verdict::Observe(_))
                };
                // The one that denies, if one does.
                let first = judged.clone().find(denied).or_else(|| judged.next());
                match first {
                    None => None,
                    Some(mut judged) if recorded || denied(&judged) => {
                        // What was killed does not come out by a task that it left behind.
                        let task = self.task_of(&session, &request);
                        judged.groups.extend(task.iter().flat_map(|task| task.groups.iter().cloned()));
                        match Box::pin(self.begin_other(&session, &mut request, &target, judged)).await {
                            Ok(began) => Some(began),
                            Err(refused) => {
                                let answer = answer::refused(&request.id, &request.method, &target, refused.reason);
                                return reply(StatusCode::OK, &answer);
                            }
                        }
                    }
                    Some(_) => None,
                }
            }
            Asks::Tool => {
                let Some(tool) = tool_of(&request) else {
                    let text = "params.name is missing";
                    return reply(StatusCode::OK, &message::error(Some(request.id), code::INVALID_PARAMS, text, None));
                };
                match self.tool(&session, &mut request, &tool, said).await {
                    Ok(Ok(began)) => Some(began),
                    Ok(Err(flaw)) => return reply(StatusCode::BAD_REQUEST, &flaw.answer(Some(request.id))),
                    Err(refused) => {
                        let note = refused.note.as_deref();
                        let answer = answer::tool_refused(&request.id, &tool, refused.reason, note, self.era);
                        return reply(StatusCode::OK, &answer);
                    }
                }
            }
        };
        if request.method.starts_with("tasks/")
            && &*request.method != "tasks/list"
            && !self.knows_task(&session, &request)
        {
            if self.era == Era::Modern && !answer::knows_of_tasks(request.params.as_ref()) {
                return reply(StatusCode::BAD_REQUEST, &answer::without_tasks(&request.id));
            }
            let text = "no such task";
            return reply(StatusCode::OK, &message::error(Some(request.id), code::INVALID_PARAMS, text, None));
        }
        if self.era == Era::Modern {
            let tool = tool_of(&request).map(|tool| session.catalog.params(&tool)).unwrap_or_default();
            let passed = headers(&header::mirrored(&request.method, request.params.as_ref(), &tool));
            let Some(passed) = passed else {
                let text = "the request cannot be said in headers";
                return reply(
                    StatusCode::BAD_REQUEST,
                    &message::error(Some(request.id), code::INVALID_REQUEST, text, None),
                );
            };
            Arc::make_mut(&mut self).passed = passed;
        }
        let pending = Pending { kind, began, open, until };
        // In this era a client that hangs up has not cancelled its call.
        let goes_on = self.era == Era::Legacy && pending.kind == Kind::Tool;
        let carried = Box::pin(self.carry(session, request, pending));
        if goes_on { GoesOn::new(carried).await } else { carried.await }
    }

    async fn tool(
        self: &mut Arc<Self>,
        session: &Arc<Session>,
        request: &mut Request,
        tool: &str,
        said: &Headers<'_>,
    ) -> Result<Result<super::call::Began, era::Flaw>, Refused> {
        let pins = self.server.rules.pins;
        let defined = match session.catalog.defined(tool, pins) {
            Some(defined) => defined,
            // Nobody is asked about a tool that the contract denies anyway.
            None if self.denied(tool) => (Defined::Accepted, None),
            None => {
                if let Err(failure) = Box::pin(self.list(session)).await {
                    tracing::warn!(server = %self.whose.server, %failure, detail = failure.detail(), "a server's tools are not known");
                }
                Arc::make_mut(self).refresh();
                session.catalog.defined(tool, self.server.rules.pins).unwrap_or((Defined::New, None))
            }
        };
        if let Some(params) = request.params.as_mut().and_then(Json::as_object_mut) {
            // What nobody judges or shows to a person is not passed on.
            params.retain(|(name, _)| OF_CALLS.contains(&&**name) && (&**name != "task" || self.gives(What::Tasks)));
        }
        let repeated = session.catalog.params(tool);
        if self.era == Era::Modern
            && let Err(flaw) =
                said.say_params(&repeated, request.params.as_ref().and_then(|params| params.get("arguments")))
        {
            return Ok(Err(flaw));
        }
        self.begin_tool(session, request, tool, defined).await.map(Ok)
    }

    fn denied(&self, tool: &str) -> bool {
        let judged = self.job.tool(&self.whose.server, tool);
        matches!(decide(&judged, &self.facts(Defined::Accepted)), Verdict::Deny(_))
    }

    /// The call of which a task came that is asked for.
    fn task_of(&self, session: &Session, request: &Request) -> Option<Arc<mcp::decide::Judged>> {
        let asked = request.method.starts_with("tasks/").then_some(request.params.as_ref())??;
        session.call_of(asked.get("taskId")?.as_str()?)
    }

    fn knows_task(&self, session: &Session, request: &Request) -> bool {
        let Some((standing, _)) = self.now() else { return false };
        self.task_of(session, request).is_some_and(|judged| {
            // What is killed is not awaited either; it may be cancelled.
            &*request.method == "tasks/cancel"
                || judged.killed([&standing.rules.killed, &self.job.rules.killed]).is_none()
        })
    }

    /// Asks a server for who it is, in the gateway's own name, unless that is known.
    async fn meet(self: &Arc<Self>, session: &Arc<Session>) -> Result<(), Failure> {
        let server = &*self.whose.server;
        let pins = self.server.rules.pins;
        let daemon = &self.gate.daemon;
        let unsaid = |error: std::io::Error| Failure::Broken(error.to_string());
        if session.catalog.identity(pins).is_none() {
            let known = session.catalog.identify_again(server, pins, daemon).await.map_err(unsaid)?;
            if known.is_none() {
                let result = self.own(session, "server/discover", None).await?;
                session.catalog.identify(server, pins, &result, daemon).await.map_err(unsaid)?;
            }
        }
        Ok(())
    }

    /// Asks a server for who it is and what tools it has, in the gateway's own name.
    async fn list(self: &Arc<Self>, session: &Arc<Session>) -> Result<(), Failure> {
        self.meet(session).await?;
        let server = &*self.whose.server;
        let pins = self.server.rules.pins;
        let daemon = &self.gate.daemon;
        let unsaid = |error: std::io::Error| Failure::Broken(error.to_string());
        let mut cursor = None;
        for page in 0..MOST_PAGES {
            let params = cursor.take().map(|cursor| Json::object([("cursor", cursor)]));
            let mut result = self.own(session, "tools/list", params).await?;
            let next = result.remove("nextCursor").filter(|next| !next.is_null());
            let tools = result.get("tools").and_then(Json::as_array).unwrap_or_default();
            let place = (page == 0, next.is_none());
            drop(session.catalog.page(server, pins, place, tools, daemon).await.map_err(unsaid)?);
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
        Err(Failure::TooLong(MOST_PAGES))
    }

    /// Makes a request of the gateway's own.
    async fn own(
        self: &Arc<Self>,
        session: &Arc<Session>,
        method: &str,
        params: Option<Json>,
    ) -> Result<Json, Failure> {
        let id = Id::String(format!("clawguard-{}", self.gate.recorder.number()).into());
        let mut passed = Some(self.passed.clone());
        let mut params = params;
        if self.era == Era::Modern {
            let with = params.get_or_insert_with(|| Json::object([]));
            with.set("_meta", era::own_meta());
            passed = headers(&header::mirrored(method, params.as_ref(), &[]));
        }
        let passed = passed.unwrap_or_default();
        let request = message::request(id.clone(), method, params);
        let pending = Pending { kind: Kind::Plain, began: None, open: None, until: self.patience() };
        let answered = async {
            let mut opened = self.open(session, &request, &passed).await?;
            loop {
                let Some(arrived) = opened.arrivals.next().await? else {
                    return Err(Failure::Broken("it ended without an answer".into()));
                };
                match arrived.message {
                    Some(Message::Response(response)) if response.id.as_ref() == Some(&id) => match response.outcome {
                        Outcome::Result(result) => return Ok(result),
                        Outcome::Error(error) => return Err(Failure::Garbage(error.message.into())),
                    },
                    _ => {}
                }
            }
        };
        match super::carry::until(&pending, answered).await {
            Ok(result) => Ok(result),
            Err(super::carry::Cut::Failed(failure)) => Err(failure),
            Err(super::carry::Cut::Killed) => Err(Failure::Late),
        }
    }

    async fn notification(self, session: &Arc<Session>, mut told_: Notification) -> Response<Reply> {
        let passes = match told(&told_.method, self.era) {
            Some(None) => true,
            Some(Some(what)) => self.gives(what),
            None => false,
        };
        if !passes {
            tracing::debug!(method = %told_.method, "a client told what no contract knows of");
            return replies::empty(StatusCode::ACCEPTED);
        }
        if let (Some(rules), Some(params)) = (self.job.data(), &mut told_.params) {
            let found = self.gate.data.look(rules, self.job.rules.observe, params).await;
            if found.denied.is_some() && !self.job.rules.observe {
                return replies::empty(StatusCode::ACCEPTED);
            }
        }
        match self.tell(session, &Message::Notification(told_)).await {
            Ok(()) => replies::empty(StatusCode::ACCEPTED),
            Err(Failure::Status(404)) if self.era == Era::Legacy => {
                self.gate.sessions.remove(session);
                plain(StatusCode::NOT_FOUND, code::INVALID_REQUEST, "Session not found")
            }
            Err(failure) => plain(StatusCode::BAD_GATEWAY, code::INTERNAL, &failure.to_string()),
        }
    }

    async fn response(self, session: &Arc<Session>, mut response: message::Response) -> Response<Reply> {
        if let (Some(rules), Outcome::Result(result)) = (self.job.data(), &mut response.outcome) {
            let found = self.gate.data.look(rules, self.job.rules.observe, result).await;
            if found.denied.is_some() && !self.job.rules.observe {
                let text = "the client's answer carries data that the contract denies";
                let refusal = message::Error { code: answer::REFUSED, message: text.into(), data: None };
                response.outcome = Outcome::Error(refusal);
            }
        }
        match self.tell(session, &Message::Response(response)).await {
            Ok(()) => replies::empty(StatusCode::ACCEPTED),
            Err(failure) => plain(StatusCode::BAD_GATEWAY, code::INTERNAL, &failure.to_string()),
        }
    }

    /// Ends a session, here and at the server.
    pub(crate) async fn end(self, session: &Arc<Session>) -> Response<Reply> {
        self.gate.sessions.remove(session);
        if let (Link::Http, Some(http), Some(name)) = (&session.link, &self.server.http, &session.upstream) {
            let headers = super::carry::headers(Some(name), &self.passed);
            match http.send(hyper::Method::DELETE, http.target(), headers, bytes::Bytes::new()).await {
                Ok(mut answer) => drop(answer.whole(1 << 16).await),
                Err(failure) => tracing::debug!(%failure, "a server was not told that a session ends"),
            }
        }
        replies::empty(StatusCode::OK)
    }

    /// Records that something came which is no message.
    pub(crate) async fn malformed(&self, why: &str) {
        let judged = Arc::new(self.job.other(&self.whose.server, What::Logging));
        let subject = Subject {
            method: "",
            target: why,
            judged: &judged,
            definition: None,
            arguments: Arguments::default(),
            limited: true,
        };
        let call = self.record("", &subject, control::calls::Decision::Denied, "malformed", None);
        if self.gate.limits.refused(&call, &self.standing.rules.limits) {
            // Nothing was granted that would have to be taken back.
            drop(self.gate.recorder.refused(call).await);
        }
    }
}

fn is_result(message: &Message) -> bool {
    matches!(message, Message::Response(message::Response { outcome: Outcome::Result(_), .. }))
}

pub(crate) fn tool_of(request: &Request) -> Option<String> {
    Some(request.params.as_ref()?.get("name")?.as_str()?.to_owned())
}

/// What a request is about, for the record and the refusal.
pub(crate) fn target(request: &Request) -> String {
    let of = |name: &str| request.params.as_ref().and_then(|params| params.get(name)).and_then(Json::as_str);
    let about = request.params.as_ref().and_then(|params| params.get("ref"));
    let about = about.and_then(|about| about.get("name").or_else(|| about.get("uri"))).and_then(Json::as_str);
    of("uri").or_else(|| of("name")).or(about).or_else(|| of("taskId")).unwrap_or_default().to_owned()
}

/// The headers that repeat a request's body; `None` where they cannot.
pub(crate) fn headers(texts: &[(String, String)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in texts {
        headers.insert(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?);
    }
    Some(headers)
}
