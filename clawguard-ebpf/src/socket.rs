//! `cgroup/sock_create`: which sockets a managed task may make, and the stamp that each of them carries from then on.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_get_netns_cookie, bpf_set_retval},
    macros::cgroup_sock,
    programs::SockContext,
};
use clawguard_common::{Addr, Endpoint, Flow, Hook, Reason, Stamp, protocol};

use crate::{
    answer::{ALLOW, DENY},
    caller,
    maps::{JOBS, STAMPS},
    verdict::{Owner, refused},
};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const EPROTONOSUPPORT: i32 = 93;

#[cgroup_sock(sock_create)]
pub(crate) fn sock_create(ctx: SockContext) -> i32 {
    let Some(job) = caller::job() else {
        return ALLOW;
    };
    // SAFETY: the context of this hook is the new socket.
    let (kind, number) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    let key = JOBS.get(job).map_or(0, |job| job.key);
    let owner = Owner { job, key };
    let mut room = MaybeUninit::uninit();
    let fits = (kind == SOCK_STREAM && number == u32::from(protocol::TCP))
        || (kind == SOCK_DGRAM && number == u32::from(protocol::UDP));
    if !fits {
        let ping = number == u32::from(protocol::ICMP) || number == u32::from(protocol::ICMPV6);
        let reason = if kind == SOCK_RAW || ping { Reason::RawSocket } else { Reason::Protocol };
        let asked = Endpoint { addr: Addr::default(), port: number as u16, protocol: kind as u8, loopback: 0 };
        if !refused(&mut room, owner, reason, Hook::SockCreate, &asked) {
            // A program that asks for MPTCP is told that there is none, and takes TCP.
            if number == protocol::MPTCP {
                // SAFETY: the helper sets what socket(2) answers.
                unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
            }
            return DENY;
        }
    }
    let mut stamp = Stamp {
        key,
        // SAFETY: the context is the socket whose namespace is asked for.
        netns: unsafe { bpf_get_netns_cookie(ctx.sock.cast()) },
        job,
        flags: 0,
        resolver: Endpoint::default(),
        pid: 0,
        flow: Flow::default(),
    };
    // SAFETY: the context of this hook is a socket, never null.
    if unsafe { STAMPS.put(ctx.sock.cast(), &mut stamp) } {
        return ALLOW;
    }
    let asked = Endpoint::default();
    if refused(&mut room, owner, Reason::Internal, Hook::SockCreate, &asked) { ALLOW } else { DENY }
}

/// A flow's ends: the agent's and the other one, as on the wire.
pub(crate) struct Ends {
    pub(crate) local: Addr,
    pub(crate) remote: Addr,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) protocol: u8,
}

/// Which job's stamp the socket at the other end of a loopback flow bears ([`clawguard_common::Job::key`]); 0 for none.
///
/// The look-up finds a connected socket if there is one and a listener otherwise, as the kernel will when the packet
/// arrives. One that waits out its former flow's time (TIME_WAIT) is no socket to the look-up, and whoever begins a flow from the
/// same port again comes to the listener: no port is zero, so that by this one only a listener is found.
///
/// # Safety
///
/// `ctx` is the program's context, of a kind that has the socket look-up helpers.
#[inline(never)]
pub(crate) unsafe fn peer(ctx: *mut c_void, ends: &Ends) -> u64 {
    use aya_ebpf::{
        bindings::bpf_sock_tuple,
        helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
    };
    const HERE: u64 = u64::MAX; // BPF_F_CURRENT_NETNS
    // SAFETY: all zero is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let v4 = ends.remote.is_v4();
    let size = if v4 {
        tuple.__bindgen_anon_1.ipv4 = aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: ends.local.0[3],
            daddr: ends.remote.0[3],
            sport: ends.local_port.to_be(),
            dport: ends.remote_port.to_be(),
        };
        12
    } else {
        tuple.__bindgen_anon_1.ipv6 = aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: ends.local.0,
            daddr: ends.remote.0,
            sport: ends.local_port.to_be(),
            dport: ends.remote_port.to_be(),
        };
        36
    };
    let tuple = ptr::from_mut(&mut tuple);
    // SAFETY: the caller's promise about the context; the tuple is as long as `size` says; what is found is released.
    unsafe {
        let mut socket = if ends.protocol == protocol::TCP {
            bpf_sk_lookup_tcp(ctx, tuple, size, HERE, 0)
        } else {
            bpf_sk_lookup_udp(ctx, tuple, size, HERE, 0)
        };
        if socket.is_null() && ends.protocol == protocol::TCP {
            if v4 {
                (*tuple).__bindgen_anon_1.ipv4.sport = 0;
            } else {
                (*tuple).__bindgen_anon_1.ipv6.sport = 0;
            }
            socket = bpf_sk_lookup_tcp(ctx, tuple, size, HERE, 0);
        }
        if socket.is_null() {
            return 0;
        }
        let key = STAMPS.get(socket.cast()).map_or(0, |stamp| stamp.key);
        bpf_sk_release(socket.cast());
        key
    }
}
