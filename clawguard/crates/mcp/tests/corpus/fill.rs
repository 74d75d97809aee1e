//! Fills the templates of `found.txt`. What comes out is the same every time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests are filled from it")]

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};

const DIGITS: &str = "0123456789";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Numbers by chance, from a seed (splitmix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn of(&mut self, alphabet: &str, length: usize) -> String {
        let letters = alphabet.as_bytes();
        (0..length).map(|_| char::from(letters[(self.next() % letters.len() as u64) as usize])).collect()
    }

    pub(crate) fn digits(&mut self, length: usize) -> String {
        self.of(DIGITS, length)
    }

    pub(crate) fn base62(&mut self, length: usize) -> String {
        self.of(&[DIGITS, LOWER, UPPER].concat(), length)
    }

    pub(crate) fn base64(&mut self, length: usize) -> String {
        self.of(&[DIGITS, LOWER, UPPER, "+/"].concat(), length)
    }

    pub(crate) fn hex(&mut self, length: usize) -> String {
        self.of("0123456789abcdef", length)
    }
}

/// A number of a card with the right last digit.
pub(crate) fn card(chance: &mut Chance, prefix: &str, length: usize) -> String {
    let number = prefix.to_owned() + &chance.digits(length - 1 - prefix.len());
    let last = ('0'..='9').find(|last| luhn(&format!("{number}{last}"))).unwrap();
    format!("{number}{last}")
}

/// Told by a table instead of arithmetic, so that it is not the code under test once more.
pub(crate) fn luhn(number: &str) -> bool {
    const TWICE: [u32; 10] = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9];
    let digits: Vec<u32> = number.chars().rev().map(|digit| digit.to_digit(10).unwrap()).collect();
    let sum: u32 = digits.iter().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { TWICE[*d as usize] }).sum();
    sum.is_multiple_of(10)
}

/// The remainder by 97, by long division of the number as text.
pub(crate) fn modulo_97(iban: &str) -> u32 {
    let turned = format!("{}{}", &iban[4..], &iban[..4]);
    let number: String = turned.chars().map(|c| c.to_digit(36).unwrap().to_string()).collect();
    number.chars().fold(0, |rest, digit| (rest * 10 + digit.to_digit(10).unwrap()) % 97)
}

pub(crate) fn iban(chance: &mut Chance, country: &str) -> String {
    let (letters, digits) = match country {
        "DE" => (0, 18),
        "GB" => (4, 14),
        "FR" => (0, 23),
        "NL" => (4, 10),
        "ES" => (0, 20),
        "AT" => (0, 16),
        "CH" => (0, 17),
        "PL" => (0, 24),
        "NO" => (0, 11),
        other => panic!("{other}"),
    };
    let account = chance.of(UPPER, letters) + &chance.digits(digits);
    let check = 98 - modulo_97(&format!("{country}00{account}"));
    format!("{country}{check:02}{account}")
}

fn grouped(text: &str, lengths: impl IntoIterator<Item = usize>, separator: &str) -> String {
    let mut rest = text;
    let mut groups = Vec::new();
    for length in lengths {
        let (group, left) = rest.split_at(length.min(rest.len()));
        groups.push(group);
        rest = left;
        if rest.is_empty() {
            break;
        }
    }
    groups.join(separator)
}

/// A template filled: the text, and what of it must not be seen once it is redacted.
pub(crate) fn fill(template: &str, chance: &mut Chance) -> (String, Vec<String>) {
    let (mut text, mut hidden) = (String::new(), Vec::new());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let marker = after.split_once('}').filter(|(marker, _)| known(marker));
        let Some((marker, after)) = marker else {
            text.push('{');
            rest = after;
            continue;
        };
        rest = after;
        let stays = marker.starts_with('~');
        let value = value(marker.trim_start_matches('~'), chance);
        if !stays && value.len() >= 8 {
            hidden.push(value.clone());
        }
        text.push_str(&value);
    }
    text.push_str(rest);
    (text.replace('⏎', "\n"), hidden)
}

fn known(marker: &str) -> bool {
    let name = marker.trim_start_matches('~').split(':').next().unwrap_or_default();
    const NAMES: [&str; 16] = [
        "", "base62", "base64", "url", "hex", "base32", "upper", "lower", "digits", "card", "iban", "pem", "jwt",
        "basic", "password", "discord",
    ];
    NAMES.contains(&name) && !marker.contains(['"', '\\'])
}

fn value(marker: &str, chance: &mut Chance) -> String {
    let parts: Vec<&str> = marker.split(':').collect();
    let length = || parts[1].parse::<usize>().unwrap();
    match parts[0] {
        "" => String::new(),
        "base62" => chance.base62(length()),
        "base64" => chance.base64(length()),
        "url" => chance.of(&[DIGITS, LOWER, UPPER, "-_"].concat(), length() - 1) + "A",
        "hex" => chance.hex(length()),
        "base32" => chance.of(&[UPPER, "234567"].concat(), length()),
        "upper" => chance.of(&[UPPER, DIGITS].concat(), length()),
        "lower" => chance.of(&[LOWER, DIGITS].concat(), length()),
        "digits" => chance.digits(length()),
        "card" => {
            let number = card(chance, parts[1], parts[2].parse().unwrap());
            let Some(groups) = parts.get(3) else { return number };
            let separator = if groups.contains('-') { "-" } else { " " };
            grouped(&number, groups.split(['-', ' ']).map(|group| group.parse().unwrap()), separator)
        }
        "iban" => {
            let number = iban(chance, parts[1]);
            if parts.len() > 2 { grouped(&number, std::iter::repeat(4), " ") } else { number }
        }
        "pem" => (0..6).map(|_| chance.base64(64)).collect::<Vec<_>>().join("\n") + "\n" + &chance.base64(40),
        "jwt" => {
            let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"JWT"}"#);
            let claims = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{}"}}"#, chance.base62(12)));
            format!("{header}.{claims}.{}", chance.base62(86))
        }
        "basic" => BASE64_STANDARD.encode(format!("user{}:{}", chance.digits(2), chance.base62(12))),
        "password" => chance.of(LOWER, 5) + &chance.of("!+=~", 1) + &chance.base62(5) + &chance.digits(2),
        "discord" => {
            let id = BASE64_URL_SAFE_NO_PAD.encode(format!("1{}", chance.digits(17)));
            let name = |chance: &mut Chance, length| chance.of(&[DIGITS, LOWER, UPPER].concat(), length);
            format!("{id}.{}.{}", name(chance, 6), name(chance, 38))
        }
        other => panic!("{other}"),
    }
}
