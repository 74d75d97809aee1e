//! What is made of a server's answer before its caller has it, and before that the record.

use std::sync::Arc;

use control::calls::Pin;
use mcp::{
    decide::{Defined, shown},
    era::Era,
    json::Json,
    list,
    message::{self, Id, Message, Outcome, Response},
};
use policy::mcp::What;

use super::{
    answer,
    ask::{CAPABILITIES, Kind, asked_back},
    call::Pending,
    context::Context,
    session::Session,
    task::{self, Task},
};

/// What became of a tool's answer.
struct Judged {
    message: Message,
    status: &'static str,
}

impl Context {
    /// Makes of a server's answer what its caller may have, and records how the call ended.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: &Id,
        mut pending: Pending,
        response: Response,
    ) -> Message {
        let is_tool = pending.kind == Kind::Tool;
        if pending.is_killed() {
            // It came after the kill: nobody gets it.
            return Box::pin(self.cut(session, id, is_tool, pending, super::carry::Cut::Killed)).await;
        }
        let judged = match response.outcome {
            Outcome::Error(error) => {
                Judged { message: Box::pin(self.error(id, &mut pending, error)).await, status: "error" }
            }
            Outcome::Result(result) => self.result(session, id, &mut pending, result).await,
        };
        if let Some(mut began) = pending.began {
            began.begun.bytes_out = judged.message.to_bytes().len() as u64;
            if let (true, Message::Response(Response { outcome: Outcome::Result(result), .. })) =
                (is_tool, &judged.message)
            {
                began.begun.result_hash = Some(claw::Hash::of(result.canonical().as_bytes()).to_string());
            }
            if let Err(why) = began.begun.end(judged.status).await {
                tracing::error!(%why, "an answer could not be recorded, and is withheld");
                return answer::unrecorded(id, is_tool, self.era);
            }
        }
        judged.message
    }

    /// A server's error: what it says is looked through like anything else that it says.
    async fn error(&self, id: &Id, pending: &mut Pending, mut error: message::Error) -> Message {
        if let Some(rules) = self.job.data() {
            let text = Json::String(std::mem::take(&mut error.message));
            let mut said = Json::Array(vec![text, error.data.take().unwrap_or_default()]);
            let found = self.gate.data.look(rules, self.job.rules.observe, &mut said).await;
            if let Some(began) = &mut pending.began {
                began.found(found.counts);
            }
            if found.denied.is_some() && !self.job.rules.observe {
                let text = "the server's error is withheld: it carries data that the contract denies";
                return message::error(Some(id.clone()), error.code, text, None);
            }
            if let Json::Array(mut parts) = said {
                error.data = parts.pop().filter(|data| !data.is_null());
                error.message = parts.pop().and_then(|text| text.as_str().map(Into::into)).unwrap_or_default();
            }
        }
        Message::Response(Response { id: Some(id.clone()), outcome: Outcome::Error(error) })
    }

    async fn result(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: &Id,
        pending: &mut Pending,
        mut result: Json,
    ) -> Judged {
        let name = &*self.whose.server;
        let mut status = "ok";
        if let Some(task) = task::ended(&result) {
            session.task_over(task);
        }
        // Whatever was asked for: a client may well answer wherever it finds this.
        if let Some(what) = self.unwanted_input(&result) {
            let text =
                format!("The server asks for {}, which the contract does not give. The call ends here.", what.member());
            return Judged { message: answer::denied_content(id, &pending.kind, &text, self.era), status: "blocked" };
        }
        match &pending.kind {
            Kind::Plain | Kind::Listen { .. } => {}
            Kind::Greeting => {
                if let Err(refused) = Box::pin(self.greeting(session, id, &mut result)).await {
                    return refused;
                }
            }
            Kind::Tools { first } => {
                if let Err(error) = Box::pin(self.tools(session, *first, &mut result)).await {
                    tracing::error!(%error, server = name, "a list of tools could not be compared with what was accepted");
                    let message = message::error(
                        Some(id.clone()),
                        message::code::INTERNAL,
                        "the list cannot be judged now",
                        None,
                    );
                    return Judged { message, status: "error" };
                }
            }
            Kind::List("resources") => list::resources(&mut result, |one| self.names(one, "uri", What::Resource)),
            Kind::List("resourceTemplates") => {
                list::templates(&mut result, |one| self.names(one, "uriTemplate", What::Resource));
            }
            Kind::List("prompts") => list::prompts(&mut result, |one| self.names(one, "name", What::Prompt)),
            Kind::List(_) => list::tasks(&mut result, |one| {
                let task = one.get("taskId").and_then(Json::as_str);
                task.is_some_and(|task| session.call_of(task).is_some())
            }),
            Kind::Content | Kind::Tool => {
                // A task asks for input in what is said of it, whatever else that is.
                let asks = result.get("resultType").and_then(Json::as_str) == Some("input_required");
                if asks || result.get("inputRequests").is_some() {
                    status = "input_required";
                } else if result.get("isError").and_then(Json::as_bool) == Some(true) {
                    status = "tool_error";
                }
                if let Some(rules) = self.job.data() {
                    let found = self.gate.data.look(rules, self.job.rules.observe, &mut result).await;
                    if let Some(began) = &mut pending.began {
                        began.found(found.counts);
                    }
                    if let Some(class) = found.denied.filter(|_| !self.job.rules.observe) {
                        let text = format!(
                            "The call was made, but its result is withheld: it carries {class}, which the contract denies."
                        );
                        return Judged {
                            message: answer::denied_content(id, &pending.kind, &text, self.era),
                            status: "blocked",
                        };
                    }
                }
                // The newer era has the task's members among the result's own.
                let made = result.get("resultType").and_then(Json::as_str) == Some("task");
                let newer = result.get("taskId").filter(|_| made && self.era == Era::Modern);
                let task = newer.or_else(|| result.at(&["task", "taskId"])).and_then(Json::as_str);
                if let (Some(task), Some(began)) = (task, &pending.began) {
                    session.task(task, Task::new(&began.held.call, self.era, &self.passed));
                }
            }
        }
        if self.era == Era::Modern && matches!(pending.kind, Kind::Tools { .. } | Kind::List(_) | Kind::Greeting) {
            list::private(&mut result);
        }
        Judged { message: message::result(id.clone(), result), status }
    }

    fn names<'a>(&self, one: &'a Json, member: &str, what: impl FnOnce(&'a str) -> What<'a>) -> bool {
        one.get(member).and_then(Json::as_str).is_some_and(|name| self.gives(what(name)))
    }

    /// Takes who the server is, and hides what the contract does not give of it.
    async fn greeting(&self, session: &Session, id: &Id, result: &mut Json) -> Result<(), Judged> {
        let pins = self.server.rules.pins;
        let pin = session.catalog.identify(&self.whose.server, pins, result, &self.gate.daemon).await;
        let pin = pin.map_err(|error| {
            tracing::error!(%error, "a server's identity could not be compared with the one that was accepted");
            let text = "the server's identity cannot be judged now";
            Judged { message: message::error(Some(id.clone()), message::code::INTERNAL, text, None), status: "error" }
        })?;
        if pin != Pin::Accepted {
            // It greets, but tells the model nothing.
            drop(result.remove("instructions"));
        }
        for (capability, what) in CAPABILITIES {
            if !self.may_ever(what) {
                list::strip(result, capability);
            }
        }
        if self.era == Era::Legacy {
            list::tells_changes(result);
        }
        Ok(())
    }

    /// Whether the contract gives anything of a kind.
    pub(crate) fn may_ever(&self, what: What<'_>) -> bool {
        self.job.rules.observe
            || matches!(self.job.other(&self.whose.server, what).verdict, policy::tool::ToolVerdict::Allow)
    }

    /// Leaves of a list of tools what may be called.
    async fn tools(&self, session: &Session, first: bool, result: &mut Json) -> std::io::Result<()> {
        let name = &*self.whose.server;
        let pins = self.server.rules.pins;
        let last = result.get("nextCursor").is_none_or(Json::is_null);
        let tools = result.get("tools").and_then(Json::as_array).unwrap_or_default();
        let defined = session.catalog.page(name, pins, (first, last), tools, &self.gate.daemon).await?;
        let Some((standing, job)) = self.now() else {
            list::tools(result, |_| false);
            return Ok(());
        };
        list::tools(result, |tool| {
            let Some(tool) = mcp::definition::name(tool) else { return false };
            let defined = defined.get(tool).copied().unwrap_or(Defined::Unseen);
            shown(&job.tool(name, tool), &standing.facts(&job, defined))
        });
        Ok(())
    }

    /// What a server asks back for that the contract does not give, of the era in which that comes as an answer.
    fn unwanted_input(&self, result: &Json) -> Option<What<'static>> {
        let asked = result.get("inputRequests").filter(|asked| !asked.is_null())?;
        let Some(requests) = asked.as_object() else { return Some(What::ElicitationUrl) };
        requests.iter().find_map(|(_, request)| {
            let method = request.get("method").and_then(Json::as_str).unwrap_or_default();
            match asked_back(method, request.get("params")) {
                Some(what) if self.gives(what) => None,
                Some(What::Sampling) => Some(What::Sampling),
                Some(What::Roots) => Some(What::Roots),
                Some(What::Elicitation) => Some(What::Elicitation),
                _ => Some(What::ElicitationUrl),
            }
        })
    }
}
