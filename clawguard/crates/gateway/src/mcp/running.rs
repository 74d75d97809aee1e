//! Calls that are under way, and how a kill reaches them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mcp::decide::Judged;
use policy::tool::ToolVerdict;
use tokio::sync::Notify;

use super::standing::Standing;

/// All calls that are under way.
#[derive(Default)]
pub(crate) struct Running {
    last: AtomicU64,
    calls: Mutex<HashMap<u64, Arc<Call>>>,
}

/// A call that is under way.
pub(crate) struct Call {
    slot: u32,
    key: u64,
    /// What it rests on.
    pub(crate) judged: Arc<Judged>,
    called: Called,
    killed: AtomicBool,
    notify: Notify,
}

/// What is called. What is in force later is asked about it anew.
pub(crate) enum Called {
    /// A server's tool.
    Tool(Box<str>, Box<str>),
    /// A provider's model.
    Model(Box<str>, Box<str>),
    /// Something else, which only kills and the contract's end reach.
    Other,
}

/// Holds a call's place among those that are under way.
pub(crate) struct Held {
    running: Arc<Running>,
    id: u64,
    pub(crate) call: Arc<Call>,
}

impl Running {
    /// Notes a call. Whatever was killed after `standing` was read reaches it.
    pub(crate) fn begin(self: &Arc<Self>, (slot, key): (u32, u64), judged: Arc<Judged>, called: Called) -> Held {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let call = Arc::new(Call { slot, key, judged, called, killed: AtomicBool::new(false), notify: Notify::new() });
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&call));
        Held { running: Arc::clone(self), id, call }
    }

    /// Looks whether a call still stands that was judged a while ago.
    pub(crate) fn look_again(&self, held: &Held, standing: &Standing) {
        if !held.call.stands(standing) {
            held.call.killed.store(true, Ordering::Release);
            held.call.notify.notify_one();
        }
    }

    /// Ends the calls that what is in force now does not allow any more: of jobs that are over, of tools and models that the
    /// contract no longer gives, and of groups that are killed.
    /// Answers how many.
    pub(crate) fn end_disallowed(&self, standing: &Standing) -> u64 {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = 0;
        for call in calls.values() {
            if !call.stands(standing) && !call.killed.swap(true, Ordering::AcqRel) {
                call.notify.notify_waiters();
                call.notify.notify_one();
                ended += 1;
            }
        }
        ended
    }
}

impl Call {
    /// Whether what is in force still allows it.
    pub(crate) fn stands(&self, standing: &Standing) -> bool {
        standing.job(self.slot, self.key).is_some_and(|job| {
            let killed = [&standing.rules.killed, &job.rules.killed];
            let in_force = job.rules.stopped.is_none() && job.contract.is_some();
            let now = match &self.called {
                Called::Tool(server, tool) => Some(job.tool(server, tool)),
                Called::Model(..) | Called::Other => None,
            };
            let given = match &self.called {
                Called::Model(provider, model) => job.models().decide(provider, model).denied.is_none(),
                _ => now.as_ref().is_none_or(|now| !matches!(now.verdict, ToolVerdict::Deny(_))),
            };
            let groups = now.as_ref().unwrap_or(&self.judged);
            groups.killed(killed).is_none() && ((in_force && given) || job.rules.observe)
        })
    }

    /// Whether it was killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Waits until it is killed.
    pub(crate) async fn killed(&self) {
        loop {
            let notified = self.notify.notified();
            if self.is_killed() {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.running.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
