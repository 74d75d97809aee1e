//! Starting processes that are born in a cgroup (clone3(2) with `CLONE_INTO_CGROUP`).

use std::{
    convert::Infallible,
    ffi::{CString, OsStr},
    fs,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
};

use nix::{
    sched::CloneFlags,
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
};

use crate::check;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child process, held by a handle that no other process's number can be mistaken for.
#[derive(Debug)]
pub struct Child {
    /// Its number in this process's pid namespace.
    pub pid: i32,
    handle: OwnedFd,
}

impl Child {
    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// EINTR if a signal came first.
    pub fn wait(&self) -> io::Result<WaitStatus> {
        Ok(waitid(Id::PIDFd(self.handle.as_fd()), WaitPidFlag::WEXITED)?)
    }

    /// Whether it has ended, without waiting; it can still be waited for.
    ///
    /// # Errors
    ///
    /// If it was waited for already.
    pub fn ended(&self) -> io::Result<bool> {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::PIDFd(self.handle.as_fd()), look)?;
        Ok(status != WaitStatus::StillAlive)
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// ESRCH if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: integers and a null pointer.
        check(unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.handle.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        })?;
        Ok(())
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }
}

/// Which of the two a fork made.
#[derive(Debug)]
pub enum Forked {
    /// The caller.
    Parent(Child),
    /// The copy.
    Child,
}

/// Clones; 0 is the child. The child of a process with threads may only make system calls until it executes a program.
unsafe fn clone(cgroup: Option<BorrowedFd<'_>>, namespaces: CloneFlags) -> io::Result<(i64, RawFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all zero is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces.bits() as u64 | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no new stack and no shared memory: this is a fork. The pointer is live.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) })?;
    Ok((pid, pidfd))
}

/// Forks this process; the child starts its life in `cgroup` and in new `namespaces`.
///
/// # Errors
///
/// If this process has more than one thread (the copy could wait for ever for a lock that another thread held), or
/// the kernel refuses.
pub fn fork(cgroup: Option<BorrowedFd<'_>>, namespaces: CloneFlags) -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with threads cannot be forked"));
    }
    // SAFETY: one thread, so that the copy may do whatever the original may.
    let (pid, pidfd) = unsafe { clone(cgroup, namespaces) }?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel made the descriptor for this call.
    Ok(Forked::Parent(Child { pid: pid as i32, handle: unsafe { OwnedFd::from_raw_fd(pidfd) } }))
}

/// A program to start, prepared so that the child needs nothing but system calls.
#[derive(Debug)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// User and group to become; with it go all supplementary groups and capabilities.
    pub user: Option<(u32, u32)>,
    /// New namespaces in which it starts its life.
    pub namespaces: CloneFlags,
}

impl Program {
    /// Prepares one. The environment is only what is given.
    ///
    /// # Errors
    ///
    /// If a text has a NUL in it.
    pub fn new(path: &str, arguments: &[&str], environment: &[(&str, &str)]) -> io::Result<Self> {
        let text = |text: String| CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        Ok(Self {
            path: text(path.to_owned())?,
            arguments: std::iter::once(path)
                .chain(arguments.iter().copied())
                .map(|argument| text(argument.to_owned()))
                .collect::<io::Result<_>>()?,
            environment: environment.iter().map(|(k, v)| text(format!("{k}={v}"))).collect::<io::Result<_>>()?,
            user: None,
            namespaces: CloneFlags::empty(),
        })
    }

    /// Starts it in `cgroup`, with these descriptors as 0, 1, 2 and no other.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to clone. If the program cannot be executed the child ends with status 127.
    pub fn start(&self, cgroup: BorrowedFd<'_>, stdio: [BorrowedFd<'_>; 3]) -> io::Result<Child> {
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        let stdio = stdio.map(|fd| fd.as_raw_fd());
        // Opened by who starts it: the user whom it becomes need not be able to walk the path.
        let file = File::open(OsStr::from_bytes(self.path.as_bytes()))?;
        // SAFETY: the child makes system calls on memory prepared above, and nothing else.
        unsafe {
            let (pid, pidfd) = clone(Some(cgroup), self.namespaces)?;
            if pid != 0 {
                return Ok(Child { pid: pid as i32, handle: OwnedFd::from_raw_fd(pidfd) });
            }
            become_program(file.as_raw_fd(), &arguments, &environment, stdio, self.user);
            libc::_exit(127)
        }
    }
}

/// The child's part. Returns only if something failed.
///
/// # Safety
///
/// The pointers end in null and point to live texts; this is the only thread of a fresh clone.
unsafe fn become_program(
    file: RawFd,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    stdio: [RawFd; 3],
    user: Option<(u32, u32)>,
) {
    // SAFETY: system calls on integers and the live texts; each that fails ends the attempt.
    unsafe {
        // First out of the way of 0, 1 and 2, then into place.
        let mut moved = [0; 3];
        let file = libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 10);
        if file < 0 {
            return;
        }
        for (to, from) in moved.iter_mut().zip(stdio) {
            *to = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 3);
            if *to < 0 {
                return;
            }
        }
        for (to, from) in moved.iter().enumerate() {
            if libc::dup2(*from, to as i32) < 0 {
                return;
            }
        }
        if libc::syscall(libc::SYS_close_range, 3, file - 1, 0) < 0
            || libc::syscall(libc::SYS_close_range, file + 1, u32::MAX, 0) < 0
        {
            return;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if let Some((uid, gid)) = user {
            // The raw calls: glibc's wrappers would look for the parent's threads.
            let failed = libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) < 0
                || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0
                || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0;
            if failed {
                return;
            }
        }
        libc::syscall(
            libc::SYS_execveat,
            file,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
}

/// Replaces this process by a program, found in `PATH` if its name has no slash.
///
/// # Errors
///
/// Always: it returns only if the program cannot be executed.
pub fn execute(arguments: &[CString]) -> io::Result<Infallible> {
    let Some(program) = arguments.first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match nix::unistd::execvp(program, arguments) {
        Ok(never) => Ok(never),
        Err(error) => Err(error.into()),
    }
}

/// Sets a variable of the environment that the next program gets. Only in a process with one thread.
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: the callers are fresh forks with one thread: nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
}

/// Forgets the environment that this process was given. Only in a process with one thread.
pub fn clear_environment() {
    for (name, _) in std::env::vars_os() {
        // SAFETY: as above.
        unsafe { std::env::remove_var(name) };
    }
}

/// Gives a program that is about to be executed the signals as they are at first: `blocked` unblocked, and SIGPIPE, which
/// Rust ignores, with its default action.
///
/// # Errors
///
/// If the kernel refuses.
pub fn reset_signals(blocked: &nix::sys::signal::SigSet) -> io::Result<()> {
    use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
    // SAFETY: sets a default action.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    let mut all: SigSet = *blocked;
    all.add(Signal::SIGCHLD);
    Ok(all.thread_unblock()?)
}

/// Ends this process without running what the parent registered for its own end.
pub fn leave(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_program_gets_its_descriptors_its_environment_and_nothing_else() {
        let Ok(root) = crate::cgroup::mount_point() else { return };
        let own = root.join(crate::cgroup::of_process(std::process::id() as i32).unwrap().trim_start_matches('/'));
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let cgroup = File::open(own).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let program =
            Program::new("/bin/sh", &["-c", "echo $GREETING; ls /proc/self/fd | wc -l"], &[("GREETING", "hello")])
                .unwrap();
        let child = program.start(cgroup.as_fd(), [null.as_fd(), writer.as_fd(), null.as_fd()]).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap(), WaitStatus::Exited(nix::unistd::Pid::from_raw(child.pid), 0));
        // 0, 1, 2 and the one by which ls reads the directory.
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["hello", "4"]);
    }
}
