//! Whether a text is in V8's own hand already, looked through once and without being taken apart.

/// Whether V8 writes this very text again, if it is JSON that [`parse`](super::parse) accepts: no white space, each character and each
/// number in the one spelling that V8 has for it, and no member whose name it would move. `false` also for some that it would leave
/// alone: fractions, numbers of more than 15 digits, names that begin with a digit.
///
/// Whether it is JSON at all is not asked.
#[must_use]
pub fn is_written(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => {
                let Some(end) = string(after) else { return false };
                let moved = after.first().is_some_and(u8::is_ascii_digit) && end.first() == Some(&b':');
                if moved {
                    return false;
                }
                end
            }
            b'-' | b'0'..=b'9' => {
                let Some(end) = whole(rest) else { return false };
                end
            }
            b' ' | b'\t' | b'\n' | b'\r' => return false,
            // What holds values together, and the three words. Where any of it is out of place, it is not JSON.
            _ => after,
        };
    }
    true
}

/// What comes after a string of which this is the rest, if each character is as V8 writes it.
fn string(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        rest = match rest.get(end..)? {
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't', after @ ..]
            | [b'\\', b'u', b'0', b'0', b'0', b'0'..=b'7' | b'b' | b'e' | b'f', after @ ..]
            | [b'\\', b'u', b'0', b'0', b'1', b'0'..=b'9' | b'a'..=b'f', after @ ..] => after,
            _ => return None,
        }
    }
}

/// What comes after a whole number that is written with its digits alone, by V8 too.
fn whole(text: &[u8]) -> Option<&[u8]> {
    /// So many a double holds, whichever they are.
    const DIGITS: usize = 15;
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let after = digits.get(end..)?;
    let zero = text.starts_with(b"-0");
    let other = matches!(after, [b'.' | b'e' | b'E', ..]);
    (end <= DIGITS && !zero && !other).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::is_written;
    use crate::json::{Limits, parse};

    #[test]
    fn one_spelling_of_each_is_v8s_own() {
        let same = |text: &str| parse(text.as_bytes(), Limits { bytes: 64, depth: 8 }).map(|v| v.to_string() == text);
        let units = (0..0x30).flat_map(|unit| [format!("\"\\u{unit:04x}\""), format!("\"\\u{unit:04X}\"")]);
        let marks = (b' '..=b'~').map(|mark| format!("\"\\{}\"", char::from(mark)));
        let numbers = ["0", "-0", "-1", "1.0", "1e1", "1E1", "-0.0", "10", "999999999999999", "-999999999999999"];
        for text in units.chain(marks).chain(numbers.map(str::to_owned)) {
            assert!(same(&text).map_or_else(|_| true, |same| is_written(&text) == same), "{text}");
        }
        for text in ["{\"1\":0}", "{ }", "[1, 2]", "1\n", "\t[]", "12345678901234567890"] {
            assert!(!is_written(text), "{text}");
        }
    }
}
