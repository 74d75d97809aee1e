//! The host's key in a provider's error. Providers quote the key that they refuse, and whoever called has never seen it.

use std::collections::HashSet;

use bytes::Bytes;

/// Characters of the key in a row that quote it.
const QUOTE: usize = 8;
/// Characters of its end that do, behind what stands for the rest of it.
const END: usize = 3;
/// What stands for the rest of a key: `sk-...abcd`.
const REST: [&[u8]; 5] = [b"*", b"..", "\u{2026}".as_bytes(), "\u{2022}".as_bytes(), b"\\u2026"];
/// Bytes that are held back, and looked at again: more than any quote needs to be known.
const HELD: usize = 64;

/// An error as it goes by.
#[derive(Debug)]
pub(crate) struct Mask {
    quotes: HashSet<[u8; QUOTE]>,
    /// A key that is shorter than a quote, all of it.
    short: Option<Vec<u8>>,
    end: Vec<u8>,
    /// What was held back, behind as much of what was passed on.
    bytes: Vec<u8>,
    passed: usize,
}

impl Mask {
    pub(crate) fn new(key: &[u8]) -> Self {
        let quotes = key.windows(QUOTE).filter_map(|quote| quote.try_into().ok()).collect();
        let end = key.get(key.len().saturating_sub(QUOTE - 1)..).unwrap_or_default().to_vec();
        // One of two characters would be found everywhere, and hides nothing.
        let short = (END..QUOTE).contains(&key.len()).then(|| key.to_vec());
        Self { quotes, short, end, bytes: Vec::new(), passed: 0 }
    }

    /// A text with a star for each character that quotes the key.
    pub(crate) fn whole(&self, text: &[u8]) -> Vec<u8> {
        let mut masked = text.to_vec();
        let mut hide = |from: usize, length: usize| {
            if let Some(quoted) = masked.get_mut(from..from + length) {
                quoted.fill(b'*');
            }
        };
        for (at, quote) in text.windows(QUOTE).enumerate() {
            if quote.try_into().is_ok_and(|quote: [u8; QUOTE]| self.quotes.contains(&quote)) {
                hide(at, QUOTE);
            }
        }
        if let Some(key) = &self.short {
            for (at, quote) in text.windows(key.len()).enumerate() {
                if quote == key {
                    hide(at, key.len());
                }
            }
        }
        for at in 1..text.len() {
            let (before, behind) = text.split_at(at);
            if REST.iter().any(|rest| before.ends_with(rest)) {
                let mut ends =
                    (END..=self.end.len()).rev().filter_map(|length| self.end.get(self.end.len() - length..));
                if let Some(end) = ends.find(|end| behind.starts_with(end)) {
                    hide(at, end.len());
                }
            }
        }
        masked
    }

    /// Takes a piece, and gives what may leave.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Bytes {
        self.bytes.extend_from_slice(piece);
        self.pass(self.bytes.len().saturating_sub(HELD))
    }

    /// The rest.
    pub(crate) fn end(&mut self) -> Bytes {
        self.pass(self.bytes.len())
    }

    fn pass(&mut self, upto: usize) -> Bytes {
        let left = self.whole(&self.bytes).get(self.passed..upto).unwrap_or_default().to_vec();
        let over = upto.saturating_sub(HELD);
        self.bytes.drain(..over);
        self.passed = upto - over;
        left.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-proj-AbCdEfGhIjKlMnOpQrStUv0123456789";

    #[test]
    fn no_quote_of_the_key_passes_however_it_is_cut() {
        for (text, masked) in [
            (format!("key {KEY}, refused"), format!("key {}, refused", "*".repeat(KEY.len()))),
            ("\"AbCdEfGh\" and AbCdEfG".into(), "\"********\" and AbCdEfG".into()),
            ("sk-proj-****6789. See".into(), format!("{}. See", "*".repeat(16))),
            ("sk-...6789 and sk-\u{2026}789".into(), "sk-...**** and sk-\u{2026}***".into()),
            ("...56789 6789, in 2.6789".into(), "...***** 6789, in 2.6789".into()),
            ("nothing of it".into(), "nothing of it".into()),
            (String::new(), String::new()),
        ] {
            let long = format!("{}{text}{}", "x".repeat(200), "y".repeat(100));
            for (text, masked) in
                [(text.clone(), masked.clone()), (long, format!("{}{masked}{}", "x".repeat(200), "y".repeat(100)))]
            {
                for size in [1, 3, 7, 64, 65, 1000] {
                    let mut mask = Mask::new(KEY.as_bytes());
                    let mut got = Vec::new();
                    for piece in text.as_bytes().chunks(size) {
                        got.extend_from_slice(&mask.push(piece));
                        assert!(mask.bytes.len() <= 2 * HELD);
                    }
                    got.extend_from_slice(&mask.end());
                    assert_eq!(String::from_utf8_lossy(&got), masked, "{size}");
                }
            }
        }
        assert_eq!(Mask::new(b"").whole(b"*** a"), b"*** a");
        assert_eq!(Mask::new(b"hunter2").whole(b"refused hunter2, hunter"), b"refused *******, hunter");
        assert_eq!(Mask::new(b"a1").whole(b"a1"), b"a1");
    }
}
