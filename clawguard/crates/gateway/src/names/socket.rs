//! One UDP socket and one TCP listener at the same port of every IPv4 address: by the address that a question came to, the kernel
//! tells whose it is. IPv6 has one loopback address only; whose a question is that came there, the daemon is asked.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    sync::Arc,
};

use clawguard_common::{Addr, guard};
use nix::{
    libc,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt},
};
use tokio::{
    io::Interest,
    net::{TcpListener, UdpSocket},
};

/// Ports that are tried, until one is free for both.
const TRIES: usize = 16;

/// Where the guard listens.
pub(crate) struct Sockets {
    pub(super) udp: Udp,
    pub(super) tcp: TcpListener,
    /// The same for `::1`, where this host speaks IPv6.
    pub(super) v6: Option<(UdpSocket, TcpListener)>,
    pub(super) port: u16,
}

impl Sockets {
    /// Takes a port that is free for both.
    pub(crate) async fn open() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
            setsockopt(&udp, sockopt::Ipv4PacketInfo, &true)?;
            let port = udp.local_addr()?.port();
            let others = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                Ok(tcp) => at_loopback6(port).await.map(|v6| (tcp, v6)),
                Err(error) => Err(error),
            };
            match others {
                Ok((tcp, v6)) => return Ok(Self { udp: Udp(udp), tcp, v6, port }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Takes a port of `::1`, if there is such an address.
async fn at_loopback6(port: u16) -> io::Result<Option<(UdpSocket, TcpListener)>> {
    let at = (Ipv6Addr::LOCALHOST, port);
    match UdpSocket::bind(at).await {
        Ok(udp) => TcpListener::bind(at).await.map(|tcp| Some((udp, tcp))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            tracing::warn!(%error, "no names are answered over IPv6");
            Ok(None)
        }
    }
}

/// The job for which an address is the guard's.
pub(super) fn job(at: Ipv4Addr) -> Option<u32> {
    guard::job(Addr::from_v4(u32::from_ne_bytes(at.octets())))
}

/// A socket that knows to which address a datagram was sent, and answers from that address.
pub(super) struct Udp(UdpSocket);

/// A datagram's two ends.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) client: SocketAddrV4,
    pub(super) at: Ipv4Addr,
}

impl Udp {
    /// The next datagram's length and ends. One whose ends cannot be told has none.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<Ends>)> {
        self.0.async_io(Interest::READABLE, || receive(&self.0, buffer)).await
    }

    /// Answers from the address that was asked.
    pub(super) async fn send(&self, answer: &[u8], ends: Ends) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, || send(&self.0, answer, ends)).await
    }

    /// The same, unless the socket is busy.
    pub(super) fn try_send(&self, answer: &[u8], ends: Ends) -> io::Result<()> {
        self.0.try_io(Interest::WRITABLE, || send(&self.0, answer, ends))
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Option<Ends>)> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(space.as_mut_slice()), MsgFlags::MSG_DONTWAIT)?;
    let at = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())),
        _ => None,
    });
    let ends = received.address.zip(at).map(|(client, at)| Ends { client: SocketAddrV4::from(client), at });
    Ok((received.bytes, ends))
}

fn send(socket: &UdpSocket, answer: &[u8], ends: Ends) -> io::Result<()> {
    let from = libc::in_addr { s_addr: u32::from_ne_bytes(ends.at.octets()) };
    let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: libc::in_addr { s_addr: 0 } };
    let client = SockaddrIn::from(ends.client);
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(answer)], &control, MsgFlags::MSG_DONTWAIT, Some(&client))?;
    Ok(())
}

/// The way back to whoever asked.
#[derive(Clone)]
pub(super) enum Back {
    /// From the address that was asked.
    V4(Arc<Udp>, Ends),
    /// From `::1`.
    V6(Arc<UdpSocket>, SocketAddr),
}

impl Back {
    /// Answers.
    pub(super) async fn send(&self, answer: &[u8]) -> io::Result<()> {
        match self {
            Self::V4(udp, ends) => udp.send(answer, *ends).await,
            Self::V6(udp, client) => udp.send_to(answer, *client).await.map(drop),
        }
    }

    /// Answers, unless the socket is busy.
    pub(super) fn try_send(&self, answer: &[u8]) -> io::Result<()> {
        match self {
            Self::V4(udp, ends) => udp.try_send(answer, *ends),
            Self::V6(udp, client) => udp.try_send_to(answer, *client).map(drop),
        }
    }
}

/// The address at which a connection came in.
pub(super) fn met_at(address: SocketAddr) -> Option<Ipv4Addr> {
    match address {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}
