//! `cargo xtask bench`: the numbers of docs/SPECIFICATION.md, each against its alternative in the same run.

use anyhow::Result;

use crate::{
    setup,
    shell::{call, cargo, command, must_be_root, target},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these measurements (all by default); `mcp` means all that begin with it. `authority` kills the authority a thousand times, `crash` daemon and gateway (an hour).
    names: Vec<String>,
}

/// What is killed a thousand times instead of being timed.
const KILLED: [&str; 2] = ["authority", "crash"];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    must_be_root("bench")?;
    setup::everything()?;
    let wanted = |name: &str| arguments.names.is_empty() || arguments.names.iter().any(|word| word == name);
    if wanted(KILLED[0]) {
        let mut killed = cargo(&["test", "--locked", "--release", "--package", "authority", "--test", "kill"]);
        call(killed.env("AUTHORITY_ROUNDS", "1000").args(["--", "--nocapture"]))?;
    }
    if wanted(KILLED[1]) {
        call(&mut cargo(&["build", "--locked", "--quiet"]))?;
        let mut killed = cargo(&["test", "--locked", "--package", "e2e", "--test", "crash"]);
        call(killed.env("CLAWGUARD_CRASHES", "1000").args(["--", "--nocapture"]))?;
    }
    let names: Vec<&String> = arguments.names.iter().filter(|name| !KILLED.contains(&name.as_str())).collect();
    if names.is_empty() && !arguments.names.is_empty() {
        return Ok(());
    }
    if names.is_empty() || names.iter().any(|name| name.starts_with("mcp") || name.starts_with("model")) {
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
