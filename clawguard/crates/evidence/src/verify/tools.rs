//! Receipts of tools, side effects and approvals. What is in no envelope is signed by the bundle's agent alone, with the bundle.

use claw::Value;

use super::{
    Bundle,
    fault::{At, Code, Fault, PAYLOAD},
    seal::{self, items, text},
    shape,
};

/// How many tool receipts there are, and how many of them carry a signature of their own.
pub(super) fn count(payload: &Value) -> (usize, usize) {
    let all = items(payload, "tool_receipts");
    (all.len(), all.iter().filter(|receipt| receipt.get("envelope_version").is_some()).count())
}

/// All of them.
pub(super) fn check(bundle: &Bundle<'_>) -> Result<(), Fault> {
    let list = PAYLOAD.name("tool_receipts");
    for (i, entry) in items(bundle.payload, "tool_receipts").iter().enumerate() {
        tool(bundle, entry, list.index(i))?;
    }
    for name in ["side_effect_receipts", "human_approval_receipts"] {
        let list = PAYLOAD.name(name);
        for (i, entry) in items(bundle.payload, name).iter().enumerate() {
            let at = list.index(i);
            if !matches!(text(entry, "hash_algorithm"), "" | "SHA-256") {
                return Err(at.fault("hash_algorithm", Code::HashAlgorithm, "it is not SHA-256"));
            }
            if text(entry, "agent_did") != bundle.agent {
                return Err(at.fault("agent_did", Code::Agent, "it is another agent's"));
            }
        }
    }
    Ok(())
}

fn tool(bundle: &Bundle<'_>, entry: &Value, at: At<'_>) -> Result<(), Fault> {
    let enveloped = entry.get("envelope_version").is_some();
    let within = at.name("payload");
    let (receipt, place) = if enveloped { (entry.get("payload").unwrap_or(&Value::Null), within) } else { (entry, at) };
    if text(receipt, "agent_did") != bundle.agent {
        return Err(place.fault("agent_did", Code::Agent, "it is another agent's"));
    }
    if let Some(binding) = receipt.get("binding") {
        let binding_at = place.name("binding");
        let (run, event) = (text(binding, "run_id"), text(binding, "event_hash_b64u"));
        if bundle.run.is_some_and(|ours| !run.is_empty() && run != ours) {
            return Err(binding_at.fault("run_id", Code::Binding, "it is another run's"));
        }
        if binding.get("event_hash_b64u").is_some() {
            if !shape::is_base64url(event) {
                return Err(binding_at.fault("event_hash_b64u", Code::Schema, "it is no base64url"));
            }
            if bundle.run.is_some() && !bundle.events.contains(event) {
                return Err(binding_at.fault("event_hash_b64u", Code::Binding, "it is no event of this bundle"));
            }
        }
    }
    if !enveloped {
        return Ok(());
    }
    if seal::expired(entry, bundle.options.now) {
        return Err(at.fault("expires_at", Code::Expired, "it has expired"));
    }
    if !seal::hashed(entry) {
        return Err(at.fault("payload_hash_b64u", Code::Hash, "it was changed after it was hashed"));
    }
    // Whoever else may sign a tool's receipt, nobody said.
    if text(entry, "signer_did") != bundle.agent {
        return Err(at.fault("signer_did", Code::Signature, "its signer is not the bundle's agent"));
    }
    match seal::key(bundle.agent) {
        Some(key) if seal::signed(entry, &key) => Ok(()),
        _ => Err(at.fault("signature_b64u", Code::Signature, "it is not its signer's signature")),
    }
}
