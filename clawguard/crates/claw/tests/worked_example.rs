//! Claw's worked example (`vectors/worked_example.json`: made by Claw's own code, with fixed keys and a fixed clock) and
//! what was seen of its habits (`vectors/traps.json`), byte for byte. Tokens have a file of their own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use claw::{
    Hash, Value, encoding,
    envelope::{Envelope, Error, Kind},
    json::{self, Canon, Limits},
    key::{Did, PrivateKey},
    time::Instant,
};

const KINDS: [Kind; 9] = [
    Kind::WorkPolicyContract,
    Kind::GatewayReceipt,
    Kind::ToolReceipt,
    Kind::SideEffectReceipt,
    Kind::HumanApprovalReceipt,
    Kind::EgressPolicyReceipt,
    Kind::CoverageAttestation,
    Kind::ExecutionAttestation,
    Kind::ProofBundle,
];

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 64 }).unwrap()
}

fn example() -> Value {
    parse(include_str!("vectors/worked_example.json"))
}

fn traps() -> Value {
    parse(include_str!("vectors/traps.json"))
}

/// The value at a path of member names and list positions.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('/').fold(value, |value, step| match value {
        Value::Array(items) => &items[step.parse::<usize>().unwrap()],
        _ => value.get(step).unwrap_or_else(|| panic!("no {step} of {path}")),
    })
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_else(|| panic!("{path} is no string"))
}

fn members(value: &Value) -> &[(Box<str>, Value)] {
    let Value::Object(members) = value else { panic!("{} is no object", value.kind()) };
    members
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The example's private keys: each is 32 times one byte.
fn keys() -> Vec<PrivateKey> {
    [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77].map(|byte| PrivateKey::from_seed(&[byte; 32])).into()
}

/// Everything in a value that has the shape of an envelope, with its path.
fn envelopes<'a>(path: &str, value: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(members) => {
            if value.get("envelope_version").is_some() {
                found.push((path.to_owned(), value));
            }
            members.iter().for_each(|(name, value)| envelopes(&format!("{path}/{name}"), value, found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| envelopes(&format!("{path}/{i}"), item, found));
        }
        _ => {}
    }
}

fn kind(envelope: &Value) -> Kind {
    let name = text(envelope, "envelope_type");
    KINDS.into_iter().find(|kind| kind.name() == name).unwrap_or_else(|| panic!("no kind {name}"))
}

fn open(envelope: &Value) -> Result<Envelope, Error> {
    Envelope::open(envelope.to_string().as_bytes(), kind(envelope))
}

#[test]
fn keys_have_their_names() {
    let example = example();
    let named = members(at(&example, "keys"));
    assert_eq!(named.len(), keys().len());
    for ((name, said), key) in named.iter().zip(keys()) {
        let did = key.did();
        assert_eq!(hex(did.public_key()), text(said, "pub_hex"), "{name}");
        assert_eq!(encoding::encode(did.public_key()), text(said, "pub_b64u"), "{name}");
        assert_eq!(did.to_string(), text(said, "did"), "{name}");
        assert_eq!(did.kid(), text(said, "kid"), "{name}");
        assert_eq!(text(said, "did").parse::<Did>().unwrap(), did, "{name}");
        assert_eq!(encoding::decode(text(said, "pub_b64u")), Some(*did.public_key()), "{name}");
    }
    let multibase = text(&example, "proxy/did_document/verificationMethod/0/publicKeyMultibase");
    assert_eq!(multibase, format!("u{}", encoding::encode(keys()[2].did().public_key())));
}

#[test]
fn the_contract_is_hashed_sorted_and_signed() {
    let example = example();
    let payload = at(&example, "wpc/payload");
    assert_eq!(payload.canonical(), text(&example, "wpc/jcs"));
    assert_eq!(payload.canonical_hash().to_string(), text(&example, "wpc/policy_hash_b64u"));
    assert_ne!(payload.insertion_hash(), payload.canonical_hash());
    let opened = open(at(&example, "wpc/envelope")).unwrap();
    assert_eq!(opened.payload, *payload);
    assert_eq!(opened.hash.to_string(), text(&example, "wpc/policy_hash_b64u"));
    // What the registry answers carries the same envelope.
    assert_eq!(at(&example, "wpc/get_response/envelope"), at(&example, "wpc/envelope"));
}

#[test]
fn a_token_scope_is_hashed_sorted() {
    let example = example();
    let sorted = text(&example, "cst/token_scope_hash_input_jcs");
    assert_eq!(parse(sorted).canonical(), sorted);
    assert_eq!(parse(sorted).canonical_hash().to_string(), text(&example, "cst/token_scope_hash_b64u"));
    assert_eq!(at(&example, "cst/token_scope_hash_input").canonical(), sorted);
}

#[test]
fn events_are_chained_by_the_hashes_of_their_headers() {
    const HEADER: [&str; 6] = ["event_id", "run_id", "event_type", "timestamp", "payload_hash_b64u", "prev_hash_b64u"];
    let example = example();
    let Value::Array(events) = at(&example, "event_chain/events") else { panic!("no events") };
    assert_eq!(events.len(), 3);
    let mut before = Value::Null;
    for (i, event) in events.iter().enumerate() {
        assert_eq!(*at(event, "prev_hash_b64u"), before);
        let header = Value::Object(HEADER.map(|name| (name.into(), at(event, name).clone())).into());
        if i == 0 {
            assert_eq!(header.to_string(), text(&example, "event_chain/e1_header_json"));
        }
        before = Value::String(header.insertion_hash().to_string().into());
        assert_eq!(*at(event, "event_hash_b64u"), before);
    }
    let payload = text(&example, "event_chain/e1_payload_json");
    assert_eq!(parse(payload).insertion_hash().to_string(), text(&events[0], "payload_hash_b64u"));
}

#[test]
fn a_gateway_receipt_binds_the_request_that_was_forwarded() {
    let example = example();
    let envelope = at(&example, "proxy/response/_receipt_envelope");
    let payload = at(envelope, "payload");
    assert_eq!(payload.to_string(), text(&example, "proxy/receipt_payload_json"));
    assert_eq!(payload.insertion_hash().to_string(), text(envelope, "payload_hash_b64u"));
    let request = Hash::of(text(&example, "proxy/forwarded_body").as_bytes());
    assert_eq!(request.to_string(), text(payload, "request_hash_b64u"));
    assert_eq!(hex(&request.0), text(&example, "proxy/response/_receipt/requestHash"));
    assert_eq!(text(payload, "binding/policy_hash"), text(&example, "wpc/policy_hash_b64u"));
}

#[test]
fn an_egress_descriptor_is_hashed_as_it_stands() {
    let example = example();
    let descriptor = at(&example, "egress_policy/descriptor");
    assert_eq!(descriptor.to_string(), text(&example, "egress_policy/descriptor_json"));
    assert_eq!(descriptor.insertion_hash().to_string(), text(&example, "egress_policy/descriptor_hash_b64u"));
    assert_eq!(
        text(&example, "egress_policy/envelope/payload/policy_hash_b64u"),
        text(&example, "egress_policy/descriptor_hash_b64u")
    );
}

/// Contract, gateway receipts, egress policy receipts, coverage attestations, bundles, and what lies within each other.
#[test]
fn every_envelope_of_the_example_opens_unless_it_was_made_to_be_wrong() {
    let example = example();
    let mut found = Vec::new();
    envelopes("", &example, &mut found);
    assert_eq!(found.len(), 54);
    let mut wrong = Vec::new();
    for (path, envelope) in found {
        match open(&envelope.clone()) {
            Ok(opened) => {
                assert_eq!(opened.hash.to_string(), text(envelope, "payload_hash_b64u"), "{path}");
                // Ed25519 is deterministic: who has the key gives the same bytes.
                let key = keys().into_iter().find(|key| key.did() == opened.signer).unwrap();
                let issued_at = Instant::parse(text(envelope, "issued_at")).unwrap();
                let sealed = Envelope::seal(opened.payload, kind(envelope), &key, issued_at);
                assert_eq!(sealed.trim_end(), envelope.to_string(), "{path}");
            }
            Err(error) => wrong.push((path, error)),
        }
    }
    wrong.sort_by(|(a, _), (b, _)| a.cmp(b));
    let bundles = "/bundles";
    let sentinels = "envelope/payload/metadata/sentinels";
    let [(attestation, one), (egress, two), (receipt, three)] = &wrong[..] else { panic!("{wrong:?}") };
    assert_eq!(*attestation, format!("{bundles}/coverage_tampered_signature/envelope/payload/coverage_attestations/0"));
    assert!(matches!(one, Error::Signature { .. }), "{one}");
    assert_eq!(*egress, format!("{bundles}/egress_tampered_signature/{sentinels}/egress_policy_receipt"));
    assert!(matches!(two, Error::Signature { .. }), "{two}");
    assert_eq!(*receipt, format!("{bundles}/receipt_rt_mutated_after_signing/envelope/payload/receipts/0"));
    assert!(matches!(three, Error::Hash { .. }), "{three}");
}

/// Every kind's name and form, signed and opened again; the example has no execution attestation.
#[test]
fn evidence_is_hashed_in_insertion_order_and_contracts_are_sorted() {
    let key = &keys()[3];
    let payload = || parse(r#"{"b":1,"a":2}"#);
    for kind in KINDS {
        let sealed = Envelope::seal(payload(), kind, key, Instant(0));
        let opened = Envelope::open(sealed.as_bytes(), kind).unwrap();
        let expected = if kind == Kind::WorkPolicyContract { r#"{"a":2,"b":1}"# } else { r#"{"b":1,"a":2}"# };
        assert_eq!(opened.hash, Hash::of(expected.as_bytes()), "{kind:?}");
        assert_eq!(kind.canon() == Canon::Sorted, kind == Kind::WorkPolicyContract);
        for other in KINDS.into_iter().filter(|other| *other != kind) {
            assert!(matches!(Envelope::open(sealed.as_bytes(), other), Err(Error::Wrong { .. })), "{kind:?} {other:?}");
        }
    }
}

#[test]
fn a_bundle_whose_members_were_sorted_is_refused() {
    let example = example();
    let mut envelope = at(&example, "bundles/minimal/envelope").clone();
    assert_eq!(open(&envelope).unwrap().hash.to_string(), "5SwMs5obm67tOR5V_GDxC2bIQgFpiOYRzrIyrthKs4g");
    let Value::Object(outer) = &mut envelope else { panic!("no envelope") };
    let (_, payload) = outer.iter_mut().find(|(name, _)| **name == *"payload").unwrap();
    *payload = parse(&payload.canonical());
    assert!(matches!(open(&envelope), Err(Error::Hash { .. })));
    assert_eq!(text(&traps(), "bundle_sorted_keys/code"), "HASH_MISMATCH");
}

#[test]
fn claws_habits_are_kept_or_refused() {
    let traps = traps();
    for name in ["integer_keys", "jcs_numbers"] {
        let written = text(&traps, name);
        assert_eq!(parse(written).to_string(), written);
    }
    // The same names in another order; the same numbers in other spellings.
    let names = r#"{"b":1,"10":1,"01":1,"9":1,"-1":1,"4294967295":1,"4294967294":1}"#;
    assert_eq!(parse(names).to_string(), text(&traps, "integer_keys"));
    let numbers = "[1.0,-0,1e21,1e-7,0.000001,123456789012345680000,9007199254740993,1e20]";
    assert_eq!(parse(numbers).canonical(), text(&traps, "jcs_numbers"));
    assert_eq!(parse(text(&traps, "jcs_key_order")).canonical(), text(&traps, "jcs_key_order"));
    // Claw keeps the last of two members and writes half a character. Two readers could see two things: refused.
    let limits = Limits { bytes: 100, depth: 4 };
    assert_eq!(text(&traps, "dup_keys"), r#"{"a":3,"b":2}"#);
    assert!(matches!(json::parse(br#"{"a":1,"b":2,"a":3}"#, limits), Err(json::Error::Duplicate { .. })));
    assert!(json::parse(text(&traps, "jcs_lone_surrogate").as_bytes(), limits).is_err());
    // Claw takes stray bits in the last character of base64url. Here each value has one spelling.
    assert_eq!(text(&traps, "b64_slack/status"), "VALID");
    let mut signature = text(&example(), "wpc/envelope/signature_b64u").to_owned();
    assert!(encoding::decode::<64>(&signature).is_some());
    assert_eq!(signature.pop(), Some('w'));
    assert!(encoding::decode::<64>(&format!("{signature}x")).is_none());
}
