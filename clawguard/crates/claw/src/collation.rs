//! The order in which Claw sorts hosts: JavaScript's `a.localeCompare(b)`, for the part of ASCII that can be seen.
//!
//! That is the Unicode Collation Algorithm with CLDR's root weights (Unicode Technical Standards 10 and 35): punctuation
//! counts and comes before digits, digits before letters. Two texts are compared without regard to case first; where that
//! finds no difference, the first letter that differs in case decides, lower case before upper.

use std::cmp::Ordering;

/// The characters of the subset by their primary weight. A letter stands for both its cases.
const ORDER: &[u8; 69] = b" _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz";

/// The primary weight of every byte; zero is none.
const WEIGHTS: [u8; 256] = {
    let mut weights = [0; 256];
    let mut at = 0;
    while at < ORDER.len() {
        weights[ORDER[at] as usize] = at as u8 + 1;
        weights[ORDER[at].to_ascii_uppercase() as usize] = at as u8 + 1;
        at += 1;
    }
    weights
};

/// Compares two texts as ICU's root collation does.
///
/// `None` if one of them has a character outside U+0020 to U+007E: of those nothing is claimed.
#[must_use]
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    let weight = |byte: u8| WEIGHTS[usize::from(byte)];
    if a.bytes().chain(b.bytes()).any(|byte| weight(byte) == 0) {
        return None;
    }
    let primary = a.bytes().map(weight).cmp(b.bytes().map(weight));
    // Texts of the same primary weights differ in case only, and in ASCII 'A' is before 'a'.
    Some(primary.then_with(|| b.cmp(a)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_seen_has_its_place_and_nothing_else_has_one() {
        for char in '\0'..='\u{ff}' {
            let text = char.to_string();
            let answer = (' '..='~').contains(&char).then_some(Ordering::Equal);
            assert_eq!(compare(&text, &text), answer, "{char:?}");
            assert_eq!(compare("a", &text).is_some(), answer.is_some(), "{char:?}");
        }
        assert_eq!(compare("é", "a"), None);
        assert_eq!(compare("a", "z\u{301}"), None);
    }

    #[test]
    fn the_shorter_of_two_is_first_and_case_is_asked_last() {
        let sorted = ["", "a", "A", "a b", "a-b", "a.b", "a1", "aa", "aA", "Aa", "AA", "ab", "Ab", "b"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), Some(i.cmp(&j)), "{a:?} {b:?}");
            }
        }
    }
}
