//! `clawguard doctor`

use std::{fs, path::Path};

use ::daemon::config::Config;
use control::api::Status;
use serde::Serialize;

use super::{Context, Done, Failure, table::table};

#[derive(clap::Args)]
pub(crate) struct Arguments {}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    grade: Grade,
    what: &'static str,
    found: String,
}

fn finding(grade: Grade, what: &'static str, found: impl Into<String>) -> Finding {
    Finding { grade, what, found: found.into() }
}

/// Everything that is looked at, as JSON.
pub(crate) fn snapshot(context: &Context) -> serde_json::Value {
    serde_json::to_value(findings(context)).unwrap_or_default()
}

fn findings(context: &Context) -> Vec<Finding> {
    let mut findings =
        vec![kernel(), cgroups(), btf(), bpffs(), config("INET_DIAG_DESTROY", "live connections can be ended")];
    findings.push(config("CGROUP_BPF", "programs can be attached to cgroups"));
    findings.push(landlock());
    findings.push(user_namespaces());
    findings.push(configuration(context));
    findings.extend(daemon(context));
    findings
}

pub(crate) fn run(context: &Context, _: &Arguments) -> Done {
    let findings = findings(context);
    context.print(&findings, |findings| {
        let rows: Vec<Vec<String>> = findings
            .iter()
            .map(|finding| {
                let grade = match finding.grade {
                    Grade::Ok => "ok",
                    Grade::Warn => "warn",
                    Grade::Fail => "FAIL",
                };
                vec![grade.into(), finding.what.into(), finding.found.replace('\n', " ")]
            })
            .collect();
        table(&["", "WHAT", "FOUND"], &rows)
    })?;
    match findings.iter().filter(|finding| finding.grade == Grade::Fail).count() {
        0 => Ok(()),
        1 => Err(Failure::Failed("one thing is not as it must be".into())),
        n => Err(Failure::Failed(format!("{n} things are not as they must be"))),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// `bpf_iter` over socket storage, `SO_NETNS_COOKIE` and batches are all there from 5.15 on; `bpf_set_retval` from 5.18.
fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let grade = if version >= (5, 18) { Grade::Ok } else { Grade::Fail };
    finding(grade, "kernel 5.18 or later", release)
}

fn cgroups() -> Finding {
    match sys::cgroup::mount_point() {
        Ok(path) => finding(Grade::Ok, "cgroup v2", path.display().to_string()),
        Err(error) => finding(Grade::Fail, "cgroup v2", error.to_string()),
    }
}

fn btf() -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        finding(Grade::Ok, "kernel type information (BTF)", path)
    } else {
        finding(Grade::Fail, "kernel type information (BTF)", "not there: the kernel needs CONFIG_DEBUG_INFO_BTF")
    }
}

fn bpffs() -> Finding {
    let mounted = fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|table| sys::cgroup::mounts_of(&table, &["bpf"]).any(|place| place == Path::new(fence::BPFFS)));
    if mounted {
        finding(Grade::Ok, "bpf file system", fence::BPFFS)
    } else {
        finding(Grade::Warn, "bpf file system", "not mounted; the daemon mounts it")
    }
}

/// Looks an option up in the running kernel's configuration, where that is readable.
fn config(option: &'static str, what: &'static str) -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let packed = std::process::Command::new("zcat").arg("/proc/config.gz").output();
    let text = match packed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => read(&format!("/boot/config-{release}")),
    };
    if text.is_empty() {
        return finding(Grade::Warn, what, "this kernel does not show its configuration");
    }
    let set = text.lines().any(|line| line == format!("CONFIG_{option}=y"));
    let (grade, found) = if set { (Grade::Ok, "yes") } else { (Grade::Fail, "no") };
    finding(grade, what, format!("CONFIG_{option}: {found}"))
}

fn landlock() -> Finding {
    match sys::confine::landlock_version() {
        version @ 6.. => finding(Grade::Ok, "signals stay inside (Landlock scopes)", format!("ABI {version}")),
        version => finding(
            Grade::Warn,
            "signals stay inside (Landlock scopes)",
            format!("ABI {version}: by the pid namespace alone"),
        ),
    }
}

fn user_namespaces() -> Finding {
    let most = read("/proc/sys/user/max_user_namespaces");
    if most == "0" {
        finding(Grade::Warn, "user namespaces", "none: `run` works for root with --user only")
    } else {
        finding(Grade::Ok, "user namespaces", format!("up to {most}"))
    }
}

fn configuration(context: &Context) -> Finding {
    let path = context.paths.config();
    match Config::read(&path) {
        Ok(config) if config.trust.wpc_signers.is_empty() => {
            let found = format!("{}: no signer is trusted, so that no contract is accepted", path.display());
            finding(Grade::Warn, "configuration", found)
        }
        Ok(_) => finding(Grade::Ok, "configuration", path.display().to_string()),
        Err(error) => finding(Grade::Fail, "configuration", error.to_string()),
    }
}

fn daemon(context: &Context) -> Vec<Finding> {
    let client = context.client();
    let status: Status = match context.wait(client.get("/v1/status")) {
        Ok(status) => status,
        Err(Failure::Unreachable(text) | Failure::Refused(text) | Failure::Failed(text)) => {
            return vec![finding(Grade::Fail, "daemon", text)];
        }
        Err(_) => return vec![finding(Grade::Fail, "daemon", "no answer")],
    };
    let unarmed: Vec<String> =
        status.hooks.iter().filter(|(_, armed)| !**armed).map(|(hook, _)| hook.clone()).collect();
    let mut found =
        vec![finding(Grade::Ok, "daemon", format!("version {} since {}", status.version, status.started_at))];
    found.push(if unarmed.is_empty() {
        finding(Grade::Ok, "hooks", format!("{} armed and self-tested", status.hooks.len()))
    } else {
        finding(Grade::Fail, "hooks", format!("not armed: {}", unarmed.join(" ")))
    });
    for agent in status.agents.iter().filter_map(|agent| agent.problem.as_ref().map(|text| (agent, text))) {
        found.push(finding(Grade::Fail, "agent", format!("{}: {}", agent.0.name, agent.1)));
    }
    if !status.mcp.servers.is_empty() {
        let (well, all) = (status.mcp.servers.iter().filter(|s| s.problem.is_none()).count(), status.mcp.servers.len());
        let grade = if well == all { Grade::Ok } else { Grade::Fail };
        found.push(finding(grade, "MCP servers", format!("{well} of {all} to be reached at port {}", status.mcp.port)));
        let hidden: u64 = status.mcp.servers.iter().map(|server| server.pins_waiting).sum();
        if hidden > 0 {
            found.push(finding(
                Grade::Warn,
                "tool definitions",
                format!("{hidden} are hidden until accepted: `clawguard pins`"),
            ));
        }
    }
    found.extend(status.warnings.into_iter().map(|text| finding(Grade::Warn, "daemon", text)));
    found
}
