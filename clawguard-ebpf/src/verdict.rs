//! The one decision that every hook asks for.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel};
use clawguard_common::{
    ADDRESS, Addr, Endpoint, ExactKey, Groups, Hook, Host, INBOUND, JOB_NONE, Job, LearnedKey, NO_RULE, PolicyHead,
    RangeData, Reason, Rule, bound, group, guard, job, policy, protocol, side, tag,
};

use crate::{
    maps::{AGENTS, CALLERS, EXACT, HOST, JOBS, LEARNED, POLICIES, RANGES},
    record::settle,
    socket::{Ends, peer},
};

/// By which rules a flow's other end is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A connection that the agent made: by what it may reach.
    Egress,
    /// A connection that it accepted: by where it may listen.
    Listen,
    /// Datagrams: by either.
    Either,
}

/// Whose flow it is, as its stamp or the caller's cgroup says.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) job: u32,
    /// [`Job::key`], or [`ANY_KEY`].
    pub(crate) key: u64,
}

/// Stands where the cgroup alone says whose a flow is. No job has it.
pub(crate) const ANY_KEY: u64 = u64::MAX;

/// What was decided, and under what. (No pointer to the rule: the verifier forgets what a pointer is on its way through a called
/// function's stack.)
#[derive(Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) deadline_ns: u64,
    pub(crate) now_ns: u64,
    pub(crate) job_key: u64,
    pub(crate) serial: u64,
    /// The groups that a kill would have to name.
    pub(crate) groups: Groups,
    /// Number of the rule that was found, whether it allows or denies.
    pub(crate) rule: u32,
    /// Of that rule: [`clawguard_common::rule`].
    pub(crate) flags: u32,
    /// Slot of the job.
    pub(crate) job: u32,
    pub(crate) agent: u32,
    /// Slot of the contract.
    pub(crate) policy: u32,
    pub(crate) reason: Reason,
    /// Allowed because both ends are the job's own, or one is the gateway's.
    pub(crate) own: bool,
    pub(crate) observe: bool,
    pub(crate) canary: bool,
}

impl Verdict {
    /// Whether the socket, flow or packet goes on. In observe mode only a kill stops it.
    #[inline(always)]
    pub(crate) fn passes(&self) -> bool {
        self.allows() || (self.observe && self.reason as u8 != Reason::Killed as u8)
    }

    /// Whether the contract allows it.
    #[inline(always)]
    pub(crate) fn allows(&self) -> bool {
        self.reason as u8 == Reason::Allowed as u8
    }
}

/// Writes a verdict that needs no rule: the reason, in the name of the owner's job and under its mode.
///
/// # Safety
///
/// There is room for a verdict.
#[inline(always)]
unsafe fn refuse(verdict: *mut Verdict, owner: Owner, reason: Reason) -> &'static mut Verdict {
    // SAFETY: the caller's promise; every part is written, in place, to spare the stack a copy. The helper reads a clock.
    let verdict = unsafe {
        (&raw mut (*verdict).deadline_ns).write(0);
        (&raw mut (*verdict).now_ns).write(bpf_ktime_get_boot_ns());
        (&raw mut (*verdict).job_key).write(if owner.key == ANY_KEY { 0 } else { owner.key });
        (&raw mut (*verdict).serial).write(0);
        (&raw mut (*verdict).groups).write(Groups::one(group::ALL));
        (&raw mut (*verdict).rule).write(NO_RULE);
        (&raw mut (*verdict).flags).write(0);
        (&raw mut (*verdict).job).write(owner.job);
        (&raw mut (*verdict).agent).write(0);
        (&raw mut (*verdict).policy).write(0);
        (&raw mut (*verdict).reason).write(reason);
        (&raw mut (*verdict).own).write(false);
        (&raw mut (*verdict).observe).write(false);
        (&raw mut (*verdict).canary).write(false);
        &mut *verdict
    };
    if let Some(job) = JOBS.get(owner.job) {
        take_job(verdict, owner, job);
    }
    verdict
}

/// Refuses for a reason that needs no rule, counts and tells it. Answers whether it passes all the same. Of several in one
/// program the verdicts take the same room.
#[inline(always)]
pub(crate) fn refused(
    room: &mut MaybeUninit<Verdict>,
    owner: Owner,
    reason: Reason,
    hook: Hook,
    remote: &Endpoint,
) -> bool {
    // SAFETY: the room is there.
    settle(unsafe { refuse(room.as_mut_ptr(), owner, reason) }, hook, remote)
}

/// Has the kernel copy a value onto itself. The verifier then knows of it only what it is, and follows one path where it would
/// follow one for each way in which it may have come about. Answers whether the copy succeeded; if not, all is zero.
#[inline(always)]
#[must_use]
pub(crate) fn forget<T>(value: &mut T) -> bool {
    let value = ptr::from_mut(value);
    // SAFETY: as many bytes as it has, from and to where it is.
    unsafe { bpf_probe_read_kernel(value.cast(), size_of::<T>() as u32, value.cast()) == 0 }
}

/// Notes whose verdict it is; answers whether that job is in force.
#[inline(always)]
fn take_job(verdict: &mut Verdict, owner: Owner, job: &Job) -> bool {
    let key = job.key;
    if key == 0 || (owner.key != ANY_KEY && owner.key != key) {
        return false;
    }
    let flags = job.flags;
    verdict.job_key = key;
    verdict.agent = job.agent as u32;
    verdict.observe = flags & job::OBSERVE != 0;
    verdict.canary = flags & job::CANARY != 0;
    flags & job::OVER == 0
}

/// A flow that is to be judged.
pub(crate) struct Flowing {
    pub(crate) owner: Owner,
    /// Both ends, as on the wire.
    pub(crate) ends: Ends,
    /// The other end, as it is judged.
    pub(crate) remote: Endpoint,
    /// The socket's own port; 0 where it does not matter.
    pub(crate) local_port: u16,
    pub(crate) by: By,
    /// Whether the flow was allowed before: an answer that is no longer good still holds for it.
    pub(crate) lives: bool,
}

/// Judges the other end of a flow. Of one that others began and that is denied, `remote` has the socket's own port then: a rule
/// would have to name that, and the caller's is chance.
///
/// # Safety
///
/// `ctx` is the program's context, of a kind that has the socket look-up helpers; the others are live.
#[inline(never)]
pub(crate) unsafe fn judge(ctx: *mut c_void, flow: *mut Flowing, verdict: *mut Verdict) {
    // SAFETY: the caller's promise.
    let flow = unsafe { &mut *flow };
    let owner = flow.owner;
    // SAFETY: the caller's promise.
    let verdict = unsafe { refuse(verdict, owner, Reason::JobOver) };
    if owner.job == JOB_NONE {
        verdict.reason = Reason::NoJob;
        return;
    }
    let (Some(job), Some(host)) = (JOBS.get(owner.job), HOST.get(0)) else {
        verdict.reason = Reason::Internal;
        return;
    };
    if !take_job(verdict, owner, job) {
        return;
    }
    let slot = job.policy as u32;
    let Some(head) = POLICIES.get(slot) else {
        verdict.reason = Reason::Internal;
        return;
    };
    if slot == 0 {
        verdict.reason = Reason::NoContract;
    } else {
        verdict.serial = head.serial;
        verdict.policy = slot;
        verdict.deadline_ns = if head.deadline_ns < job.deadline_ns { head.deadline_ns } else { job.deadline_ns };
        let (reason, rule) = find(verdict, head, flow);
        verdict.reason = reason;
        if let Some(rule) = rule {
            verdict.groups = rule.groups;
            verdict.rule = rule.number;
            verdict.flags = u32::from(rule.flags);
        }
        if !verdict.allows() && flow.remote.loopback != 0 {
            let own = own_peer(verdict, host, flow);
            // SAFETY: the caller's promise.
            if own != 0 && unsafe { peer(ctx, &flow.ends) } == own {
                verdict.reason = Reason::Allowed;
                verdict.groups = Groups::one(group::ALL);
                verdict.rule = NO_RULE;
                verdict.flags = 0;
                verdict.own = true;
            } else if is_guard(host, &flow.remote) {
                // Nobody guards here: in another network namespace the guard does not listen.
                verdict.reason = Reason::Dns;
            }
        }
        if verdict.now_ns >= verdict.deadline_ns {
            verdict.reason = if verdict.now_ns >= head.deadline_ns { Reason::Expired } else { Reason::TokenEnded };
        }
    }
    if !verdict.allows() && matches!(flow.by, By::Listen) {
        flow.remote.loopback |= INBOUND;
        flow.remote.port = flow.local_port;
    }
    // Last, because a kill holds whatever else is true, in observe mode too.
    if is_killed(verdict) {
        verdict.reason = Reason::Killed;
    }
}

/// Whether one of the groups that a verdict rests on is killed, for the host, the agent or the job. What no rule names belongs to
/// `all` alone.
#[inline(always)]
pub(crate) fn is_killed(verdict: &Verdict) -> bool {
    let (Some(host), Some(agent), Some(job)) = (HOST.get(0), AGENTS.get(verdict.agent), JOBS.get(verdict.job)) else {
        return true;
    };
    let groups = &verdict.groups;
    groups.intersects(&host.killed) || groups.intersects(&agent.killed) || groups.intersects(&job.killed)
}

/// Notes who asks the guard at `::1`, before the packet that it is for arrives.
#[inline(never)]
pub(crate) fn note_caller(verdict: &Verdict, flow: &Flowing) {
    let guard_port = HOST.get(0).map_or(0, |host| host.guard_port);
    let asks = verdict.own && u64::from(flow.remote.port) == guard_port && flow.remote.addr == Addr::LOOPBACK6;
    if asks && flow.ends.local == Addr::LOOPBACK6 {
        let udp = flow.remote.protocol == protocol::UDP;
        if let Some(caller) = CALLERS.get_ptr_mut(guard::caller(flow.local_port, udp)) {
            // SAFETY: one word of a map that lives as long as the program runs.
            unsafe { caller.write_volatile(u64::from(verdict.job)) };
        }
    }
}

/// Whether an endpoint is one of the DNS guard's.
#[inline(always)]
fn is_guard(host: &Host, remote: &Endpoint) -> bool {
    u64::from(remote.port) == host.guard_port && (guard::job(remote.addr).is_some() || remote.addr == Addr::LOOPBACK6)
}

/// Whether the gateway serves jobs at a port, each at its own address.
#[inline(always)]
fn serves(host: &Host, port: u16, udp: bool) -> bool {
    let at = u64::from(port);
    at != 0 && (at == host.guard_port || (!udp && (at == host.tools_at || at == host.models_at)))
}

/// Whose socket must be at the other end of a loopback flow that no rule names: the job's own; the gateway's at the address
/// at which it serves this job; and at the gateway's side that of the job whose address was asked.
#[inline(always)]
fn own_peer(verdict: &Verdict, host: &Host, flow: &Flowing) -> u64 {
    let udp = flow.remote.protocol == protocol::UDP;
    if serves(host, flow.remote.port, udp)
        && let Some(job) = guard::job(flow.remote.addr)
    {
        return if job == verdict.job { host.guard_key } else { 0 };
    }
    if verdict.job_key == host.guard_key && serves(host, flow.local_port, udp) {
        if flow.remote.addr == Addr::LOOPBACK6 && u64::from(flow.local_port) == host.guard_port {
            let asker = CALLERS.get(guard::caller(flow.remote.port, udp)).and_then(|slot| JOBS.get(*slot as u32));
            return asker.map_or(0, |job| job.key);
        }
        let asker = guard::job(flow.ends.local).and_then(|slot| JOBS.get(slot));
        return asker.map_or(0, |job| job.key);
    }
    if host.guard_port != 0 && u64::from(flow.remote.port) == host.guard_port && flow.remote.addr == Addr::LOOPBACK6 {
        return host.guard_key;
    }
    verdict.job_key
}

/// Whether a rule's names may be called for at an address and port, by an agent under a contract.
#[inline(always)]
pub(crate) fn is_bound(agent: u32, policy: u32, (serial, now_ns): (u64, u64), remote: &Endpoint, number: u32) -> bool {
    let tag = tag(side::EGRESS, remote.protocol, remote.port);
    let place = ExactKey { tag, rule: bound(number), addr: remote.addr };
    let key = LearnedKey { agent, policy, place };
    if let Some(exact) = EXACT.get(policy)
        // SAFETY: the entries of a contract's maps are written before a job points to them and never change.
        && unsafe { exact.get(key.place) }.is_some()
    {
        return true;
    }
    // SAFETY: an entry is read only for its serial and its end, each one word.
    unsafe { LEARNED.get(key) }.is_some_and(|learned| learned.serial == serial && now_ns < learned.expires_ns)
}

/// The rule for an endpoint and what follows from it.
#[inline(always)]
fn find(verdict: &Verdict, head: &PolicyHead, flow: &Flowing) -> (Reason, Option<&'static Rule>) {
    let (remote, by, slot) = (&flow.remote, flow.by, verdict.policy);
    let none = match by {
        _ if remote.loopback != 0 => Reason::Loopback,
        By::Listen => Reason::Inbound,
        _ if remote.port == guard::DNS_PORT || guard::other_dns(remote.port) => Reason::Dns,
        _ if remote.port == 443 && remote.protocol == protocol::UDP => Reason::Quic,
        _ => Reason::NotInContract,
    };
    // Another form of a loopback address, which leaves the host all the same: no rule for the address means that.
    if remote.loopback == 0 && remote.addr.is_loopback() {
        return (none, None);
    }
    let mut denied = (none, None);
    let flags = head.flags;
    if !matches!(by, By::Listen) {
        let tag = tag(side::EGRESS, remote.protocol, remote.port);
        let place = ExactKey { tag, rule: ADDRESS, addr: remote.addr };
        let key = LearnedKey { agent: verdict.agent, policy: slot, place };
        if flags & policy::EXACT != 0 {
            let Some(exact) = EXACT.get(slot) else {
                return (Reason::Internal, None);
            };
            // SAFETY: the entries of a contract's maps are written before a job points to them and never change.
            if let Some(rule) = unsafe { exact.get(key.place) } {
                if rule.reason == Reason::Allowed as u8 {
                    return (Reason::Allowed, Some(rule));
                }
                denied = (reason(rule.reason), Some(rule));
            }
        }
        if flags & policy::NAMES != 0 && denied.1.is_none() {
            // SAFETY: an entry's rule is replaced whole, and its times are words.
            if let Some(learned) = unsafe { LEARNED.get(key) }
                && learned.serial == verdict.serial
            {
                if flow.lives || verdict.now_ns < learned.expires_ns {
                    return (Reason::Allowed, Some(&learned.rule));
                }
                denied.0 = Reason::NameExpired;
            }
        }
        if flags & policy::RANGES != 0 && denied.1.is_none() {
            match range(slot, tag, remote) {
                Some(rule) if rule.reason == Reason::Allowed as u8 => return (Reason::Allowed, Some(rule)),
                // What no CIDR may reach by being wide is still not a rule against the job's own loopback.
                Some(rule) if remote.loopback == 0 => denied = (reason(rule.reason), Some(rule)),
                _ => {}
            }
        }
    }
    if !matches!(by, By::Egress) && flags & policy::LISTEN != 0 {
        let tag = tag(side::LISTEN, remote.protocol, flow.local_port);
        if let Some(rule) = range(slot, tag, remote)
            && rule.reason == Reason::Allowed as u8
        {
            return (Reason::Allowed, Some(rule));
        }
    }
    denied
}

/// In a frame of its own: what it needs there, nobody needs after it.
#[inline(never)]
fn range(slot: u32, tag: u32, remote: &Endpoint) -> Option<&'static Rule> {
    use aya_ebpf::maps::lpm_trie::Key;
    let ranges = RANGES.get(slot)?;
    let key = Key::new(RangeData::prefix(128), RangeData { tag, addr: remote.addr, pad: 0 });
    ranges.get(&key)
}

/// A number from a map as a reason; one that is none denies.
#[inline(always)]
fn reason(number: u8) -> Reason {
    Reason::from_number(number).unwrap_or(Reason::Internal)
}
