//! `cargo xtask mutants`: each guard broken once, and the test that must notice.
//!
//! A mutant is a patch in `tests/mutants/`, whose first lines say what it breaks and which test goes red:
//!
//! ```text
//! Breaks: the decision is not asked on a datagram's destination
//! Test: fence udp_is_judged_at_every_send
//! ```
//!
//! The sources are copied aside, patched there, built, tested and put back: the working tree is never touched.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    setup,
    shell::{call, cargo, command, must_be_root, output, root, target},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these (file names without `.patch`; all by default).
    names: Vec<String>,
    /// Skip the run if nothing changed since all of them were noticed.
    #[arg(long)]
    if_changed: bool,
    /// Only see that each patch still applies and that its test is there; builds nothing.
    #[arg(long)]
    check: bool,
    /// Begin no other one after so many minutes, and say how many were not run. Which come first is another choice with every
    /// change of the sources.
    #[arg(long)]
    minutes: Option<u64>,
}

struct Mutant {
    name: String,
    patch: PathBuf,
    breaks: String,
    suite: String,
    test: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check {
        return check();
    }
    must_be_root("mutants")?;
    setup::everything()?;
    let stamp = target().join("mutants/noticed");
    let sources = sources()?;
    if arguments.if_changed && fs::read_to_string(&stamp).is_ok_and(|known| known == sources) {
        println!("nothing changed since every mutant was noticed");
        return Ok(());
    }
    let mut mutants = mutants()?;
    if !arguments.names.is_empty() {
        mutants.retain(|mutant| arguments.names.contains(&mutant.name));
    }
    if mutants.is_empty() {
        bail!("no such mutant in tests/mutants");
    }
    if arguments.minutes.is_some() {
        mutants.sort_by_key(|mutant| digest(&[&sources, &mutant.name]));
    }
    let until = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let tree = copy_sources()?;
    let (mut run, mut unnoticed) = (0, Vec::new());
    for mutant in &mutants {
        if until.is_some_and(|until| Instant::now() > until) {
            println!("{} mutants were not run: the time is up (`cargo xtask mutants` runs all)", mutants.len() - run);
            break;
        }
        run += 1;
        match noticed(&tree, mutant).with_context(|| mutant.name.clone())? {
            true => println!("noticed    {:32} {} ({} {})", mutant.name, mutant.breaks, mutant.suite, mutant.test),
            false => {
                println!("UNNOTICED  {:32} {} ({} {})", mutant.name, mutant.breaks, mutant.suite, mutant.test);
                unnoticed.push(mutant.name.as_str());
            }
        }
    }
    println!("{run} mutants, {} noticed, {} not", run - unnoticed.len(), unnoticed.len());
    if !unnoticed.is_empty() {
        bail!("tests did not notice {}", unnoticed.join(", "));
    }
    if arguments.names.is_empty() && run == mutants.len() {
        fs::write(&stamp, sources)?;
    }
    Ok(())
}

/// Whether every mutant could be run: a patch that does not apply any more, or a test that is gone, breaks nothing.
fn check() -> Result<()> {
    let mut stale = Vec::new();
    let mutants = mutants()?;
    for mutant in &mutants {
        let mut apply = command("git", &["apply", "--check"]);
        if !apply.arg(&mutant.patch).output()?.status.success() {
            stale.push(format!("{}: the patch does not apply", mutant.name));
        }
        let name = mutant.test.rsplit("::").next().unwrap_or(&mutant.test);
        let place = if is_suite(&root(), mutant) { "tests/tests" } else { "clawguard*" };
        let script = format!("git grep --quiet --fixed-strings 'fn {name}(' -- '{place}'");
        if !command("sh", &["-c", &script]).status()?.success() {
            stale.push(format!("{}: there is no test {} {}", mutant.name, mutant.suite, mutant.test));
        }
    }
    if !stale.is_empty() {
        bail!("mutants that cannot be run:\n{}", stale.join("\n"));
    }
    println!("{} mutants apply, and their tests are there", mutants.len());
    Ok(())
}

/// Whether a mutant's test is one against the real kernel. A suite may have a room's name: which of the two is meant, the test says.
fn is_suite(tree: &Path, mutant: &Mutant) -> bool {
    let tests = tree.join("tests/tests");
    let text = fs::read_to_string(tests.join(format!("{}.rs", mutant.suite))).unwrap_or_default();
    tests.join(&mutant.suite).is_dir() || text.contains(&format!("fn {}(", mutant.test))
}

fn mutants() -> Result<Vec<Mutant>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("tests/mutants"))? {
        let patch = entry?.path();
        let Some(name) = patch.file_name().and_then(|name| name.to_str()?.strip_suffix(".patch")) else { continue };
        let text = fs::read_to_string(&patch)?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (Some(breaks), Some((suite, test))) =
            (field("Breaks:"), field("Test:").and_then(|test| test.split_once(' ')))
        else {
            bail!("{name}.patch does not begin with `Breaks:` and `Test: SUITE NAME`");
        };
        let [breaks, suite, test] = [breaks, suite, test].map(str::to_owned);
        found.push(Mutant { name: name.to_owned(), patch, breaks, suite, test });
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// A copy of what git knows, as it is in the working tree. All of it new: of two runs, the second must not take the first one's
/// last mutant for what was built from these sources.
fn copy_sources() -> Result<PathBuf> {
    let tree = target().join("mutants/tree");
    // What was deleted since the last run must not be there either.
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::create_dir_all(&tree)?;
    let script = "git ls-files -z --cached --others --exclude-standard | \
        xargs -0 sh -c 'for f; do [ -e \"$f\" ] && printf \"%s\\0\" \"$f\"; done' sh | \
        tar --create --null --files-from=- | tar --extract --touch --directory=\"$0\"";
    call(command("sh", &["-c", script]).arg(&tree))?;
    Ok(tree)
}

/// Whether the mutant's test goes red. It must be green without the mutant, which `cargo xtask test` shows.
fn noticed(tree: &Path, mutant: &Mutant) -> Result<bool> {
    let patch = |reverse: bool| {
        let mut patch = command("git", &["apply"]);
        if reverse {
            patch.arg("--reverse");
        }
        // The copy lies within the repository and is none of its business.
        patch.arg(&mutant.patch).current_dir(tree).env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
        call(&mut patch)
    };
    patch(false).with_context(|| format!("{} does not apply any more", mutant.patch.display()))?;
    let here = |words: &[&str]| {
        let mut cargo = cargo(words);
        cargo.current_dir(tree).env("CARGO_TARGET_DIR", target().join("mutants/target"));
        cargo.env("CLAWGUARD_EBPF_TOOLCHAIN", setup::compiler_place());
        cargo
    };
    let outcome = (|| {
        if !is_suite(tree, mutant) {
            // A room's own tests.
            let tested =
                here(&["test", "--locked", "--quiet", "--package", &mutant.suite, "--", "--exact", &mutant.test])
                    .output()?;
            return went_red(&tested);
        }
        let executables = ["--package", "clawguard", "--package", "gateway", "--package", "e2e"];
        call(here(&["build", "--locked", "--quiet"]).args(executables))?;
        let tested = here(&[
            "test",
            "--locked",
            "--quiet",
            "--package",
            "e2e",
            "--test",
            &mutant.suite,
            "--",
            "--exact",
            &mutant.test,
        ])
        .output()?;
        went_red(&tested)
    })();
    patch(true)?;
    outcome
}

/// A test that failed, and not a build that did, nor a name that matched nothing.
fn went_red(tested: &std::process::Output) -> Result<bool> {
    let said = String::from_utf8_lossy(&tested.stdout);
    if said.contains("test result: FAILED") {
        return Ok(true);
    }
    if said.contains("test result: ok. 1 passed") || said.contains(" 1 passed;") {
        return Ok(false);
    }
    bail!("the test did not run:\n{said}\n{}", String::from_utf8_lossy(&tested.stderr))
}

fn digest(parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// A digest of all sources; it only has to tell one state of this tree from another.
fn sources() -> Result<String> {
    let listed = output(&mut command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    let mut hasher = DefaultHasher::new();
    for name in listed.lines().filter(|name| !name.ends_with(".md")) {
        name.hash(&mut hasher);
        fs::read(root().join(name)).unwrap_or_default().hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
