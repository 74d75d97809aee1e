//! The order of hosts against ICU's: `vectors/collation.json` holds pairs of texts and the sign of
//! `a.localeCompare(b, "en-US")`, written by `vectors/generate.mjs` with node 20 (ICU 78.2); `vectors/traps.json` holds
//! what Claw's own runtime answered.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::cmp::Ordering;

use claw::{
    Value,
    collation::compare,
    json::{self, Limits},
};

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits { bytes: 1 << 24, depth: 16 }).unwrap()
}

fn sign(value: &Value) -> Ordering {
    let Value::Number(sign) = value else { panic!("{} is no sign", value.kind()) };
    sign.total_cmp(&0.0)
}

fn pairs(text: &str) -> usize {
    let Value::Array(pairs) = parse(text) else { panic!("no list") };
    for pair in &pairs {
        let Value::Array(pair) = pair else { panic!("no pair") };
        let [a, b, answer] = &pair[..] else { panic!("no pair and its answer") };
        let (a, b) = (a.as_str().unwrap(), b.as_str().unwrap());
        assert_eq!(compare(a, b), Some(sign(answer)), "{a:?} {b:?}");
        assert_eq!(compare(b, a), Some(sign(answer).reverse()), "{b:?} {a:?}");
    }
    pairs.len()
}

#[test]
fn pairs_compare_as_icu_compares_them() {
    assert_eq!(pairs(include_str!("vectors/collation.json")), 600);
}

/// For development: `node generate.mjs 20000 FILE`, and the file's name in CLAW_COLLATION.
#[test]
fn more_pairs_compare_as_icu_compares_them() {
    if let Some(file) = std::env::var_os("CLAW_COLLATION") {
        eprintln!("{} pairs", pairs(&std::fs::read_to_string(file).unwrap()));
    }
}

#[test]
fn ascii_is_in_the_order_that_claw_showed() {
    let traps = parse(include_str!("vectors/traps.json"));
    let order = traps.get("ascii_localeCompare_order").unwrap().as_str().unwrap();
    assert_eq!(order.len(), 94);
    for (i, a) in order.char_indices() {
        for (j, b) in order.char_indices() {
            assert_eq!(compare(&a.to_string(), &b.to_string()), Some(i.cmp(&j)), "{a} {b}");
        }
    }
    let Value::Object(examples) = traps.get("locale_examples").unwrap() else { panic!("no examples") };
    assert_eq!(examples.len(), 10);
    for (pair, answer) in examples {
        let (a, b) = pair.split_once(" < ").unwrap();
        assert_eq!(compare(a, b), Some(sign(answer)), "{pair}");
    }
}

#[test]
fn host_lists_sort_as_claw_wants_them() {
    let mut hosts = ["localhost", "127.0.0.1", "a.b", "::1", "a", "a-b", "*.a", "B"];
    hosts.sort_by(|a, b| compare(a, b).unwrap());
    assert_eq!(hosts, ["::1", "*.a", "127.0.0.1", "a", "a-b", "a.b", "B", "localhost"]);
}
