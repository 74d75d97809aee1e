//! What becomes of messages for a server to which nothing may go: it does not even hear that there is somebody.

use hyper::{HeaderMap, Response, StatusCode};
use mcp::{
    decide::{Defined, Reason, Verdict, decide},
    era::Era,
    json::Json,
    list,
    message::{self, Message, Request},
};
use policy::{mcp::What, tool::ToolReason};

use super::{
    answer::{self, reply},
    call::{Arguments, Subject},
    context::Context,
    message::tool_of,
    reply::{self as replies, Reply},
};

impl Context {
    /// Why a server hears nothing at all of a job, if so. What is given of a server is judged message by message.
    pub(crate) fn shut(&self) -> Option<Reason> {
        if self.job.rules.observe {
            return None;
        }
        if !self.facts(Defined::None).in_force {
            return Some(Reason::NotInForce);
        }
        (!self.job.reaches(&self.whose.server)).then_some(Reason::Contract(ToolReason::ToolNotAllowed))
    }

    /// Whether a kill takes the server as a whole.
    fn is_silenced(&self) -> bool {
        let whole = |group: &str| matches!(group, "all" | "mode:tools-off") || group.starts_with("mcp:");
        let groups = self.job.other(&self.whose.server, What::Logging).groups;
        groups.iter().filter(|group| whole(group)).any(|group| {
            [&self.standing.rules.killed, &self.job.rules.killed].iter().any(|killed| killed.contains(&**group))
        })
    }

    /// Answers what would go to a server to which nothing may go. What is to be judged by itself is given back.
    pub(crate) async fn shut_out(&self, headers: &HeaderMap, message: Message) -> Result<Message, Response<Reply>> {
        let shut = self.shut();
        if shut.is_none() && !self.is_silenced() {
            return Ok(message);
        }
        let Message::Request(request) = &message else {
            // Nobody waits for an answer to these.
            return Err(replies::empty(StatusCode::ACCEPTED));
        };
        let result = |result| reply(StatusCode::OK, &message::result(request.id.clone(), result));
        match (&*request.method, shut) {
            ("ping", _) if self.era == Era::Legacy => Err(result(Json::object([]))),
            ("tools/list", _) => {
                let mut none = Json::object([("tools", Json::Array(Vec::new()))]);
                if self.era == Era::Modern {
                    list::private(&mut none);
                    none.set("resultType", "complete".into());
                }
                Err(result(none))
            }
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
