//! The join of what the kernel counted and what the gateway tells: of each job's connections for model calls, none may be one that
//! only one of them knows.
//!
//! The kernel counts a connection when the gateway's socket has answered its first packet, so before the gateway can accept it. The
//! gateway tells once a second how many it has accepted. So at every moment the gateway's number is at most the kernel's, and the
//! kernel's number of a few seconds ago at most the gateway's. What breaks either is told once.
//!
//! No clock in here but the one that is handed in.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use control::model::ModelConnections;

/// How long the gateway may take to tell of a connection.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// After how long a look comes late.
const LATE: Duration = Duration::from_secs(2);
/// How long it may take until everything is told of a job that is over: refusals that were added up come last.
const SETTLES: Duration = Duration::from_secs(15);
/// A connection that is no older when its job ends may be nobody's by the time at which the gateway asks whose it is.
const FRESH: Duration = Duration::from_secs(1);
/// Jobs whose end is remembered for that long, at the most.
const MOST_ENDED: usize = 4096;

/// What does not fit. How many of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Connections that the kernel counted and of which the gateway did not tell.
    Unreported(u64),
    /// Connections, or calls, of which the gateway tells and that the kernel did not count.
    Unseen(u64),
    /// Connections by which something was called of which nothing was told.
    Untold(u64),
    /// Connections to a model host itself: they have no receipt.
    Direct(u64),
}

impl Gap {
    /// Why it is told, in a word.
    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Self::Unreported(_) => "connection_unreported",
            Self::Unseen(_) => "connection_unseen",
            Self::Untold(_) => "call_untold",
            Self::Direct(_) => "direct_connection",
        }
    }

    /// How many.
    pub(crate) const fn count(self) -> u64 {
        match self {
            Self::Unreported(n) | Self::Unseen(n) | Self::Untold(n) | Self::Direct(n) => n,
        }
    }
}

/// The kernel's counts of one job, all so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) models: u64,
    pub(crate) direct: u64,
}

/// Both sides' numbers.
#[derive(Default)]
pub(crate) struct Join {
    /// The gateway to which connections go now, by the key of its job: another process is another job. It has to tell of every
    /// connection, whatever it does with its channel.
    gateway: Option<u64>,
    /// The channel on which it tells.
    channel: Option<u64>,
    jobs: BTreeMap<u64, Side>,
    /// Jobs that are over, and since when.
    ended: VecDeque<(u64, Instant)>,
    /// When both sides were last looked at.
    looked: Option<Instant>,
    /// Connections of jobs that are over of which a gateway that ended told nothing.
    lost: u64,
}

/// One job's.
#[derive(Default)]
struct Side {
    /// What the kernel had counted when this gateway began to listen.
    base: u64,
    /// What it has counted, as far as anybody looked.
    last: u64,
    /// What it had counted, and when; the oldest first.
    seen: VecDeque<(Instant, u64)>,
    accepted: u64,
    empty: u64,
    /// Calls of which this gateway told, made or refused.
    calls: u64,
    /// What was told of the gaps.
    unreported: u64,
    unseen: u64,
    direct: u64,
}

impl Side {
    fn under(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    /// Connections that were there before, or that this gateway told of. It may tell of any number.
    const fn told(&self) -> u64 {
        self.base.saturating_add(self.accepted)
    }

    /// Connections of which nobody was told anything.
    const fn lost(&self) -> u64 {
        self.last.saturating_sub(self.told().saturating_add(self.unreported))
    }

    /// Gaps that grew beyond what was told of them.
    fn unseen(&mut self, counted: u64) -> Option<Gap> {
        let more = self.told().saturating_sub(counted);
        let news = more.saturating_sub(self.unseen);
        self.unseen = self.unseen.max(more);
        (news > 0).then_some(Gap::Unseen(news))
    }

    fn unreported(&mut self, now: Instant) -> Option<Gap> {
        let mut old = None;
        while let Some((at, counted)) = self.seen.front().copied().filter(|(at, _)| now.duration_since(*at) >= GRACE) {
            old = Some((at, counted));
            self.seen.pop_front();
        }
        let (_, counted) = old?;
        let missing = counted.saturating_sub(self.told());
        let news = missing.saturating_sub(self.unreported);
        // What was told late is no longer missing, and another one may be.
        self.unreported = missing;
        (news > 0).then_some(Gap::Unreported(news))
    }
}

impl Join {
    /// A gateway listens from now on: connections that earlier ones took with them can no longer be told of. `counted` is what the
    /// kernel has counted of each job so far. Answers of how many nothing was told.
    pub(crate) fn listens(&mut self, channel: u64, gateway: u64, counted: &[(u64, u64)]) -> u64 {
        self.channel = Some(channel);
        // One that says so again, or by another channel, would have what it did not tell of forgotten.
        if self.gateway.replace(gateway) == Some(gateway) {
            return 0;
        }
        self.ended.clear();
        let mut known = std::mem::take(&mut self.jobs);
        let mut untold = std::mem::take(&mut self.lost);
        for (key, counted) in counted {
            let former = known.remove(key);
            untold += counted.saturating_sub(former.as_ref().map_or(0, Side::told));
            let direct = former.map_or(0, |side| side.direct);
            self.jobs.insert(*key, Side { direct, ..Side::under(*counted) });
        }
        // And of those that are over.
        untold += known.values().map(Side::lost).sum::<u64>();
        untold
    }

    /// A channel ended.
    pub(crate) fn hung_up(&mut self, channel: u64) {
        if self.channel == Some(channel) {
            self.channel = None;
        }
    }

    /// A gateway's job is over, and nothing more will be told of its connections.
    pub(crate) fn gone(&mut self, gateway: u64) {
        if self.gateway == Some(gateway) {
            (self.gateway, self.channel) = (None, None);
        }
    }

    /// A job is there. What was counted of it before counts no more: it was a former daemon's to look at.
    pub(crate) fn adopt(&mut self, key: u64, counted: Counted) {
        self.jobs.insert(key, Side { direct: counted.direct, ..Side::under(counted.models) });
    }

    /// A look at both sides begins. After one that was long ago, what the gateway told meanwhile may not have been heard: it gets
    /// its grace anew.
    pub(crate) fn looks(&mut self, now: Instant) {
        if self.looked.replace(now).is_some_and(|last| now.duration_since(last) > LATE) {
            self.jobs.values_mut().flat_map(|side| &mut side.seen).for_each(|(at, _)| *at = now);
        }
    }

    /// What the kernel has counted of a job by now. To be asked once a second.
    pub(crate) fn counted(&mut self, key: u64, counted: Counted, now: Instant) -> Vec<Gap> {
        let listening = self.gateway.is_some();
        let side = self.jobs.entry(key).or_default();
        let direct = counted.direct.saturating_sub(side.direct);
        side.direct = side.direct.max(counted.direct);
        side.last = side.last.max(counted.models);
        let mut gaps: Vec<Gap> = (direct > 0).then_some(Gap::Direct(direct)).into_iter().collect();
        if listening {
            if side.seen.back().is_none_or(|(_, last)| *last != counted.models) || side.unreported > 0 {
                side.seen.push_back((now, counted.models));
            }
            gaps.extend(side.unreported(now));
        }
        gaps
    }

    /// The gateway tells of a job's connections. `counted` is what the kernel counts at this moment; `None` for a job that is gone.
    pub(crate) fn told(&mut self, channel: u64, told: &ModelConnections, counted: Option<u64>) -> Option<Gap> {
        if self.channel != Some(channel) {
            return None;
        }
        let side = match counted {
            Some(_) => self.jobs.entry(told.key).or_default(),
            // It may have ended meanwhile; one of which nothing was ever known is told as a call without a job.
            None => self.jobs.get_mut(&told.key)?,
        };
        // They only rise.
        side.accepted = side.accepted.max(told.accepted);
        side.empty = side.empty.max(told.empty);
        side.unseen(counted?)
    }

    /// The gateway tells of calls, made or refused. There must be a connection by which they came.
    /// `counted` is what the kernel counts at this moment; `None` for a job that is gone.
    pub(crate) fn called(&mut self, channel: u64, key: u64, calls: u64, counted: Option<u64>) -> Option<Gap> {
        if self.channel != Some(channel) {
            return None;
        }
        let side = match counted {
            Some(_) => self.jobs.entry(key).or_default(),
            None => self.jobs.get_mut(&key)?,
        };
        side.calls = side.calls.saturating_add(calls);
        let first = counted? <= side.base && side.unseen == 0;
        if first {
            side.unseen = 1;
        }
        first.then_some(Gap::Unseen(1))
    }

    /// Whether a call can have come by no connection: the kernel has counted none since this gateway listens.
    pub(crate) fn is_made_up(&self, channel: u64, key: u64, counted: u64) -> bool {
        self.channel == Some(channel) && counted <= self.jobs.get(&key).map_or(0, |side| side.base)
    }

    /// A job is over. What is still to be told of it may take a moment.
    pub(crate) fn ended(&mut self, key: u64, counted: Counted, now: Instant) -> Vec<Gap> {
        let gaps = self.counted(key, counted, now);
        if let Some(side) = self.jobs.get_mut(&key) {
            side.seen.retain(|(at, _)| now.duration_since(*at) >= FRESH);
        }
        if !self.ended.iter().any(|(ended, _)| *ended == key) {
            self.ended.push_back((key, now));
        }
        gaps
    }

    /// The jobs that have been over for long enough, with what never fitted.
    pub(crate) fn settled(&mut self, now: Instant) -> Vec<(u64, Vec<Gap>)> {
        let mut settled = Vec::new();
        while self
            .ended
            .front()
            .is_some_and(|(_, at)| now.duration_since(*at) > SETTLES || self.ended.len() > MOST_ENDED)
        {
            let Some((key, _)) = self.ended.pop_front() else { break };
            let Some(mut side) = self.jobs.remove(&key) else { continue };
            if self.gateway.is_none() {
                self.lost += side.lost();
                continue;
            }
            let mut gaps: Vec<Gap> = side.unreported(now).into_iter().collect();
            // All its connections are closed: of each it is known whether anything was called by it.
            let untold = side.accepted.saturating_sub(side.empty).saturating_sub(side.calls);
            gaps.extend((untold > 0).then_some(Gap::Untold(untold)));
            settled.push((key, gaps));
        }
        settled
    }
}

#[cfg(test)]
mod tests;
