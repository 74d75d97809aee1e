//! What holds for any JSON, and for any damage to an envelope.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::HashSet;

use claw::{
    Value,
    envelope::{Envelope, Kind},
    json::{self, Limits},
    key::PrivateKey,
    time::Instant,
};
use proptest::{collection::vec, prelude::*};

const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 16 };

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), LIMITS).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A text with the characters that are written in their own ways, and names that are indices or nearly.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,12}",
        "[\u{0}-\u{1f}\"\\\\/\u{7f}\u{2028}\u{fffd}\u{ffff}\u{10000}😀ab]{0,8}",
        "(0|[1-9][0-9]{0,10}|0[0-9]|-1)",
        any::<u32>().prop_map(|index| index.to_string()),
    ]
}

fn numbers() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<i32>().prop_map(f64::from),
        any::<u64>().prop_map(|whole| whole as f64),
        any::<f64>().prop_filter("JSON has none", |number| number.is_finite()),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        numbers().prop_map(Value::Number),
        texts().prop_map(|text| Value::String(text.into())),
    ];
    leaf.prop_recursive(4, 64, 20, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..20).prop_map(Value::Array),
            vec((texts(), inner), 0..20).prop_map(|members| {
                let mut seen = HashSet::new();
                let once = members.into_iter().filter(|(name, _)| seen.insert(name.clone()));
                Value::Object(once.map(|(name, value)| (name.into(), value)).collect())
            }),
        ]
    })
}

/// The same value in somebody else's hand: white space, and every character of a string as an escape.
fn foreign(value: &Value) -> String {
    let string = |text: &str| {
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        format!("\"{escaped}\"")
    };
    match value {
        Value::Number(number) => format!("{number:e}"),
        Value::String(text) => string(text),
        Value::Array(items) => format!("[ {}\n]", items.iter().map(foreign).collect::<Vec<_>>().join(" ,\t")),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{} :\r\n{}", string(name), foreign(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(" , "))
        }
        other => other.to_string(),
    }
}

/// Values of which a host's records consist: no fractions, no great numbers, no names that are numbers.
fn records() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-999_999_999_999_999_i64..=999_999_999_999_999).prop_map(|whole| Value::Number(whole as f64)),
        texts().prop_map(|text| Value::String(text.into())),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        let names = texts().prop_map(|name| format!("_{name}"));
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(names, inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().map(|(n, v)| (n.into(), v)).collect())),
        ]
    })
}

/// What is taken for V8's hand is what V8 writes, or no JSON.
fn holds_what_is_written(text: &str) -> Result<(), TestCaseError> {
    if json::is_written(text)
        && let Ok(value) = json::parse(text.as_bytes(), LIMITS)
    {
        prop_assert_eq!(value.to_string(), text);
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_taken_for_v8s_hand_is_what_v8_writes(
        value in values(), at in any::<prop::sample::Index>(), piece in "[\\[\\]{}:,\"\\\\ubnx0-9aeEF+.\\-/ \u{1}\u{e9}]{0,3}", cut in 0..3_usize,
    ) {
        holds_what_is_written(&foreign(&value))?;
        let text = value.to_string();
        holds_what_is_written(&text)?;
        // Something else in one place.
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let from = at.get(&places);
        let to = text.len().min(*from + cut);
        if let Some(rest) = text.get(to..) {
            holds_what_is_written(&format!("{}{piece}{rest}", &text[..*from]))?;
        }
    }

    #[test]
    fn what_looks_like_json_is_taken_for_v8s_hand_only_if_it_is(text in "[\\[\\]{}:,\"\\\\ubn0-9eE+.\\- ]{0,12}|-?[0-9]{1,18}([.eE][+-]?[0-9]{0,3})?|\"(\\\\([bnu/\"]|u00[012][0-9a-fA-F])|x){0,4}\"|\\{\"[0-9]{0,2}\":1,\"[0-9]{1,2}\":2\\}") {
        holds_what_is_written(&text)?;
    }

    #[test]
    fn a_record_is_known_for_v8s_hand(value in records()) {
        prop_assert!(json::is_written(&value.to_string()), "{}", value);
    }

    #[test]
    fn writing_again_never_changes_a_hash(value in values()) {
        let read = parse(&foreign(&value));
        prop_assert_eq!(&read, &value);
        let (sorted, insertion) = (read.canonical_hash(), read.insertion_hash());
        prop_assert_eq!(value.canonical_hash(), sorted);
        prop_assert_eq!(value.insertion_hash(), insertion);

        let canonical = parse(&value.canonical());
        prop_assert_eq!(canonical.canonical(), value.canonical());
        prop_assert_eq!(canonical.canonical_hash(), sorted);

        let rewritten = parse(&value.to_string());
        prop_assert_eq!(rewritten.to_string(), value.to_string());
        prop_assert_eq!(rewritten.insertion_hash(), insertion);
        // Order is all that is between the two.
        prop_assert_eq!(rewritten.canonical_hash(), sorted);
    }

    #[test]
    fn what_parses_is_written_so_that_it_parses_the_same(text in "[\\[\\]{}:,\"\\\\ua0-9eE+.\\- \u{e9}😀]{0,40}") {
        if let Ok(value) = json::parse(text.as_bytes(), LIMITS) {
            prop_assert_eq!(parse(&value.to_string()), parse(&parse(&value.to_string()).to_string()));
            prop_assert_eq!(parse(&value.canonical()).canonical_hash(), value.canonical_hash());
        }
    }

    #[test]
    fn sealed_payloads_open_whatever_they_are(value in values(), seed in any::<[u8; 32]>(), at in 0..4_000_000_000_000_000_000_u64) {
        let key = PrivateKey::from_seed(&seed);
        for kind in [Kind::WorkPolicyContract, Kind::CoverageAttestation] {
            let sealed = Envelope::seal(value.clone(), kind, &key, Instant(at));
            let opened = Envelope::open(sealed.as_bytes(), kind).unwrap();
            prop_assert_eq!(opened.signer, key.did());
            prop_assert_eq!(opened.hash, value.hash(kind.canon()));
            prop_assert_eq!(opened.payload.canonical(), value.canonical());
        }
    }
}

/// Any damage to one place of an envelope, one after the other.
fn damage(text: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    // Bytes that mean something to JSON, base64url or UTF-8.
    const BYTES: &[u8] = b"\"\\{}[],: 09AZaz-_+/=\0\n\x7f\x80\xc3\xff";
    let change = |at: usize, what: String, until: usize, with: Vec<u8>| {
        (format!("byte {at} {what}"), [&text[..at], &with, &text[until..]].concat())
    };
    (0..text.len()).flat_map(move |at| {
        let pair = [text[at], *text.get(at + 1).unwrap_or(&b' ')];
        let bits =
            (0..8).map(move |bit| change(at, format!("with bit {bit} flipped"), at + 1, vec![text[at] ^ 1 << bit]));
        let bytes = BYTES.iter().map(move |byte| change(at, format!("made {byte:#x}"), at + 1, vec![*byte]));
        let inserted = BYTES.iter().map(move |byte| change(at, format!("after {byte:#x}"), at, vec![*byte]));
        let other = [
            change(at, "gone".into(), at + 1, vec![]),
            change(at, "twice".into(), at, vec![text[at]]),
            change(at, "swapped with the next".into(), (at + 2).min(text.len()), vec![pair[1], pair[0]]),
            change(at, "the last".into(), text.len(), vec![text[at]]),
        ];
        bits.chain(bytes).chain(inserted).chain(other)
    })
}

#[test]
fn a_damaged_envelope_is_refused_or_means_the_same() {
    let example = parse(include_str!("vectors/wpc_envelope.json"));
    let contract = example.get("envelope").unwrap();
    let all = parse(include_str!("vectors/worked_example.json"));
    let attestation = all.get("coverage").unwrap().get("envelope").unwrap();
    for (envelope, kind) in [(contract, Kind::WorkPolicyContract), (attestation, Kind::CoverageAttestation)] {
        let text = envelope.to_string();
        let whole = Envelope::open(text.as_bytes(), kind).unwrap();
        let (mut refused, mut same) = (0, 0);
        for (what, bytes) in damage(text.as_bytes()).filter(|(_, bytes)| bytes != text.as_bytes()) {
            match Envelope::open(&bytes, kind) {
                // Only white space and what the signature does not cover can change.
                Ok(opened) => {
                    assert_eq!(Envelope { issued_at: whole.issued_at, ..opened }, whole, "{what}");
                    same += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 50_000 && same > 100, "{refused} refused, {same} the same");
    }
}
