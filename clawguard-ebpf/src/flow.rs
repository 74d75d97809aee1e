//! The verdict that a socket remembers, so that the next packet of its flow costs a comparison.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::ptr;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use clawguard_common::{Addr, Endpoint, Flow};

use crate::verdict::Verdict;

/// Whether the flow's last verdict allows this endpoint now.
#[inline(always)]
pub(crate) fn allows(flow: &mut Flow, remote: &Endpoint, generation: u64) -> bool {
    let flow = ptr::from_mut(flow);
    // SAFETY: the stamp's memory lives as long as the program runs. Another CPU may write it meanwhile: reads are
    // volatile, and the sequence tells whether they belong together.
    unsafe {
        let sequence = ptr::read_volatile(&raw const (*flow).sequence);
        let same = sequence & 1 == 0
            && ptr::read_volatile(&raw const (*flow).generation) == generation
            && same(&raw const (*flow).remote, remote);
        if !same {
            return false;
        }
        let jiffies = bpf_jiffies64();
        if ptr::read_volatile(&raw const (*flow).checked) != jiffies {
            let deadline = ptr::read_volatile(&raw const (*flow).deadline_ns);
            if bpf_ktime_get_boot_ns() >= deadline {
                return false;
            }
            ptr::write_volatile(&raw mut (*flow).checked, jiffies);
        }
        ptr::read_volatile(&raw const (*flow).sequence) == sequence
    }
}

/// Port, protocol and loopback of an endpoint, as they lie in memory.
#[inline(always)]
fn tail(port: u16, protocol: u8, loopback: u8) -> u32 {
    let [high, low] = port.to_ne_bytes();
    u32::from_ne_bytes([high, low, protocol, loopback])
}

/// An endpoint, written in whole words: keys are read in words, and a word that was written in parts makes the CPU wait.
#[inline(always)]
pub(crate) fn endpoint(addr: Addr, port: u16, protocol: u8, loopback: bool) -> Endpoint {
    let [a, b, c, d] = addr.0;
    // SAFETY: five words, of which every value is an endpoint.
    unsafe { core::mem::transmute::<[u32; 5], Endpoint>([a, b, c, d, tail(port, protocol, u8::from(loopback))]) }
}

/// Compares word by word, the likeliest to differ first.
///
/// # Safety
///
/// `a` points to an endpoint.
#[inline(always)]
unsafe fn same(a: *const Endpoint, b: &Endpoint) -> bool {
    let tail = tail(b.port, b.protocol, b.loopback);
    // SAFETY: the caller's promise; an endpoint is five words.
    unsafe {
        let word = |i: usize| ptr::read_volatile(a.cast::<u32>().add(i));
        word(3) == b.addr.0[3]
            && word(4) == tail
            && word(2) == b.addr.0[2]
            && word(1) == b.addr.0[1]
            && word(0) == b.addr.0[0]
    }
}

/// A generation that is never in force: the flow is known, and each of its packets is judged.
pub(crate) const HELD: u64 = u64::MAX;

/// Remembers an allowing verdict, made under a generation. If another CPU is writing, it is not remembered: the next packet asks
/// again.
#[inline(always)]
pub(crate) fn remember(flow: &mut Flow, remote: &Endpoint, local_port: u16, generation: u64, verdict: &Verdict) {
    let flow = ptr::from_mut(flow);
    // SAFETY: as in `allows`; whoever made the sequence odd is the only writer until it is even again.
    unsafe {
        let sequence = ptr::read_volatile(&raw const (*flow).sequence);
        if sequence & 1 != 0 || !begin(flow, sequence) {
            return;
        }
        ptr::write_volatile(&raw mut (*flow).generation, generation);
        ptr::write_volatile(&raw mut (*flow).deadline_ns, verdict.deadline_ns);
        // The verdict has just compared the deadline with the clock.
        ptr::write_volatile(&raw mut (*flow).checked, bpf_jiffies64());
        ptr::write_volatile(&raw mut (*flow).remote, *remote);
        ptr::write_volatile(&raw mut (*flow).rule, verdict.rule);
        ptr::write_volatile(&raw mut (*flow).groups, verdict.groups);
        ptr::write_volatile(&raw mut (*flow).local_port, u64::from(local_port));
        ptr::write_volatile(&raw mut (*flow).sequence, sequence.wrapping_add(2));
    }
}

/// Whether the last verdict that allowed was about this endpoint, whatever has changed since.
#[inline(always)]
pub(crate) fn is_last(flow: &Flow, remote: &Endpoint) -> bool {
    // SAFETY: as in `allows`.
    flow.deadline_ns != 0 && unsafe { same(&raw const flow.remote, remote) }
}

/// Forgets the last verdict: whatever comes next is judged.
#[inline(always)]
pub(crate) fn forget(flow: &mut Flow) {
    // SAFETY: one word; generation 0 is never in force.
    unsafe { ptr::write_volatile(&raw mut flow.generation, 0) };
}

/// Takes the writer's turn.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn begin(flow: *mut Flow, sequence: u64) -> bool {
    let mut seen = sequence;
    // SAFETY: an atomic compare-and-exchange of the record's first word, an instruction of BPF's ISA v3.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({flow} + 0, r0, {odd})",
            flow = in(reg) flow,
            odd = in(reg) sequence.wrapping_add(1),
            inout("r0") seen,
        );
    }
    seen == sequence
}

/// Not run: on the host this crate is only checked, never executed.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
unsafe fn begin(_flow: *mut Flow, _sequence: u64) -> bool {
    false
}
