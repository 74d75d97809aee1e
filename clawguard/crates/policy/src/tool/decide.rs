//! Who may call which tool.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use super::{class::class_by_name, patterns::Patterns};
use crate::{
    contract::{GroupSpec, Profile, ToolLine, Tools},
    group::{Class, Group, Risk},
    host::McpServer,
};

/// A contract's rules for MCP tools, together with what the host knows of its servers. The default allows nothing.
///
/// - What `deny` names is denied, whatever else is said.
/// - A server that the host's configuration does not name is denied.
/// - What neither `allow` nor `approve` names is denied; without either, everything is.
/// - The profile `readonly` denies what does more than read.
/// - A tool of **high risk** is denied unless `allow` or `approve` names it without a wildcard; then it is held for a
///   person, unless `no_approval` names it too.
/// - What `approve` names is held for a person, whatever `no_approval` says.
///
/// **Risk** is the host's word for the server (`[[mcp.server]] risk`, high where it says nothing) or that of a group of
/// the contract that the tool belongs to, whichever is higher: neither lowers the other's. **Class** is the gravest whose
/// pattern in `[[mcp.server]] tools` names the tool, and where none does, the one that its name suggests
/// ([`class_by_name`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolPolicy {
    profile: Option<Profile>,
    allow: Rules,
    deny: Rules,
    approve: Rules,
    no_approval: Rules,
    groups: Vec<(Group, Option<Risk>, Patterns)>,
    servers: HashMap<String, McpServer>,
}

/// Patterns, and where in the contract they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    patterns: Patterns,
    paths: Vec<String>,
}

impl Rules {
    fn of(lines: &[ToolLine]) -> Self {
        Self {
            patterns: Patterns::of(lines.iter().map(|line| &line.pattern)),
            paths: lines.iter().map(|line| line.path.clone()).collect(),
        }
    }

    /// Where the first line stands that names a tool.
    fn first(&self, server: &str, tool: &str) -> Option<&str> {
        self.patterns.first(server, tool).and_then(|i| self.paths.get(i)).map(String::as_str)
    }

    /// The same of lines without wildcards.
    fn exact(&self, server: &str, tool: &str) -> Option<&str> {
        self.patterns.exact(server, tool).and_then(|i| self.paths.get(i)).map(String::as_str)
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolVerdict {
    /// It may be made.
    Allow,
    /// It waits for a person.
    Hold,
    /// It is not made.
    Deny(ToolReason),
}

/// Why a call is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ToolReason {
    /// The contract denies the tool.
    ToolDenied,
    /// The host's configuration does not name the server.
    UnknownServer,
    /// The contract does not allow the tool.
    ToolNotAllowed,
    /// The contract's profile is `readonly`, and the tool does more than read.
    ProfileReadonly,
    /// The tool's risk is high, and only a wildcard allows it.
    HighRiskNotNamed,
    /// What is called is no tool, and the contract's `mcp` does not allow it.
    McpNotAllowed,
}

/// A verdict with what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// What becomes of the call.
    pub verdict: ToolVerdict,
    /// The tool's risk.
    pub risk: Risk,
    /// The tool's class.
    pub class: Class,
    /// The groups that the tool belongs to: while any of them is killed, no call is made, whatever the verdict.
    pub groups: BTreeSet<Group>,
    /// Where in the contract the line stands that decided, if one did.
    pub rule: Option<&'a str>,
}

impl ToolReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ToolDenied,
        Self::UnknownServer,
        Self::ToolNotAllowed,
        Self::ProfileReadonly,
        Self::HighRiskNotNamed,
        Self::McpNotAllowed,
    ];

    /// The word for it in records, answers and metrics. It stays.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ToolDenied => "tool_denied",
            Self::UnknownServer => "unknown_server",
            Self::ToolNotAllowed => "tool_not_allowed",
            Self::ProfileReadonly => "profile_readonly",
            Self::HighRiskNotNamed => "high_risk_not_named",
            Self::McpNotAllowed => "mcp_not_allowed",
        }
    }

    /// The same for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::ToolDenied => "the contract denies the tool",
            Self::UnknownServer => "no [[mcp.server]] of this host has the server's name",
            Self::ToolNotAllowed => "the contract does not allow the tool",
            Self::ProfileReadonly => {
                "the contract's profile is readonly and the tool is not of class read; \
                 [[mcp.server]] tools says what a tool does where its name does not"
            }
            Self::HighRiskNotNamed => "its risk is high, and the contract names it only by a wildcard",
            Self::McpNotAllowed => "the contract's mcp does not allow it",
        }
    }
}

impl fmt::Display for ToolReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl ToolPolicy {
    /// The rules of a contract on a host.
    #[must_use]
    pub fn new(tools: Option<&Tools>, groups: &[GroupSpec], servers: &[McpServer]) -> Self {
        let none = Tools::default();
        let tools = tools.unwrap_or(&none);
        let groups = groups.iter().filter(|spec| !spec.tools.is_empty());
        Self {
            profile: tools.profile,
            allow: Rules::of(tools.allow.as_deref().unwrap_or_default()),
            deny: Rules::of(&tools.deny),
            approve: Rules::of(&tools.approve),
            no_approval: Rules::of(&tools.no_approval),
            groups: groups.map(|spec| (spec.name.clone(), spec.risk, Patterns::of(&spec.tools))).collect(),
            servers: servers.iter().map(|server| (server.name.clone(), server.clone())).collect(),
        }
    }

    /// The contract's groups that have tools.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(|(name, _, _)| name)
    }

    /// Whether any line gives a tool of a server, whatever others take of it.
    #[must_use]
    pub fn names(&self, server: &str) -> bool {
        self.servers.contains_key(server)
            && [&self.allow, &self.approve].iter().any(|rules| rules.patterns.names(server))
    }

    /// What becomes of a call.
    #[must_use]
    pub fn decide(&self, server: &str, tool: &str) -> ToolVerdict {
        self.judge(server, tool).verdict
    }

    /// What becomes of a call, and what that rests on.
    #[must_use]
    pub fn judge(&self, server: &str, tool: &str) -> Judgement<'_> {
        let known = self.servers.get(server);
        let of: Vec<_> = self.groups.iter().filter(|(_, _, tools)| tools.first(server, tool).is_some()).collect();
        let host = known.map_or(Risk::High, |known| known.risk);
        let risk = of.iter().filter_map(|(_, risk, _)| *risk).fold(host, Risk::max);
        let class = known.and_then(|known| known.class_of(tool)).unwrap_or_else(|| class_by_name(tool));
        let mut groups = BTreeSet::from([Group::all(), Group::tools(), Group::risk(risk), Group::class(class)]);
        groups.extend(known.iter().flat_map(|known| [Group::mcp(&known.name), Group::tool(&known.name, tool)]));
        groups.extend(of.iter().map(|(name, _, _)| name.clone()));
        let (verdict, rule) = self.verdict(known.is_some(), server, tool, risk, class);
        Judgement { verdict, risk, class, groups, rule }
    }

    fn verdict(&self, known: bool, server: &str, tool: &str, risk: Risk, class: Class) -> (ToolVerdict, Option<&str>) {
        let deny = |reason, rule| (ToolVerdict::Deny(reason), rule);
        if let Some(rule) = self.deny.first(server, tool) {
            return deny(ToolReason::ToolDenied, Some(rule));
        }
        if !known {
            return deny(ToolReason::UnknownServer, None);
        }
        let approve = self.approve.first(server, tool);
        let Some(rule) = approve.or_else(|| self.allow.first(server, tool)) else {
            return deny(ToolReason::ToolNotAllowed, None);
        };
        if self.profile == Some(Profile::Readonly) && class != Class::Read {
            return deny(ToolReason::ProfileReadonly, Some(rule));
        }
        let exact = |rules: &Rules| rules.exact(server, tool).is_some();
        let high = risk == Risk::High;
        if high && !exact(&self.allow) && !exact(&self.approve) {
            return deny(ToolReason::HighRiskNotNamed, Some(rule));
        }
        let held = approve.is_some() || (high && !exact(&self.no_approval));
        (if held { ToolVerdict::Hold } else { ToolVerdict::Allow }, Some(rule))
    }
}
