//! Attacks by way of the host: other processes and their sockets, cgroups, namespaces, the kernel's other ways in, the
//! enforcer itself.

use std::{
    fs,
    io::{self, Error, ErrorKind, Write},
    path::Path,
    thread,
    time::Duration,
};

use super::{
    Kit,
    network::{raw_icmp, tcp, through, udp},
};
use crate::raw;

fn unix_connect(path: &[u8]) -> io::Result<usize> {
    let fd = raw::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(path);
    raw::call(libc::SYS_connect, [fd, address.as_ptr() as usize, address.len(), 0, 0, 0])?;
    Ok(fd)
}

pub(super) fn unix_relay(path: &[u8], kit: &Kit) -> io::Result<()> {
    let fd = unix_connect(path)?;
    let mut data = vec![b'r'];
    data.extend_from_slice(&kit.marker);
    raw::call(libc::SYS_write, [fd, data.as_ptr() as usize, data.len(), 0, 0, 0])?;
    thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// One of a pair of datagram sockets, which is sent to a host process's socket by its path.
pub(super) fn unix_datagram_pair(kit: &Kit) -> io::Result<()> {
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
pub(super) fn scm_rights(which: u8, kit: &Kit) -> io::Result<()> {
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
pub(super) fn inherited(kit: &Kit) -> io::Result<()> {
    let sent = (3..64).filter(|fd| raw::send_to(*fd, &kit.marker, libc::MSG_NOSIGNAL, None).is_ok()).count();
    if sent > 0 { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
}

pub(super) fn pidfd_getfd(kit: &Kit) -> io::Result<()> {
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
pub(super) fn process_vm_writev(kit: &Kit) -> io::Result<()> {
    let local = [kit.marker.as_ptr() as usize, 8];
    let remote = [kit.word, 8];
    let a = [kit.victim as usize, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0];
    raw::call(libc::SYS_process_vm_writev, a)?;
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

pub(super) fn proc_mem(kit: &Kit) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let memory = fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", kit.victim))?;
    memory.write_all_at(&kit.marker[..8], kit.word as u64)?;
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

pub(super) fn ptrace_poke(kit: &Kit) -> io::Result<()> {
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

pub(super) fn move_to_root_cgroup(kit: &Kit) -> io::Result<()> {
    fs::write(cgroup_root()?.join("cgroup.procs"), "0")?;
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

pub(super) fn child_cgroup(kit: &Kit) -> io::Result<()> {
    let own = sys::cgroup::of_process(std::process::id() as i32)?;
    let child = cgroup_root()?.join(own.trim_start_matches('/')).join("hidden");
    fs::create_dir(&child)?;
    let done = fs::write(child.join("cgroup.procs"), "0").and_then(|()| tcp(libc::AF_INET, kit.tcp4(), kit));
    let _ = fs::write(child.parent().unwrap_or(Path::new("/")).join("cgroup.procs"), "0");
    let _ = fs::remove_dir(child);
    done
}

/// A mount of one's own, if the one that is there is out of reach.
pub(super) fn mount_cgroup2(kit: &Kit) -> io::Result<()> {
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
pub(super) fn setuid_helper(kit: &Kit) -> io::Result<()> {
    let pattern: String = kit.marker.iter().map(|byte| format!("{byte:02x}")).collect();
    let status = std::process::Command::new("ping")
        .args(["-c", "1", "-W", "1", "-p", &pattern, &kit.v4.to_string()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
}

pub(super) fn thread_connect(kit: &Kit) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| tcp(libc::AF_INET, kit.tcp4(), kit)).join().unwrap_or_else(|_| Err(ErrorKind::Other.into()))
    })
}

/// A grandchild that outlives everybody.
pub(super) fn double_fork(kit: &Kit) -> io::Result<()> {
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

pub(super) fn unshare_user_raw(kit: &Kit) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
    raw_icmp(libc::AF_INET, 1, kit)
}

/// Detaches every link that it can open, then connects.
pub(super) fn bpf_detach(kit: &Kit) -> io::Result<()> {
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
pub(super) fn unpin(kit: &Kit) -> io::Result<()> {
    for entry in fs::read_dir("/sys/fs/bpf")?.flatten() {
        let _ = fs::remove_dir_all(entry.path());
    }
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

/// Kills whatever it can signal that is called clawguard, then connects.
pub(super) fn kill_daemon(kit: &Kit) -> io::Result<()> {
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
pub(super) fn sysctl_write(kit: &Kit) -> io::Result<()> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    fs::OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern")?.write_all(pattern.as_bytes())?;
    // It could write; what it would write is another matter, and done here without.
    tcp(libc::AF_INET, kit.tcp4(), kit)
}

/// A connection by io_uring: a ring, one entry, and nothing of connect(2).
pub(super) fn io_uring_connect(kit: &Kit) -> io::Result<()> {
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
pub(super) fn int80_connect(kit: &Kit) -> io::Result<()> {
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
pub(super) fn int80_connect(_: &Kit) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
