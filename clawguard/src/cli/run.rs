//! `clawguard run`: an agent, born inside the fence.
//!
//! Three processes: this one, which stays outside and hands on signals and the exit status; the first process of the job's
//! own pid namespace, which reaps; and the command. What the command must not have is taken away in `shield`.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
};

use control::api::{JobAnswer, JobBody, ProcessBody};
use hyper::Method;
use nix::{
    sched::CloneFlags,
    sys::{
        signal::{SigSet, Signal},
        wait::WaitStatus,
    },
};
use sys::{
    confine::{self, IdMap, Unfit},
    process::{self, Child, Forked},
};

use super::{Context, Done, Failure, shield, stdio, wpc};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The agent; its contract is the job's, unless --wpc gives another.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// The job's id; one is made if absent.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// A contract for this job: a hash that the daemon has, or a file.
    #[arg(long, value_name = "HASH|FILE")]
    wpc: Option<String>,
    /// The job's token. Without --job, the token names the job.
    #[arg(long, value_name = "FILE")]
    cst: Option<std::path::PathBuf>,
    /// The user to become. Root has to say this or --userns-root: host root is never given.
    #[arg(long, value_name = "USER", conflicts_with = "userns_root")]
    user: Option<String>,
    /// Be root in a user namespace of the job's own, and nobody outside it.
    #[arg(long)]
    userns_root: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Whom the command becomes.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// A user of the host's, for root to become.
    User { uid: u32, gid: u32, name: CString, home: String },
    /// The caller.
    Caller,
    /// Root of a user namespace. The outer numbers are mapped by whoever may.
    NamespaceRoot { maps: Option<IdMap> },
}

/// First outer number of the users of jobs' own user namespaces, above those that systemd gives to containers, and how many
/// each gets.
const FIRST_ID: u32 = 0x7000_0000;
const IDS: u32 = 65_536;
const RANGES: u32 = 4096;

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let root = nix::unistd::geteuid().is_root();
    if root && arguments.user.is_none() && !arguments.userns_root {
        let text = "called by root, `run` needs --user U or --userns-root: host root is never given to an agent";
        return Err(Failure::Usage(text.into()));
    }
    if !root && arguments.user.is_some() {
        return Err(Failure::Usage("only root can become another user".into()));
    }
    refuse_sockets()?;
    // Whatever can be wrong here is found before a token is used up.
    let user = user(arguments)?;
    let answer = start_job(context, arguments)?;
    let identity = identity(arguments, user, root, &answer);
    let plan = shield::Plan {
        identity,
        unix_sockets: answer.unix_sockets,
        environment: vec![
            ("CLAWGUARD_JOB".into(), answer.job.id.clone()),
            ("CLAWGUARD_AGENT".into(), answer.job.agent.clone()),
            ("CLAWGUARD_DENIALS".into(), answer.denials.clone()),
        ],
        directory: None,
        command: arguments.command.clone(),
    };
    let status = launch(context, &answer, &plan, root)?;
    if status == 0 { Ok(()) } else { Err(Failure::Status(status)) }
}

/// No descriptor made outside goes inside; stdin, stdout and stderr are the only ones that go at all.
fn refuse_sockets() -> Done {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for (name, fd) in [("stdin", stdin.as_fd()), ("stdout", stdout.as_fd()), ("stderr", stderr.as_fd())] {
        let why = match confine::stdio_fit(fd)? {
            Ok(()) => continue,
            Err(Unfit::Internet) => "an internet socket".to_owned(),
            Err(Unfit::Foreign { pid }) => format!("a unix socket to process {pid}, which could hand sockets in"),
            Err(Unfit::Family(family)) => format!("a socket of family {family}"),
        };
        return Err(Failure::Refused(format!("{name} is {why}; put a pipe or a file in its place")));
    }
    Ok(())
}

fn start_job(context: &Context, arguments: &Arguments) -> Result<JobAnswer, Failure> {
    let (envelope, wpc_hash) = match &arguments.wpc {
        Some(contract) => wpc::named(contract)?,
        None => (None, None),
    };
    let body = JobBody {
        agent: arguments.agent.clone(),
        id: arguments.job.clone(),
        wpc_hash,
        envelope,
        cst: arguments.cst.as_deref().map(super::cst::read).transpose()?,
        enrol_caller: false,
    };
    let client = context.client();
    context.wait(client.send(Method::POST, "/v1/jobs", &body))
}

/// The user of the host's whom the command becomes, if it becomes one.
fn user(arguments: &Arguments) -> Result<Option<Identity>, Failure> {
    let Some(name) = &arguments.user else { return Ok(None) };
    let found = nix::unistd::User::from_name(name).ok().flatten();
    let by_number = || {
        name.parse().ok().and_then(|uid| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten())
    };
    let user = found.or_else(by_number).ok_or_else(|| Failure::Usage(format!("there is no user {name}")))?;
    if user.uid.is_root() {
        return Err(Failure::Usage(
            "host root is never given to an agent; --userns-root is root of a namespace".into(),
        ));
    }
    let text = CString::new(user.name).map_err(|_| Failure::Usage("a user's name has a NUL in it".into()))?;
    Ok(Some(Identity::User {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        name: text,
        home: user.dir.to_string_lossy().into_owned(),
    }))
}

fn identity(arguments: &Arguments, user: Option<Identity>, root: bool, answer: &JobAnswer) -> Identity {
    if let Some(user) = user {
        return user;
    }
    if !arguments.userns_root {
        return Identity::Caller;
    }
    let outside = FIRST_ID + (answer.slot % RANGES) * IDS;
    Identity::NamespaceRoot { maps: root.then_some(IdMap { inside: 0, outside, count: IDS }) }
}

/// Starts the command and answers its exit status.
fn launch(context: &Context, answer: &JobAnswer, plan: &shield::Plan, root: bool) -> Result<u8, Failure> {
    // Signals wait until there is somebody to hand them to.
    let mut handed: SigSet = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
        handed.add(signal);
    }
    let mut waited = handed;
    waited.add(Signal::SIGCHLD);
    waited.thread_block().map_err(|error| Failure::Failed(error.to_string()))?;
    let (mut report_read, report) = io::pipe()?;
    let (go, mut tell_go) = io::pipe()?;
    let mut namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    let child = if root {
        let cgroup = File::open(&answer.cgroup_directory)?;
        process::fork(Some(cgroup.as_fd()), namespaces)?
    } else {
        namespaces |= CloneFlags::CLONE_NEWUSER;
        process::fork(None, namespaces).map_err(|error| {
            Failure::Failed(format!(
                "this host gives users no namespaces of their own ({error}); let root call `clawguard run --user`"
            ))
        })?
    };
    let child = match child {
        Forked::Child => {
            drop((report_read, tell_go));
            shield::first_process(plan, go, report, &handed)
        }
        Forked::Parent(child) => child,
    };
    drop((report, go));
    if report_read.read_exact(&mut [0]).is_err() {
        let _ = child.wait();
        return Err(Failure::Failed("the job's first process ended before it began".into()));
    }
    if !root {
        admit(context, answer, &child, plan)?;
    }
    // It waits for this, so that nothing of it runs before it is where it belongs.
    tell_go.write_all(b"g")?;
    drop(tell_go);
    if let Some(failure) = complaint(report_read)? {
        let _ = child.wait();
        return Err(failure);
    }
    attend(&child, &waited)
}

/// Without root: the caller maps itself into the new user namespace, and the daemon moves the process into the job.
fn admit(context: &Context, answer: &JobAnswer, child: &Child, plan: &shield::Plan) -> Done {
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let inside = matches!(plan.identity, Identity::NamespaceRoot { .. });
    let map = |outside: u32| IdMap { inside: if inside { 0 } else { outside }, outside, count: 1 };
    confine::map_ids(child.pid, map(uid), map(gid))?;
    let path = format!("/v1/jobs/{}/processes", answer.job.id);
    let client = context.client();
    let _: JobAnswer = context.wait(client.send(Method::POST, &path, &ProcessBody { pid: child.pid }))?;
    Ok(())
}

/// What the child complains about before it becomes the command; the pipe closes by itself when it does.
fn complaint(mut report: io::PipeReader) -> Result<Option<Failure>, Failure> {
    let mut text = String::new();
    report.read_to_string(&mut text)?;
    let Some((status, message)) = text.split_once(' ') else { return Ok(None) };
    stdio::complain(message);
    Ok(Some(Failure::Status(status.parse().unwrap_or(1))))
}

/// Hands signals on until the job's first process ends; answers its exit status.
fn attend(child: &Child, waited: &SigSet) -> Result<u8, Failure> {
    loop {
        let signal = waited.wait().map_err(|error| Failure::Failed(error.to_string()))?;
        if signal == Signal::SIGCHLD {
            if !child.ended()? {
                continue;
            }
            return Ok(match child.wait()? {
                WaitStatus::Exited(_, status) => status as u8,
                WaitStatus::Signaled(_, signal, _) => 128_u8.saturating_add(signal as u8),
                _ => 1,
            });
        }
        // From a terminal the command has it already; a second one does no harm that the first did not.
        if !matches!(signal, Signal::SIGINT | Signal::SIGQUIT) {
            let _ = child.signal(signal as i32);
        }
    }
}
