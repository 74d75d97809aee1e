//! `cgroup/connect4`, `connect6`, `sendmsg4`, `sendmsg6`: the errno at once, with the caller at hand.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_get_current_pid_tgid, macros::cgroup_sock_addr, programs::SockAddrContext};
use clawguard_common::{Addr, Hook, Reason, protocol, rule, stamp};

use crate::{
    answer::{ALLOW, DENY},
    atomic, caller, flow, guard,
    maps::{HOST, JOBS, STAMPS},
    record::{count_direct, settle},
    socket::Ends,
    tally, tls,
    verdict::{ANY_KEY, By, Flowing, Owner, Verdict, forget, judge, refused},
};

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Hook::Connect4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Hook::Connect6)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, Hook::Sendmsg4)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, Hook::Sendmsg6)
}

/// Where a call goes to, as it is written there.
#[inline(always)]
pub(crate) fn destination(ctx: &SockAddrContext, hook: Hook) -> Addr {
    let ctx = ctx.sock_addr;
    // SAFETY: the verifier knows the context. Word by word: it allows no wider access on every kernel.
    unsafe {
        match hook {
            Hook::Connect4 | Hook::Sendmsg4 => Addr::from_v4((*ctx).user_ip4),
            _ => Addr([(*ctx).user_ip6[0], (*ctx).user_ip6[1], (*ctx).user_ip6[2], (*ctx).user_ip6[3]]),
        }
    }
}

/// Whose call it is.
enum Asked {
    /// Neither the socket nor the task is managed.
    Unmanaged,
    /// The socket is not the caller's own job's.
    Foreign(Owner),
    /// The socket bears this stamp.
    Stamped(&'static mut clawguard_common::Stamp),
}

#[inline(always)]
fn asked(ctx: &SockAddrContext) -> Asked {
    // SAFETY: this kind of context always has its socket.
    let found = unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        STAMPS.get(socket.cast())
    };
    if let Some(stamp) = found {
        // Most calls are by the job that made the socket.
        if JOBS.get(stamp.job).is_some_and(caller::is_of) {
            return Asked::Stamped(stamp);
        }
        return match caller::job() {
            Some(job) if job != stamp.job => Asked::Foreign(owner(job)),
            _ => Asked::Stamped(stamp),
        };
    }
    match caller::job() {
        None => Asked::Unmanaged,
        Some(job) => Asked::Foreign(owner(job)),
    }
}

#[inline(always)]
fn owner(job: u32) -> Owner {
    Owner { job, key: JOBS.get(job).map_or(ANY_KEY, |job| job.key) }
}

/// The flow that a call would begin or go on with. Of a loopback flow the own address is not chosen yet: Linux takes the one it
/// goes to.
#[inline(always)]
fn flowing(ctx: &SockAddrContext, owner: Owner, local_port: u16, by: By, hook: Hook) -> Flowing {
    let on_wire = destination(ctx, hook).as_destination();
    // SAFETY: the verifier knows the context.
    let (port, number) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    let (port, number) = (u16::from_be(port as u16), number as u8);
    let ends = Ends { local: on_wire, remote: on_wire, local_port, remote_port: port, protocol: number };
    let remote = flow::endpoint(on_wire.canonical(), port, number, on_wire.is_loopback());
    Flowing { owner, ends, remote, local_port, by, lives: false }
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let mut room = MaybeUninit::<Verdict>::uninit();
    let (owner, stamp, shut) = match asked(ctx) {
        Asked::Unmanaged => return ALLOW,
        Asked::Foreign(owner) => (owner, None, Some(Reason::ForeignSocket)),
        Asked::Stamped(stamp) => {
            let shut = if guard::redirect(ctx, stamp, hook) { None } else { Some(Reason::Dns) };
            (Owner { job: stamp.job, key: stamp.key }, Some(stamp), shut)
        }
    };
    let mut flowing = flowing(ctx, owner, 0, By::Egress, hook);
    let known = forget(&mut flowing);
    let (None, Some(stamp)) = (shut, stamp) else {
        return answer(refused(&mut room, owner, shut.unwrap_or(Reason::Internal), hook, &flowing.remote));
    };
    if flowing.remote.protocol != protocol::TCP {
        // No packet leaves by it, and glibc does it for every address of a name: the packet is judged.
        return ALLOW;
    }
    atomic::set(stamp, stamp::OUTGOING);
    atomic::clear(stamp, stamp::DEAD | stamp::GREETED);
    // SAFETY: the helper reads the current task, which this hook has.
    stamp.pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    flow::forget(&mut stamp.flow);
    let generation = HOST.get(0).map_or(0, |host| host.generation);
    // SAFETY: this kind of program has the look-up helpers, and `judge` writes the whole verdict.
    let verdict = unsafe {
        judge(ctx.sock_addr.cast(), &raw mut flowing, room.as_mut_ptr());
        room.assume_init_mut()
    };
    if !known || !forget(verdict) {
        verdict.reason = Reason::Internal;
    }
    let greets = verdict.flags as u8 & rule::TLS != 0;
    if greets {
        atomic::set(stamp, stamp::GREETS);
    } else {
        atomic::clear(stamp, stamp::GREETS);
    }
    // SAFETY: this kind of context always has its socket.
    if verdict.allows() && !unsafe { tls::begin((*ctx.sock_addr).__bindgen_anon_1.sk.cast(), greets) } {
        verdict.reason = Reason::Internal;
    }
    let passes = settle(verdict, hook, &flowing.remote);
    tally::begun(verdict, &flowing.remote);
    // The job's own listener may be gone when the packet is sent: that is judged again, with both ends known.
    if verdict.allows() && !verdict.own {
        let generation = if greets { flow::HELD } else { generation };
        if !greets {
            // Where TLS begins the flow, it is the name that counts.
            count_direct(verdict.job, &verdict.groups);
        }
        flow::remember(&mut stamp.flow, &flowing.remote, 0, generation, verdict);
    }
    answer(passes)
}

#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let mut room = MaybeUninit::<Verdict>::uninit();
    let (owner, stamp, shut) = match asked(ctx) {
        Asked::Unmanaged => return ALLOW,
        Asked::Foreign(owner) => (owner, None, Some(Reason::ForeignSocket)),
        Asked::Stamped(stamp) => {
            let shut = if guard::redirect(ctx, stamp, hook) { None } else { Some(Reason::Dns) };
            (Owner { job: stamp.job, key: stamp.key }, Some(stamp), shut)
        }
    };
    // SAFETY: this kind of context always has its socket.
    let local_port = unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_port } as u16;
    let mut flowing = flowing(ctx, owner, local_port, By::Either, hook);
    let known = forget(&mut flowing);
    let (None, Some(stamp)) = (shut, stamp) else {
        return answer(refused(&mut room, owner, shut.unwrap_or(Reason::Internal), hook, &flowing.remote));
    };
    let generation = HOST.get(0).map_or(0, |host| host.generation);
    // From which job's address the guard answers, the packet hook knows.
    if flow::allows(&mut stamp.flow, &flowing.remote, generation) || guard::answers(stamp, local_port) {
        return ALLOW;
    }
    flowing.lives = flow::is_last(&stamp.flow, &flowing.remote);
    // SAFETY: this kind of program has the look-up helpers, and `judge` writes the whole verdict.
    let verdict = unsafe {
        judge(ctx.sock_addr.cast(), &raw mut flowing, room.as_mut_ptr());
        room.assume_init_mut()
    };
    if !known || !forget(verdict) {
        verdict.reason = Reason::Internal;
    }
    if verdict.allows() {
        if verdict.own {
            // The packet hook asks who is there now, and counts.
            return ALLOW;
        }
        flow::remember(&mut stamp.flow, &flowing.remote, local_port, generation, verdict);
        if !flowing.lives {
            tally::begun(verdict, &flowing.remote);
        }
    }
    answer(settle(verdict, hook, &flowing.remote))
}

#[inline(always)]
fn answer(passes: bool) -> i32 {
    if passes { ALLOW } else { DENY }
}
