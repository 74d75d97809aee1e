//! `clawguard-authority`: contracts, tokens and revocations for a fleet, served from one's own host and without privileges.
#![forbid(unsafe_code)]

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use authority::{AdminToken, Clock, Ids, Limits, Server, Settings, Tls, keys::Directory};
use clap::{Args, Parser, Subcommand};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use tokio::signal::unix::{SignalKind, signal};

/// Registers contracts; issues, binds and revokes job tokens; tells who follows.
#[derive(Parser)]
#[command(name = "clawguard-authority", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default).
    Serve(Serve),
    /// Replace the key that signs tokens; the old one verifies for another hour.
    Rotate(Keys),
    /// Print the names of the keys, for `[trust]` in the hosts' configuration.
    Key(Keys),
}

#[derive(Args)]
struct Data {
    /// The directory of the store and the keys (mode 0700; made if it is not there).
    #[arg(long, value_name = "DIR", default_value = "/var/lib/clawguard-authority")]
    data: PathBuf,
}

#[derive(Args)]
struct Keys {
    #[command(flatten)]
    data: Data,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    data: Data,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9480")]
    listen: SocketAddr,
    /// The certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP also where it is not loopback: a proxy in front speaks TLS.
    #[arg(long)]
    behind_proxy: bool,
    /// The administrator's bearer token (DIR/admin-token by default, made if it is not there).
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// The largest contract, in bytes of its request.
    #[arg(long, value_name = "N", default_value_t = 8 << 20)]
    max_wpc_bytes: usize,
    /// A name under which tokens are for this server; may be repeated
    /// [default: clawcontrols.com, clawscope.com and the listening host].
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// Run as root all the same.
    #[arg(long)]
    allow_root: bool,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    let arguments = Arguments::parse();
    match arguments.command {
        None => serve(arguments.serve),
        Some(Command::Serve(arguments)) => serve(arguments),
        Some(Command::Rotate(arguments)) => {
            let directory = directory(&arguments)?;
            let keys = directory.rotate(Clock::system().seconds()).context("replace the token key")?;
            say(&arguments, &[("scope", keys.active.did().to_string()), ("kid", keys.active.did().kid())])
        }
        Some(Command::Key(arguments)) => {
            let directory = directory(&arguments)?;
            let (controls, scope) = (directory.controls()?.did(), directory.scope()?.active.did());
            say(&arguments, &[("controls", controls.to_string()), ("scope", scope.to_string())])
        }
    }
}

fn directory(arguments: &Keys) -> anyhow::Result<Directory> {
    let data = &arguments.data.data;
    let inside = as_its_owner(data).with_context(|| data.display().to_string())?;
    let directory = if inside { Path::new(".") } else { data };
    sys::file::directory(directory, 0o700).with_context(|| data.display().to_string())?;
    Directory::open(directory).with_context(|| format!("the keys under {}", data.display()))
}

/// Root becomes the owner of a directory that is there, and goes into it: whoever owns the directory says what its names
/// lead to, and must not say so to root. Answers whether this process is in there now.
///
/// It goes in first: the directory of a service with a dynamic user lies below one that only root may pass.
fn as_its_owner(data: &Path) -> anyhow::Result<bool> {
    if !geteuid().is_root() || !data.exists() {
        return Ok(false);
    }
    std::env::set_current_dir(data)?;
    let owner = std::fs::metadata(".")?;
    if owner.uid() != 0 {
        setgroups(&[]).context("leave root's groups")?;
        setgid(Gid::from_raw(owner.gid())).context("take its group")?;
        setuid(Uid::from_raw(owner.uid())).context("become its owner")?;
    }
    Ok(true)
}

fn say(arguments: &Keys, names: &[(&str, String)]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if arguments.json {
        let members: Vec<String> = names.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        writeln!(out, "{{{}}}", members.join(","))?;
    } else {
        for (name, value) in names {
            writeln!(out, "{name:<9} {value}")?;
        }
    }
    Ok(())
}

fn serve(arguments: Serve) -> anyhow::Result<()> {
    if geteuid().is_root() && !arguments.allow_root {
        bail!(
            "this server faces the network and needs no privileges: run it as a user of its own \
             (systemd/clawguard-authority.service does), or say --allow-root"
        );
    }
    let data = arguments.data.data;
    sys::file::directory(&data, 0o700).with_context(|| data.display().to_string())?;
    let token = match arguments.admin_token_file {
        Some(file) => file,
        None => {
            let file = data.join("admin-token");
            AdminToken::make(&file).with_context(|| file.display().to_string())?;
            file
        }
    };
    let admin = AdminToken::read(&token).with_context(|| token.display().to_string())?;
    let audiences = if arguments.audience.is_empty() {
        vec!["clawcontrols.com".into(), "clawscope.com".into(), arguments.listen.ip().to_string()]
    } else {
        arguments.audience
    };
    let tls = arguments.tls_cert.zip(arguments.tls_key).map(|(certificates, key)| Tls { certificates, key });
    let scheme = if tls.is_some() { "https" } else { "http" };
    let settings = Settings {
        data,
        listen: arguments.listen,
        tls,
        behind_proxy: arguments.behind_proxy,
        admin,
        audiences,
        limits: Limits { wpc_bytes: arguments.max_wpc_bytes, ..Limits::default() },
        clock: Clock::system(),
        ids: Ids::random(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
        let server = Server::bind(settings).await?;
        // Who starts it on port 0 reads here where it is.
        println!("listening on {scheme}://{}", server.address()?);
        server
            .run(async {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await;
        Ok(())
    })
}
