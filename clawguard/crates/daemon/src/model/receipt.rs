//! A model call's receipt: signed here, or a clawproxy's that is held to what this host knows.

use claw::{
    Hash,
    json::{self, Limits, Value},
    key::{Did, PrivateKey},
    receipt::{Binding, GatewayReceipt},
    time::Instant,
};
use control::model::{ModelCall, ModelEnd};
use serde_json::json;

/// Bytes of an envelope that is kept.
const LONGEST: usize = 32 << 10;
/// What verifiers believe of one call. A receipt that says more takes its whole bundle with it: no provider, and no agent that keeps a
/// stream open, may bring that about.
const MOST_TOKENS: u64 = 10_000_000;
const MOST_LATENCY_MS: u64 = 3_600_000;

/// A call that may be made, with all that its receipt binds to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) call: Box<ModelCall>,
    pub(crate) job: String,
    pub(crate) agent: String,
    pub(crate) run_id: String,
    pub(crate) event_hash: Hash,
    /// Scope hash of the job's token, as the token says it.
    pub(crate) scope_hash: Option<String>,
}

/// Signs a call's receipt. Everything in it is what the gateway saw; nothing is rounded up.
pub(super) fn sign(begun: &Begun, end: &ModelEnd, key: &PrivateKey, now: Instant) -> Result<String, String> {
    let call = &begun.call;
    let hash = |what: &str, text: &str| text.parse::<Hash>().map_err(|_| format!("the {what}'s hash is none"));
    let believed = |tokens: Option<u64>| tokens.filter(|tokens| *tokens <= MOST_TOKENS);
    let (input, output) = (believed(end.tokens_input), believed(end.tokens_output));
    let metadata = json!({
        "outcome": end.outcome,
        "status": end.status,
        "route": call.route,
        "streamed": call.streamed,
        "bytes_in": call.bytes_in,
        "bytes_out": end.bytes_out,
        "first_byte_us": end.first_byte_us,
        "duration_us": end.duration_us,
        "redactions": call.redactions,
        "tokens_counted_by_provider": input.is_some() || output.is_some(),
    });
    let receipt = GatewayReceipt {
        // Of one event there is one receipt.
        receipt_id: format!("rcpt_{}", begun.event_hash),
        gateway_id: key.did().to_string(),
        provider: call.provider.clone(),
        model: if call.model.is_empty() { "unnamed".into() } else { call.model.clone() },
        request_hash: hash("request", &call.request_hash)?,
        response_hash: hash("response", &end.response_hash)?,
        tokens_input: input.unwrap_or(0),
        tokens_output: output.unwrap_or(0),
        latency_ms: (end.duration_us / 1000).min(MOST_LATENCY_MS),
        timestamp: now,
        binding: Binding {
            run_id: begun.run_id.clone(),
            event_hash: begun.event_hash,
            nonce: Some(call.nonce.clone()).filter(|nonce| !nonce.is_empty()),
            policy_hash: call.contract.parse().ok(),
            token_scope_hash: begun.scope_hash.as_deref().and_then(|hash| hash.parse().ok()),
        },
        metadata: value(&metadata),
    };
    let envelope = receipt.seal(key, now);
    if envelope.len() > LONGEST { Err("the receipt would be too long".into()) } else { Ok(envelope) }
}

/// A receipt that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) envelope: String,
    /// Whether what it says of the answer was held against what came.
    pub(super) compared: bool,
}

/// Whether a clawproxy's receipt is the one for a call: signed by somebody trusted, of this run, event, contract and token, of what
/// was sent and what came.
pub(super) fn verify(begun: &Begun, end: &ModelEnd, signers: &[Did]) -> Result<Kept, String> {
    let Some(text) = &end.receipt else { return Err("the clawproxy gave none".into()) };
    if text.len() > LONGEST {
        return Err("the clawproxy's is too long".into());
    }
    let opened = GatewayReceipt::open(text.as_bytes()).map_err(|error| error.to_string())?;
    if !signers.contains(&opened.signer) {
        return Err(format!("its signer {} is not in [trust] receipt_signers", opened.signer));
    }
    // One that no bundle may have would make the whole of it invalid.
    evidence::verify::receipt(text.as_bytes())
        .map_err(|fault| format!("no bundle may have the clawproxy's: {fault}"))?;
    let receipt = opened.receipt;
    let (call, binding) = (&begun.call, &receipt.binding);
    let text = |hash: Option<&Hash>| hash.map(Hash::to_string);
    let nonce = Some(&call.nonce).filter(|nonce| !nonce.is_empty());
    let compared = receipt.response_hash.to_string() == end.response_hash;
    // A clawproxy passes a stream on as it comes. Its receipt is put into any other answer, which it writes anew for that: of spaces
    // and numbers that it does not write as the provider did, nothing can be seen.
    let stream = call.streamed && (200..300).contains(&end.status);
    let checks = [
        (binding.run_id == begun.run_id, "it is another run's"),
        (binding.event_hash == begun.event_hash, "it is another event's"),
        (binding.nonce.as_ref() == nonce, "it is another call's"),
        // Of a job that is only watched, and has none, the call names none.
        (text(binding.policy_hash.as_ref()).unwrap_or_default() == call.contract, "it is another contract's"),
        (text(binding.token_scope_hash.as_ref()) == begun.scope_hash, "it is another token's"),
        (receipt.provider == call.provider, "it is another provider's"),
        (receipt.request_hash.to_string() == call.request_hash, "it is another request's"),
        (compared || !stream, "it is another answer's"),
    ];
    match checks.into_iter().find(|(fits, _)| !fits) {
        Some((_, why)) => Err(format!("the clawproxy's does not fit: {why}")),
        None => Ok(Kept { envelope: end.receipt.clone().unwrap_or_default(), compared }),
    }
}

/// Of a text that is too long for a receipt, keeps no more than shows that it is.
pub(super) fn cut(text: &mut String) {
    // No character is longer than four bytes.
    text.truncate(text.floor_char_boundary(LONGEST + 4));
    text.shrink_to_fit();
}

/// In the form that is hashed.
fn value(json: &serde_json::Value) -> Option<Value> {
    let text = json.to_string();
    json::parse(text.as_bytes(), Limits { bytes: text.len(), depth: 8 }).ok()
}

#[cfg(test)]
mod tests;
