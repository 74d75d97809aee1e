//! How tools are named.
//!
//! There is one grammar, for contracts of every form, for their groups and for `[[mcp.server]] tools`:
//!
//! ```text
//! pattern = server "/" tool         crm-mcp/get_case   crm-mcp/get_*   crm-mcp/*   */http_request   */*
//! server  = "*" / name              any server, or this one
//! tool    = name / [name] "*"       this tool, or every tool whose name begins so
//! name    = 1 to 256 characters of printable ASCII (0x21 to 0x7e) without "*" and "/"
//! ```
//!
//! ASCII, because a denial must not be passed by with a letter that only looks like another, nor with one that shows
//! nothing.
//!
//! `*` stands for any number of characters, none included, and only at the end. Matching is exact: bytes are compared,
//! upper and lower case differ, nothing is trimmed or decoded. A tool whose name has a `/` in it can only be meant by a
//! pattern that ends in `*`.
//!
//! Where the server is known from elsewhere, only the part `tool` is written: `tools = { read = ["get_*"] }` in
//! `[[mcp.server]]`, and `"tools": ["get_case"]` in form 2. Form 3 may also write `mcp.SERVER.TOOL`: what stands between
//! the first two dots is the server, and the rest, dots included, is the tool.

use std::{fmt, str::FromStr};

/// Tools of one server or of all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ToolPattern {
    /// Whose.
    pub server: ServerPattern,
    /// Which.
    pub tool: NamePattern,
}

/// One server or all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ServerPattern {
    /// `*`
    Any,
    /// This one.
    Named(Box<str>),
}

/// One tool, or all whose names begin alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NamePattern {
    /// This one.
    Exact(Box<str>),
    /// Every name that begins so; `*` is the one with nothing before it.
    Prefix(Box<str>),
}

/// A text that names no tools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPattern {
    /// Not of the form SERVER/TOOL.
    #[error("a tool is written SERVER/TOOL in printable ASCII, where either may be * and TOOL may end in *")]
    Tool,
    /// No server's name.
    #[error("a server is * or a name of at most 256 bytes of printable ASCII without *, / and spaces")]
    Server,
    /// No tool's name.
    #[error("a tool's name has at most 256 bytes of printable ASCII without / and spaces, and * only at its end")]
    Name,
    /// No resources.
    #[error(
        "resources are written SERVER/URI, where SERVER may be * and URI, of at most 2048 characters of printable ASCII \
         without spaces, may end in *"
    )]
    Resource,
    /// Resources by the beginning of a host's name.
    #[error("the * stands in a host's name, and so for other hosts too: it goes after the / that ends the name")]
    HostPart,
}

const LONGEST: usize = 256;

fn is_name(text: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_graphic() && byte != b'*' && byte != b'/';
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(fit)
}

impl ToolPattern {
    /// Whether the pattern stands for this tool of this server.
    #[must_use]
    pub fn matches(&self, server: &str, tool: &str) -> bool {
        self.server.matches(server) && self.tool.matches(tool)
    }

    /// Server and tool of a pattern without a wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<(&str, &str)> {
        match self {
            Self { server: ServerPattern::Named(server), tool: NamePattern::Exact(tool) } => Some((server, tool)),
            _ => None,
        }
    }

    /// Whether every tool that `other` stands for is one of this pattern's.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        (self.server == ServerPattern::Any || self.server == other.server) && self.tool.covers(&other.tool)
    }

    /// Whether there could be a tool that both stand for.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let one = self.server == ServerPattern::Any || other.server == ServerPattern::Any;
        (one || self.server == other.server) && (self.tool.covers(&other.tool) || other.tool.covers(&self.tool))
    }
}

impl ServerPattern {
    /// Whether the pattern stands for this server.
    #[must_use]
    pub fn matches(&self, server: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(name) => **name == *server,
        }
    }
}

impl NamePattern {
    /// Whether the pattern stands for this tool.
    #[must_use]
    pub fn matches(&self, tool: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *tool,
            Self::Prefix(start) => tool.starts_with(&**start),
        }
    }

    /// Whether it stands for all of a server's tools.
    #[must_use]
    pub fn is_any(&self) -> bool {
        matches!(self, Self::Prefix(start) if start.is_empty())
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Prefix(start), Self::Prefix(longer)) => longer.starts_with(&**start),
            (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }
}

impl FromStr for ToolPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let (server, tool) = text.split_once('/').ok_or(NotAPattern::Tool)?;
        match (server.parse(), tool.parse()) {
            (Ok(server), Ok(tool)) => Ok(Self { server, tool }),
            _ => Err(NotAPattern::Tool),
        }
    }
}

impl FromStr for ServerPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        match text {
            "*" => Ok(Self::Any),
            name if is_name(name) => Ok(Self::Named(name.into())),
            _ => Err(NotAPattern::Server),
        }
    }
}

impl FromStr for NamePattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        match text.strip_suffix('*') {
            Some(start) if start.is_empty() || is_name(start) => Ok(Self::Prefix(start.into())),
            None if is_name(text) => Ok(Self::Exact(text.into())),
            _ => Err(NotAPattern::Name),
        }
    }
}

impl fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server, self.tool)
    }
}

impl fmt::Display for ServerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(start) => write!(f, "{start}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> ToolPattern {
        text.parse().unwrap()
    }

    /// Matching as one would write it down: a `*` takes any number of characters, everything else itself.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            [byte, rest @ ..] => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    #[test]
    fn patterns_are_written_as_they_are_read() {
        for text in ["crm-mcp/get_case", "crm-mcp/get_*", "crm-mcp/*", "*/http_request", "*/*", "a.b/c.d", "!/~*"] {
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = format!("a/{}", "x".repeat(257));
        for wrong in
            ["", "a", "/", "a/", "/b", "a*/b", "a/b*c", "a/*b", "a/**", "a/b/c", "a b/c", "a/b\n", "**/a", &long]
        {
            assert_eq!(wrong.parse::<ToolPattern>(), Err(NotAPattern::Tool), "{wrong:?}");
        }
    }

    #[test]
    fn names_are_printable_ascii() {
        // A Cyrillic a, a mark for the other direction, a space of no width, and what ends the ranges.
        for odd in ["g\u{430}t", "get\u{202e}", "\u{200b}get", "g\u{e9}t", "get\u{7f}", "ge\u{0}t", "\u{feff}get"] {
            assert_eq!(odd.parse::<NamePattern>(), Err(NotAPattern::Name), "{odd:?}");
            assert_eq!(format!("{odd}*").parse::<NamePattern>(), Err(NotAPattern::Name), "{odd:?}");
            assert_eq!(odd.parse::<ServerPattern>(), Err(NotAPattern::Server), "{odd:?}");
        }
    }

    #[test]
    fn upper_and_lower_case_differ() {
        assert!(!pattern("crm/get").matches("crm", "Get"));
        assert!(!pattern("crm/get*").matches("CRM", "get"));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_a_naive_reference(
            server in "\\*|[ab]{1,2}", tool in "[ab]{1,3}|[ab.]{0,3}\\*", s in "[ab]{0,3}", t in "[abA./]{0,5}",
        ) {
            let text = format!("{server}/{tool}");
            let expected = naive(server.as_bytes(), s.as_bytes()) && naive(tool.as_bytes(), t.as_bytes());
            prop_assert_eq!(pattern(&text).matches(&s, &t), expected, "{} {} {}", text, s, t);
        }

        #[test]
        fn covering_and_overlapping_are_about_the_tools_that_match(
            a in "(\\*|[ab])/([ab]{1,2}|[ab]{0,2}\\*)", b in "(\\*|[ab])/([ab]{1,2}|[ab]{0,2}\\*)", s in "[ab]", t in "[ab]{1,3}",
        ) {
            let (a, b) = (pattern(&a), pattern(&b));
            if b.matches(&s, &t) {
                prop_assert!(!a.covers(&b) || a.matches(&s, &t));
                prop_assert!(!a.matches(&s, &t) || a.overlaps(&b));
            }
        }
    }
}
