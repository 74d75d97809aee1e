//! `clawguard`: one executable for the daemon and for its operators.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    clawguard::cli::main()
}
