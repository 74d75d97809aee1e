//! Whoever reads what is printed may stop: the exit status says what it would have said.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs::{self, File},
    io,
    process::{Command, Output, Stdio},
};

fn clawguard(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawguard"));
    command.args(words).env_remove("CLAWGUARD_ROOT").stdin(Stdio::null());
    command
}

/// Into a pipe that nobody reads any more.
fn unread(words: &[&str]) -> Output {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    clawguard(words).stdout(writer).stderr(Stdio::piped()).output().unwrap()
}

#[test]
fn a_reader_that_stops_is_no_failure_and_hides_none() {
    for words in [&["wpc", "new"][..], &["--help"]] {
        let output = unread(words);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{words:?}: {output:?}");
    }
    let root = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("closed-{}", std::process::id()));
    let chain = root.join("var/lib/clawguard/audit");
    fs::create_dir_all(&chain).unwrap();
    fs::write(chain.join("audit-000000.jsonl"), "broken\n").unwrap();
    let words = ["--root", root.to_str().unwrap(), "audit", "verify"];
    let said = clawguard(&words).output().unwrap();
    let said = (said.status.code(), String::from_utf8(said.stdout).unwrap());
    assert!(said.0 == Some(1) && said.1.starts_with("BROKEN in "), "{said:?}");
    let output = unread(&words);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]), "{output:?}");
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn an_error_that_nobody_reads_is_still_the_exit_status() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = clawguard(&["wpc", "hash", "/nowhere/contract.json"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn what_could_not_be_written_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = clawguard(&["wpc", "new"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.starts_with("clawguard: write to standard output: "), "{said}");
}
