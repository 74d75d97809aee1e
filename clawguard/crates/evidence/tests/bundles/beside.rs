//! What lies beside a bundle.

use claw::{Value, envelope::Kind, time::Instant};
use evidence::verify::{Grade, Options, Trust, Verdict, verify};

use crate::support::{AGENT, EXAMPLE, REGISTRY, bundle, enforcing, key, observing, seal, set, text, trust, value};

fn contract() -> String {
    EXAMPLE.get("wpc").unwrap().get("envelope").unwrap().to_string()
}

fn judged(bundle: &Value, trust: &Trust, options: &Options<'_>) -> Verdict {
    verify(bundle.to_string().as_bytes(), trust, options)
}

#[track_caller]
fn refused(verdict: &Verdict, code: &str, place: &str) {
    let fault = verdict.fault.as_ref().unwrap_or_else(|| panic!("it is valid, and not {code} at {place}"));
    assert_eq!((fault.code.name(), fault.place.as_str()), (code, place), "{fault}");
}

#[test]
fn the_contract_is_the_one_that_the_gateway_signed_for() {
    let text = contract();
    let options = Options { contracts: vec![text.as_bytes()], ..enforcing() };
    let verdict = judged(&bundle("host_evidence"), &trust(), &options);
    assert_eq!((verdict.fault.clone(), verdict.claim("contract").unwrap().grade), (None, Grade::Verified));
    let nobody = Trust { wpc_signers: Vec::new(), ..trust() };
    let verdict = judged(&bundle("host_evidence"), &nobody, &options);
    assert_eq!((verdict.fault.clone(), verdict.claim("contract").unwrap().grade), (None, Grade::Inferred));
    let another = Trust { wpc_signers: vec![key(1).did()], ..trust() };
    refused(&judged(&bundle("host_evidence"), &another, &options), "CLAIM_NOT_FOUND", "contracts[0].signer_did");
    // Another contract, as well signed.
    let other = claw::envelope::Envelope::seal(
        value!({ "policy_id": "other" }),
        Kind::WorkPolicyContract,
        &key(REGISTRY),
        Instant(0),
    );
    let options = Options { contracts: vec![other.as_bytes()], ..enforcing() };
    let place = "payload.receipts[0].payload.binding.policy_hash";
    refused(&judged(&bundle("host_evidence"), &trust(), &options), "EVIDENCE_MISMATCH", place);
    // A job may have had both.
    let options = Options { contracts: vec![other.as_bytes(), text.as_bytes()], ..enforcing() };
    assert!(judged(&bundle("host_evidence"), &trust(), &options).is_valid());
    // A contract that the run is not bound to is no claim of the run's.
    let unbound = judged(&bundle("host_evidence_no_receipts"), &trust(), &options);
    assert_eq!((unbound.fault.clone(), unbound.claim("contract").unwrap().grade), (None, Grade::Absent));
    let changed = text.replace("gpt-5*", "gpt-6*");
    let options = Options { contracts: vec![changed.as_bytes()], ..enforcing() };
    refused(&judged(&bundle("host_evidence"), &trust(), &options), "HASH_MISMATCH", "contracts[0]");
}

#[test]
fn contracts_are_counted_that_the_bundle_names_and_what_it_names_besides_is_told() {
    let text = contract();
    let more = |id: &str| {
        claw::envelope::Envelope::seal(
            value!({ "policy_id": id }),
            Kind::WorkPolicyContract,
            &key(REGISTRY),
            Instant(0),
        )
    };
    let (other, stray) = (more("other"), more("stray"));
    let hash = |text: &str| {
        let opened = claw::envelope::Envelope::open(text.as_bytes(), Kind::WorkPolicyContract).unwrap();
        opened.hash.to_string()
    };
    let says = |bundle: &Value, contracts: &[&String]| {
        let contracts = contracts.iter().map(|text| text.as_bytes()).collect();
        let verdict = judged(bundle, &trust(), &Options { contracts, ..enforcing() });
        assert_eq!(verdict.fault, None);
        let claim = verdict.claim("contract").unwrap();
        (claim.grade, claim.says.clone())
    };
    // What lies beside a bundle and is no contract of the run's adds nothing to it.
    let (grade, one) = says(&bundle("host_evidence"), &[&text, &stray]);
    assert_eq!((grade, one.as_str()), (Grade::Verified, "1 contract by trusted signers, to which the run is bound"));

    let mut told = bundle("host_evidence_no_receipts");
    let own = value!({ "job": "j", "wpc_hash_b64u": hash(&text), "contracts": [hash(&other), hash(&text)] });
    set(&mut told, "payload.metadata", "clawguard.v1", own);
    seal(&mut told, "", AGENT);
    let (grade, both) = says(&told, &[&text, &other, &stray]);
    assert!(
        grade == Grade::SelfReported && both.starts_with("2 contracts by") && !both.contains("not there"),
        "{both}"
    );
    let (grade, one) = says(&told, &[&text]);
    assert!(grade == Grade::SelfReported && one.starts_with("1 contract by"), "{one}");
    assert!(one.ends_with("; not there: 1 contract that the bundle names"), "{one}");
}

#[test]
fn a_contract_that_only_the_agent_names_is_self_reported() {
    let hash = "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4";
    let mut told = bundle("host_evidence_no_receipts");
    set(&mut told, "payload.metadata", "clawguard.v1", value!({ "job": "job_7f3a", "wpc_hash_b64u": hash }));
    seal(&mut told, "", AGENT);
    let claim = judged(&told, &trust(), &enforcing()).claim("contract").unwrap().clone();
    assert_eq!(claim.grade, Grade::SelfReported);
    assert!(claim.says.contains(hash));
    let text = contract();
    let options = Options { contracts: vec![text.as_bytes()], ..enforcing() };
    assert_eq!(judged(&told, &trust(), &options).claim("contract").unwrap().grade, Grade::SelfReported);
    set(&mut told, "payload.metadata", "clawguard.v1", value!({ "wpc_hash_b64u": "AAAAAAAAAAAA" }));
    seal(&mut told, "", AGENT);
    let place = "payload.metadata[\"clawguard.v1\"].wpc_hash_b64u";
    refused(&judged(&told, &trust(), &options), "EVIDENCE_MISMATCH", place);
}

/// A manifest for the worked example's run, pointing at a summary, and the bundle that refers to it.
fn with_manifest(pulse: &Value, changes: &[(&str, Value)]) -> (Value, Value) {
    let mut urm = value!({
        "urm_version": "1", "urm_id": "urm_1", "run_id": "run_7f3a", "agent_did": key(AGENT).did().to_string(),
        "issued_at": "2026-03-01T00:00:04.000Z", "harness": { "id": "clawguard", "version": "0.1.0" },
        "inputs": [], "outputs": [],
        "event_chain_root_hash_b64u": "WdbrSkLQOBj8yHd6BPQx0IUk1SAFz9gQ_EYckiawu9o",
        "metadata": { "trust_pulse": {
            "schema": "https://schemas.clawbureau.org/claw.poh.trust_pulse.v1.json",
            "artifact_hash_b64u": pulse.insertion_hash().to_string(),
            "evidence_class": "self_reported", "tier_uplift": false
        } }
    });
    for (name, to) in changes {
        set(&mut urm, "", name, to.clone());
    }
    let mut made = bundle("host_evidence");
    let reference = value!({
        "urm_version": "1", "urm_id": "urm_1", "resource_type": "urm", "resource_hash_b64u": urm.insertion_hash().to_string()
    });
    set(&mut made, "payload", "urm", reference);
    seal(&mut made, "", AGENT);
    (made, urm)
}

fn pulse() -> Value {
    value!({
        "trust_pulse_version": "1", "run_id": "run_7f3a", "agent_did": key(AGENT).did().to_string(),
        "issued_at": "2026-03-01T00:00:04.000Z", "evidence_class": "self_reported", "tier_uplift": false,
        "tools": [{ "name": "mcp.crm.search_customer", "calls": 1 }], "files": [{ "path": "out/a.txt", "touches": 1 }]
    })
}

#[test]
fn the_manifest_has_to_be_there_and_the_runs() {
    let (bundle_, urm) = with_manifest(&pulse(), &[]);
    refused(&judged(&bundle_, &trust(), &enforcing()), "URM_MISSING", "urm");
    let document = urm.to_string();
    let options = Options { urm: Some(document.as_bytes()), ..enforcing() };
    let verdict = judged(&bundle_, &trust(), &options);
    assert_eq!((verdict.fault.clone(), verdict.claim("manifest").unwrap().grade), (None, Grade::Verified));
    refused(&judged(&bundle("host_evidence"), &trust(), &options), "URM_MISMATCH", "payload.urm");
    for (name, to) in [
        ("urm_id", "urm_2"),
        ("agent_did", "did:key:zOther"),
        ("run_id", "run_other"),
        ("event_chain_root_hash_b64u", "AAAAAAAAAAAA"),
    ] {
        let (bundle_, urm) = with_manifest(&pulse(), &[(name, text(to))]);
        let document = urm.to_string();
        let options = Options { urm: Some(document.as_bytes()), ..enforcing() };
        refused(&judged(&bundle_, &trust(), &options), "URM_MISMATCH", &format!("urm.{name}"));
    }
    let changed = document.replace("\"inputs\":[]", "\"inputs\":[{\"type\":\"x\",\"hash_b64u\":\"AAAAAAAA\"}]");
    let options = Options { urm: Some(changed.as_bytes()), ..enforcing() };
    refused(&judged(&bundle_, &trust(), &options), "HASH_MISMATCH", "payload.urm.resource_hash_b64u");
    let options = Options { urm: Some(b"{}"), ..enforcing() };
    refused(&judged(&bundle_, &trust(), &options), "SCHEMA_VALIDATION_FAILED", "urm.urm_version");
}

#[test]
fn a_summary_is_self_reported_whoever_pins_it() {
    let (bundle_, urm) = with_manifest(&pulse(), &[]);
    let (document, summary) = (urm.to_string(), pulse().to_string());
    let options = Options { urm: Some(document.as_bytes()), trust_pulse: Some(summary.as_bytes()), ..enforcing() };
    let verdict = judged(&bundle_, &trust(), &options);
    assert_eq!((verdict.fault.clone(), verdict.claim("trust_pulse").unwrap().grade), (None, Grade::SelfReported));
    let more = summary.replace("\"calls\":1", "\"calls\":2");
    let options = Options { trust_pulse: Some(more.as_bytes()), ..options };
    refused(&judged(&bundle_, &trust(), &options), "HASH_MISMATCH", "trust_pulse");
    for (from, to, code, place) in [
        ("run_7f3a", "run_other", "EVIDENCE_MISMATCH", "trust_pulse.run_id"),
        ("did:key:", "did:web:", "PROOF_BUNDLE_AGENT_MISMATCH", "trust_pulse.agent_did"),
        ("out/a.txt", "../a.txt", "SCHEMA_VALIDATION_FAILED", "trust_pulse.files[0].path"),
        ("out/a.txt", "/a.txt", "SCHEMA_VALIDATION_FAILED", "trust_pulse.files[0].path"),
        ("self_reported", "verified", "SCHEMA_VALIDATION_FAILED", "trust_pulse.evidence_class"),
        ("false", "true", "SCHEMA_VALIDATION_FAILED", "trust_pulse.tier_uplift"),
    ] {
        let changed = summary.replace(from, to);
        let options = Options { trust_pulse: Some(changed.as_bytes()), ..observing() };
        refused(&judged(&bundle("host_evidence"), &trust(), &options), code, place);
    }
}
