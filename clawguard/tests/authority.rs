//! `clawguard authority` is `clawguard-authority`: its words go on as they came.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// `clawguard` in a directory of its own, beside an executable that says which words it got.
struct Beside(PathBuf);

impl Beside {
    fn new() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("authority-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let script = directory.join("clawguard-authority");
        fs::write(&script, "#!/bin/sh\necho \"$@\"\nexit 5\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: what this one writes, a child of another test could hold open.
        let own = env!("CARGO_BIN_EXE_clawguard");
        assert!(Command::new("install").args([own, directory.to_str().unwrap()]).status().unwrap().success());
        Self(directory)
    }

    fn gets(&self, root: Option<&str>, words: &str) -> String {
        let mut command = Command::new(self.0.join("clawguard"));
        command.env_remove("CLAWGUARD_ROOT").args(words.split_whitespace());
        if let Some(root) = root {
            command.env("CLAWGUARD_ROOT", root);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_authority_gets_its_words_and_what_is_the_instances() {
    let beside = Beside::new();
    let root = beside.0.to_str().unwrap();
    let own = format!("--data {root}/authority");
    let own = own.as_str();
    for (words, got) in [
        ("authority", ""),
        ("authority --help", "--help"),
        ("authority -h", "-h"),
        ("authority --version", "--version"),
        ("authority rotate --data /d", "rotate --data /d"),
        ("authority --data /d --listen 127.0.0.1:0", "--data /d --listen 127.0.0.1:0"),
        ("authority serve --audience a --audience b", "serve --audience a --audience b"),
        ("--json authority key --data /d", "key --data /d --json"),
        ("authority --json key --data /d", "key --data /d --json"),
        ("authority key --json", "key --json"),
        ("--json authority key --json", "key --json"),
        ("--root ROOT authority key", "key OWN"),
        ("authority --root ROOT key", "key OWN"),
        ("--root ROOT authority", "OWN"),
        ("--root ROOT authority key --data=/d", "key --data=/d"),
        ("--root ROOT --json authority help key", "help key"),
    ] {
        assert_eq!(beside.gets(None, &words.replace("ROOT", root)), got.replace("OWN", own), "{words}");
    }
    assert_eq!(beside.gets(Some(root), "authority key"), format!("key {own}"));
    assert_eq!(beside.gets(Some(root), "authority key --data /d"), "key --data /d");
}
