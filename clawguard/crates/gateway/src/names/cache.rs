//! What the resolvers answered to one job. Never to another: how fast an answer comes would tell what others ask.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// A question, whoever asks it again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    /// Slot of the job.
    pub(super) job: u32,
    /// In lower case, without the root's dot.
    pub(super) name: Arc<str>,
    /// Whether addresses of IPv6 are asked for, or of IPv4.
    pub(super) v6: bool,
}

/// What the resolvers answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Known {
    /// Number of the job for which they were asked.
    pub(super) number: u64,
    /// Of the asked family.
    pub(super) addresses: Arc<[IpAddr]>,
    /// The name does not exist at all.
    pub(super) missing: bool,
    /// How long it is good.
    pub(super) until: Instant,
}

impl Known {
    /// How long it is still good, in whole seconds; `None` once it is not.
    pub(super) fn seconds_left(&self, now: Instant) -> Option<u32> {
        let left = self.until.saturating_duration_since(now);
        // Rounded up: what is good for half a second is not good for ever, which 0 would mean to some.
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        if left == Duration::ZERO { None } else { Some(u32::try_from(seconds).unwrap_or(u32::MAX)) }
    }
}

/// What is known of all jobs, each for itself.
pub(super) struct Cache {
    most: usize,
    most_of_a_job: usize,
    last: u64,
    known: HashMap<Key, (u64, Known)>,
    /// Oldest first.
    order: BTreeMap<u64, Key>,
    of_job: HashMap<u32, BTreeSet<u64>>,
}

impl Cache {
    pub(super) fn new(most: usize, most_of_a_job: usize) -> Self {
        Self { most, most_of_a_job, last: 0, known: HashMap::new(), order: BTreeMap::new(), of_job: HashMap::new() }
    }

    /// What is known and still good.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Known> {
        let (number, known) = self.known.get(key)?;
        if known.seconds_left(now).is_some() {
            return Some(known.clone());
        }
        let number = *number;
        self.forget(number);
        None
    }

    /// Forgets what is known of a question.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some((number, _)) = self.known.get(key) {
            self.forget(*number);
        }
    }

    /// Keeps what was answered; what has been kept longest makes room.
    pub(super) fn put(&mut self, key: Key, known: Known) {
        if let Some((number, _)) = self.known.get(&key) {
            self.forget(*number);
        }
        let of_job = self.of_job.get(&key.job);
        if of_job.is_some_and(|numbers| numbers.len() >= self.most_of_a_job)
            && let Some(oldest) = of_job.and_then(|numbers| numbers.first().copied())
        {
            self.forget(oldest);
        }
        if self.known.len() >= self.most
            && let Some(oldest) = self.order.keys().next().copied()
        {
            self.forget(oldest);
        }
        self.last += 1;
        self.of_job.entry(key.job).or_default().insert(self.last);
        self.order.insert(self.last, key.clone());
        self.known.insert(key, (self.last, known));
    }

    fn forget(&mut self, number: u64) {
        let Some(key) = self.order.remove(&number) else { return };
        self.known.remove(&key);
        if let Some(numbers) = self.of_job.get_mut(&key.job) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_job.remove(&key.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(job: u32, name: &str) -> Key {
        Key { job, name: name.into(), v6: false }
    }

    fn known(now: Instant, seconds: u64) -> Known {
        let addresses = Arc::new([IpAddr::from([203, 0, 113, 1])]);
        Known { number: 1, addresses, missing: false, until: now + Duration::from_secs(seconds) }
    }

    #[test]
    fn what_one_job_learnt_another_does_not_know() {
        let now = Instant::now();
        let mut cache = Cache::new(10, 10);
        cache.put(key(7, "api.example"), known(now, 30));
        assert!(cache.get(&key(7, "api.example"), now).is_some());
        assert_eq!(cache.get(&key(8, "api.example"), now), None);
        assert_eq!(cache.get(&Key { v6: true, ..key(7, "api.example") }, now), None);
    }

    #[test]
    fn what_is_no_longer_good_is_forgotten() {
        let now = Instant::now();
        let mut cache = Cache::new(10, 10);
        cache.put(key(7, "api.example"), known(now, 30));
        let known = cache.get(&key(7, "api.example"), now + Duration::from_millis(29_500)).unwrap();
        assert_eq!(known.seconds_left(now + Duration::from_millis(29_500)), Some(1));
        assert_eq!(cache.get(&key(7, "api.example"), now + Duration::from_secs(30)), None);
        assert!(cache.known.is_empty() && cache.order.is_empty() && cache.of_job.is_empty());
    }

    #[test]
    fn the_oldest_makes_room() {
        let now = Instant::now();
        let mut cache = Cache::new(6, 4);
        for number in 0..100 {
            cache.put(key(1, &format!("{number}.example")), known(now, 30));
        }
        assert_eq!(cache.known.len(), 4, "a job's own");
        assert!(cache.get(&key(1, "99.example"), now).is_some() && cache.get(&key(1, "95.example"), now).is_none());
        for job in 2..100 {
            cache.put(key(job, "api.example"), known(now, 30));
        }
        assert_eq!((cache.known.len(), cache.order.len(), cache.of_job.len()), (6, 6, 6), "of all");
        cache.put(key(99, "api.example"), known(now, 60));
        assert_eq!((cache.known.len(), cache.order.len()), (6, 6), "asked again, it stands once");
    }
}
