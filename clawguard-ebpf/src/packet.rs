//! `cgroup_skb/egress` and `ingress`: the authority. Attached at managed cgroups, so that nobody else pays for it.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::bpf_sk_fullsock,
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use clawguard_common::{Addr, Endpoint, Hook, JOB_NONE, Reason, Stamp, protocol, rule, stamp};

use crate::{
    answer::{ALLOW, DENY},
    atomic, caller, flow,
    maps::{HOST, JOBS, STAMPS, TALKS},
    record::{announce_name, count_taken, settle},
    socket::Ends,
    tally,
    tls::{self, Heard},
    verdict::{ANY_KEY, By, Flowing, Owner, Verdict, forget, judge, note_caller, refused},
};

const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
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
        return deny(JOB_NONE, ANY_KEY, Reason::Internal, hook);
    }
    // SAFETY: not null.
    let Some(stamp) = (unsafe { STAMPS.get(socket) }) else {
        // A socket of a managed cgroup that the fence has not seen made: older than the fence, or the kernel's own.
        // SAFETY: not null, in a packet program.
        let job = unsafe { caller::job_of_socket(socket) }.unwrap_or(JOB_NONE);
        return deny(job, JOBS.get(job).map_or(ANY_KEY, |job| job.key), Reason::ForeignSocket, hook);
    };
    let generation = HOST.get(0).map_or(0, |host| host.generation);
    // SAFETY: not null; its state is of every kind of socket.
    if stamp.flags & stamp::OUTGOING != 0 && unsafe { (*socket.cast::<bpf_sock>()).state } == TCP_LISTEN {
        // It had connected once. What it accepts, others began.
        atomic::clear(stamp, stamp::OUTGOING | stamp::GREETED | stamp::GREETS);
        flow::forget(&mut stamp.flow);
    }
    // Most packets are the next ones of a flow by plain IP: told before anything else is made of them.
    // SAFETY: the verifier knows the context.
    if let Some(remote) = unsafe { plain(skb, hook) }
        && (remote.protocol != protocol::TCP || may_be_known(stamp.flags))
        && flow::allows(&mut stamp.flow, &remote, generation)
    {
        return ALLOW;
    }
    if stamp.flags & stamp::OUTGOING != 0 {
        // First, and into the socket's own memory: what the verifier need not remember of it, it does not multiply the rest by.
        // SAFETY: the socket is not null.
        unsafe {
            match hook {
                Hook::Egress => tls::sent(skb, socket, stamp),
                _ => tls::received(skb, socket, stamp),
            }
        }
    }
    // SAFETY: the socket is not null.
    unsafe { judged(skb, socket, stamp, generation, hook) }
}

/// A socket's state; 0 for one that is none yet.
///
/// # Safety
///
/// `socket` is a socket pointer that the verifier knows not to be null.
#[inline(always)]
unsafe fn state(socket: *mut c_void) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let full = bpf_sk_fullsock(socket.cast());
        if full.is_null() { 0 } else { (*full).state }
    }
}

/// Whether the last verdict on a TCP flow counts: not once a kill has met it, nor before it has greeted where it must.
#[inline(always)]
const fn may_be_known(flags: u32) -> bool {
    flags & stamp::DEAD == 0 && flags & (stamp::GREETS | stamp::GREETED) != stamp::GREETS
}

/// Judges a packet of a flow that is not known to be allowed.
///
/// # Safety
///
/// The pointers are live, and the verifier knows what they point to.
#[inline(never)]
unsafe fn judged(skb: *mut __sk_buff, socket: *mut c_void, stamp: *mut Stamp, mut generation: u64, hook: Hook) -> i32 {
    // SAFETY: the caller's promise.
    let stamp = unsafe { &mut *stamp };
    let owner = Owner { job: stamp.job, key: stamp.key };
    let mut room = MaybeUninit::<Flowing>::uninit();
    let mut verdict = MaybeUninit::<Verdict>::uninit();
    // SAFETY: the verifier knows the context.
    if !unsafe { flowing(skb, owner, hook, room.as_mut_ptr()) } {
        let passes = refused(&mut verdict, owner, Reason::Malformed, hook, &Endpoint::default());
        return if passes { ALLOW } else { DENY };
    }
    // SAFETY: all of it was written.
    let flowing = unsafe { room.assume_init_mut() };
    let known = forget(flowing);
    let tcp = flowing.remote.protocol == protocol::TCP;
    let outgoing = tcp && stamp.flags & stamp::OUTGOING != 0;
    flowing.by = match (tcp, outgoing) {
        (true, true) => By::Egress,
        (true, false) => By::Listen,
        (false, _) => By::Either,
    };
    // SAFETY: the socket is not null; its state is of every kind of socket.
    let begins = unsafe { (*socket.cast::<bpf_sock>()).state } == TCP_SYN_SENT;
    // A TCP socket was judged when it connected, which with Fast Open may be long before it sends; of what any other sent, its last
    // flow is known.
    flowing.lives = (outgoing && !begins) || (!tcp && flow::is_last(&stamp.flow, &flowing.remote));
    // SAFETY: this kind of program has the look-up helpers, and `judge` writes the whole verdict.
    let verdict = unsafe {
        judge(skb.cast(), ptr::from_mut(flowing), verdict.as_mut_ptr());
        verdict.assume_init_mut()
    };
    let remote = &flowing.remote;
    if !known || !forget(verdict) {
        verdict.reason = Reason::Internal;
    }
    let mut heard = Heard::Judged;
    if outgoing && verdict.allows() && verdict.flags as u8 & rule::TLS != 0 {
        // SAFETY: the socket is not null.
        heard = tls::conclude(verdict, unsafe { TALKS.get(socket) }, hook);
        if stamp.flags & stamp::GREETED == 0 {
            generation = flow::HELD;
        }
    }
    if heard == Heard::Nothing {
        return DENY;
    }
    if tcp && stamp.flags & stamp::DEAD != 0 {
        verdict.reason = Reason::Killed;
    }
    if matches!(hook, Hook::Egress) && verdict.own {
        note_caller(verdict, flowing);
    }
    // A connected UDP socket asks nobody before it sends. (Datagrams of own flows come here each by itself.)
    if !tcp && matches!(hook, Hook::Egress) && !flowing.lives && !verdict.own {
        tally::begun(verdict, remote);
    }
    // SAFETY: the socket is not null.
    let state = unsafe { state(socket) };
    match verdict.reason {
        // A listener carries many flows; an own loopback peer is certain only once connected, and never for UDP.
        Reason::Allowed if !(tcp && state == TCP_LISTEN) && (!verdict.own || (tcp && state == TCP_ESTABLISHED)) => {
            flow::remember(&mut stamp.flow, remote, flowing.local_port, generation, verdict);
        }
        // What was queued before a kill must not go out after a restore.
        Reason::Killed if tcp && state != TCP_LISTEN => atomic::set(stamp, stamp::DEAD),
        _ => {}
    }
    let passes = settle(verdict, hook, remote);
    // The answer to a SYN: whoever listens there has taken the connection, and is the gateway.
    if begins && outgoing && verdict.own && passes && matches!(hook, Hook::Ingress) {
        count_taken(verdict.job, remote.port);
    }
    if heard == Heard::News {
        // SAFETY: the socket is not null.
        unsafe { announce_name(verdict, hook, remote, skb, socket) };
    }
    if passes { ALLOW } else { DENY }
}

#[inline(never)]
fn deny(job: u32, key: u64, reason: Reason, hook: Hook) -> i32 {
    let mut room = MaybeUninit::uninit();
    if refused(&mut room, Owner { job, key }, reason, hook, &Endpoint::default()) { ALLOW } else { DENY }
}

/// The other end of a TCP or UDP packet over plain IP, as the flows have it in mind that are neither fragmented nor disguised.
#[inline(always)]
unsafe fn plain(skb: *mut __sk_buff, hook: Hook) -> Option<Endpoint> {
    let egress = matches!(hook, Hook::Egress);
    // SAFETY: the verifier knows the context and checks every access against `end`.
    unsafe {
        let data = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if data + 24 > end {
            return None;
        }
        let first = *(data as *const u8);
        if first == 0x45 {
            let fragment = u16::from_be(*((data + 6) as *const u16)) & 0x3fff;
            let number = *((data + 9) as *const u8);
            if fragment != 0 || (number != protocol::TCP && number != protocol::UDP) {
                return None;
            }
            let (address, port) = if egress { (data + 16, data + 22) } else { (data + 12, data + 20) };
            let addr = Addr::from_v4(*(address as *const u32));
            return Some(flow::endpoint(addr, u16::from_be(*(port as *const u16)), number, addr.is_loopback()));
        }
        if first >> 4 != 6 || data + 44 > end {
            return None;
        }
        let number = *((data + 6) as *const u8);
        if number != protocol::TCP && number != protocol::UDP {
            return None;
        }
        let (address, port) = if egress { (data + 24, data + 42) } else { (data + 8, data + 40) };
        let words = address as *const u32;
        let addr = Addr([*words, *words.add(1), *words.add(2), *words.add(3)]);
        Some(flow::endpoint(addr, u16::from_be(*(port as *const u16)), number, addr.is_loopback()))
    }
}

/// Reads the headers. `None` for anything but TCP or UDP over plain IP: options, extension headers and fragments name
/// what cannot be judged here, and no socket that the fence lets exist sends them.
#[inline(never)]
unsafe fn flowing(skb: *mut __sk_buff, owner: Owner, hook: Hook, room: *mut Flowing) -> bool {
    // SAFETY: the verifier knows the context and checks every access against `end`.
    unsafe {
        let data = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if data + 20 > end {
            return false;
        }
        let first = *(data as *const u8);
        let (number, source, destination, ports) = match first >> 4 {
            4 => {
                let fragment = u16::from_be(*((data + 6) as *const u16)) & 0x3fff;
                if first != 0x45 || fragment != 0 {
                    return false;
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
                    return false;
                }
                let words = |at: usize| {
                    let at = (data + at) as *const u32;
                    Addr([*at, *at.add(1), *at.add(2), *at.add(3)])
                };
                (*((data + 6) as *const u8), words(8), words(24), data + 40)
            }
            _ => return false,
        };
        if (number != protocol::TCP && number != protocol::UDP) || ports + 4 > end {
            return false;
        }
        let source_port = u16::from_be(*(ports as *const u16));
        let destination_port = u16::from_be(*((ports + 2) as *const u16));
        let (local, local_port, far, far_port) = if matches!(hook, Hook::Egress) {
            (source, source_port, destination, destination_port)
        } else {
            (destination, destination_port, source, source_port)
        };
        (&raw mut (*room).owner).write(owner);
        (&raw mut (*room).ends).write(Ends { local, remote: far, local_port, remote_port: far_port, protocol: number });
        (&raw mut (*room).remote).write(flow::endpoint(far.canonical(), far_port, number, far.is_loopback()));
        // After NAT the packet's own port may be another.
        (&raw mut (*room).local_port).write((*skb).local_port as u16);
        (&raw mut (*room).by).write(By::Either);
        (&raw mut (*room).lives).write(false);
        true
    }
}
