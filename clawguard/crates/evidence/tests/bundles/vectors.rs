//! The verdicts of both upstream verifiers, as they were observed.

use evidence::verify::{Code, Coverage, Grade, ProofTier, TrustTier, Verdict};

use crate::support::{EXAMPLE, bundle, enforcing, judge, observing, parse, refused, seal, set, text, trust, value};

fn said(verdict: &Verdict) -> String {
    match &verdict.fault {
        None => "VALID".into(),
        Some(fault) => format!("INVALID {} {}", fault.code, fault.place),
    }
}

#[test]
fn every_vector_gets_the_verdict_that_claws_verifiers_give() {
    let vectors = [
        ("minimal", include_str!("../claw/vectors/minimal-bundle.json")),
        ("host_evidence", include_str!("../claw/vectors/host_evidence-bundle.json")),
        ("host_evidence_no_receipts", include_str!("../claw/vectors/host_evidence_no_receipts-bundle.json")),
        ("side_effect_orphaned", include_str!("../claw/vectors/side_effect_orphaned-bundle.json")),
        ("human_approval_orphaned", include_str!("../claw/vectors/human_approval_orphaned-bundle.json")),
        (
            "unknown_top_level_execution_receipts",
            include_str!("../claw/vectors/unknown_top_level_execution_receipts-bundle.json"),
        ),
    ];
    let expected: serde_json::Value = serde_json::from_str(include_str!("../claw/vectors/expected.json")).unwrap();
    let rows = expected["rows"].as_array().unwrap();
    assert_eq!(rows.len(), vectors.len());
    for row in rows {
        let name = row["vector"].as_str().unwrap();
        let (_, file) = vectors.iter().find(|(vector, _)| *vector == name).unwrap();
        // The file as it lies on disk, white space and all.
        let judged = |options| evidence::verify::verify(file.as_bytes(), &trust(), &options);
        for (column, verdict) in [
            ("cli_verifier", judged(observing())),
            ("hosted_verifier", judged(observing())),
            ("hosted_verifier_enforcing", judged(enforcing())),
        ] {
            let expected = row[column].as_str().unwrap();
            // Where a column names no place, the reason is all that it says.
            let said = said(&verdict);
            assert!(said == expected || said.starts_with(&format!("{expected} ")), "{name} {column}: {said}");
        }
    }
}

/// Every bundle of the worked example, with what both verifiers said of it.
#[test]
fn the_worked_examples_bundles_fare_as_in_the_table() {
    let told = EXAMPLE.get("bundles").unwrap();
    let claw::Value::Object(bundles) = told else { panic!("no bundles") };
    assert_eq!(bundles.len(), 15);
    for (name, entry) in bundles {
        let envelope = entry.get("envelope").unwrap();
        let verdicts = [("core", judge(envelope, &observing())), ("service", judge(envelope, &observing()))];
        let enforced = judge(envelope, &enforcing());
        for (column, verdict) in verdicts.iter().chain([&("service_enforce", enforced)]) {
            let said = entry.get(column).map(ToString::to_string).unwrap_or_default();
            if said.contains("\"INVALID\"") {
                let code = verdict.fault.as_ref().map(|fault| fault.code.name()).unwrap_or_default();
                assert!(said.contains(&format!("\"{code}\"")), "{name} {column}: {said}");
            } else if !verdict.is_valid() {
                // Stricter: a receipt that was changed after it was signed is no smaller receipt, but none.
                let stricter = [("receipt_rt_mutated_after_signing", Code::Receipt)];
                let code = verdict.fault.as_ref().unwrap().code;
                // One of the two only ignores what the other one refuses.
                let other = entry.get("service").unwrap().to_string().contains("\"INVALID\"");
                assert!(other || stricter.contains(&(&**name, code)), "{name} {column}: {code}");
            }
        }
    }
}

#[test]
fn what_the_sentinel_says_is_enforced_unless_it_is_only_observed() {
    let attestation = "payload.coverage_attestations[0]";
    for (name, flag, place) in [
        ("coverage_unmediated", "COVERAGE_UNMEDIATED_EGRESS", "payload.metrics.egress.unmediated_connections"),
        ("coverage_gap_1001ms", "COVERAGE_LIVENESS_GAP_EXCEEDED", "payload.metrics.liveness.max_gap_ms"),
        (
            "coverage_chain_root_is_last_event",
            "COVERAGE_ATTESTATION_CHAIN_ROOT_MISMATCH",
            "payload.binding.event_chain_root_hash_b64u",
        ),
        ("coverage_tampered_signature", "COVERAGE_ATTESTATION_VERIFY_FAILED", "signature_b64u"),
    ] {
        refused(&bundle(name), &enforcing(), "EVIDENCE_MISMATCH", &format!("{attestation}.{place}"));
        let observed = judge(&bundle(name), &observing());
        assert!(observed.is_valid() && observed.risk_flags.contains(flag), "{name}: {:?}", observed.risk_flags);
        assert_eq!(observed.claim("coverage").unwrap().grade, Grade::SelfReported);
    }
    let place = "payload.coverage_attestations";
    refused(&bundle("coverage_cldd_mismatch"), &enforcing(), "COVERAGE_CLDD_DISCREPANCY_ENFORCED", place);
    let observed = judge(&bundle("coverage_cldd_mismatch"), &observing());
    assert!(observed.is_valid() && observed.risk_flags.contains("COVERAGE_CLDD_DISCREPANCY"));
}

/// Every bound of a coverage attestation, signed by the sentinel as it is.
#[test]
fn each_thing_that_a_sentinel_has_to_vouch_for_is_asked() {
    let place = "payload.coverage_attestations[0].payload";
    for (within, name, to) in [
        ("metrics.lineage", "unmonitored_spawns", value!(1)),
        ("metrics.lineage", "escapes_suspected", value!(true)),
        ("metrics.egress", "unmediated_connections", value!(1)),
        ("metrics.liveness", "status", value!("interrupted")),
        ("metrics.liveness", "max_gap_ms", value!(1001)),
        ("binding", "event_chain_root_hash_b64u", value!("AAAAAAAAAAAA")),
    ] {
        let mut changed = bundle("host_evidence");
        set(&mut changed, &format!("{place}.{within}"), name, to);
        // The harness counts as the sentinel does.
        crate::support::remove(&mut changed, "payload.metadata.sentinels", "interpose_state");
        seal(&mut changed, "payload.coverage_attestations[0]", 0x55);
        seal(&mut changed, "", 0x44);
        refused(&changed, &enforcing(), "EVIDENCE_MISMATCH", &format!("{place}.{within}.{name}"));
    }
    for (name, to) in [("run_id", "run_other"), ("agent_did", "did:key:zOther"), ("sentinel_did", "did:key:zOther")] {
        let mut changed = bundle("host_evidence");
        set(&mut changed, place, name, text(to));
        seal(&mut changed, "payload.coverage_attestations[0]", 0x55);
        seal(&mut changed, "", 0x44);
        refused(&changed, &enforcing(), "EVIDENCE_MISMATCH", &format!("{place}.{name}"));
    }
    // Who is not trusted says nothing, however well it is signed.
    let mut foreign = bundle("host_evidence");
    let stranger = crate::support::key(0x99).did().to_string();
    set(&mut foreign, "payload.coverage_attestations[0]", "signer_did", text(&stranger));
    set(&mut foreign, place, "sentinel_did", text(&stranger));
    seal(&mut foreign, "payload.coverage_attestations[0]", 0x99);
    seal(&mut foreign, "", 0x44);
    refused(&foreign, &enforcing(), "EVIDENCE_MISMATCH", "payload.coverage_attestations[0].signer_did");
    // A bundle that says itself that coverage is required has to have some.
    let mut required = bundle("minimal");
    set(&mut required, "payload", "metadata", value!({ "coverage_enforcement": { "required": true } }));
    seal(&mut required, "", 0x44);
    let options = evidence::verify::Options { coverage: Coverage::Enforce, ..observing() };
    refused(&required, &options, "EVIDENCE_MISMATCH", "payload.coverage_attestations");
}

#[test]
fn a_bundle_says_what_its_claims_are_worth() {
    let verdict = judge(&bundle("host_evidence"), &enforcing());
    assert_eq!(verdict.fault, None);
    assert_eq!((verdict.trust_tier, verdict.proof_tier), (TrustTier::Verified, ProofTier::Gateway));
    assert_eq!(verdict.hash.unwrap().to_string(), "9FzQoHjGnUoDjKOGOtnM8IwjVu9iCwwXHnYfrapNYM8");
    let graded = |about: &str| verdict.claim(about).unwrap().grade;
    for (about, grade) in [
        ("event_chain", Grade::Verified),
        ("model_calls", Grade::Verified),
        ("coverage", Grade::Verified),
        ("egress_policy", Grade::Verified),
        // The gateway's signature covers the hash, and nobody has shown the contract.
        ("contract", Grade::Inferred),
        ("tool_calls", Grade::SelfReported),
        ("side_effects", Grade::Inferred),
        ("approvals", Grade::Absent),
        ("trust_pulse", Grade::Absent),
        ("manifest", Grade::Absent),
        ("attestations", Grade::Absent),
        ("whole_job", Grade::SelfReported),
    ] {
        assert_eq!(graded(about), grade, "{about}");
    }
    assert_eq!(verdict.claims.len(), 12);
    let alone = judge(&bundle("host_evidence_no_receipts"), &enforcing());
    assert_eq!((alone.fault, alone.proof_tier), (None, ProofTier::Own));
    let verdict = judge(&bundle("minimal"), &evidence::verify::Options::at(crate::support::now()));
    assert_eq!(verdict.claim("coverage").unwrap().grade, Grade::Absent);
    assert_eq!(verdict.claim("egress_policy").unwrap().grade, Grade::Absent);
}

#[test]
fn every_reason_has_one_of_claws_names() {
    let list: serde_json::Value = serde_json::from_str(include_str!("../claw/reason_codes.json")).unwrap();
    let known: Vec<&str> = list["codes"].as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
    let mut seen = std::collections::HashSet::new();
    for code in Code::ALL {
        assert!(known.contains(&code.name()), "{code} is not one of Claw's");
        assert!(seen.insert(code.name()), "{code} is there twice");
    }
}

#[test]
fn a_payload_that_nobody_signed_is_no_bundle() {
    let payload = bundle("host_evidence").get("payload").unwrap().clone();
    refused(&payload, &observing(), "MALFORMED_ENVELOPE", "envelope_version");
    for text in ["[]", "null", "\"x\"", "{}"] {
        assert_eq!(judge(&parse(text), &observing()).fault.unwrap().code, Code::Malformed, "{text}");
    }
    for text in ["", "{", "{\"a\":1,\"a\":2}", "\u{feff}{}", &"[".repeat(100)] {
        let verdict = evidence::verify::verify(text.as_bytes(), &trust(), &observing());
        assert_eq!(verdict.fault.unwrap().code, Code::Parse, "{text}");
    }
}

#[test]
fn without_a_trusted_gateway_receipts_prove_nothing() {
    let nobody = evidence::verify::Trust { receipt_signers: Vec::new(), ..trust() };
    let text = bundle("minimal").to_string();
    let fault = evidence::verify::verify(text.as_bytes(), &nobody, &observing()).fault.unwrap();
    assert_eq!((fault.code, fault.place.as_str()), (Code::NotConfigured, "payload.receipts"));
    let another = evidence::verify::Trust { receipt_signers: vec![crate::support::key(1).did()], ..trust() };
    let fault = evidence::verify::verify(text.as_bytes(), &another, &observing()).fault.unwrap();
    assert_eq!((fault.code, fault.place.as_str()), (Code::Receipt, "payload.receipts[0].signer_did"));
}
