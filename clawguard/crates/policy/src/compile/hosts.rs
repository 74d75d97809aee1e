//! Entries that name hosts: what is said of names, and from it which fixed addresses are opened.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use clawguard_common::{Reason, protocol, side};

use super::{Bound, Compiler, Error, MOST_RULES, NameRule, Rule, Source, places::Behind};
use crate::{
    contract::{Allowed, Egress, Protocol, To},
    finding::Outcome,
    group::{Class, Group},
    host::McpServer,
    models,
    name::{HostName, HostPattern, Named},
    names::NameIndex,
    net::{self, Cidr},
};

/// DNS, DNS over TLS or QUIC, mDNS, LLMNR: names are asked for through the guard.
const RESOLVING: [u16; 4] = [53, 853, 5353, 5355];
pub(super) const GUARD_ALONE: &str = "names are asked for through the DNS guard alone";
/// Where clients speak in the clear before they begin TLS, if they do: FTP, SMTP, POP3, NNTP, IMAP, LDAP, submission, TDS,
/// MySQL, ManageSieve, XMPP, PostgreSQL, IRC.
const STARTTLS: [u16; 15] = [21, 25, 110, 119, 143, 389, 587, 1433, 3306, 4190, 5222, 5269, 5432, 6665, 6667];

/// An entry that names hosts, wherever it stands.
#[derive(Clone, Copy)]
struct Entry<'a> {
    source: Source,
    pattern: &'a HostPattern,
    ports: &'a [u16],
    way: Way<'a>,
}

/// How a name is opened at a port.
#[derive(Clone, Copy)]
struct Way<'a> {
    tcp: bool,
    udp: bool,
    tls: bool,
    ech: bool,
    groups: &'a [Group],
    class: Option<Class>,
    number: u32,
}

/// What the entries of one pattern say together.
struct Said<'a> {
    ports: BTreeMap<u16, Way<'a>>,
    number: u32,
}

type All<'a> = BTreeMap<&'a HostPattern, Said<'a>>;
/// Rules by their place, and so without two for one.
type Names = BTreeMap<(HostPattern, u16), NameRule>;

/// What becomes of a pattern at a port.
#[derive(PartialEq, Eq)]
enum Judged {
    Open(BTreeSet<Group>),
    Closed(Reason),
}

/// Whether names are asked for at this port.
pub(super) fn resolves(port: u16) -> bool {
    RESOLVING.contains(&port)
}

impl<'a> Compiler<'a> {
    pub(super) fn hosts(&mut self) -> Result<(), Error> {
        let entries = self.entries();
        let said = self.said(&entries)?;
        let mut names = Names::new();
        self.own(&said, &mut names)?;
        self.left_out(&said, &mut names)?;
        self.apart(&said, &mut names)?;
        self.tell(&entries, &names);
        let index = NameIndex::new(names.into_values().collect());
        self.fixed(&index)?;
        self.names = index.into_rules();
        Ok(())
    }

    /// `egress`, and what of `egress_allowlist` it says nothing about: TLS on port 443.
    fn entries(&mut self) -> Vec<Entry<'a>> {
        let contract = self.contract;
        let mut entries = Vec::new();
        for (i, entry) in contract.guard.egress.iter().enumerate() {
            if let To::Host(pattern) = &entry.to {
                let source = Source::Egress(i as u32);
                entries.push(Entry { source, pattern, ports: &entry.ports, way: Way::of(entry, source) });
            }
        }
        for (i, allowed) in contract.egress_allowlist.iter().flatten().enumerate() {
            let source = Source::Allowlist(i as u32);
            match allowed {
                Allowed::Range(_) => {
                    self.found(source.path(), Outcome::Kernel, "bounds the ranges in egress; opens nothing by itself");
                }
                Allowed::Host(pattern) if self.named.has(pattern) => {
                    self.found_of(source, Outcome::Kernel, || "as egress says in detail".into());
                }
                // An exact host that a wildcard of egress stands for is that wildcard's.
                Allowed::Host(pattern) if self.named.covers(pattern) => {
                    self.found_of(source, Outcome::Kernel, || "as a wildcard of egress says in detail".into());
                }
                Allowed::Host(pattern) => {
                    let number = source.number();
                    let way = Way { tcp: true, udp: false, tls: true, ech: false, groups: &[], class: None, number };
                    entries.push(Entry { source, pattern, ports: &[443], way });
                }
            }
        }
        entries
    }

    /// Takes the entries of one pattern together.
    fn said(&self, entries: &[Entry<'a>]) -> Result<All<'a>, Error> {
        let mut all = All::new();
        for entry in entries {
            let number = entry.way.number;
            let said = all.entry(entry.pattern).or_insert_with(|| Said { ports: BTreeMap::new(), number });
            for port in entry.ports.iter().filter(|port| !resolves(**port)) {
                match said.ports.get_mut(port) {
                    Some(way) => self.join(way, entry, *port)?,
                    None => {
                        said.ports.insert(*port, entry.way);
                    }
                }
            }
        }
        Ok(all)
    }

    fn join(&self, way: &mut Way<'a>, entry: &Entry<'a>, port: u16) -> Result<(), Error> {
        let (one, other) = (*way, entry.way);
        let path = |way: &Way<'_>| Source::from_number(way.number).map_or_else(String::new, Source::path);
        let place = || format!("{} port {port}", entry.pattern);
        if one.tcp && other.tcp && one.tls != other.tls {
            let (tls, plain) = if one.tls { (path(&one), path(&other)) } else { (path(&other), path(&one)) };
            return Err(Error::Undone { tls, plain, place: place() });
        }
        let sets = [one, other].map(|way| self.groups_of(way.groups, way.class, None));
        if sets[0] != sets[1] {
            let [one_groups, other_groups] = sets.map(|set| super::listed(&set));
            return Err(Error::Conflict {
                one: path(&one),
                other: path(&other),
                place: place(),
                one_groups,
                other_groups,
            });
        }
        way.tcp |= other.tcp;
        way.udp |= other.udp;
        way.tls |= other.tls;
        way.ech |= other.ech;
        way.class = one.class.max(other.class);
        if !one.tcp && other.tcp {
            way.number = other.number;
        }
        Ok(())
    }

    /// What each pattern says of itself.
    fn own(&mut self, said: &All<'a>, names: &mut Names) -> Result<(), Error> {
        for (pattern, said) in said {
            for (port, way) in &said.ports {
                self.refuse_unmediated(pattern, way.number)?;
                let judged = self.judged(pattern, *port, way);
                self.say(names, (*pattern).clone(), *port, way, judged)?;
            }
        }
        Ok(())
    }

    /// A wildcard leaves out what a narrower entry speaks about, at all of the wildcard's ports.
    fn left_out(&mut self, said: &All<'a>, names: &mut Names) -> Result<(), Error> {
        let wildcards = said.keys().any(|pattern| matches!(pattern, HostPattern::Below(_)));
        for (pattern, own) in said.iter().filter(|_| wildcards) {
            let (HostPattern::Exact(name) | HostPattern::Below(name)) = pattern;
            for wider in name.parents().map(HostPattern::Below).filter_map(|wider| said.get(&wider)) {
                for (port, way) in wider.ports.iter().filter(|(port, _)| !own.ports.contains_key(port)) {
                    let way = Way { number: own.number, ..*way };
                    self.say(names, (*pattern).clone(), *port, &way, Judged::Closed(Reason::NotInContract))?;
                }
            }
        }
        Ok(())
    }

    /// Names below wildcards that are known to be something else than the wildcard says.
    fn apart(&mut self, said: &All<'a>, names: &mut Names) -> Result<(), Error> {
        let around = Named::of(said.keys().copied());
        let exact = |name: &HostName| HostPattern::Exact(name.clone());
        let endpoints = self.host.mcp_servers.iter().filter_map(McpServer::host);
        let served = |(_, addresses): &(&HostName, &BTreeSet<_>)| self.places.serves(*addresses);
        let known: BTreeSet<HostPattern> = models::listed()
            .iter()
            .chain(models::resolvers())
            .chain(&self.host.model_hosts)
            .cloned()
            .chain(endpoints.map(exact))
            .chain(self.host.hosts.iter().filter(served).map(|(name, _)| exact(name)))
            .collect();
        for pattern in known.into_iter().filter(|pattern| !said.contains_key(pattern)) {
            let Some(wider) = around.around(&pattern) else { continue };
            let ports = said.get(&wider).into_iter().flat_map(|said| &said.ports);
            for (port, way) in ports {
                let judged = self.judged(&pattern, *port, way);
                if judged != self.judged(&wider, *port, way) {
                    self.tell_apart(&pattern, *port, way, &judged);
                    self.say(names, pattern.clone(), *port, way, judged)?;
                }
            }
        }
        Ok(())
    }

    fn say(
        &mut self,
        names: &mut Names,
        name: HostPattern,
        port: u16,
        way: &Way<'_>,
        judged: Judged,
    ) -> Result<(), Error> {
        if names.len() >= MOST_RULES {
            return Err(Error::TooManyRules { limit: MOST_RULES });
        }
        let number = way.number;
        let rule = match judged {
            Judged::Open(groups) => {
                let (set, Way { tcp, udp, tls, ech, .. }) = (self.set(groups)?, *way);
                NameRule { name: name.clone(), port, set, reason: Reason::Allowed, tcp, udp, tls, ech, number }
            }
            Judged::Closed(reason) => {
                let (set, tcp, udp) = (self.set(BTreeSet::from([Group::all()]))?, way.tcp, way.udp);
                NameRule { name: name.clone(), port, set, reason, tcp, udp, tls: false, ech: false, number }
            }
        };
        names.insert((name, port), rule);
        Ok(())
    }

    fn judged(&self, pattern: &HostPattern, port: u16, way: &Way<'_>) -> Judged {
        if models::listed_around(models::resolvers(), pattern) {
            return Judged::Closed(Reason::Dns);
        }
        let behind = self.behind(pattern, port);
        if behind.as_ref().is_some_and(|behind| behind.closed.is_some()) {
            return Judged::Closed(Reason::McpDirect);
        }
        let model = self.may_be_model(pattern);
        if model && self.mediation().is_some() {
            return Judged::Closed(Reason::ModelDirect);
        }
        let mut groups = self.groups_of(way.groups, way.class, behind.as_ref());
        if model {
            groups.insert(Group::model());
        }
        Judged::Open(groups)
    }

    /// The MCP servers that a host stands for, by its name or by its fixed addresses.
    fn behind(&self, pattern: &HostPattern, port: u16) -> Option<Behind> {
        let HostPattern::Exact(name) = pattern else { return None };
        let by_name = self.places.called(name, port);
        let by_address = self.places.behind(self.host.hosts.get(name).into_iter().flatten(), port);
        by_name.into_iter().chain(by_address).reduce(Behind::joined)
    }

    /// Whether a pattern stands for a model's host, or for some that no narrower pattern can tell apart.
    fn may_be_model(&self, pattern: &HostPattern) -> bool {
        let listed = [models::listed(), &self.host.model_hosts].iter().any(|list| models::listed_around(list, pattern));
        listed
            || match pattern {
                HostPattern::Exact(name) => self.host.is_model_host(name),
                HostPattern::Below(name) => models::all_below(name) || models::between(name),
            }
    }

    /// Where model calls have to be mediated, an entry opens no host that may be a model's and cannot be told apart.
    fn refuse_unmediated(&self, pattern: &HostPattern, number: u32) -> Result<(), Error> {
        let Some(path) = self.mediation().filter(|_| self.may_be_model(pattern)) else { return Ok(()) };
        // There is another way, on which the contract's rules hold: this one stays closed, as an MCP server's does.
        if self.host.model_gateway && matches!(pattern, HostPattern::Exact(_)) {
            return Ok(());
        }
        let opens = Source::from_number(number).map_or_else(String::new, Source::path);
        let why = match pattern {
            HostPattern::Exact(name) => {
                format!("{opens} opens {name}, a model host, {}", self.around())
            }
            HostPattern::Below(_) => format!(
                "{opens} opens {pattern}, below which model hosts lie that cannot be told apart by name: name the hosts"
            ),
        };
        Err(Error::Unenforceable { path: path.into(), why })
    }

    /// Opens the fixed addresses of every host by what is said of its name.
    fn fixed(&mut self, index: &NameIndex) -> Result<(), Error> {
        let host = self.host;
        for (name, addresses) in &host.hosts {
            for rule in index.rules(name).rules {
                for address in addresses {
                    let addr = net::addr(*address);
                    for (protocol, tls) in [(Protocol::Tcp, rule.tls), (Protocol::Udp, false)] {
                        if if protocol == Protocol::Tcp { rule.tcp } else { rule.udp } {
                            let Some(source) = Source::from_number(rule.number) else { continue };
                            self.push(side::EGRESS, protocol, rule.port, Cidr::host(addr), rule.set, source)?;
                            if let Some(pushed) = self.rules.last_mut() {
                                (pushed.tls, pushed.ech) = (tls, tls && rule.ech);
                            }
                        }
                    }
                    if rule.tls {
                        self.bound.push(Bound { port: rule.port, number: rule.number, addr });
                    }
                }
                if rule.name != HostPattern::Exact(name.clone())
                    && let Some(source) = Source::from_number(rule.number)
                {
                    let judged = if rule.tls { "; the TLS name is judged" } else { "" };
                    let note = || format!("{name}:{}, by address and port{judged}", rule.port);
                    self.found_of(source, Outcome::Kernel, note);
                }
            }
        }
        Ok(())
    }

    /// What belongs to addresses that stayed open, sorted.
    pub(super) fn still_bound(&mut self, rules: &[Rule]) -> Vec<Bound> {
        let tls: HashSet<_> = rules
            .iter()
            .filter(|rule| rule.tls && rule.protocol == protocol::TCP)
            .map(|rule| (rule.port, rule.range.addr))
            .collect();
        let mut bound = std::mem::take(&mut self.bound);
        bound.retain(|bound| tls.contains(&(bound.port, bound.addr)));
        bound.sort_unstable();
        bound.dedup();
        bound
    }

    fn tell(&mut self, entries: &[Entry<'a>], names: &Names) {
        if self.findings.is_none() {
            return;
        }
        for entry in entries {
            let Entry { source, pattern, way, .. } = *entry;
            let fixed = match pattern {
                HostPattern::Exact(name) => self.host.hosts.get(name).is_some_and(|addresses| !addresses.is_empty()),
                HostPattern::Below(_) => false,
            };
            for port in entry.ports {
                let place = format!("{pattern}:{port}");
                let reason = names.get(&(pattern.clone(), *port)).map(|rule| rule.reason);
                if reason == Some(Reason::Allowed) {
                    let by = if fixed { "by address and port" } else { "by the addresses that the DNS guard learns" };
                    self.found(source.path(), Outcome::Kernel, format!("{place}, {by}; {}", way.told(*port)));
                    let behind = self.behind(pattern, *port);
                    self.no_rule_holds(behind.as_ref(), source, &place);
                } else if reason == Some(Reason::McpDirect) {
                    let behind = self.behind(pattern, *port);
                    self.stays_closed(behind.as_ref(), source, &place);
                } else if reason == Some(Reason::ModelDirect) {
                    let note = format!("{place} is a model host: {}", self.way_to_models());
                    self.found(source.path(), Outcome::Denied, note);
                } else {
                    self.found(source.path(), Outcome::Denied, format!("{place}: {GUARD_ALONE}"));
                }
            }
        }
    }

    /// What a wildcard does not open, though it stands for it.
    fn tell_apart(&mut self, pattern: &HostPattern, port: u16, way: &Way<'_>, judged: &Judged) {
        let Some(source) = Source::from_number(way.number) else { return };
        let Judged::Closed(reason) = judged else { return };
        let place = format!("{pattern}:{port}");
        if *reason == Reason::McpDirect {
            let behind = self.behind(pattern, port);
            self.stays_closed(behind.as_ref(), source, &place);
            return;
        }
        let why = if *reason == Reason::Dns {
            GUARD_ALONE.to_owned()
        } else {
            format!(
                "a model host, {}",
                if self.host.model_gateway { "reached by the gateway alone" } else { self.around() }
            )
        };
        self.found_of(source, Outcome::Denied, || format!("holds back {place}: {why}"));
    }
}

impl<'a> Way<'a> {
    fn of(entry: &'a Egress, source: Source) -> Self {
        Self {
            tcp: entry.protocol == Protocol::Tcp,
            udp: entry.quic || entry.protocol == Protocol::Udp,
            tls: entry.tls,
            ech: entry.ech,
            groups: &entry.groups,
            class: entry.class,
            number: source.number(),
        }
    }

    fn told(&self, port: u16) -> String {
        if !self.tls {
            return "no name is judged in what is sent".into();
        }
        let ech = if self.ech { ", or the outer one of an encrypted ClientHello" } else { "" };
        let quic = if self.udp { "; none is in what is sent by UDP" } else { "" };
        let plain = if STARTTLS.contains(&port) {
            "; STARTTLS is refused, since it begins in the clear: where it is spoken, tls: false is needed"
        } else {
            ""
        };
        format!("the TLS name is judged{ech}{quic}{plain}")
    }
}
