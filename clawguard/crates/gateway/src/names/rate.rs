//! How much a job may ask, and what becomes of the rest.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Jobs that are kept in mind before those that are idle are forgotten.
const MANY: usize = 1024;
/// How long a job's new names count.
const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bucket of tokens for each job: it holds four seconds' worth.
pub(super) struct Rate {
    per_second: f64,
    buckets: HashMap<u32, (f64, Instant)>,
}

impl Rate {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: per_second.into(), buckets: HashMap::new() }
    }

    /// Whether the job may ask one more question.
    pub(super) fn take(&mut self, job: u32, now: Instant) -> bool {
        let (per_second, most) = (self.per_second, self.per_second * 4.0);
        let full = |(tokens, at): (f64, Instant)| {
            (tokens + per_second * now.saturating_duration_since(at).as_secs_f64()).min(most)
        };
        if self.buckets.len() >= MANY && !self.buckets.contains_key(&job) {
            // A bucket that is full says no more than none. There are never more than jobs, whose slots end at 65536.
            self.buckets.retain(|_, bucket| full(*bucket) < most);
        }
        let bucket = self.buckets.entry(job).or_insert((most, now));
        let tokens = full(*bucket);
        let may = tokens >= 1.0;
        *bucket = (if may { tokens - 1.0 } else { tokens }, now);
        may
    }
}

/// Which names below a wildcard a job asked for in the last minute.
pub(super) struct NewNames {
    per_minute: usize,
    names: HashMap<u32, (Instant, HashSet<Arc<str>>)>,
}

impl NewNames {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute as usize, names: HashMap::new() }
    }

    /// Whether the job may ask for this name, as one that it asked for already or as one more.
    pub(super) fn take(&mut self, job: u32, name: &Arc<str>, now: Instant) -> bool {
        let old = |since: Instant| now.saturating_duration_since(since) >= MINUTE;
        if self.names.len() >= MANY && !self.names.contains_key(&job) {
            self.names.retain(|_, (since, _)| !old(*since));
        }
        let (since, names) = self.names.entry(job).or_insert_with(|| (now, HashSet::new()));
        if old(*since) {
            (*since, *names) = (now, HashSet::new());
        }
        if !names.contains(name) {
            if names.len() >= self.per_minute {
                return false;
            }
            names.insert(Arc::clone(name));
        }
        true
    }
}

/// Places for so many in all, and for so many of one job.
#[derive(Clone)]
pub(super) struct Places {
    most: usize,
    most_of_a_job: usize,
    taken: Arc<Mutex<(usize, HashMap<u32, usize>)>>,
}

/// A place, until it is dropped.
pub(super) struct Place {
    job: u32,
    places: Places,
}

impl Places {
    pub(super) fn new(most: usize, most_of_a_job: usize) -> Self {
        Self { most, most_of_a_job, taken: Arc::default() }
    }

    pub(super) fn take(&self, job: u32) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let of_job = taken.1.get(&job).copied().unwrap_or(0);
        if taken.0 >= self.most || of_job >= self.most_of_a_job {
            return None;
        }
        taken.0 += 1;
        taken.1.insert(job, of_job + 1);
        Some(Place { job, places: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        taken.0 -= 1;
        if let Some(of_job) = taken.1.get_mut(&self.job) {
            *of_job -= 1;
            if *of_job == 0 {
                taken.1.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_seconds_worth_at_once_and_then_so_many_a_second() {
        let now = Instant::now();
        let mut rate = Rate::new(5);
        assert_eq!((0..100).filter(|_| rate.take(1, now)).count(), 20);
        assert!(rate.take(2, now), "another job has its own");
        let later = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| rate.take(1, later)).count(), 5);
        let much_later = now + Duration::from_secs(1000);
        assert_eq!((0..100).filter(|_| rate.take(1, much_later)).count(), 20);
    }

    #[test]
    fn idle_jobs_take_no_memory() {
        let now = Instant::now();
        let (mut rate, mut names) = (Rate::new(5), NewNames::new(5));
        for job in 0..60_000 {
            let now = now + MINUTE * (job / 1000);
            assert!(rate.take(job, now));
            assert!(names.take(job, &"a.example".into(), now));
        }
        assert!(rate.buckets.len() <= MANY && names.names.len() <= MANY);
    }

    #[test]
    fn so_many_new_names_a_minute_and_no_more() {
        let now = Instant::now();
        let mut names = NewNames::new(3);
        let mut take = |name: &str, seconds| names.take(1, &name.into(), now + Duration::from_secs(seconds));
        assert!(take("a.example", 0) && take("b.example", 10) && take("c.example", 20));
        assert!(!take("d.example", 59));
        assert!(take("a.example", 59), "what was asked for is not new");
        assert!(take("d.example", 60));
    }

    #[test]
    fn a_job_that_takes_all_its_places_leaves_others_theirs() {
        let places = Places::new(5, 3);
        let mut held: Vec<Place> = (0..9).filter_map(|_| places.take(1)).collect();
        assert_eq!(held.len(), 3);
        held.extend((0..9).filter_map(|_| places.take(2)));
        assert_eq!(held.len(), 5);
        assert!(places.take(3).is_none());
        held.clear();
        assert!(places.take(3).is_some() && lock(&places.taken).1.is_empty());
    }
}
