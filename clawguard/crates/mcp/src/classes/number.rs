//! Numbers of cards and bank accounts: what a digit more or less, or another digit, shows not to be one.

use std::ops::Range;

use super::check::word;

/// How the digits of a card's number are grouped where they are, and how many there are.
const GROUPS: [&[usize]; 4] = [&[4, 4, 4, 4, 3], &[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4]];

/// Letters and digits of an IBAN, by country (SWIFT's IBAN registry).
const IBANS: [(&[u8; 2], usize); 88] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
];

/// A card's number that begins here: of an issuer and of a length that this issuer gives, right by its last digit, and either
/// without separators or grouped as cards are, by one kind of separator.
pub(super) fn card(text: &[u8], start: usize) -> Option<Range<usize>> {
    let before = |back: usize| start.checked_sub(back).and_then(|at| text.get(at)).copied();
    // Part of a path, a fraction, an identifier.
    if before(1).is_some_and(|byte| word(byte) || matches!(byte, b'/' | b'#'))
        || (matches!(before(1), Some(b'-' | b'.')) && before(2).is_some_and(word))
    {
        return None;
    }
    let rest = text.get(start..)?;
    let run = digits(rest);
    let length = if run >= 13 {
        known(&rest[..run]).then_some(run)?
    } else {
        let separator = rest.get(run).copied().filter(|byte| matches!(byte, b' ' | b'-'))?;
        // A column of numbers of four digits is no card.
        if run == 4
            && before(1) == Some(separator)
            && (2..=5).all(|back| before(back).is_some_and(|byte| byte.is_ascii_digit()))
        {
            return None;
        }
        GROUPS.iter().find_map(|groups| grouped(rest, groups, separator))?
    };
    let after = |ahead: usize| rest.get(length + ahead).copied();
    let goes_on = match after(0) {
        Some(byte) if word(byte) => true,
        Some(b'-' | b'.') => after(1).is_some_and(word),
        Some(b' ') => run == 4 && digits(rest.get(length + 1..)?) == 4,
        _ => false,
    };
    (!goes_on).then_some(start..start + length)
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The length of a number that is grouped so.
fn grouped(text: &[u8], groups: &[usize], separator: u8) -> Option<usize> {
    let (mut at, mut number) = (0, Vec::with_capacity(19));
    for (i, group) in groups.iter().enumerate() {
        if i > 0 {
            if text.get(at) != Some(&separator) {
                return None;
            }
            at += 1;
        }
        let here = text.get(at..)?;
        if digits(here) != *group {
            return None;
        }
        number.extend_from_slice(&here[..*group]);
        at += group;
    }
    known(&number).then_some(at)
}

/// Whether an issuer gives such numbers, and the last digit is right.
fn known(number: &[u8]) -> bool {
    let first = |n: usize| number.iter().take(n).fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let (two, three, four) = (first(2), first(3), first(4));
    let issued = match number.len() {
        // American Express.
        15 => matches!(two, 34 | 37),
        // Diners Club.
        14 => matches!(two, 36 | 38 | 39) || (300..=305).contains(&three),
        // Visa; Mastercard; Discover; JCB; UnionPay; RuPay; Mir; Maestro.
        16 => {
            two / 10 == 4
                || matches!(two, 51..=55 | 62 | 65)
                || (2221..=2720).contains(&four)
                || four == 6011
                || (644..=649).contains(&three)
                || (3528..=3589).contains(&four)
                || matches!(three, 508 | 817 | 820)
                || (2200..=2204).contains(&four)
                || maestro(four)
        }
        17 | 18 => two == 62 || maestro(four),
        // Of Visa's long ones and the others' none was ever common, and many numbers have nineteen digits.
        19 => two == 62 || maestro(four),
        13 => maestro(four),
        _ => false,
    };
    issued && luhn(number)
}

fn maestro(four: u32) -> bool {
    matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761 | 6762 | 6763)
}

/// ISO/IEC 7812-1, annex B.
fn luhn(number: &[u8]) -> bool {
    let doubled = |(i, digit): (usize, &u8)| {
        let digit = u32::from(digit - b'0');
        if i % 2 == 1 { digit * 2 - if digit > 4 { 9 } else { 0 } } else { digit }
    };
    number.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

/// An IBAN that begins here (ISO 13616): as long as its country's are, right by its check digits, in one piece or in groups of
/// four with spaces or hyphens between.
pub(super) fn iban(text: &[u8], start: usize) -> Option<Range<usize>> {
    let rest = text.get(start..)?;
    let country = rest.get(..2)?;
    let (_, length) = IBANS.iter().find(|(code, _)| code.as_slice() == country)?;
    let separator = rest.get(4).copied().filter(|byte| matches!(byte, b' ' | b'-'));
    let (mut number, mut at) = (Vec::with_capacity(*length), 0);
    while number.len() < *length {
        let byte = *rest.get(at)?;
        if separator.is_some() && at % 5 == 4 {
            if Some(byte) != separator {
                return None;
            }
        } else if byte.is_ascii_digit() || byte.is_ascii_uppercase() {
            number.push(byte);
        } else {
            return None;
        }
        at += 1;
    }
    if rest.get(at).copied().is_some_and(word) {
        return None;
    }
    let rest = number.iter().cycle().skip(4).take(*length).fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    (rest == 1).then_some(start..start + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_a_card_is_told_by_issuer_length_and_last_digit() {
        // ISO's own example of the algorithm is no issuer's.
        assert!(luhn(b"79927398713") && !luhn(b"79927398710"));
        for (number, expected) in [
            (&b"4000002000000006"[..], luhn(b"4000002000000006")),
            (b"1234567812345670", false),
            (b"400000200000000600", false),
        ] {
            assert_eq!(known(number), expected);
        }
    }

    #[test]
    fn every_country_is_there_once() {
        assert!(IBANS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
