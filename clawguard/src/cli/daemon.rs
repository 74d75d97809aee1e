//! `clawguard daemon`

use std::path::PathBuf;

use daemon::Options;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use super::{Context, Done, Failure, stdio};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Read this configuration instead of /etc/clawguard/clawguard.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
    /// Leave the gateway to somebody else, such as systemd.
    #[arg(long)]
    external_gateway: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::Refused("the daemon needs root: it loads programs into the kernel".into()));
    }
    log(arguments.log_json);
    let options = Options {
        root: context.root.clone(),
        config: arguments.config.clone(),
        external_gateway: arguments.external_gateway,
    };
    daemon::run(&options).map_err(|error| Failure::Failed(error.to_string()))
}

/// To the journal where there is one, else to stderr; `CLAWGUARD_LOG` chooses what.
fn log(json: bool) {
    let filter = EnvFilter::try_from_env("CLAWGUARD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let set = match (json, journal) {
        (true, _) => registry.with(stderr.json()).try_init(),
        (false, Some(journal)) => registry.with(journal).try_init(),
        (false, None) => registry.with(stderr.with_ansi(false)).try_init(),
    };
    if let Err(error) = set {
        stdio::complain(&format!("no log: {error}"));
    }
}
