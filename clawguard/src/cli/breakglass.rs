//! `clawguard break-glass`, `clawguard uninstall`: the way out.

use std::fs::File;

use ::daemon::{audit::AuditLog, host_key};
use evidence::chain::Kind;
use fence::Places;
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::{Context, Done, Failure, stdio};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Why; it is recorded.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(crate) fn break_glass(context: &Context, arguments: &Arguments) -> Done {
    take_off(context, "break-glass", &arguments.reason)
}

pub(crate) fn uninstall(context: &Context) -> Done {
    take_off(context, "uninstall", "uninstalled")
}

fn take_off(context: &Context, verb: &str, reason: &str) -> Done {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::Refused(format!("{verb} needs host root")));
    }
    if reason.trim().is_empty() {
        return Err(Failure::Usage("a reason is needed: it is recorded".into()));
    }
    let lock = context.paths.run().join("daemon.lock");
    // A daemon that runs has other ways, and would put the fence up again.
    let _lock = match File::create(&lock) {
        Ok(file) => Some(Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Failure::Failed("the daemon runs: stop it first (systemctl stop clawguard.service)".into())
        })?),
        // Without its directory there is no daemon either.
        Err(_) => None,
    };
    // The record comes first; but a disk that refuses it must not keep an operator locked out.
    if let Err(error) = record(context, verb, reason) {
        stdio::complain(&format!("not recorded: {error}"));
    }
    let places = Places::of(context.paths.instance())?;
    let removed = fence::remove(&places)?;
    let value = json!({ "links_detached": removed.links, "maps_removed": removed.maps });
    context.print(&value, |_| {
        format!(
            "the fence is off: {} hooks detached, {} maps removed\nagents that still run are no longer held to anything\n",
            removed.links, removed.maps
        )
    })
}

fn record(context: &Context, verb: &str, reason: &str) -> std::io::Result<()> {
    let key = host_key(&context.paths.host_key())?;
    let (mut log, _) = AuditLog::open(&context.paths.audit(), key, u64::MAX)?;
    let body = json!({
        "verb": verb,
        "reason": reason,
        "uid": nix::unistd::getuid().as_raw(),
        "pid": std::process::id(),
        "cgroup": sys::cgroup::of_process(std::process::id() as i32).ok(),
    });
    let ticket = log.append(Kind::BreakGlass, &body)?;
    log.checkpoint()?;
    ticket.wait()
}
