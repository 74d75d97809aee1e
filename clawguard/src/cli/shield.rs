//! Inside `clawguard run`: what is done between the fork and the command's first instruction.

use std::{
    convert::Infallible,
    ffi::CString,
    fmt::Display,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::AsFd,
    path::PathBuf,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Gid, Pid, Uid, initgroups, setgroups, setresgid, setresuid},
};
use sys::{
    confine,
    process::{self, Forked, leave},
    seccomp,
};

use super::run::Identity;

/// What is to be started, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) identity: Identity,
    pub(crate) unix_sockets: bool,
    pub(crate) environment: Vec<(String, String)>,
    /// Where it starts, if not where the caller is.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) command: Vec<String>,
}

/// What the first process reports once it holds nothing of its parent's.
pub(crate) const CLOSED: u8 = b'.';

/// The exit statuses of env(1) and its kin.
const CANNOT_START: u8 = 125;
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// What went wrong, with the exit status for it.
pub(crate) struct Trouble(pub(crate) u8, pub(crate) String);

fn trouble(what: &'static str) -> impl Fn(&dyn Display) -> Trouble {
    move |error| Trouble(CANNOT_START, format!("could not {what}: {error}"))
}

/// Tells the parent, which waits for the pipe to close.
fn complain(report: &mut PipeWriter, Trouble(status, text): &Trouble) -> ! {
    let _ = write!(report, "{status} {text}");
    leave(i32::from(*status))
}

/// The first process of the job's pid namespace: makes the place safe, starts the command, reaps, hands signals on, and
/// ends with the command's status. When it ends, the kernel ends whatever is left in the namespace.
pub(crate) fn first_process(plan: &Plan, mut go: PipeReader, mut report: PipeWriter, handed: &SigSet) -> ! {
    // The job is over when `clawguard run` is, however that ended.
    let dies = confine::die_with_parent();
    // What the parent had open is no business of the job's; the daemon takes nobody in who holds a socket.
    let closed = confine::close_others(&[go.as_fd(), report.as_fd()]).and_then(|()| report.write_all(&[CLOSED]));
    if dies.is_err() || closed.is_err() || go.read_exact(&mut [0]).is_err() {
        // The parent failed and has said so.
        leave(i32::from(CANNOT_START));
    }
    drop(go);
    let command = match start(plan, &report, handed) {
        Ok(command) => command,
        Err(problem) => complain(&mut report, &problem),
    };
    // From here on only the command's own copy holds the pipe open.
    drop(report);
    reap(command, handed)
}

/// Makes the place safe and starts the command. What goes wrong in the command's process before it is the command, it reports.
pub(crate) fn start(plan: &Plan, report: &PipeWriter, handed: &SigSet) -> Result<Pid, Trouble> {
    confine::shield_file_systems().map_err(|e| trouble("shield the file systems")(&e))?;
    // The command asks to be mapped once it is in its user namespace, and waits until it is.
    let (mut asks, ask) = io::pipe().map_err(|e| trouble("make a pipe")(&e))?;
    let (answer, mut answers) = io::pipe().map_err(|e| trouble("make a pipe")(&e))?;
    let forked = process::fork(None, CloneFlags::empty()).map_err(|e| trouble("fork")(&e))?;
    let child = match forked {
        Forked::Child => {
            drop((asks, answers));
            let mut own = match report.try_clone() {
                Ok(own) => own,
                Err(_) => leave(i32::from(CANNOT_START)),
            };
            match become_command(plan, ask, answer, &own, handed) {
                Ok(never) => match never {},
                Err(problem) => complain(&mut own, &problem),
            }
        }
        Forked::Parent(child) => child,
    };
    drop((ask, answer));
    if let Identity::NamespaceRoot { maps: Some(map) } = plan.identity {
        let mut byte = [0];
        // If it ended instead, its own complaint is on its way.
        if asks.read_exact(&mut byte).is_ok() {
            confine::map_ids(child.pid, map, map).map_err(|e| trouble("map the namespace's users")(&e))?;
            let _ = answers.write_all(b"m");
        }
    }
    drop(answers);
    // All that this process has left to do is to hand signals on, to users that are not its own.
    confine::drop_bounding_set().map_err(|e| trouble("give up capabilities")(&e))?;
    confine::drop_capabilities(confine::CAP_KILL).map_err(|e| trouble("give up capabilities")(&e))?;
    confine::no_new_privileges().map_err(|e| trouble("give up privileges")(&e))?;
    // The command may be root of the namespace that this process is in: what it would find here is no better than itself.
    confine::not_dumpable().map_err(|e| trouble("close this process to others")(&e))?;
    seccomp::install(plan.unix_sockets).map_err(|e| trouble("filter system calls")(&e))?;
    Ok(Pid::from_raw(child.pid))
}

/// The command's process, up to the command.
fn become_command(
    plan: &Plan,
    mut ask: PipeWriter,
    mut answer: PipeReader,
    report: &PipeWriter,
    handed: &SigSet,
) -> Result<Infallible, Trouble> {
    let words: Vec<CString> = plan
        .command
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(|e| trouble("read the command")(&e))?;
    match &plan.identity {
        Identity::NamespaceRoot { maps: Some(_) } => {
            unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| trouble("make a user namespace")(&e))?;
            let mapped = ask.write_all(b"a").and_then(|()| answer.read_exact(&mut [0]));
            mapped.map_err(|e| trouble("have the namespace's users mapped")(&e))?;
            // A copy of the mounts that belongs to the namespace: what shields is locked in it.
            unshare(CloneFlags::CLONE_NEWNS).map_err(|e| trouble("make a mount namespace")(&e))?;
            become_user(0, 0)?;
        }
        // The namespace was mapped by the caller; there are no other groups in it to give up.
        Identity::NamespaceRoot { maps: None } => {}
        Identity::User { uid, gid, name, home } => {
            initgroups(name, Gid::from_raw(*gid)).map_err(|e| trouble("take the user's groups")(&e))?;
            confine::drop_bounding_set().map_err(|e| trouble("give up capabilities")(&e))?;
            set_ids(*uid, *gid)?;
            confine::drop_capabilities(0).map_err(|e| trouble("give up capabilities")(&e))?;
            let name = name.to_string_lossy();
            for (variable, value) in [("HOME", home.as_str()), ("USER", name.as_ref()), ("LOGNAME", name.as_ref())] {
                process::set_variable(variable, value);
            }
        }
        Identity::Caller => {
            confine::drop_bounding_set().map_err(|e| trouble("give up capabilities")(&e))?;
            confine::drop_capabilities(0).map_err(|e| trouble("give up capabilities")(&e))?;
        }
    }
    drop((ask, answer));
    for (variable, value) in &plan.environment {
        process::set_variable(variable, value);
    }
    if let Some(directory) = &plan.directory {
        // As its user, who may not be let in.
        std::env::set_current_dir(directory).map_err(|e| trouble("go to its directory")(&e))?;
    }
    confine::no_new_privileges().map_err(|e| trouble("give up privileges")(&e))?;
    confine::landlock_scope().map_err(|e| trouble("scope signals")(&e))?;
    confine::close_others(&[report.as_fd()]).map_err(|e| trouble("close descriptors")(&e))?;
    process::reset_signals(handed).map_err(|e| trouble("reset signals")(&e))?;
    seccomp::install(plan.unix_sockets).map_err(|e| trouble("filter system calls")(&e))?;
    match process::execute(&words) {
        Ok(never) => Ok(never),
        Err(error) => {
            let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE };
            let name = words.first().map(|word| String::from_utf8_lossy(word.as_bytes()).into_owned());
            Err(Trouble(status, format!("{}: {error}", name.unwrap_or_default())))
        }
    }
}

fn become_user(uid: u32, gid: u32) -> Result<(), Trouble> {
    setgroups(&[Gid::from_raw(gid)]).map_err(|e| trouble("give up groups")(&e))?;
    set_ids(uid, gid)
}

fn set_ids(uid: u32, gid: u32) -> Result<(), Trouble> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid).map_err(|e| trouble("become the group")(&e))?;
    setresuid(uid, uid, uid).map_err(|e| trouble("become the user")(&e))
}

/// Waits for the command, for orphans, and for signals to hand on.
pub(crate) fn reap(command: Pid, handed: &SigSet) -> ! {
    let mut waited = *handed;
    waited.add(Signal::SIGCHLD);
    loop {
        let Ok(signal) = waited.wait() else { continue };
        if signal != Signal::SIGCHLD {
            if !matches!(signal, Signal::SIGINT | Signal::SIGQUIT) {
                let _ = kill(command, signal);
            }
            continue;
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) if pid == command => leave(status),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => leave(128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}
