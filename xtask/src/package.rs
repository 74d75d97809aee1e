//! `cargo xtask package`: what is installed on a host, laid out as on the host.

use std::fs;

use anyhow::{Context, Result};

use crate::{
    setup,
    shell::{call, cargo, command, root, target},
};

pub(crate) fn run() -> Result<()> {
    setup::everything()?;
    call(&mut cargo(&[
        "build",
        "--locked",
        "--release",
        "--package",
        "clawguard",
        "--package",
        "gateway",
        "--package",
        "authority",
    ]))?;
    let place = target().join("package");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
    }
    let into = |from: std::path::PathBuf, to: &str, mode: &str| {
        call(command("install", &["-D", "-m", mode]).arg(from).arg(place.join(to)))
    };
    for executable in ["clawguard", "clawguard-gateway", "clawguard-authority"] {
        into(target().join("release").join(executable), &format!("usr/bin/{executable}"), "755")?;
    }
    for entry in fs::read_dir(root().join("systemd"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = match path.extension().and_then(|extension| extension.to_str()) {
            Some("service" | "slice" | "timer" | "socket") => format!("usr/lib/systemd/system/{name}"),
            Some("sysusers") => "usr/lib/sysusers.d/clawguard.conf".to_owned(),
            Some("tmpfiles") => "usr/lib/tmpfiles.d/clawguard.conf".to_owned(),
            Some("toml") => format!("etc/clawguard/{name}"),
            _ => continue,
        };
        into(path, &to, "644")?;
    }
    let manual = place.join("usr/share/man/man1");
    fs::create_dir_all(&manual)?;
    call(
        cargo(&[
            "run",
            "--locked",
            "--quiet",
            "--release",
            "--package",
            "clawguard",
            "--features",
            "manual",
            "--bin",
            "clawguard-manual",
            "--",
        ])
        .arg(&manual),
    )?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "README.md"] {
        into(root().join(licence), &format!("usr/share/doc/clawguard/{licence}"), "644")?;
    }
    for file in ["README.md", "clawguard.rules.yml", "clawguard.rules.test.yml"] {
        let to = format!("usr/share/doc/clawguard/prometheus/{file}");
        into(root().join("deploy/prometheus").join(file), &to, "644")?;
    }
    println!("laid out under {}: `cp -a {}/. /` installs it", place.display(), place.display());
    Ok(())
}
