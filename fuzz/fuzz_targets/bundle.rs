//! No bundle stops the verifier, and what it finds valid is signed, says the same when it is written again, and is not valid for whoever
//! trusts nobody.
//!
//! Since no fuzzer finds a signature, every input is tried a second time with all its hashes and signatures made right.
#![no_main]

use std::sync::LazyLock;

use claw::{
    Value, encoding,
    json::{Limits, parse},
    key::PrivateKey,
    time::Instant,
};
use evidence::verify::{Coverage, Options, Trust, Verdict, verify, verify_all};
use libfuzzer_sys::fuzz_target;

static AGENT: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::from_seed(&[0x44; 32]));
static GATEWAY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::from_seed(&[0x33; 32]));
static SENTINEL: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::from_seed(&[0x55; 32]));

fn options(coverage: Coverage, require_host_evidence: bool) -> Options<'static> {
    let now = Instant::parse("2026-03-02T00:00:00Z").expect("an instant");
    Options { coverage, require_host_evidence, ..Options::at(now) }
}

fn check(text: &[u8]) -> Verdict {
    let trust = Trust { receipt_signers: vec![GATEWAY.did()], sentinels: vec![SENTINEL.did()], ..Trust::default() };
    let strict = verify(text, &trust, &options(Coverage::Enforce, true));
    let plain = verify(text, &trust, &options(Coverage::Enforce, false));
    let lax = verify(text, &trust, &options(Coverage::Observe, false));
    // Whoever demands more does not find more.
    assert!(!strict.is_valid() || plain.is_valid(), "{:?}", plain.fault);
    assert!(!plain.is_valid() || lax.is_valid(), "{:?}", lax.fault);
    assert!(lax.is_valid() || lax.claims.is_empty());
    if lax.is_valid() {
        let value = parse(text, Limits { bytes: 1 << 20, depth: 64 }).expect("what is valid is JSON");
        let again = verify(value.to_string().as_bytes(), &trust, &options(Coverage::Observe, false));
        assert_eq!(again, lax);
        let nobody = verify(text, &Trust::default(), &options(Coverage::Observe, false));
        let receipts = value.get("payload").and_then(|payload| payload.get("receipts")).is_some();
        assert_eq!(nobody.is_valid(), !receipts, "{:?}", nobody.fault);
        let whole = verify_all(&[text], &trust, &options(Coverage::Observe, false));
        let parts = lax.part.as_ref().is_some_and(|part| part.part > 1 || part.parts > 1);
        assert!(whole.broken.is_none() || parts, "{:?}", whole.broken);
    }
    strict
}

fn member<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(members) => members.iter_mut().find(|(n, _)| **n == *name).map(|(_, value)| value),
        _ => None,
    }
}

fn items(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    match value {
        Some(Value::Array(items)) => items.iter_mut(),
        _ => [].iter_mut(),
    }
}

fn put(value: &mut Value, name: &str, text: String) {
    if let Some(place) = member(value, name) {
        *place = Value::String(text.into());
    }
}

fn sealed(envelope: &mut Value, key: &PrivateKey) {
    let Some(hash) = envelope.get("payload").map(|payload| payload.insertion_hash().to_string()) else { return };
    put(envelope, "signature_b64u", encoding::encode(&key.sign(hash.as_bytes())));
    put(envelope, "payload_hash_b64u", hash);
    put(envelope, "signer_did", key.did().to_string());
}

/// Events linked anew, and everything sealed by those who may.
fn repaired(bundle: &mut Value) {
    const HEADER: [&str; 6] = ["event_id", "run_id", "event_type", "timestamp", "payload_hash_b64u", "prev_hash_b64u"];
    let Some(payload) = member(bundle, "payload") else { return };
    put(payload, "agent_did", AGENT.did().to_string());
    let mut before = Value::Null;
    let mut hashes = Vec::new();
    for event in items(member(payload, "event_chain")) {
        if let Some(place) = member(event, "prev_hash_b64u") {
            *place = before;
        }
        let header = HEADER.map(|name| (name.into(), event.get(name).cloned().unwrap_or(Value::Null)));
        let hash = Value::Object(header.into()).insertion_hash().to_string();
        put(event, "event_hash_b64u", hash.clone());
        before = Value::String(hash.clone().into());
        hashes.push(hash);
    }
    let first = hashes.first().cloned().unwrap_or_default();
    let bind = |envelope: &mut Value, name: &str, hash: &str| {
        if let Some(binding) = member(envelope, "payload").and_then(|payload| member(payload, "binding")) {
            put(binding, name, hash.to_owned());
        }
    };
    for (i, receipt) in items(member(payload, "receipts")).enumerate() {
        bind(receipt, "event_hash_b64u", hashes.get(i % hashes.len().max(1)).unwrap_or(&first));
        sealed(receipt, &GATEWAY);
    }
    for attestation in items(member(payload, "coverage_attestations")) {
        bind(attestation, "event_chain_root_hash_b64u", &first);
        sealed(attestation, &SENTINEL);
    }
    let sentinels = member(payload, "metadata").and_then(|metadata| member(metadata, "sentinels"));
    if let Some(receipt) = sentinels.and_then(|sentinels| member(sentinels, "egress_policy_receipt")) {
        bind(receipt, "event_hash_b64u", &first);
        sealed(receipt, &AGENT);
    }
    sealed(bundle, &AGENT);
}

fuzz_target!(|data: &[u8]| {
    check(data);
    let Ok(mut value) = parse(data, Limits { bytes: 1 << 16, depth: 32 }) else { return };
    repaired(&mut value);
    check(value.to_string().as_bytes());
});
