//! A policy as the kernel's tables.

use std::{collections::HashMap, io};

use clawguard_common::{
    ADDRESS, Called, ExactKey, Groups, NameData, RangeData, Reason, Rule, bound, group, policy as flags, protocol,
    rule, side, tag,
};
use policy::{Group, Policy, compile::NameRule, name::HostPattern};
use sys::bpf::{self, RangeKey};

use std::os::fd::OwnedFd;

/// The kernel's tables for one contract. They are filled before any job can find them and never change.
#[derive(Debug)]
pub struct Lowered {
    pub(crate) exact: Option<OwnedFd>,
    pub(crate) ranges: Option<OwnedFd>,
    pub(crate) names: Option<OwnedFd>,
    pub(crate) flags: u64,
    /// The names' rules that allow, by number and port; of several with one number, none.
    pub(crate) by_number: HashMap<(u32, u16), Rule>,
    /// The policy's sets of groups, by index.
    pub(crate) sets: Vec<Groups>,
    /// How many entries they have together.
    pub entries: usize,
}

/// The numbers by which a host's groups are told apart in the kernel.
pub trait Numbering {
    /// The number of a group that has one.
    fn number(&self, group: &Group) -> Option<usize>;
}

/// Fills tables with a policy's rules.
///
/// # Errors
///
/// If the kernel has no memory for them.
pub fn lower(policy: &Policy, numbering: &dyn Numbering) -> io::Result<Lowered> {
    let sets: Vec<Groups> = policy
        .sets
        .iter()
        .map(|set| {
            // Whatever else it belongs to, `all` takes it away. Only the gateway's own listener is in no group at all.
            let mut groups = if set.is_empty() { Groups::default() } else { Groups::one(group::ALL) };
            for name in set {
                match numbering.number(name) {
                    Some(number) => groups.insert(number),
                    None => {
                        let missing = format!("the group {name} has no number");
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, missing));
                    }
                }
            }
            Ok(groups)
        })
        .collect::<io::Result<_>>()?;
    let groups = |set: u16| sets.get(usize::from(set)).copied().unwrap_or(Groups::one(group::ALL));
    let mut found = 0;
    let (mut exact_keys, mut exact_rules) = (Vec::new(), Vec::new());
    let (mut range_keys, mut range_rules) = (Vec::new(), Vec::new());
    for rule in &policy.rules {
        let tag = tag(rule.side, rule.protocol, rule.port);
        let value = Rule {
            groups: groups(rule.set),
            number: rule.number,
            reason: rule.reason as u8,
            flags: rule_flags(rule.tls, rule.ech),
            pad: [0; 2],
        };
        if rule.range.bits == 128 && rule.side == side::EGRESS {
            found |= flags::EXACT;
            exact_keys.push(ExactKey { tag, rule: ADDRESS, addr: rule.range.addr });
            exact_rules.push(value);
        } else {
            found |= if rule.side == side::EGRESS { flags::RANGES } else { flags::LISTEN };
            let data = RangeData { tag, addr: rule.range.addr, pad: 0 };
            range_keys.push(RangeKey { prefix: RangeData::prefix(u32::from(rule.range.bits)), data });
            range_rules.push(value);
        }
    }
    for one in &policy.bound {
        let tag = tag(side::EGRESS, protocol::TCP, one.port);
        exact_keys.push(ExactKey { tag, rule: bound(one.number), addr: one.addr });
        exact_rules.push(Rule { number: one.number, ..Rule::default() });
    }
    let (mut name_keys, mut name_rules) = (Vec::new(), Vec::new());
    for rule in &policy.names {
        found |= flags::NAMES;
        if rule.tcp {
            name_keys.push(called(&rule.name, rule.port));
            name_rules.push(name_rule(rule, groups(rule.set)));
        }
    }
    let by_number = by_number(policy, groups);
    let entries = exact_keys.len() + range_keys.len() + name_keys.len();
    let exact = filled(crate::maps::new_exact, &exact_keys, &exact_rules)?;
    let ranges = filled(crate::maps::new_ranges, &range_keys, &range_rules)?;
    let names = filled(crate::maps::new_names, &name_keys, &name_rules)?;
    Ok(Lowered { exact, ranges, names, flags: found, by_number, sets, entries })
}

/// A wildcard's number is also that of what is said more narrowly below it: which of them led somewhere, a number does not tell.
fn by_number(policy: &Policy, groups: impl Fn(u16) -> Groups) -> HashMap<(u32, u16), Rule> {
    let mut found: HashMap<(u32, u16), Option<Rule>> = HashMap::new();
    for rule in &policy.names {
        let own = name_rule(rule, groups(rule.set));
        found
            .entry((rule.number, rule.port))
            .and_modify(|known| *known = known.filter(|known| *known == own))
            .or_insert(Some(own));
    }
    found
        .into_iter()
        .filter_map(|(key, rule)| Some((key, rule.filter(|rule| rule.reason == Reason::Allowed as u8)?)))
        .collect()
}

const fn rule_flags(tls: bool, ech: bool) -> u8 {
    (if tls { rule::TLS } else { 0 }) | (if ech { rule::ECH } else { 0 })
}

/// A name's rule as the kernel has it.
pub(crate) fn name_rule(rule: &NameRule, groups: Groups) -> Rule {
    let flags = rule_flags(rule.tls, rule.ech);
    Rule { groups, number: rule.number, reason: rule.reason as u8, flags, pad: [0; 2] }
}

/// A pattern as the kernel looks names up: from the end, and a wildcard as the dot before its star.
fn called(name: &HostPattern, port: u16) -> Called {
    let (text, end) = match name {
        HostPattern::Exact(name) => (name.as_str(), 0),
        HostPattern::Below(name) => (name.as_str(), b'.'),
    };
    let mut called = Called::default();
    called.data.port = port.to_be_bytes();
    for (to, byte) in called.data.reversed.iter_mut().zip(text.bytes().rev().chain([end])) {
        *to = byte;
    }
    called.prefix = NameData::prefix(text.len() as u32 + 1);
    called
}

fn filled<K: bpf::Plain>(
    new: fn(u32) -> io::Result<OwnedFd>,
    keys: &[K],
    rules: &[Rule],
) -> io::Result<Option<OwnedFd>> {
    if keys.is_empty() {
        return Ok(None);
    }
    let entries = u32::try_from(keys.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let map = new(entries)?;
    bpf::map_update_batch(&map, keys, rules)?;
    Ok(Some(map))
}
