//! `cargo xtask bench`: the numbers of docs/SPECIFICATION.md, each against its alternative in the same run.

use anyhow::Result;

use crate::{
    setup,
    shell::{call, cargo, command, must_be_root, target},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these measurements (all by default).
    names: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    must_be_root("bench")?;
    setup::everything()?;
    call(&mut cargo(&[
        "build",
        "--locked",
        "--quiet",
        "--profile",
        "measure",
        "--package",
        "clawguard",
        "--package",
        "e2e",
        "--package",
        "bench",
    ]))?;
    call(command(target().join("measure/bench"), &[]).args(&arguments.names))
}
