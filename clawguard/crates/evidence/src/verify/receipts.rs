//! Gateway receipts: each signed by a trusted gateway, and bound to an event of this run.

use std::collections::HashMap;

use claw::{Value, key::Verifier};

use super::{
    Bundle,
    fault::{At, Code, Fault, PAYLOAD},
    models::Models,
    schema,
    seal::{self, items, number, text},
    workers,
};

/// Fewer are not worth a thread of their own.
const FEW: usize = 128;
/// What one call may have taken and given.
const MOST_TOKENS: f64 = 10_000_000.0;
const MOST_LATENCY_MS: f64 = 3_600_000.0;

/// No two receipts have one id and say two things. (That one is there twice as it was is looked for once it is known that
/// nothing was changed: Claw's verifiers let it pass, but two receipts are two calls.)
pub(super) fn once(payload: &Value, even_the_same: bool) -> Result<(), Fault> {
    let (list, mut seen) = (PAYLOAD.name("receipts"), HashMap::new());
    for (i, receipt) in items(payload, "receipts").iter().enumerate() {
        let receipt = receipt.get("payload").unwrap_or(&Value::Null);
        let before = seen.insert(text(receipt, "receipt_id"), receipt);
        if before.is_some_and(|before| even_the_same || before != receipt) {
            let (item, text) = (list.index(i), "there is a receipt of that id before");
            return Err(item.name("payload").fault("receipt_id", Code::Replay, text));
        }
    }
    Ok(())
}

/// Every receipt, or the first that does not hold.
pub(super) fn check(bundle: &Bundle<'_>) -> Result<Models, Fault> {
    let receipts = items(bundle.payload, "receipts");
    let list = PAYLOAD.name("receipts");
    if receipts.is_empty() {
        return Ok(Models::default());
    }
    once(bundle.payload, true)?;
    // Each signer's key is unpacked once.
    let signers: Vec<(String, Verifier)> =
        bundle.trust.receipt_signers.iter().filter_map(|did| Some((did.to_string(), did.verifier()?))).collect();
    if signers.is_empty() {
        return Err(Fault::new(Code::NotConfigured, list, "no gateway is trusted to sign receipts: name one"));
    }
    let work = |first: usize, piece: &[Value]| {
        let one = |(i, receipt): (usize, &Value)| check_one(bundle, &signers, receipt, list.index(first + i));
        piece.iter().enumerate().try_for_each(one)
    };
    let workers = if bundle.alone { workers::count(receipts.len(), FEW) } else { 1 };
    // Of several faults the first receipt's is told.
    workers::split(receipts, workers, &work).into_iter().collect::<Result<(), Fault>>()?;
    Ok(Models::of(receipts))
}

fn check_one(bundle: &Bundle<'_>, signers: &[(String, Verifier)], receipt: &Value, at: At<'_>) -> Result<(), Fault> {
    let refused = |name: &str, text: &str| Err(at.fault(name, Code::Receipt, text));
    let payload = receipt.get("payload").unwrap_or(&Value::Null);
    let payload_at = at.name("payload");
    if let Some(metadata) = payload.get("metadata") {
        schema::gateway::METADATA.check(metadata, payload_at.name("metadata")).map_err(|fault| match fault.code {
            Code::Schema => Fault { code: Code::Receipt, ..fault },
            _ => fault,
        })?;
    }
    let signer = text(receipt, "signer_did");
    let Some((_, key)) = signers.iter().find(|(did, _)| did == signer) else {
        return refused("signer_did", "its signer is not a gateway that is trusted");
    };
    for (name, most) in [("tokens_input", MOST_TOKENS), ("tokens_output", MOST_TOKENS), ("latency_ms", MOST_LATENCY_MS)]
    {
        if !number(payload, name).is_some_and(|number| number.fract() == 0.0 && number <= most) {
            return Err(payload_at.fault(name, Code::Receipt, "it is not whole, or more than a call can take"));
        }
    }
    if seal::expired(receipt, bundle.options.now) {
        return refused("expires_at", "it has expired");
    }
    if !seal::hashed(receipt) {
        return refused("payload_hash_b64u", "it was changed after it was signed");
    }
    if !seal::signed(receipt, key) {
        return refused("signature_b64u", "it is not the gateway's signature");
    }
    let (Some(run), Some(binding)) = (bundle.run, payload.get("binding")) else {
        let text = "it is bound to no event of this bundle";
        return Err(payload_at.fault("binding", Code::Binding, text));
    };
    let binding_at = payload_at.name("binding");
    if text(binding, "run_id") != run {
        return Err(binding_at.fault("run_id", Code::Binding, "it is another run's"));
    }
    if !bundle.events.contains(text(binding, "event_hash_b64u")) {
        return Err(binding_at.fault("event_hash_b64u", Code::Binding, "it is no event of this bundle"));
    }
    Ok(())
}
