//! What the host knows to stand behind an address: MCP servers, and model providers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use clawguard_common::{Addr, Reason, protocol, side};

use super::{Compiler, Error, Rule, Source};
use crate::{
    contract::Contract,
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
    /// The servers.
    pub(super) servers: BTreeSet<String>,
    /// The rules of the contract for which the place stays closed: an open one would not hold an agent to it.
    pub(super) closed: Option<Mediated>,
}

impl Behind {
    fn of(server: &McpServer, contract: &Contract) -> Self {
        let specs = &contract.guard.groups;
        let risk = host::risk_of(server, specs);
        let own = host::groups_of(server, specs).map(|spec| spec.name.clone());
        Self {
            groups: own.chain([Group::mcp(&server.name)]).collect(),
            risk,
            class: server.class,
            servers: BTreeSet::from([server.name.clone()]),
            closed: Mediated::of(contract),
        }
    }

    /// The servers, as they are told of.
    pub(super) fn told(&self) -> String {
        let names: Vec<&str> = self.servers.iter().map(String::as_str).collect();
        format!("the MCP server {}", names.join(" and "))
    }

    pub(super) fn joined(mut self, other: Self) -> Self {
        self.join(other);
        self
    }

    fn join(&mut self, other: Self) {
        self.groups.extend(other.groups);
        self.risk = self.risk.max(other.risk);
        self.class = self.class.max(other.class);
        self.servers.extend(other.servers);
        self.closed = self.closed.or(other.closed);
    }
}

/// Everything that is known to stand somewhere.
#[derive(Debug, Default)]
pub(super) struct Places {
    servers: BTreeMap<(Addr, u16), Behind>,
    /// The same by the name that the configuration gives.
    named: BTreeMap<(HostName, u16), Behind>,
    /// Those on loopback, by port: what listens there may listen at all of its addresses.
    loopback: BTreeMap<u16, Behind>,
    models: BTreeSet<Addr>,
}

impl Places {
    pub(super) fn of(contract: &Contract, host: &HostFacts) -> Self {
        let mut places = Self::default();
        for server in &host.mcp_servers {
            let behind = Behind::of(server, contract);
            if let Some((At::Name(name), port)) = &server.endpoint {
                put(&mut places.named, (name.clone(), *port), &behind);
            }
            for (addr, port) in host.places(server) {
                put(&mut places.servers, (addr, port), &behind);
                if addr.is_loopback() {
                    put(&mut places.loopback, port, &behind);
                }
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
        addresses.into_iter().filter_map(|address| self.at(net::addr(*address), port)).reduce(Behind::joined)
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
    fn at(&self, addr: Addr, port: u16) -> Option<Behind> {
        let here = addr.as_destination();
        self.servers.get(&(here, port)).or_else(|| self.loopback.get(&port).filter(|_| here.is_loopback())).cloned()
    }

    /// The servers behind a port of a range that is one address, or lies on loopback. A wider one says nothing of them: they are
    /// held back in it.
    pub(super) fn within(&self, range: Cidr, port: u16) -> Option<Behind> {
        match range.bits {
            128 => self.at(range.addr, port),
            104.. if range.addr.is_loopback() => self.loopback.get(&port).cloned(),
            _ => None,
        }
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
        for (address, port) in &self.host.model_places {
            holes.insert((protocol::TCP, *port, *address, Reason::ModelDirect));
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
                    withheld.push((*number, *address, *port, behind.told()));
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
            let way = if self.contract.speaks_of_mcp() { "the gateway is the way there" } else { "name its host" };
            let note = format!("holds back {} port {port}, {servers}: {way}", net::ip(address));
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

    /// What is wrong with an endpoint that opens a model.
    pub(super) const fn around(&self) -> &'static str {
        if self.host.model_gateway { "a way around the model gateway" } else { "which nothing mediates" }
    }

    /// Whether a port of a range is that of a model's bare address. Of a wider range that is no one's place: it is held back there.
    pub(super) fn leads_to_models(&self, range: Cidr, port: u16) -> bool {
        let one = range.bits == 128 || (range.bits >= 104 && range.addr.is_loopback());
        one && self.host.is_model_place(range.addr, port)
    }

    /// Why a model's own host stays closed where the gateway makes the calls.
    pub(super) fn way_to_models(&self) -> String {
        format!(
            "the contract has {}, so that the model gateway is the only way there",
            self.mediation().unwrap_or("rules for models")
        )
    }

    /// A contract that wants every model call mediated, or certain models only, may open no way to a model: nothing here would
    /// hold the agent to it.
    pub(super) fn refuse_models_without_rules(&self) -> Result<(), Error> {
        let contract = self.contract;
        let receipts = self.receipts();
        let Some(path) = self.mediation() else { return Ok(()) };
        let refuse = |number: u32, what: &str| {
            let source = Source::from_number(number).map_or_else(String::new, Source::path);
            Err(Error::Unenforceable { path: path.into(), why: format!("{source} opens {what}, {}", self.around()) })
        };
        for rule in self.rules.iter().filter(|rule| rule.side == side::EGRESS && rule.reason == Reason::Allowed) {
            let known = || self.places.models.contains(&rule.range.addr);
            if (rule.range.bits == 128 && known()) || self.leads_to_models(rule.range, rule.port) {
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

fn put<K: Ord>(places: &mut BTreeMap<K, Behind>, at: K, behind: &Behind) {
    places.entry(at).and_modify(|there| there.join(behind.clone())).or_insert_with(|| behind.clone());
}

/// What a contract has rules of that only a gateway can hold a call to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mediated {
    /// Which tools may be called.
    Tools,
    /// What else of MCP may pass.
    Mcp,
    /// What calls may carry.
    Data,
}

impl Mediated {
    fn of(contract: &Contract) -> Option<Self> {
        let guard = &contract.guard;
        let rules = [
            (guard.tools.is_some(), Self::Tools),
            (guard.mcp.is_some(), Self::Mcp),
            (guard.data_classes.is_some(), Self::Data),
        ];
        rules.into_iter().find(|(there, _)| *there).map(|(_, rules)| rules)
    }
}
