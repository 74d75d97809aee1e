//! Words that two CPUs may change at once.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::mem::offset_of;

use clawguard_common::{Greeting, Stamp};

const _: () = assert!(offset_of!(Stamp, job) == 16 && offset_of!(Stamp, flags) == 20);
const _: () = assert!(offset_of!(Greeting, stage) == 0 && offset_of!(Greeting, first) == 4);

/// Sets flags of a stamp. Its job, in the same word, stays.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn set(stamp: *mut Stamp, flags: u32) {
    let flags = u64::from(flags) << 32;
    // SAFETY: the stamp is one of the map's, which lives as long as the program runs.
    unsafe { asm!("lock *(u64 *)({stamp} + 16) |= {flags}", stamp = in(reg) stamp, flags = in(reg) flags) };
}

/// Clears flags of a stamp.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn clear(stamp: *mut Stamp, flags: u32) {
    let flags = !(u64::from(flags) << 32);
    // SAFETY: as above.
    unsafe { asm!("lock *(u64 *)({stamp} + 16) &= {flags}", stamp = in(reg) stamp, flags = in(reg) flags) };
}

/// Moves the flow that began at `first` from one stage to another; does nothing to any other flow, or at any other stage.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn advance(greeting: *mut Greeting, first: u32, from: u32, to: u32) {
    let high = u64::from(first) << 32;
    let mut seen = high | u64::from(from);
    // SAFETY: as above; the flow and its stage are its first word.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({greeting} + 0, r0, {next})",
            greeting = in(reg) greeting,
            next = in(reg) high | u64::from(to),
            inout("r0") seen,
        );
    }
    let _ = seen;
}

/// Not run: on the host this crate is only checked, never executed.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn set(_stamp: *mut Stamp, _flags: u32) {}

/// Not run either.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn clear(_stamp: *mut Stamp, _flags: u32) {}

/// Not run either.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn advance(_greeting: *mut Greeting, _first: u32, _from: u32, _to: u32) {}
