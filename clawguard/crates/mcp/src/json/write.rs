//! The ways out: as it is forwarded, and as it is hashed.

use claw::json::by_utf16;

use super::{
    Json, Member,
    read::{eight, hits, marks, plain},
};

/// A digit of a hexadecimal number.
const HEX: &[u8; 16] = b"0123456789abcdef";

/// See [`Json::write`].
pub(super) fn compact(value: &Json, into: &mut Vec<u8>) {
    match value {
        Json::Null => into.extend_from_slice(b"null"),
        Json::Bool(true) => into.extend_from_slice(b"true"),
        Json::Bool(false) => into.extend_from_slice(b"false"),
        Json::Number(text) => into.extend_from_slice(text.as_bytes()),
        Json::String(text) => string(text, true, into),
        Json::Array(items) => list(items, into, compact),
        Json::Object(members) => object(members, into, true, compact),
    }
}

/// See [`Json::canonical`].
pub(super) fn canonical(value: &Json) -> String {
    let mut into = Vec::new();
    sorted(value, &mut into);
    // It is made of texts and of ASCII.
    String::from_utf8(into).unwrap_or_default()
}

fn sorted(value: &Json, into: &mut Vec<u8>) {
    match value {
        Json::Number(text) => number(text, into),
        Json::String(text) => string(text, false, into),
        Json::Array(items) => list(items, into, sorted),
        Json::Object(members) if members.is_sorted_by(|(a, _), (b, _)| by_utf16(a, b).is_lt()) => {
            object(members, into, false, sorted);
        }
        Json::Object(members) => {
            let mut order: Vec<&Member> = members.iter().collect();
            order.sort_unstable_by(|(a, _), (b, _)| by_utf16(a, b));
            object(order, into, false, sorted);
        }
        Json::Null | Json::Bool(_) => compact(value, into),
    }
}

fn list(items: &[Json], into: &mut Vec<u8>, write: fn(&Json, &mut Vec<u8>)) {
    into.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            into.push(b',');
        }
        write(item, into);
    }
    into.push(b']');
}

fn object<'a>(
    members: impl IntoIterator<Item = &'a Member>,
    into: &mut Vec<u8>,
    one_line: bool,
    write: fn(&Json, &mut Vec<u8>),
) {
    into.push(b'{');
    for (i, (name, value)) in members.into_iter().enumerate() {
        if i > 0 {
            into.push(b',');
        }
        string(name, one_line, into);
        into.push(b':');
        write(value, into);
    }
    into.push(b'}');
}

/// Writes a text as [`Json::write`] writes strings.
pub fn write_str(text: &str, into: &mut Vec<u8>) {
    string(text, true, into);
}

/// Writes a string. For `one_line`, see [`Json::write`].
fn string(text: &str, one_line: bool, into: &mut Vec<u8>) {
    into.push(b'"');
    let bytes = text.as_bytes();
    let mut rest = 0;
    while rest < bytes.len() {
        let plain = if one_line { one_lined(&bytes[rest..]) } else { plain(&bytes[rest..]) };
        into.extend_from_slice(&bytes[rest..rest + plain]);
        rest += plain;
        let Some(char) = text[rest..].chars().next() else { break };
        match char {
            '"' => into.extend_from_slice(b"\\\""),
            '\\' => into.extend_from_slice(b"\\\\"),
            '\u{8}' => into.extend_from_slice(b"\\b"),
            '\t' => into.extend_from_slice(b"\\t"),
            '\n' => into.extend_from_slice(b"\\n"),
            '\u{c}' => into.extend_from_slice(b"\\f"),
            '\r' => into.extend_from_slice(b"\\r"),
            char => {
                let code = char as u32;
                let digit = |shift: u32| HEX[(code >> shift) as usize % HEX.len()];
                into.extend_from_slice(b"\\u");
                into.extend_from_slice(&[digit(12), digit(8), digit(4), digit(0)]);
            }
        }
        rest += char.len_utf8();
    }
    into.push(b'"');
}

/// How many of the first bytes of a text stand for themselves within a string, and within a line for whoever reads lines.
fn one_lined(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        while let Some(word) = bytes[at..].first_chunk::<8>() {
            let word = u64::from_le_bytes(*word);
            let hits = hits(word) | marks(word, 0x7f) | word & eight(0x80);
            if hits != 0 {
                at += hits.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        match bytes[at..] {
            [] | [b'"' | b'\\' | 0..0x20 | 0x7f, ..] => return at,
            // U+0080 to U+009F, U+2028 and U+2029.
            [0xc2, 0x80..=0x9f, ..] | [0xe2, 0x80, 0xa8 | 0xa9, ..] => return at,
            _ => at += 1,
        }
    }
}

/// Writes a number for hashing: as ECMAScript prints the double, if that is the very number that stands there.
fn number(text: &str, into: &mut Vec<u8>) {
    // A double holds fifteen digits, and a whole number is printed as itself, but for minus zero.
    let digits = text.strip_prefix('-').unwrap_or(text);
    if text != "-0" && digits.len() <= 15 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return into.extend_from_slice(text.as_bytes());
    }
    let mut buffer = ryu_js::Buffer::new();
    let printed = text.parse().map(|number: f64| buffer.format(number));
    match printed {
        Ok(printed) if Decimal::of(printed) == Decimal::of(text) => into.extend_from_slice(printed.as_bytes()),
        _ => into.extend_from_slice(text.as_bytes()),
    }
}

/// Whether two texts of numbers say the same number.
#[must_use]
pub fn same_number(a: &str, b: &str) -> bool {
    let number = |text: &str| matches!(super::parse(text.as_bytes()), Ok(Json::Number(number)) if *number == *text);
    number(a) && number(b) && Decimal::of(a) == Decimal::of(b)
}

/// What number a text says: its digits without zeros at either end, behind a point, times a power of ten.
#[derive(PartialEq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    power: i64,
}

impl Decimal {
    fn of(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let Some(first) = all.iter().position(|digit| *digit != b'0') else {
            return Self { negative: false, digits: Vec::new(), power: 0 };
        };
        let last = all.iter().rposition(|digit| *digit != b'0').unwrap_or(first);
        // Beyond these bounds all exponents are alike: of numbers that are printed as zero, or not at all.
        let bound = if exponent.starts_with('-') { i64::from(i32::MIN) } else { i64::from(i32::MAX) };
        let exponent = exponent.parse::<i32>().map_or(bound, i64::from);
        Self { negative, digits: all[first..=last].to_vec(), power: exponent + whole.len() as i64 - first as i64 }
    }
}
