//! `cgroup/connect4`, `connect6`, `sendmsg4`, `sendmsg6`: the errno at once, with the caller at hand.

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use clawguard_common::{Addr, Endpoint, Hook, Reason, protocol, stamp};

use crate::{
    answer::{ALLOW, DENY},
    caller, flow,
    maps::{HOST, JOBS, STAMPS},
    record::settle,
    socket::{Ends, own_peer},
    verdict::{By, Owner, judge, refuse},
};

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the verifier knows the context.
    let addr = unsafe { v4(ctx.sock_addr) };
    connect(&ctx, addr, Hook::Connect4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the verifier knows the context.
    let addr = unsafe { v6(ctx.sock_addr) };
    connect(&ctx, addr, Hook::Connect6)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the verifier knows the context.
    let addr = unsafe { v4(ctx.sock_addr) };
    sendmsg(&ctx, addr, Hook::Sendmsg4)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the verifier knows the context.
    let addr = unsafe { v6(ctx.sock_addr) };
    sendmsg(&ctx, addr, Hook::Sendmsg6)
}

#[inline(always)]
unsafe fn v4(ctx: *mut bpf_sock_addr) -> Addr {
    // SAFETY: the caller's promise.
    Addr::from_v4(unsafe { (*ctx).user_ip4 })
}

#[inline(always)]
unsafe fn v6(ctx: *mut bpf_sock_addr) -> Addr {
    // SAFETY: the caller's promise. Word by word: the verifier allows no wider access on every kernel.
    unsafe { Addr([(*ctx).user_ip6[0], (*ctx).user_ip6[1], (*ctx).user_ip6[2], (*ctx).user_ip6[3]]) }
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
    Owner { job, key: JOBS.get(job).map(|job| job.key) }
}

#[inline(always)]
fn endpoint(ctx: &SockAddrContext, on_wire: Addr) -> Endpoint {
    // SAFETY: the verifier knows the context.
    let (port, number) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    flow::endpoint(on_wire.canonical(), u16::from_be(port as u16), number as u8, on_wire.is_loopback())
}

/// The ends of a loopback flow before its own address is chosen: Linux takes the one it goes to.
#[inline(always)]
fn ends(on_wire: Addr, local_port: u16, remote: &Endpoint) -> Ends {
    Ends { local: on_wire, remote: on_wire, local_port, remote_port: remote.port, protocol: remote.protocol }
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, addr: Addr, hook: Hook) -> i32 {
    let on_wire = addr.as_destination();
    let stamp = match asked(ctx) {
        Asked::Unmanaged => return ALLOW,
        Asked::Foreign(owner) => {
            let verdict = refuse(owner, Reason::ForeignSocket);
            return answer(settle(&verdict, hook, &endpoint(ctx, on_wire)));
        }
        Asked::Stamped(stamp) => stamp,
    };
    let remote = endpoint(ctx, on_wire);
    if remote.protocol != protocol::TCP {
        // No packet leaves by it, and glibc does it for every address of a name: the packet is judged.
        return ALLOW;
    }
    stamp.flags = (stamp.flags | stamp::OUTGOING) & !stamp::DEAD;
    flow::forget(&mut stamp.flow);
    let generation = HOST.get(0).map_or(0, |host| host.generation);
    let owner = Owner { job: stamp.job, key: Some(stamp.key) };
    let (verdict, rule) = judge(owner, &remote, 0, By::Egress, |key| {
        // SAFETY: this kind of program has the look-up helpers.
        unsafe { own_peer(ctx.sock_addr.cast(), key, &ends(on_wire, 0, &remote)) }
    });
    let passes = settle(&verdict, hook, &remote);
    // The job's own listener may be gone when the packet is sent: that is judged again, with both ends known.
    if verdict.allows() && !verdict.own {
        flow::remember(&mut stamp.flow, &remote, 0, generation, verdict.deadline_ns, rule);
    }
    answer(passes)
}

#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, addr: Addr, hook: Hook) -> i32 {
    let on_wire = addr.as_destination();
    let stamp = match asked(ctx) {
        Asked::Unmanaged => return ALLOW,
        Asked::Foreign(owner) => {
            let verdict = refuse(owner, Reason::ForeignSocket);
            return answer(settle(&verdict, hook, &endpoint(ctx, on_wire)));
        }
        Asked::Stamped(stamp) => stamp,
    };
    let remote = endpoint(ctx, on_wire);
    let generation = HOST.get(0).map_or(0, |host| host.generation);
    if flow::allows(&mut stamp.flow, &remote, generation) {
        return ALLOW;
    }
    // SAFETY: this kind of context always has its socket.
    let local_port = unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_port } as u16;
    let owner = Owner { job: stamp.job, key: Some(stamp.key) };
    let (verdict, rule) = judge(owner, &remote, local_port, By::Either, |key| {
        // SAFETY: this kind of program has the look-up helpers.
        unsafe { own_peer(ctx.sock_addr.cast(), key, &ends(on_wire, local_port, &remote)) }
    });
    if verdict.allows() {
        if verdict.own {
            // The packet hook asks who is there now, and counts.
            return ALLOW;
        }
        flow::remember(&mut stamp.flow, &remote, local_port, generation, verdict.deadline_ns, rule);
    }
    answer(settle(&verdict, hook, &remote))
}

#[inline(always)]
fn answer(passes: bool) -> i32 {
    if passes { ALLOW } else { DENY }
}
