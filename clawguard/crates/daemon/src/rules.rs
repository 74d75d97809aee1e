//! The rules that the gateway holds callers to: built from what is in force, told as they change, and kept to or not.
//!
//! A set of rules is whole and has a number. Whoever waits for it waits beside the daemon's lock, and so does whoever waits for
//! the gateway's word that it keeps to it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use control::calls::{JobRules, Rules, ServerRules};
use switch::{State, Whose};
use sys::clock;
use tokio::sync::watch;

use crate::{
    config::AgentMode,
    core::{AUDIT, Core},
    jobs::Job,
};

/// How long the gateway waits for other rules before it is told the same again.
const QUIET: Duration = Duration::from_secs(20);
/// How long a kill waits for the gateway's word.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a gateway may go without keeping to rules that are no kill's.
const SLOW: Duration = Duration::from_secs(10);
/// Words of the gateway that are remembered, with what they say of cancelled calls.
const REMEMBERED: usize = 256;

/// What became of waiting for the gateway's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// There is no gateway: no call is under way.
    Nobody,
    /// It keeps to the rules, and ended so many calls for them.
    Kept(u64),
    /// It did not say so in time, or is gone without having said so.
    Missing,
}

/// The rules in force, and who keeps to them.
pub(crate) struct Rulebook {
    rules: watch::Sender<Arc<Rules>>,
    keepers: Mutex<Keepers>,
    heard: Condvar,
}

#[derive(Default)]
struct Keepers {
    channels: BTreeMap<u64, Keeper>,
}

/// A gateway that asked for rules.
struct Keeper {
    /// The number of the rules that it keeps to.
    kept: u64,
    /// Its words: which rules, and how many calls were ended for them.
    words: VecDeque<(u64, u64)>,
    /// Since when there are newer rules.
    behind: Option<Instant>,
}

impl Default for Rulebook {
    fn default() -> Self {
        Self { rules: watch::Sender::default(), keepers: Mutex::default(), heard: Condvar::new() }
    }
}

impl Rulebook {
    fn keepers(&self) -> MutexGuard<'_, Keepers> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules in force.
    pub(crate) fn current(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    /// Puts rules in force, whatever their number says, and answers the number under which they are. The same again keep theirs.
    pub(crate) fn publish(&self, mut rules: Rules) -> u64 {
        let current = self.current();
        rules.serial = current.serial;
        if *current == rules && rules.serial != 0 {
            return rules.serial;
        }
        // Another daemon's gateway must not take these for those that it has: no two daemons begin with the same number.
        rules.serial = if rules.serial == 0 { (clock::wall_ns() / 1000).max(1) } else { rules.serial + 1 };
        let serial = rules.serial;
        self.rules.send_replace(Arc::new(rules));
        let now = Instant::now();
        for keeper in self.keepers().channels.values_mut() {
            keeper.behind.get_or_insert(now);
        }
        serial
    }

    /// The rules in force, once they are others than those of a number; after a while the same again. Whoever asks over a
    /// channel has to keep to them from then on.
    pub(crate) async fn after(&self, channel: u64, seen: u64) -> Arc<Rules> {
        let mut news = self.rules.subscribe();
        self.keepers().channels.entry(channel).or_insert_with(|| Keeper {
            kept: 0,
            words: VecDeque::new(),
            behind: Some(Instant::now()),
        });
        let other = news.wait_for(|rules| rules.serial != seen);
        // The sender is `self`'s: it outlives this.
        let _ = tokio::time::timeout(QUIET, other).await;
        self.current()
    }

    /// The gateway of a channel keeps to the rules of a number.
    pub(crate) fn kept(&self, channel: u64, serial: u64, cancelled: u64) {
        let latest = self.current().serial;
        let mut keepers = self.keepers();
        if let Some(keeper) = keepers.channels.get_mut(&channel) {
            keeper.kept = keeper.kept.max(serial.min(latest));
            keeper.words.push_back((serial, cancelled));
            if keeper.words.len() > REMEMBERED {
                keeper.words.pop_front();
            }
            keeper.behind = (keeper.kept < latest).then(Instant::now);
        }
        drop(keepers);
        self.heard.notify_all();
    }

    /// A channel ended.
    pub(crate) fn hung_up(&self, channel: u64) {
        self.keepers().channels.remove(&channel);
        self.heard.notify_all();
    }

    /// Waits until every gateway keeps to the rules of a number. Not under the daemon's lock.
    pub(crate) fn wait(&self, serial: u64) -> Word {
        self.wait_for(serial, PATIENCE)
    }

    fn wait_for(&self, serial: u64, patience: Duration) -> Word {
        let until = Instant::now() + patience;
        let mut keepers = self.keepers();
        let asked: Vec<u64> = keepers.channels.keys().copied().collect();
        if asked.is_empty() {
            return Word::Nobody;
        }
        loop {
            let words: Option<Vec<u64>> =
                asked.iter().map(|channel| keepers.channels.get(channel)?.cancelled_for(serial)).collect();
            if let Some(words) = words {
                return Word::Kept(words.iter().sum());
            }
            let left = until.saturating_duration_since(Instant::now());
            let gone = asked.iter().any(|channel| !keepers.channels.contains_key(channel));
            if left.is_zero() || gone {
                return Word::Missing;
            }
            keepers = self.heard.wait_timeout(keepers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a gateway has gone for too long without keeping to the rules in force. Says so once, and again after as long.
    pub(crate) fn overdue(&self) -> bool {
        let mut overdue = false;
        for keeper in self.keepers().channels.values_mut() {
            if keeper.behind.is_some_and(|since| since.elapsed() > SLOW) {
                keeper.behind = Some(Instant::now());
                overdue = true;
            }
        }
        overdue
    }
}

impl Keeper {
    /// How many calls it ended for the rules of a number, once it keeps to them: by its first word that has them, because
    /// of several sets it may take the last alone.
    fn cancelled_for(&self, serial: u64) -> Option<u64> {
        if self.kept < serial {
            return None;
        }
        Some(self.words.iter().find(|(kept, _)| *kept >= serial).map_or(0, |(_, cancelled)| *cancelled))
    }
}

impl Core {
    /// Tells the gateway what is in force now, if that is something else than before. Answers the rules' number.
    pub(crate) fn publish(&self) -> u64 {
        self.rulebook.publish(self.rules())
    }

    /// The rules while a flip is carried out: what it takes away is gone, what it gives back is not there yet.
    pub(crate) fn rules_in_between(&self, next: &State, given_back: bool) -> Rules {
        let mut rules = self.rules_under(next);
        if given_back {
            let now = self.rules();
            rules.killed.extend(now.killed);
            for (job, before) in rules.jobs.iter_mut().zip(now.jobs) {
                job.killed.extend(before.killed);
            }
        }
        rules
    }

    fn rules(&self) -> Rules {
        self.rules_under(&self.switch)
    }

    fn rules_under(&self, switch: &State) -> Rules {
        let config = &self.config.mcp;
        let jobs = self
            .jobs
            .iter()
            .filter(|(_, job)| !job.over && job.agent.as_str() != crate::GATEWAY)
            .map(|(id, job)| JobRules {
                slot: job.enrolled.slot,
                key: job.enrolled.key,
                job: id.to_string(),
                agent: job.agent.to_string(),
                contract: self
                    .job_contract(job)
                    .filter(|hash| self.contracts.contains_key(hash))
                    .map(|hash| hash.to_string()),
                killed: by_name(switch, |whose| match whose {
                    Whose::Host => false,
                    Whose::Agent(agent) => *agent == job.agent,
                    Whose::Job(job) => job == id,
                }),
                observe: self.agents.get(&job.agent).is_some_and(|agent| agent.mode == AgentMode::Observe),
                token: job.token.as_ref().map(|token| token.hash().to_owned()),
                stopped: self.stopped(job),
            })
            .collect();
        let mut killed = by_name(switch, |whose| *whose == Whose::Host);
        let mode = switch.mode.groups();
        killed.extend(
            policy::Group::built_ins().filter(|(_, number)| mode.contains(*number)).map(|(group, _)| group.to_string()),
        );
        Rules {
            serial: 0,
            closed: self.problems.get(AUDIT).cloned(),
            killed,
            jobs,
            servers: self
                .servers
                .iter()
                .map(|server| ServerRules { pins: self.pins.changes(&server.name), ..server.clone() })
                .collect(),
            limits: self.config.limits.for_gateway(),
            approval_wait_seconds: config.approval_wait_seconds,
            record_arguments: config.record_arguments,
            model: self.model.clone(),
        }
    }

    /// Why a job may call nothing, if so. What the kernel lets through stops at that same moment.
    pub(crate) fn stopped(&self, job: &Job) -> Option<String> {
        if job.failed.is_some() {
            return job.failed.clone();
        }
        let contract = self.job_contract(job).and_then(|hash| Some((hash, self.contracts.get(&hash)?)));
        if let Some((hash, _)) = contract.filter(|(_, contract)| contract.not_after.is_some_and(|to| Self::now() >= to))
        {
            return Some(format!("the contract {hash} has expired"));
        }
        if clock::boot_ns() < self.fence.deadline(job.enrolled.slot) {
            return None;
        }
        let state = self.token_view(job).map_or_else(|| "not settled yet".into(), |token| token.state);
        Some(format!("its job token is {state}"))
    }
}

fn by_name(switch: &State, of: impl Fn(&Whose) -> bool) -> BTreeSet<String> {
    switch.kills.iter().filter(|kill| of(&kill.whose)).map(|kill| kill.group.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(group: &str) -> Rules {
        Rules { killed: BTreeSet::from([group.to_owned()]), ..Rules::default() }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn the_same_rules_keep_their_number_and_others_get_the_next() {
        let book = Rulebook::default();
        let first = book.publish(killed("crm"));
        assert_ne!(first, 0);
        assert_eq!(book.publish(killed("crm")), first);
        assert_eq!(book.publish(killed("db")), first + 1);
        assert_eq!(book.current().serial, first + 1);
    }

    #[test]
    fn whoever_asks_waits_for_other_rules_than_those_it_has() {
        let book = Arc::new(Rulebook::default());
        let first = book.publish(killed("crm"));
        runtime().block_on(async {
            assert_eq!(book.after(1, 0).await.serial, first);
            let waits = tokio::spawn({
                let book = Arc::clone(&book);
                async move { book.after(1, first).await }
            });
            tokio::task::yield_now().await;
            assert!(!waits.is_finished());
            book.publish(killed("db"));
            assert_eq!(waits.await.unwrap().killed, killed("db").killed);
        });
    }

    #[test]
    fn a_kill_waits_for_every_gateways_word_and_adds_up_what_they_ended() {
        let book = Rulebook::default();
        let first = book.publish(killed("crm"));
        assert_eq!(book.wait(first), Word::Nobody);
        runtime().block_on(async {
            book.after(1, 0).await;
            book.after(2, 0).await;
        });
        book.kept(1, first, 0);
        let second = book.publish(killed("db"));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| book.wait(second));
            book.kept(1, second, 3);
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished());
            book.kept(2, second, 4);
            assert_eq!(waits.join().unwrap(), Word::Kept(7));
        });
    }

    #[test]
    fn a_gateway_that_says_nothing_or_goes_is_not_taken_to_keep_to_them() {
        let book = Rulebook::default();
        let serial = book.publish(killed("crm"));
        runtime().block_on(book.after(1, 0));
        let short = Duration::from_millis(20);
        assert_eq!(book.wait_for(serial, short), Word::Missing);
        // A word on rules that there are not is a word on those that there are.
        book.kept(1, u64::MAX, 0);
        assert_eq!(book.wait_for(serial, short), Word::Kept(0));
        let next = book.publish(killed("db"));
        assert_eq!(book.wait_for(next, short), Word::Missing);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| book.wait_for(next, Duration::from_secs(10)));
            std::thread::sleep(short);
            book.hung_up(1);
            assert_eq!(waits.join().unwrap(), Word::Missing);
        });
        assert_eq!(book.wait(next), Word::Nobody);
    }
}
