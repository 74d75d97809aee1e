//! What the host knows to stand behind an address: MCP servers, and model providers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use clawguard_common::{Addr, Reason, protocol, side};

use super::{Compiler, Error, Rule, Source};
use crate::{
    contract::{Contract, Tools},
    finding::Outcome,
    group::{Class, Group, Risk},
    host::{self, At, HostFacts, McpServer},
    name::HostName,
    net::{self, Cidr},
    special,
};

/// The MCP servers behind one address and port, taken together.
#[derive(Clone, Debug)]
pub(super) struct Behind {
    /// Their groups, and those of the contract's that any of their tools belongs to.
    pub(super) groups: BTreeSet<Group>,
    pub(super) risk: Risk,
    pub(super) class: Class,
    /// The server and the tool rule for which the place stays closed: an open one would not hold an agent to it.
    pub(super) closed: Option<(String, &'static str)>,
}

impl Behind {
    fn of(server: &McpServer, contract: &Contract) -> Self {
        let specs = &contract.guard.groups;
        let risk = host::risk_of(server, specs);
        let closed = tool_rule_about(contract.guard.tools.as_ref(), server, risk);
        let own = host::groups_of(server, specs).map(|spec| spec.name.clone());
        Self {
            groups: own.chain([Group::mcp(&server.name)]).collect(),
            risk,
            class: server.class,
            closed: closed.map(|rule| (server.name.clone(), rule)),
        }
    }

    pub(super) fn joined(mut self, other: Self) -> Self {
        self.join(other);
        self
    }

    fn join(&mut self, other: Self) {
        self.groups.extend(other.groups);
        self.risk = self.risk.max(other.risk);
        self.class = self.class.max(other.class);
        self.closed = self.closed.take().or(other.closed);
    }
}

/// Everything that is known to stand somewhere.
#[derive(Debug, Default)]
pub(super) struct Places {
    servers: BTreeMap<(Addr, u16), Behind>,
    /// The same by the name that the configuration gives.
    named: HashMap<(HostName, u16), Behind>,
    models: BTreeSet<Addr>,
}

impl Places {
    pub(super) fn of(contract: &Contract, host: &HostFacts) -> Self {
        let mut places = Self::default();
        for server in &host.mcp_servers {
            let behind = Behind::of(server, contract);
            if let Some((At::Name(name), port)) = &server.endpoint {
                let called = places.named.entry((name.clone(), *port));
                called.and_modify(|there| there.join(behind.clone())).or_insert_with(|| behind.clone());
            }
            for (address, port) in host.places(server) {
                let place = places.servers.entry((net::addr(address), port));
                place.and_modify(|there| there.join(behind.clone())).or_insert_with(|| behind.clone());
            }
        }
        for (name, addresses) in &host.hosts {
            if host.is_model_host(name) {
                places.models.extend(addresses.iter().map(|address| net::addr(*address)));
            }
        }
        places
    }

    /// The servers behind a port of these addresses.
    pub(super) fn behind<'a>(&self, addresses: impl IntoIterator<Item = &'a IpAddr>, port: u16) -> Option<Behind> {
        let found = addresses.into_iter().filter_map(|address| self.servers.get(&(net::addr(*address), port)));
        found.cloned().reduce(Behind::joined)
    }

    /// The servers that have this name and port in the configuration.
    pub(super) fn called(&self, name: &HostName, port: u16) -> Option<Behind> {
        if self.named.is_empty() { None } else { self.named.get(&(name.clone(), port)).cloned() }
    }

    /// Whether a server is behind any port of these addresses.
    pub(super) fn serves<'a>(&self, addresses: impl IntoIterator<Item = &'a IpAddr>) -> bool {
        let any = |addr| self.servers.range((addr, 0)..=(addr, u16::MAX)).next().is_some();
        addresses.into_iter().any(|address| any(net::addr(*address)))
    }

    /// The servers behind a port of this one address.
    pub(super) fn at(&self, address: Addr, port: u16) -> Option<Behind> {
        self.servers.get(&(address, port)).cloned()
    }
}

impl Compiler<'_> {
    /// What is known to be a model's or an MCP server's address, and what no entry opens by itself, is held back even inside a
    /// range that one opens: a range says nothing about tools, and a model has its own way.
    pub(super) fn hold_back_known_places(&mut self) -> Result<(), Error> {
        let outward = |rule: &&Rule| rule.side == side::EGRESS && rule.reason == Reason::Allowed;
        let opened: BTreeSet<(u8, u16, Addr)> = self
            .rules
            .iter()
            .filter(outward)
            .filter(|rule| rule.range.bits == 128)
            .map(|rule| (rule.protocol, rule.port, rule.range.addr))
            .collect();
        let mut wide: BTreeMap<(u8, u16), Vec<(Cidr, u32)>> = BTreeMap::new();
        for rule in self.rules.iter().filter(outward).filter(|rule| rule.range.bits < 128) {
            wide.entry((rule.protocol, rule.port)).or_default().push((rule.range, rule.number));
        }
        // Told by name in every case, so that an attempt is known for what it is.
        let told = [(protocol::TCP, 443), (protocol::TCP, 80), (protocol::UDP, 443)];
        let mut holes: BTreeSet<(u8, u16, Addr, Reason)> = BTreeSet::new();
        for address in &self.places.models {
            let around = |(place, ranges): (&(u8, u16), &Vec<(Cidr, u32)>)| {
                ranges.iter().any(|(range, _)| range.contains(*address)).then_some(*place)
            };
            for (protocol, port) in told.into_iter().chain(wide.iter().filter_map(around)) {
                holes.insert((protocol, port, *address, Reason::ModelDirect));
            }
        }
        let mut withheld = Vec::new();
        for ((address, port), behind) in &self.places.servers {
            for protocol in [protocol::TCP, protocol::UDP] {
                let ranges = wide.get(&(protocol, *port)).into_iter().flatten();
                for (_, number) in ranges.filter(|(range, _)| range.contains(*address)) {
                    if holes.contains(&(protocol, *port, *address, Reason::ModelDirect)) {
                        continue;
                    }
                    holes.insert((protocol, *port, *address, Reason::NotInContract));
                    let servers: Vec<&str> = behind.groups.iter().map(Group::as_str).collect();
                    withheld.push((*number, *address, *port, servers.join(" ")));
                }
            }
        }
        let models = self.set(BTreeSet::from([Group::all(), Group::model()]))?;
        let others = self.set(BTreeSet::from([Group::all()]))?;
        for (protocol, port, address, reason) in holes {
            if !opened.contains(&(protocol, port, address)) {
                let set = if reason == Reason::ModelDirect { models } else { others };
                let range = Cidr::host(address);
                self.rules.push(Rule::held_back(side::EGRESS, protocol, port, range, set, reason));
            } else {
                withheld.retain(|(_, at, on, _)| (*at, *on) != (address, port));
            }
        }
        for (number, address, port, servers) in withheld {
            let path = Source::from_number(number).map_or_else(String::new, Source::path);
            let note = format!("holds back {} port {port}, an MCP server ({servers}): name its host", net::ip(address));
            self.found(path, Outcome::Denied, note);
        }
        Ok(())
    }

    fn receipts(&self) -> bool {
        self.contract.guard.model.as_ref().is_some_and(|model| model.require_proxy_receipts)
    }

    /// The first member of the contract, if any, for which model calls would have to be mediated.
    pub(super) fn mediation(&self) -> Option<&'static str> {
        let contract = self.contract;
        let rules = [
            (self.receipts(), contract.form.receipts()),
            (contract.allowed_providers.is_some(), "allowed_providers"),
            (contract.allowed_models.is_some(), "allowed_models"),
            (!contract.model_rules.is_empty(), contract.model_rules.first().map_or("", |(name, _)| name)),
        ];
        rules.into_iter().find(|(there, _)| *there).map(|(_, path)| path)
    }

    /// A contract that wants every model call mediated, or certain models only, may open no way to a model: nothing here would
    /// hold the agent to it.
    pub(super) fn refuse_models_without_rules(&self) -> Result<(), Error> {
        let contract = self.contract;
        let receipts = self.receipts();
        let Some(path) = self.mediation() else { return Ok(()) };
        let refuse = |number: u32, what: &str| {
            let source = Source::from_number(number).map_or_else(String::new, Source::path);
            Err(Error::Unenforceable {
                path: path.into(),
                why: format!("{source} opens {what}, which nothing mediates"),
            })
        };
        for rule in self.rules.iter().filter(|rule| rule.side == side::EGRESS && rule.reason == Reason::Allowed) {
            if rule.range.bits == 128 && self.places.models.contains(&rule.range.addr) {
                return refuse(rule.number, "a model host's address");
            }
            let private = special::all().iter().any(|special| special.range.covers(rule.range));
            if receipts && rule.range.bits < 128 && !private {
                return refuse(rule.number, "a public range, in which any model host may lie");
            }
        }
        let named = contract.guard.egress.iter().position(|entry| entry.groups.contains(&Group::model()));
        match named.filter(|_| receipts) {
            Some(n) => refuse(Source::Egress(n as u32).number(), "what the contract itself calls a model"),
            None => Ok(()),
        }
    }
}

/// The tool rule, if any, that says something about this server which an open endpoint would not hold an agent to.
fn tool_rule_about(tools: Option<&Tools>, server: &McpServer, risk: Risk) -> Option<&'static str> {
    let tools = tools?;
    let about =
        |lines: &[crate::contract::ToolLine]| lines.iter().any(|line| line.pattern.server.matches(&server.name));
    if about(&tools.deny) {
        return Some("tools.deny");
    }
    if about(&tools.approve) {
        return Some("tools.approve");
    }
    let whole =
        |line: &crate::contract::ToolLine| line.pattern.server.matches(&server.name) && line.pattern.tool.is_any();
    // Absent allows nothing, once there is a `tools`.
    if !tools.allow.iter().flatten().any(whole) {
        return Some("tools.allow");
    }
    // A wildcard gives no tool of high risk.
    (risk == Risk::High).then_some("the risk, which is high,")
}
