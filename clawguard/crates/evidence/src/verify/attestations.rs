//! What owners and third parties say of the agent.

use claw::{Value, encoding};

use super::{
    Bundle,
    fault::{Code, Fault, PAYLOAD},
    seal::{self, items, text},
    shape,
};

/// How many are there, and how many of them are of those who are trusted to attest.
pub(super) fn check(bundle: &Bundle<'_>) -> Result<(usize, usize), Fault> {
    let list = PAYLOAD.name("attestations");
    let (all, mut trusted) = (items(bundle.payload, "attestations"), 0);
    for (i, attestation) in all.iter().enumerate() {
        let at = list.index(i);
        if text(attestation, "subject_did") != bundle.agent {
            return Err(at.fault("subject_did", Code::Evidence, "it is of another agent"));
        }
        if seal::expired(attestation, bundle.options.now) {
            return Err(at.fault("expires_at", Code::Expired, "it has expired"));
        }
        let attester = text(attestation, "attester_did");
        let key = seal::key(attester).filter(|_| shape::is_did(attester));
        let Some(key) = key else {
            return Err(at.fault("attester_did", Code::Did, "it is no Ed25519 key"));
        };
        let signature = encoding::decode(text(attestation, "signature_b64u"));
        if !signature.is_some_and(|signature| key.verifies(unsigned(attestation).canonical().as_bytes(), &signature)) {
            return Err(at.fault("signature_b64u", Code::Signature, "it is not the attester's signature"));
        }
        trusted += usize::from(bundle.trust.attesters.iter().any(|did| did.to_string() == attester));
    }
    Ok((all.len(), trusted))
}

/// What is signed: the attestation with an empty signature.
fn unsigned(attestation: &Value) -> Value {
    let Value::Object(members) = attestation else { return Value::Null };
    let emptied = members.iter().map(|(name, value)| {
        let value = if **name == *"signature_b64u" { Value::String("".into()) } else { value.clone() };
        (name.clone(), value)
    });
    Value::Object(emptied.collect())
}
