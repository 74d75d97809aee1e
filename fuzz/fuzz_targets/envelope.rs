//! An envelope opens only if its payload has the hash and the hash the signature that it states; whatever is sealed opens.
#![no_main]

use claw::{
    Value, encoding,
    envelope::{Envelope, Error, Kind},
    json::{Limits, parse},
    key::PrivateKey,
    time::Instant,
};
use libfuzzer_sys::fuzz_target;

const KINDS: [Kind; 3] = [Kind::WorkPolicyContract, Kind::GatewayReceipt, Kind::ProofBundle];

fn check(text: &[u8], kind: Kind) -> Result<Envelope, Error> {
    let opened = Envelope::open(text, kind)?;
    assert_eq!(opened.hash, opened.payload.hash(kind.canon()));
    // Sealed by somebody else it has another signer and the same hash.
    let key = PrivateKey::from_seed(&[0x11; 32]);
    let sealed = Envelope::seal(opened.payload.clone(), kind, &key, opened.issued_at);
    let again = Envelope::open(sealed.as_bytes(), kind).expect("what was sealed opens");
    assert_eq!((again.hash, again.signer), (opened.hash, key.did()));
    // An envelope states milliseconds.
    assert_eq!(again.issued_at.format(), opened.issued_at.format());
    Ok(opened)
}

/// The same members with the payload's true hash, signed: no damage is left but what the signature does not cover.
fn repaired(value: &Value, kind: Kind) -> Option<String> {
    let Value::Object(members) = value else { return None };
    let key = PrivateKey::from_seed(&[0x22; 32]);
    let hash = value.get("payload")?.hash(kind.canon()).to_string();
    let signature = encoding::encode(&key.sign(hash.as_bytes()));
    let mut members = members.clone();
    for (name, text) in
        [("payload_hash_b64u", hash), ("signature_b64u", signature), ("signer_did", key.did().to_string())]
    {
        if let Some((_, value)) = members.iter_mut().find(|(n, _)| **n == *name) {
            *value = Value::String(text.into());
        }
    }
    Some(Value::Object(members).to_string())
}

fuzz_target!(|data: &[u8]| {
    for kind in KINDS {
        let _ = check(data, kind);
    }
    let Ok(value) = parse(data, Limits { bytes: 1 << 16, depth: 24 }) else { return };
    for kind in KINDS {
        if let Some(text) = repaired(&value, kind) {
            let answer = check(text.as_bytes(), kind);
            assert!(!matches!(answer, Err(Error::Hash { .. } | Error::Signature { .. })), "{answer:?}");
        }
        let sealed = Envelope::seal(value.clone(), kind, &PrivateKey::from_seed(&[0x33; 32]), Instant(0));
        let opened = check(sealed.as_bytes(), kind).expect("what was sealed opens");
        assert_eq!(opened.payload.canonical(), value.canonical());
    }
});
