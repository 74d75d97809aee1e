//! JSON that is accepted is written so that it reads the same again, in both forms, and has one hash in each.
#![no_main]

use claw::{
    Hash,
    json::{Limits, parse},
};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { bytes: 1 << 16, depth: 32 };

fuzz_target!(|data: &[u8]| {
    let Ok(value) = parse(data, LIMITS) else { return };
    // What is written may be longer than what was read: 1e20 is written in full.
    let limits = Limits { bytes: 1 << 20, ..LIMITS };

    let insertion = value.to_string();
    let again = parse(insertion.as_bytes(), limits).expect("what was written in insertion order is JSON");
    assert_eq!(again.to_string(), insertion);
    assert_eq!(value.insertion_hash(), Hash::of(insertion.as_bytes()));
    assert_eq!(again.insertion_hash(), value.insertion_hash());

    let canonical = value.canonical();
    let sorted = parse(canonical.as_bytes(), limits).expect("the canonical form is JSON");
    assert_eq!(sorted.canonical(), canonical);
    assert_eq!(value.canonical_hash(), Hash::of(canonical.as_bytes()));
    // All that the two forms differ in is the order of members.
    assert_eq!(sorted.canonical_hash(), again.canonical_hash());
    assert_eq!(canonical.len(), insertion.len());
});
