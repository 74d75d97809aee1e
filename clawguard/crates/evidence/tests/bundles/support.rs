//! The worked example's keys and bundles, and hands to change them with.

use std::sync::LazyLock;

use claw::{
    Value, encoding,
    json::{self, Limits},
    key::PrivateKey,
    time::Instant,
};
use evidence::verify::{Coverage, Fault, Options, Trust, Verdict, verify};

pub(crate) const AGENT: u8 = 0x44;
pub(crate) const GATEWAY: u8 = 0x33;
pub(crate) const SENTINEL: u8 = 0x55;
pub(crate) const REGISTRY: u8 = 0x11;

pub(crate) static EXAMPLE: LazyLock<Value> =
    LazyLock::new(|| parse(include_str!("../../../claw/tests/vectors/worked_example.json")));

pub(crate) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

pub(crate) fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits { bytes: 64 << 20, depth: 64 }).unwrap()
}

/// A value from a literal.
macro_rules! value {
    ($($json:tt)*) => { crate::support::parse(&serde_json::json!($($json)*).to_string()) };
}
pub(crate) use value;

pub(crate) fn now() -> Instant {
    Instant::parse("2026-03-02T00:00:00Z").unwrap()
}

pub(crate) fn trust() -> Trust {
    Trust {
        receipt_signers: vec![key(GATEWAY).did()],
        sentinels: vec![key(SENTINEL).did()],
        wpc_signers: vec![key(REGISTRY).did()],
        attesters: Vec::new(),
    }
}

/// Nothing is demanded, and coverage is only observed: Claw's hosted verifier as it comes.
pub(crate) fn observing() -> Options<'static> {
    Options { coverage: Coverage::Observe, ..Options::at(now()) }
}

/// Everything is demanded: the same verifier, enforcing.
pub(crate) fn enforcing() -> Options<'static> {
    Options { require_host_evidence: true, ..Options::at(now()) }
}

/// The envelope of one of the worked example's bundles.
pub(crate) fn bundle(name: &str) -> Value {
    let bundles = EXAMPLE.get("bundles").unwrap();
    bundles.get(name).unwrap_or_else(|| panic!("{name}")).get("envelope").unwrap().clone()
}

pub(crate) fn judge(bundle: &Value, options: &Options<'_>) -> Verdict {
    verify(bundle.to_string().as_bytes(), &trust(), options)
}

/// What is wrong with a bundle that must hold in every way.
pub(crate) fn fault(bundle: &Value) -> Option<Fault> {
    judge(bundle, &enforcing()).fault
}

/// The reason and the place, where a bundle has to be invalid.
#[track_caller]
pub(crate) fn refused(bundle: &Value, options: &Options<'_>, code: &str, place: &str) {
    let verdict = judge(bundle, options);
    let Some(fault) = verdict.fault else { panic!("it is valid, and not {code} at {place}") };
    assert_eq!((fault.code.name(), fault.place.as_str()), (code, place), "{}", fault.text);
    assert!(verdict.claims.is_empty());
}

/// One step into a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Name(String),
    Index(usize),
}

/// The steps of `payload.receipts[0].payload`.
pub(crate) fn path(text: &str) -> Vec<Step> {
    let parts = text.split(['.', '[']).filter(|part| !part.is_empty());
    let step = |part: &str| match part.strip_suffix(']') {
        Some(index) => Step::Index(index.parse().unwrap()),
        None => Step::Name(part.into()),
    };
    parts.map(step).collect()
}

pub(crate) fn at<'a>(value: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(value, |value, step| match (value, step) {
        (Value::Object(members), Step::Name(name)) => {
            let place = members.iter().position(|(n, _)| **n == **name);
            &mut members[place.unwrap_or_else(|| panic!("no {name}"))].1
        }
        (Value::Array(items), Step::Index(index)) => &mut items[*index],
        (other, step) => panic!("{step:?} in {}", other.kind()),
    })
}

/// Sets a member, which may be new.
pub(crate) fn set(value: &mut Value, place: &str, name: &str, to: Value) {
    let Value::Object(members) = at(value, &path(place)) else { panic!("{place}") };
    match members.iter_mut().find(|(n, _)| **n == *name) {
        Some((_, old)) => *old = to,
        None => members.push((name.into(), to)),
    }
}

pub(crate) fn remove(value: &mut Value, place: &str, name: &str) {
    let Value::Object(members) = at(value, &path(place)) else { panic!("{place}") };
    members.retain(|(n, _)| **n != *name);
}

pub(crate) fn text(text: &str) -> Value {
    Value::String(text.into())
}

/// Hashes and signs an envelope anew; its other members stay.
pub(crate) fn seal(bundle: &mut Value, place: &str, seed: u8) {
    let envelope = at(bundle, &path(place));
    let Some(payload) = envelope.get("payload") else { return };
    let hash = payload.insertion_hash().to_string();
    let signature = encoding::encode(&key(seed).sign(hash.as_bytes()));
    for (name, to) in [("payload_hash_b64u", hash), ("signature_b64u", signature)] {
        if envelope.get(name).is_some() {
            set(envelope, "", name, text(&to));
        }
    }
}

/// Links and hashes the events anew.
pub(crate) fn chain(bundle: &mut Value) {
    let Value::Array(events) = at(bundle, &path("payload.event_chain")) else { panic!("no events") };
    let mut before = Value::Null;
    for event in events {
        set(event, "", "prev_hash_b64u", before);
        let names = ["event_id", "run_id", "event_type", "timestamp", "payload_hash_b64u", "prev_hash_b64u"];
        let header = Value::Object(names.map(|name| (name.into(), event.get(name).unwrap().clone())).into());
        before = text(&header.insertion_hash().to_string());
        set(event, "", "event_hash_b64u", before.clone());
    }
}

/// The bundle with receipts of these bindings and times.
pub(crate) fn receipts(bindings: &[Value]) -> Value {
    let mut made = bundle("host_evidence");
    let first = at(&mut made, &path("payload.receipts[0]")).clone();
    let Value::Array(list) = at(&mut made, &path("payload.receipts")) else { panic!("no receipts") };
    list.clear();
    for (i, binding) in bindings.iter().enumerate() {
        let mut receipt = first.clone();
        set(&mut receipt, "payload", "receipt_id", text(&format!("rcpt_{i}")));
        set(&mut receipt, "", "issued_at", text("2026-03-01T00:01:00.000Z"));
        let Value::Object(members) = binding else { panic!("no binding") };
        for (name, to) in members {
            let within = if **name == *"timestamp" { "payload" } else { "payload.binding" };
            set(&mut receipt, within, name, to.clone());
        }
        seal(&mut receipt, "", GATEWAY);
        list.push(receipt);
    }
    seal(&mut made, "", AGENT);
    made
}
