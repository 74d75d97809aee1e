//! What the host says of itself: its fixed addresses, its MCP servers, its model hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clawguard_common::Addr;

use crate::{
    contract::GroupSpec,
    group::{Class, Risk},
    models,
    name::{HostName, HostPattern},
    net,
    tool::NamePattern,
};

/// An MCP server as the host's configuration describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpServer {
    /// Its name, by which contracts call it.
    pub name: String,
    /// Host or address, and port, of its URL; `None` for a stdio server.
    pub endpoint: Option<(At, u16)>,
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

/// Where a server is, as its URL says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// At whatever address the name has.
    Name(HostName),
    /// At this address.
    Address(IpAddr),
}

impl McpServer {
    /// A server whose class as a whole is that of what its gravest tool could be: one that nobody classified is irreversible.
    #[must_use]
    pub fn new(name: String, endpoint: Option<(At, u16)>, risk: Risk, tools: [Vec<NamePattern>; 3]) -> Self {
        let [read, write, irreversible] = tools;
        let all = |patterns: &[NamePattern]| patterns.iter().any(NamePattern::is_any);
        let class = if !irreversible.is_empty() {
            Class::Irreversible
        } else if all(&write) || (all(&read) && !write.is_empty()) {
            Class::Write
        } else if all(&read) {
            Class::Read
        } else {
            Class::Irreversible
        };
        Self { name, endpoint, risk, class, read, write, irreversible }
    }

    /// The host that its URL names, if it names one.
    #[must_use]
    pub fn host(&self) -> Option<&HostName> {
        match &self.endpoint {
            Some((At::Name(name), _)) => Some(name),
            Some((At::Address(_), _)) | None => None,
        }
    }

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
    /// Where models answer that are called by their bare address.
    pub model_places: BTreeSet<(Addr, u16)>,
    /// Whether the gateway makes model calls, so that there is a way to models which a contract's rules for them hold on.
    pub model_gateway: bool,
}

impl HostFacts {
    /// Whether a host serves models.
    #[must_use]
    pub fn is_model_host(&self, host: &HostName) -> bool {
        let configured = || models::listed_around(&self.model_hosts, &HostPattern::Exact(host.clone()));
        models::is_model_host(host.as_str()) || (!self.model_hosts.is_empty() && configured())
    }

    /// Whether a model answers at a place that is called by its bare address. One that is on loopback is taken to be at every address
    /// of loopback, as [`HostFacts::servers_at`] takes servers.
    #[must_use]
    pub fn is_model_place(&self, addr: Addr, port: u16) -> bool {
        let addr = addr.as_destination();
        let on_loopback = |(place, at): &(Addr, u16)| *at == port && place.is_loopback();
        self.model_places.contains(&(addr, port)) || (addr.is_loopback() && self.model_places.iter().any(on_loopback))
    }

    /// Where a server is known to be: the address of its URL, or those that `[hosts]` gives the URL's host, with the port.
    /// `localhost` needs no `[hosts]`.
    pub fn places<'a>(&'a self, server: &'a McpServer) -> impl Iterator<Item = (Addr, u16)> + 'a {
        server.endpoint.iter().flat_map(|(at, port)| {
            let found: Vec<Addr> = match at {
                At::Address(address) => vec![net::addr(*address)],
                At::Name(name) => {
                    let own = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                    let here = own.into_iter().filter(|_| is_localhost(name));
                    here.chain(self.hosts.get(name).into_iter().flatten().copied()).map(net::addr).collect()
                }
            };
            found.into_iter().map(|addr| (addr, *port))
        })
    }

    /// The servers at an address and port. One that is on loopback is taken to be at every address of loopback: what listens
    /// there may listen at all of them.
    pub fn servers_at(&self, addr: Addr, port: u16) -> impl Iterator<Item = &McpServer> {
        let addr = addr.as_destination();
        let here = move |(place, at): (Addr, u16)| {
            at == port && (place == addr || (place.is_loopback() && addr.is_loopback()))
        };
        self.mcp_servers.iter().filter(move |server| self.places(server).any(here))
    }

    /// The MCP server of a name.
    #[must_use]
    pub fn mcp_server(&self, name: &str) -> Option<&McpServer> {
        self.mcp_servers.iter().find(|server| server.name == name)
    }
}

/// RFC 6761 section 6.3.
fn is_localhost(name: &HostName) -> bool {
    name.as_str() == "localhost" || name.as_str().ends_with(".localhost")
}

/// The groups of a contract that any of a server's tools belongs to.
pub(crate) fn groups_of<'a>(server: &McpServer, groups: &'a [GroupSpec]) -> impl Iterator<Item = &'a GroupSpec> {
    groups.iter().filter(|spec| spec.tools.iter().any(|pattern| pattern.server.matches(&server.name)))
}

/// The risk of a server as a whole: the highest that the host, or one of these groups, gives any of its tools.
pub(crate) fn risk_of(server: &McpServer, groups: &[GroupSpec]) -> Risk {
    groups_of(server, groups).filter_map(|spec| spec.risk).fold(server.risk, Risk::max)
}
