//! Descriptors for tokio's reactor.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Has the current runtime's reactor watch a descriptor.
///
/// # Errors
///
/// If the kernel cannot watch it.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value itself: it stays open, and the same, for as long as it is registered.
    unsafe { AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
}

/// Has it watch one direction of a socket, which does not wait.
///
/// # Errors
///
/// If the kernel cannot watch it.
pub fn watch_one_way(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: as above: the socket owns its descriptor, and never changes it.
    unsafe { AsyncFd::register_with_interest(stream, interest) }.map_err(|error| error.into_parts().1)
}
