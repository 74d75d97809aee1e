//! The unprivileged gateway. It answers the agents' questions for names, is their only way to MCP servers and models, serves the
//! metrics and asks registries, because nothing of the kind belongs in a process with privileges. What it says of names opens nothing
//! by itself: the daemon judges every word. What it lets through to servers and models it decides itself, by rules that the daemon
//! gives it.
#![forbid(unsafe_code)]

mod callers;
mod channel;
mod errands;
mod mcp;
mod metrics;
mod model;
mod names;

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What agents' resolvers and scrapers talk to; runs without privileges and inside the fence.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The way to the daemon: its channel's socket, or `stdin` for one that was inherited.
    #[arg(long, default_value = "/run/clawguard/gateway.sock")]
    channel: PathBuf,
    /// Make one request, which standard input has as JSON, print the answer as JSON, and end. For the operator's own commands.
    #[arg(long, hide = true)]
    fetch: bool,
    /// Speak MCP on standard input and output for the gateway's endpoint at this URL, and end with the input. For agents.
    #[arg(long, hide = true, value_name = "URL")]
    stdio: Option<String>,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let arguments = Arguments::parse();
    if arguments.fetch {
        return fetch();
    }
    if let Some(url) = &arguments.stdio {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
        let spoken = runtime.block_on(mcp::bridge(url)).map_err(anyhow::Error::msg);
        // A thread that waits for standard input ends with the process.
        runtime.shutdown_background();
        return spoken;
    }
    set_limits().context("set the process's own limits")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let ended = runtime.block_on(async {
        let daemon = Arc::new(channel::Channel::open(&arguments.channel).context("reach the daemon")?);
        let (listen, [tools, models], names) = daemon.settings().await.context("ask the daemon where to listen")?;
        let sockets =
            names::Sockets::open().await.context("find a port for names that is free for both UDP and TCP")?;
        tokio::select! {
            served = metrics::serve(listen, Arc::clone(&daemon)) => {
                served.with_context(|| format!("listen on {listen} ([metrics] listen)"))
            }
            served = names::serve(sockets, names, Arc::clone(&daemon)) => {
                served.context("tell the daemon at which port names are answered")
            }
            served = mcp::serve(tools, models, Arc::clone(&daemon)) => {
                served.with_context(|| format!("serve MCP at port {tools} ([mcp] port), models at {models} ([model] port)"))
            }
            ended = errands::run(daemon) => ended.context("run the daemon's errands"),
        }
    });
    // A stream that is being followed ends with the process, not the other way round.
    runtime.shutdown_background();
    ended
}

/// Bytes of memory that the gateway may have. Beyond, it ends: then nothing is let through, and the daemon starts it again.
const MEMORY: u64 = 1 << 30;

/// Every connection needs descriptors; and what many agents together send must not take the host's memory.
fn set_limits() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let (_, most) = getrlimit(Resource::RLIMIT_DATA)?;
    setrlimit(Resource::RLIMIT_DATA, MEMORY.min(most), MEMORY.min(most))
}

fn fetch() -> anyhow::Result<()> {
    give_up_root().context("become nobody")?;
    let request: remote::Request =
        serde_json::from_reader(std::io::stdin().lock()).context("read the request from standard input")?;
    let answer = remote::ask(&request, control::channel::LARGEST_CONTRACT + 4096)?;
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

/// What the network sends is not read by root, whoever called.
fn give_up_root() -> nix::Result<()> {
    const NOBODY: u32 = 65534;
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setgid(NOBODY.into())?;
        nix::unistd::setuid(NOBODY.into())?;
    }
    Ok(())
}
