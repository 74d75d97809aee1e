//! What happened, in a form that others can verify. No clock, no file, no socket in here.
#![forbid(unsafe_code)]

pub mod around;
pub mod bundle;
pub mod chain;
pub mod events;
pub mod pulse;
pub mod report;
pub mod verify;
