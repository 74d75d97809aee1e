//! What the host says of itself: its fixed addresses, its MCP servers, its model hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    group::{Class, Risk},
    models,
    name::{HostName, HostPattern},
    tool::NamePattern,
};

/// An MCP server as the host's configuration describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpServer {
    /// Its name, by which contracts call it.
    pub name: String,
    /// Host and port of its URL; `None` for a stdio server.
    pub endpoint: Option<(HostName, u16)>,
    /// How much harm it could do.
    pub risk: Risk,
    /// The gravest class among its tools.
    pub class: Class,
    /// `tools.read`: tools that change nothing.
    pub read: Vec<NamePattern>,
    /// `tools.write`: tools that change what can be changed back.
    pub write: Vec<NamePattern>,
    /// `tools.irreversible`: tools that change something for good.
    pub irreversible: Vec<NamePattern>,
}

impl McpServer {
    /// The gravest class whose patterns name a tool, if any do.
    #[must_use]
    pub fn class_of(&self, tool: &str) -> Option<Class> {
        [(&self.irreversible, Class::Irreversible), (&self.write, Class::Write), (&self.read, Class::Read)]
            .into_iter()
            .find(|(patterns, _)| patterns.iter().any(|pattern| pattern.matches(tool)))
            .map(|(_, class)| class)
    }
}

/// The facts under which a contract is compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// `[hosts]`: fixed addresses.
    pub hosts: BTreeMap<HostName, BTreeSet<IpAddr>>,
    /// `[[mcp.server]]`
    pub mcp_servers: Vec<McpServer>,
    /// Model hosts beyond the built-in list.
    pub model_hosts: BTreeSet<HostPattern>,
}

impl HostFacts {
    /// Whether a host serves models.
    #[must_use]
    pub fn is_model_host(&self, host: &HostName) -> bool {
        let configured = || models::listed_around(&self.model_hosts, &HostPattern::Exact(host.clone()));
        models::is_model_host(host.as_str()) || (!self.model_hosts.is_empty() && configured())
    }

    /// The MCP server of a name.
    #[must_use]
    pub fn mcp_server(&self, name: &str) -> Option<&McpServer> {
        self.mcp_servers.iter().find(|server| server.name == name)
    }
}
