//! What `clawguard run` takes away from an agent before its first instruction.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    sys::socket::{AddressFamily, SockaddrStorage, getpeername, getsockopt, sockopt::PeerCredentials},
};

use crate::{cgroup::mounts_of, check};

/// Closes every descriptor but standard input, output, error and these.
///
/// # Errors
///
/// If the kernel has no close_range(2).
pub fn close_others(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for end in keep.into_iter().map(Some).chain([None]) {
        let last = end.map_or(u32::MAX, |end| end.wrapping_sub(1));
        if end.is_none_or(|end| end > first) {
            // SAFETY: closes descriptors by number. The callers are fresh forks, and use none afterwards but those they keep.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = end.map_or(first, |end| first.max(end + 1));
    }
    Ok(())
}

/// Why a descriptor may not be an agent's stdin, stdout or stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A TCP, UDP or other internet socket, made outside the fence.
    Internet,
    /// A unix socket to another process, which could hand descriptors over.
    Foreign {
        /// The process at its other end when it connected.
        pid: i32,
    },
    /// A socket of another family.
    Family(i32),
}

/// Judges a standard descriptor. Pipes, files and terminals are fit; of sockets only a unix socket that this process's
/// own ancestors made, as programs do that start others with piped output.
///
/// # Errors
///
/// If the kernel does not answer.
pub fn stdio_fit(fd: BorrowedFd<'_>) -> io::Result<Result<(), Unfit>> {
    let Ok(state) = nix::sys::stat::fstat(fd) else {
        return Ok(Ok(())); // closed
    };
    if state.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return Ok(Ok(()));
    }
    let mut family: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are live and of the length said.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut family).cast(), &raw mut length)
    })?;
    if family == libc::AF_INET || family == libc::AF_INET6 {
        return Ok(Err(Unfit::Internet));
    }
    if family != AddressFamily::Unix as i32 {
        return Ok(Err(Unfit::Family(family)));
    }
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: as above.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut length)
    })?;
    // One for datagrams can be sent to any other by its path.
    if kind == libc::SOCK_DGRAM {
        return Ok(Err(Unfit::Foreign { pid: 0 }));
    }
    if getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_err() {
        return Ok(Err(Unfit::Foreign { pid: 0 }));
    }
    let pid = getsockopt(&fd, PeerCredentials)?.pid();
    let own = pid == std::process::id() as i32 || ancestors()?.contains(&pid);
    Ok(if own { Ok(()) } else { Err(Unfit::Foreign { pid }) })
}

/// The processes that this one descends from, without the system's first.
fn ancestors() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let mut pid = nix::unistd::getppid().as_raw();
    while pid > 1 {
        found.push(pid);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        pid = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .and_then(|pid| pid.trim().parse().ok())
            .unwrap_or(0);
    }
    Ok(found)
}

/// In a new mount and pid namespace: a `/proc` of its own, and the file systems by which a fence could be undone out of
/// reach (cgroupfs and `/proc/sys` read-only, bpffs covered).
///
/// # Errors
///
/// If one of the mounts fails.
pub fn shield_file_systems() -> io::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), harmless, none)?;
    mount(Some("/proc/sys"), "/proc/sys", none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    read_only(Path::new("/proc/sys"), harmless)?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    for place in mounts_of(&table, &["cgroup", "cgroup2"]) {
        read_only(&place, harmless)?;
    }
    for place in mounts_of(&table, &["bpf"]) {
        mount(Some("none"), &place, Some("tmpfs"), harmless | MsFlags::MS_RDONLY, Some("size=4k,mode=000"))?;
    }
    Ok(())
}

fn read_only(place: &Path, flags: MsFlags) -> io::Result<()> {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let none: Option<&str> = None;
    // In a user namespace, how access times are kept is locked: it has to be said again.
    let now = statvfs(place)?.flags();
    let mut flags = flags;
    for (is, say) in [
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if now.contains(is) {
            flags |= say;
        }
    }
    Ok(mount(none, place, none, flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)?)
}

/// A map of user or group numbers of a new user namespace: `count` numbers from `inside` on stand for those from
/// `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// First number inside.
    pub inside: u32,
    /// First number outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Writes the maps of a process that is in a new user namespace.
///
/// # Errors
///
/// If the caller may not.
pub fn map_ids(pid: i32, users: IdMap, groups: IdMap) -> io::Result<()> {
    let text = |map: IdMap| format!("{} {} {}\n", map.inside, map.outside, map.count);
    if !nix::unistd::geteuid().is_root() {
        // user_namespaces(7): without privilege, groups can be mapped only once setgroups(2) is given up.
        fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{pid}/gid_map"), text(groups))?;
    fs::write(format!("/proc/{pid}/uid_map"), text(users))
}

/// Gives up the capability to gain any capability: empties the bounding and the ambient set.
///
/// # Errors
///
/// If the kernel refuses one that is set.
pub fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: integers only.
        let set = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        if set == 1 {
            // SAFETY: integers only.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })?;
        }
    }
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    Ok(())
}

/// capabilities(7): may send signals to any process.
pub const CAP_KILL: u32 = 1 << 5;

/// Gives up every capability that this process has but those of the mask `keep` (capset(2)), which covers the first 32;
/// what user 0 would regain by executing a program is bounded by [`drop_bounding_set`].
///
/// # Errors
///
/// If the kernel refuses, as it does if one of `keep` is not there.
pub fn drop_capabilities(keep: u32) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    // Effective, permitted and inheritable of the first 32, then of the rest.
    let sets = [keep, keep, 0, 0, 0, 0];
    // SAFETY: the header and the two triples of sets live until the call returns.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) })?;
    Ok(())
}

/// Closes this process's memory and descriptors to others of its user (PR_SET_DUMPABLE, prctl(2)).
///
/// # Errors
///
/// If the kernel refuses.
pub fn not_dumpable() -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    Ok(())
}

/// No program that this process executes gives it privileges (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
///
/// If the kernel refuses.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// Bounds what this process and those that it starts may take: bytes of private memory that each of them can write to, and processes
/// and threads of its user on this host. Neither where `None`.
///
/// # Errors
///
/// If the kernel refuses.
pub fn limit(memory: Option<u64>, processes: Option<u64>) -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    for (resource, most) in [(Resource::RLIMIT_DATA, memory), (Resource::RLIMIT_NPROC, processes)] {
        if let Some(most) = most {
            setrlimit(resource, most, most)?;
        }
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Lets the kernel kill this process when its parent ends.
///
/// # Errors
///
/// If the kernel refuses.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    Ok(())
}

/// What Landlock could add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// No signal and no abstract unix socket crosses the border, nor does ptrace.
    Scoped,
    /// This kernel has no scopes (before Linux 6.12).
    Missing,
}

/// The version of this kernel's Landlock; 0 or less for none.
#[must_use]
pub fn landlock_version() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: asks for the version: no attributes.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) }
}

/// Puts this process in a Landlock domain that only scopes: file access stays as it is (landlock(7), ABI 6).
///
/// # Errors
///
/// If the kernel has the feature and refuses it.
pub fn landlock_scope() -> io::Result<Landlock> {
    #[repr(C)]
    struct Ruleset {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    if landlock_version() < 6 {
        return Ok(Landlock::Missing);
    }
    let ruleset = Ruleset { handled_access_fs: 0, handled_access_net: 0, scoped: 0b11 };
    // SAFETY: the attributes live until the call returns and are as long as said.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<Ruleset>(), 0)
    })?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_fd().as_raw_fd(), 0) })?;
    Ok(Landlock::Scoped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::{UnixListener, UnixStream},
    };

    #[test]
    fn pipes_files_and_own_socketpairs_are_fit_for_stdio() {
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(stdio_fit(reader.as_fd()).unwrap(), Ok(()));
        assert_eq!(stdio_fit(fs::File::open("/dev/null").unwrap().as_fd()).unwrap(), Ok(()));
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(stdio_fit(one.as_fd()).unwrap(), Ok(()));
    }

    #[test]
    fn an_internet_socket_is_not_fit_for_stdio() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(stdio_fit(stream.as_fd()).unwrap(), Err(Unfit::Internet));
    }

    #[test]
    fn an_unconnected_unix_socket_is_not_fit_for_stdio() {
        let directory = std::env::temp_dir().join(format!("clawguard-stdio-{}", std::process::id()));
        let listener = UnixListener::bind(&directory).unwrap();
        assert_eq!(stdio_fit(listener.as_fd()).unwrap(), Err(Unfit::Foreign { pid: 0 }));
        fs::remove_file(directory).unwrap();
    }
}
