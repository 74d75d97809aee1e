//! Host names and the patterns that stand for them.

use std::{borrow::Borrow, collections::HashSet, fmt, str::FromStr};

/// A host name: lower case, ASCII, at least one label, no trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

/// A text that is no host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no host name: lower-case letters, digits and hyphens in labels, no trailing dot, no address")]
pub struct NotAName(pub String);

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names that this one lies below: for `a.b.c` these are `b.c` and `c`.
    pub fn parents(&self) -> impl Iterator<Item = Self> + '_ {
        self.parents_as_text().map(|parent| Self(parent.into()))
    }

    /// The same, for look-ups.
    pub(crate) fn parents_as_text(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').map(|(at, _)| &self.0[at + 1..])
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.len() <= 63 && label.bytes().all(fit) && !label.starts_with('-') && !label.ends_with('-')
}

impl FromStr for HostName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let last = text.rsplit('.').next().unwrap_or("");
        // A last label of digits is an address in some spelling or other (RFC 3696 section 2).
        let name = text.len() <= 253
            && text.split('.').all(is_label)
            && !last.bytes().all(|byte| byte.is_ascii_digit())
            && !last.starts_with("0x");
        if name { Ok(Self(text.into())) } else { Err(NotAName(text.chars().take(256).collect())) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A contract's way to name hosts: one host, or `*.x` for every host below `x` at any depth, but not `x` itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostPattern {
    /// This host.
    Exact(HostName),
    /// Every host below it.
    Below(HostName),
}

impl HostPattern {
    /// Whether the pattern stands for this host.
    #[must_use]
    pub fn matches(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(name) => host.0.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')),
        }
    }

    /// Whether every host that `other` stands for is one of this pattern's.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(host)) => self.matches(host),
            (Self::Below(_), Self::Below(name)) => *self == *other || self.matches(name),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }
}

impl FromStr for HostPattern {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        match text.strip_prefix("*.") {
            Some(name) => name.parse().map(Self::Below).map_err(|_| NotAName(text.chars().take(256).collect())),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// Patterns, to be asked whether one of them stands for a host or covers another pattern: by look-ups, not one by one.
pub(crate) struct Named<'a> {
    pub(crate) exact: HashSet<&'a HostName>,
    below: HashSet<&'a str>,
}

impl<'a> Named<'a> {
    pub(crate) fn of(patterns: impl Iterator<Item = &'a HostPattern>) -> Self {
        let mut named = Self { exact: HashSet::new(), below: HashSet::new() };
        for pattern in patterns {
            match pattern {
                HostPattern::Exact(name) => named.exact.insert(name),
                HostPattern::Below(name) => named.below.insert(name.as_str()),
            };
        }
        named
    }

    /// Whether a wildcard stands for the host.
    pub(crate) fn below(&self, name: &HostName) -> bool {
        !self.below.is_empty() && name.parents_as_text().any(|parent| self.below.contains(parent))
    }

    /// Whether one of the patterns covers this one.
    pub(crate) fn covers(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(name) => self.exact.contains(name) || self.below(name),
            HostPattern::Below(name) => self.below.contains(name.as_str()) || self.below(name),
        }
    }

    pub(crate) fn has(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(name) => self.exact.contains(name),
            HostPattern::Below(name) => self.below.contains(name.as_str()),
        }
    }

    /// The narrowest wildcard that covers this pattern and is not it.
    pub(crate) fn around(&self, pattern: &HostPattern) -> Option<HostPattern> {
        let (HostPattern::Exact(name) | HostPattern::Below(name)) = pattern;
        name.parents().find(|parent| self.below.contains(parent.as_str())).map(HostPattern::Below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    fn host(text: &str) -> HostName {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_stands_for_hosts_below_at_any_depth_but_not_for_the_apex() {
        let below = pattern("*.a.example");
        assert!(below.matches(&host("x.a.example")));
        assert!(below.matches(&host("y.x.a.example")));
        assert!(!below.matches(&host("a.example")));
        assert!(!below.matches(&host("evila.example")));
        assert!(!below.matches(&host("a.example.evil.test")));
    }

    #[test]
    fn names_have_one_spelling() {
        for wrong in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "A.example",
            "a_b.example",
            "-a.example",
            "a-.example",
            "*",
            "*.",
            "a.*.b",
            "*a.b",
            "10.1.2.3",
            "::1",
            "[::1]",
            "a b",
            "a/b",
            "a:443",
            "user@a",
            "0x7f000001",
            "1.2.0x3",
            "a.0",
            "é.example",
        ] {
            assert!(wrong.parse::<HostPattern>().is_err(), "{wrong:?}");
        }
        assert!("a".repeat(64).parse::<HostName>().is_err());
        assert!(format!("{}.example", "a.".repeat(130)).parse::<HostName>().is_err());
        assert!("xn--bcher-kva.example".parse::<HostName>().is_ok());
    }

    proptest! {
        #[test]
        fn matching_agrees_with_a_naive_reference(labels in prop::collection::vec("[ab]{1,2}", 1..5), suffix in 1_usize..4) {
            let name = labels.join(".");
            let below = labels[labels.len().saturating_sub(suffix)..].join(".");
            let naive = name.len() > below.len() && name[..name.len() - below.len()].ends_with('.') && name.ends_with(&below);
            prop_assert_eq!(HostPattern::Below(host(&below)).matches(&host(&name)), naive);
            prop_assert!(HostPattern::Exact(host(&name)).matches(&host(&name)));
        }

        #[test]
        fn covering_means_matching_everything_the_other_matches(a in "(\\*\\.)?([ab]\\.){0,2}[ab]", b in "(\\*\\.)?([ab]\\.){0,2}[ab]", h in "([ab]\\.){0,3}[ab]") {
            let (a, b, h) = (pattern(&a), pattern(&b), host(&h));
            if a.covers(&b) && b.matches(&h) {
                prop_assert!(a.matches(&h));
            }
        }
    }
}
