//! The commands, one file each, and what they share.

mod approvals;
mod audit;
mod authority;
mod breakglass;
mod bundle;
mod cst;
mod daemon;
mod doctor;
mod enrol;
mod evidence;
mod explain;
mod export;
mod flip;
mod gateway;
mod keygen;
mod mcp_stdio;
mod observed;
mod pins;
mod protect;
mod records;
mod remote;
mod report;
mod run;
mod server;
mod shield;
mod shown;
mod status;
mod stdio;
mod table;
mod wpc;

use std::{path::PathBuf, process::ExitCode};

use ::daemon::paths::Paths;
use clap::{Parser, Subcommand};
use control::{
    Client,
    api::{Code, ErrorDetail},
    client,
};
use serde::Serialize;

/// Holds AI agents to a signed contract, in the kernel.
///
/// Exit status: 0 done or verified; 1 failed or verified to be bad; 2 wrong usage; 3 the daemon cannot be reached; 4 refused
/// by policy or permission.
#[derive(Parser)]
#[command(name = "clawguard", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    /// Keep all files under this directory: another instance beside the host's own.
    #[arg(long, global = true, env = "CLAWGUARD_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the privileged daemon.
    Daemon(daemon::Arguments),
    /// Run the unprivileged gateway (the daemon does it itself where systemd does not).
    Gateway(gateway::Arguments),
    /// Start an agent inside the fence.
    Run(run::Arguments),
    /// Put an installed systemd service inside the fence.
    Protect(protect::Arguments),
    /// Take a systemd service out of the fence.
    Unprotect(protect::UnprotectArguments),
    /// Show what is in force, armed, killed, lost.
    Status(status::Arguments),
    /// Show what this host can and cannot do, and why something is not ready.
    Doctor(doctor::Arguments),
    /// Show the tool groups and their state.
    Groups,
    /// Take tool groups away at once, live connections included.
    Kill(flip::FlipArguments),
    /// Give tool groups back.
    Restore(flip::FlipArguments),
    /// Take a named state between full operation and none.
    Mode(flip::ModeArguments),
    /// Test the switch and record how it fared.
    Drill(flip::DrillArguments),
    /// Show the calls that wait for a person, with their complete arguments.
    Approvals,
    /// Let a call that waits be made, once.
    Approve(approvals::ApproveArguments),
    /// Refuse a call that waits.
    Deny(approvals::DenyArguments),
    /// Show which tool definitions are accepted, changed or new, and accept or withdraw them.
    Pins(pins::Arguments),
    /// Say why something was denied.
    Explain(explain::Arguments),
    /// Make a signing key.
    Keygen(keygen::Arguments),
    /// Work with contracts.
    Wpc(wpc::Arguments),
    /// Work with job tokens.
    Cst(cst::Arguments),
    /// Speak MCP on standard input and output for a server behind the gateway (in place of a stdio server's command).
    McpStdio(mcp_stdio::Arguments),
    /// Serve contracts, tokens and revocations to one's own fleet (unprivileged; run it as a user of its own).
    Authority(authority::Arguments),
    /// Read and verify the audit chain.
    Audit(audit::Arguments),
    /// Verify what a job leaves behind for others to verify.
    Bundle(bundle::Arguments),
    /// Turn a job's evidence into one page for people to read.
    Report(report::Arguments),
    /// Gather everything that there is about a job into a directory, with checksums.
    Evidence(evidence::Arguments),
    /// Take the fence off when the daemon cannot start: recorded, and for host root only.
    BreakGlass(breakglass::Arguments),
    /// Take the fence off this host.
    Uninstall,
    /// Enrol the systemd unit in whose cgroup this runs (for ExecStartPre=+).
    #[command(hide = true)]
    Enrol(enrol::Arguments),
    /// The daemon's own test process.
    #[command(hide = true, name = ::daemon::CANARY)]
    Canary,
    /// The first process of a stdio server that the daemon starts.
    #[command(hide = true, name = ::daemon::SERVER)]
    Server,
}

/// Why a command failed, by the exit status that says so.
pub(crate) enum Failure {
    /// Status 1.
    Failed(String),
    /// Status 2.
    Usage(String),
    /// Status 3.
    Unreachable(String),
    /// Status 4.
    Refused(String),
    /// The status of a command that was run.
    Status(u8),
}

impl Failure {
    fn report(self) -> ExitCode {
        let (status, text) = match self {
            Self::Failed(text) => (1, text),
            Self::Usage(text) => (2, text),
            Self::Unreachable(text) => (3, text),
            Self::Refused(text) => (4, text),
            Self::Status(status) => return ExitCode::from(status),
        };
        stdio::complain(&told(&text));
        ExitCode::from(status)
    }
}

/// An error's text: what it quotes cannot pass for a line of another's.
fn told(text: &str) -> String {
    text.lines().map(shown::within).collect::<Vec<_>>().join("\n  ")
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Unreachable { .. } => {
                Self::Unreachable(format!("{error}; is it running, and are you root or in the group clawguard?"))
            }
            client::Error::Broken(_) => Self::Failed(error.to_string()),
            client::Error::Refused(detail) => detail.into(),
        }
    }
}

impl From<ErrorDetail> for Failure {
    fn from(detail: ErrorDetail) -> Self {
        let text =
            if detail.hint.is_empty() { detail.message } else { format!("{} ({})", detail.message, detail.hint) };
        match detail.code {
            Code::BadRequest => Self::Usage(text),
            Code::Forbidden | Code::ContractRefused | Code::TokenRefused => Self::Refused(text),
            Code::NotFound | Code::Conflict | Code::Unavailable | Code::Unproven | Code::Internal => Self::Failed(text),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(crate) type Done = Result<(), Failure>;

/// What every command knows.
pub(crate) struct Context {
    pub(crate) paths: Paths,
    pub(crate) root: Option<PathBuf>,
    pub(crate) json: bool,
}

impl Context {
    /// The daemon behind the control socket.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.paths.control_socket())
    }

    /// Asks the daemon something and waits for the answer.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = Result<T, client::Error>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        Ok(runtime.block_on(work)?)
    }

    /// Prints a value as JSON, or whatever `text` makes of it.
    pub(crate) fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Done {
        stdio::say(&self.written(value, text)?).map(drop)
    }

    /// What [`Self::print`] prints.
    pub(crate) fn written<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<String, Failure> {
        if self.json {
            let json = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
            Ok(shown::lines(&json) + "\n")
        } else {
            Ok(shown::lines(&text(value)))
        }
    }
}

/// Parses the command line and carries it out.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match carry_out(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn carry_out(arguments: Arguments) -> Done {
    // The canary stands alone: it was started into a fence and knows no files.
    if matches!(arguments.command, Command::Canary) {
        return fence::serve_canary(std::io::stdin(), std::io::stdout()).map_err(Failure::from);
    }
    if matches!(arguments.command, Command::Server) {
        return server::run();
    }
    let paths = Paths::new(arguments.root.as_deref()).map_err(|error| {
        Failure::Usage(format!("--root {}: {error}", arguments.root.clone().unwrap_or_default().display()))
    })?;
    let context = Context { paths, root: arguments.root, json: arguments.json };
    match arguments.command {
        Command::Daemon(arguments) => daemon::run(&context, &arguments),
        Command::Gateway(arguments) => gateway::run(&context, &arguments),
        Command::Run(arguments) => run::run(&context, &arguments),
        Command::Protect(arguments) => protect::protect(&context, &arguments),
        Command::Unprotect(arguments) => protect::unprotect(&context, &arguments),
        Command::Status(arguments) => status::run(&context, &arguments),
        Command::Doctor(arguments) => doctor::run(&context, &arguments),
        Command::Groups => flip::groups(&context),
        Command::Kill(arguments) => flip::kill(&context, &arguments),
        Command::Restore(arguments) => flip::restore(&context, &arguments),
        Command::Mode(arguments) => flip::mode(&context, &arguments),
        Command::Drill(arguments) => flip::drill(&context, &arguments),
        Command::Approvals => approvals::list(&context),
        Command::Approve(arguments) => approvals::approve(&context, &arguments),
        Command::Deny(arguments) => approvals::deny(&context, &arguments),
        Command::Pins(arguments) => pins::run(&context, &arguments),
        Command::Explain(arguments) => explain::run(&context, &arguments),
        Command::Keygen(arguments) => keygen::run(&context, &arguments),
        Command::Wpc(arguments) => wpc::run(&context, &arguments),
        Command::Cst(arguments) => cst::run(&context, &arguments),
        Command::Authority(arguments) => authority::run(&context, &arguments),
        Command::McpStdio(arguments) => mcp_stdio::run(&context, &arguments),
        Command::Audit(arguments) => audit::run(&context, &arguments),
        Command::Bundle(arguments) => bundle::run(&context, &arguments),
        Command::Report(arguments) => report::run(&context, &arguments),
        Command::Evidence(arguments) => evidence::run(&context, &arguments),
        Command::BreakGlass(arguments) => breakglass::break_glass(&context, &arguments),
        Command::Uninstall => breakglass::uninstall(&context),
        Command::Enrol(arguments) => enrol::run(&context, &arguments),
        Command::Canary | Command::Server => Ok(()),
    }
}

/// The command line's definition, for man pages and tests.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_quotes_begins_no_line_of_its_own() {
        assert_eq!(
            told("x: \"\u{1b}[2K\rverified\nclawguard: done\""),
            "x: \"\\u001b[2K\\u000dverified\n  clawguard: done\""
        );
    }
}
