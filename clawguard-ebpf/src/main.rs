//! The fence: the programs that the kernel runs on every socket and packet of a managed cgroup.
//!
//! | hook | attached at | what it is for |
//! |---|---|---|
//! | `sock_create` | cgroup root | only TCP and UDP; each socket gets the stamp of its job |
//! | `connect4/6`, `sendmsg4/6` | cgroup root | an errno at once, and attribution to the caller |
//! | `recvmsg4/6`, `getpeername4/6` | cgroup root | the DNS guard answers in the name of whichever resolver was asked |
//! | `setsockopt` | cgroup root | no option that would send what the packet hooks cannot judge |
//! | `egress`, `ingress` | managed cgroups | the authority: every packet, whatever sent it |
//! | `spawned`, `executed`, `ended` | tracepoints | count the processes of jobs; they refuse nothing |
//! | `depth` | nowhere | tells the daemon how deep the cgroup root lies that it sees |
//! | `sweep_tcp`, `sweep_udp` | iterators | list the stamped sockets of a network namespace, for a kill to find them |
//!
//! One function decides for all of them: [`verdict::judge`]. Whatever fails, denies.
#![allow(clippy::needless_pass_by_value, reason = "the entry points have the shape that aya's macros call")]
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod address;
mod atomic;
mod caller;
mod depth;
mod flow;
mod guard;
mod lineage;
mod maps;
mod packet;
mod record;
mod socket;
mod sockopt;
mod sweep;
mod tally;
mod tls;
mod verdict;

/// What a program of a cgroup hook answers.
mod answer {
    pub(crate) const ALLOW: i32 = 1;
    pub(crate) const DENY: i32 = 0;
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
