//! `cargo xtask fuzz`: hostile input for everything that reads it (`fuzz/fuzz_targets`), on the stable compiler.
//!
//! The readers have no unsafe code, so no sanitizer is built in: what is looked for are panics, overflows (their checks are
//! on) and broken promises. What a run finds interesting is kept under `target/`, and the next run starts from it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{
    setup,
    shell::{call, cargo, command, root, target},
};

const TARGETS: [&str; 10] =
    ["json", "envelope", "wpc", "token", "question", "hello", "hello_differential", "message", "sse", "bundle"];

/// Seconds for which each target runs in the tests.
const BRIEF: u64 = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// For how long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets (all by default).
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.targets[..] {
        [] => targets(&TARGETS, arguments.seconds),
        some => targets(&some.iter().map(String::as_str).collect::<Vec<_>>(), arguments.seconds),
    }
}

/// Every target for a moment: whether it still builds, its seeds still pass, and nothing lies on the surface.
pub(crate) fn briefly() -> Result<()> {
    targets(&TARGETS, BRIEF)
}

fn targets(names: &[&str], seconds: u64) -> Result<()> {
    let tool = setup::fuzz()?;
    // cargo-fuzz has no --locked: what is fuzzed are the versions that are shipped.
    call(&mut cargo(&["fetch", "--locked", "--quiet", "--manifest-path", "fuzz/Cargo.toml"]))?;
    let mut failed = Vec::new();
    for name in names {
        match one(&tool, name, seconds)? {
            Some(executions) => println!("fuzz: {name}: {executions} executions in {seconds} s, no crash"),
            None => failed.push(*name),
        }
    }
    if !failed.is_empty() {
        bail!("fuzz: {} failed; the input lies under target/fuzz/artifacts", failed.join(", "));
    }
    Ok(())
}

/// What every run of a target starts from. Targets that read the same have the same seeds.
fn seeds(name: &str) -> PathBuf {
    root().join("fuzz/corpus").join(name.strip_suffix("_differential").unwrap_or(name))
}

/// Runs one target. Answers how many inputs it tried, or nothing if one of them failed.
fn one(tool: &Path, name: &str, seconds: u64) -> Result<Option<u64>> {
    let built = target().join("fuzz");
    let [found, artifacts] = ["found", "artifacts"].map(|what| built.join(what).join(name));
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    // Nightly's options on the stable compiler: the coverage pass is one. Nothing that is shipped is built like this.
    let fuzz = |words: &[&str]| {
        let mut fuzz = command(tool, &["fuzz"]);
        fuzz.args(words).args(["--sanitizer", "none"]).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", &built);
        fuzz
    };
    call(&mut fuzz(&["build", name]))?;

    let mut run = fuzz(&["run", name]);
    // New inputs go to the first directory.
    run.arg(&found).arg(seeds(name)).arg("--");
    run.arg(format!("-max_total_time={seconds}")).args(["-max_len=16384", "-timeout=10", "-print_final_stats=1"]);
    run.arg(format!("-dict={}", root().join("fuzz/words.dict").display()));
    run.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let log = built.join(name).with_extension("log");
    println!("fuzz: {name}: {seconds} s; its words go to {}", log.display());
    let file = fs::File::create(&log).with_context(|| log.display().to_string())?;
    let status = run.stdout(Stdio::null()).stderr(file).status().context("cargo-fuzz cannot be started")?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !status.success() {
        let cause = |line: &&str| !line.contains("panicked at") && !line.contains("ERROR: libFuzzer");
        said.lines().skip_while(cause).take(12).for_each(|line| eprintln!("{line}"));
        println!("fuzz: {name}: {status}; see {}", log.display());
        return Ok(None);
    }
    let executions = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let executions = executions.and_then(|count| count.trim().parse().ok());
    // A run that tried nothing is no run.
    executions
        .filter(|count| *count > 0)
        .map(Some)
        .with_context(|| format!("{name} tried nothing; see {}", log.display()))
}
