//! Thin, safe wrappers over the parts of Linux that ClawGuard needs and that neither the standard library, `nix` nor
//! `aya` covers. All unsafe code of the userspace is here; each block states the fact it relies on.

pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod confine;
pub mod diag;
pub mod file;
pub mod mapped;
pub mod memory;
pub mod netns;
pub mod peer;
pub mod process;
pub mod reactor;
pub mod rights;
pub mod seccomp;

use std::io;

/// What a system call answered, as a result.
fn check(answer: impl Into<i64>) -> io::Result<i64> {
    let answer = answer.into();
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
