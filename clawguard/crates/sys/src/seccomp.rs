//! The system-call filter that `clawguard run` puts on an agent: no socket families, interfaces or ABIs by which it could
//! get at traffic that the cgroup hooks do not see.
//!
//! A deny list over an otherwise open kernel, because its promise is only about the fence; what a process may do to
//! files is not its business. Written by hand because the x32 ABI hides in the system call's *number*, which the filter
//! crates cannot compare.

use std::io;

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, EAFNOSUPPORT, EINVAL, ENOSYS, EPERM, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};

use crate::check;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// Calls of the x32 ABI have this bit in their number.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data` (little endian: the low half of an argument comes first).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

const fn errno(code: i32) -> u32 {
    SECCOMP_RET_ERRNO | (code as u32)
}

const fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Builds a filter whose every test is "load a word; if it equals, go on, else skip to the end of this group".
struct Filter(Vec<sock_filter>);

impl Filter {
    fn new() -> Self {
        let mut filter = vec![
            step(LOAD, ARCHITECTURE, 0, 0),
            step(EQUAL, ARCH, 1, 0),
            step(RETURN, SECCOMP_RET_KILL_PROCESS, 0, 0),
            step(LOAD, NUMBER, 0, 0),
        ];
        if cfg!(target_arch = "x86_64") {
            filter.push(step(ANY_BIT, X32, 0, 1));
            filter.push(step(RETURN, errno(ENOSYS), 0, 0));
        }
        Self(filter)
    }

    /// If the call is `number`: these steps, which end in a return.
    fn on(&mut self, number: i64, steps: &[sock_filter]) {
        self.0.push(step(LOAD, NUMBER, 0, 0));
        self.0.push(step(EQUAL, number as u32, 0, steps.len() as u8));
        self.0.extend_from_slice(steps);
    }

    fn refuse(&mut self, number: i64, code: i32) {
        self.on(number, &[step(RETURN, errno(code), 0, 0)]);
    }
}

/// The filter's program.
fn program(unix_sockets: bool) -> Vec<sock_filter> {
    let mut filter = Filter::new();
    let mut families = vec![AF_INET, AF_INET6];
    if unix_sockets {
        families.push(AF_UNIX);
    }
    let mut socket = vec![step(LOAD, argument(0), 0, 0)];
    for family in families {
        socket.extend([step(EQUAL, family as u32, 0, 1), step(RETURN, SECCOMP_RET_ALLOW, 0, 0)]);
    }
    // Which addresses and routes there are (NETLINK_ROUTE, 0) is all that netlink is needed for.
    socket.extend([
        step(EQUAL, AF_NETLINK as u32, 0, 3),
        step(LOAD, argument(2), 0, 0),
        step(EQUAL, 0, 0, 1),
        step(RETURN, SECCOMP_RET_ALLOW, 0, 0),
        step(RETURN, errno(EAFNOSUPPORT), 0, 0),
    ]);
    filter.on(libc::SYS_socket, &socket);
    // A pair of streams stays a pair. A datagram socket of a pair can be sent to any other by its path.
    let any = if unix_sockets { 0 } else { 15 };
    filter.on(
        libc::SYS_socketpair,
        &[
            step(LOAD, argument(0), 0, 0),
            step(EQUAL, AF_UNIX as u32, 0, 5),
            step(LOAD, argument(1), 0, 0),
            step(AND, any, 0, 0),
            step(EQUAL, libc::SOCK_STREAM as u32 & any, 1, 0),
            step(EQUAL, libc::SOCK_SEQPACKET as u32 & any, 0, 1),
            step(RETURN, SECCOMP_RET_ALLOW, 0, 0),
            step(RETURN, errno(EAFNOSUPPORT), 0, 0),
        ],
    );
    // io_uring opens sockets of any family without socket(2).
    for number in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        filter.refuse(number, ENOSYS);
    }
    // A descriptor of a process outside would be a socket made outside.
    filter.refuse(libc::SYS_pidfd_getfd, EPERM);
    filter.refuse(libc::SYS_bpf, EPERM);
    // The kernel would have root's helpers look names up for whoever asks for a key.
    for number in [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl] {
        filter.refuse(number, EPERM);
    }
    // What they send is a page that its owner may still rewrite, after it was judged. Programs copy themselves when the kernel
    // says that it cannot do it for these files.
    for number in [libc::SYS_sendfile, libc::SYS_splice, libc::SYS_vmsplice] {
        filter.refuse(number, EINVAL);
    }
    // Typing into the operator's terminal (CVE-2017-5226 and its kin). Only the low half counts: that is what the
    // kernel compares.
    filter.on(
        libc::SYS_ioctl,
        &[
            step(LOAD, argument(1), 0, 0),
            step(EQUAL, libc::TIOCSTI as u32, 1, 0),
            step(EQUAL, 0x541c, 0, 1), // TIOCLINUX
            step(RETURN, errno(EPERM), 0, 0),
            step(RETURN, SECCOMP_RET_ALLOW, 0, 0),
        ],
    );
    filter.0.push(step(RETURN, SECCOMP_RET_ALLOW, 0, 0));
    filter.0
}

/// Puts the filter on this thread and whatever it starts, for good. Needs `no_new_privs`.
///
/// # Errors
///
/// If the kernel refuses.
pub fn install(unix_sockets: bool) -> io::Result<()> {
    let mut filter = program(unix_sockets);
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its steps live until the call returns; the kernel copies and checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u64, &raw const program) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter's program on one call, as the kernel would.
    fn run(filter: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (i, argument) in arguments.iter().enumerate() {
            data[16 + 8 * i..24 + 8 * i].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let step = &filter[at];
            at += 1;
            match step.code {
                LOAD => {
                    let k = step.k as usize;
                    a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                }
                EQUAL => at += usize::from(if a == step.k { step.jt } else { step.jf }),
                ANY_BIT => at += usize::from(if a & step.k != 0 { step.jt } else { step.jf }),
                AND => a &= step.k,
                RETURN => return step.k,
                other => panic!("no such step: {other:#x}"),
            }
        }
    }

    fn call(unix_sockets: bool, number: i64, arguments: [u64; 6]) -> u32 {
        run(&program(unix_sockets), ARCH, number as u32, arguments)
    }

    #[test]
    fn only_the_families_that_the_fence_judges_make_sockets() {
        for family in 0..64_u64 {
            let allowed = family == AF_INET as u64 || family == AF_INET6 as u64;
            let expected = if allowed { SECCOMP_RET_ALLOW } else { errno(EAFNOSUPPORT) };
            assert_eq!(call(false, libc::SYS_socket, [family, 1, 99, 0, 0, 0]), expected, "family {family}");
        }
        assert_eq!(call(true, libc::SYS_socket, [AF_UNIX as u64, 1, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn netlink_is_for_routes_only() {
        let netlink = AF_NETLINK as u64;
        assert_eq!(call(false, libc::SYS_socket, [netlink, 3, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
        for protocol in 1..32 {
            assert_eq!(call(false, libc::SYS_socket, [netlink, 3, protocol, 0, 0, 0]), errno(EAFNOSUPPORT));
        }
    }

    #[test]
    fn bits_above_the_compared_half_change_nothing() {
        let family = (1_u64 << 32) | AF_UNIX as u64;
        assert_eq!(call(false, libc::SYS_socket, [family, 1, 0, 0, 0, 0]), errno(EAFNOSUPPORT));
        let sti = (7_u64 << 32) | libc::TIOCSTI;
        assert_eq!(call(false, libc::SYS_ioctl, [0, sti, 0, 0, 0, 0]), errno(EPERM));
        assert_eq!(call(false, libc::SYS_ioctl, [0, libc::TIOCGWINSZ, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn socketpair_stays_and_io_uring_goes() {
        assert_eq!(call(false, libc::SYS_socketpair, [AF_UNIX as u64, 1, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
        for (unix, expected) in [(false, errno(EAFNOSUPPORT)), (true, SECCOMP_RET_ALLOW)] {
            for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC] {
                assert_eq!(call(unix, libc::SYS_socketpair, [AF_UNIX as u64, kind as u64, 0, 0, 0, 0]), expected);
            }
        }
        let seqpacket = (libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK) as u64;
        assert_eq!(call(false, libc::SYS_socketpair, [AF_UNIX as u64, seqpacket, 0, 0, 0, 0]), SECCOMP_RET_ALLOW);
        assert_eq!(call(true, libc::SYS_socketpair, [AF_INET as u64, 1, 0, 0, 0, 0]), errno(EAFNOSUPPORT));
        assert_eq!(call(true, libc::SYS_io_uring_setup, [0; 6]), errno(ENOSYS));
        assert_eq!(call(true, libc::SYS_pidfd_getfd, [0; 6]), errno(EPERM));
    }

    #[test]
    fn no_page_is_sent_that_can_still_be_rewritten() {
        for number in [libc::SYS_sendfile, libc::SYS_splice, libc::SYS_vmsplice] {
            assert_eq!(call(true, number, [0; 6]), errno(EINVAL));
        }
    }

    #[test]
    fn other_abis_are_refused() {
        let filter = program(true);
        assert_eq!(run(&filter, 0x4000_0003, 41, [0; 6]), SECCOMP_RET_KILL_PROCESS, "i386");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(run(&filter, ARCH, X32 | 41, [AF_INET as u64, 1, 0, 0, 0, 0]), errno(ENOSYS), "x32");
    }

    #[test]
    fn everything_else_is_allowed() {
        for number in [libc::SYS_read, libc::SYS_connect, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_clone3] {
            assert_eq!(call(false, number, [u64::MAX; 6]), SECCOMP_RET_ALLOW);
        }
    }
}
