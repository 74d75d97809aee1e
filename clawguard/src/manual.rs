//! Writes the manual pages, from the same definitions as the command line, into the directory that is named.
#![forbid(unsafe_code)]

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| ".".into()));
    clap_mangen::generate_to(clawguard::cli::command(), &directory)?;
    // `clawguard authority` hands its words on: the page of that name is the other executable's own.
    clap_mangen::generate_to(authority::arguments::command(), directory)
}
