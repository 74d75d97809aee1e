//! Descriptors for tokio's reactor.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Has the current runtime's reactor watch a descriptor.
///
/// # Errors
///
/// If the kernel cannot watch it.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value itself: it stays open, and the same, for as long as it is registered.
    unsafe { AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
}
