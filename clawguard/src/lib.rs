//! The command line of ClawGuard. A library only so that its man pages can be made from the same definitions.
#![forbid(unsafe_code)]
// These end in a panic when nobody reads: `cli::stdio` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
