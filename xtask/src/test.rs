//! `cargo xtask test`: all tests, those against the real kernel included.

use anyhow::{Context, Result};

use crate::{
    fuzz, parties, setup,
    shell::{call, cargo, command, must_be_root, target},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only what needs no root and no kernel programs.
    #[arg(long)]
    unit: bool,
    /// For the test programs, for example a test's name.
    #[arg(last = true)]
    more: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.unit {
        return call(
            cargo(&["test", "--locked", "--workspace", "--exclude", "clawguard-ebpf", "--exclude", "e2e"])
                .arg("--")
                .args(&arguments.more),
        );
    }
    must_be_root("test")?;
    setup::everything()?;
    setup::prometheus()?;
    parties::install()?;
    build()?;
    if arguments.more.is_empty() {
        fuzz::briefly()?;
    }
    call(cargo(&["test", "--locked", "--no-fail-fast"]).arg("--").args(&arguments.more))
}

/// Everything that the tests start, and the build of another ABI that the upgrade tests change to.
pub(crate) fn build() -> Result<()> {
    call(&mut cargo(&["build", "--locked", "--package", "clawguard", "--features", "next-abi"]))?;
    let built = target().join("debug");
    let mut install = command("install", &["-m", "755"]);
    call(install.args([built.join("clawguard"), built.join("clawguard-next")])).context("the build of the next ABI")?;
    call(&mut cargo(&["build", "--locked"]))
}
