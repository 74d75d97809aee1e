//! The contract that a draft builds on, and the lines that it adds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use claw::time::Instant;
use serde_json::{Map, Value, json};

use super::{Error, Seen, Terms, Unit, What, judge::speaks_tls, read};
use crate::{
    Contract,
    contract::{Allowed, Form, Protocol, To},
    name::{HostName, HostPattern, Named},
    net::{self, Cidr},
};

const GUARD: &str = "clawguard.v1";

/// The payload that is added to, as text and as it is understood.
pub(super) struct Base {
    payload: Value,
    contract: Contract,
}

/// What of a host's entries goes with them: groups, class, `ech`.
type Manner = Map<String, Value>;

impl Base {
    /// The payload of the contract in force with the next sequence; a new one where there is none.
    pub(super) fn of(base: Option<&Value>, terms: &Terms, notes: &mut Vec<String>) -> Result<Self, Error> {
        let own = base.map(|payload| (payload, read(payload)));
        let mut payload = match own {
            Some((_, Err(why))) => return Err(Error::Base(why)),
            Some((payload, Ok(contract))) if contract.form == Form::Registered => {
                notes.push("it is the contract in force, and what is added to it".into());
                renewed(payload.clone(), &contract, terms, notes)
            }
            Some((_, Ok(contract))) => {
                let form = contract.form.label();
                notes.push(format!("the contract in force is of {form}: none of it is taken over, its tools neither"));
                fresh(terms)
            }
            None => {
                notes.push("no contract is in force: it allows what is added and nothing else".into());
                fresh(terms)
            }
        };
        if let Some(id) = &terms.policy_id {
            payload["policy_id"] = json!(id);
        }
        let contract = read(&payload).map_err(Error::Payload)?;
        Ok(Self { payload, contract })
    }

    pub(super) fn payload(&self) -> Value {
        self.payload.clone()
    }

    /// The payload with what was seen.
    pub(super) fn with(&self, units: &BTreeMap<Unit, Seen>) -> Value {
        let (mut egress, mut listen) = (Vec::new(), Vec::new());
        let (mut hosts, mut ranges) = (BTreeSet::new(), BTreeSet::new());
        for (unit, seen) in units {
            match unit {
                Unit::Host(name) => {
                    egress.extend(self.host(name, seen));
                    hosts.insert(name.to_string());
                }
                Unit::Address(addr) => {
                    egress.extend(by_address(*addr, seen));
                    ranges.insert(range(*addr));
                }
                Unit::Caller(from) => listen.extend(by_address(*from, seen)),
            }
        }
        let mut payload = self.payload.clone();
        // An empty list says the same as none.
        for (member, lines) in [("egress", egress), ("listen", listen)] {
            if !lines.is_empty() {
                append(&mut payload["metadata"][GUARD][member], lines);
            }
        }
        if self.contract.egress_allowlist.is_some() {
            let texts = hosts.into_iter().chain(ranges).map(Value::from);
            let there: Vec<Value> = payload["egress_allowlist"].as_array().cloned().unwrap_or_default();
            append(&mut payload["egress_allowlist"], texts.filter(|text| !there.contains(text)).collect());
        }
        payload
    }

    /// The entries for a host, with those that a wildcard of the contract gave it: a narrower entry takes its place.
    fn host(&self, name: &HostName, seen: &Seen) -> Vec<Value> {
        let mut entries = self.taken_over(name);
        let own = self.entries_of(&HostPattern::Exact(name.clone()));
        let manners: Vec<(Vec<u16>, Manner)> = entries.iter().chain(&own).map(manner).collect();
        let mut lines: BTreeMap<(Sort, String), (Manner, BTreeSet<u16>)> = BTreeMap::new();
        let all = |protocol| places(seen, protocol);
        let (tcp, udp) = (all(Protocol::Tcp), all(Protocol::Udp));
        for (protocol, port) in
            tcp.keys().map(|port| (Protocol::Tcp, *port)).chain(udp.keys().map(|port| (Protocol::Udp, *port)))
        {
            let tls = speaks_tls(port, tcp.get(&port).copied().unwrap_or_default());
            let sort = match (protocol, port) {
                (_, 443) if udp.contains_key(&443) => Sort::Quic,
                (Protocol::Udp, _) => Sort::Udp,
                (Protocol::Tcp, _) if tls => Sort::Tls,
                (Protocol::Tcp, _) => Sort::Plain,
            };
            let at = manners.iter().find(|(ports, _)| ports.contains(&port)).or(manners.first());
            let manner = at.map(|(_, manner)| manner.clone()).unwrap_or_default();
            let line = lines.entry((sort, Value::Object(manner.clone()).to_string())).or_default();
            line.0 = manner;
            line.1.insert(port);
        }
        // What is spoken at QUIC's port is as the contract says it already is.
        let plain = entries.iter().chain(&own).any(|entry| {
            manner(entry).0.contains(&443) && entry["tls"] == json!(false) && entry["protocol"] != json!("udp")
        });
        for ((sort, _), (manner, ports)) in lines {
            let mut entry = manner;
            entry.insert("host".into(), json!(name.as_str()));
            entry.insert("ports".into(), json!(ports));
            match sort {
                Sort::Tls => entry.insert("tls".into(), json!(true)),
                Sort::Plain => entry.insert("tls".into(), json!(false)),
                Sort::Udp => entry.insert("protocol".into(), json!("udp")),
                Sort::Quic => {
                    entry.insert("quic".into(), json!(true));
                    entry.insert("tls".into(), json!(!plain))
                }
            };
            // Only what speaks TLS to a name has it.
            if sort != Sort::Tls && (plain || sort != Sort::Quic) {
                entry.remove("ech");
            }
            entries.push(Value::Object(entry));
        }
        entries
    }

    /// What the contract says of a host without naming it in `egress`, spelled out.
    fn taken_over(&self, name: &HostName) -> Vec<Value> {
        let exact = HostPattern::Exact(name.clone());
        let said = Named::of(self.patterns());
        if said.has(&exact) {
            return Vec::new();
        }
        let listed = Named::of(self.allowlist());
        let bare = || json!({ "ports": [443], "tls": true });
        let mut entries = if listed.has(&exact) && !said.covers(&exact) {
            vec![bare()]
        } else {
            match Named::of(self.patterns().chain(self.allowlist())).around(&exact) {
                Some(wildcard) if said.has(&wildcard) => self.entries_of(&wildcard),
                Some(_) => vec![bare()],
                None => Vec::new(),
            }
        };
        for entry in &mut entries {
            entry["host"] = json!(name.as_str());
        }
        entries
    }

    fn patterns(&self) -> impl Iterator<Item = &HostPattern> {
        self.contract.guard.egress.iter().filter_map(|entry| match &entry.to {
            To::Host(pattern) => Some(pattern),
            To::Range(_) => None,
        })
    }

    fn allowlist(&self) -> impl Iterator<Item = &HostPattern> {
        self.contract.egress_allowlist.iter().flatten().filter_map(|allowed| match allowed {
            Allowed::Host(pattern) => Some(pattern),
            Allowed::Range(_) => None,
        })
    }

    /// The entries of `egress` for a pattern, as they are written.
    fn entries_of(&self, pattern: &HostPattern) -> Vec<Value> {
        let written = self.payload["metadata"][GUARD]["egress"].as_array();
        let entries = self.contract.guard.egress.iter().zip(written.into_iter().flatten());
        entries
            .filter(|(entry, _)| matches!(&entry.to, To::Host(own) if own == pattern))
            .map(|(_, text)| text.clone())
            .collect()
    }
}

/// How a host is reached; the order in which its lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Tls,
    Quic,
    Plain,
    Udp,
}

/// The ports at which a host was seen by a protocol, and whether a TLS ClientHello for it was.
fn places(seen: &Seen, by: Protocol) -> BTreeMap<u16, bool> {
    let mut found = BTreeMap::new();
    for what in seen.places.keys() {
        if let What::Host { protocol, port, tls, .. } = what
            && *protocol == by
        {
            *found.entry(*port).or_default() |= *tls;
        }
    }
    found
}

/// An entry's ports, and what of it a further line for the same host takes over: a kill that ends one ends the other.
fn manner(entry: &Value) -> (Vec<u16>, Manner) {
    let ports = entry["ports"]
        .as_array()
        .map_or_else(|| vec![443], |ports| ports.iter().filter_map(Value::as_f64).map(|port| port as u16).collect());
    let kept = ["groups", "class", "ech"].into_iter();
    (ports, kept.filter_map(|name| Some((name.to_owned(), entry.get(name)?.clone()))).collect())
}

fn range(addr: IpAddr) -> String {
    Cidr::host(net::addr(addr)).to_string()
}

/// The lines for one address or one caller: one for each protocol.
fn by_address(addr: IpAddr, seen: &Seen) -> Vec<Value> {
    let mut lines: BTreeMap<Protocol, BTreeSet<u16>> = BTreeMap::new();
    for what in seen.places.keys() {
        if let What::Address { protocol, port, .. } | What::Inbound { protocol, port, .. } = what {
            lines.entry(*protocol).or_default().insert(*port);
        }
    }
    let line = |(protocol, ports): (Protocol, BTreeSet<u16>)| json!({ "cidr": range(addr), "ports": ports, "protocol": protocol.label() });
    lines.into_iter().map(line).collect()
}

fn append(list: &mut Value, lines: Vec<Value>) {
    match list {
        Value::Array(items) => items.extend(lines),
        other => *other = Value::Array(lines),
    }
}

fn fresh(terms: &Terms) -> Value {
    json!({
        "policy_version": "1",
        "policy_id": "my-agent",
        "issuer_did": terms.issuer,
        "metadata": { GUARD: { "sequence": 1, "not_after": terms.not_after.format() } },
    })
}

/// The same contract, one sequence on; one that has ended, or is to end before it begins, gets a new end.
fn renewed(mut payload: Value, contract: &Contract, terms: &Terms, notes: &mut Vec<String>) -> Value {
    if !payload["metadata"].is_object() {
        payload["metadata"] = json!({});
    }
    let guard = &mut payload["metadata"][GUARD];
    guard["sequence"] = json!(contract.guard.sequence.saturating_add(1));
    let over = |end: Instant| end <= terms.now;
    if contract.guard.not_after.is_some_and(over) {
        notes.push("the contract in force has ended: this one lives longer".into());
        guard["not_after"] = json!(terms.not_after.format());
    }
    payload
}
