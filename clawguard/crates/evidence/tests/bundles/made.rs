//! Bundles that are wrong in one way, and signed as they are.

use claw::{Value, encoding};
use evidence::verify::{Grade, Options, ProofTier, Trust, receipt, verify};

use crate::support::{
    AGENT, EXAMPLE, GATEWAY, at, bundle, chain, enforcing, fault, judge, key, now, observing, path, receipts, refused,
    remove, seal, set, text, trust, value,
};

const RECEIPT: &str = "payload.receipts[0]";
const EGRESS: &str = "payload.metadata.sentinels.egress_policy_receipt";

#[test]
fn a_receipt_is_there_once_and_whole() {
    let mut twice = bundle("host_evidence");
    let first = at(&mut twice, &path(RECEIPT)).clone();
    let Value::Array(list) = at(&mut twice, &path("payload.receipts")) else { panic!() };
    list.push(first);
    seal(&mut twice, "", AGENT);
    let place = "payload.receipts[1].payload.receipt_id";
    refused(&twice, &enforcing(), "CAUSAL_RECEIPT_REPLAY_DETECTED", place);
    for (name, to) in
        [("tokens_input", value!(0.5)), ("tokens_output", value!(10_000_001)), ("latency_ms", value!(3_600_001))]
    {
        let mut changed = bundle("minimal");
        set(&mut changed, &format!("{RECEIPT}.payload"), name, to);
        seal(&mut changed, RECEIPT, GATEWAY);
        seal(&mut changed, "", AGENT);
        refused(&changed, &observing(), "RECEIPT_VERIFICATION_FAILED", &format!("{RECEIPT}.payload.{name}"));
    }
    let mut over = bundle("minimal");
    set(&mut over, RECEIPT, "expires_at", text("2026-03-01T12:00:00Z"));
    seal(&mut over, "", AGENT);
    refused(&over, &observing(), "RECEIPT_VERIFICATION_FAILED", &format!("{RECEIPT}.expires_at"));
}

#[test]
fn a_gateway_that_is_named_by_its_key_is_the_signer() {
    let named = |did: String| {
        let mut made = bundle("minimal");
        set(&mut made, &format!("{RECEIPT}.payload"), "gateway_id", Value::String(did.into()));
        seal(&mut made, RECEIPT, GATEWAY);
        seal(&mut made, "", AGENT);
        made
    };
    assert_eq!(judge(&named(key(GATEWAY).did().to_string()), &observing()).fault, None);
    assert_eq!(judge(&named("did:web:gateway.example".into()), &observing()).fault, None);
    let place = format!("{RECEIPT}.payload.gateway_id");
    refused(&named(key(AGENT).did().to_string()), &observing(), "RECEIPT_VERIFICATION_FAILED", &place);
}

#[test]
fn receipts_that_share_an_event_are_told() {
    let one = at(&mut bundle("host_evidence"), &path("payload.receipts[0].payload.binding")).clone();
    let says = |n: usize| {
        let verdict = judge(&receipts(&vec![one.clone(); n]), &enforcing());
        verdict.claim("model_calls").unwrap().says.clone()
    };
    assert_eq!(says(1), "1 receipt, each signed by a gateway that is trusted");
    let shared = "3 receipts, each signed by a gateway that is trusted; 2 of them at an event that has another one";
    assert_eq!(says(3), shared);
}

#[test]
fn a_sentinel_that_says_it_twice_has_not_seen_twice_as_many() {
    let mut twice = bundle("host_evidence");
    let Value::Array(list) = at(&mut twice, &path("payload.coverage_attestations")) else { panic!("none") };
    list.push(list[0].clone());
    seal(&mut twice, "", AGENT);
    let says = |bundle: &Value| judge(bundle, &enforcing()).claim("coverage").unwrap().says.clone();
    assert!(says(&bundle("host_evidence")).contains("3 connections counted"), "{}", says(&bundle("host_evidence")));
    assert!(says(&twice).contains("3 connections counted"), "{}", says(&twice));
}

/// A receipt that a bundle may not have is known as one before it lies there, by the same reason.
#[test]
fn what_makes_a_bundle_invalid_is_seen_in_the_receipt_itself() {
    let alone = |bundle: &Value| {
        let mut bundle = bundle.clone();
        receipt(at(&mut bundle, &path(RECEIPT)).to_string().as_bytes())
    };
    assert_eq!(alone(&bundle("minimal")), Ok(()));
    assert_eq!(alone(&bundle("host_evidence")), Ok(()));
    let long = value!({ "x": "y".repeat(16 * 1024) });
    let payment = value!({ "x402_payment_ref": "p", "x402_amount_minor": 1 });
    let payload = "payload";
    for (within, name, to) in [
        (payload, "metadata", payment),
        (payload, "metadata", long),
        (payload, "metadata", value!({ "model_identity": { "tier": "tee_measured" } })),
        (payload, "metadata", value!({ "model_identity_hash_b64u": 7 })),
        (payload, "metadata", value!({ "sentinel_anomaly_report": { "threat_score": 101, "anomaly_type": "benign" } })),
        (payload, "metadata", value!([])),
        (payload, "receipt_id", text("")),
        (payload, "unheard_of", text("x")),
        (payload, "tokens_input", value!(0.5)),
        (payload, "tokens_output", value!(10_000_001)),
        (payload, "latency_ms", value!(-1)),
        (payload, "timestamp", text("2026-03-01")),
        (payload, "timestamp", text("2099-03-01T00:00:00Z")),
        ("payload.binding", "nonce", text("")),
        ("payload.binding", "phase", text("lunch")),
        ("payload.binding", "span_id", text(" ")),
        ("payload.binding", "attribution_confidence", value!(2)),
        ("payload.binding", "parent_span_id", text("nobody's")),
        ("", "hash_algorithm", text("BLAKE3")),
        ("", "unheard_of", text("x")),
        ("", "issued_at", text("yesterday")),
        ("", "expires_at", text("2026-03-01T12:00:00Z")),
    ] {
        let mut changed = bundle("minimal");
        set(&mut changed, format!("{RECEIPT}.{within}").trim_end_matches('.'), name, to);
        seal(&mut changed, RECEIPT, GATEWAY);
        seal(&mut changed, "", AGENT);
        let (own, whole) = (alone(&changed).unwrap_err(), judge(&changed, &observing()).fault.unwrap());
        assert_eq!(whole.place, format!("{RECEIPT}.{}", own.place), "{within}.{name}: {whole} and {own}");
    }
    // By themselves they harm no bundle: one that ends later, and a span. The next day, or the next receipt, makes them.
    for (within, name, to) in [("", "expires_at", "2099-01-01T00:00:00Z"), ("payload.binding", "span_id", "s")] {
        let mut changed = bundle("minimal");
        set(&mut changed, format!("{RECEIPT}.{within}").trim_end_matches('.'), name, text(to));
        seal(&mut changed, RECEIPT, GATEWAY);
        seal(&mut changed, "", AGENT);
        assert_eq!(judge(&changed, &observing()).fault, None, "{name}");
        assert!(alone(&changed).is_err(), "{name}");
    }
    let mut forged = bundle("minimal");
    seal(&mut forged, RECEIPT, AGENT);
    assert_eq!(alone(&forged).unwrap_err().place, "signature_b64u");
}

/// Enough receipts for all processors, and each of them asked.
#[test]
fn of_a_thousand_receipts_the_first_bad_one_is_named() {
    let bindings = vec![value!({}); 1000];
    let good = receipts(&bindings);
    assert_eq!(fault(&good), None);
    for bad in [0, 499, 500, 999] {
        let mut changed = good.clone();
        // Two of them: the first is told.
        for i in [bad, 999] {
            set(&mut changed, &format!("payload.receipts[{i}].payload"), "model", text("another"));
        }
        seal(&mut changed, "", AGENT);
        let place = format!("payload.receipts[{bad}].payload_hash_b64u");
        refused(&changed, &enforcing(), "RECEIPT_VERIFICATION_FAILED", &place);
    }
    let many = receipts(&vec![value!({}); 1001]);
    refused(&many, &enforcing(), "MALFORMED_ENVELOPE", "payload.receipts");
}

#[test]
fn the_format_bounds_events_and_metadata() {
    let mut long = bundle("host_evidence_no_receipts");
    let first = at(&mut long, &path("payload.event_chain[0]")).clone();
    let Value::Array(events) = at(&mut long, &path("payload.event_chain")) else { panic!() };
    *events = (0..1001)
        .map(|i| {
            let mut event = first.clone();
            set(&mut event, "", "event_id", text(&format!("evt_{i}")));
            event
        })
        .collect();
    chain(&mut long);
    seal(&mut long, "", AGENT);
    refused(&long, &observing(), "MALFORMED_ENVELOPE", "payload.event_chain");
    for (place, seeds) in
        [("payload", &[("", AGENT)][..]), (&format!("{RECEIPT}.payload"), &[(RECEIPT, GATEWAY), ("", AGENT)])]
    {
        let mut large = bundle("minimal");
        set(&mut large, place, "metadata", value!({ "x": "y".repeat(16 * 1024) }));
        for (at, seed) in seeds {
            seal(&mut large, at, *seed);
        }
        refused(&large, &observing(), "MALFORMED_ENVELOPE", &format!("{place}.metadata"));
    }
    let mut twice = bundle("minimal");
    set(&mut twice, "payload.event_chain[2]", "event_id", text("evt_1"));
    chain(&mut twice);
    seal(&mut twice, "", AGENT);
    refused(&twice, &observing(), "MALFORMED_ENVELOPE", "payload.event_chain[2].event_id");
    let mut other = bundle("minimal");
    set(&mut other, "payload.event_chain[1]", "run_id", text("run_other"));
    chain(&mut other);
    seal(&mut other, "", AGENT);
    refused(&other, &observing(), "MALFORMED_ENVELOPE", "payload.event_chain[1].run_id");
}

#[test]
fn the_envelope_is_judged_member_by_member() {
    for (name, to, code) in [
        ("envelope_version", "2", "UNKNOWN_ENVELOPE_VERSION"),
        ("envelope_type", "gateway_receipt", "UNKNOWN_ENVELOPE_TYPE"),
        ("algorithm", "none", "UNKNOWN_ALGORITHM"),
        ("hash_algorithm", "MD5", "UNKNOWN_HASH_ALGORITHM"),
        ("hash_algorithm", "BLAKE3", "HASH_MISMATCH"),
        ("signer_did", "did:example:1", "INVALID_DID_FORMAT"),
        ("issued_at", "yesterday", "MALFORMED_ENVELOPE"),
        ("issued_at", "2026-03-01", "SCHEMA_VALIDATION_FAILED"),
        ("expires_at", "2026-03-01T00:00:00Z", "EXPIRED_TTL"),
        ("expires_at", "soon", "MALFORMED_ENVELOPE"),
        ("payload_hash_b64u", "a+b", "MALFORMED_ENVELOPE"),
        ("signature_b64u", "=", "MALFORMED_ENVELOPE"),
    ] {
        let mut changed = bundle("minimal");
        set(&mut changed, "", name, text(to));
        refused(&changed, &observing(), code, name);
    }
    let mut later = bundle("minimal");
    set(&mut later, "", "expires_at", text("2026-03-03T00:00:00Z"));
    assert_eq!(judge(&later, &observing()).fault, None);
    // The agent's bundle, signed by another.
    let mut stranger = bundle("minimal");
    let other = key(0x99);
    set(&mut stranger, "", "signer_did", text(&other.did().to_string()));
    seal(&mut stranger, "", 0x99);
    refused(&stranger, &observing(), "INVALID_DID_FORMAT", "signer_did");
    let mut forged = bundle("minimal");
    seal(&mut forged, "", 0x99);
    refused(&forged, &observing(), "SIGNATURE_INVALID", "signature_b64u");
    // Stray bits in the last character say the same to a lenient decoder.
    let mut spelled = bundle("minimal");
    let signature = at(&mut spelled, &path("signature_b64u"));
    let mut letters = signature.as_str().unwrap().to_owned();
    let last = letters.pop().unwrap();
    letters.push(char::from_u32(u32::from(last) + 1).unwrap());
    *signature = text(&letters);
    refused(&spelled, &observing(), "SIGNATURE_INVALID", "signature_b64u");
}

#[test]
fn an_egress_receipt_is_the_agents_and_consistent() {
    refused(
        &bundle("egress_byte_sorted_hosts"),
        &enforcing(),
        "MALFORMED_ENVELOPE",
        &format!("{EGRESS}.payload.allowed_child_destinations"),
    );
    refused(
        &bundle("egress_tampered_signature"),
        &enforcing(),
        "SIGNATURE_INVALID",
        &format!("{EGRESS}.signature_b64u"),
    );
    let payload = format!("{EGRESS}.payload");
    for (within, name, to, code) in [
        ("payload", "blocked_attempts_observed", value!(false), "EVIDENCE_MISMATCH"),
        ("payload", "agent_did", value!("did:key:zOther"), "EVIDENCE_MISMATCH"),
        ("payload", "agent_did", value!("did:example:1"), "INVALID_DID_FORMAT"),
        ("payload", "clawproxy_url", value!("ftp://clawproxy.com/"), "MALFORMED_ENVELOPE"),
        ("payload", "clawproxy_url", value!("https:///"), "MALFORMED_ENVELOPE"),
        ("payload", "clawproxy_url", value!("https://a:99999/"), "MALFORMED_ENVELOPE"),
        ("payload", "clawproxy_url", value!("https://a:x/"), "MALFORMED_ENVELOPE"),
        ("payload", "clawproxy_url", value!("https://[::1"), "MALFORMED_ENVELOPE"),
        ("payload", "clawproxy_url", value!("https://256.1.1.1/"), "MALFORMED_ENVELOPE"),
        ("payload", "policy_hash_b64u", value!("AAAAAAAAAAAA"), "HASH_MISMATCH"),
        ("payload", "allowed_proxy_destinations", value!(["b.example", "a.example"]), "MALFORMED_ENVELOPE"),
        ("payload", "allowed_proxy_destinations", value!(["a.example", "a.example"]), "MALFORMED_ENVELOPE"),
        ("payload", "transparency", value!({}), "UNKNOWN_SCHEMA_ID"),
        ("payload.binding", "run_id", value!("run_other"), "EVIDENCE_MISMATCH"),
        ("payload.binding", "event_hash_b64u", value!("AAAAAAAAAAAA"), "EVIDENCE_MISMATCH"),
    ] {
        let mut changed = bundle("host_evidence");
        set(&mut changed, &format!("{EGRESS}.{within}"), name, to);
        seal(&mut changed, EGRESS, AGENT);
        seal(&mut changed, "", AGENT);
        refused(&changed, &enforcing(), code, &format!("{EGRESS}.{within}.{name}"));
    }
    // Another policy under the same hash.
    let mut wider = bundle("host_evidence");
    set(&mut wider, &payload, "allowed_proxy_destinations", value!(["clawproxy.com", "evil.example"]));
    seal(&mut wider, EGRESS, AGENT);
    seal(&mut wider, "", AGENT);
    refused(&wider, &enforcing(), "HASH_MISMATCH", &format!("{payload}.policy_hash_b64u"));
    let mut sentinel = bundle("host_evidence");
    set(&mut sentinel, EGRESS, "signer_did", text(&key(0x55).did().to_string()));
    seal(&mut sentinel, EGRESS, 0x55);
    seal(&mut sentinel, "", AGENT);
    refused(&sentinel, &enforcing(), "EVIDENCE_MISMATCH", &format!("{EGRESS}.signer_did"));
}

#[test]
fn a_way_to_models_is_any_address_of_http() {
    for url in
        ["http://127.0.0.1:9481", "https://[::1]:8443/x?y#z", "https://clawproxy.com", "http://proxy.a-b.example/"]
    {
        let mut made = bundle("host_evidence");
        set(&mut made, &format!("{EGRESS}.payload"), "clawproxy_url", text(url));
        let payload = at(&mut made, &path(&format!("{EGRESS}.payload")));
        let names = [
            "policy_version",
            "proofed_mode",
            "clawproxy_url",
            "allowed_proxy_destinations",
            "allowed_child_destinations",
            "direct_provider_access_blocked",
        ];
        let descriptor = Value::Object(names.map(|name| (name.into(), payload.get(name).unwrap().clone())).into());
        set(payload, "", "policy_hash_b64u", text(&descriptor.insertion_hash().to_string()));
        seal(&mut made, EGRESS, AGENT);
        seal(&mut made, "", AGENT);
        assert_eq!(fault(&made), None, "{url}");
    }
}

#[test]
fn a_tools_receipt_is_the_agents_and_of_this_run() {
    let place = "payload.tool_receipts[0]";
    for (within, name, to, code) in [
        (place, "agent_did", "did:key:zOther", "PROOF_BUNDLE_AGENT_MISMATCH"),
        (&format!("{place}.binding"), "run_id", "run_other", "RECEIPT_BINDING_MISMATCH"),
        (&format!("{place}.binding"), "event_hash_b64u", "AAAAAAAAAAAA", "RECEIPT_BINDING_MISMATCH"),
        (&format!("{place}.binding"), "event_hash_b64u", "a+b", "SCHEMA_VALIDATION_FAILED"),
        (place, "result_status", "denied", "SCHEMA_VALIDATION_FAILED"),
        (place, "receipt_version", "2", "SCHEMA_VALIDATION_FAILED"),
    ] {
        let mut changed = bundle("host_evidence");
        set(&mut changed, within, name, text(to));
        seal(&mut changed, "", AGENT);
        refused(&changed, &enforcing(), code, &format!("{within}.{name}"));
    }
}

/// A tool's receipt in an envelope of its own.
#[test]
fn a_signed_tools_receipt_is_verified() {
    let place = "payload.tool_receipts[0]";
    let enveloped = |signer: u8| {
        let mut made = bundle("host_evidence");
        let payload = at(&mut made, &path(place)).clone();
        let mut envelope = value!({
            "envelope_version": "1", "envelope_type": "tool_receipt", "payload": null, "payload_hash_b64u": "x",
            "hash_algorithm": "SHA-256", "signature_b64u": "x", "algorithm": "Ed25519", "signer_did": "",
            "issued_at": "2026-03-01T00:00:02.000Z"
        });
        set(&mut envelope, "", "payload", payload);
        set(&mut envelope, "", "signer_did", text(&key(signer).did().to_string()));
        *at(&mut made, &path(place)) = envelope;
        seal(&mut made, place, signer);
        made
    };
    let mut good = enveloped(AGENT);
    seal(&mut good, "", AGENT);
    let verdict = judge(&good, &enforcing());
    assert_eq!((verdict.fault.clone(), verdict.claim("tool_calls").unwrap().grade), (None, Grade::Verified));
    let mut stranger = enveloped(0x99);
    seal(&mut stranger, "", AGENT);
    refused(&stranger, &enforcing(), "SIGNATURE_INVALID", &format!("{place}.signer_did"));
    for (within, name, to, code, named) in [
        ("payload", "tool_name", "other", "HASH_MISMATCH", "payload_hash_b64u"),
        ("", "signature_b64u", "AAAA", "SIGNATURE_INVALID", "signature_b64u"),
        ("", "expires_at", "2026-03-01T12:00:00Z", "EXPIRED_TTL", "expires_at"),
    ] {
        let mut changed = enveloped(AGENT);
        set(&mut changed, &format!("{place}.{within}"), name, text(to));
        seal(&mut changed, "", AGENT);
        refused(&changed, &enforcing(), code, &format!("{place}.{named}"));
    }
}

#[test]
fn a_rate_that_was_not_kept_is_refused() {
    let claim = |changes: Value| {
        let mut claim = value!({
            "claim_version": "1", "scope": "agent", "scope_key": "a", "window_start": "2026-03-01T00:00:00Z",
            "window_end": "2026-03-01T00:01:00Z", "max_requests": 10, "observed_requests": 1
        });
        let Value::Object(members) = changes else { panic!() };
        for (name, to) in members {
            set(&mut claim, "", &name, to);
        }
        let mut made = bundle("minimal");
        set(&mut made, "payload", "rate_limit_claims", Value::Array(vec![claim]));
        seal(&mut made, "", AGENT);
        made
    };
    assert_eq!(judge(&claim(value!({ "run_id": "run_7f3a" })), &observing()).fault, None);
    for (changes, code, place) in [
        (value!({ "window_start": "2026-03-01T00:02:00Z" }), "RATE_LIMIT_WINDOW_INVALID", ".window_start"),
        (value!({ "observed_requests": 11 }), "RATE_LIMIT_EXCEEDED", ".observed_requests"),
        (value!({ "max_tokens_input": 1 }), "RATE_LIMIT_CLAIM_INCONSISTENT", ""),
        (
            value!({ "max_tokens_output": 1, "observed_tokens_output": 2 }),
            "RATE_LIMIT_EXCEEDED",
            ".observed_tokens_output",
        ),
        (value!({ "run_id": "run_other" }), "RATE_LIMIT_CLAIM_INCONSISTENT", ".run_id"),
    ] {
        refused(&claim(changes), &observing(), code, &format!("payload.rate_limit_claims[0]{place}"));
    }
}

#[test]
fn evidence_without_a_rule_is_not_believed() {
    for (place, name, to) in [
        ("payload", "vir_receipts", value!([{}])),
        ("payload", "web_receipts", value!([{}])),
        ("payload", "binary_semantic_evidence_attestations", value!([{}])),
        ("payload.metadata", "policy_binding", value!({})),
        ("payload.metadata", "runner_measurement", value!({})),
    ] {
        let mut made = bundle("host_evidence");
        set(&mut made, place, name, to);
        seal(&mut made, "", AGENT);
        let fault = fault(&made).unwrap();
        assert_eq!(fault.code.name(), "UNKNOWN_SCHEMA_ID", "{name}");
        assert!(fault.place.starts_with(&format!("{place}.{name}")), "{fault}");
    }
    let mut paid = bundle("minimal");
    set(&mut paid, &format!("{RECEIPT}.payload.metadata"), "x402_currency", text("USDC"));
    seal(&mut paid, RECEIPT, GATEWAY);
    seal(&mut paid, "", AGENT);
    refused(&paid, &observing(), "UNKNOWN_SCHEMA_ID", &format!("{RECEIPT}.payload.metadata.x402_currency"));
    // Only tools' receipts are not enough to be about a run.
    let mut tools = bundle("host_evidence");
    for name in ["event_chain", "receipts", "coverage_attestations", "metadata"] {
        remove(&mut tools, "payload", name);
    }
    seal(&mut tools, "", AGENT);
    refused(&tools, &observing(), "MALFORMED_ENVELOPE", "payload");
}

#[test]
fn attestations_are_of_this_agent_and_signed() {
    let attester = key(0x77);
    let made = |subject: &str, signer: u8, expires: &str| {
        let mut attestation = value!({
            "attestation_id": "att_1", "attestation_type": "owner", "attester_did": attester.did().to_string(),
            "subject_did": subject, "expires_at": expires, "signature_b64u": ""
        });
        let signature = key(signer).sign(attestation.canonical().as_bytes());
        set(&mut attestation, "", "signature_b64u", text(&encoding::encode(&signature)));
        let mut made = bundle("minimal");
        set(&mut made, "payload", "attestations", Value::Array(vec![attestation]));
        seal(&mut made, "", AGENT);
        made
    };
    let agent = key(AGENT).did().to_string();
    let good = made(&agent, 0x77, "2026-04-01T00:00:00Z");
    let unknown = judge(&good, &observing());
    assert_eq!((unknown.fault.clone(), unknown.proof_tier), (None, ProofTier::Gateway));
    assert_eq!(unknown.claim("attestations").unwrap().grade, Grade::SelfReported);
    let trusting = Trust { attesters: vec![attester.did()], ..trust() };
    let verdict = verify(good.to_string().as_bytes(), &trusting, &Options::at(now()));
    assert_eq!((verdict.fault.clone(), verdict.proof_tier), (None, ProofTier::Sandbox));
    assert_eq!(verdict.claim("attestations").unwrap().grade, Grade::Verified);
    let place = "payload.attestations[0]";
    let other = key(1).did().to_string();
    for (bundle, code, name) in [
        (made(&other, 0x77, "2026-04-01T00:00:00Z"), "EVIDENCE_MISMATCH", "subject_did"),
        (made(&agent, 0x78, "2026-04-01T00:00:00Z"), "SIGNATURE_INVALID", "signature_b64u"),
        (made(&agent, 0x77, "2026-03-01T00:00:00Z"), "EXPIRED_TTL", "expires_at"),
    ] {
        refused(&bundle, &observing(), code, &format!("{place}.{name}"));
    }
}

#[test]
fn the_harness_counts_in_whole_numbers() {
    let cldd = "payload.metadata.sentinels.interpose_state.cldd";
    for (name, to) in [
        ("unmediated_connections", value!(-1)),
        ("unmonitored_spawns", value!(0.5)),
        ("escapes_suspected", value!("no")),
    ] {
        let mut made = bundle("host_evidence");
        set(&mut made, cldd, name, to);
        seal(&mut made, "", AGENT);
        refused(&made, &observing(), "MALFORMED_ENVELOPE", &format!("{cldd}.{name}"));
    }
    assert_eq!(EXAMPLE.get("clock").and_then(Value::as_str).map(|clock| clock.starts_with("2026-03-01")), Some(true));
}
