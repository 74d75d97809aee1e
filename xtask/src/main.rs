//! `cargo xtask`: everything a person runs while developing ClawGuard.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod demo;
mod fuzz;
mod mutants;
mod package;
mod parties;
mod setup;
mod shell;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get what a fresh machine lacks: packages, and the compiler for the kernel programs.
    Setup,
    /// Show the main job on embedded defaults: nothing is installed on the host, all is cleaned up.
    Demo,
    /// Run all tests.
    Test(test::Arguments),
    /// Format, lint, check dependencies and units: what CI runs before the tests.
    Check,
    /// Measure what docs/SPECIFICATION.md promises.
    Bench(bench::Arguments),
    /// Feed hostile input to everything that reads it.
    Fuzz(fuzz::Arguments),
    /// Break each guard once and see its test go red.
    Mutants(mutants::Arguments),
    /// Build what is installed: the executable, units and manual pages, under target/package.
    Package,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Demo => demo::run(),
        Task::Test(arguments) => test::run(&arguments),
        Task::Check => check::run(),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Mutants(arguments) => mutants::run(&arguments),
        Task::Package => package::run(),
    }
}
