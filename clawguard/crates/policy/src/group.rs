//! Groups of endpoints and tools: what a switch takes away at once.

use std::{borrow::Borrow, fmt, str::FromStr};

use clawguard_common::group;
use serde::{Deserialize, Serialize};

/// The name of a group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(Box<str>);

/// A text that names no group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" names no group: lower-case letters, digits, \"-\", \"_\", \".\" and \":\", at most 64, are expected, or tool:SERVER/TOOL"
)]
pub struct NotAGroup(pub String);

/// How the group of a single tool begins.
const TOOL: &str = "tool:";

/// The groups that every host has, with their numbers.
const BUILT_IN: [(&str, usize); 10] = [
    ("all", group::ALL),
    // Not an operator's word: it is what mode `tools-off` kills.
    ("mode:tools-off", group::TOOLS),
    ("model", group::MODEL),
    ("channel", group::CHANNEL),
    ("risk:low", group::RISK_LOW),
    ("risk:medium", group::RISK_MEDIUM),
    ("risk:high", group::RISK_HIGH),
    ("class:read", group::CLASS_READ),
    ("class:write", group::CLASS_WRITE),
    ("class:irreversible", group::CLASS_IRREVERSIBLE),
];

impl Group {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self("all".into())
    }

    /// What mode `tools-off` kills.
    #[must_use]
    pub fn tools() -> Self {
        Self("mode:tools-off".into())
    }

    /// Model calls.
    #[must_use]
    pub fn model() -> Self {
        Self("model".into())
    }

    /// Chat and messaging.
    #[must_use]
    pub fn channel() -> Self {
        Self("channel".into())
    }

    /// The group of a risk.
    #[must_use]
    pub fn risk(risk: Risk) -> Self {
        Self(format!("risk:{risk}").into())
    }

    /// The group of a class of actions.
    #[must_use]
    pub fn class(class: Class) -> Self {
        Self(format!("class:{class}").into())
    }

    /// The group of an MCP server.
    #[must_use]
    pub fn mcp(server: &str) -> Self {
        Self(format!("mcp:{server}").into())
    }

    /// The group of a single tool, by its exact name. No other has an upper-case letter or a slash in its name.
    #[must_use]
    pub fn tool(server: &str, tool: &str) -> Self {
        Self(format!("{TOOL}{server}/{tool}").into())
    }

    /// Server and tool, if it is a single tool's group.
    #[must_use]
    pub fn tool_of(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix(TOOL)?.split_once('/')
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its number, if every host has it.
    #[must_use]
    pub fn built_in(&self) -> Option<usize> {
        BUILT_IN.iter().find(|(name, _)| **name == *self.0).map(|(_, number)| *number)
    }

    /// Whether a contract may define it: not one of the built-in ones, and not in their name spaces.
    #[must_use]
    pub fn definable(&self) -> bool {
        !self.0.contains(':') && (self.built_in().is_none() || *self == Self::channel() || *self == Self::model())
    }

    /// All built-in groups with their numbers.
    pub fn built_ins() -> impl Iterator<Item = (Self, usize)> {
        BUILT_IN.iter().map(|(name, number)| (Self((*name).into()), *number))
    }
}

impl FromStr for Group {
    type Err = NotAGroup;

    fn from_str(text: &str) -> Result<Self, NotAGroup> {
        let fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:".contains(&byte);
        let plain = !text.is_empty() && text.len() <= 64 && text.bytes().all(fit);
        let server =
            |name: &str| !name.is_empty() && name.len() <= 60 && name.bytes().all(|b| fit(b) && b != b'.' && b != b':');
        // No wildcard: what looks like one would take nothing away.
        let name = |name: &str| {
            !name.is_empty() && name.len() <= 256 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*')
        };
        let single = text.strip_prefix(TOOL).and_then(|rest| rest.split_once('/'));
        let plain = plain || single.is_some_and(|(of, tool)| server(of) && name(tool));
        if plain { Ok(Self(text.into())) } else { Err(NotAGroup(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for Group {
    type Error = NotAGroup;

    fn try_from(text: String) -> Result<Self, NotAGroup> {
        text.parse()
    }
}

impl From<Group> for String {
    fn from(group: Group) -> Self {
        group.0.into()
    }
}

impl Borrow<str> for Group {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much harm a tool or server could do. What nobody has judged is high.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Reads what anybody may read.
    Low,
    /// Changes what can be changed back.
    Medium,
    /// Runs code, changes infrastructure, sees secrets.
    High,
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

impl FromStr for Risk {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "low" => Ok(Self::Low),
            "medium" => Ok(Self::Medium),
            "high" => Ok(Self::High),
            _ => Err(()),
        }
    }
}

/// What an action does. What nobody has judged is irreversible.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Changes nothing.
    Read,
    /// Changes something that can be changed back.
    Write,
    /// Changes something for good.
    Irreversible,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Irreversible => "irreversible",
        })
    }
}

impl FromStr for Class {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "irreversible" => Ok(Self::Irreversible),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_groups_have_fixed_numbers_below_the_named_ones() {
        let mut numbers: Vec<_> = Group::built_ins().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..group::FIRST_NAMED).collect::<Vec<_>>());
        assert_eq!(Group::risk(Risk::High).built_in(), Some(group::RISK_HIGH));
    }

    #[test]
    fn contracts_define_no_built_in_group() {
        for name in ["crm", "db-2", "channel", "model"] {
            assert!(name.parse::<Group>().unwrap().definable(), "{name}");
        }
        for name in ["all", "mode:tools-off", "risk:high", "class:read", "mcp:crm", "x:y"] {
            assert!(!name.parse::<Group>().unwrap().definable(), "{name}");
        }
        for wrong in ["", "CRM", "a b", "ä", &"a".repeat(65)] {
            assert!(wrong.parse::<Group>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_single_tool_is_a_group_by_its_exact_name() {
        for (server, tool) in
            [("crm-mcp", "get_case"), ("crm", "DeleteCase"), ("a_1", "a/b.c"), ("crm", &"x".repeat(256))]
        {
            let group = Group::tool(server, tool);
            assert_eq!(group.as_str().parse(), Ok(group.clone()));
            assert_eq!((group.tool_of(), group.definable(), group.built_in()), (Some((server, tool)), false, None));
        }
        let long = format!("tool:crm/{}", "x".repeat(257));
        for wrong in
            ["tool:crm/", "tool:/x", "tool:crm/get_*", "tool:CRM/x", "tool:a.b/x", "tool:crm/a b", "crm/x", &long]
        {
            assert!(wrong.parse::<Group>().is_err(), "{wrong:?}");
        }
        assert_eq!("mcp:crm".parse::<Group>().unwrap().tool_of(), None);
    }
}
