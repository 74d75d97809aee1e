//! Text from elsewhere as a terminal may have it: a contract's words send no control sequences, turn no line around and
//! begin none of their own.

/// Characters that show nothing or change how others are shown: Unicode's format characters (Cf), line and paragraph
/// separators, fillers and variation selectors (Unicode 16, `Default_Ignorable_Code_Point` and `Bidi_Control`).
const UNSEEN: [(char, char); 25] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

fn unseen(c: char) -> bool {
    c.is_control() || UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// A text within a line. What a terminal would act on is written as JSON writes it: `\u001b`.
pub(crate) fn within(text: &str) -> String {
    escape(text, |_| false)
}

/// Whole lines: as [`within`], but lines end where they end. JSON stays the same JSON.
pub(crate) fn lines(text: &str) -> String {
    escape(text, |c| c == '\n')
}

/// As much of a name as a table has room for.
pub(crate) fn cut(name: &str) -> String {
    const ROOM: usize = 160;
    match name.char_indices().nth(ROOM) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}...", &name[..end]),
    }
}

fn escape(text: &str, passes: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if unseen(c) && !passes(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_written_out() {
        assert_eq!(within("a\u{1b}[2Jb"), "a\\u001b[2Jb");
        assert_eq!(within("a\nb\r\t\u{7f}\u{9b}"), "a\\u000ab\\u000d\\u0009\\u007f\\u009b");
        assert_eq!(within("\u{202e}x\u{2066}\u{200b}\u{2028}\u{feff}"), "\\u202ex\\u2066\\u200b\\u2028\\ufeff");
        assert_eq!(within("\u{e0041}"), "\\udb40\\udc41");
        assert_eq!(within("ä é \\ 漢 🙂 \""), "ä é \\ 漢 🙂 \"");
        assert_eq!(lines("a\u{1b}\nb\n"), "a\\u001b\nb\n");
    }

    #[test]
    fn names_are_cut_where_they_are_shown() {
        assert_eq!(cut(&"ä".repeat(160)), "ä".repeat(160));
        assert_eq!(cut(&"ä".repeat(161)), format!("{}...", "ä".repeat(160)));
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "a\u{7f}": "\u{202e}\u{e0041}\n\u{1b}\u{9b}" });
        let text = lines(&serde_json::to_string_pretty(&value).unwrap_or_default());
        assert!(text.is_ascii());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).ok(), Some(value));
    }
}
