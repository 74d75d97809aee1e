//! The first process of a stdio server: born in the server's cgroup and pid namespace, it makes the place safe, starts the server as
//! its user, and reaps. What a server is given is in the plan that the daemon writes before the server's first input.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
};

use ::daemon::ServerPlan;
use nix::sys::signal::{SigSet, Signal};
use sys::{
    confine,
    process::{self, leave},
};

use super::{Done, Failure, run::Identity, shield, stdio};

/// Serves until the server ends; does not return then.
pub(crate) fn run() -> Done {
    let handed: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    let mut waited = handed;
    waited.add(Signal::SIGCHLD);
    waited.thread_block().map_err(|error| Failure::Failed(error.to_string()))?;
    confine::close_others(&[])?;
    let plan = read_plan().map_err(|error| Failure::Failed(format!("read the server's plan: {error}")))?;
    confine::limit(plan.memory, plan.processes)?;
    let name = std::ffi::CString::new(plan.user_name).map_err(|error| Failure::Failed(error.to_string()))?;
    let plan = shield::Plan {
        identity: Identity::User { uid: plan.uid, gid: plan.gid, name, home: plan.home },
        unix_sockets: plan.unix_sockets,
        environment: plan.environment,
        directory: Some(plan.directory),
        command: plan.command,
    };
    let (mut complaint, report) = io::pipe()?;
    let command = shield::start(&plan, &report, &handed).map_err(|shield::Trouble(_, why)| Failure::Failed(why))?;
    drop(report);
    // The server's input ends when whoever talks to it goes, and its output with the server.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd()).map_err(io::Error::from)?;
    nix::unistd::dup2_stdout(null.as_fd()).map_err(io::Error::from)?;
    let mut text = String::new();
    complaint.read_to_string(&mut text)?;
    if let Some((status, why)) = text.split_once(' ') {
        stdio::complain(why);
        leave(status.parse().unwrap_or(1));
    }
    nix::unistd::dup2_stderr(null.as_fd()).map_err(io::Error::from)?;
    shield::reap(command, &handed)
}

/// Reads one line and not a byte more: what follows is the server's.
fn read_plan() -> io::Result<ServerPlan> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        input.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        line.extend(byte);
    }
    process::clear_environment();
    serde_json::from_slice(&line).map_err(io::Error::other)
}
