//! From a contract's text to the rules that the kernel holds an agent to.

mod error;
mod findings;
mod hosts;
mod order;
mod places;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use claw::{Hash, time::Instant};
use clawguard_common::{Addr, Reason, protocol, side};

pub use error::Error;
use places::{Behind, Places};

use crate::{
    contract::{Allowed, Contract, Lifetime, OnBypass, Profile, Protocol, To, TokenRules},
    finding::{Finding, Outcome},
    group::{Class, Group, Risk},
    host::{self, HostFacts},
    mcp::{McpRules, What},
    model::ModelPolicy,
    name::{HostPattern, Named},
    net::Cidr,
    ranges::Ranges,
    tool::{NamePattern, ToolPolicy, ToolVerdict},
};

/// A contract as the kernel will hold an agent to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The contract's hash.
    pub hash: Hash,
    /// `policy_id`, or `policy_name`.
    pub id: String,
    /// `sequence`; 0 where the form has none.
    pub sequence: u64,
    /// Who says when it ends. Under [`Lifetime::Default`] `not_after` is absent and the host sets an end.
    pub lifetime: Lifetime,
    /// Not in force before this.
    pub not_before: Option<Instant>,
    /// Not in force from this on.
    pub not_after: Option<Instant>,
    /// Whether the agent may make unix sockets.
    pub unix_sockets: bool,
    /// What happens when the agent tries another way to a model.
    pub on_bypass: OnBypass,
    /// The distinct sets of groups that rules belong to.
    pub sets: Vec<BTreeSet<Group>>,
    /// The rules, sorted by where they stand; no two for one place.
    pub rules: Vec<Rule>,
    /// What is said of names, sorted; no two for one pattern and port. The narrowest pattern that has the port decides.
    pub names: Vec<NameRule>,
    /// The fixed addresses of names that TLS is judged by, sorted.
    pub bound: Vec<Bound>,
    /// Groups that some rule belongs to: what the kernel can kill.
    pub kernel_groups: BTreeSet<Group>,
    /// Groups that only a gateway could tell apart.
    pub gateway_groups: BTreeSet<Group>,
    /// Who may call which MCP tool.
    pub tools: ToolPolicy,
    /// What else of MCP may pass.
    pub mcp: McpRules,
    /// Whether a job may reach anything only as long as each of its model calls has a receipt.
    pub receipts: bool,
    /// What a job's token must be; where it is there, no job goes without one.
    pub token: Option<TokenRules>,
}

/// One rule of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// [`side`]
    pub side: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// The remote port, or for `listen` the local one.
    pub port: u16,
    /// Remote addresses.
    pub range: Cidr,
    /// Index into [`Policy::sets`].
    pub set: u16,
    /// [`Reason::Allowed`], or why it denies.
    pub reason: Reason,
    /// Where it comes from; see [`Source`].
    pub number: u32,
    /// A flow must begin with a TLS ClientHello for a name that may be called for at the address; see [`Bound`].
    pub tls: bool,
    /// The ClientHello may be an encrypted one; its outer name is judged.
    pub ech: bool,
}

impl Rule {
    /// A place that ClawGuard itself holds back.
    fn held_back(side: u8, protocol: u8, port: u16, range: Cidr, set: u16, reason: Reason) -> Self {
        let number = Source::BuiltIn.number();
        Self { side, protocol, port, range, set, reason, number, tls: false, ech: false }
    }

    fn path(&self) -> String {
        Source::from_number(self.number).map_or_else(String::new, Source::path)
    }

    fn place(&self) -> String {
        let protocol = if self.protocol == protocol::TCP { "tcp" } else { "udp" };
        format!("{} port {protocol}/{}", self.range, self.port)
    }
}

/// What a contract says of a name, or of every name below one, at a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameRule {
    /// The names.
    pub name: HostPattern,
    /// The port.
    pub port: u16,
    /// Index into [`Policy::sets`].
    pub set: u16,
    /// [`Reason::Allowed`], or why it denies.
    pub reason: Reason,
    /// Whether its addresses are opened to TCP.
    pub tcp: bool,
    /// Whether its addresses are opened to UDP.
    pub udp: bool,
    /// A TCP flow must begin with a TLS ClientHello for a name of this rule.
    pub tls: bool,
    /// The ClientHello may be an encrypted one; its outer name is judged.
    pub ech: bool,
    /// Where it comes from; see [`Source`].
    pub number: u32,
}

/// A fixed address at which TLS names of a rule may be called for, over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// The port.
    pub port: u16,
    /// [`NameRule::number`]
    pub number: u32,
    /// The address, in canonical form.
    pub addr: Addr,
}

/// Where in a contract a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `metadata.clawguard.v1.egress[n]`
    Egress(u32),
    /// `egress_allowlist[n]`
    Allowlist(u32),
    /// `metadata.clawguard.v1.listen[n]`
    Listen(u32),
    /// A range or a host that ClawGuard itself holds back.
    BuiltIn,
}

const KIND_SHIFT: u32 = 28;
const INDEX: u32 = (1 << KIND_SHIFT) - 1;

impl Source {
    /// As [`Rule::number`].
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Egress(n) => n & INDEX,
            Self::Allowlist(n) => (1 << KIND_SHIFT) | (n & INDEX),
            Self::Listen(n) => (2 << KIND_SHIFT) | (n & INDEX),
            Self::BuiltIn => 3 << KIND_SHIFT,
        }
    }

    /// From [`Rule::number`].
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        let index = number & INDEX;
        match number >> KIND_SHIFT {
            0 => Some(Self::Egress(index)),
            1 => Some(Self::Allowlist(index)),
            2 => Some(Self::Listen(index)),
            3 if index == 0 => Some(Self::BuiltIn),
            _ => None,
        }
    }

    /// Its place in the payload.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Egress(n) => format!("metadata.clawguard.v1.egress[{n}]"),
            Self::Allowlist(n) => format!("egress_allowlist[{n}]"),
            Self::Listen(n) => format!("metadata.clawguard.v1.listen[{n}]"),
            Self::BuiltIn => "a built-in rule".into(),
        }
    }
}

/// Four times the largest contract that is measured.
const MOST_RULES: usize = 4_000_000;
const MOST_SETS: usize = u16::MAX as usize;

/// Compiles a contract for a host.
///
/// # Errors
///
/// See [`Error`].
pub fn compile(contract: &Contract, hash: Hash, host: &HostFacts) -> Result<Policy, Error> {
    Compiler::new(contract, host, None).run(hash).map(|(policy, _)| policy)
}

/// Compiles a contract and tells what became of each of its lines.
///
/// # Errors
///
/// See [`Error`].
pub fn check(contract: &Contract, hash: Hash, host: &HostFacts) -> Result<(Policy, Vec<Finding>), Error> {
    Compiler::new(contract, host, Some(Vec::new())).run(hash)
}

struct Compiler<'a> {
    contract: &'a Contract,
    host: &'a HostFacts,
    /// The hosts that `egress` speaks about.
    named: Named<'a>,
    sets: BTreeMap<BTreeSet<Group>, u16>,
    rules: Vec<Rule>,
    names: Vec<NameRule>,
    bound: Vec<Bound>,
    findings: Option<Vec<Finding>>,
    tools: ToolPolicy,
    mcp: McpRules,
    places: Places,
    /// The risks that the contract gives its groups.
    risks: HashMap<&'a Group, Risk>,
}

const GUARD: &str = "metadata.clawguard.v1";

impl<'a> Compiler<'a> {
    fn new(contract: &'a Contract, host: &'a HostFacts, findings: Option<Vec<Finding>>) -> Self {
        let named = Named::of(contract.guard.egress.iter().filter_map(|entry| match &entry.to {
            To::Host(pattern) => Some(pattern),
            To::Range(_) => None,
        }));
        let tools = ToolPolicy::new(contract.guard.tools.as_ref(), &contract.guard.groups, &host.mcp_servers);
        let mcp = McpRules::new(contract.guard.mcp.as_ref(), &contract.guard.groups, &host.mcp_servers);
        let places = Places::of(contract, host);
        let risks = contract.guard.groups.iter().filter_map(|spec| Some((&spec.name, spec.risk?))).collect();
        Self {
            contract,
            host,
            named,
            sets: BTreeMap::new(),
            rules: Vec::new(),
            names: Vec::new(),
            bound: Vec::new(),
            findings,
            tools,
            mcp,
            places,
            risks,
        }
    }

    fn run(mut self, hash: Hash) -> Result<(Policy, Vec<Finding>), Error> {
        self.within_allowlist()?;
        self.ranges()?;
        self.hosts()?;
        self.listen()?;
        self.refuse_models_without_rules()?;
        self.hold_back_known_places()?;
        self.explicit_only();
        self.hold_back_special_ranges()?;
        let rules = self.sorted_rules()?;
        let bound = self.still_bound(&rules);
        let names = std::mem::take(&mut self.names);
        let findings = self.describe_the_rest();
        let mut gateway_groups = self.groups_of_tools();
        if self.host.model_gateway && ModelPolicy::of(self.contract).gives() {
            gateway_groups.insert(Group::model());
        }
        let mut sets: Vec<(BTreeSet<Group>, u16)> = self.sets.into_iter().collect();
        sets.sort_by_key(|(_, index)| *index);
        let sets: Vec<BTreeSet<Group>> = sets.into_iter().map(|(set, _)| set).collect();
        let by_address = rules.iter().filter(|rule| rule.reason == Reason::Allowed).map(|rule| rule.set);
        let by_name = names.iter().filter(|rule| rule.reason == Reason::Allowed).map(|rule| rule.set);
        let used: BTreeSet<u16> = by_address.chain(by_name).collect();
        let kernel_groups: BTreeSet<Group> =
            used.into_iter().filter_map(|set| sets.get(usize::from(set))).flatten().cloned().collect();
        gateway_groups.retain(|group| !kernel_groups.contains(group));
        let guard = &self.contract.guard;
        let policy = Policy {
            hash,
            id: self.contract.policy_id.clone(),
            sequence: guard.sequence,
            lifetime: self.contract.lifetime(),
            not_before: guard.not_before,
            not_after: guard.not_after,
            unix_sockets: guard.unix_sockets,
            on_bypass: guard.model.as_ref().map(|model| model.on_bypass).unwrap_or_default(),
            gateway_groups,
            sets,
            rules,
            names,
            bound,
            kernel_groups,
            tools: self.tools,
            mcp: self.mcp,
            receipts: guard.model.as_ref().is_some_and(|model| model.require_proxy_receipts),
            // A token is good for one job, whatever the text says.
            token: guard.token.map(|rules| TokenRules { job_scoped: true, ..rules }),
        };
        Ok((policy, findings))
    }

    /// Notes what became of a line, if somebody asked.
    fn found(&mut self, path: impl Into<String>, outcome: Outcome, note: impl Into<String>) {
        if let Some(findings) = &mut self.findings {
            findings.push(Finding { path: path.into(), outcome, note: note.into() });
        }
    }

    /// The same for lines of which there may be very many.
    fn found_of(&mut self, source: Source, outcome: Outcome, note: impl FnOnce() -> String) {
        if self.findings.is_some() {
            self.found(source.path(), outcome, note());
        }
    }

    fn set(&mut self, groups: BTreeSet<Group>) -> Result<u16, Error> {
        let next = self.sets.len();
        if let Some(known) = self.sets.get(&groups) {
            return Ok(*known);
        }
        if next >= MOST_SETS {
            return Err(Error::TooManySets { limit: MOST_SETS });
        }
        self.sets.insert(groups, next as u16);
        Ok(next as u16)
    }

    /// Where both are there, `egress` may only say more about what `egress_allowlist` names.
    fn within_allowlist(&self) -> Result<(), Error> {
        let Some(allowlist) = &self.contract.egress_allowlist else { return Ok(()) };
        let hosts = Named::of(allowlist.iter().filter_map(|allowed| match allowed {
            Allowed::Host(pattern) => Some(pattern),
            Allowed::Range(_) => None,
        }));
        let mut ranges = Ranges::default();
        for allowed in allowlist {
            if let Allowed::Range(range) = allowed {
                ranges.insert((), *range);
            }
        }
        for (i, entry) in self.contract.guard.egress.iter().enumerate() {
            let covered = match &entry.to {
                To::Host(pattern) => hosts.covers(pattern),
                To::Range(wanted) => ranges.around((), *wanted, 0),
            };
            if !covered {
                return Err(Error::OutsideAllowlist { path: Source::Egress(i as u32).path() });
            }
        }
        Ok(())
    }

    /// Entries of addresses, which are judged by these alone.
    fn ranges(&mut self) -> Result<(), Error> {
        for (i, entry) in self.contract.guard.egress.iter().enumerate() {
            let source = Source::Egress(i as u32);
            let To::Range(range) = &entry.to else { continue };
            for port in &entry.ports {
                let place = || format!("{range} port {port}");
                if hosts::resolves(*port) {
                    self.found_of(source, Outcome::Denied, || format!("{}: {}", place(), hosts::GUARD_ALONE));
                    continue;
                }
                let behind = self.places.within(*range, *port);
                if self.stays_closed(behind.as_ref(), source, &place()) {
                    continue;
                }
                let model = self.leads_to_models(*range, *port);
                if model && self.host.model_gateway && self.mediation().is_some() {
                    let way = self.way_to_models();
                    self.found_of(source, Outcome::Denied, || format!("{} is a model's own place: {way}", place()));
                    continue;
                }
                if range.bits == 128 {
                    self.no_rule_holds(behind.as_ref(), source, &place());
                }
                let mut groups = self.groups_of(&entry.groups, entry.class, behind.as_ref());
                if model {
                    groups.insert(Group::model());
                }
                let set = self.set(groups)?;
                // The entry's protocol, and UDP as well where QUIC is spoken.
                let protocols: &[Protocol] =
                    if entry.quic { &[Protocol::Tcp, Protocol::Udp] } else { &[entry.protocol] };
                for protocol in protocols {
                    self.push(side::EGRESS, *protocol, *port, *range, set, source)?;
                }
            }
            if !entry.ports.iter().all(|port| hosts::resolves(*port)) {
                let judged = if entry.tls { "; that TLS is spoken is not judged" } else { "" };
                self.found_of(source, Outcome::Kernel, || format!("{range}, by address and port{judged}"));
            }
        }
        Ok(())
    }

    /// Whether an MCP server lies there of which the contract has rules; told, if it does.
    fn stays_closed(&mut self, behind: Option<&Behind>, source: Source, place: &str) -> bool {
        let Some((behind, member)) = behind.and_then(|behind| Some((behind, behind.closed?))) else { return false };
        let member = self.contract.form.of_mcp(member);
        let note = || {
            format!(
                "{place} is {}: the contract has {member}, so that the gateway is the only way there",
                behind.told()
            )
        };
        self.found_of(source, Outcome::Denied, note);
        true
    }

    /// Tells of an MCP server that is opened as any other place is.
    fn no_rule_holds(&mut self, behind: Option<&Behind>, source: Source, place: &str) {
        let Some(behind) = behind.filter(|behind| behind.closed.is_none()) else { return };
        let note = || {
            format!(
                "{place} is {}, opened whole: the contract has no tools, and no rule about tools holds on this way",
                behind.told()
            )
        };
        self.found_of(source, Outcome::Kernel, note);
    }

    fn push(
        &mut self,
        side: u8,
        protocol: Protocol,
        port: u16,
        range: Cidr,
        set: u16,
        source: Source,
    ) -> Result<(), Error> {
        if self.rules.len() >= MOST_RULES {
            return Err(Error::TooManyRules { limit: MOST_RULES });
        }
        let protocol = protocol.number();
        self.rules.push(Rule {
            side,
            protocol,
            port,
            range,
            set,
            reason: Reason::Allowed,
            number: source.number(),
            tls: false,
            ech: false,
        });
        Ok(())
    }

    /// The groups that an entry belongs to: its own, and those that follow from what it is.
    ///
    /// Chat and model entries carry a risk or a class only if the contract gives them one, so that no kill of a risk or a
    /// class, and no mode but `lockdown`, takes the chat away by surprise.
    fn groups_of(&self, own: &[Group], class: Option<Class>, behind: Option<&Behind>) -> BTreeSet<Group> {
        let mut groups: BTreeSet<Group> = own.iter().cloned().collect();
        groups.insert(Group::all());
        let talk = groups.contains(&Group::channel()) || groups.contains(&Group::model());
        let mut risk = own.iter().filter_map(|group| self.risks.get(group)).max().copied();
        let mut class = class;
        if let Some(behind) = behind {
            groups.extend(behind.groups.iter().cloned());
            risk = risk.max(Some(behind.risk));
            class = class.max(Some(behind.class));
        }
        if !talk {
            risk = risk.or(Some(Risk::High));
            class = class.or(Some(Class::Irreversible));
        }
        groups.extend(risk.map(Group::risk));
        groups.extend(class.map(Group::class));
        if !talk || behind.is_some() {
            groups.insert(Group::tools());
        }
        groups
    }

    fn listen(&mut self) -> Result<(), Error> {
        if self.contract.guard.listen.is_empty() {
            return Ok(());
        }
        let set = self.set(BTreeSet::from([Group::all()]))?;
        for (i, entry) in self.contract.guard.listen.iter().enumerate() {
            let source = Source::Listen(i as u32);
            for port in &entry.ports {
                self.push(side::LISTEN, entry.protocol, *port, entry.from, set, source)?;
            }
            self.found(source.path(), Outcome::Kernel, format!("from {}, by address and local port", entry.from));
        }
        Ok(())
    }

    /// The contract's own groups, and those of the tools and of the rest of MCP that it gives: a server's, its risk, the classes.
    /// A gateway tells all of them apart.
    fn groups_of_tools(&self) -> BTreeSet<Group> {
        let guard = &self.contract.guard;
        let mut groups: BTreeSet<Group> = guard.groups.iter().map(|spec| spec.name.clone()).collect();
        let readonly = guard.tools.as_ref().is_some_and(|tools| tools.profile == Some(Profile::Readonly));
        // What a wildcard stands for is known only when a server says what it has.
        let classes: &[Class] =
            if readonly { &[Class::Read] } else { &[Class::Read, Class::Write, Class::Irreversible] };
        let lines = guard.tools.iter().flat_map(|tools| tools.allow.iter().flatten().chain(&tools.approve));
        for line in lines {
            for server in self.host.mcp_servers.iter().filter(|server| line.pattern.server.matches(&server.name)) {
                groups.extend([Group::mcp(&server.name), Group::risk(host::risk_of(server, &guard.groups))]);
                if let NamePattern::Exact(tool) = &line.pattern.tool {
                    let judged = self.tools.judge(&server.name, tool);
                    if !matches!(judged.verdict, ToolVerdict::Deny(_)) {
                        groups.extend([Group::risk(judged.risk), Group::class(judged.class)]);
                    }
                } else {
                    groups.extend(classes.iter().map(|class| Group::class(*class)));
                    groups.insert(Group::risk(server.risk));
                }
            }
        }
        for server in &self.host.mcp_servers {
            for what in What::WHOLE.into_iter().filter(|what| self.mcp.may(&server.name, *what)) {
                let risk = Group::risk(host::risk_of(server, &guard.groups));
                groups.extend([Group::mcp(&server.name), risk, Group::class(what.class())]);
            }
        }
        groups
    }
}

/// Groups as they are written in sentences.
fn listed(groups: &BTreeSet<Group>) -> String {
    groups.iter().map(Group::as_str).collect::<Vec<_>>().join(" ")
}
