//! `cargo xtask check`: format, lints, documentation, dependencies, units.

use anyhow::Result;

use crate::{
    setup,
    shell::{call, cargo, command},
};

pub(crate) fn run() -> Result<()> {
    call(&mut cargo(&["fmt", "--all", "--check"]))?;
    call(&mut cargo(&["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))?;
    // The kernel programs are linted for the host: the lints are the same, and no other compiler is needed.
    call(&mut cargo(&["clippy", "--locked", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    call(cargo(&["doc", "--locked", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    let deny = setup::deny()?;
    call(&mut command(deny, &["--log-level", "error", "check", "bans", "licenses", "sources"]))
}
