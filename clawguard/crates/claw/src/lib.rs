//! Claw's wire formats, byte for byte and without I/O: JSON and its canonical forms, did:key, signed envelopes, job
//! tokens, receipts and attestations, the order of host lists.
//!
//! Nothing here reads a clock, a file or a socket. What is parsed may come from an enemy: sizes and depths are bounded,
//! and everything that is not exactly right is an error that names the place.
#![forbid(unsafe_code)]

pub mod collation;
pub mod encoding;
pub mod envelope;
pub mod json;
pub mod key;
pub mod receipt;
pub mod time;
pub mod token;

pub use encoding::Hash;
pub use json::Value;
