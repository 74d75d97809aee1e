//! What else than tools may pass between an agent and a server.

use std::collections::HashMap;

use super::pattern::ResourcePattern;
use crate::{
    contract::{GroupSpec, Line, Mcp},
    group::{Class, Risk},
    host::{self, McpServer},
    tool::{ServerPattern, ToolPattern},
};

/// A contract's rules for what MCP has beside tools. The default allows nothing.
///
/// - A server that the host's configuration does not name is given nothing.
/// - What no line names is denied. There are no lines that deny.
/// - A line for any server (`*`) gives nothing of a server of **high risk**: that is named. The risk is the higher of the host's
///   word and those of the contract's groups that have any of the server's tools.
/// - The list of a server's resources may be had if a line gives any of them, and that of its prompts likewise; what is in the
///   list is decided one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct McpRules {
    rules: Mcp,
    /// The risks of the servers that the host knows.
    servers: HashMap<String, Risk>,
}

/// Something of MCP that is no tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What<'a> {
    /// The lists of resources and of their templates.
    Resources,
    /// A resource, to read it or be told of its changes.
    Resource(&'a str),
    /// The list of prompts.
    Prompts,
    /// A prompt.
    Prompt(&'a str),
    /// Completion of arguments. What they are arguments of is asked for as well.
    Completion,
    /// The server asks for an answer of the client's model.
    Sampling,
    /// The server has the client ask its user.
    Elicitation,
    /// The server has the client send its user to a URL.
    ElicitationUrl,
    /// The server asks for the client's roots, or is told that they changed.
    Roots,
    /// A call is made as a task, or such a task is asked for, awaited, listed or cancelled.
    Tasks,
    /// The level of the server's log is set.
    Logging,
}

impl What<'_> {
    /// Everything but single resources and prompts.
    pub const WHOLE: [Self; 9] = [
        Self::Resources,
        Self::Prompts,
        Self::Completion,
        Self::Sampling,
        Self::Elicitation,
        Self::ElicitationUrl,
        Self::Roots,
        Self::Tasks,
        Self::Logging,
    ];

    /// What it does, as for tools: what hands a server something of the client's writes.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Sampling | Self::Elicitation | Self::ElicitationUrl | Self::Roots => Class::Write,
            Self::Resources
            | Self::Resource(_)
            | Self::Prompts
            | Self::Prompt(_)
            | Self::Completion
            | Self::Tasks
            | Self::Logging => Class::Read,
        }
    }

    /// The member of `mcp` that would give it.
    #[must_use]
    pub const fn member(self) -> &'static str {
        match self {
            Self::Resources | Self::Resource(_) => "resources",
            Self::Prompts | Self::Prompt(_) => "prompts",
            Self::Completion => "completion",
            Self::Sampling => "sampling",
            Self::Elicitation => "elicitation",
            Self::ElicitationUrl => "elicitation_url",
            Self::Roots => "roots",
            Self::Tasks => "tasks",
            Self::Logging => "logging",
        }
    }
}

impl McpRules {
    /// The rules of a contract on a host.
    #[must_use]
    pub fn new(mcp: Option<&Mcp>, groups: &[GroupSpec], servers: &[McpServer]) -> Self {
        let risk = |server: &McpServer| (server.name.clone(), host::risk_of(server, groups));
        Self { rules: mcp.cloned().unwrap_or_default(), servers: servers.iter().map(risk).collect() }
    }

    /// Whether it may pass.
    #[must_use]
    pub fn may(&self, server: &str, what: What<'_>) -> bool {
        self.rule(server, what).is_some()
    }

    /// Where in the contract the line stands that gives it, if one does.
    #[must_use]
    pub fn rule(&self, server: &str, what: What<'_>) -> Option<&str> {
        let risk = *self.servers.get(server)?;
        let named = |pattern: &ServerPattern| match pattern {
            ServerPattern::Any => risk < Risk::High,
            ServerPattern::Named(name) => **name == *server,
        };
        let rules = &self.rules;
        let of_server = |lines: &'_ [Line<ServerPattern>]| lines.iter().position(|line| named(&line.pattern));
        let resource = |fit: &dyn Fn(&ResourcePattern) -> bool| {
            first(&rules.resources, |pattern| named(&pattern.server) && fit(pattern))
        };
        let prompt = |fit: &dyn Fn(&ToolPattern) -> bool| {
            first(&rules.prompts, |pattern| named(&pattern.server) && fit(pattern))
        };
        let lines = match what {
            What::Resources => return resource(&|_| true),
            What::Resource(uri) => return resource(&|pattern| pattern.uri.matches(uri)),
            What::Prompts => return prompt(&|_| true),
            What::Prompt(name) => return prompt(&|pattern| pattern.tool.matches(name)),
            What::Completion => &rules.completion,
            What::Sampling => &rules.sampling,
            What::Elicitation => &rules.elicitation,
            What::ElicitationUrl => &rules.elicitation_url,
            What::Roots => &rules.roots,
            What::Tasks => &rules.tasks,
            What::Logging => &rules.logging,
        };
        of_server(lines).and_then(|i| lines.get(i)).map(|line| line.path.as_str())
    }
}

fn first<P>(lines: &[Line<P>], fit: impl Fn(&P) -> bool) -> Option<&str> {
    lines.iter().find(|line| fit(&line.pattern)).map(|line| line.path.as_str())
}
