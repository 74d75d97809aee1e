//! Ways around a fence, one function each. All of them try to get a marker to a host that no contract names.

mod host;
mod network;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, bail};

use crate::agent::word;

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
    "tcp4-connect", "KERNEL 1.2", |k| network::tcp(libc::AF_INET, k.tcp4(), k);
    "tcp6-connect", "PEERS 3.2", |k| network::tcp(libc::AF_INET6, k.tcp6(), k);
    "tcp4-mapped", "KERNEL 1.2", |k| network::tcp(libc::AF_INET6, k.mapped(7001), k);
    "tcp-bind-then-connect", "PEERS 3.2", network::bind_then_connect;
    "tcp-nonblocking", "PEERS 3.2", network::nonblocking;
    "tcp-fastopen", "KERNEL 1.2", |k| network::fastopen(libc::AF_INET, 0, k.tcp4(), k);
    "tcp-fastopen-mapped", "KERNEL 1.2", |k| network::fastopen(libc::AF_INET6, 0, k.mapped(7001), k);
    "tcp-fastopen-connect", "KERNEL 1.7", network::fastopen_connect;
    "tcp-reconnect", "KERNEL 1.2", network::reconnect;
    "mptcp-connect", "KERNEL 1.2", |k| network::mptcp(libc::AF_INET, k.tcp4(), k);
    "mptcp-mapped", "KERNEL 1.2", |k| network::mptcp(libc::AF_INET6, k.mapped(7001), k);
    "mptcp-fastopen", "KERNEL 1.2", |k| network::fastopen(libc::AF_INET, libc::IPPROTO_MPTCP, k.tcp4(), k);
    "io-uring-connect", "KERNEL 1.2", host::io_uring_connect;
    "int80-connect", "PEERS 3.2", host::int80_connect;
    "so-mark", "PEERS 3.2", |k| network::with_option(libc::SO_MARK, &0xCA12_i32.to_ne_bytes(), k);
    "so-bindtodevice", "PEERS 3.2", |k| network::with_option(libc::SO_BINDTODEVICE, b"near0\0", k);
    "udp4-sendto", "KERNEL 1.2", |k| network::udp(libc::AF_INET, k.udp4(), k);
    "udp6-sendto", "PEERS 3.2", |k| network::udp(libc::AF_INET6, k.udp6(), k);
    "udp4-mapped", "KERNEL 1.2", |k| network::udp(libc::AF_INET6, k.mapped(7002), k);
    "udp-connected-send", "KERNEL 1.2", |k| network::udp_connected(k.udp4(), k);
    "udp6-connected-send", "KERNEL 1.2", |k| network::udp_connected(k.udp6(), k);
    "udp-connect-then-other", "PEERS 3.2", network::connect_then_other;
    "udp-sendmmsg", "KERNEL 1.2", network::sendmmsg;
    "udp-fragmented", "PEERS 3.2", network::fragmented;
    "udp-segmented", "issue 4", network::segmented;
    "udp-quic-port", "PEERS 3.2", |k| network::udp(libc::AF_INET, SocketAddr::new(k.v4.into(), 443), k);
    "dns-udp", "PEERS 3.2", |k| network::udp(libc::AF_INET, SocketAddr::new(k.v4.into(), 53), k);
    "dns-tcp", "PEERS 3.2", |k| network::tcp(libc::AF_INET, SocketAddr::new(k.v4.into(), 53), k);
    "dot", "PEERS 3.2", |k| network::tcp(libc::AF_INET, SocketAddr::new(k.v4.into(), 853), k);
    "udplite", "PEERS 3.1", |k| network::kind(libc::AF_INET, libc::SOCK_DGRAM, 136, k.udp4(), k);
    "udplite6", "PEERS 3.1", |k| network::kind(libc::AF_INET6, libc::SOCK_DGRAM, 136, k.udp6(), k);
    "sctp", "PEERS 3.2", |k| network::kind(libc::AF_INET, libc::SOCK_STREAM, 132, k.tcp4(), k);
    "dccp", "PEERS 3.2", |k| network::kind(libc::AF_INET, 6, 33, k.tcp4(), k);
    "smc", "KERNEL 4", |k| network::kind(libc::AF_INET, libc::SOCK_STREAM, 256, k.tcp4(), k);
    "udp-broadcast", "PEERS 3.2", network::broadcast;
    "udp-multicast4", "PEERS 3.2", |k| network::udp(libc::AF_INET, "239.77.1.2:7002".parse().unwrap_or(k.udp4()), k);
    "udp-multicast6", "PEERS 3.2", network::multicast6;
    "igmp-join", "KERNEL 4", network::igmp_join;
    "igmp-source-join", "KERNEL 4", network::igmp_source_join;
    "mld-join", "KERNEL 4", network::mld_join;
    "ip-options", "KERNEL 4", network::ip_options;
    "ip-options-cmsg", "KERNEL 4", network::ip_options_cmsg;
    "ipv6-hop-options", "KERNEL 4", |k| network::ipv6_option(54, &network::hop_options(k), k);
    "ipv6-routing-header", "PEERS 3.2", |k| network::ipv6_option(57, &network::routing_header(k), k);
    "nat64", "PEERS 3.2", |k| network::udp(libc::AF_INET6, SocketAddr::new(network::nat64(k.v4).into(), 7002), k);
    "6to4", "PEERS 3.2", |k| network::udp(libc::AF_INET6, SocketAddr::new(network::six_to_four(k.v4).into(), 7002), k);
    "v4-compatible", "PEERS 3.2",
        |k| network::udp(libc::AF_INET6, SocketAddr::new(network::compatible(k.v4).into(), 7002), k);
    "private-range", "PEERS 3.2", |k| network::udp(libc::AF_INET, "10.9.8.7:7002".parse().unwrap_or(k.udp4()), k);
    "metadata", "PEERS 3.2", |k| network::udp(libc::AF_INET, "169.254.169.254:80".parse().unwrap_or(k.udp4()), k);
    "ping4", "PEERS 3.1", |k| network::ping(libc::AF_INET, k);
    "ping6", "PEERS 3.1", |k| network::ping(libc::AF_INET6, k);
    "ping4-connected", "PEERS 3.1", network::ping_connected;
    "raw-icmp4", "PEERS 3.1", |k| network::raw_icmp(libc::AF_INET, 1, k);
    "raw-icmp6", "PEERS 3.1", |k| network::raw_icmp(libc::AF_INET6, 58, k);
    "raw-udp", "KERNEL 1.2", |k| network::raw_transport(17, k);
    "raw-gre", "PEERS 3.1", |k| network::raw_transport(47, k);
    "raw-hdrincl", "KERNEL 1.2", network::raw_hdrincl;
    "packet-raw", "PEERS 3.1", |k| network::packet(libc::SOCK_RAW, 0x88b5, false, k);
    "packet-dgram", "PEERS 3.1", |k| network::packet(libc::SOCK_DGRAM, 0x88b5, false, k);
    "packet-arp", "PEERS 3.1", |k| network::packet(libc::SOCK_RAW, 0x0806, false, k);
    "packet-qdisc-bypass", "PEERS 3.1", |k| network::packet(libc::SOCK_RAW, 0x88b5, true, k);
    "inbound-tcp-answer", "PEERS 3.1", |_| network::inbound_tcp();
    "inbound-udp-answer", "PEERS 3.1", |_| network::inbound_udp();
    "loopback-relay", "PEERS 3.2", |k| network::relay(Ipv4Addr::LOCALHOST.into(), k);
    "loopback-relay-zero", "PEERS 3.2", |k| network::relay(Ipv4Addr::UNSPECIFIED.into(), k);
    "loopback-relay-v6", "PEERS 3.2", |k| network::relay(Ipv6Addr::LOCALHOST.into(), k);
    "loopback-relay-mapped", "PEERS 3.2", |k| network::relay(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), k);
    "loopback-relay-own-address", "PEERS 3.2", |k| network::relay(k.own.into(), k);
    "loopback-relay-udp", "PEERS 3.2",
        |k| network::udp(libc::AF_INET, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), k.relay), k);
    "unix-relay", "KERNEL 1.2", |k| host::unix_relay(k.unix.as_bytes(), k);
    "unix-relay-abstract", "PEERS 3.2", |k| host::unix_relay(format!("\0{}", k.unix).as_bytes(), k);
    "unix-datagram-pair", "review", host::unix_datagram_pair;
    "scm-rights-connected", "KERNEL 1.2", |k| host::scm_rights(b'c', k);
    "scm-rights-unconnected", "KERNEL 1.2", |k| host::scm_rights(b'u', k);
    "scm-rights-udp", "KERNEL 4", |k| host::scm_rights(b'd', k);
    "inherited-fd", "PEERS 3.1", host::inherited;
    "pidfd-getfd", "KERNEL 4", host::pidfd_getfd;
    "process-vm-writev", "KERNEL 4", host::process_vm_writev;
    "proc-mem", "KERNEL 4", host::proc_mem;
    "ptrace-poke", "KERNEL 4", host::ptrace_poke;
    "move-to-root-cgroup", "PEERS 3.1", host::move_to_root_cgroup;
    "child-cgroup", "PEERS 3.1", host::child_cgroup;
    "mount-cgroup2", "KERNEL 4", host::mount_cgroup2;
    "setuid-helper", "PEERS 3.2", host::setuid_helper;
    "other-thread", "PEERS 3.2", |k| host::thread_connect(k);
    "double-fork", "PEERS 3.2", host::double_fork;
    "unshare-user-raw", "PEERS 3.2", host::unshare_user_raw;
    "bpf-detach", "KERNEL 1.1", host::bpf_detach;
    "unpin", "KERNEL 1.1", host::unpin;
    "kill-daemon", "PEERS 3.2", host::kill_daemon;
    "sysctl-write", "KERNEL 4", host::sysctl_write;
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
