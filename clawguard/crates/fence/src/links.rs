//! Attaching the programs, and putting others in their place without a moment without.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use clawguard_common::Hook;
use sys::bpf::{self, AttachType};

use crate::Error;

pub(crate) const fn attach_type(hook: Hook) -> AttachType {
    match hook {
        Hook::SockCreate => AttachType::SockCreate,
        Hook::Connect4 => AttachType::Connect4,
        Hook::Connect6 => AttachType::Connect6,
        Hook::Sendmsg4 => AttachType::Sendmsg4,
        Hook::Sendmsg6 => AttachType::Sendmsg6,
        Hook::Setsockopt => AttachType::Setsockopt,
        Hook::Egress => AttachType::Egress,
        Hook::Ingress => AttachType::Ingress,
        Hook::Recvmsg4 => AttachType::Recvmsg4,
        Hook::Recvmsg6 => AttachType::Recvmsg6,
        Hook::Getpeername4 => AttachType::Getpeername4,
        Hook::Getpeername6 => AttachType::Getpeername6,
    }
}

/// One change to the attached programs, to be undone if a later one fails.
enum Change {
    /// A link that was not there.
    Made { link: OwnedFd, pin: PathBuf },
    /// A link that had another program.
    Updated { link: OwnedFd, before: OwnedFd },
}

/// Changes that stand once they are kept. Dropped before that, they are undone.
#[derive(Default)]
pub(crate) struct Changes(Vec<Change>);

impl Changes {
    /// Puts a program behind the link pinned at `pin`, or attaches it to `cgroup` and pins the link there.
    pub(crate) fn put(&mut self, hook: Hook, program: BorrowedFd<'_>, cgroup: &Path, pin: &Path) -> Result<(), Error> {
        let failed = |source| Error::Attach { hook, cgroup: cgroup.to_owned(), source };
        let target = sys::cgroup::id(cgroup).map_err(failed)?;
        match bpf::pinned(pin) {
            Ok(link) => {
                let info = bpf::link_info(&link).map_err(failed)?;
                if info.cgroup == target && info.attach_type == attach_type(hook) as u32 {
                    let before = bpf::program_by_id(info.program).map_err(failed)?;
                    bpf::link_update(&link, program, Some(&before)).map_err(failed)?;
                    self.0.push(Change::Updated { link, before });
                    return Ok(());
                }
                // Its cgroup is gone (a unit that was stopped): the link holds nothing any more.
                fs::remove_file(pin).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(source)),
        }
        let directory = File::open(cgroup).map_err(failed)?;
        let link = bpf::link_create(program, directory.as_fd(), attach_type(hook)).map_err(failed)?;
        bpf::pin(&link, pin).map_err(failed)?;
        self.0.push(Change::Made { link, pin: pin.to_owned() });
        Ok(())
    }

    /// Lets the changes stand.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        while let Some(change) = self.0.pop() {
            let undone = match &change {
                Change::Made { link, pin } => bpf::link_detach(link).and_then(|()| fs::remove_file(pin)),
                Change::Updated { link, before } => bpf::link_update(link, before, None),
            };
            if let Err(error) = undone {
                tracing::error!(%error, "a change to the attached programs could not be undone");
            }
        }
    }
}

/// Detaches and unpins every link in a directory. What cannot be detached is an error; the rest is done all the same.
pub(crate) fn detach_all(directory: &Path) -> io::Result<usize> {
    let mut detached = 0;
    let mut failed = None;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let gone = bpf::pinned(&path).and_then(bpf::link_detach).and_then(|()| fs::remove_file(&path));
        match gone {
            Ok(()) => detached += 1,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(detached), Err)
}
