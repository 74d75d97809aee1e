//! A request's surroundings: who asks whom, under what, and by which of the protocol's eras.

use std::{sync::Arc, time::Instant};

use hyper::HeaderMap;
use mcp::{
    decide::{Defined, Facts, Verdict, decide},
    era::Era,
};
use policy::mcp::What;

use super::{
    gate::Gate,
    session::Whose,
    standing::{Job, Server, Standing},
};

/// What is known of a request before it is judged.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) gate: Arc<Gate>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) job: Arc<Job>,
    pub(crate) server: Arc<Server>,
    pub(crate) whose: Whose,
    pub(crate) era: Era,
    /// What the client calls its session.
    pub(crate) reported: Option<String>,
    /// The headers that are passed on.
    pub(crate) passed: HeaderMap,
    pub(crate) since: Instant,
    pub(crate) bytes_in: u64,
}

impl Context {
    /// What a decision rests on, so far.
    pub(crate) fn facts(&self, defined: Defined) -> Facts<'_> {
        self.standing.facts(&self.job, defined)
    }

    /// What is in force by now; `None` once the job is over.
    pub(crate) fn now(&self) -> Option<(Arc<Standing>, Arc<Job>)> {
        let standing = self.gate.standing();
        let job = Arc::clone(standing.job(self.whose.slot, self.whose.key)?);
        Some((standing, job))
    }

    /// Takes what is in force by now. Whoever takes long to send, or waits for a server, is not judged by what was in force then.
    pub(crate) fn refresh(&mut self) {
        // A job that is over, or a server that is gone, is noticed by what is begun.
        if let Some((standing, job)) = self.now() {
            if let Some(server) = standing.servers.get(&*self.whose.server) {
                self.server = Arc::clone(server);
            }
            (self.standing, self.job) = (standing, job);
        }
    }

    /// Whether something that is no tool may pass now.
    pub(crate) fn gives(&self, what: What<'_>) -> bool {
        let Some((standing, job)) = self.now() else { return false };
        let judged = job.other(&self.whose.server, what);
        let facts = standing.facts(&job, Defined::None);
        matches!(decide(&judged, &facts), Verdict::Allow | Verdict::Observe(_))
    }

    /// Bytes that one message may have.
    pub(crate) fn limit(&self) -> usize {
        self.standing.rules.limits.message_bytes as usize
    }
}
