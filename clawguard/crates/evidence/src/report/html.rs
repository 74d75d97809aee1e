//! The page around the sections: what may run in it (nothing), how it looks, and how text becomes text.

use claw::Hash;

use super::{Input, sections, story::Story};

/// How the page looks, in light, in the dark and on paper.
const STYLE: &str = include_str!("style.css");

/// How text gets onto a page.
pub(super) struct Page {
    visible: fn(&str) -> String,
}

impl Page {
    /// A text from anywhere as text of the page: nothing in it is markup, and what shows nothing is written out.
    pub(super) fn text(&self, text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        for c in (self.visible)(text).chars() {
            match c {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                c => escaped.push(c),
            }
        }
        escaped
    }
}

/// As many characters of a text as there is room for.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}\u{2026}", text.split_at(at).0),
        None => text.to_owned(),
    }
}

pub(super) fn page(input: &Input<'_>, story: &Story) -> String {
    let page = Page { visible: input.visible };
    // Nothing is loaded, nothing runs, and no other style than this one.
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        standard(&Hash::of(STYLE.as_bytes()).to_string())
    );
    let name = page.text(&cut(if story.job.is_empty() { "a run" } else { &story.job }, 80));
    let body = sections::all(&page, input, story);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>Job {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// base64url of 32 bytes as base64.
fn standard(text: &str) -> String {
    text.replace('-', "+").replace('_', "/") + "="
}
