//! The rules at their places: special ranges held back, and which of two rules for one place stands.

use std::collections::{BTreeMap, BTreeSet};

use clawguard_common::{Reason, side};

use super::{Compiler, Error, Rule, Source, listed};
use crate::{
    contract::To,
    finding::Outcome,
    group::Group,
    net::{self, Cidr},
    ranges::Ranges,
    special,
};

impl Compiler<'_> {
    /// An address in a special range is reached only by a CIDR that lies inside that range: never by a name.
    pub(super) fn explicit_only(&mut self) {
        let place = |rule: &Rule| (rule.side, rule.protocol, rule.port);
        let mut explicit = Ranges::default();
        for rule in &self.rules {
            if rule.range.bits < 128 || matches!(self.contract_entry(rule), Some(To::Range(_))) {
                explicit.insert(place(rule), rule.range);
            }
        }
        let mut refused = BTreeMap::new();
        self.rules.retain(|rule| {
            let by_name = rule.side == side::EGRESS && rule.reason == Reason::Allowed && rule.range.bits == 128;
            let Some(special) = special::of(rule.range.addr).filter(|_| by_name) else { return true };
            let named = explicit.around(place(rule), rule.range, special.range.bits);
            if !named {
                refused.insert(rule.number, (rule.range.addr, special.range));
            }
            named
        });
        for (number, (addr, range)) in refused {
            let path = Source::from_number(number).map_or_else(String::new, Source::path);
            let note = format!("{} lies in {range}, which needs a cidr entry of its own", net::ip(addr));
            self.found(path, Outcome::Denied, note);
        }
    }

    fn contract_entry(&self, rule: &Rule) -> Option<&To> {
        match Source::from_number(rule.number)? {
            Source::Egress(n) => self.contract.guard.egress.get(n as usize).map(|entry| &entry.to),
            _ => None,
        }
    }

    /// A wide range does not open the special ranges inside it.
    pub(super) fn hold_back_special_ranges(&mut self) -> Result<(), Error> {
        let set = self.set(BTreeSet::from([Group::all()]))?;
        let mut holes = BTreeSet::new();
        for rule in &self.rules {
            if rule.reason != Reason::Allowed {
                continue;
            }
            let mut hole = |range: Cidr, reason| {
                if rule.range.bits < range.bits && rule.range.covers(range) {
                    holes.insert((rule.side, rule.protocol, rule.port, range, reason));
                }
            };
            if rule.side == side::EGRESS {
                for special in special::all() {
                    hole(special.range, special.reason);
                }
                hole(Cidr::V4, Reason::NotInContract);
            } else {
                hole(Cidr::V4, Reason::Inbound);
            }
        }
        let taken: BTreeSet<_> =
            self.rules.iter().map(|rule| (rule.side, rule.protocol, rule.port, rule.range)).collect();
        for (side, protocol, port, range, reason) in holes {
            if !taken.contains(&(side, protocol, port, range)) {
                self.rules.push(Rule::held_back(side, protocol, port, range, set, reason));
            }
        }
        Ok(())
    }

    /// Sorts the rules and refuses those of which a look-up would find either: the kernel finds the narrowest, so a rule
    /// must agree with the next wider one that it lies in.
    pub(super) fn sorted_rules(&mut self) -> Result<Vec<Rule>, Error> {
        let mut rules = std::mem::take(&mut self.rules);
        // Wider before narrower at one address; at one place allowing before denying, and what asks for TLS first.
        rules.sort_by_key(|rule| {
            (
                rule.side,
                rule.protocol,
                rule.port,
                rule.range.addr.bytes(),
                rule.range.bits,
                rule.reason,
                !rule.tls,
                rule.set,
                rule.number,
            )
        });
        let mut around: Vec<Rule> = Vec::new();
        let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
        for rule in rules {
            let place = |r: &Rule| (r.side, r.protocol, r.port);
            while around.last().is_some_and(|wider| place(wider) != place(&rule) || !wider.range.covers(rule.range)) {
                around.pop();
            }
            if rule.reason == Reason::Allowed {
                let wider = around.iter().rev().find(|wider| wider.reason == Reason::Allowed);
                // A hole between the two means that the wider one does not reach here.
                let hidden = around.last().is_some_and(|last| last.reason != Reason::Allowed);
                if let Some(wider) = wider.filter(|wider| wider.set != rule.set && !hidden) {
                    return Err(self.conflict(wider, &rule));
                }
            }
            match around.last() {
                // One place, told twice: the first stands (they agree, or the first allows what a contract names).
                Some(last) if last.range == rule.range => {
                    let by_name =
                        rule.reason == Reason::Allowed && !matches!(self.contract_entry(&rule), Some(To::Range(_)));
                    if last.tls && !rule.tls && by_name {
                        return Err(self.undone(last, &rule));
                    }
                    if let Some(kept) = kept.last_mut() {
                        kept.ech |= rule.ech;
                    }
                }
                _ => {
                    around.push(rule);
                    kept.push(rule);
                }
            }
        }
        Ok(kept)
    }

    fn conflict(&self, one: &Rule, other: &Rule) -> Error {
        let groups = |rule: &Rule| {
            let set = self.sets.iter().find(|(_, index)| **index == rule.set).map(|(set, _)| set);
            set.map(listed).unwrap_or_default()
        };
        Error::Conflict {
            one: one.path(),
            other: other.path(),
            place: other.place(),
            one_groups: groups(one),
            other_groups: groups(other),
        }
    }

    fn undone(&self, tls: &Rule, plain: &Rule) -> Error {
        Error::Undone { tls: tls.path(), plain: plain.path(), place: plain.place() }
    }
}
