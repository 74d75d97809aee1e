//! `cgroup_skb/egress` and `ingress`: the authority. Attached at managed cgroups, so that nobody else pays for it.

use core::ffi::c_void;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_sk_fullsock, macros::cgroup_skb, programs::SkBuffContext};
use clawguard_common::{Addr, Endpoint, Hook, JOB_NONE, Reason, Stamp, protocol, stamp};

use crate::{
    answer::{ALLOW, DENY},
    caller, flow,
    maps::{HOST, JOBS, STAMPS},
    record::settle,
    socket::{Ends, own_peer},
    verdict::{By, Owner, judge, refuse},
};

const TCP_ESTABLISHED: u32 = 1;
const TCP_LISTEN: u32 = 10;

#[cgroup_skb(egress)]
pub(crate) fn egress(ctx: SkBuffContext) -> i32 {
    packet(ctx.skb.skb, Hook::Egress)
}

#[cgroup_skb(ingress)]
pub(crate) fn ingress(ctx: SkBuffContext) -> i32 {
    packet(ctx.skb.skb, Hook::Ingress)
}

#[inline(always)]
fn packet(skb: *mut __sk_buff, hook: Hook) -> i32 {
    // SAFETY: the verifier knows the context.
    let socket: *mut c_void = unsafe { (*skb).__bindgen_anon_2.sk }.cast();
    if socket.is_null() {
        // The hook runs for packets that have a socket. One without is nobody's.
        return deny(Owner { job: JOB_NONE, key: None }, Reason::Internal, hook);
    }
    // SAFETY: not null.
    let Some(stamp) = (unsafe { STAMPS.get(socket) }) else {
        // A socket of a managed cgroup that the fence has not seen made: older than the fence, or the kernel's own.
        // SAFETY: not null, in a packet program.
        let job = unsafe { caller::job_of_socket(socket) }.unwrap_or(JOB_NONE);
        let owner = Owner { job, key: JOBS.get(job).map(|job| job.key) };
        return deny(owner, Reason::ForeignSocket, hook);
    };
    let generation = HOST.get(0).map_or(0, |host| host.generation);
    // Most packets are the next ones of a flow by plain IPv4: told before anything else is made of them.
    // SAFETY: the verifier knows the context.
    if let Some(remote) = unsafe { plain_v4(skb, hook) }
        && (stamp.flags & stamp::DEAD == 0 || remote.protocol != protocol::TCP)
        && flow::allows(&mut stamp.flow, &remote, generation)
    {
        return ALLOW;
    }
    let owner = Owner { job: stamp.job, key: Some(stamp.key) };
    // SAFETY: the verifier knows the context.
    let Some(ends) = (unsafe { ends(skb, hook) }) else {
        return deny(owner, Reason::Malformed, hook);
    };
    let remote = flow::endpoint(ends.remote.canonical(), ends.remote_port, ends.protocol, ends.remote.is_loopback());
    let dead = stamp.flags & stamp::DEAD != 0 && ends.protocol == protocol::TCP;
    if !dead && flow::allows(&mut stamp.flow, &remote, generation) {
        return ALLOW;
    }
    judged(skb, socket, stamp, owner, &ends, &remote, generation, dead, hook)
}

#[allow(clippy::too_many_arguments, reason = "one body, split only because the fast path above must stay short")]
#[inline(always)]
fn judged(
    skb: *mut __sk_buff,
    socket: *mut c_void,
    stamp: &mut Stamp,
    owner: Owner,
    ends: &Ends,
    remote: &Endpoint,
    generation: u64,
    dead: bool,
    hook: Hook,
) -> i32 {
    let tcp = ends.protocol == protocol::TCP;
    let by = match (tcp, stamp.flags & stamp::OUTGOING != 0) {
        (true, true) => By::Egress,
        (true, false) => By::Listen,
        (false, _) => By::Either,
    };
    // SAFETY: the verifier knows the context. After NAT the packet's own port may be another.
    let local_port = unsafe { (*skb).local_port } as u16;
    let (mut verdict, rule) = judge(owner, remote, local_port, by, |key| {
        // SAFETY: this kind of program has the look-up helpers.
        unsafe { own_peer(skb.cast(), key, ends) }
    });
    if dead {
        verdict.reason = Reason::Killed;
    }
    // SAFETY: the socket is not null.
    let state = unsafe {
        let full = bpf_sk_fullsock(socket.cast());
        if full.is_null() { 0 } else { (*full).state }
    };
    match verdict.reason {
        // A listener carries many flows; an own loopback peer is certain only once connected, and never for UDP.
        Reason::Allowed if !(tcp && state == TCP_LISTEN) && (!verdict.own || (tcp && state == TCP_ESTABLISHED)) => {
            flow::remember(&mut stamp.flow, remote, local_port, generation, verdict.deadline_ns, rule);
        }
        // What was queued before a kill must not go out after a restore.
        Reason::Killed if tcp && state != TCP_LISTEN => stamp.flags |= stamp::DEAD,
        _ => {}
    }
    if settle(&verdict, hook, remote) { ALLOW } else { DENY }
}

#[inline(always)]
fn deny(owner: Owner, reason: Reason, hook: Hook) -> i32 {
    if settle(&refuse(owner, reason), hook, &Endpoint::default()) { ALLOW } else { DENY }
}

/// The other end of a TCP or UDP packet over plain IPv4, where [`ends`] has the words for it.
#[inline(always)]
unsafe fn plain_v4(skb: *mut __sk_buff, hook: Hook) -> Option<Endpoint> {
    // SAFETY: the verifier knows the context and checks every access against `end`.
    unsafe {
        let data = (*skb).data as usize;
        if data + 24 > (*skb).data_end as usize {
            return None;
        }
        let fragment = u16::from_be(*((data + 6) as *const u16)) & 0x3fff;
        let number = *((data + 9) as *const u8);
        if *(data as *const u8) != 0x45 || fragment != 0 || (number != protocol::TCP && number != protocol::UDP) {
            return None;
        }
        let (address, port) =
            if matches!(hook, Hook::Egress) { (data + 16, data + 22) } else { (data + 12, data + 20) };
        let addr = Addr::from_v4(*(address as *const u32));
        let port = u16::from_be(*(port as *const u16));
        Some(flow::endpoint(addr, port, number, addr.is_loopback()))
    }
}

/// Reads the headers. `None` for anything but TCP or UDP over plain IP: options, extension headers and fragments name
/// what cannot be judged here, and no socket that the fence lets exist sends them.
#[inline(always)]
unsafe fn ends(skb: *mut __sk_buff, hook: Hook) -> Option<Ends> {
    // SAFETY: the verifier knows the context and checks every access against `end`.
    unsafe {
        let data = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if data + 20 > end {
            return None;
        }
        let first = *(data as *const u8);
        let (number, source, destination, ports) = match first >> 4 {
            4 => {
                let fragment = u16::from_be(*((data + 6) as *const u16)) & 0x3fff;
                if first != 0x45 || fragment != 0 {
                    return None;
                }
                (
                    *((data + 9) as *const u8),
                    Addr::from_v4(*((data + 12) as *const u32)),
                    Addr::from_v4(*((data + 16) as *const u32)),
                    data + 20,
                )
            }
            6 => {
                if data + 40 > end {
                    return None;
                }
                let words = |at: usize| {
                    let at = (data + at) as *const u32;
                    Addr([*at, *at.add(1), *at.add(2), *at.add(3)])
                };
                (*((data + 6) as *const u8), words(8), words(24), data + 40)
            }
            _ => return None,
        };
        if (number != protocol::TCP && number != protocol::UDP) || ports + 4 > end {
            return None;
        }
        let source_port = u16::from_be(*(ports as *const u16));
        let destination_port = u16::from_be(*((ports + 2) as *const u16));
        Some(if matches!(hook, Hook::Egress) {
            Ends {
                local: source,
                local_port: source_port,
                remote: destination,
                remote_port: destination_port,
                protocol: number,
            }
        } else {
            Ends {
                local: destination,
                local_port: destination_port,
                remote: source,
                remote_port: source_port,
                protocol: number,
            }
        })
    }
}
