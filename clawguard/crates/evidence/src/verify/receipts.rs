//! Gateway receipts: each signed by a trusted gateway, and bound to an event of this run.

use std::collections::HashMap;

use claw::{
    Value,
    json::{self, Limits},
    key::Verifier,
};

use super::{
    Bundle, DEEPEST, causal,
    fault::{At, Code, Fault, PAYLOAD},
    metadata_too_large,
    models::Models,
    schema,
    seal::{self, items, number, text},
    workers,
};

/// Fewer are not worth a thread of their own.
const FEW: usize = 128;
/// How deep a receipt lies in a bundle.
const WITHIN: usize = 3;
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

/// Whether a gateway's receipt can lie in a bundle: one that no bundle may have makes the whole of it invalid. Whether its signer is
/// trusted, and whether its run and event are the bundle's, is for others to say.
///
/// Stricter than for one that lies there already: it has no end, because the bundle's would come with it, and says nothing of
/// spans, which other receipts could contradict.
///
/// # Errors
///
/// What is wrong with it, and where.
pub fn receipt(text: &[u8]) -> Result<(), Fault> {
    let limits = Limits { bytes: text.len(), depth: DEEPEST - WITHIN };
    let receipt = json::parse(text, limits).map_err(|error| Fault::new(Code::Parse, At::Root, error.to_string()))?;
    let at = At::Root;
    schema::gateway::IN_A_BUNDLE.check(&receipt, at)?;
    let payload = receipt.get("payload").unwrap_or(&Value::Null);
    let payload_at = at.name("payload");
    if metadata_too_large(payload) {
        return Err(payload_at.fault("metadata", Code::Malformed, "it is too large"));
    }
    if let Some(name) = payload.get("binding").and_then(causal::says) {
        let text = "it speaks of causes, and other receipts could say otherwise";
        return Err(payload_at.name("binding").fault(name, Code::Disconnected, text));
    }
    if causal::is_early(&receipt) {
        return Err(payload_at.fault("timestamp", Code::Clock, "it is later than its signature"));
    }
    alone(&receipt, at)?;
    if receipt.get("expires_at").is_some() {
        return Err(at.fault("expires_at", Code::Receipt, "it ends, and with it every bundle that has it"));
    }
    let key = seal::key(self::text(&receipt, "signer_did"));
    let Some(key) = key else { return Err(at.fault("signer_did", Code::Receipt, "it is no Ed25519 key")) };
    sealed(&receipt, &key, at)
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

/// What of a receipt can be seen without anything else.
fn alone(receipt: &Value, at: At<'_>) -> Result<(), Fault> {
    let payload = receipt.get("payload").unwrap_or(&Value::Null);
    let payload_at = at.name("payload");
    if let Some(metadata) = payload.get("metadata") {
        schema::gateway::METADATA.check(metadata, payload_at.name("metadata")).map_err(|fault| match fault.code {
            Code::Schema => Fault { code: Code::Receipt, ..fault },
            _ => fault,
        })?;
    }
    for (name, most) in [("tokens_input", MOST_TOKENS), ("tokens_output", MOST_TOKENS), ("latency_ms", MOST_LATENCY_MS)]
    {
        if !number(payload, name).is_some_and(|number| number.fract() == 0.0 && number <= most) {
            return Err(payload_at.fault(name, Code::Receipt, "it is not whole, or more than a call can take"));
        }
    }
    // A gateway may have a name of the web, as Claw's own has. Whoever names a key is that key.
    let gateway = text(payload, "gateway_id");
    if gateway.starts_with("did:key:") && gateway != text(receipt, "signer_did") {
        return Err(payload_at.fault("gateway_id", Code::Receipt, "it is another key than the one that signed"));
    }
    Ok(())
}

/// Whether a receipt is as its signer wrote it.
fn sealed(receipt: &Value, key: &Verifier, at: At<'_>) -> Result<(), Fault> {
    let refused = |name: &str, text: &str| Err(at.fault(name, Code::Receipt, text));
    if !seal::hashed(receipt) {
        return refused("payload_hash_b64u", "it was changed after it was signed");
    }
    if !seal::signed(receipt, key) {
        return refused("signature_b64u", "it is not the gateway's signature");
    }
    Ok(())
}

fn check_one(bundle: &Bundle<'_>, signers: &[(String, Verifier)], receipt: &Value, at: At<'_>) -> Result<(), Fault> {
    let refused = |name: &str, text: &str| Err(at.fault(name, Code::Receipt, text));
    let payload = receipt.get("payload").unwrap_or(&Value::Null);
    let payload_at = at.name("payload");
    let signer = text(receipt, "signer_did");
    alone(receipt, at)?;
    let Some((_, key)) = signers.iter().find(|(did, _)| did == signer) else {
        return refused("signer_did", "its signer is not a gateway that is trusted");
    };
    if seal::expired(receipt, bundle.options.now) {
        return refused("expires_at", "it has expired");
    }
    sealed(receipt, key, at)?;
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
