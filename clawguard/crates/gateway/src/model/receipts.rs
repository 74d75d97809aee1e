//! Receipts of late, by what the client calls its call: so that one can be asked for, and no call be made twice.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

/// How long a receipt may be asked for, and its name is not given to another call.
const KEPT: Duration = Duration::from_secs(300);
/// How long whoever asks for the receipt of a call that is under way waits for it.
const MOMENT: Duration = Duration::from_secs(2);
/// Bytes of a job's receipts that are kept; beyond, its oldest are forgotten. No other job's: a name that is forgotten early lets a
/// call be made twice.
const MOST_BYTES: usize = 8 << 20;
/// Bytes that a name may have.
const NAME: usize = 128;
/// What a receipt takes beside its own bytes, about.
const EACH: usize = 512;

/// A call that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) run_id: String,
    pub(crate) event_hash: String,
    /// The provider's status.
    pub(crate) status: u16,
    /// The envelope, or why there is none.
    pub(crate) receipt: Result<String, String>,
}

/// A job's key and a name.
type Name = (u64, Arc<str>);

/// What is known of a name.
#[derive(Clone, Debug)]
enum State {
    UnderWay,
    Ended(Arc<Kept>),
}

/// How a receipt that is asked for stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Unknown,
    UnderWay,
    Ended(Arc<Kept>),
}

/// One job's.
#[derive(Default)]
struct Known {
    names: HashMap<Arc<str>, State>,
    /// Those that ended, the oldest first.
    ended: VecDeque<(Instant, Arc<str>, usize)>,
    bytes: usize,
}

/// All of late.
#[derive(Default)]
pub(crate) struct Receipts {
    /// By the job's key.
    jobs: Mutex<HashMap<u64, Known>>,
    /// Rung when a call has ended.
    ended: Notify,
}

/// Holds a call's name. A call that ends without a word leaves its name free.
pub(crate) struct Ticket {
    receipts: Arc<Receipts>,
    name: Name,
}

/// Whether a text can be a call's name: it stands in a URL as it is.
pub(crate) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:".contains(&byte);
    !text.is_empty() && text.len() <= NAME && text.bytes().all(fits)
}

impl Receipts {
    /// Takes a name for a call; `None` if another has it.
    pub(crate) fn take(self: &Arc<Self>, key: u64, name: &str) -> Option<Ticket> {
        let name: Arc<str> = name.into();
        let mut jobs = self.lock();
        if !jobs.contains_key(&key) {
            // Those that are over ask for nothing any more.
            let now = Instant::now();
            jobs.retain(|_, known| !known.forget(now).names.is_empty());
        }
        let known = jobs.entry(key).or_default().forget(Instant::now());
        if known.names.contains_key(&name) {
            return None;
        }
        known.names.insert(Arc::clone(&name), State::UnderWay);
        drop(jobs);
        Some(Ticket { receipts: Arc::clone(self), name: (key, name) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the receipt of a job's call stands, once it has ended or a moment has passed: clients stop reading at the last event, and
    /// ask before the stream has ended behind it.
    pub(crate) async fn wait(&self, key: u64, name: &str) -> Asked {
        let ended = async {
            loop {
                let rung = self.ended.notified();
                let asked = self.ask(key, name);
                if asked != Asked::UnderWay {
                    return asked;
                }
                rung.await;
            }
        };
        timeout(MOMENT, ended).await.unwrap_or(Asked::UnderWay)
    }

    /// How the receipt of a job's call stands. Those of other jobs are not there.
    pub(crate) fn ask(&self, key: u64, name: &str) -> Asked {
        let mut jobs = self.lock();
        let known = jobs.get_mut(&key).map(|known| known.forget(Instant::now()));
        match known.and_then(|known| known.names.get(name)) {
            None => Asked::Unknown,
            Some(State::UnderWay) => Asked::UnderWay,
            Some(State::Ended(kept)) => Asked::Ended(Arc::clone(kept)),
        }
    }
}

impl Known {
    fn forget(&mut self, now: Instant) -> &mut Self {
        while let Some((at, ..)) = self.ended.front()
            && (now.duration_since(*at) >= KEPT || self.bytes > MOST_BYTES)
        {
            if let Some((_, name, bytes)) = self.ended.pop_front() {
                self.names.remove(&name);
                self.bytes -= bytes;
            }
        }
        self
    }
}

impl Ticket {
    /// What the call is called.
    pub(crate) fn name(&self) -> &str {
        &self.name.1
    }

    /// Keeps a call's receipt.
    pub(crate) fn keep(self, kept: Kept) {
        let text = kept.receipt.as_ref().map_or_else(String::len, String::len);
        let bytes = EACH + text + kept.run_id.len() + self.name.1.len();
        let (key, name) = &self.name;
        let mut jobs = self.receipts.lock();
        let known = jobs.entry(*key).or_default();
        known.names.insert(Arc::clone(name), State::Ended(Arc::new(kept)));
        known.ended.push_back((Instant::now(), Arc::clone(name), bytes));
        known.bytes += bytes;
        known.forget(Instant::now());
        drop(jobs);
        self.receipts.ended.notify_waiters();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (key, name) = &self.name;
        let mut jobs = self.receipts.lock();
        if let Some(known) = jobs.get_mut(key)
            && matches!(known.names.get(name), Some(State::UnderWay))
        {
            known.names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(receipt: &str) -> Kept {
        Kept { run_id: "r".into(), event_hash: "e".into(), status: 200, receipt: Ok(receipt.into()) }
    }

    #[test]
    fn a_name_is_one_calls_until_it_is_forgotten() {
        let receipts = Arc::new(Receipts::default());
        let ticket = receipts.take(1, "n").unwrap();
        assert!(receipts.take(1, "n").is_none() && receipts.take(2, "n").is_some());
        assert_eq!(receipts.ask(1, "n"), Asked::UnderWay);
        ticket.keep(kept("x"));
        assert!(receipts.take(1, "n").is_none());
        assert_eq!((receipts.ask(1, "n"), receipts.ask(2, "n")), (Asked::Ended(Arc::new(kept("x"))), Asked::Unknown));
        receipts.lock().get_mut(&1).unwrap().forget(Instant::now() + KEPT);
        assert_eq!(receipts.ask(1, "n"), Asked::Unknown);
        drop(receipts.take(1, "n").unwrap());
        assert!(receipts.take(1, "n").is_some());
    }

    #[test]
    fn many_receipts_fill_no_memory_and_push_no_other_jobs_out() {
        let receipts = Arc::new(Receipts::default());
        receipts.take(2, "n").unwrap().keep(kept("x"));
        for n in 0..200 {
            receipts.take(1, &n.to_string()).unwrap().keep(kept(&"x".repeat(100_000)));
            assert!(receipts.lock()[&1].bytes <= MOST_BYTES);
        }
        assert_eq!(receipts.ask(1, "0"), Asked::Unknown);
        assert!(matches!(receipts.ask(1, "199"), Asked::Ended(_)));
        // And it is not made again.
        assert!(matches!(receipts.ask(2, "n"), Asked::Ended(_)) && receipts.take(2, "n").is_none());
        let known = &receipts.lock()[&1];
        assert_eq!(known.names.len(), known.ended.len());
    }

    #[test]
    fn nothing_stays_of_jobs_that_are_over() {
        let receipts = Arc::new(Receipts::default());
        for key in 0..100 {
            drop(receipts.take(key, "given up").unwrap());
        }
        assert_eq!(receipts.lock().len(), 1);
        let under_way = receipts.take(1, "n").unwrap();
        drop(receipts.take(2, "n"));
        assert_eq!(receipts.ask(1, "n"), Asked::UnderWay);
        drop(under_way);
    }

    #[test]
    fn a_name_stands_in_a_url_as_it_is() {
        for good in ["n", "a-B_1.~:", &"x".repeat(128)] {
            assert!(is_name(good));
        }
        for bad in ["", "a b", "a/b", "a%2f", "\u{e4}", "a?b", &"x".repeat(129)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
