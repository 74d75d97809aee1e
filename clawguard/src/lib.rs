//! The command line of ClawGuard. A library only so that its man pages can be made from the same definitions.
#![forbid(unsafe_code)]

pub mod cli;
