//! `cgroup/setsockopt`: the options by which a socket would make the kernel send what no packet hook can judge.
//!
//! Joining a multicast group sends IGMP or MLD reports that carry an address of the agent's choice, and IGMP has no
//! socket, so no packet hook sees it. IP options and routing headers name further destinations inside the packet.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::cgroup_sockopt, programs::SockoptContext};
use clawguard_common::{Addr, Endpoint, Hook, Reason};

use crate::{
    answer::{ALLOW, DENY},
    caller,
    maps::{JOBS, STAMPS},
    verdict::{ANY_KEY, Owner, refused},
};

const SOL_SOCKET: i32 = 1;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;

/// Socket options at level `IPPROTO_IP` (include/uapi/linux/in.h).
const fn refused_v4(option: i32) -> bool {
    matches!(
        option,
        4      // IP_OPTIONS
        | 15   // IP_FREEBIND: answers would go to an address of the agent's choice
        | 19   // IP_TRANSPARENT
        | 35   // IP_ADD_MEMBERSHIP
        | 39   // IP_ADD_SOURCE_MEMBERSHIP
        | 41   // IP_MSFILTER
        | 42   // MCAST_JOIN_GROUP
        | 46   // MCAST_JOIN_SOURCE_GROUP
        | 48   // MCAST_MSFILTER
        | 50 // IP_UNICAST_IF
    )
}

/// Socket options at level `IPPROTO_IPV6` (include/uapi/linux/in6.h).
const fn refused_v6(option: i32) -> bool {
    matches!(
        option,
        6      // IPV6_2292PKTOPTIONS
        | 20   // IPV6_JOIN_GROUP
        | 27   // IPV6_JOIN_ANYCAST
        | 42   // MCAST_JOIN_GROUP
        | 46   // MCAST_JOIN_SOURCE_GROUP
        | 48   // MCAST_MSFILTER
        | 54   // IPV6_HOPOPTS
        | 55   // IPV6_RTHDRDSTOPTS
        | 57   // IPV6_RTHDR
        | 59   // IPV6_DSTOPTS
        | 75   // IPV6_TRANSPARENT
        | 76   // IPV6_UNICAST_IF
        | 78 // IPV6_FREEBIND
    )
}

/// Socket options at level `SOL_SOCKET` (include/uapi/asm-generic/socket.h): another device may have another host at an
/// allowed address, what waits in a queue after the egress hook goes out after a kill, and what is sent without being copied may
/// change after it was judged.
const fn refused_socket(option: i32) -> bool {
    matches!(
        option,
        25     // SO_BINDTODEVICE
        | 47   // SO_MAX_PACING_RATE
        | 60   // SO_ZEROCOPY
        | 61   // SO_TXTIME
        | 62 // SO_BINDTOIFINDEX
    )
}

/// Socket options at level `IPPROTO_TCP` (include/uapi/linux/tcp.h): what a device encrypts, and numbers that a flow did not send,
/// cannot be judged.
const fn refused_tcp(option: i32) -> bool {
    matches!(
        option,
        19     // TCP_REPAIR
        | 31 // TCP_ULP
    )
}

#[cgroup_sockopt(setsockopt)]
pub(crate) fn setsockopt(ctx: SockoptContext) -> i32 {
    // SAFETY: the verifier knows the context.
    let (level, option) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    let reaches_around = (level == IPPROTO_IP && refused_v4(option))
        || (level == IPPROTO_IPV6 && refused_v6(option))
        || (level == IPPROTO_TCP && refused_tcp(option))
        || (level == SOL_SOCKET && refused_socket(option));
    if reaches_around && let Some(owner) = owner(&ctx) {
        let asked = Endpoint { addr: Addr::default(), port: option as u16, protocol: level as u8, loopback: 0 };
        let mut room = MaybeUninit::uninit();
        if !refused(&mut room, owner, Reason::SocketOption, Hook::Setsockopt, &asked) {
            return DENY;
        }
    }
    // The kernel goes on with the caller's own bytes: nothing here judged them, and an option longer than a page
    // would otherwise fail for everybody on this host.
    // https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/cgroup.c#L1885
    // SAFETY: the verifier knows the context.
    unsafe { (*ctx.sockopt).optlen = 0 };
    ALLOW
}

#[inline(always)]
fn owner(ctx: &SockoptContext) -> Option<Owner> {
    // SAFETY: this kind of context always has its socket.
    let stamp = unsafe {
        let socket = (*ctx.sockopt).__bindgen_anon_1.sk;
        STAMPS.get(socket.cast())
    };
    if let Some(stamp) = stamp {
        return Some(Owner { job: stamp.job, key: stamp.key });
    }
    let job = caller::job()?;
    Some(Owner { job, key: JOBS.get(job).map_or(ANY_KEY, |job| job.key) })
}
