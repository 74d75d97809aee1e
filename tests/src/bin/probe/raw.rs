//! Raw system calls: an attacker does not ask a library.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// Makes a system call.
pub(crate) fn call(number: i64, a: [usize; 6]) -> io::Result<usize> {
    // SAFETY: the callers pass integers and pointers to live memory of the length that the call expects.
    let answer = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as usize) }
}

/// socket(2)
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<usize> {
    call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize, 0, 0, 0])
}

/// setsockopt(2)
pub(crate) fn option(fd: usize, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let a = [fd, level as usize, name as usize, value.as_ptr() as usize, value.len(), 0];
    call(libc::SYS_setsockopt, a).map(drop)
}

/// A socket address's bytes.
pub(crate) fn bytes(to: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u16;
    bytes.extend_from_slice(&family.to_ne_bytes());
    bytes.extend_from_slice(&to.port().to_be_bytes());
    match to.ip() {
        IpAddr::V4(ip) => {
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&[0; 4]);
        }
    }
    bytes
}

/// connect(2)
pub(crate) fn connect(fd: usize, to: SocketAddr) -> io::Result<()> {
    let to = bytes(to);
    call(libc::SYS_connect, [fd, to.as_ptr() as usize, to.len(), 0, 0, 0]).map(drop)
}

/// bind(2)
pub(crate) fn bind(fd: usize, to: SocketAddr) -> io::Result<()> {
    let to = bytes(to);
    call(libc::SYS_bind, [fd, to.as_ptr() as usize, to.len(), 0, 0, 0]).map(drop)
}

/// sendto(2)
pub(crate) fn send_to(fd: usize, data: &[u8], flags: i32, to: Option<SocketAddr>) -> io::Result<usize> {
    let to = to.map(bytes).unwrap_or_default();
    let pointer = if to.is_empty() { 0 } else { to.as_ptr() as usize };
    call(libc::SYS_sendto, [fd, data.as_ptr() as usize, data.len(), flags as usize, pointer, to.len()])
}

/// Gives up connecting and sending after a moment.
pub(crate) fn impatient(fd: usize) -> io::Result<()> {
    let moment = [0_i64, 300_000];
    let bytes: Vec<u8> = moment.iter().flat_map(|n| n.to_ne_bytes()).collect();
    option(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &bytes)
}
