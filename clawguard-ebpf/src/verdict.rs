//! The one decision that every hook asks for.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use clawguard_common::{
    ADDRESS, Endpoint, ExactKey, Groups, JOB_NONE, Job, NO_RULE, PolicyHead, RangeData, Reason, Rule, group, job,
    policy, side, tag,
};

use crate::maps::{AGENTS, EXACT, HOST, JOBS, POLICIES, RANGES};

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
    /// [`Job::key`]; `None` where the cgroup alone speaks.
    pub(crate) key: Option<u64>,
}

/// What was decided, and under what. Small: a program's stack has 512 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) deadline_ns: u64,
    pub(crate) now_ns: u64,
    pub(crate) job_key: u64,
    pub(crate) serial: u64,
    /// Number of the rule that was found, whether it allows or denies. (Not a pointer to it: the verifier forgets what
    /// a pointer is on its way through a called function's stack.)
    pub(crate) rule: u32,
    pub(crate) agent: u32,
    pub(crate) reason: Reason,
    /// Allowed because both ends are the job's own.
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

/// A verdict that needs no rule: the reason, in the name of the owner's job and under its mode.
#[inline(always)]
pub(crate) fn refuse(owner: Owner, reason: Reason) -> Verdict {
    let mut verdict = Verdict {
        deadline_ns: 0,
        // SAFETY: the helper takes nothing and reads a clock.
        now_ns: unsafe { bpf_ktime_get_boot_ns() },
        job_key: owner.key.unwrap_or(0),
        serial: 0,
        rule: NO_RULE,
        agent: 0,
        reason,
        own: false,
        observe: false,
        canary: false,
    };
    if let Some(job) = JOBS.get(owner.job) {
        take_job(&mut verdict, owner, job);
    }
    verdict
}

/// Notes whose verdict it is; answers whether that job is in force.
#[inline(always)]
fn take_job(verdict: &mut Verdict, owner: Owner, job: &Job) -> bool {
    let key = job.key;
    if key == 0 || owner.key.is_some_and(|stamped| stamped != key) {
        return false;
    }
    let flags = job.flags;
    verdict.job_key = key;
    verdict.agent = job.agent as u32;
    verdict.observe = flags & job::OBSERVE != 0;
    verdict.canary = flags & job::CANARY != 0;
    flags & job::OVER == 0
}

/// Judges the other end of a flow. `own_peer` is asked, for loopback addresses that no rule names, whether the socket
/// there belongs to the same job. Answers the rule as well, where there is one.
#[inline(always)]
pub(crate) fn judge(
    owner: Owner,
    remote: &Endpoint,
    local_port: u16,
    by: By,
    own_peer: impl FnOnce(u64) -> bool,
) -> (Verdict, Option<&'static Rule>) {
    let mut verdict = refuse(owner, Reason::JobOver);
    if owner.job == JOB_NONE {
        verdict.reason = Reason::NoJob;
        return (verdict, None);
    }
    let (Some(job), Some(host)) = (JOBS.get(owner.job), HOST.get(0)) else {
        verdict.reason = Reason::Internal;
        return (verdict, None);
    };
    if !take_job(&mut verdict, owner, job) {
        return (verdict, None);
    }
    let mut rule = None;
    let slot = job.policy as u32;
    let (Some(head), Some(agent)) = (POLICIES.get(slot), AGENTS.get(verdict.agent)) else {
        verdict.reason = Reason::Internal;
        return (verdict, None);
    };
    if slot == 0 {
        verdict.reason = Reason::NoContract;
    } else {
        verdict.serial = head.serial;
        verdict.deadline_ns = if head.deadline_ns < job.deadline_ns { head.deadline_ns } else { job.deadline_ns };
        (verdict.reason, rule) = find(slot, head, remote, local_port, by);
        if !verdict.allows() && remote.loopback != 0 && own_peer(verdict.job_key) {
            verdict.reason = Reason::Allowed;
            rule = None;
            verdict.own = true;
        }
        if verdict.now_ns >= verdict.deadline_ns {
            verdict.reason = if verdict.now_ns >= head.deadline_ns { Reason::Expired } else { Reason::TokenEnded };
        }
    }
    // Last, because a kill holds whatever else is true, in observe mode too.
    if killed(rule, &host.killed) || killed(rule, &agent.killed) || killed(rule, &job.killed) {
        verdict.reason = Reason::Killed;
    }
    if let Some(rule) = rule {
        verdict.rule = rule.number;
    }
    (verdict, rule)
}

/// Whether a kill meets a rule, or what no rule names: that belongs to `all` alone.
#[inline(always)]
fn killed(rule: Option<&Rule>, killed: &Groups) -> bool {
    match rule {
        Some(rule) => rule.groups.intersects(killed),
        None => killed.contains(group::ALL),
    }
}

/// The rule for an endpoint and what follows from it.
#[inline(always)]
fn find(slot: u32, head: &PolicyHead, remote: &Endpoint, local_port: u16, by: By) -> (Reason, Option<&'static Rule>) {
    let none = if remote.loopback != 0 {
        Reason::Loopback
    } else if matches!(by, By::Listen) {
        Reason::Inbound
    } else {
        Reason::NotInContract
    };
    // Another form of a loopback address, which leaves the host all the same: no rule for the address means that.
    if remote.loopback == 0 && remote.addr.is_loopback() {
        return (none, None);
    }
    let mut denied = (none, None);
    let flags = head.flags;
    if !matches!(by, By::Listen) {
        let tag = tag(side::EGRESS, remote.protocol, remote.port);
        if flags & policy::EXACT != 0 {
            let Some(exact) = EXACT.get(slot) else {
                return (Reason::Internal, None);
            };
            // SAFETY: the entries of a contract's maps are written before a job points to them and never change.
            if let Some(rule) = unsafe { exact.get(ExactKey { tag, rule: ADDRESS, addr: remote.addr }) } {
                if rule.reason == Reason::Allowed as u8 {
                    return (Reason::Allowed, Some(rule));
                }
                denied = (reason(rule.reason), Some(rule));
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
        let tag = tag(side::LISTEN, remote.protocol, local_port);
        if let Some(rule) = range(slot, tag, remote)
            && rule.reason == Reason::Allowed as u8
        {
            return (Reason::Allowed, Some(rule));
        }
    }
    denied
}

#[inline(always)]
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
