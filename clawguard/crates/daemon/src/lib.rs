//! The privileged daemon: starts, supervises, wires the rooms together.
//!
//! What it puts in force stays in force when it ends, however it ends. It parses nothing that an agent or the network
//! sent, except signed envelopes, size-capped, through the pure parsers of `claw`.
#![forbid(unsafe_code)]

mod alarms;
mod api;
mod approvals;
pub mod audit;
mod calls;
pub mod config;
mod contracts;
mod core;
mod coverage;
mod decisions;
mod errands;
mod export;
mod flips;
mod gateway;
mod hooks;
mod jobs;
mod learned;
pub mod ledger;
mod matching;
mod metrics;
mod model;
mod names;
mod observed;
pub mod paths;
mod pins;
mod registry;
mod rules;
mod serve;
mod spoken;
mod stdio;
pub mod tokens;
mod watch;

pub use serve::{Error, Options, host_did, host_key, run};
pub use stdio::ServerPlan;

/// The name of the agent that the gateway is.
pub const GATEWAY: &str = "gateway";

/// The argument with which the daemon starts its own executable as the canary.
pub const CANARY: &str = "canary";

/// The argument with which the daemon starts its own executable as the first process of a stdio server.
pub const SERVER: &str = "stdio-server";

/// An id that is not given twice: a word, the time in hexadecimal, and some chance.
#[must_use]
pub fn unique(word: &str) -> String {
    let mut chance = [0_u8; 4];
    // Without chance there is still the time.
    let _ = getrandom::fill(&mut chance);
    format!("{word}-{:x}-{:08x}", sys::clock::wall_ns() / 1_000_000, u32::from_ne_bytes(chance))
}
