//! `cargo xtask check`: format, lints, documentation, dependencies, units.

use anyhow::{Result, bail};

use crate::{
    setup,
    shell::{call, cargo, command, output},
};

/// What has no place in the executable that runs as root.
const FOREIGN: [&str; 9] =
    ["axum", "hickory-proto", "hickory-resolver", "openssl", "reqwest", "ring", "rusqlite", "rustls", "ureq"];

pub(crate) fn run() -> Result<()> {
    call(&mut cargo(&["fmt", "--all", "--check"]))?;
    for apart in ["fuzz/Cargo.toml", "tests/parties/rmcp/Cargo.toml"] {
        call(&mut cargo(&["fmt", "--check", "--manifest-path", apart]))?;
    }
    // The kernel programs are linted for the host: the lints are the same, and no other compiler is needed.
    call(&mut cargo(&["clippy", "--locked", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    call(cargo(&["doc", "--locked", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    no_network_stack()?;
    let deny = setup::deny()?;
    call(&mut command(deny, &["--log-level", "error", "check", "bans", "licenses", "sources"]))
}

/// What runs as root links no TLS, DNS or web stack.
fn no_network_stack() -> Result<()> {
    let words = ["tree", "--locked", "--package", "clawguard", "--edges", "normal", "--prefix", "none"];
    let linked = output(&mut cargo(&words))?;
    let crates = linked.lines().filter_map(|line| line.split(' ').next());
    match crates.into_iter().find(|name| FOREIGN.contains(name)) {
        None => Ok(()),
        Some(name) => bail!("the executable that runs as root links {name}; it belongs in one without privileges"),
    }
}
