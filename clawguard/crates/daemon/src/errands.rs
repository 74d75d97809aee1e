//! What the gateway is asked to fetch, and what is done with it once it comes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use claw::{Hash, token::TokenHash};
use control::{
    api::Code,
    channel::{Errand, Outcome, Source, What},
};
use fence::JobId;
use tokio::sync::Notify;

use crate::core::{Answer, refuse};

/// How long an errand may take before it is given up: longer than the gateway itself gives a request.
const PATIENCE: Duration = Duration::from_secs(12);
/// The same for a stream, which the gateway ends after five minutes.
const STREAM: Duration = Duration::from_secs(330);
/// How long the gateway waits for errands before it asks anew.
const QUIET: Duration = Duration::from_secs(20);
/// Errands that are under way at once.
const MOST: usize = 1024;
/// Errands that are told at once: each brings the registry's certificates along.
const MOST_TAKEN: usize = 16;
/// Callers of the API that may wait for an errand at once: others, a kill above all, need threads too.
const MOST_WAITING: usize = 4;

/// What an outcome is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A caller waits.
    Answer(mpsc::SyncSender<Outcome>),
    /// Whether a registry is up.
    Health(Registry),
    /// The issuer's keys.
    Keys,
    /// A live token's standing.
    Token {
        /// Whose it is.
        job: JobId,
        /// Which it is.
        token: TokenHash,
        /// When it was asked about: nanoseconds, CLOCK_BOOTTIME.
        asked_ns: u64,
    },
    /// A contract that agents should be under.
    Contract(Hash),
    /// Revocations as they happen.
    Revocations,
}

/// The two registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Registry {
    /// Where contracts come from.
    Clawcontrols,
    /// Where tokens come from.
    Clawscope,
}

impl Registry {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Clawcontrols, Self::Clawscope];

    /// Its name in the configuration, in metrics and in `status`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Clawcontrols => "clawcontrols",
            Self::Clawscope => "clawscope",
        }
    }
}

#[derive(Default)]
struct Inner {
    newest: u64,
    queue: VecDeque<Errand>,
    out: HashMap<u64, (Purpose, Instant)>,
}

/// The errands. A lock of their own, under which nothing waits.
#[derive(Default)]
pub(crate) struct Errands {
    inner: Mutex<Inner>,
    news: Notify,
}

impl Errands {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the gateway for something. Answers whether there was room.
    pub(crate) fn send(&self, from: &Source, what: What, purpose: Purpose) -> bool {
        let patience = if matches!(purpose, Purpose::Revocations) { STREAM } else { PATIENCE };
        let waits = |purpose: &Purpose| matches!(purpose, Purpose::Answer(_));
        let mut inner = self.lock();
        let waiting = inner.out.values().filter(|(purpose, _)| waits(purpose)).count();
        // What polls leave room for the rest.
        let most = if matches!(purpose, Purpose::Token { .. }) { MOST - 64 } else { MOST };
        if inner.out.len() >= most || (waits(&purpose) && waiting >= MOST_WAITING) {
            return false;
        }
        inner.newest += 1;
        let id = inner.newest;
        // Whoever waits does not wait behind a thousand polls.
        let first = matches!(purpose, Purpose::Answer(_) | Purpose::Keys);
        let errand = Errand { id, from: from.clone(), what };
        inner.out.insert(id, (purpose, Instant::now() + patience));
        if first {
            inner.queue.push_front(errand);
        } else {
            inner.queue.push_back(errand);
        }
        drop(inner);
        self.news.notify_one();
        true
    }

    /// Sends the gateway for something and waits for what comes of it. Not under the daemon's lock.
    pub(crate) fn ask(&self, from: &Source, what: What) -> Answer<Outcome> {
        let (sender, receiver) = mpsc::sync_channel(1);
        if !self.send(from, what, Purpose::Answer(sender)) {
            return refuse(Code::Unavailable, "too many questions to the registry are under way", "try again");
        }
        receiver.recv_timeout(PATIENCE).or_else(|_| {
            refuse(
                Code::Unavailable,
                format!("no answer of {} came through the gateway", from.base),
                "`clawguard status` tells whether the gateway and the registry are there",
            )
        })
    }

    /// What the gateway is to fetch; waits a while for the first.
    pub(crate) async fn take(&self) -> Vec<Errand> {
        let waited = tokio::time::timeout(QUIET, async {
            loop {
                let news = self.news.notified();
                let errands: Vec<Errand> = {
                    let mut inner = self.lock();
                    let some = inner.queue.len().min(MOST_TAKEN);
                    inner.queue.drain(..some).collect()
                };
                if !errands.is_empty() {
                    // Whoever asks next finds the rest.
                    self.news.notify_one();
                    return errands;
                }
                news.await;
            }
        });
        waited.await.unwrap_or_default()
    }

    /// An errand is done; answers what it was for, unless it was given up.
    pub(crate) fn finish(&self, errand: u64) -> Option<Purpose> {
        self.lock().out.remove(&errand).map(|(purpose, _)| purpose)
    }

    /// Gives up what takes too long, and answers what it was for.
    pub(crate) fn give_up(&self) -> Vec<Purpose> {
        let now = Instant::now();
        let mut inner = self.lock();
        let late: Vec<u64> = inner.out.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        inner.queue.retain(|errand| !late.contains(&errand.id));
        late.iter().filter_map(|id| inner.out.remove(id)).map(|(purpose, _)| purpose).collect()
    }

    /// The channel over which these errands were taken is gone; answers what those were for that nothing came of.
    pub(crate) fn lost(&self, taken: &[u64]) -> Vec<Purpose> {
        let mut inner = self.lock();
        taken.iter().filter_map(|id| inner.out.remove(id)).map(|(purpose, _)| purpose).collect()
    }

    /// Whatever comes of errands to former registries is no longer wanted, except by whoever waits for it.
    pub(crate) fn forget(&self) {
        let mut inner = self.lock();
        inner.out.retain(|_, (purpose, _)| matches!(purpose, Purpose::Answer(_)));
        let kept: Vec<u64> = inner.out.keys().copied().collect();
        inner.queue.retain(|errand| kept.contains(&errand.id));
    }

    /// Whether an errand for such a purpose is under way.
    pub(crate) fn under_way(&self, such: impl Fn(&Purpose) -> bool) -> bool {
        self.lock().out.values().any(|(purpose, _)| such(purpose))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source { base: "https://scope.example".into(), addresses: Vec::new(), ca: None, bearer: None }
    }

    #[test]
    fn an_outcome_finds_whoever_waits_for_it() {
        let errands = Errands::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| errands.ask(&source(), What::Health));
            let errand = loop {
                if let Some(errand) = errands.lock().queue.pop_front() {
                    break errand;
                }
            };
            let Some(Purpose::Answer(sender)) = errands.finish(errand.id) else { panic!("nobody waits") };
            sender.send(Outcome::Healthy).unwrap();
            assert_eq!(waits.join().unwrap(), Ok(Outcome::Healthy));
        });
    }

    #[test]
    fn callers_that_wait_are_few() {
        let errands = Errands::default();
        for _ in 0..MOST_WAITING {
            assert!(errands.send(&source(), What::Health, Purpose::Answer(mpsc::sync_channel(1).0)));
        }
        let refused = errands.ask(&source(), What::Health).unwrap_err();
        assert_eq!(refused.code, Code::Unavailable);
    }
}
