//! What each job did, in a record of its own that no interval ends.

use core::mem::offset_of;

use clawguard_common::{Endpoint, Tally, guard, protocol};

use crate::{
    maps::{JOBS, TALLIES},
    record::add_one,
    verdict::Verdict,
};

/// Which word of a [`Tally`].
pub(crate) type What = usize;

pub(crate) const CONNECTS: What = offset_of!(Tally, connects) / 8;
pub(crate) const FLOWS: What = offset_of!(Tally, flows) / 8;
pub(crate) const TO_GATEWAY: What = offset_of!(Tally, to_gateway) / 8;
pub(crate) const OWN: What = offset_of!(Tally, own) / 8;
pub(crate) const UNRULED: What = offset_of!(Tally, unruled) / 8;
pub(crate) const DENIED: What = offset_of!(Tally, denied) / 8;
pub(crate) const SPAWNED: What = offset_of!(Tally, spawned) / 8;
pub(crate) const ENDED: What = offset_of!(Tally, ended) / 8;
pub(crate) const TAKEN_OVER: What = offset_of!(Tally, taken_over) / 8;
pub(crate) const EXECS: What = offset_of!(Tally, execs) / 8;

/// Counts one more for a job. What is left of a job that is gone counts for nobody.
#[inline(always)]
pub(crate) fn count(job: u32, key: u64, what: What) {
    if JOBS.get(job).is_none_or(|job| job.key != key) {
        return;
    }
    if let Some(tally) = TALLIES.get_ptr_mut(job) {
        // SAFETY: a word of a record of the map's, which lives as long as the program runs.
        unsafe { add_one(tally.cast::<u64>().add(what)) };
    }
}

/// Counts a flow that begins and that was judged, where it passes.
#[inline(always)]
pub(crate) fn begun(verdict: &Verdict, remote: &Endpoint) {
    if verdict.canary || !verdict.passes() {
        return;
    }
    let what = match (verdict.own, guard::job(remote.addr).is_some()) {
        (true, true) => TO_GATEWAY,
        (true, false) => OWN,
        _ if !verdict.allows() => UNRULED,
        _ if remote.protocol == protocol::TCP => CONNECTS,
        _ => FLOWS,
    };
    count(verdict.job, verdict.job_key, what);
}
