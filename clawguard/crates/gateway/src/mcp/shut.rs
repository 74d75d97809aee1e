//! What becomes of messages for a server to which nothing may go: it does not even hear that there is somebody. What is open to it when
//! that begins, ends.

use std::sync::Arc;

use hyper::{HeaderMap, Response, StatusCode};
use mcp::{
    decide::{Defined, Limit, Reason, Verdict, decide},
    era::Era,
    json::Json,
    list,
    message::{self, Message, Request},
};
use policy::{mcp::What, tool::ToolReason};
use tokio::sync::watch;

use super::{
    answer::{self, reply},
    call::{Arguments, Refused, Subject},
    context::Context,
    limits::Place,
    message::tool_of,
    reply::{self as replies, Reply},
    session::Whose,
    standing::{Job, Standing},
};

/// What is open to a server and is no call: it has a place among such requests, and ends when nothing may go to the server any more.
pub(crate) struct Open {
    in_force: watch::Receiver<Arc<Standing>>,
    whose: Whose,
    _place: Place,
}

/// Why a server hears nothing at all of a job, if so. What is given of a server is judged message by message.
fn shut(standing: &Standing, job: &Job, server: &str) -> Option<Reason> {
    if job.rules.observe {
        return None;
    }
    if !standing.facts(job, Defined::None).in_force {
        return Some(Reason::NotInForce);
    }
    (!job.reaches(server)).then_some(Reason::Contract(ToolReason::ToolNotAllowed))
}

/// Whether a kill takes a server as a whole.
fn is_silenced(standing: &Standing, job: &Job, server: &str) -> bool {
    if standing.rules.killed.is_empty() && job.rules.killed.is_empty() {
        return false;
    }
    let whole = |group: &str| matches!(group, "all" | "mode:tools-off") || group.starts_with("mcp:");
    let groups = job.other(server, What::Logging).groups;
    groups
        .iter()
        .filter(|group| whole(group))
        .any(|group| [&standing.rules.killed, &job.rules.killed].iter().any(|killed| killed.contains(&**group)))
}

/// Whether nothing of a job's goes to a server.
fn hears_nothing(standing: &Standing, whose: &Whose) -> bool {
    standing
        .job(whose.slot, whose.key)
        .is_none_or(|job| shut(standing, job, &whose.server).is_some() || is_silenced(standing, job, &whose.server))
}

/// The tools of a server to which nothing may go.
pub(crate) fn no_tools(era: Era) -> Json {
    let mut none = Json::object([("tools", Json::Array(Vec::new()))]);
    if era == Era::Modern {
        list::private(&mut none);
        none.set("resultType", "complete".into());
    }
    none
}

impl Open {
    /// Waits until nothing may go to the server any more.
    pub(crate) async fn shut(&self) {
        // The gateway ends with the other side.
        let _ = self.in_force.clone().wait_for(|standing| hears_nothing(standing, &self.whose)).await;
    }

    /// Whether nothing may.
    pub(crate) fn is_shut(&self) -> bool {
        hears_nothing(&self.in_force.borrow(), &self.whose)
    }
}

impl Context {
    /// Whether the server hears nothing of this job by now.
    pub(crate) fn hears_nothing(&self) -> bool {
        hears_nothing(&self.gate.standing(), &self.whose)
    }

    /// Opens something to the server that is no call, if there is room for it and it carries nothing that the contract denies.
    pub(crate) async fn open_other(
        &self,
        session: &str,
        method: &str,
        params: Option<&mut Json>,
        stays: bool,
    ) -> Result<Open, Refused> {
        let (key, limits) = (self.job.rules.key, &self.standing.rules.limits);
        let place = if stays { self.gate.limits.stream(key, limits) } else { self.gate.limits.other(key, limits) };
        let (reason, limited) = match place {
            Ok(place) => {
                let carries = match (self.job.data(), params) {
                    (Some(rules), Some(params)) => {
                        self.gate.data.look(rules, self.job.rules.observe, params).await.denied.is_some()
                    }
                    _ => false,
                };
                if !carries || self.job.rules.observe {
                    return Ok(Open { in_force: self.gate.in_force(), whose: self.whose.clone(), _place: place });
                }
                (Reason::Data, false)
            }
            Err(Limit::Rate) => (Reason::Rate, true),
            Err(Limit::Concurrency) => (Reason::Concurrency, true),
        };
        let judged = Arc::new(self.job.other(&self.whose.server, What::Logging));
        let arguments = Arguments::default();
        let subject = Subject { method, target: "", judged: &judged, definition: None, arguments, limited };
        Err(self.refuse(session, &subject, reason, None).await)
    }

    /// Answers what would go to a server to which nothing may go. What is to be judged by itself is given back.
    pub(crate) async fn shut_out(&self, headers: &HeaderMap, message: Message) -> Result<Message, Response<Reply>> {
        let (standing, job, server) = (&self.standing, &self.job, &*self.whose.server);
        let shut = shut(standing, job, server);
        if shut.is_none() && !is_silenced(standing, job, server) {
            return Ok(message);
        }
        let Message::Request(request) = &message else {
            // Nobody waits for an answer to these.
            return Err(replies::empty(StatusCode::ACCEPTED));
        };
        let result = |result| reply(StatusCode::OK, &message::result(request.id.clone(), result));
        match (&*request.method, shut) {
            ("ping", _) if self.era == Era::Legacy => Err(result(Json::object([]))),
            ("tools/list", _) => Err(result(no_tools(self.era))),
            ("subscriptions/listen", None) => Err(self.turned_away(headers, request, Reason::Killed).await),
            // A client that greets while its server is killed is told when it is given back.
            (_, None) => Ok(message),
            (_, Some(reason)) => Err(self.turned_away(headers, request, reason).await),
        }
    }

    /// Refuses a request, with its record.
    async fn turned_away(&self, headers: &HeaderMap, request: &Request, reason: Reason) -> Response<Reply> {
        let server = &*self.whose.server;
        let tool = tool_of(request).filter(|_| &*request.method == "tools/call");
        let target = tool.as_deref().unwrap_or_default();
        let judged = match &tool {
            Some(tool) => self.job.tool(server, tool),
            None => self.job.other(server, What::Logging).into(),
        };
        let reason = match decide(&judged, &self.facts(Defined::None)) {
            Verdict::Deny(reason) => reason,
            _ => reason,
        };
        let arguments = Arguments::of(request.params.as_ref().and_then(|params| params.get("arguments")));
        let limited = self.gate.limits.call(self.job.rules.key, &self.standing.rules.limits).is_err();
        let subject =
            Subject { method: &request.method, target, judged: &judged, definition: None, arguments, limited };
        let session = self.named_session(headers);
        let session = session.as_ref().map_or("", |session| &*session.name);
        let refused = self.refuse(session, &subject, reason, None).await;
        let message = match &tool {
            Some(tool) => answer::tool_refused(&request.id, tool, refused.reason, None, self.era),
            None => answer::refused(&request.id, &request.method, target, refused.reason),
        };
        reply(StatusCode::OK, &message)
    }
}
