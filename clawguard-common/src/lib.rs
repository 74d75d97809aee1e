//! The ABI between ClawGuard's kernel programs and its userspace.
//!
//! Everything here is `repr(C)`, has its size asserted at compile time and is shared as source, so that both sides
//! cannot drift apart. A change of any layout is a new [`ABI`]: pins live in a directory that carries it, and maps of
//! another ABI are never reused.
//!
//! Also here: the few pure functions on which both sides must agree bit for bit ([`addr`], [`hello`], [`guard`]).
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod guard;
pub mod hello;
mod record;
mod verdict;

pub use addr::Addr;
pub use record::*;
pub use verdict::*;

/// Version of every layout in this crate; part of the pin directory's name.
pub const ABI: u32 = if cfg!(feature = "next-abi") { 5 } else { 4 };
