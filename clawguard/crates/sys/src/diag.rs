//! `NETLINK_SOCK_DIAG`: which TCP and UDP sockets a network namespace has, and their end (sock_diag(7)).
//!
//! Everything here concerns the network namespace of the calling thread.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::check;

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const INET_DIAG_CGROUP_ID: u16 = 21;
const HEADER: usize = 16;
const SOCKID: usize = 48;
const MESSAGE: usize = 72;
/// How many requests one message carries; their answers must fit the socket's buffer.
const AT_ONCE: usize = 128;

/// The protocols that can be listed and destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP
    Tcp = 6,
    /// UDP
    Udp = 17,
}

/// Which states a listing covers (bits of `1 << TCP_*`, include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// Everything that carries or may soon carry data: not listeners, not TIME_WAIT.
    pub const FLOWS: Self =
        Self((1 << 1) | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 5) | (1 << 8) | (1 << 9) | (1 << 11));
    /// Everything with a socket a process can hold.
    pub const ALL: Self = Self(Self::FLOWS.0 | (1 << 7) | (1 << 10));
}

/// A socket, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// `SO_COOKIE`
    pub cookie: u64,
    /// Its inode, as in `/proc/PID/fd`; 0 if no process holds it.
    pub inode: u32,
    /// Its owner.
    pub uid: u32,
    /// `TCP_*` state number.
    pub state: u8,
    /// Cgroup in which it was made; 0 if the kernel does not tell.
    pub cgroup: u64,
    family: u8,
    id: [u8; SOCKID],
}

impl Listed {
    /// Its own end.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.end(0, 4)
    }

    /// The other end; unspecified if it is not connected.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.end(2, 20)
    }

    fn end(&self, port: usize, addr: usize) -> SocketAddr {
        let port = u16::from_be_bytes([self.id[port], self.id[port + 1]]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.id[addr..addr + 16]);
        let ip = if i32::from(self.family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes))
        };
        SocketAddr::new(ip, port)
    }

    fn request(&self, into: &mut Vec<u8>, states: u32) {
        into.extend_from_slice(&[self.family, self.protocol as u8, 0, 0]);
        into.extend_from_slice(&states.to_ne_bytes());
        into.extend_from_slice(&self.id);
    }
}

/// A conversation with the kernel's socket diagnostics, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// If the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        // SAFETY: takes three integers and answers a new descriptor or an error.
        let fd =
            check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_SOCK_DIAG) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { socket, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// Lists the sockets of both families in some states.
    ///
    /// # Errors
    ///
    /// If the kernel lacks the protocol's diagnostics. A listing that a change interrupted is made again.
    pub fn list(&mut self, protocol: Protocol, states: States) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let mut tries = 3;
            loop {
                let start = found.len();
                if self.list_family(family, protocol, states, &mut found)? || tries == 0 {
                    break;
                }
                found.truncate(start);
                tries -= 1;
            }
        }
        Ok(found)
    }

    /// Answers false if the kernel says that the listing was interrupted.
    fn list_family(
        &mut self,
        family: u8,
        protocol: Protocol,
        states: States,
        found: &mut Vec<Listed>,
    ) -> io::Result<bool> {
        let any = Listed { protocol, cookie: 0, inode: 0, uid: 0, state: 0, cgroup: 0, family, id: [0; SOCKID] };
        let mut request = Vec::with_capacity(HEADER + MESSAGE);
        self.header(&mut request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP);
        any.request(&mut request, states.0);
        self.send(&request)?;
        let mut whole = true;
        loop {
            let count = self.receive()?;
            for (kind, flags, body) in Messages(&self.buffer[..count]) {
                whole &= flags & NLM_F_DUMP_INTR == 0;
                match kind {
                    NLMSG_DONE => return Ok(whole),
                    NLMSG_ERROR => return Err(failure(body)),
                    SOCK_DIAG_BY_FAMILY => found.extend(listed(protocol, body)),
                    _ => {}
                }
            }
        }
    }

    /// Ends sockets: blocked calls on them return, the peer gets a reset if the fence lets it out. Answers how many
    /// were there to end; those that were gone already are not counted.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP if the kernel was built without `CONFIG_INET_DIAG_DESTROY`.
    pub fn destroy(&mut self, sockets: &[Listed]) -> io::Result<usize> {
        let mut destroyed = 0;
        for chunk in sockets.chunks(AT_ONCE) {
            let mut request = Vec::with_capacity(chunk.len() * MESSAGE);
            for socket in chunk {
                self.header(&mut request, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK);
                socket.request(&mut request, 0);
            }
            self.send(&request)?;
            let mut answered = 0;
            while answered < chunk.len() {
                let count = self.receive()?;
                for (kind, _, body) in Messages(&self.buffer[..count]) {
                    if kind != NLMSG_ERROR {
                        continue;
                    }
                    answered += 1;
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    match -code {
                        0 => destroyed += 1,
                        libc::ENOENT | libc::ESTALE => {}
                        _ => return Err(failure(body)),
                    }
                }
            }
        }
        Ok(destroyed)
    }

    /// Appends a header; both kinds of request have the same length.
    fn header(&mut self, into: &mut Vec<u8>, kind: u16, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADER + 8 + SOCKID) as u32;
        into.extend_from_slice(&length.to_ne_bytes());
        into.extend_from_slice(&kind.to_ne_bytes());
        into.extend_from_slice(&flags.to_ne_bytes());
        into.extend_from_slice(&self.sequence.to_ne_bytes());
        into.extend_from_slice(&[0; 4]);
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        // SAFETY: the slice is live; an unconnected netlink socket sends to the kernel.
        check(unsafe { libc::send(self.socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) } as i64)?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        // SAFETY: the buffer is live and as long as said.
        let count =
            check(
                unsafe { libc::recv(self.socket.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0) }
                    as i64,
            )?;
        Ok(count as usize)
    }
}

/// The cookie of the calling thread's network namespace, as `bpf_get_netns_cookie` has it (`SO_NETNS_COOKIE`).
///
/// # Errors
///
/// If the kernel does not know the option (before Linux 5.14).
pub fn namespace_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are live and of the length said.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    })?;
    Ok(cookie)
}

/// Splits netlink messages: kind, flags, body.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let (kind, flags) = (u16::from_ne_bytes([header[4], header[5]]), u16::from_ne_bytes([header[6], header[7]]));
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, flags, body))
    }
}

fn failure(body: &[u8]) -> io::Error {
    io::Error::from_raw_os_error(body.first_chunk().map_or(libc::EIO, |code| -i32::from_ne_bytes(*code)))
}

/// Reads a `struct inet_diag_msg` and its attributes.
fn listed(protocol: Protocol, body: &[u8]) -> Option<Listed> {
    let message: &[u8; MESSAGE] = body.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    let mut id = [0; SOCKID];
    id.copy_from_slice(&message[4..4 + SOCKID]);
    let mut socket = Listed {
        protocol,
        cookie: u64::from(word(44)) | (u64::from(word(48)) << 32),
        inode: word(68),
        uid: word(64),
        state: message[1],
        cgroup: 0,
        family: message[0],
        id,
    };
    let mut rest = body.get(MESSAGE..).unwrap_or(&[]);
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(value) = rest.get(4..length) else { break };
        if u16::from_ne_bytes([header[2], header[3]]) == INET_DIAG_CGROUP_ID {
            socket.cgroup = value.first_chunk().map_or(0, |id| u64::from_ne_bytes(*id));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_loopback_connection_is_listed_with_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let found = Diag::open().unwrap().list(Protocol::Tcp, States::FLOWS).unwrap();
        let ours = found.iter().find(|s| s.local() == stream.local_addr().unwrap()).unwrap();
        assert_eq!(ours.remote(), listener.local_addr().unwrap());
        assert!(found.iter().all(|s| s.state != 10), "no listener among the flows");
    }

    #[test]
    fn a_connected_udp_socket_is_a_flow_and_an_unconnected_one_is_not() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        one.connect(other.local_addr().unwrap()).unwrap();
        let found = Diag::open().unwrap().list(Protocol::Udp, States::FLOWS).unwrap();
        let has = |socket: &UdpSocket| found.iter().any(|s| s.local() == socket.local_addr().unwrap());
        assert!(has(&one));
        assert!(!has(&other));
    }
}
