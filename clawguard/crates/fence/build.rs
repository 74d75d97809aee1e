//! Builds the kernel programs from source and puts the object where `object.rs` embeds it.
//!
//! Two ways, neither of which needs a nightly toolchain:
//!
//! 1. the compiler that `cargo xtask setup` unpacked under `target/ebpf-toolchain` (Debian's, which brings a `core` for
//!    the bpf target);
//! 2. this toolchain's own compiler, where its `rust-src` component and a `bpf-linker` are installed.
//!
//! Without either, the object is empty, so that checking, linting and documenting work everywhere; a daemon built that
//! way says so and refuses to start.
#![allow(clippy::expect_used, reason = "a build that cannot go on says why and stops")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = here.ancestors().nth(3).expect("the crate lies in clawguard/crates").to_owned();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("clawguard.bpf.o");
    for watched in ["clawguard-ebpf", "clawguard-common", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo:rerun-if-env-changed=CLAWGUARD_EBPF_TOOLCHAIN");
    // Where `setup` puts it; a test that builds elsewhere says where it is.
    let toolchain =
        env::var_os("CLAWGUARD_EBPF_TOOLCHAIN").map_or_else(|| root.join("target/ebpf-toolchain"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", toolchain.join("bin").display());
    let Some(mut cargo) = packaged(&toolchain).or_else(own) else {
        println!("cargo:warning=built without the kernel programs: run `cargo xtask setup` first");
        fs::write(&out, []).expect("OUT_DIR is writable");
        return;
    };
    let target = out.with_file_name("ebpf");
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];
    let flags = flags.map(|flag| flag.replace("x86_64", &env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default()));
    cargo
        .current_dir(&root)
        .args(["build", "--release", "--locked", "--package", "clawguard-ebpf", "--target", TARGET])
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // The core library and a few attributes of this target are not stable; the sources are checked with both routes.
        .env("RUSTC_BOOTSTRAP", "1");
    for inherited in
        ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "RUSTFLAGS", "RUSTDOCFLAGS", "CARGO_MAKEFLAGS"]
    {
        cargo.env_remove(inherited);
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the kernel programs do not build");
    fs::copy(target.join(TARGET).join("release/clawguard-ebpf"), &out).expect("the object is there");
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// What `cargo xtask setup` unpacked.
fn packaged(toolchain: &Path) -> Option<Command> {
    let rustc = toolchain.join("bin/rustc");
    let linker = toolchain.join("bin/bpf-linker");
    if !rustc.is_file() || !linker.is_file() {
        return None;
    }
    let mut command = cargo();
    command.env("RUSTC", rustc).env("PATH", with_path(&toolchain.join("bin")));
    Some(command)
}

/// This toolchain with `rust-src`.
fn own() -> Option<Command> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(&rustc).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).ok()?.trim());
    let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let linker = Command::new("bpf-linker").arg("--version").output().is_ok_and(|output| output.status.success());
    if !source.is_file() || !linker {
        return None;
    }
    let mut command = cargo();
    command.env("RUSTC", rustc).env("CARGO_UNSTABLE_BUILD_STD", "core");
    Some(command)
}

fn with_path(first: &Path) -> std::ffi::OsString {
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(first.to_owned()).chain(env::split_paths(&rest))).unwrap_or(rest)
}
