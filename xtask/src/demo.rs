//! `cargo xtask demo`: the main job, on embedded defaults.

use anyhow::Result;

use crate::{
    setup,
    shell::{call, cargo, command, must_be_root, target},
};

pub(crate) fn run() -> Result<()> {
    must_be_root("demo")?;
    setup::everything()?;
    call(&mut cargo(&["build", "--locked", "--quiet"]))?;
    call(&mut command(target().join("debug/demo"), &[]))
}
