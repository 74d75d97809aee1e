//! Why the fence is not what was asked for.

use std::{io, path::PathBuf};

use clawguard_common::Hook;
use sys::bpf::MapShape;

/// See each variant; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This build has no kernel programs.
    #[error("this build has no kernel programs in it: build again after `cargo xtask setup`")]
    NoObject,
    /// The object lacks a map or a program: a fault of the build.
    #[error("the kernel programs lack {0}: this build is broken")]
    ObjectLacks(&'static str),
    /// The kernel does not take the object.
    #[error("the kernel does not load the programs (Linux 5.15 or later with BTF and CAP_BPF is needed): {0}")]
    Load(#[from] aya::EbpfError),
    /// The kernel does not take one program.
    #[error("the kernel does not load the program {program}: {source}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A hook is not armed.
    #[error("the hook {} cannot be attached at {}: {source}{}", hook.label(), cgroup.display(), hint(source))]
    Attach {
        /// Which.
        hook: Hook,
        /// Where.
        cgroup: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pinned map of another shape.
    #[error(
        "{path} was pinned by another build: it is {found:?} where {expected:?} is needed; \
         `clawguard uninstall` removes it (agents then have no network until the daemon runs)",
        path = path.display()
    )]
    Shape {
        /// Which pin.
        path: PathBuf,
        /// What it is.
        found: MapShape,
        /// What it should be.
        expected: MapShape,
    },
    /// Some pins are missing.
    #[error("some of the pins under {} are missing; `clawguard uninstall` removes the rest", path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
    },
    /// A hook that let through what it must stop, or stopped what it must let through.
    #[error("the self-test of {hook} failed: {what}")]
    SelfTest {
        /// Which hook.
        hook: &'static str,
        /// What happened.
        what: String,
    },
    /// A table is full.
    #[error("no room for another {what}: this host has {limit}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there are.
        limit: u32,
    },
    /// A cgroup that cannot be managed.
    #[error("the cgroup {} cannot be managed: {why}", cgroup.display())]
    Cgroup {
        /// Which.
        cgroup: PathBuf,
        /// Why not.
        why: String,
    },
    /// Anything else that the system refused.
    #[error("could not {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        // EPERM
        Some(1) => {
            "; either CAP_NET_ADMIN is missing, or another program holds the hook for itself alone \
             (attached without BPF_F_ALLOW_MULTI)"
        }
        _ => "",
    }
}
