//! Model calls: recorded before they are made, receipted when they have ended, joined with what the kernel counted.
//!
//! A call's record is the event to which its receipt binds. Receipts are settled by a thread of their own: it signs, writes and syncs
//! as many at once as wait, so that nobody else waits for the disk.

mod clerk;
pub(crate) mod join;
mod missing;
mod receipt;

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
};

use clawguard_common::Connections;
use control::{
    calls::Decision,
    channel::Told,
    model::{ModelCall, ModelConnections, ModelEnd, ModelGrant},
};
use evidence::chain::Kind;
use fence::{AgentName, Enrolled, JobId};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    config::{Model, ModelGateway},
    core::{Core, Shared},
};
pub(crate) use clerk::start;
use join::Counted;
pub(crate) use missing::Missing;
pub(crate) use receipt::Begun;

/// Calls that all gateways together may be making.
const MOST: usize = 65_536;
/// Characters of any text of a call.
const LONGEST: usize = 256;

/// What gateways are about, as far as models go. Locks of their own, under which nothing waits.
#[derive(Default)]
pub(crate) struct Models {
    /// Calls that were begun, by channel and number.
    begun: Mutex<BTreeMap<(u64, u64), Begun>>,
    /// To whom ends of calls are told.
    clerk: OnceLock<mpsc::Sender<Errand>>,
}

/// What the clerk is told.
enum Errand {
    /// A call ended.
    End { channel: u64, end: Box<ModelEnd>, answer: oneshot::Sender<Told> },
    /// A channel ended: nobody will say how its calls did.
    HungUp(u64),
    /// All channels end; answered once all of it is settled.
    Stop(mpsc::Sender<()>),
}

impl Models {
    fn begun(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, channel: u64, begun: Begun) -> Option<Begun> {
        self.begun().insert((channel, begun.call.number), begun)
    }

    fn end(&self, channel: u64, number: u64) -> Option<Begun> {
        self.begun().remove(&(channel, number))
    }

    fn give_up(&self, of: Option<u64>) -> Vec<Begun> {
        let mut begun = self.begun();
        let (given_up, kept) =
            mem::take(&mut *begun).into_iter().partition(|((channel, _), _)| of.is_none_or(|of| of == *channel));
        *begun = kept;
        let given_up: BTreeMap<(u64, u64), Begun> = given_up;
        given_up.into_values().collect()
    }

    fn send(&self, errand: Errand) {
        // Without a clerk the daemon is about to end.
        if let Some(clerk) = self.clerk.get() {
            let _ = clerk.send(errand);
        }
    }

    /// A channel ended.
    pub(crate) fn hung_up(&self, channel: u64) {
        self.send(Errand::HungUp(channel));
    }

    /// All channels end. Returns once everything that was told of calls is recorded.
    pub(crate) fn stop(&self) {
        let (done, stopped) = mpsc::channel();
        self.send(Errand::Stop(done));
        let _ = stopped.recv_timeout(std::time::Duration::from_secs(10));
    }
}

/// A call's record, when it is about to be made or refused.
#[derive(Serialize)]
struct Record<'a> {
    agent: &'a str,
    job: &'a str,
    provider: &'a str,
    model: &'a str,
    route: &'a str,
    streamed: bool,
    nonce: &'a str,
    request_sha256: &'a str,
    bytes_in: u64,
    redactions: u64,
    decision: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    wpc_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_hash: Option<&'a str>,
    #[serde(skip_serializing_if = "is_one")]
    count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's own form")]
const fn is_one(count: &u64) -> bool {
    *count == 1
}

fn record(call: &ModelCall, job: &str, agent: &str) -> Value {
    let record = Record {
        agent,
        job,
        provider: &call.provider,
        model: &call.model,
        route: &call.route,
        streamed: call.streamed,
        nonce: &call.nonce,
        request_sha256: &call.request_hash,
        bytes_in: call.bytes_in,
        redactions: call.redactions,
        decision: call.decision.label(),
        reason: &call.reason,
        rule: call.rule.as_deref(),
        wpc_hash: &call.contract,
        token_hash: call.token.as_deref(),
        count: call.count,
    };
    // Strings and numbers always serialise.
    serde_json::to_value(&record).unwrap_or_default()
}

/// What a call says of itself, no longer than a record takes it.
fn capped(mut call: Box<ModelCall>) -> Box<ModelCall> {
    let texts = [
        &mut call.provider,
        &mut call.model,
        &mut call.route,
        &mut call.nonce,
        &mut call.request_hash,
        &mut call.reason,
        &mut call.contract,
    ];
    texts.into_iter().for_each(|text| crate::calls::cut(text, LONGEST));
    [&mut call.rule, &mut call.token].into_iter().flatten().for_each(|text| crate::calls::cut(text, LONGEST));
    call
}

/// What is said of a call's end, no longer than it may wait and be recorded.
fn capped_end(mut end: Box<ModelEnd>) -> Box<ModelEnd> {
    for text in [&mut end.outcome, &mut end.response_hash] {
        crate::calls::cut(text, LONGEST);
    }
    if let Some(text) = &mut end.receipt {
        receipt::cut(text);
    }
    end
}

impl Core {
    /// The model gateway listens: what managed tasks want of own loopback at the port of `[model]` goes there from now on.
    pub(crate) fn models_listen(&mut self, channel: u64, at: u16) {
        let gateway = self.jobs.values().find(|job| job.agent.as_str() == crate::GATEWAY && !job.over);
        let Some(key) = gateway.map(|job| job.enrolled.key) else {
            tracing::error!("a model gateway that is no job of this daemon's is not used");
            return;
        };
        // Before anybody is sent there: what is counted from here on is this gateway's to tell of.
        let counted: Vec<(u64, u64)> = self
            .jobs
            .values()
            .map(|job| (job.enrolled.key, self.fence.connections(job.enrolled.slot).models))
            .collect();
        let untold = self.join.listens(channel, key, &counted);
        if untold > 0 {
            // Whose they were is known, and not what became of them: a gateway that ends cannot tell of its last moment.
            let why = "the gateway before ended, and had not told of these connections for model calls";
            tracing::warn!(untold, why);
            self.note(Kind::Alert, json!({ "alert": "connections_untold", "why": why, "count": untold }));
        }
        self.models_at = Some((at, key));
        self.route_models();
    }

    /// Sends agents to the model gateway, if there is one to be sent to.
    pub(crate) fn route_models(&self) {
        let Some((at, key)) = self.models_at else { return };
        match self.config.model.gateway() {
            ModelGateway::None => self.fence.set_models(0, 0, key),
            ModelGateway::Builtin | ModelGateway::Clawproxy(_) => {
                self.fence.set_models(self.config.model.port, at, key);
            }
        }
    }

    /// Records a call that is about to be made, or is refused, and answers whether it may be made.
    pub(crate) fn model_called(&mut self, models: &Models, channel: u64, call: Box<ModelCall>) -> Told {
        let call = capped(call);
        let Some((job, agent)) = self.owners.get(&call.key).cloned() else {
            return Told::Unrecorded("no job of this host makes that call".into());
        };
        let provider = if Model::knows(&call.provider) { call.provider.as_str() } else { "other" };
        self.counters.model_called(provider, call.decision.label(), call.count);
        let counted = self.models_counted(&call.key).map(|counted| counted.models);
        if let Some(gap) = self.join.called(channel, call.key, call.count, counted) {
            self.gap(&job, &agent, gap);
        }
        // Told once, and held to each time.
        if counted.is_some_and(|counted| self.join.is_made_up(channel, call.key, counted)) {
            return Told::Unrecorded("the kernel has seen no connection by which that call could have come".into());
        }
        let body = record(&call, job.as_str(), agent.as_str());
        if call.decision != Decision::Allowed {
            return match self.record(Kind::Model, body) {
                Ok(_) => Told::Noted,
                Err(error) => Told::Unrecorded(format!("the audit chain cannot be written: {error}")),
            };
        }
        self.model_granted(models, channel, (job, agent), call, &body).unwrap_or_else(Told::Unrecorded)
    }

    fn model_granted(
        &mut self,
        models: &Models,
        channel: u64,
        (job, agent): (JobId, AgentName),
        call: Box<ModelCall>,
        body: &Value,
    ) -> Result<Told, String> {
        self.may_grant().map_err(|error| error.message)?;
        let owner = self.jobs.get(&job).filter(|owner| owner.enrolled.key == call.key && !owner.over);
        let owner = owner.ok_or_else(|| format!("the job {job} is over"))?;
        if let Some(why) = &owner.failed {
            return Err(why.clone());
        }
        // An agent that is only watched may have none yet.
        if self.job_contract(owner).map(|hash| hash.to_string()).unwrap_or_default() != call.contract {
            return Err("another contract is in force for the job by now".into());
        }
        let token = owner.token.as_ref();
        let proxied = matches!(self.config.model.gateway(), ModelGateway::Clawproxy(_));
        let (scope_hash, text) = (token.and_then(|token| token.scope_hash()), token.map(|token| token.text()));
        let (scope_hash, text) = (scope_hash.map(str::to_owned), text.filter(|_| proxied).map(str::to_owned));
        if self.audit.run(job.as_str()).is_none() {
            return Err(format!("the run of the job {job} is not known"));
        }
        if models.begun().len() >= MOST {
            return Err(format!("{MOST} model calls are under way"));
        }
        let written = self.audit.append_event(Kind::Model, body, job.as_str());
        self.audit_fared(written.as_ref().err());
        let event = match written {
            Ok((_, Some(event))) => event,
            Ok((_, None)) => return Err(format!("the run of the job {job} is not known")),
            Err(error) => return Err(format!("the audit chain cannot be written: {error}")),
        };
        let begun = Begun {
            call,
            job: job.to_string(),
            agent: agent.to_string(),
            run_id: event.run_id.to_string(),
            event_hash: event.event_hash,
            scope_hash,
        };
        let grant = ModelGrant { run_id: begun.run_id.clone(), event_hash: begun.event_hash.to_string(), token: text };
        if let Some(before) = models.begin(channel, begun) {
            // A number that is given anew: of the call before nothing will be said any more.
            self.model_lost(&before);
        }
        Ok(Told::Model(Box::new(grant)))
    }

    /// What the kernel has counted of a job; `None` for one that is gone.
    fn models_counted(&self, key: &u64) -> Option<Counted> {
        let (job, _) = self.owners.get(key)?;
        let job = self.jobs.get(job).filter(|job| job.enrolled.key == *key)?;
        let Connections { models, direct } = self.fence.connections(job.enrolled.slot);
        Some(Counted { models, direct })
    }

    /// The gateway tells of connections that it accepted.
    pub(crate) fn models_connected(&mut self, channel: u64, told: &[ModelConnections]) {
        for told in told {
            let counted = self.models_counted(&told.key).map(|counted| counted.models);
            if let Some(gap) = self.join.told(channel, told, counted)
                && let Some((job, agent)) = self.owners.get(&told.key).cloned()
            {
                self.gap(&job, &agent, gap);
            }
        }
    }

    /// Once a second: what the kernel has counted, and what of it the gateway has not told of for too long.
    pub(crate) fn join_models(&mut self) {
        let now = std::time::Instant::now();
        self.join.looks(now);
        let jobs = self.jobs.iter().filter(|(_, job)| !job.over && job.agent.as_str() != crate::GATEWAY);
        let keys: Vec<(u64, Connections)> =
            jobs.map(|(_, job)| (job.enrolled.key, self.fence.connections(job.enrolled.slot))).collect();
        let mut gaps = Vec::new();
        for (key, Connections { models, direct }) in keys {
            // Most jobs call no model.
            if (models, direct) != (0, 0) {
                gaps.push((key, self.join.counted(key, Counted { models, direct }, now)));
            }
        }
        gaps.extend(self.join.settled(now));
        for (key, gaps) in gaps {
            let Some((job, agent)) = self.owners.get(&key).cloned() else { continue };
            gaps.into_iter().for_each(|gap| self.gap(&job, &agent, gap));
        }
    }

    /// A job of the daemon before: what was counted of it so far is no longer to be joined.
    pub(crate) fn adopt_models(&mut self, enrolled: &Enrolled) {
        let Connections { models, direct } = self.fence.connections(enrolled.slot);
        self.join.adopt(enrolled.key, Counted { models, direct });
    }

    /// What a daemon left that ended otherwise than in good order: jobs that nobody saw the end of, and calls.
    pub(crate) fn end_left_runs(&mut self) {
        for job in self.audit.live() {
            let known = job.parse::<JobId>().is_ok_and(|id| self.jobs.contains_key(&id));
            if !known {
                self.note(Kind::JobEnd, json!({ "job": job, "unseen": true }));
            }
        }
        for (call, job, agent) in self.audit.open_calls() {
            let missing = Missing::of_former(&job, &agent, &call);
            let body = json!({ "agent": agent, "job": job, "call": call, "outcome": "unknown",
                "receipt_missing": missing.why() });
            self.note(Kind::Model, body);
            self.counters.receipts.with_label_values(&["missing"]).inc();
            self.receipt_missing(&missing);
        }
    }

    /// A job is over: what is counted of it no longer rises.
    pub(crate) fn models_ended(&mut self, job: &JobId) {
        let Some(key) = self.jobs.get(job).map(|job| job.enrolled.key) else { return };
        self.join.gone(key);
        let Some(counted) = self.models_counted(&key).filter(|counted| *counted != Counted::default()) else { return };
        let gaps = self.join.ended(key, counted, std::time::Instant::now());
        let Some((job, agent)) = self.owners.get(&key).cloned() else { return };
        gaps.into_iter().for_each(|gap| self.gap(&job, &agent, gap));
    }
}

impl Shared {
    /// Answers once a call's receipt is on disk, or is known to be missing.
    pub(crate) async fn model_ended(&self, channel: u64, end: Box<ModelEnd>) -> Option<Told> {
        let (answer, told) = oneshot::channel();
        // Before it waits.
        self.models.send(Errand::End { channel, end: capped_end(end), answer });
        told.await.ok()
    }
}
