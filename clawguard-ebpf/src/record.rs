//! What is counted and what is told of a verdict.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_get_socket_cookie, bpf_probe_read_kernel,
    },
};
use clawguard_common::{
    Called, DecisionCount, DecisionKey, Endpoint, Event, Groups, Hook, MAX_DESTINATIONS, NAME_ROOM, NameEvent, REASONS,
    group, lost,
};

use crate::{
    maps::{CONNECTIONS, DECISIONS, Decisions, EVENTS, GREETINGS, HOST, STAMPS, TALKS, TOTALS, count_lost},
    tally,
    verdict::Verdict,
};

const EEXIST: i32 = -17;

/// Counts a verdict and answers whether it passes.
#[inline(always)]
pub(crate) fn settle(verdict: &Verdict, hook: Hook, remote: &Endpoint) -> bool {
    let passes = verdict.passes();
    if !verdict.canary {
        tell(verdict, hook, remote);
    }
    passes
}

/// Adds to the counters and to the interval's decisions. The first of its kind to deny is also an event.
#[inline(never)]
fn tell(verdict: &Verdict, hook: Hook, remote: &Endpoint) {
    let mut key = DecisionKey {
        job_key: verdict.job_key,
        serial: verdict.serial,
        remote: *remote,
        reason: verdict.reason as u8,
        hook: hook as u8,
        observed: u8::from(!verdict.allows() && verdict.passes()),
        pad: 0,
    };
    let slot = (verdict.agent as usize * REASONS + key.reason as usize) * 2 + key.observed as usize;
    if let Some(total) = TOTALS.get_ptr_mut(slot as u32) {
        // SAFETY: a per-CPU slot, which lives as long as the map.
        unsafe { *total = (*total).wrapping_add(1) };
    }
    if !verdict.passes() {
        tally::count(verdict.job, verdict.job_key, tally::DENIED);
    }
    let Some(decisions) = DECISIONS.get(0) else {
        count_lost(lost::DECISION);
        return;
    };
    if again(decisions, &key, verdict.now_ns) {
        return;
    }
    let mut first = DecisionCount {
        count: 1,
        first_ns: verdict.now_ns,
        last_ns: verdict.now_ns,
        rule: verdict.rule,
        ..DecisionCount::default()
    };
    if key.hook < Hook::Egress as u8 {
        who(&mut first);
    }
    if key.remote != Endpoint::default() {
        // The same records without a destination and without a count, in place: the stack has no room for more.
        key.remote = Endpoint::default();
        first.count = 0;
        if has_room(decisions, &key, &first) {
            key.remote = *remote;
        } else {
            count_lost(lost::DESTINATION);
        }
        first.count = 1;
    }
    match insert(decisions, &key, &first) {
        Inserted::New => {
            if !verdict.allows() {
                announce(&key, &first);
            }
        }
        Inserted::Known => {}
        Inserted::Full => {
            // Whoever came this far with a destination has an entry without one.
            key.remote = Endpoint::default();
            if again(decisions, &key, first.last_ns) {
                count_lost(lost::DESTINATION);
            } else {
                count_lost(lost::DECISION);
            }
        }
    }
}

/// Whether the job may have one more destination in the interval's table. `summary` is the key of the entry for those that
/// it may not; makes that entry, as `none`, if it is not there.
#[inline(always)]
fn has_room(decisions: &Decisions, summary: &DecisionKey, none: &DecisionCount) -> bool {
    if decisions.get_ptr_mut(summary).is_none() {
        // Another CPU may have been faster. Should the table be full, there is none below.
        let _ = decisions.insert(summary, none, u64::from(BPF_NOEXIST));
    }
    let Some(found) = decisions.get_ptr_mut(summary) else {
        return true;
    };
    // SAFETY: entries are never removed from an interval's table while programs use it. One word; two CPUs that add at
    // once may count one too few, which is room for one more.
    unsafe {
        let destinations = ptr::read_volatile(&raw const (*found).destinations);
        if destinations >= MAX_DESTINATIONS {
            return false;
        }
        ptr::write_volatile(&raw mut (*found).destinations, destinations + 1);
    }
    true
}

enum Inserted {
    New,
    Known,
    Full,
}

/// Inserts, or counts one more where another CPU was faster or the interval knows the kind.
#[inline(always)]
fn insert(decisions: &Decisions, key: &DecisionKey, first: &DecisionCount) -> Inserted {
    match decisions.insert(key, first, u64::from(BPF_NOEXIST)) {
        Ok(()) => Inserted::New,
        Err(EEXIST) if again(decisions, key, first.last_ns) => Inserted::Known,
        Err(_) => Inserted::Full,
    }
}

/// Counts one more of a kind that the interval has seen.
#[inline(always)]
fn again(decisions: &Decisions, key: &DecisionKey, now_ns: u64) -> bool {
    let Some(found) = decisions.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: entries are never removed from an interval's table while programs use it. The time is one word; of two
    // CPUs at the same nanosecond either is right.
    unsafe {
        add_one(&raw mut (*found).count);
        ptr::write_volatile(&raw mut (*found).last_ns, now_ns);
    }
    true
}

#[inline(always)]
fn who(first: &mut DecisionCount) {
    // SAFETY: the helpers read the current task, which the hooks that come here have.
    unsafe {
        first.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        first.uid = bpf_get_current_uid_gid() as u32;
        first.cgroup = bpf_get_current_cgroup_id();
        // Should it fail, the name stays empty.
        let _ = bpf_get_current_comm(first.comm.as_mut_ptr().cast(), first.comm.len() as u32);
    }
}

#[inline(always)]
fn announce(key: &DecisionKey, first: &DecisionCount) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        count_lost(lost::EVENT);
        return;
    };
    let event: *mut Event = entry.as_mut_ptr();
    // SAFETY: the reserved room is as long as an event. Part by part, to spare the stack a copy.
    unsafe {
        ptr::write(&raw mut (*event).key, *key);
        ptr::write(&raw mut (*event).first, *first);
    }
    entry.submit(0);
}

/// Tells that a flow was refused for what it called for.
///
/// # Safety
///
/// `socket` is a socket pointer that the verifier knows not to be null, in a packet program.
#[inline(never)]
pub(crate) unsafe fn announce_name(
    verdict: &Verdict,
    hook: Hook,
    remote: &Endpoint,
    skb: *mut __sk_buff,
    socket: *mut c_void,
) {
    let Some(mut entry) = EVENTS.reserve_untyped::<NameEvent>(0) else {
        count_lost(lost::EVENT);
        return;
    };
    let event: *mut NameEvent = entry.as_mut_ptr();
    let key = DecisionKey {
        job_key: verdict.job_key,
        serial: verdict.serial,
        remote: *remote,
        reason: verdict.reason as u8,
        hook: hook as u8,
        observed: u8::from(verdict.passes()),
        pad: 0,
    };
    // SAFETY: the reserved room is as long as an event, and its parts are written one by one; the caller's socket.
    unsafe {
        ptr::write(&raw mut (*event).key, key);
        (*event).at_ns = verdict.now_ns;
        (*event).cookie = bpf_get_socket_cookie(skb.cast());
        (*event).netns = STAMPS.get(socket).map_or(0, |stamp| stamp.netns);
        (*event).began = 0;
        (*event).pid = STAMPS.get(socket).map_or(0, |stamp| stamp.pid);
        (*event).pad = 0;
        (*event).called.prefix = 0;
        // One copy by the kernel instead of a loop here. Should it fail, nothing is told of what the flow said.
        match TALKS.get(socket) {
            Some(talk) if talk.called.prefix != 0 => {
                let to = (&raw mut (*event).called).cast();
                let from = ptr::from_ref(&talk.called).cast();
                let _ = bpf_probe_read_kernel(to, size_of::<Called>() as u32, from);
            }
            _ => {
                if let Some(greeting) = GREETINGS.get(socket) {
                    // Always as many as have room: a count that varies is one more thing for the verifier to follow.
                    let to = (&raw mut (*event).called.data.reversed).cast();
                    let from = ptr::from_ref(&greeting.bytes).cast();
                    if bpf_probe_read_kernel(to, NAME_ROOM as u32, from) == 0 {
                        (*event).began = greeting.have;
                    }
                }
            }
        }
    }
    entry.submit(0);
}

/// Counts a connection that the gateway has taken, if it is one for models.
#[inline(always)]
pub(crate) fn count_taken(job: u32, port: u16) {
    let at = HOST.get(0).map_or(0, |host| host.models_at);
    if at != 0
        && at == u64::from(port)
        && let Some(counted) = CONNECTIONS.get_ptr_mut(job)
    {
        // SAFETY: one word of a map that lives as long as the program runs.
        unsafe { add_one(&raw mut (*counted).models) };
    }
}

/// Counts a flow that may speak, if it is one to a model's own endpoint.
#[inline(always)]
pub(crate) fn count_direct(job: u32, groups: &Groups) {
    if groups.contains(group::MODEL)
        && let Some(counted) = CONNECTIONS.get_ptr_mut(job)
    {
        // SAFETY: as above.
        unsafe { add_one(&raw mut (*counted).direct) };
    }
}

/// Atomically adds one.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn add_one(word: *mut u64) {
    // SAFETY: an atomic addition to a word that the caller vouches for.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1_u64) };
}

/// Not run: on the host this crate is only checked, never executed.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) unsafe fn add_one(_word: *mut u64) {}
