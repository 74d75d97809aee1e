//! Reading members of what has its shape, and seals.

use claw::{
    Value, encoding,
    key::{Did, Verifier},
    time::Instant,
};

/// A member's text; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A member's items; none if there is no list.
pub(super) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    match value.get(name) {
        Some(Value::Array(items)) => items,
        _ => &[],
    }
}

pub(super) fn number(value: &Value, name: &str) -> Option<f64> {
    match value.get(name) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    }
}

pub(super) fn flag(value: &Value, name: &str) -> Option<bool> {
    match value.get(name) {
        Some(Value::Bool(flag)) => Some(*flag),
        _ => None,
    }
}

pub(super) fn instant(value: &Value, name: &str) -> Option<Instant> {
    Instant::parse(text(value, name))
}

/// Whole milliseconds, in which Claw compares times.
pub(super) fn milliseconds(value: &Value, name: &str) -> Option<u64> {
    instant(value, name).map(|at| at.0 / 1_000_000)
}

/// The key that a DID names.
pub(super) fn key(did: &str) -> Option<Verifier> {
    did.parse::<Did>().ok()?.verifier()
}

/// Whether an envelope's hash is its payload's.
pub(super) fn hashed(envelope: &Value) -> bool {
    let payload = envelope.get("payload").unwrap_or(&Value::Null);
    text(envelope, "hash_algorithm") == "SHA-256"
        && payload.insertion_hash().to_string() == text(envelope, "payload_hash_b64u")
}

/// Whether an envelope's hash was signed by that key.
pub(super) fn signed(envelope: &Value, signer: &Verifier) -> bool {
    encoding::decode(text(envelope, "signature_b64u"))
        .is_some_and(|signature| signer.verifies(text(envelope, "payload_hash_b64u").as_bytes(), &signature))
}

/// Whether what is enveloped is over. What has no end is not.
pub(super) fn expired(envelope: &Value, now: Instant) -> bool {
    envelope.get("expires_at").is_some() && instant(envelope, "expires_at").is_none_or(|end| now > end)
}
