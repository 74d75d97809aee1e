//! What one job may have at once and in a minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use control::calls::{Call, CallLimits, Called};
use mcp::decide::Limit;
use tokio::sync::Semaphore;

use super::record::Recorder;

/// Over which calls are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Jobs that are remembered; those of which nothing is under way are forgotten first.
const MOST_JOBS: usize = 8192;

/// Connections at once of one job: no job takes all places from the others.
const MOST_CONNECTIONS: usize = 2048;
/// Bytes beyond which a message is a large one.
pub(crate) const LARGE: usize = 64 << 10;
/// Large messages of one job that are in memory at once; more of them wait.
const MOST_LARGE: usize = 64;

/// Refusals by a limit that are recorded one by one before they are added up.
const ONE_BY_ONE: u64 = 16;

/// What each job has.
#[derive(Default)]
pub(crate) struct Limits {
    jobs: Mutex<HashMap<u64, Counted>>,
    /// By slot, so that it is known before anybody is asked. There are not many.
    rooms: Mutex<HashMap<u32, Arc<Room>>>,
}

/// What the connections of one slot share.
pub(crate) struct Room {
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) large: Semaphore,
}

/// What a job asks for in one way.
struct Bucket {
    /// What is left of a minute's.
    left: f64,
    at: Instant,
    under_way: u32,
}

struct Counted {
    calls: Bucket,
    /// Requests that are no calls: lists, subscriptions and the like.
    others: Bucket,
    sessions: u32,
    streams: u32,
    /// Refusals since they were told last.
    refused: u64,
    /// Those that are added up, one for each server and reason.
    untold: Vec<Call>,
}

/// What a place is one of.
#[derive(Clone, Copy)]
enum Of {
    Calls,
    Others,
    Sessions,
    Streams,
}

/// The place of a call, of another request, of a session or of a stream. It is given back when this is dropped.
pub(crate) struct Place {
    limits: Arc<Limits>,
    key: u64,
    of: Of,
}

impl Bucket {
    fn full(limits: &CallLimits) -> Self {
        Self { left: f64::from(limits.calls_per_minute), at: Instant::now(), under_way: 0 }
    }

    /// Each takes from a bucket that a minute fills.
    fn take(&mut self, limits: &CallLimits) -> Result<(), Limit> {
        let most = f64::from(limits.calls_per_minute);
        let now = Instant::now();
        let filled = now.duration_since(self.at).as_secs_f64() / MINUTE.as_secs_f64() * most;
        self.left = (self.left + filled).min(most);
        self.at = now;
        if self.left < 1.0 {
            return Err(Limit::Rate);
        }
        if self.under_way >= limits.concurrent_calls {
            return Err(Limit::Concurrency);
        }
        self.left -= 1.0;
        self.under_way += 1;
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.under_way == 0 && self.at.elapsed() >= MINUTE
    }
}

impl Limits {
    fn with<T>(&self, key: u64, limits: &CallLimits, work: impl FnOnce(&mut Counted) -> T) -> T {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= MOST_JOBS && !jobs.contains_key(&key) {
            jobs.retain(|_, counted| {
                !(counted.calls.is_idle() && counted.others.is_idle())
                    || counted.sessions > 0
                    || counted.streams > 0
                    || !counted.untold.is_empty()
            });
        }
        let fresh = || Counted {
            calls: Bucket::full(limits),
            others: Bucket::full(limits),
            sessions: 0,
            streams: 0,
            refused: 0,
            untold: Vec::new(),
        };
        work(jobs.entry(key).or_insert_with(fresh))
    }

    fn place(self: &Arc<Self>, key: u64, of: Of) -> Place {
        Place { limits: Arc::clone(self), key, of }
    }

    /// Counts a call.
    pub(crate) fn call(self: &Arc<Self>, key: u64, limits: &CallLimits) -> Result<Place, Limit> {
        self.with(key, limits, |counted| counted.calls.take(limits))?;
        Ok(self.place(key, Of::Calls))
    }

    /// Counts a request that is no call: of these there may be as many as of calls, and they take none of the calls' places.
    pub(crate) fn other(self: &Arc<Self>, key: u64, limits: &CallLimits) -> Result<Place, Limit> {
        self.with(key, limits, |counted| counted.others.take(limits))?;
        Ok(self.place(key, Of::Others))
    }

    /// Counts a stream that stays open: one for each session that there may be. Beginning one is a request, too.
    pub(crate) fn stream(self: &Arc<Self>, key: u64, limits: &CallLimits) -> Result<Place, Limit> {
        self.with(key, limits, |counted| {
            if counted.streams >= limits.sessions {
                return Err(Limit::Concurrency);
            }
            counted.others.take(limits)?;
            counted.others.under_way -= 1;
            counted.streams += 1;
            Ok(())
        })?;
        Ok(self.place(key, Of::Streams))
    }

    /// What the connections of a slot share.
    pub(crate) fn room(&self, slot: u32) -> Arc<Room> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
            Arc::new(Room { connections, large: Semaphore::new(MOST_LARGE) })
        };
        Arc::clone(rooms.entry(slot).or_insert_with(fresh))
    }

    /// Counts a session.
    pub(crate) fn session(self: &Arc<Self>, key: u64, limits: &CallLimits) -> Option<Place> {
        self.with(key, limits, |counted| {
            if counted.sessions >= limits.sessions {
                return None;
            }
            counted.sessions += 1;
            Some(self.place(key, Of::Sessions))
        })
    }

    /// Counts a refusal of which there could be a flood. The first ones are recorded one by one: answers whether this one is. The
    /// others are added up.
    pub(crate) fn refused(&self, call: &Call, limits: &CallLimits) -> bool {
        self.with(call.key, limits, |counted| {
            counted.refused += 1;
            if counted.refused <= ONE_BY_ONE {
                return true;
            }
            match counted.untold.iter_mut().find(|told| (&told.reason, &told.server) == (&call.reason, &call.server)) {
                Some(told) => told.count += 1,
                None => counted.untold.push(call.clone()),
            }
            false
        })
    }

    /// Records what was added up.
    pub(crate) fn tell_refused(&self, recorder: &Recorder) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        for counted in jobs.values_mut() {
            counted.refused = 0;
            for call in counted.untold.drain(..) {
                recorder.note(Called::Refused(Box::new(call)));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut jobs = self.limits.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = jobs.get_mut(&self.key) {
            let count = match self.of {
                Of::Calls => &mut counted.calls.under_way,
                Of::Others => &mut counted.others.under_way,
                Of::Sessions => &mut counted.sessions,
                Of::Streams => &mut counted.streams,
            };
            *count = count.saturating_sub(1);
        }
    }
}
