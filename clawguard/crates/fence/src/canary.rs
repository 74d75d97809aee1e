//! The canary: a process of the daemon's own inside the fence, by which it proves what the kernel does.
//!
//! It lives in a throwaway cgroup and in a network namespace of its own in which every address is local, so that it can
//! try any endpoint of any contract and nothing leaves the host.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use claw::Hash;
use clawguard_common::{Endpoint, Hook, NEVER, Reason, protocol, side};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
    },
};
use policy::{Group, Policy, compile, net};
use sys::{
    netns,
    process::{Child, Program},
};

use crate::{Error, Fence, JobSpec, Numbering, jobs::Enrolled};

/// How long it tries to connect where nobody says no.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

/// What the canary is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Act {
    /// A TCP connection.
    Connect = 1,
    /// A datagram by sendto(2).
    SendTo = 2,
    /// A datagram on a connected socket, past the `sendmsg` hooks.
    Send = 3,
    /// A raw socket.
    Raw = 4,
    /// A multipath TCP socket.
    Mptcp = 5,
    /// Joining a multicast group.
    Join = 6,
    /// Taking two UDP ports: this one and the next.
    Bind = 7,
    /// Whether the second port has received what the first must not.
    Received = 8,
}

/// How a rule's endpoint answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The fence let it through.
    Accepted,
    /// The fence refused it.
    Refused,
}

/// A running canary.
pub struct Canary {
    child: Child,
    to: io::PipeWriter,
    from: io::PipeReader,
    job: Enrolled,
    policy: u32,
    /// It left a question open: what it says next would be taken for the answer to another.
    silent: bool,
}

impl Canary {
    /// How long it may take to answer.
    pub const PATIENCE: Duration = Duration::from_secs(5);

    /// Starts one inside the fence. `executable` is the program that calls [`serve`] when it is started with `argument`.
    ///
    /// # Errors
    ///
    /// If its cgroup, its process or its contract cannot be made.
    pub fn start(fence: &mut Fence, executable: &str, argument: &str) -> Result<Self, Error> {
        let failed = || Error::system("start the canary");
        let slice = slice(fence.places());
        sys::cgroup::remove(&slice).map_err(failed())?;
        let directory = slice.join("canary.job");
        fs::create_dir_all(&directory).map_err(failed())?;
        let job = fence.enrol(&directory, JobSpec::default())?;
        fence.make_canary(job.slot);
        let lowered = crate::lower(&test_policy(), &BuiltIns).map_err(failed())?;
        let (policy, _) = fence.put_policy(lowered, Hash([0; 32]), NEVER)?;
        let cgroup = File::open(&directory).map_err(failed())?;
        let (child_in, to) = io::pipe().map_err(failed())?;
        let (from, child_out) = io::pipe().map_err(failed())?;
        let null = File::options().write(true).open("/dev/null").map_err(failed())?;
        let program = Program::new(executable, &[argument], &[]).map_err(failed())?;
        let child =
            program.start(cgroup.as_fd(), [child_in.as_fd(), child_out.as_fd(), null.as_fd()]).map_err(failed())?;
        let mut canary = Self { child, to, from, job, policy, silent: false };
        // It says so once its namespace stands.
        match canary.answer(Instant::now() + Self::PATIENCE)? {
            0 => Ok(canary),
            code => Err(Error::System { what: "set up the canary", source: io::Error::from_raw_os_error(code) }),
        }
    }

    /// Whether its process still runs and answers.
    #[must_use]
    pub fn alive(&self) -> bool {
        !self.silent && self.child.ended().is_ok_and(|ended| !ended)
    }

    fn answer(&mut self, until: Instant) -> Result<i32, Error> {
        let heard = self.hear(until);
        self.silent |= heard.is_err();
        heard.map_err(Error::system("hear from the canary"))
    }

    fn hear(&mut self, until: Instant) -> io::Result<i32> {
        let mut wait = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
        let left = until.saturating_duration_since(Instant::now());
        if poll(&mut wait, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut code = [0; 4];
        self.from.read_exact(&mut code)?;
        Ok(i32::from_ne_bytes(code))
    }

    /// Has it act and answers the errno, or 0.
    fn act(&mut self, act: Act, to: SocketAddr, until: Instant) -> Result<i32, Error> {
        let mut request = [0; REQUEST];
        request[0] = act as u8;
        request[2..4].copy_from_slice(&to.port().to_be_bytes());
        request[4..20].copy_from_slice(&net::addr(to.ip()).bytes());
        self.to.write_all(&request).map_err(Error::system("ask the canary"))?;
        self.answer(until)
    }

    /// Tries an endpoint as a job of `agent` under `policy` would, until so late at the most.
    ///
    /// # Errors
    ///
    /// If the canary does not answer, or gets an answer that neither a peer nor the fence gives.
    pub fn try_endpoint(
        &mut self,
        fence: &Fence,
        agent: u32,
        policy: u32,
        to: &Endpoint,
        until: Instant,
    ) -> Result<Tried, Error> {
        fence.set_agent(self.job.slot, agent);
        fence.set_policy(self.job.slot, policy);
        let act = if to.protocol == protocol::TCP { Act::Connect } else { Act::SendTo };
        let code = self.act(act, SocketAddr::new(net::ip(to.addr), to.port), until)?;
        match code {
            // Nobody listens in the canary's namespace: being told so by its own stack means having been let out and in.
            0 | libc_codes::ECONNREFUSED => Ok(Tried::Accepted),
            libc_codes::EPERM => Ok(Tried::Refused),
            code => Err(Error::System { what: "try an endpoint", source: io::Error::from_raw_os_error(code) }),
        }
    }

    /// The slot of its job, for a kill that concerns one job.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.job.slot
    }

    /// Tests every hook: what it must stop and what it must let through.
    ///
    /// # Errors
    ///
    /// [`Error::SelfTest`] names the first hook that is not armed.
    pub fn self_test(&mut self, fence: &Fence) -> Result<(), Error> {
        let v4 = SocketAddr::new(IpAddr::V4(TEST_V4), TEST_PORT);
        let v6 = SocketAddr::new(net::ip(net::addr(TEST_V6.into())), TEST_PORT);
        let slot = self.job.slot;
        fence.set_agent(slot, 0);
        fence.set_policy(slot, 0);
        let refused = [
            (Hook::SockCreate, Act::Raw, v4, libc_codes::EPERM),
            (Hook::SockCreate, Act::Mptcp, v4, libc_codes::EPROTONOSUPPORT),
            (Hook::Connect4, Act::Connect, v4, libc_codes::EPERM),
            (Hook::Connect6, Act::Connect, v6, libc_codes::EPERM),
            (Hook::Sendmsg4, Act::SendTo, v4, libc_codes::EPERM),
            (Hook::Sendmsg6, Act::SendTo, v6, libc_codes::EPERM),
            (Hook::Setsockopt, Act::Join, v4, libc_codes::EPERM),
            (Hook::Egress, Act::Send, v4, libc_codes::EPERM),
            (Hook::Egress, Act::Send, v6, libc_codes::EPERM),
        ];
        for (hook, act, to, expected) in refused {
            self.expect(hook, act, to, expected)?;
        }
        fence.set_policy(slot, self.policy);
        let allowed = [
            (Hook::Connect4, Act::Connect, v4, libc_codes::ECONNREFUSED),
            (Hook::Connect6, Act::Connect, v6, libc_codes::ECONNREFUSED),
            (Hook::Sendmsg4, Act::SendTo, v4, 0),
            (Hook::Sendmsg6, Act::SendTo, v6, 0),
            (Hook::Egress, Act::Send, v4, 0),
        ];
        for (hook, act, to, expected) in allowed {
            self.expect(hook, act, to, expected)?;
        }
        self.test_ingress()
    }

    fn expect(&mut self, hook: Hook, act: Act, to: SocketAddr, expected: i32) -> Result<(), Error> {
        let code = self.act(act, to, Instant::now() + Self::PATIENCE)?;
        if code == expected {
            return Ok(());
        }
        let name = |code| if code == 0 { "success".into() } else { io::Error::from_raw_os_error(code).to_string() };
        let what = format!("{act:?} to {to} gave \"{}\" where \"{}\" is right", name(code), name(expected));
        Err(Error::SelfTest { hook: hook.label(), what })
    }

    /// Sends from outside the fence to two ports: the first is closed, the second a `listen` rule opens. They arrive in
    /// order, so once the second has its datagram the first has not been let in late.
    fn test_ingress(&mut self) -> Result<(), Error> {
        let closed = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, LISTEN_PORT - 1));
        let open = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, LISTEN_PORT));
        self.expect(Hook::Ingress, Act::Bind, closed, 0)?;
        let namespace = netns::NetNs::of_process(self.child.pid).map_err(Error::system("find the canary"))?;
        namespace
            .run(|| {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.send_to(b"closed", closed)?;
                socket.send_to(b"open", open)?;
                Ok(())
            })
            .map_err(Error::system("send to the canary"))?;
        self.expect(Hook::Ingress, Act::Received, open, 0)
    }

    /// Ends it and gives its slots back.
    ///
    /// # Errors
    ///
    /// If its cgroup cannot be removed.
    pub fn stop(self, fence: &mut Fence) -> Result<(), Error> {
        drop(self.to);
        // It ends when its pipe does; should it not, it is ended.
        let mut wait = [PollFd::new(self.child.as_fd(), PollFlags::POLLIN)];
        let patience = if self.silent { PollTimeout::ZERO } else { PollTimeout::from(1000_u16) };
        if poll(&mut wait, patience).unwrap_or(0) == 0 {
            let _ = self.child.signal(9);
        }
        let _ = self.child.wait();
        sys::cgroup::remove(&slice(fence.places())).map_err(Error::system("remove the canary's cgroup"))?;
        fence.release(&self.job)?;
        fence.drop_policy(self.policy)
    }
}

/// The canary's slice. No agent's name has a dot in it.
fn slice(places: &crate::Places) -> std::path::PathBuf {
    places.agents.join("canary.slice")
}

/// Error numbers that are answers here.
mod libc_codes {
    pub(super) const EPERM: i32 = 1;
    pub(super) const EAGAIN: i32 = 11;
    pub(super) const EIO: i32 = 5;
    pub(super) const EPROTONOSUPPORT: i32 = 93;
    pub(super) const ECONNREFUSED: i32 = 111;
}

const REQUEST: usize = 20;
/// Documentation addresses (RFC 5737, RFC 3849) at the discard port.
const TEST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TEST_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const TEST_PORT: u16 = 9;
/// In the canary's own namespace, where no port is anybody else's.
const LISTEN_PORT: u16 = 4001;

/// The contract of the self-test.
fn test_policy() -> Policy {
    let rule = |side, protocol, port, range| compile::Rule {
        side,
        protocol,
        port,
        range,
        set: 0,
        reason: Reason::Allowed,
        number: compile::Source::BuiltIn.number(),
        tls: false,
        ech: false,
    };
    let mut rules = Vec::new();
    for protocol in [protocol::TCP, protocol::UDP] {
        for ip in [IpAddr::V4(TEST_V4), TEST_V6.into()] {
            rules.push(rule(side::EGRESS, protocol, TEST_PORT, net::Cidr::host(net::addr(ip))));
        }
    }
    let loopback = net::Cidr::host(net::addr(Ipv4Addr::LOCALHOST.into()));
    rules.push(rule(side::LISTEN, protocol::UDP, LISTEN_PORT, loopback));
    Policy {
        hash: Hash([0; 32]),
        id: "self-test".into(),
        sequence: 0,
        lifetime: policy::contract::Lifetime::Stated,
        not_before: None,
        not_after: None,
        unix_sockets: false,
        on_bypass: policy::contract::OnBypass::Alert,
        sets: vec![[Group::all()].into()],
        rules,
        names: Vec::new(),
        bound: Vec::new(),
        kernel_groups: [Group::all()].into(),
        gateway_groups: [].into(),
        tools: policy::ToolPolicy::default(),
        mcp: policy::McpRules::default(),
        receipts: false,
        token: None,
    }
}

/// The groups that every host has.
struct BuiltIns;

impl Numbering for BuiltIns {
    fn number(&self, group: &Group) -> Option<usize> {
        group.built_in()
    }
}

/// The canary's own part: acts on what it reads from `requests` until they end.
///
/// # Errors
///
/// If the pipes break.
pub fn serve(mut requests: impl Read, mut answers: impl Write) -> io::Result<()> {
    let ready = netns::enter_mirror();
    let code = ready.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc_codes::EIO));
    answers.write_all(&code.to_ne_bytes())?;
    answers.flush()?;
    let mut bound: Option<[UdpSocket; 2]> = None;
    let mut request = [0; REQUEST];
    loop {
        match requests.read_exact(&mut request) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let port = u16::from_be_bytes([request[2], request[3]]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&request[4..20]);
        let to = SocketAddr::new(net::ip(clawguard_common::Addr::from_bytes(bytes)), port);
        let done = perform(request[0], to, &mut bound);
        let code = done.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc_codes::EIO));
        answers.write_all(&code.to_ne_bytes())?;
        answers.flush()?;
    }
}

fn perform(act: u8, to: SocketAddr, bound: &mut Option<[UdpSocket; 2]>) -> io::Result<()> {
    let any = SocketAddr::new(
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() },
        0,
    );
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    match act {
        1 => {
            let stream = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            let patience = nix::sys::time::TimeVal::new(0, CONNECT_PATIENCE.as_micros() as i64);
            setsockopt(&stream, sockopt::SendTimeout, &patience)?;
            Ok(connect(std::os::fd::AsRawFd::as_raw_fd(&stream), &SockaddrStorage::from(to))?)
        }
        2 => UdpSocket::bind(any)?.send_to(b"canary", to).map(drop),
        3 => {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.send(b"canary").map(drop)
        }
        4 => Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp).map(drop)?),
        5 => netns::mptcp_socket().map(drop),
        6 => UdpSocket::bind(any)?.join_multicast_v4(&Ipv4Addr::new(233, 252, 0, 1), &Ipv4Addr::LOCALHOST),
        7 => {
            let first = UdpSocket::bind(to)?;
            let second = UdpSocket::bind(SocketAddr::new(to.ip(), to.port() + 1))?;
            first.set_nonblocking(true)?;
            second.set_read_timeout(Some(Duration::from_secs(2)))?;
            *bound = Some([first, second]);
            Ok(())
        }
        8 => {
            let Some([first, second]) = bound.take() else { return Err(io::ErrorKind::NotConnected.into()) };
            let mut buffer = [0; 64];
            second.recv(&mut buffer)?;
            match first.recv(&mut buffer) {
                Err(error) if error.raw_os_error() == Some(libc_codes::EAGAIN) => Ok(()),
                // What must not arrive did.
                _ => Err(io::Error::from_raw_os_error(libc_codes::EIO)),
            }
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
