//! Listeners that share a port with others on other addresses of the same host.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
};

use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

/// TCP at an address, before others that listen at every address.
pub(super) fn tcp(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let fd = bound(at, SockType::Stream).with_context(|| format!("tcp {at}"))?;
    // A queue that overflows costs its caller a second.
    listen(&fd, Backlog::new(4096)?)?;
    Ok(TcpListener::from(fd))
}

/// The same for UDP.
pub(super) fn udp(at: SocketAddr) -> anyhow::Result<UdpSocket> {
    Ok(UdpSocket::from(bound(at, SockType::Datagram).with_context(|| format!("udp {at}"))?))
}

fn bound(at: SocketAddr, kind: SockType) -> anyhow::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // Of two that may share a port the kernel takes the one whose address fits better.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(fd)
}
