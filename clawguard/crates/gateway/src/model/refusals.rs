//! Refusals on their way into the audit chain: the first of a job's one by one, a flood of them added up.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use control::{
    channel::{Ask, Told},
    model::ModelCall,
};
use tokio::time::sleep;

use crate::channel::Channel;

/// How often what was added up is told.
const OFTEN: Duration = Duration::from_secs(5);
/// Refusals that are recorded one by one in that time.
const ONE_BY_ONE: u64 = 64;
/// Kinds of refusals of one job that are told apart when they are added up.
const MOST_KINDS: usize = 32;

#[derive(Default)]
struct Counted {
    refused: u64,
    untold: Vec<ModelCall>,
}

/// What each job was refused of late.
#[derive(Default)]
pub(crate) struct Refusals {
    jobs: Mutex<HashMap<u64, Counted>>,
}

impl Refusals {
    /// Counts a refusal; gives it back if it is to be recorded by itself.
    pub(crate) fn count(&self, call: ModelCall) -> Option<ModelCall> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = jobs.entry(call.key).or_default();
        counted.refused += 1;
        if counted.refused <= ONE_BY_ONE {
            return Some(call);
        }
        let alike = |told: &ModelCall| (&told.reason, &told.provider) == (&call.reason, &call.provider);
        // Where there are too many kinds, the last one stands for all others.
        let at = counted
            .untold
            .iter()
            .position(alike)
            .or_else(|| MOST_KINDS.checked_sub(1).filter(|at| *at < counted.untold.len()));
        match at.and_then(|at| counted.untold.get_mut(at)) {
            Some(told) => told.count += 1,
            None => counted.untold.push(call),
        }
        None
    }

    /// Records what was added up, for ever.
    pub(crate) async fn tell(&self, daemon: &Channel) -> std::io::Result<()> {
        loop {
            sleep(OFTEN).await;
            let jobs = std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner));
            for call in jobs.into_values().flat_map(|counted| counted.untold) {
                if let Told::Unrecorded(why) = daemon.ask(Ask::Model(Box::new(call))).await? {
                    tracing::error!(why, "refusals of model calls could not be recorded");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::calls::Decision;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_kept() {
        let call = |reason: &str| ModelCall {
            number: 1,
            slot: 1,
            key: 7,
            provider: "openai".into(),
            model: String::new(),
            route: String::new(),
            streamed: false,
            nonce: String::new(),
            request_hash: String::new(),
            bytes_in: 0,
            redactions: 0,
            decision: Decision::Denied,
            reason: reason.into(),
            rule: None,
            contract: String::new(),
            token: None,
            count: 1,
        };
        let refusals = Refusals::default();
        let one_by_one = (0..1000).filter(|_| refusals.count(call("a")).is_some()).count() as u64;
        for n in 0..1000 {
            assert!(refusals.count(call(&format!("b{n}"))).is_none());
        }
        let jobs = refusals.jobs.lock().unwrap();
        let added: u64 = jobs[&7].untold.iter().map(|call| call.count).sum();
        assert_eq!((one_by_one, one_by_one + added, jobs[&7].untold.len()), (ONE_BY_ONE, 2000, MOST_KINDS));
    }
}
