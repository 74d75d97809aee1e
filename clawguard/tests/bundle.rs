//! `bundle verify` as it is called: offline, by anybody, with an exit status that says what it found.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const GATEWAY: &str = "did:key:z6Mkg49NtQR2LyYRDCQFK4w1VVHqhypZSSRo7HsyuN7SV7v5";
const SENTINEL: &str = "did:key:z6Mksp9sfVKVpWAi43niHLXfGQ5NdCTEoiycLmrLPehquVqK";

fn vector(name: &str) -> PathBuf {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/evidence/tests/claw/vectors");
    vectors.join(format!("{name}-bundle.json"))
}

/// A directory of the test's own, which is also the instance: nothing of the host's counts.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bundle-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn verify(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawguard"));
    command.arg("--root").arg(root).args(["bundle", "verify"]).args(words).output().unwrap()
}

#[track_caller]
fn says(output: &Output, status: i32, text: &str) {
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(text), "{said}");
}

#[test]
fn the_exit_status_says_what_was_found() {
    let root = directory("status");
    let (good, orphaned) = (vector("host_evidence"), vector("side_effect_orphaned"));
    let (good, orphaned) = (good.to_str().unwrap(), orphaned.to_str().unwrap());
    let minimal = vector("minimal");
    let minimal = minimal.to_str().unwrap();
    let trusting = ["--receipt-signer", GATEWAY, "--sentinel", SENTINEL];
    let with = |words: &[&str]| verify(&root, &[&trusting[..], words].concat());
    says(&with(&[good]), 0, "VALID");
    says(&with(&["--require-host-evidence", good]), 0, "VALID");
    says(&with(&[orphaned]), 1, "CAUSAL_SIDE_EFFECT_ORPHANED at payload.side_effect_receipts[0].binding.span_id");
    says(&with(&["--require-host-evidence", minimal]), 1, "MISSING_REQUIRED_FIELD");
    says(&with(&[minimal, good]), 0, "VALID");
    says(&with(&[minimal, orphaned]), 1, "INVALID");
    says(&with(&["nowhere.json"]), 1, "nowhere.json");
    says(&with(&[]), 2, "FILE");
    says(&verify(&root, &["--sentinel", "nobody", good]), 2, "nobody");
    // Nobody is trusted who is not named.
    says(&verify(&root, &[good]), 1, "DEPENDENCY_NOT_CONFIGURED");
    says(&verify(&root, &["--receipt-signer", GATEWAY, good]), 1, "EVIDENCE_MISMATCH");
    says(&verify(&root, &["--receipt-signer", GATEWAY, "--observe", good]), 0, "COVERAGE_ATTESTATION_VERIFY_FAILED");
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn parts_are_read_in_the_order_of_their_numbers_whatever_a_shell_makes_of_it() {
    let root = directory("order");
    let files = [10, 2, 1].map(|number| root.join(format!("bundle-{number}.json")));
    for file in &files {
        fs::copy(vector("host_evidence_no_receipts"), file).unwrap();
    }
    let mut words = vec!["--json", "--sentinel", SENTINEL];
    words.extend(files.iter().map(|file| file.to_str().unwrap()));
    let value: serde_json::Value = serde_json::from_slice(&verify(&root, &words).stdout).unwrap();
    let read: Vec<&str> =
        value["bundles"].as_array().unwrap().iter().map(|bundle| bundle["file"].as_str().unwrap()).collect();
    assert!(read[0].ends_with("-1.json") && read[1].ends_with("-2.json") && read[2].ends_with("-10.json"), "{read:?}");
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn trust_that_comes_with_the_evidence_counts_only_if_it_is_named() {
    let root = directory("trust");
    fs::copy(vector("host_evidence"), root.join("bundle-1.json")).unwrap();
    let named = root.join("trust.json");
    fs::write(&named, format!(r#"{{"receipt_signers":["{GATEWAY}"],"sentinels":["{SENTINEL}"],"host":"x"}}"#)).unwrap();
    let (here, named) = (root.to_str().unwrap(), named.to_str().unwrap());
    says(&verify(&root, &[here]), 1, "DEPENDENCY_NOT_CONFIGURED");
    says(&verify(&root, &["--trust", named, here]), 0, "VALID");
    let json = verify(&root, &["--json", "--trust", named, here]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((value["status"].as_str(), value["fault"].is_null()), (Some("VALID"), true));
    assert_eq!(value["bundles"][0]["claims"].as_array().unwrap().len(), 12);
    fs::write(named, r#"{"receipt_signer":[]}"#).unwrap();
    says(&verify(&root, &["--trust", named, here]), 2, "receipt_signer");
    fs::remove_dir_all(root).unwrap();
}
