//! The connections that were accepted for model calls: the daemon matches them with those that the kernel counted.

use std::{
    collections::HashMap,
    io, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use control::{
    channel::{Ask, Told},
    model::ModelConnections,
};
use tokio::time::sleep;

use crate::{callers::Caller, mcp::gate::Gate};

/// How often the daemon is told.
const OFTEN: Duration = Duration::from_secs(1);

/// A job's, all so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    accepted: u64,
    empty: u64,
    /// Whether the daemon knows.
    told: bool,
}

/// All jobs'.
#[derive(Default)]
pub(crate) struct Connections {
    jobs: Mutex<HashMap<Caller, Count>>,
}

/// One connection. It was empty if nothing was called by it.
pub(crate) struct Connection {
    pub(crate) caller: Caller,
    called: AtomicBool,
    connections: Arc<Connections>,
}

impl Connections {
    fn count(&self, caller: Caller, change: impl FnOnce(&mut Count)) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let count = jobs.entry(caller).or_default();
        change(count);
        count.told = false;
    }

    pub(crate) fn accepted(self: &Arc<Self>, caller: Caller) -> Connection {
        self.count(caller, |count| count.accepted += 1);
        Connection { caller, called: AtomicBool::new(false), connections: Arc::clone(self) }
    }

    /// What the daemon does not know yet.
    fn news(&self) -> Vec<ModelConnections> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(caller, count): (&Caller, &mut Count)| {
            let news = !mem::replace(&mut count.told, true);
            let Count { accepted, empty, .. } = *count;
            news.then_some(ModelConnections { slot: caller.slot, key: caller.key, accepted, empty })
        };
        jobs.iter_mut().filter_map(told).collect()
    }

    /// Forgets the jobs that are over.
    fn forget(&self, there: impl Fn(Caller) -> bool) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|caller, count| !count.told || there(*caller));
    }

    /// Tells the daemon, until it hangs up.
    pub(crate) async fn tell(&self, gate: &Gate) -> io::Result<()> {
        loop {
            sleep(OFTEN).await;
            let news = self.news();
            if news.is_empty() {
                let standing = gate.standing();
                self.forget(|caller| standing.job(caller.slot, caller.key).is_some());
                continue;
            }
            match gate.daemon.ask(Ask::Connected(news)).await? {
                Told::Noted => {}
                _ => tracing::warn!("the daemon did not note connections for model calls"),
            }
        }
    }
}

impl Connection {
    /// Notes that something was called by it, made or refused.
    pub(crate) fn called(&self) {
        self.called.store(true, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.called.load(Ordering::Relaxed) {
            self.connections.count(self.caller, |count| count.empty += 1);
        }
    }
}
