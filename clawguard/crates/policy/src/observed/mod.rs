//! From what an agent in observe mode did to the narrowest contract that would have allowed it, and what that leaves out.
//!
//! Only exact hosts and exact addresses are written, each with the ports that were seen. What belongs to another way (a model,
//! an MCP server, DNS), what no rule can allow, and what nobody should be given unseen is left out and told, with why.

mod entries;
mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use claw::{Hash, json};
use clawguard_common::{Reason, side};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Contract, HostFacts, Policy, compile::compile, contract::Protocol, name::HostName, names::NameIndex, net,
    sample::find,
};
use entries::Base;
use judge::Judged;

/// New destinations and callers that one draft writes. A person is to read them.
pub const MOST: usize = 256;

/// Something that passed only because the agent was observed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A flow to a host.
    Host {
        /// The name that it called for, or that led to where it went.
        name: HostName,
        /// By which protocol.
        protocol: Protocol,
        /// To which port.
        port: u16,
        /// Whether it began with a TLS ClientHello for the name.
        tls: bool,
        /// Whether other names that the agent asked for lead to the same address, so that it may have meant those.
        shared: bool,
    },
    /// A flow to an address.
    Address {
        /// Which.
        addr: IpAddr,
        /// By which protocol.
        protocol: Protocol,
        /// To which port.
        port: u16,
    },
    /// A flow that somebody else began.
    Inbound {
        /// Who.
        from: IpAddr,
        /// By which protocol.
        protocol: Protocol,
        /// The agent's own port; 0 where it is not known.
        port: u16,
    },
    /// A question for a name.
    Name(String),
    /// Anything else, in words: a kind of socket, a socket option.
    Other(String),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { name, protocol, port, .. } => write!(f, "{name}:{port}/{}", protocol.label()),
            Self::Address { addr, protocol, port } => {
                write!(f, "{}/{}", std::net::SocketAddr::new(*addr, *port), protocol.label())
            }
            Self::Inbound { from, protocol, port: 0 } => write!(f, "{from} to a port of its own/{}", protocol.label()),
            Self::Inbound { from, protocol, port } => write!(f, "{from} to its port {port}/{}", protocol.label()),
            Self::Name(name) => write!(f, "the name {name}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// What was seen, why it would have been denied, and how often.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    /// What.
    pub what: What,
    /// Why.
    pub reason: Reason,
    /// How often.
    pub count: u64,
}

/// What a draft says beside what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// `policy_id`; without it that of the contract it builds on.
    pub policy_id: Option<String>,
    /// `issuer_did` where there is no contract to build on.
    pub issuer: String,
    /// Now, for contracts that have ended.
    pub now: claw::time::Instant,
    /// When it is to end, unless the contract that it builds on still lives.
    pub not_after: claw::time::Instant,
}

/// A line that a draft adds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Added {
    /// What it allows.
    pub what: String,
    /// How often that was seen.
    pub count: u64,
    /// What to look at before it is signed.
    pub review: Vec<String>,
}

/// Something that was seen and that a draft does not allow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// What.
    pub what: String,
    /// Why it would have been denied: [`Reason::label`].
    pub reason: String,
    /// How often it was seen.
    pub count: u64,
    /// Why it is left out, and what to do instead.
    pub why: String,
}

/// A contract to be looked at and signed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draft {
    /// The payload.
    pub payload: Value,
    /// What it allows that was not allowed before, sorted.
    pub added: Vec<Added>,
    /// What it does not allow, sorted.
    pub left_out: Vec<LeftOut>,
    /// Observations that the contract it builds on allows as it is.
    pub known: usize,
    /// What else to know.
    pub notes: Vec<String>,
}

/// Why there is no draft.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The contract that it should build on is not accepted on this host.
    #[error("the contract in force is not accepted on this host any more: {0}")]
    Base(String),
    /// It is no JSON that contracts are made of.
    #[error("what was written is no contract: {0}")]
    Payload(String),
}

/// A contract's payload as the kernel would be held to it.
struct Compiled {
    policy: Policy,
    index: NameIndex,
}

impl Compiled {
    fn of(payload: &Value, facts: &HostFacts) -> Result<Self, String> {
        let policy = compile(&read(payload)?, Hash([0; 32]), facts).map_err(|error| error.to_string())?;
        Ok(Self { index: NameIndex::of(&policy), policy })
    }

    fn allows(&self, what: &What) -> bool {
        let address = |side, protocol: Protocol, port, addr: IpAddr| {
            let rule = find(&self.policy, side, protocol.number(), port, net::addr(addr));
            rule.is_some_and(|rule| rule.reason == Reason::Allowed)
        };
        match what {
            What::Host { name, protocol, port, .. } => {
                let fits = |udp, tcp| if *protocol == Protocol::Udp { udp } else { tcp };
                self.index.rules(name).rules.iter().any(|rule| rule.port == *port && fits(rule.udp, rule.tcp))
            }
            What::Address { addr, protocol, port } => address(side::EGRESS, *protocol, *port, *addr),
            What::Inbound { from, protocol, port } => address(side::LISTEN, *protocol, *port, *from),
            What::Name(name) => name.parse().is_ok_and(|name: HostName| !self.index.rules(&name).rules.is_empty()),
            What::Other(_) => false,
        }
    }
}

fn read(payload: &Value) -> Result<Contract, String> {
    let limits = json::Limits { bytes: 128 << 20, depth: 32 };
    let value = json::parse(payload.to_string().as_bytes(), limits).map_err(|error| error.to_string())?;
    Contract::read(&value).map_err(|error| error.to_string())
}

/// What is written for one host, one address or one caller: it stands or falls as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Host(HostName),
    Address(IpAddr),
    Caller(IpAddr),
}

/// What of a unit was seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    places: BTreeMap<What, Place>,
}

#[derive(Clone, Debug, Default)]
struct Place {
    count: u64,
    reasons: BTreeSet<Reason>,
    review: BTreeSet<String>,
}

impl Seen {
    fn count(&self) -> u64 {
        self.places.values().fold(0, |sum, place| sum.saturating_add(place.count))
    }

    fn leave(self, left_out: &mut Vec<LeftOut>, why: &str) {
        for (what, place) in self.places {
            let reason = place.reasons.first().map_or("", |reason| reason.label());
            left_out.push(LeftOut {
                what: what.to_string(),
                reason: reason.into(),
                count: place.count,
                why: why.into(),
            });
        }
    }
}

/// Writes the contract.
///
/// # Errors
///
/// See [`Error`].
pub fn draft(base: Option<&Value>, seen: &[Observation], facts: &HostFacts, terms: &Terms) -> Result<Draft, Error> {
    let mut notes = Vec::new();
    let base = Base::of(base, terms, &mut notes)?;
    let before = base.payload();
    let known = Compiled::of(&before, facts).map_err(Error::Base)?;
    let mut left_out = Vec::new();
    let mut units: BTreeMap<Unit, Seen> = BTreeMap::new();
    let (mut already, mut asked) = (0, Vec::new());
    for observation in seen {
        let Observation { what, reason, count } = observation;
        let leave = |why: String| LeftOut { what: what.to_string(), reason: reason.label().into(), count: *count, why };
        match judge::judged(observation, facts, known.allows(what)) {
            Judged::Known => already += 1,
            Judged::Asked => asked.push(observation),
            Judged::Leave(why) => left_out.push(leave(why)),
            Judged::Write(unit, review) => {
                let place = units.entry(unit).or_default().places.entry(what.clone()).or_default();
                place.count = place.count.saturating_add(*count);
                place.reasons.insert(*reason);
                place.review.extend(review);
            }
        }
    }
    // The most used are kept; of two that were used alike, the first by name.
    let mut by_use: Vec<(Unit, Seen)> = units.into_iter().collect();
    by_use.sort_by_key(|(unit, seen)| (std::cmp::Reverse(seen.count()), unit.clone()));
    for (_, seen) in by_use.split_off(by_use.len().min(MOST)) {
        seen.leave(&mut left_out, &format!("more than {MOST} were seen; these are the least used"));
    }
    let mut kept: BTreeMap<Unit, Seen> = by_use.into_iter().collect();
    if let Err(why) = Compiled::of(&base.with(&kept), facts) {
        notes.push(format!("not all of it goes together on this host: {why}"));
        kept = fitting(&base, kept, facts, &mut left_out);
    }
    let payload = base.with(&kept);
    let compiled = Compiled::of(&payload, facts).map_err(Error::Payload)?;
    let mut added = Vec::new();
    for seen in kept.into_values() {
        for (what, place) in seen.places {
            let Place { count, reasons, review } = place;
            if compiled.allows(&what) {
                added.push(Added { what: what.to_string(), count, review: review.into_iter().collect() });
                continue;
            }
            let reason = reasons.first().map_or("", |reason| reason.label()).into();
            let why = "this host holds it back, whatever a contract says: `clawguard wpc check` tells why".into();
            left_out.push(LeftOut { what: what.to_string(), reason, count, why });
        }
    }
    for Observation { what, reason, count } in asked.into_iter().filter(|asked| !compiled.allows(&asked.what)) {
        let why = "it was asked for and nothing that was sent can be told to be for it: name its host and port, if it is needed";
        left_out.push(LeftOut {
            what: what.to_string(),
            reason: reason.label().into(),
            count: *count,
            why: why.into(),
        });
    }
    added.sort();
    left_out.sort();
    Ok(Draft { payload, added, left_out, known: already, notes })
}

/// Those that go together with the contract and with one another, first come first served.
fn fitting(
    base: &Base,
    units: BTreeMap<Unit, Seen>,
    facts: &HostFacts,
    left_out: &mut Vec<LeftOut>,
) -> BTreeMap<Unit, Seen> {
    let mut kept = BTreeMap::new();
    for (unit, seen) in units {
        kept.insert(unit.clone(), seen);
        if let Err(why) = Compiled::of(&base.with(&kept), facts)
            && let Some(seen) = kept.remove(&unit)
        {
            seen.leave(left_out, &format!("it does not go together with the rest: {why}"));
        }
    }
    kept
}

#[cfg(test)]
mod tests;
