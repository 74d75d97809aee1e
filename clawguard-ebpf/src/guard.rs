//! The way to the gateway. Whatever resolver a managed task asks, the DNS guard answers, and the task does not notice; and whoever
//! calls own loopback at the port for tools, or for models, has called the MCP gateway, or the model gateway.
//!
//! The gateway's address tells it which job asks; only that job's packets pass to it ([`crate::verdict`]).

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use clawguard_common::{Addr, Hook, Host, Stamp, guard, job, protocol};

use crate::{
    address::destination,
    answer::ALLOW,
    maps::{HOST, JOBS, STAMPS},
};

/// `localhost` as programs write it; only this is the way to the gateway, and the rest of `127.0.0.0/8` is the job's.
const LOCALHOST: Addr = Addr::from_v4(u32::from_ne_bytes([127, 0, 0, 1]));

/// Sends a question to the guard instead, and notes whom it was meant for; and a call of the MCP or the model gateway to where
/// that listens for this job. Answers whether the call may go on: there is a guard, and a way to it from this socket.
#[inline(always)]
pub(crate) fn redirect(ctx: &SockAddrContext, stamp: &mut Stamp, hook: Hook) -> bool {
    let Some(host) = HOST.get(0) else { return false };
    // SAFETY: the verifier knows the context.
    let port = u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16);
    if port != guard::DNS_PORT {
        // What was sent to the guard once comes here again, where an IPv6 socket sends over IPv4.
        if u64::from(port) != host.guard_port {
            stamp.resolver.port = 0;
        }
        if matches!(hook, Hook::Connect4 | Hook::Connect6) {
            to_gateway(ctx, stamp, listens(host, port), hook);
        }
        return true;
    }
    stamp.resolver.port = 0;
    if JOBS.get(stamp.job).is_some_and(|job| job.flags & (job::GATEWAY | job::CANARY) != 0) {
        return true;
    }
    let port = host.guard_port as u16;
    if port == 0 {
        return false;
    }
    let meant = destination(ctx, hook);
    // A datagram of an IPv6 socket cannot be sent to an IPv4 address from here, nor can a socket that is for IPv6 alone connect to
    // one.
    let v4 = matches!(hook, Hook::Connect4 | Hook::Sendmsg4);
    let to = if v4 || meant.is_v4() { guard::address(stamp.job) } else { Addr::LOOPBACK6 };
    stamp.resolver.addr = meant;
    stamp.resolver.port = guard::DNS_PORT;
    // SAFETY: the verifier knows the context, and which of its words this kind of hook may write.
    unsafe {
        if v4 {
            (*ctx.sock_addr).user_ip4 = to.0[3];
        } else {
            write6(ctx.sock_addr, to);
        }
        (*ctx.sock_addr).user_port = u32::from(port.to_be());
    }
    true
}

/// The port at which the gateway listens for what calls own loopback at another; 0 for no such way.
#[inline(always)]
fn listens(host: &Host, port: u16) -> u16 {
    let port = u64::from(port);
    if port == host.tools_port {
        host.tools_at as u16
    } else if port == host.models_port {
        host.models_at as u16
    } else {
        0
    }
}

/// Sends a connection to the gateway's address for its job, at this port. From `::1` too, where it becomes one over IPv4, as IPv6 sockets
/// may have them: there is one `::1` only, and no telling who comes by it.
#[inline(always)]
fn to_gateway(ctx: &SockAddrContext, stamp: &Stamp, at: u16, hook: Hook) {
    if at == 0 {
        return;
    }
    let meant = destination(ctx, hook).as_destination();
    // SAFETY: the verifier knows the context.
    let tcp = unsafe { (*ctx.sock_addr).protocol } == u32::from(protocol::TCP);
    let here = meant == LOCALHOST || meant == Addr::LOOPBACK6;
    if !tcp || !here || JOBS.get(stamp.job).is_none_or(|job| job.flags & (job::GATEWAY | job::CANARY) != 0) {
        return;
    }
    let [.., to] = guard::address(stamp.job).0;
    // SAFETY: the verifier knows the context, and which of its words this kind of hook may write.
    unsafe {
        if matches!(hook, Hook::Connect4) {
            (*ctx.sock_addr).user_ip4 = to;
        } else {
            write6(ctx.sock_addr, Addr::from_v4(to));
        }
        (*ctx.sock_addr).user_port = u32::from(at.to_be());
    }
}

/// Whether a socket is the guard's own.
#[inline(always)]
pub(crate) fn answers(stamp: &Stamp, local_port: u16) -> bool {
    HOST.get(0).is_some_and(|host| {
        host.guard_port != 0 && host.guard_key == stamp.key && host.guard_port == u64::from(local_port)
    })
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    hide4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    hide6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    hide4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    hide6(&ctx)
}

/// The resolver that a socket believes to ask, if `from` is the guard's answer to it.
#[inline(always)]
fn meant(ctx: &SockAddrContext, from: impl FnOnce() -> Addr) -> Option<&'static Stamp> {
    // SAFETY: this kind of context always has its socket.
    let stamp = unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        STAMPS.get(socket.cast())?
    };
    let host = HOST.get(0)?;
    // SAFETY: the verifier knows the context.
    let port = u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16);
    if stamp.resolver.port == 0 || u64::from(port) != host.guard_port {
        return None;
    }
    let last = from().0[3];
    let guards = last == Addr::LOOPBACK6.0[3] || last == guard::address(stamp.job).0[3];
    if guards { Some(stamp) } else { None }
}

#[inline(always)]
fn hide4(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the verifier knows the context.
    unsafe {
        if let Some(stamp) = meant(ctx, || Addr::from_v4((*ctx.sock_addr).user_ip4)) {
            (*ctx.sock_addr).user_ip4 = stamp.resolver.addr.0[3];
            (*ctx.sock_addr).user_port = u32::from(stamp.resolver.port.to_be());
        }
    }
    ALLOW
}

#[inline(always)]
fn hide6(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the verifier knows the context.
    unsafe {
        let from = || {
            let ip = &raw const (*ctx.sock_addr).user_ip6;
            Addr([(*ip)[0], (*ip)[1], (*ip)[2], (*ip)[3]])
        };
        if let Some(stamp) = meant(ctx, from) {
            write6(ctx.sock_addr, stamp.resolver.addr);
            (*ctx.sock_addr).user_port = u32::from(stamp.resolver.port.to_be());
        }
    }
    ALLOW
}

/// # Safety
///
/// The context is of a kind that may write an IPv6 address.
#[inline(always)]
unsafe fn write6(ctx: *mut bpf_sock_addr, to: Addr) {
    // SAFETY: the caller's promise. Word by word, as it is read.
    unsafe {
        (*ctx).user_ip6[0] = to.0[0];
        (*ctx).user_ip6[1] = to.0[1];
        (*ctx).user_ip6[2] = to.0[2];
        (*ctx).user_ip6[3] = to.0[3];
    }
}
