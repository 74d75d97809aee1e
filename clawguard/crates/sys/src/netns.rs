//! Network namespaces: which there are, and doing something inside one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use nix::sched::{CloneFlags, setns};

/// A network namespace, held open.
#[derive(Debug)]
pub struct NetNs(File);

impl NetNs {
    /// The namespace behind a path such as `/proc/1/ns/net`.
    ///
    /// # Errors
    ///
    /// If the path cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// The namespace of a process.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Its inode number: its identity as long as it is held.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub fn id(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.ino())
    }

    /// Runs something inside the namespace, on a thread of its own that ends with it.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had or the namespace cannot be entered; otherwise what `work` answers.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)?;
                work()
            })?;
            worker.join().map_err(|_| io::Error::other("a thread in a network namespace ended badly"))?
        })
    }
}

/// Every network namespace in which a process lives, this process's own included.
///
/// # Errors
///
/// If `/proc` cannot be read. A process that ends meanwhile is no error.
pub fn all() -> io::Result<Vec<NetNs>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Ok(namespace) = NetNs::of_process(pid)
            && let Ok(id) = namespace.id()
        {
            found.entry(id).or_insert(namespace);
        }
    }
    Ok(found.into_values().collect())
}

/// Leaves this thread's network namespace for a new one, in which every address is this host's own: whatever is sent
/// arrives on its loopback interface, and there is no other.
///
/// # Errors
///
/// If the caller lacks CAP_SYS_ADMIN, or the namespace cannot be set up.
pub fn enter_mirror() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    loopback_up(&socket)?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        route_all_to_loopback(family as u8)?;
    }
    Ok(())
}

/// The index of `lo` in a new namespace.
const LOOPBACK: u32 = 1;

fn loopback_up(socket: impl AsFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is live, and of the type that this ioctl takes.
    crate::check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })?;
    Ok(())
}

/// `ip route add local default dev lo table local` (rtnetlink(7)).
fn route_all_to_loopback(family: u8) -> io::Result<()> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    const NEW_ROUTE: u16 = 24;
    const FLAGS: u16 = 0x1 | 0x4 | 0x400; // NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    const LENGTH: u32 = 16 + 12 + 8;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend_from_slice(&LENGTH.to_ne_bytes());
    message.extend_from_slice(&NEW_ROUTE.to_ne_bytes());
    message.extend_from_slice(&FLAGS.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    // struct rtmsg: any destination, table local (255), static (4), scope host (254), type local (2).
    message.extend_from_slice(&[family, 0, 0, 0, 255, 4, 254, 2]);
    message.extend_from_slice(&[0; 4]);
    // RTA_OIF
    message.extend_from_slice(&8_u16.to_ne_bytes());
    message.extend_from_slice(&4_u16.to_ne_bytes());
    message.extend_from_slice(&LOOPBACK.to_ne_bytes());
    // SAFETY: three integers in, a descriptor or an error out.
    let fd = crate::check(unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
    })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: the slice is live.
    crate::check(unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) } as i64)?;
    let mut answer = [0_u8; 256];
    // SAFETY: the buffer is live and as long as said.
    let count =
        crate::check(unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) } as i64)?
            as usize;
    // An acknowledgement is an error message with code 0.
    match answer[..count].get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Asks for a multipath TCP socket.
///
/// # Errors
///
/// EPROTONOSUPPORT where the kernel, or a fence, has none.
pub fn mptcp_socket() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: three integers in, a descriptor or an error out.
    let fd = crate::check(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP)
    })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) })
}
