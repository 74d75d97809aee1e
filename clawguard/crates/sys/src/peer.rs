//! Who is at the other end of a unix socket.

use std::{
    fs, io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

use crate::{cgroup, check};

/// A peer, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process when it connected.
    pub pid: i32,
    /// Its user when it connected.
    pub uid: u32,
    /// Its primary group when it connected.
    pub gid: u32,
    /// What it runs now, if that can be read.
    pub executable: Option<PathBuf>,
    /// Its cgroup v2 path now.
    pub cgroup: String,
}

/// Asks who is at the other end.
///
/// # Errors
///
/// If the process is gone: what cannot be asked about is nobody.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(&socket, PeerCredentials)?;
    let pid = credentials.pid();
    let handle = pidfd(pid)?;
    let found = Peer {
        pid,
        uid: credentials.uid(),
        gid: credentials.gid(),
        executable: fs::read_link(format!("/proc/{pid}/exe")).ok(),
        cgroup: cgroup::of_process(pid)?,
    };
    // The number may have gone to another process between connecting and here; a process that still lives after its
    // cgroup was read is the one that was read.
    if alive(&handle)? {
        Ok(found)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} ended while it was asked about")))
    }
}

/// A handle to a process.
///
/// # Errors
///
/// ESRCH if there is none.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and answers a new descriptor or an error.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether the process behind a handle still runs.
///
/// # Errors
///
/// If the kernel does not answer.
pub fn alive(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut wait = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut wait, PollTimeout::ZERO)? == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peer_is_this_process() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = peer(&here).unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        assert!(peer.cgroup.starts_with('/'));
    }

    #[test]
    fn a_process_that_ended_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let handle = pidfd(child.id() as i32).unwrap();
        child.wait().unwrap();
        assert!(!alive(&handle).unwrap());
    }
}
