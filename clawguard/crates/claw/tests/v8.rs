//! Both forms against V8's: `vectors/v8.json` holds 500 random documents, each with `JSON.stringify(JSON.parse(text))`
//! and the same with its names in the order of JavaScript's `sort()`, which is that of UTF-16 code units. It was written
//! by `vectors/generate.mjs` with node 20 (V8 11.3).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use claw::{
    Hash, Value,
    json::{self, Limits},
};

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 16 }).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn documents_are_written_as_v8_writes_them() {
    let Value::Array(documents) = parse(include_str!("vectors/v8.json")) else { panic!("no list") };
    assert_eq!(documents.len(), 500);
    let mut moved = 0;
    for document in &documents {
        let member = |name| document.get(name).unwrap().as_str().unwrap();
        let (text, insertion, sorted) = (member("text"), member("insertion"), member("sorted"));
        let value = parse(text);
        assert_eq!(value.to_string(), insertion, "{text}");
        assert_eq!(value.canonical(), sorted, "{text}");
        assert_eq!(value.insertion_hash(), Hash::of(insertion.as_bytes()), "{text}");
        assert_eq!(value.canonical_hash(), Hash::of(sorted.as_bytes()), "{text}");
        moved += usize::from(insertion != sorted);
    }
    assert!(moved > 100, "the two forms differ in {moved} documents only");
}
