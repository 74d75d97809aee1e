//! The unprivileged gateway. In this version it serves the metrics; DNS, MCP and model traffic are to come here, because
//! nothing of the kind belongs in a process with privileges.
#![forbid(unsafe_code)]

mod channel;
mod metrics;

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Parser;

/// What agents and scrapers talk to; runs without privileges and inside the fence.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The way to the daemon: its channel's socket, or `stdin` for one that was inherited.
    #[arg(long, default_value = "/run/clawguard/gateway.sock")]
    channel: PathBuf,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let daemon = Arc::new(channel::Channel::open(&arguments.channel).await.context("reach the daemon")?);
        let listen = daemon.settings().await.context("ask the daemon where to listen")?;
        metrics::serve(listen, daemon).await.with_context(|| format!("listen on {listen} ([metrics] listen)"))
    })
}
