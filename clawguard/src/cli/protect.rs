//! `clawguard protect` and `unprotect`: an installed systemd service, by a drop-in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use control::api::Status;
use fence::{AgentName, Places};
use serde_json::json;

use super::{Context, Done, Failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The service, for example openclaw-gateway.service; with --whole-user, the user.
    #[arg(value_name = "UNIT")]
    unit: String,
    /// The agent; by default the unit's name without .service.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Let the service make unix sockets (as the contract must say, too).
    #[arg(long)]
    unix_sockets: bool,
    /// Fence all that a user runs: user@UID.service. For services that are the user's own units, which their user could
    /// edit back.
    #[arg(long)]
    whole_user: bool,
    /// Write the drop-in below this directory instead of /etc/systemd/system, and leave systemd alone.
    #[arg(long, value_name = "DIR")]
    units: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct UnprotectArguments {
    /// The service; with --whole-user, the user.
    #[arg(value_name = "UNIT")]
    unit: String,
    /// Undo `protect --whole-user`.
    #[arg(long)]
    whole_user: bool,
    /// Where the drop-in is, if not below /etc/systemd/system.
    #[arg(long, value_name = "DIR")]
    units: Option<PathBuf>,
}

const SYSTEM_UNITS: &str = "/etc/systemd/system";
const DROP_IN: &str = "50-clawguard.conf";

pub(crate) fn protect(context: &Context, arguments: &Arguments) -> Done {
    let unit = unit_name(&arguments.unit, arguments.whole_user)?;
    let base = arguments.unit.trim_end_matches(".service").to_owned();
    let agent: AgentName = arguments
        .agent
        .clone()
        .unwrap_or(base)
        .parse()
        .map_err(|error| Failure::Usage(format!("{error}; name it with --agent")))?;
    if arguments.units.is_none() {
        look_at_unit(&unit, arguments.whole_user)?;
        has_contract(context, &agent)?;
    }
    let places = Places::of(context.paths.instance())?;
    let text = drop_in(context, &places, &agent, arguments);
    let directory = arguments.units.clone().unwrap_or_else(|| SYSTEM_UNITS.into()).join(format!("{unit}.d"));
    sys::file::directory(&directory, 0o755)?;
    let path = directory.join(DROP_IN);
    sys::file::replace(&path, text.as_bytes(), 0o644)?;
    if arguments.units.is_none() {
        systemctl(&["daemon-reload"])?;
    }
    context.print(&json!({ "unit": unit, "agent": agent, "drop_in": path }), |_| {
        format!(
            "{unit} belongs to the agent {agent} from its next start: systemctl restart {unit}\nwritten to {}\n",
            path.display()
        )
    })
}

pub(crate) fn unprotect(context: &Context, arguments: &UnprotectArguments) -> Done {
    let unit = unit_name(&arguments.unit, arguments.whole_user)?;
    let directory = arguments.units.clone().unwrap_or_else(|| SYSTEM_UNITS.into()).join(format!("{unit}.d"));
    let path = directory.join(DROP_IN);
    fs::remove_file(&path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    // Others' drop-ins stay, and with them the directory.
    let _ = fs::remove_dir(&directory);
    if arguments.units.is_none() {
        systemctl(&["daemon-reload"])?;
    }
    context.print(&json!({ "unit": unit, "removed": path }), |_| {
        format!("{unit} is free from its next start: systemctl restart {unit}\n")
    })
}

fn unit_name(unit: &str, whole_user: bool) -> Result<String, Failure> {
    if whole_user {
        let user = nix::unistd::User::from_name(unit).ok().flatten();
        let user = user.ok_or_else(|| Failure::Usage(format!("there is no user {unit}")))?;
        if user.uid.is_root() {
            return Err(Failure::Refused(
                "root's own manager cannot be fenced: host root is never given to an agent".into(),
            ));
        }
        return Ok(format!("user@{}.service", user.uid));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@:\\".contains(&byte);
    if !unit.ends_with(".service") || !unit.bytes().all(plain) {
        return Err(Failure::Usage(format!("{unit} is no service's name: NAME.service is expected")));
    }
    Ok(unit.to_owned())
}

fn systemctl(words: &[&str]) -> Result<String, Failure> {
    let output = Command::new("systemctl")
        .args(words)
        .output()
        .map_err(|error| Failure::Failed(format!("systemctl: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Failed(format!("systemctl {}: {}", words.join(" "), said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A unit that is there and does not run as root: uid 0 leaves a fence by writing files that others run.
fn look_at_unit(unit: &str, whole_user: bool) -> Done {
    let shown = systemctl(&["show", "--property=LoadState,User,DynamicUser,Type", unit])?;
    let value = |name: &str| {
        shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    if value("LoadState") != "loaded" {
        return Err(Failure::Failed(format!(
            "systemd has no system unit {unit}; a user's own unit can be edited back by its user: make it a system unit, \
             or fence all of the user with `clawguard protect --whole-user USER`"
        )));
    }
    let user = value("User");
    if !whole_user && value("DynamicUser") != "yes" && (user.is_empty() || user == "root" || user == "0") {
        return Err(Failure::Refused(format!(
            "{unit} runs as host root, who gets out of any fence by writing files that others run; give it a User="
        )));
    }
    Ok(())
}

/// A service without a contract would come up and reach nothing: better said now.
fn has_contract(context: &Context, agent: &AgentName) -> Done {
    let client = context.client();
    let status: Status = context.wait(client.get("/v1/status"))?;
    let known = status.agents.iter().find(|known| known.name == agent.as_str());
    if known.is_none_or(|agent| agent.wpc_hash.is_none() && agent.mode == "enforce") {
        return Err(Failure::Failed(format!(
            "the agent {agent} has no contract in force, so that the service would reach nothing: \
             `clawguard wpc use FILE --agent {agent}` first"
        )));
    }
    Ok(())
}

/// The drop-in. Enrolment runs, as root, before the service does; should it fail, the service does not start. Lines of the
/// unit's own before it are in the agents' slice, where nothing is reached without a job.
fn drop_in(context: &Context, places: &Places, agent: &AgentName, arguments: &Arguments) -> String {
    let executable = std::env::current_exe().unwrap_or_else(|_| Path::new("/usr/bin/clawguard").to_owned());
    let root = context.root.as_ref().map_or_else(String::new, |root| format!(" --root {}", root.display()));
    let enrol = format!("ExecStartPre=+{}{root} enrol --agent {agent}", executable.display());
    let head = "# Written by `clawguard protect`; `clawguard unprotect` removes it.\n";
    let unit = "[Unit]\nWants=clawguard.service\nAfter=clawguard.service\n";
    let unit = if context.root.is_some() { "" } else { unit };
    if arguments.whole_user {
        // A user's manager needs its own cgroups, unix sockets and mounts; it is fenced in place.
        return format!("{head}{unit}\n[Service]\n{enrol}\n");
    }
    let unix = if arguments.unix_sockets { " AF_UNIX" } else { "" };
    let slice = places.agent_slice_name(agent);
    format!(
        "{head}{unit}\n[Service]\nSlice={slice}\n{enrol}\n\
         NoNewPrivileges=yes\nCapabilityBoundingSet=\nAmbientCapabilities=\n\
         RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK{unix}\n\
         ProtectControlGroups=yes\nProtectKernelTunables=yes\nProtectKernelModules=yes\nInaccessiblePaths=-/sys/fs/bpf\n\
         RestrictSUIDSGID=yes\nSystemCallArchitectures=native\nSystemCallErrorNumber=EPERM\n\
         SystemCallFilter=~io_uring_setup io_uring_enter io_uring_register pidfd_getfd bpf add_key request_key keyctl ptrace process_vm_readv \
         process_vm_writev sendfile:EINVAL splice:EINVAL vmsplice:EINVAL\n"
    )
}
