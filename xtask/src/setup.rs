//! `cargo xtask setup`: what a fresh machine lacks, and no more. It says what it installs.
//!
//! The kernel programs need a compiler with a `core` for the bpf target. Debian's packages have one; they are unpacked
//! under `target/`, not installed, since they conflict with a rustup that Debian packaged. A toolchain with `rust-src` and
//! a `bpf-linker` of one's own is used as it is. So is a Prometheus, which the tests of the alert rules need.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    parties,
    shell::{call, cargo, command, has, output, root, target},
};

/// What tests and the demo call, and the packages that bring it.
const TOOLS: [(&str, &str); 19] = [
    ("ip", "iproute2"),
    ("sysctl", "procps"),
    ("setpriv", "util-linux"),
    ("ping", "iputils-ping"),
    ("systemd-analyze", "systemd"),
    ("nft", "nftables"),
    ("bpftool", "bpftool"),
    ("useradd", "passwd"),
    ("git", "git"),
    // TLS stacks whose greetings the tests read.
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("gnutls-cli", "gnutls-bin"),
    ("tstclnt", "libnss3-tools"),
    ("python3", "python3"),
    ("/usr/lib/python3/dist-packages/requests/__init__.py", "python3-requests"),
    ("/usr/lib/python3/dist-packages/pip/__init__.py", "python3-pip"),
    ("node", "nodejs"),
    ("go", "golang-go"),
    // Shows the page of a job's evidence: 100 MB to fetch, and no window system.
    ("chromium-headless-shell", "chromium-headless-shell"),
];

/// The packages that hold the compiler; what they need of their own kind is found from them.
const COMPILER: [&str; 3] = ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf"];

/// The version of the linker that works with the compiler's own LLVM, without LLVM's development packages.
const LINKER: &str = "0.10.3";

/// The version of cargo-deny that CI uses.
const DENY: &str = "0.20.2";

/// The version of cargo-fuzz that CI uses.
const FUZZ: &str = "0.13.2";

const WRAPPER: &str = "#!/bin/sh\n\
    root=\"$(dirname \"$(dirname \"$(readlink -f \"$0\")\")\")/root\"\n\
    export LD_LIBRARY_PATH=\"$(echo \"$root\"/usr/lib/*-linux-gnu)\"\n\
    exec \"$root/usr/bin/rustc\" \"$@\"\n";

pub(crate) fn everything() -> Result<()> {
    let mut lacking: Vec<&str> = TOOLS.iter().filter(|(tool, _)| !has(tool)).map(|(_, package)| *package).collect();
    // Users' own service managers, which a test starts, go by it.
    if !["/usr/lib/pam.d/systemd-user", "/etc/pam.d/systemd-user"].iter().any(|file| Path::new(file).exists()) {
        lacking.push("libpam-systemd");
    }
    install(&lacking)?;
    compiler()
}

pub(crate) fn run() -> Result<()> {
    everything()?;
    prometheus()?;
    parties::install()?;
    println!("ready: `cargo build`, `cargo xtask demo`, `cargo xtask test`");
    Ok(())
}

/// Installs Debian packages, if there are any to install.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", packages.join(", "));
    if !has("apt-get") {
        bail!("this host has no apt-get; please install the equivalents of {} by hand", packages.join(", "));
    }
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend(packages);
    let mut install = command("apt-get", &words);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    if call(&mut install).is_err() {
        // Lists that are missing or old are the usual reason.
        call(&mut command("apt-get", &["update"]))?;
        call(&mut install)?;
    }
    Ok(())
}

/// Prometheus and promtool: the host's own, or Debian's unpacked under `target/`, where `tests/tests/prometheus.rs` looks.
///
/// Installed, the package would start a service and bring a dozen packages for its pages.
pub(crate) fn prometheus() -> Result<()> {
    unpacked("prometheus", "usr/bin", &["prometheus", "promtool"])
}

/// nginx, which the MCP gateway is measured against, in the same way: `bench/src/mcp.rs` looks there.
pub(crate) fn nginx() -> Result<()> {
    unpacked("nginx", "usr/sbin", &["nginx"])
}

/// The tools of a package: the host's own, or Debian's unpacked under `target/`.
fn unpacked(package: &str, below: &str, tools: &[&str]) -> Result<()> {
    let place = target().join("tools").join(package);
    if tools.iter().all(|tool| has(tool) || place.join(below).join(tool).is_file()) {
        return Ok(());
    }
    println!("setup: unpacking Debian's {package} under {}", place.display());
    if !has("apt-get") || !has("dpkg") {
        bail!("this host has no Debian packages; put {} on the path by hand", tools.join(" and "));
    }
    let packages = BTreeSet::from([package.to_owned()]);
    if unpack_packages(&packages, &place).is_err() {
        // Lists that are missing or old are the usual reason.
        call(&mut command("apt-get", &["update"]))?;
        unpack_packages(&packages, &place)?;
    }
    Ok(())
}

/// Where `clawguard/crates/fence/build.rs` looks for them.
pub(crate) fn compiler_place() -> PathBuf {
    env::var_os("CLAWGUARD_EBPF_TOOLCHAIN").map_or_else(|| root().join("target/ebpf-toolchain"), PathBuf::from)
}

/// The compiler and the linker of the kernel programs.
fn compiler() -> Result<()> {
    let place = compiler_place();
    if own_compiler()? {
        return Ok(());
    }
    if !place.join("bin/rustc").is_file() {
        println!("setup: unpacking Debian's Rust compiler for the kernel programs under {}", place.display());
        unpack(&place)?;
    }
    if !place.join("bin/bpf-linker").is_file() {
        println!("setup: building bpf-linker {LINKER}");
        let words = ["install", "bpf-linker", "--version", LINKER, "--locked", "--root"];
        call(cargo(&words).arg(&place).env("CARGO_TARGET_DIR", target().join("tools-build")))?;
    }
    Ok(())
}

/// Whether the toolchain in use can build for the kernel by itself (`clawguard/crates/fence/build.rs` asks the same).
fn own_compiler() -> Result<bool> {
    let sysroot = output(&mut command("rustc", &["--print", "sysroot"]))?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    Ok(source.is_file() && has("bpf-linker"))
}

fn unpack(place: &Path) -> Result<()> {
    if !has("apt-get") || !has("dpkg") {
        bail!(
            "this host has no Debian packages; build with a toolchain that has `rust-src`, and \
             `cargo install bpf-linker --version {LINKER} --locked`"
        );
    }
    let packages = match compiler_packages() {
        Ok(packages) => packages,
        Err(_) => {
            call(&mut command("apt-get", &["update"]))?;
            compiler_packages()?
        }
    };
    unpack_packages(&packages, &place.join("root"))?;
    executable(&place.join("bin/rustc"), WRAPPER)
}

/// Downloads packages and unpacks them into a directory; nothing is installed.
fn unpack_packages(packages: &BTreeSet<String>, place: &Path) -> Result<()> {
    let downloads = place.with_extension("downloads");
    fs::create_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
    let mut download = command("apt-get", &["download"]);
    // As root apt drops to its own user, who may not write here; there is nothing to protect from it.
    download.args(["-o", "APT::Sandbox::User=root"]).args(packages).current_dir(&downloads);
    call(&mut download)?;
    for entry in fs::read_dir(&downloads)? {
        let package = entry?.path();
        call(command("dpkg", &["-x"]).args([package.as_path(), place]))?;
    }
    fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// Package names carry a version that moves, so they are found from what depends on them.
fn compiler_packages() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = COMPILER.map(str::to_owned).to_vec();
    while let Some(package) = open.pop() {
        if !found.insert(package.clone()) {
            continue;
        }
        let said = output(&mut command("apt-cache", &["depends", "--important", &package]))?;
        if said.trim().is_empty() {
            bail!("no package {package}");
        }
        let needs = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        open.extend(
            needs
                .filter(|name| ["libstd-rust-web", "libllvm"].iter().any(|own| name.starts_with(own)))
                .map(str::to_owned),
        );
    }
    Ok(found)
}

fn executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// cargo-deny: the host's own, or one built under `target/`.
pub(crate) fn deny() -> Result<PathBuf> {
    tool("cargo-deny", DENY)
}

/// cargo-fuzz: the host's own, or one built under `target/`. libFuzzer itself is C++.
pub(crate) fn fuzz() -> Result<PathBuf> {
    if !has("c++") {
        install(&["g++"])?;
    }
    tool("cargo-fuzz", FUZZ)
}

fn tool(name: &str, version: &str) -> Result<PathBuf> {
    if has(name) {
        return Ok(name.into());
    }
    let tools = target().join("tools");
    let tool = tools.join("bin").join(name);
    if !tool.is_file() {
        println!("setup: building {name} {version}");
        let words = ["install", name, "--version", version, "--locked", "--root"];
        call(cargo(&words).arg(&tools).env("CARGO_TARGET_DIR", target().join("tools-build")))?;
    }
    Ok(tool)
}
