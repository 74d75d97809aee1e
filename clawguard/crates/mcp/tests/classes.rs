//! What is found, and what is not, over a corpus of both; what it costs to be wrong by chance.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "corpus/fill.rs"]
mod fill;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use fill::{Chance, card, fill, luhn, modulo_97};
use mcp::{
    classes::Scanner,
    json::{self, Json},
};
use policy::contract::DataClass;
use proptest::prelude::*;

static SCANNER: LazyLock<Scanner> = LazyLock::new(|| Scanner::new().unwrap());

const FOUND: &str = include_str!("corpus/found.txt");

const NOT_FOUND: [(&str, &str); 5] = [
    ("ids.txt", include_str!("corpus/ids.txt")),
    ("code.txt", include_str!("corpus/code.txt")),
    ("logs.txt", include_str!("corpus/logs.txt")),
    ("prose.txt", include_str!("corpus/prose.txt")),
    ("almost.txt", include_str!("corpus/almost.txt")),
];

/// How often each template is filled.
const FILLS: u64 = 3;

fn string(text: &str) -> Json {
    Json::String(text.into())
}

fn patterns(json: &Json) -> BTreeSet<String> {
    SCANNER.scan(json).into_iter().map(|finding| finding.pattern).collect()
}

fn templates() -> impl Iterator<Item = (&'static str, &'static str)> {
    FOUND.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once('\t').unwrap())
}

/// Every template filled: the pattern that is meant, the message, what must not be seen of it.
fn found() -> impl Iterator<Item = (&'static str, Json, Vec<String>)> {
    templates().flat_map(|(id, template)| {
        (0..FILLS).map(move |seed| {
            let (text, hidden) = fill(template, &mut Chance(seed));
            let json = match text.strip_prefix("JSON ") {
                Some(text) => json::parse(text.as_bytes()).unwrap(),
                None => string(&text),
            };
            (id, json, hidden)
        })
    })
}

fn as_a_result(json: Json) -> Json {
    let text = Json::object([("type", "text".into()), ("text", json)]);
    Json::object([("content", vec![text].into()), ("isError", false.into())])
}

#[test]
fn every_pattern_finds_what_it_is_for() {
    let classes: BTreeMap<_, _> = SCANNER.patterns().collect();
    let meant: BTreeSet<_> = templates().map(|(id, _)| id).collect();
    assert_eq!(
        meant,
        classes.keys().copied().collect::<BTreeSet<_>>(),
        "every pattern has a line, and every line a pattern"
    );
    let (mut count, mut missed) = (0, Vec::new());
    for (id, json, _) in found() {
        let in_result = as_a_result(json.clone());
        for json in [json, in_result] {
            let findings = SCANNER.scan(&json);
            let right = findings.iter().any(|finding| finding.pattern == id && finding.class == classes[id]);
            if !right {
                missed.push(format!("{id} finds nothing in {json}: {findings:?}"));
            }
            count += 1;
        }
    }
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
    assert!(count >= 500, "{count}");
}

#[test]
fn what_is_redacted_is_gone_and_nothing_is_found_any_more() {
    for (id, mut json, hidden) in found() {
        let before = json.to_string();
        let counts = SCANNER.redact(&mut json, &DataClass::ALL.into());
        assert!(!counts.is_empty(), "{id}: {before}");
        let text = json.to_string();
        assert!(text.contains("[redacted:"), "{id}: {text}");
        for part in hidden.iter().flat_map(|part| part.split('\n')) {
            assert!(!text.contains(part), "{id}: {part} of {before} is still there: {text}");
        }
        assert_eq!(SCANNER.scan(&json), [], "{id}: {before} became {text}");
    }
}

#[test]
fn nothing_is_found_where_nothing_is() {
    let mut lines = 0;
    let mut wrong = Vec::new();
    for (file, text) in NOT_FOUND {
        let mut look = |what: String, json: &Json| {
            for finding in SCANNER.scan(json) {
                wrong.push(format!("{file}: {} in {what}", finding.pattern));
            }
        };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            lines += 1;
            look(line.into(), &string(line));
            look(format!("member: {line}"), &Json::object([("text", line.into()), (line, 1.into())]));
            if let Ok(json) = json::parse(line.as_bytes()) {
                look(format!("JSON: {line}"), &json);
            }
        }
        look("all of it".into(), &string(text));
        look("all its lines".into(), &text.lines().map(string).collect::<Vec<_>>().into());
    }
    assert!(wrong.is_empty(), "{} wrong ones:\n{}", wrong.len(), wrong.join("\n"));
    assert!(lines >= 1000, "{lines}");
}

/// Of a hundred thousand texts that chance makes, how many are taken for something.
fn wrong(mut make: impl FnMut(&mut Chance) -> String) -> usize {
    let mut chance = Chance(7);
    (0..100)
        .map(|_| (0..1000).map(|_| string(&make(&mut chance))).collect::<Vec<_>>())
        .map(|texts| SCANNER.scan(&texts.into()).len())
        .sum()
}

#[test]
fn of_numbers_that_chance_makes_few_are_cards() {
    let sixteen = wrong(|chance| format!("{}{}", 1 + chance.next() % 9, chance.digits(15)));
    let nineteen = wrong(|chance| format!("{}{}", 1 + chance.next() % 9, chance.digits(18)));
    let fifteen = wrong(|chance| format!("{}{}", 1 + chance.next() % 9, chance.digits(14)));
    println!("of 100000 numbers of 15, 16, 19 digits {fifteen}, {sixteen}, {nineteen} are taken for cards");
    // Three in a hundred are of an issuer and right by their last digit: nothing but the digits could tell.
    assert!((1..3000).contains(&sixteen), "{sixteen}");
    assert!(nineteen < 250 && fifteen < 500, "{nineteen} {fifteen}");
}

#[test]
fn of_what_else_chance_makes_nothing_is_found() {
    let uuid = |chance: &mut Chance| {
        let parts = [8, 4, 4, 4, 12].map(|length| chance.hex(length));
        parts.join("-")
    };
    for (what, wrong) in [
        ("UUIDs", wrong(uuid)),
        ("commits", wrong(|chance| chance.hex(40))),
        ("digests", wrong(|chance| format!("sha256:{}", chance.hex(64)))),
        ("integrity", wrong(|chance| format!("\"integrity\": \"sha512-{}==\"", chance.base64(86)))),
        ("identifiers", wrong(|chance| chance.base62(22))),
        ("base64", wrong(|chance| chance.base64(120))),
        ("milliseconds", wrong(|chance| format!("17{}", chance.digits(11)))),
        ("nanoseconds", wrong(|chance| format!("17{}", chance.digits(17)))),
        ("snowflakes", wrong(|chance| format!("1{}", chance.digits(18)))),
        ("fractions", wrong(|chance| format!("0.{}", chance.digits(16)))),
        ("telephones", wrong(|chance| format!("+49 {} {}", chance.digits(3), chance.digits(7)))),
    ] {
        assert_eq!(wrong, 0, "{what}");
    }
}

#[test]
fn of_random_keys_that_are_called_so_few_are_missed() {
    let mut chance = Chance(3);
    let missed =
        |found: &mut dyn FnMut() -> String| (0..10_000).filter(|_| patterns(&string(&found())).is_empty()).count();
    let of_32 = missed(&mut || format!("api_key={}", chance.base62(32)));
    let mut chance = Chance(4);
    let of_hex = missed(&mut || format!("api_key={}", chance.hex(32)));
    let mut chance = Chance(5);
    let of_20 = missed(&mut || format!("api_key={}", chance.base62(20)));
    println!(
        "of 10000 keys {of_32} of 32 letters and digits, {of_hex} of 32 hexadecimal digits, {of_20} of 20 letters and digits are missed"
    );
    assert!(of_32 < 600 && of_hex < 100 && of_20 < 2000, "{of_32} {of_hex} {of_20}");
}

#[test]
fn one_digit_off_is_no_card_and_no_account() {
    let mut chance = Chance(11);
    for _ in 0..200 {
        let number = card(&mut chance, "4", 16);
        assert_eq!(patterns(&string(&number)).len(), 1, "{number}");
        let last = number.as_bytes()[15] - b'0';
        for other in (0..10).filter(|other| *other != last) {
            let number = format!("{}{other}", &number[..15]);
            assert!(!luhn(&number));
            assert!(patterns(&string(&number)).is_empty(), "{number}");
        }
        let account = fill::iban(&mut chance, "DE");
        assert_eq!(modulo_97(&account), 1);
        assert_eq!(patterns(&string(&account)).len(), 1, "{account}");
        let wrong = format!("DE{:02}{}", (account[2..4].parse::<u32>().unwrap() + 1) % 97, &account[4..]);
        assert!(patterns(&string(&wrong)).is_empty(), "{wrong}");
    }
}

/// Texts of pieces that have to do with patterns, and of any characters.
fn texts() -> impl Strategy<Value = String> {
    let pieces = [
        "password",
        "=",
        ": ",
        "\"",
        "'",
        "\\\"",
        "://",
        "@",
        ":",
        "secret",
        "token",
        "Authorization: Basic ",
        "Bearer ",
        "sk-",
        "AKIA",
        "-----BEGIN ",
        "PRIVATE KEY-----",
        "-----END ",
        "eyJ",
        ".",
        "-",
        "_",
        " ",
        "\n",
        "\0",
        "\u{1}",
        "4",
        "4111",
        "DE89",
        "[redacted:secrets]",
        "[redacted:",
        "]",
        "ä",
        "€",
        "🦀",
        "$2y$10$",
        "machine ",
        " login x ",
        "cookie: sid=",
        "/",
        "\\n",
        "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX",
        "ghp",
        "AAKCAQEA",
        "MIIEpAIB",
        "cGFzc3dvcmQ9YTFiMmMzZDRlNWY2Cg==",
    ];
    let piece = prop_oneof![
        6 => prop::sample::select(pieces.to_vec()).prop_map(str::to_owned),
        1 => ".{0,6}",
        1 => "[0-9 -]{1,20}",
        1 => "[A-Za-z0-9+/=_-]{1,60}",
        1 => templates_filled(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn templates_filled() -> impl Strategy<Value = String> {
    let all: Vec<_> = templates().map(|(_, template)| template).collect();
    (prop::sample::select(all), any::<u64>()).prop_map(|(template, seed)| fill(template, &mut Chance(seed)).0)
}

fn values() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        4 => texts().prop_map(|text| string(&text)),
        1 => "[1-9][0-9]{10,18}".prop_map(|text| Json::Number(text.into())),
        1 => Just(Json::Null),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::btree_map(texts(), inner, 0..4).prop_map(|members| Json::Object(
                members.into_iter().map(|(name, value)| (name.into(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_redacted_has_nothing_more_to_find(mut json in values(), which in prop::sample::subsequence(DataClass::ALL.to_vec(), 1..=3)) {
        let which = BTreeSet::from_iter(which);
        let found = SCANNER.scan(&json);
        let before = json.clone();
        let counts = SCANNER.redact(&mut json, &which);
        prop_assert_eq!(counts.is_empty(), !found.iter().any(|finding| which.contains(&finding.class)));
        if counts.is_empty() {
            prop_assert_eq!(&json, &before);
        }
        prop_assert!(!SCANNER.scan(&json).iter().any(|finding| which.contains(&finding.class)), "{} became {}", before, json);
        // Still JSON as it may be forwarded: every member's name is there once.
        let read = json::parse(&json.to_bytes());
        prop_assert_eq!(read.as_ref(), Ok(&json));
    }

    #[test]
    fn no_text_stops_it(text in "\\PC{0,200}", any in prop::collection::vec(any::<char>(), 0..200)) {
        let _ = SCANNER.scan(&Json::Array(vec![string(&text), string(&String::from_iter(any))]));
    }
}
