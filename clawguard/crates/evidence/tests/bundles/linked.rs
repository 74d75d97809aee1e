//! Jobs in several bundles.

use claw::Value;
use evidence::verify::{Grade, Whole, verify_all};

use crate::support::{AGENT, GATEWAY, SENTINEL, at, bundle, chain, enforcing, path, seal, set, text, trust, value};

/// The worked example's job, as if it had gone on for so many parts.
fn parts(count: u64) -> Vec<Value> {
    let mut made: Vec<Value> = Vec::new();
    for part in 1..=count {
        let mut bundle = bundle("host_evidence");
        set(&mut bundle, "payload", "bundle_id", text(&format!("bundle_{part}")));
        for i in 0..3 {
            set(&mut bundle, &format!("payload.event_chain[{i}]"), "event_id", text(&format!("evt_{part}_{i}")));
        }
        chain(&mut bundle);
        let hash = |i: usize, bundle: &mut Value| {
            at(bundle, &path(&format!("payload.event_chain[{i}].event_hash_b64u"))).clone()
        };
        let hashes = [0, 1, 2].map(|i| hash(i, &mut bundle));
        let [first, second, third] = hashes.clone();
        let receipt = "payload.receipts[0]";
        set(&mut bundle, &format!("{receipt}.payload"), "receipt_id", text(&format!("rcpt_{part}")));
        set(&mut bundle, &format!("{receipt}.payload.binding"), "event_hash_b64u", second);
        seal(&mut bundle, receipt, GATEWAY);
        let attestation = "payload.coverage_attestations[0]";
        set(&mut bundle, &format!("{attestation}.payload.binding"), "event_chain_root_hash_b64u", first.clone());
        seal(&mut bundle, attestation, SENTINEL);
        let egress = "payload.metadata.sentinels.egress_policy_receipt";
        set(&mut bundle, &format!("{egress}.payload.binding"), "event_hash_b64u", first);
        seal(&mut bundle, egress, AGENT);
        set(&mut bundle, "payload.tool_receipts[0].binding", "event_hash_b64u", third);
        let mut own = value!({
            "job": "job_7f3a", "wpc_hash_b64u": "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4", "part": part, "parts": count
        });
        if let Some(before) = made.last_mut() {
            let hash = at(before, &path("payload_hash_b64u")).clone();
            set(&mut own, "", "previous_bundle_hash_b64u", hash);
            let event = at(before, &path("payload.event_chain[2].event_hash_b64u")).clone();
            set(&mut own, "", "continues_from_event_hash_b64u", event);
        }
        set(&mut bundle, "payload.metadata", "clawguard.v1", own);
        seal(&mut bundle, "", AGENT);
        made.push(bundle);
    }
    made
}

fn judge(parts: &[Value]) -> Whole {
    let texts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    verify_all(&bytes, &trust(), &enforcing())
}

#[track_caller]
fn refused(parts: &[Value], bundle: usize, code: &str, name: &str) {
    let whole = judge(parts);
    let broken = whole.broken.unwrap_or_else(|| panic!("it is whole, and not {code} at {name}"));
    assert_eq!((broken.bundle, broken.fault.code.name()), (bundle, code), "{}", broken.fault);
    assert!(broken.fault.place.ends_with(name), "{}", broken.fault);
}

/// One member of a part's own metadata, changed and signed.
fn with(mut parts: Vec<Value>, part: usize, name: &str, to: Value) -> Vec<Value> {
    let Value::Object(metadata) = at(&mut parts[part], &path("payload.metadata")) else { panic!() };
    let (_, own) = metadata.iter_mut().find(|(name, _)| **name == *"clawguard.v1").unwrap();
    set(own, "", name, to);
    seal(&mut parts[part], "", AGENT);
    parts
}

#[test]
fn a_job_in_three_parts_is_whole() {
    let whole = judge(&parts(3));
    assert_eq!(whole.broken, None);
    assert_eq!(whole.verdicts.len(), 3);
    for verdict in &whole.verdicts {
        let claim = verdict.claim("whole_job").unwrap();
        assert_eq!((claim.grade, verdict.part.as_ref().unwrap().parts), (Grade::SelfReported, 3));
        assert!(claim.says.contains("all 3 parts"));
    }
    // Alone, a part is what it says and no more.
    let alone = crate::support::judge(&parts(3)[1], &enforcing());
    assert_eq!((alone.fault.clone(), alone.claim("whole_job").unwrap().grade), (None, Grade::Absent));
}

#[test]
fn a_part_that_is_missing_is_missed() {
    for (missing, bundle, code, name) in [
        (0, 0, "EVIDENCE_MISMATCH", ".part"),
        (1, 1, "EVIDENCE_MISMATCH", ".part"),
        (2, 1, "MISSING_REQUIRED_FIELD", ".parts"),
    ] {
        let mut left = parts(3);
        left.remove(missing);
        refused(&left, bundle, code, name);
    }
    refused(&parts(3)[..1], 0, "MISSING_REQUIRED_FIELD", ".parts");
}

#[test]
fn parts_are_in_order_once_and_of_one_job() {
    let mut swapped = parts(3);
    swapped.swap(1, 2);
    refused(&swapped, 1, "EVIDENCE_MISMATCH", ".part");
    let mut doubled = parts(3);
    doubled.insert(1, doubled[1].clone());
    refused(&doubled, 2, "EVIDENCE_MISMATCH", ".part");
    for (name, to) in [
        ("previous_bundle_hash_b64u", text("AAAAAAAAAAAA")),
        ("previous_bundle_hash_b64u", Value::Null),
        ("continues_from_event_hash_b64u", text("AAAAAAAAAAAA")),
    ] {
        refused(&with(parts(2), 1, name, to), 1, "EVIDENCE_MISMATCH", name);
    }
    for (name, to) in
        [("job", text("job_other")), ("wpc_hash_b64u", text("AAAAAAAAAAAA")), ("parts", Value::Number(3.0))]
    {
        refused(&with(parts(2), 1, name, to), 1, "EVIDENCE_MISMATCH", ".parts");
    }
    // A first part follows none.
    refused(&with(parts(2), 0, "previous_bundle_hash_b64u", text("AAAAAAAAAAAA")), 0, "EVIDENCE_MISMATCH", "hash_b64u");
}

#[test]
fn no_part_tells_again_what_one_before_told() {
    let mut again = parts(2);
    let receipt = at(&mut again[0], &path("payload.receipts[0].payload.receipt_id")).clone();
    set(&mut again[1], "payload.receipts[0].payload", "receipt_id", receipt);
    seal(&mut again[1], "payload.receipts[0]", GATEWAY);
    seal(&mut again[1], "", AGENT);
    refused(&again, 1, "CAUSAL_RECEIPT_REPLAY_DETECTED", "payload.receipts[0].payload.receipt_id");
}

#[test]
fn a_fault_in_any_part_is_the_wholes() {
    let mut changed = parts(3);
    set(&mut changed[1], "payload.receipts[0].payload", "model", text("other"));
    refused(&changed, 1, "HASH_MISMATCH", "payload.receipts[0].payload_hash_b64u");
}

#[test]
fn bundles_of_different_jobs_have_nothing_to_do_with_each_other() {
    assert_eq!(judge(&[bundle("host_evidence"), bundle("host_evidence_no_receipts")]).broken, None);
}
