//! `clawguard-authority`: contracts, tokens and revocations for a fleet, served from one's own host and without privileges.
#![forbid(unsafe_code)]

use std::{io::Write, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, bail};
use authority::{
    AdminToken, Clock, Ids, Limits, Server, Settings, Tls,
    arguments::{Arguments, Command, Common, Serve},
    keys::Directory,
};
use clap::Parser;
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use tokio::signal::unix::{SignalKind, signal};

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

fn directory(arguments: &Common) -> anyhow::Result<Directory> {
    let data = &arguments.data;
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

fn say(arguments: &Common, names: &[(&str, String)]) -> anyhow::Result<()> {
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
    let data = arguments.common.data;
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
        let url = format!("{scheme}://{}", server.address()?);
        if arguments.common.json {
            println!("{{\"listening\":\"{url}\"}}");
        } else {
            println!("listening on {url}");
        }
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
