//! How resources are named.
//!
//! ```text
//! pattern = server "/" uri          docs/file:///srv/docs/*   docs/file:///srv/docs/a.md   docs/*   */*
//! server  = "*" / name              any server, or this one, as in tool/pattern.rs
//! uri     = text / [text] "*"       this resource, or every resource whose URI begins so
//! text    = 1 to 2048 characters of printable ASCII (0x21 to 0x7e) without "*"
//! ```
//!
//! A server's name has no `/`, so the first `/` ends it and all others belong to the URI. Matching is exact: bytes are
//! compared, upper and lower case differ, nothing is decoded or put in order.
//!
//! Therefore a wildcard that has something before it stands only for URIs of printable ASCII that lead nowhere else than
//! where they begin: one with a segment `.` or `..`, however often it is percent-encoded, is given by its exact text or by
//! `*` alone, which gives everything. And what goes before the `*` of an `http` or `https` URI must have the host's whole
//! name in it (`https://docs.example/*`): `https://docs.example*` would stand for `https://docs.example.net/` too.

use std::{borrow::Cow, fmt, str::FromStr};

use crate::tool::{NotAPattern, ServerPattern};

/// Resources of one server or of all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ResourcePattern {
    /// Whose.
    pub server: ServerPattern,
    /// Which.
    pub uri: UriPattern,
}

/// One resource, or all whose URIs begin alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum UriPattern {
    /// This one.
    Exact(Box<str>),
    /// Every one whose URI begins so; `*` is the one with nothing before it.
    Prefix(Box<str>),
}

const LONGEST: usize = 2048;

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_text(text: &str) -> bool {
    text.len() <= LONGEST && is_plain(text) && !text.contains('*')
}

impl ResourcePattern {
    /// Whether the pattern stands for this resource of this server.
    #[must_use]
    pub fn matches(&self, server: &str, uri: &str) -> bool {
        self.server.matches(server) && self.uri.matches(uri)
    }

    /// Whether every resource that `other` stands for is one of this pattern's.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        (self.server == ServerPattern::Any || self.server == other.server) && self.uri.covers(&other.uri)
    }
}

impl UriPattern {
    /// Whether the pattern stands for this resource.
    #[must_use]
    pub fn matches(&self, uri: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *uri,
            Self::Prefix(start) => {
                start.is_empty()
                    || (uri.starts_with(&**start) && uri.len() <= LONGEST && is_plain(uri) && !wanders(uri))
            }
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(uri)) => self.matches(uri),
            (Self::Prefix(start), Self::Prefix(longer)) => longer.starts_with(&**start),
            (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }
}

/// Whether a URI has a segment `.` or `..`, or something that is one once it is decoded.
fn wanders(uri: &str) -> bool {
    let mut text = Cow::Borrowed(uri.as_bytes());
    loop {
        let mut segments = text.split(|byte| b"/\\?#&=;:".contains(byte));
        if segments.any(|segment| matches!(segment, b"." | b"..")) {
            return true;
        }
        // Each turn makes it shorter.
        match decoded(&text) {
            Some(shorter) => text = Cow::Owned(shorter),
            None => return false,
        }
    }
}

/// The text with its `%XX` decoded, if there are any.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut found = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        let pair = match (byte, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match pair {
            Some((high, low)) => {
                found.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None => found.push(*byte),
        }
    }
    (found.len() < text.len()).then_some(found)
}

impl FromStr for ResourcePattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let (server, uri) = text.split_once('/').ok_or(NotAPattern::Resource)?;
        let server = server.parse().map_err(|_| NotAPattern::Resource)?;
        Ok(Self { server, uri: uri.parse()? })
    }
}

impl FromStr for UriPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        match text.strip_suffix('*') {
            Some(start) if !is_text(start) => Err(NotAPattern::Resource),
            Some(start) if within_host(start) => Err(NotAPattern::HostPart),
            Some(start) => Ok(Self::Prefix(start.into())),
            None if is_text(text) && !text.is_empty() => Ok(Self::Exact(text.into())),
            None => Err(NotAPattern::Resource),
        }
    }
}

/// Whether the beginning of a URI ends before a host's name does.
fn within_host(start: &str) -> bool {
    let Some((scheme, rest)) = start.split_once("://") else { return false };
    let of_host = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    of_host && !rest.is_empty() && !rest.contains('/')
}

impl fmt::Display for ResourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server, self.uri)
    }
}

impl fmt::Display for UriPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(uri) => f.write_str(uri),
            Self::Prefix(start) => write!(f, "{start}*"),
        }
    }
}
