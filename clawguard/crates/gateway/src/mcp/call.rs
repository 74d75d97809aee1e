//! A call: judged, held for a person where that is needed, begun; and what is made of its answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use control::{
    calls::{self, Held as Question, Standing as Approved},
    channel::{Ask, Told},
};
use mcp::{
    decide::{Approval, Defined, Facts, Judged, Reason, Verdict, decide},
    json::Json,
    message::Request,
};
use tokio::time::{Instant, timeout};

use super::{
    ask::Kind,
    context::Context,
    data,
    limits::Place,
    record::{Begun, Unrecorded},
    running::{Called, Held},
    session::Session,
    shut::Open,
    standing::Standing,
};

/// Bytes of arguments that a record has.
const LONGEST_RECORDED: usize = 64 << 10;

/// What a client gives a server that asked for more, beside the arguments.
const MORE: [&str; 2] = ["inputResponses", "requestState"];

/// A request that was passed on and is not answered yet.
pub(crate) struct Pending {
    pub(crate) kind: Kind,
    pub(crate) began: Option<Began>,
    /// What it has instead where it is no call.
    pub(crate) open: Option<Open>,
    /// Until when it has to be answered.
    pub(crate) until: Instant,
}

/// A call that stands in the audit chain, or will.
pub(crate) struct Began {
    pub(crate) begun: Begun,
    pub(crate) held: Held,
    pub(crate) _place: Option<Place>,
}

/// A call that is not made.
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// What helps whoever called.
    pub(crate) note: Option<String>,
}

impl From<Unrecorded> for Refused {
    fn from(why: Unrecorded) -> Self {
        tracing::error!(%why, "a call could not be recorded, and is not made");
        Self { reason: Reason::Unrecordable, note: None }
    }
}

/// What is called, for the record.
pub(crate) struct Subject<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) judged: &'a Arc<Judged>,
    pub(crate) definition: Option<String>,
    pub(crate) arguments: Arguments,
    /// Whether the job calls too often already: then its refusals are added up, or they would fill the host's disk.
    pub(crate) limited: bool,
}

/// A call's arguments: their hash, and themselves where somebody needs them.
#[derive(Clone, Default)]
pub(crate) struct Arguments {
    pub(crate) hash: String,
    pub(crate) text: Option<String>,
}

impl Arguments {
    /// Of a call of a tool. What a client gives a server beside them, because it asked for more, belongs to them: a person reads it
    /// too.
    fn of_call(params: Option<&Json>) -> Self {
        let member = |name: &str| params.and_then(|params| params.get(name));
        if MORE.iter().all(|name| member(name).is_none()) {
            return Self::of(member("arguments"));
        }
        let mut all = Json::object([]);
        for name in ["arguments"].iter().chain(&MORE) {
            if let Some(value) = member(name) {
                all.set(name, value.clone());
            }
        }
        Self::of(Some(&all))
    }

    /// Of a request's parameters, those of MCP's own left out.
    pub(crate) fn of(arguments: Option<&Json>) -> Self {
        let text = arguments.map_or_else(|| "{}".to_owned(), Json::canonical);
        Self { hash: claw::Hash::of(text.as_bytes()).to_string(), text: Some(text) }
    }
}

/// Leaves of a request's `_meta` what is MCP's own: the rest is shown to no person who is asked about the call.
fn plain_meta(request: &mut Request) {
    let meta = request.params.as_mut().and_then(|params| params.get_mut("_meta")).and_then(Json::as_object_mut);
    if let Some(meta) = meta {
        meta.retain(|(name, _)| &**name == "progressToken" || name.starts_with("io.modelcontextprotocol/"));
    }
}

/// As much of a text as a record has, and a little more where there is more: so the daemon knows, and says, that it was cut.
fn begin(text: &str) -> String {
    text[..text.ceil_char_boundary((LONGEST_RECORDED + 1).min(text.len()))].to_owned()
}

impl Context {
    /// The record of a call.
    pub(crate) fn record(
        &self,
        session: &str,
        subject: &Subject<'_>,
        decision: calls::Decision,
        reason: &str,
        approval: Option<String>,
    ) -> calls::Call {
        let rules = &self.job.rules;
        calls::Call {
            number: self.gate.recorder.number(),
            slot: rules.slot,
            key: rules.key,
            session: session.into(),
            reported: self.reported.clone(),
            server: self.server.rules.name.clone(),
            method: subject.method.into(),
            tool: subject.target.chars().take(256).collect(),
            arguments_hash: subject.arguments.hash.clone(),
            arguments: subject.arguments.text.as_deref().filter(|_| self.standing.rules.record_arguments).map(begin),
            decision,
            reason: reason.into(),
            rule: subject.judged.rule.as_deref().map(Into::into),
            risk: subject.judged.risk.to_string(),
            class: subject.judged.class.to_string(),
            approval,
            contract: rules.contract.clone().unwrap_or_default(),
            token: rules.token.clone(),
            definition: subject.definition.clone(),
            count: 1,
            alert: None,
        }
    }

    /// Records that a call is not made; what a limit refuses is added up.
    pub(crate) async fn refuse(
        &self,
        session: &str,
        subject: &Subject<'_>,
        reason: Reason,
        approval: Option<String>,
    ) -> Refused {
        let held = matches!(reason, Reason::ApprovalPending);
        let decision = if held { calls::Decision::Held } else { calls::Decision::Denied };
        let mut call = self.record(session, subject, decision, reason.label(), approval);
        if reason == Reason::ToolUnseen {
            call.alert = Some("tool_unseen".into());
        }
        if (subject.limited || matches!(reason, Reason::Rate | Reason::Concurrency | Reason::Unrecordable))
            && !self.gate.limits.refused(&call, &self.standing.rules.limits)
        {
            return Refused { reason, note: None };
        }
        match self.gate.recorder.refused(call).await {
            Ok(()) => Refused { reason, note: None },
            Err(why) => why.into(),
        }
    }

    /// Begins a call of anything but a tool, if the contract gives it.
    pub(crate) async fn begin_other(
        &self,
        session: &Session,
        request: &mut Request,
        target: &str,
        judged: Judged,
    ) -> Result<Began, Refused> {
        let judged = Arc::new(judged);
        let mut found = data::Found::default();
        if let (Some(rules), Some(params)) = (self.job.data(), &mut request.params) {
            found = self.gate.data.look(rules, self.job.rules.observe, params).await;
        }
        let arguments = Arguments::of(request.params.as_ref());
        let mut facts = self.facts(Defined::None);
        // What was judged by its name is not passed on under another one.
        let named = super::message::target(request);
        facts.data = found.denied.is_some() || named != target;
        let target = &*named;
        let place = match self.gate.limits.call(self.job.rules.key, &self.standing.rules.limits) {
            Ok(place) => Some(place),
            Err(limit) => {
                facts.limit = Some(limit);
                None
            }
        };
        let limited = facts.limit.is_some();
        let subject =
            Subject { method: &request.method, target, judged: &judged, definition: None, arguments, limited };
        let mut began = match decide(&judged, &facts) {
            Verdict::Allow => self.began(session, &subject, "allowed", None, place),
            Verdict::Observe(reason) => self.began(session, &subject, reason.label(), None, place),
            Verdict::Deny(reason) => return Err(self.refuse(&session.name, &subject, reason, None).await),
            Verdict::Hold => {
                return Err(self.refuse(&session.name, &subject, Reason::ApprovalImpossible, None).await);
            }
        };
        began.begun.classes = found.counts;
        Ok(began)
    }

    /// Begins a call of a tool, if everything allows it; waits for a person where one is needed.
    pub(crate) async fn begin_tool(
        &self,
        session: &Session,
        request: &mut Request,
        tool: &str,
        defined: (Defined, Option<String>),
    ) -> Result<Began, Refused> {
        let name = &*self.server.rules.name;
        let judged = self.job.tool(name, tool);
        let limits = &self.standing.rules.limits;
        let mut found = data::Found::default();
        if let (Some(rules), Some(params)) = (self.job.data(), &mut request.params) {
            found = self.gate.data.look(rules, self.job.rules.observe, params).await;
            // What was judged by its name is not passed on under another one.
            params.set("name", tool.into());
        }
        let arguments = Arguments::of_call(request.params.as_ref());
        let mut facts = self.facts(defined.0);
        facts.data = found.denied.is_some();
        let mut place = None;
        match self.gate.limits.call(self.job.rules.key, limits) {
            Ok(taken) => place = Some(taken),
            Err(limit) => facts.limit = Some(limit),
        }
        let limited = facts.limit.is_some();
        let definition = defined.1;
        let subject = Subject { method: "tools/call", target: tool, judged: &judged, definition, arguments, limited };
        let began = match decide(&judged, &facts) {
            Verdict::Allow => Ok(self.began(session, &subject, "allowed", None, place)),
            Verdict::Observe(reason) => Ok(self.began(session, &subject, reason.label(), None, place)),
            Verdict::Deny(reason) => {
                let mut refused = self.refuse(&session.name, &subject, reason, None).await;
                if reason == Reason::Data {
                    refused.note = found.denied.map(|class| format!("The class is {class}."));
                }
                Err(refused)
            }
            Verdict::Hold => {
                plain_meta(request);
                Box::pin(self.hold(session, &subject, facts, place)).await
            }
        };
        began.map(|mut began| {
            began.begun.classes = found.counts;
            began
        })
    }

    /// Waits for a person, and for no longer than the caller can.
    async fn hold(
        &self,
        session: &Session,
        subject: &Subject<'_>,
        facts: Facts<'_>,
        place: Option<Place>,
    ) -> Result<Began, Refused> {
        // A kill ends the waiting, and the job's end.
        let held = self.run(subject);
        let until = Instant::now() + Duration::from_secs(self.standing.rules.approval_wait_seconds);
        let call = self.record(&session.name, subject, calls::Decision::Held, "approval_pending", None);
        let arguments = subject.arguments.text.clone().unwrap_or_default();
        let question = Question { call: Box::new(call), arguments };
        let pins = |standing: &Standing| standing.servers.get(&*self.whose.server).map(|server| server.rules.pins);
        loop {
            if pins(&self.gate.standing()) != pins(&self.standing) {
                // How the tool is defined is to be asked for anew, before an approval is used up.
                return Err(self.refuse(&session.name, subject, Reason::ApprovalPending, None).await);
            }
            let told = self.gate.daemon.ask(Ask::Approval(Box::new(question.clone()))).await;
            let (approval, id, note) = match told {
                Ok(Told::Approval(Approved::Approved { id, .. })) => (Approval::Given, Some(id), None),
                Ok(Told::Approval(Approved::Refused { id, reason })) => {
                    (Approval::Refused, Some(id), Some(format!("The reason given: {reason}")))
                }
                Ok(Told::Approval(Approved::Pending { id, expires_at })) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if !left.is_zero() {
                        let decided = self.gate.daemon.ask(Ask::Decided { id: id.clone() });
                        tokio::select! {
                            decided = timeout(left, decided) => {
                                if let Ok(Ok(Told::Noted)) = decided {
                                    continue;
                                }
                            }
                            () = held.call.killed() => {
                                return Err(self.refuse(&session.name, subject, Reason::Killed, Some(id)).await);
                            }
                        }
                    }
                    let note = format!("The approval is {id}; it ends at {expires_at}.");
                    (Approval::Pending, Some(id), Some(note))
                }
                Ok(Told::Approval(Approved::Impossible(why))) => {
                    tracing::warn!(why, "a call cannot be put before a person");
                    (Approval::Impossible, None, None)
                }
                _ => (Approval::Impossible, None, None),
            };
            // While a person thought about it, the rules may have become others.
            let now = self.now();
            let verdict = match &now {
                Some((standing, job)) => {
                    let judged = job.tool(&self.server.rules.name, subject.target);
                    let facts = Facts {
                        approval,
                        recordable: standing.rules.closed.is_none(),
                        in_force: job.rules.stopped.is_none() && job.contract.is_some(),
                        killed: [&standing.rules.killed, &job.rules.killed],
                        observe: job.rules.observe,
                        ..facts
                    };
                    // What was agreed to was agreed to under one contract.
                    let same = job.rules.contract == self.job.rules.contract && pins(standing) == pins(&self.standing);
                    if same { decide(&judged, &facts) } else { Verdict::Deny(Reason::ApprovalPending) }
                }
                None => Verdict::Deny(Reason::NotInForce),
            };
            return match verdict {
                Verdict::Allow => Ok(self.began(session, subject, "approved", id, place)),
                Verdict::Deny(reason) => {
                    let mut refused = self.refuse(&session.name, subject, reason, id).await;
                    if refused.reason == reason {
                        refused.note = note;
                    }
                    Err(refused)
                }
                Verdict::Hold | Verdict::Observe(_) => {
                    Err(self.refuse(&session.name, subject, Reason::ApprovalImpossible, id).await)
                }
            };
        }
    }

    /// Notes that a call is under way, or waits to be.
    fn run(&self, subject: &Subject<'_>) -> Held {
        let called = match subject.method {
            "tools/call" => Called::Tool(self.whose.server.clone(), subject.target.into()),
            _ => Called::Other,
        };
        let whose = (self.job.rules.slot, self.job.rules.key);
        self.gate.running.begin(whose, Arc::clone(subject.judged), called)
    }

    fn began(
        &self,
        session: &Session,
        subject: &Subject<'_>,
        reason: &str,
        approval: Option<String>,
        place: Option<Place>,
    ) -> Began {
        let call = self.record(&session.name, subject, calls::Decision::Allowed, reason, approval);
        let held = self.run(subject);
        let begun = self.gate.recorder.begin(call, self.since, self.bytes_in);
        // Between the look at the rules and now a kill may have passed by.
        self.gate.running.look_again(&held, &self.gate.standing());
        Began { begun, held, _place: place }
    }
}

impl Pending {
    /// Waits until it does not stand any more.
    pub(crate) async fn killed(&self) {
        match (&self.began, &self.open) {
            (Some(began), _) => began.held.call.killed().await,
            (None, Some(open)) => open.shut().await,
            (None, None) => std::future::pending().await,
        }
    }

    /// Whether it does not.
    pub(crate) fn is_killed(&self) -> bool {
        self.began.as_ref().is_some_and(|began| began.held.call.is_killed())
            || self.open.as_ref().is_some_and(Open::is_shut)
    }
}

impl Began {
    /// Adds what was found in an answer.
    pub(crate) fn found(&mut self, counts: BTreeMap<String, u64>) {
        for (class, count) in counts {
            *self.begun.classes.entry(class).or_default() += count;
        }
    }
}
