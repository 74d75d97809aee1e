//! Model calls and receipts that do not fit: told, counted, and answered by the end of the job's egress where its contract demands
//! receipts.

use std::collections::BTreeSet;

use evidence::chain::Kind;
use fence::{AgentName, JobId};
use serde_json::json;

use super::{join::Gap, receipt::Begun};
use crate::{config::AgentMode, core::Core};

/// The alert's kind.
const KIND: &str = "receipt_missing";

/// What is missing.
pub(crate) struct Missing {
    job: String,
    agent: String,
    /// In a word.
    cause: &'static str,
    /// In a sentence's part.
    why: String,
    count: u64,
    /// The call's event, where it is known.
    call: Option<String>,
    provider: Option<String>,
}

impl Missing {
    /// The receipt of a call.
    pub(super) fn of_call(begun: &Begun, cause: &'static str, why: &str) -> Self {
        Self {
            job: begun.job.clone(),
            agent: begun.agent.clone(),
            cause,
            why: why.into(),
            count: 1,
            call: Some(begun.event_hash.to_string()),
            provider: Some(begun.call.provider.clone()),
        }
    }

    /// Why, in a sentence's part.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// The receipt of a call that a former daemon recorded.
    pub(crate) fn of_former(job: &str, agent: &str, call: &str) -> Self {
        Self {
            job: job.into(),
            agent: agent.into(),
            cause: "call_lost",
            why: "the daemon ended before the call did".into(),
            count: 1,
            call: Some(call.into()),
            provider: None,
        }
    }
}

impl Core {
    /// Tells of connections and calls that only one side knows.
    pub(super) fn gap(&mut self, job: &JobId, agent: &AgentName, gap: Gap) {
        // Where nobody makes model calls for agents, there are no receipts to miss. The job's coverage counts it all the same.
        if matches!(gap, Gap::Direct(_)) && self.config.model.proxy.is_none() {
            return;
        }
        let why = match gap {
            Gap::Unreported(n) => format!("the kernel counted {n} connections to the gateway of which it did not tell"),
            Gap::Unseen(n) => format!("the gateway tells of {n} connections that the kernel did not see"),
            Gap::Untold(n) => format!("by {n} connections something was called of which the gateway did not tell"),
            Gap::Direct(n) => format!("{n} connections went to a model host itself, which its contract allows"),
        };
        let (job, agent) = (job.to_string(), agent.to_string());
        let missing = Missing { job, agent, cause: gap.cause(), why, count: gap.count(), call: None, provider: None };
        self.receipt_missing(&missing);
    }

    /// Counts and tells what is missing. A job whose contract demands receipts reaches nothing from here on.
    pub(crate) fn receipt_missing(&mut self, missing: &Missing) {
        let (Ok(id), Ok(agent)) = (missing.job.parse::<JobId>(), missing.agent.parse::<AgentName>()) else { return };
        self.counters.alert(&agent, KIND, missing.count);
        let first = self.recent.is_first(&agent, KIND);
        let fails = self.demands_receipts(&id);
        if fails {
            self.fail_job(&id, format!("model calls and receipts do not fit: {}", missing.why));
        }
        let Missing { job, agent, cause, why, count, call, provider } = missing;
        if first || fails {
            tracing::warn!(kind = KIND, job, cause, why, fails, "model calls and receipts do not fit");
        }
        // Each of them: evidence counts what has no receipt. There are no more than calls, and a few a second of connections.
        let body = json!({ "kind": KIND, "job": job, "agent": agent, "cause": cause, "why": why, "count": count,
            "call": call, "provider": provider, "failed_closed": fails });
        self.note(Kind::Alert, body);
    }

    /// Whether a job is held to receipts, and reaches something yet.
    fn demands_receipts(&self, id: &JobId) -> bool {
        let Some(job) = self.jobs.get(id).filter(|job| !job.over && job.failed.is_none()) else { return false };
        let contract = self.job_contract(job).and_then(|hash| self.contracts.get(&hash));
        let enforced = self.agents.get(&job.agent).is_some_and(|agent| agent.mode == AgentMode::Enforce);
        enforced && contract.is_some_and(|contract| contract.receipts)
    }

    /// Ends a job's egress for good: another job may begin in its place.
    fn fail_job(&mut self, id: &JobId, why: String) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.failed = Some(why);
        // It is told here, and not as its token's end.
        job.token_told = true;
        let slot = job.enrolled.slot;
        self.fence.set_deadline(slot, 0);
        self.publish();
        self.end_sockets_of(&BTreeSet::from([slot]));
        self.save_jobs();
    }
}
