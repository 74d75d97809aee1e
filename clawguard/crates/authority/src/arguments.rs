//! The command line of `clawguard-authority`, here so that its manual pages are made from it.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

/// Registers contracts; issues, binds and revokes job tokens; tells who follows.
#[derive(Debug, Parser)]
#[command(name = "clawguard-authority", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do; nothing said is `serve`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve, where no command is named.
    #[command(flatten)]
    pub serve: Serve,
}

/// What it does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve (the default).
    Serve(Serve),
    /// Replace the key that signs tokens; the old one verifies for another hour.
    Rotate(Common),
    /// Print the names of the keys, for `[trust]` in the hosts' configuration.
    Key(Common),
}

/// What every command takes.
#[derive(Args, Debug)]
pub struct Common {
    /// The directory of the store and the keys (mode 0700; made if it is not there).
    #[arg(long, value_name = "DIR", default_value = "/var/lib/clawguard-authority")]
    pub data: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Of the server.
#[derive(Args, Debug)]
pub struct Serve {
    /// Where its data is.
    #[command(flatten)]
    pub common: Common,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9480")]
    pub listen: SocketAddr,
    /// The certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve plain HTTP also where it is not loopback: a proxy in front speaks TLS.
    #[arg(long)]
    pub behind_proxy: bool,
    /// The administrator's bearer token (DIR/admin-token by default, made if it is not there).
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// The largest contract, in bytes of its request.
    #[arg(long, value_name = "N", default_value_t = 8 << 20)]
    pub max_wpc_bytes: usize,
    /// A name under which tokens are for this server; may be repeated
    /// [default: clawcontrols.com, clawscope.com and the listening host].
    #[arg(long, value_name = "NAME")]
    pub audience: Vec<String>,
    /// Run as root all the same.
    #[arg(long)]
    pub allow_root: bool,
}

/// The command line's definition, for manual pages.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}
