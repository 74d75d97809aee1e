//! `cargo xtask bench`: the numbers of docs/SPECIFICATION.md, each against its alternative in the same run.

use anyhow::Result;

use crate::{
    setup,
    shell::{call, cargo, command, must_be_root, target},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these measurements (all by default); `mcp` means all that begin with it. `authority` kills the authority a thousand times.
    names: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    must_be_root("bench")?;
    setup::everything()?;
    let authority = arguments.names.iter().any(|name| name == "authority");
    if authority || arguments.names.is_empty() {
        let mut killed = cargo(&["test", "--locked", "--release", "--package", "authority", "--test", "kill"]);
        call(killed.env("AUTHORITY_ROUNDS", "1000").args(["--", "--nocapture"]))?;
    }
    let names: Vec<&String> = arguments.names.iter().filter(|name| *name != "authority").collect();
    if names.is_empty() && authority {
        return Ok(());
    }
    if names.is_empty() || names.iter().any(|name| name.starts_with("mcp")) {
        setup::nginx()?;
    }
    call(&mut cargo(&[
        "build",
        "--locked",
        "--quiet",
        "--profile",
        "measure",
        "--package",
        "clawguard",
        "--package",
        "gateway",
        "--package",
        "e2e",
        "--package",
        "bench",
    ]))?;
    call(command(target().join("measure/bench"), &[]).args(names))
}
