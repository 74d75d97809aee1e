//! Endpoints: `egress_allowlist`, `egress`, `listen`.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChangeKind, Changes};
use crate::{
    contract::{Allowed, Contract, Egress, Protocol, To},
    group::{Class, Group},
    name::{HostPattern, Named},
    net::Cidr,
};

const EGRESS: &str = "egress";
const LISTEN: &str = "listen";
const ALLOWLIST: &str = "egress_allowlist";

/// A place that a contract opens.
type Place<'a> = (Target<'a>, u16, Protocol);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target<'a> {
    Host(&'a HostPattern),
    Range(Cidr),
}

/// How it is open.
#[derive(PartialEq, Eq)]
struct Way<'a> {
    class: Option<Class>,
    tls: bool,
    ech: bool,
    groups: BTreeSet<&'a Group>,
}

pub(super) fn of(changes: &mut Changes, old: &Contract, new: &Contract) {
    let (before, after) = (places(old), places(new));
    for (place, way) in &after {
        match before.get(place) {
            None => changes.push(ChangeKind::Widens, EGRESS, format!("adds {}", open(place, way))),
            Some(was) => change(changes, place, was, way),
        }
    }
    for (place, way) in &before {
        if !after.contains_key(place) {
            changes.push(ChangeKind::Narrows, EGRESS, format!("takes away {}", open(place, way)));
        }
    }
    uncovered(changes, old, new);
    let ranges = |contract: &Contract| -> BTreeSet<Cidr> {
        let range = |allowed: &Allowed| match allowed {
            Allowed::Range(range) => Some(*range),
            Allowed::Host(_) => None,
        };
        contract.egress_allowlist.iter().flatten().filter_map(range).collect()
    };
    let (before, after) = (ranges(old), ranges(new));
    for range in after.difference(&before) {
        changes.push(ChangeKind::Changes, ALLOWLIST, format!("adds the bound {range}, which opens nothing by itself"));
    }
    for range in before.difference(&after) {
        changes.push(
            ChangeKind::Changes,
            ALLOWLIST,
            format!("takes away the bound {range}, which opened nothing by itself"),
        );
    }
    listen(changes, old, new);
}

/// What a contract opens, as `compile` reads it: `egress_allowlist` speaks only where `egress` does not.
fn places(contract: &Contract) -> BTreeMap<Place<'_>, Way<'_>> {
    let mut found = BTreeMap::new();
    for entry in &contract.guard.egress {
        let target = match &entry.to {
            To::Host(pattern) => Target::Host(pattern),
            To::Range(range) => Target::Range(*range),
        };
        for port in &entry.ports {
            found.entry((target, *port, entry.protocol)).or_insert_with(|| way(entry));
            if entry.quic {
                found.entry((target, *port, Protocol::Udp)).or_insert_with(|| way(entry));
            }
        }
    }
    let spoken = Named::of(named(contract));
    for pattern in listed(contract).filter(|pattern| !spoken.covers(pattern)) {
        let way = || Way { class: None, tls: true, ech: false, groups: BTreeSet::new() };
        found.entry((Target::Host(pattern), 443, Protocol::Tcp)).or_insert_with(way);
    }
    found
}

/// The hosts of `egress`.
fn named(contract: &Contract) -> impl Iterator<Item = &HostPattern> {
    contract.guard.egress.iter().filter_map(|entry| match &entry.to {
        To::Host(pattern) => Some(pattern),
        To::Range(_) => None,
    })
}

/// The hosts of `egress_allowlist`.
fn listed(contract: &Contract) -> impl Iterator<Item = &HostPattern> {
    contract.egress_allowlist.iter().flatten().filter_map(|allowed| match allowed {
        Allowed::Host(pattern) => Some(pattern),
        Allowed::Range(_) => None,
    })
}

fn way(entry: &Egress) -> Way<'_> {
    Way { class: entry.class, tls: entry.tls, ech: entry.ech, groups: entry.groups.iter().collect() }
}

/// Hosts that had an entry of their own and now fall to a wildcard, whose ports may be others.
fn uncovered(changes: &mut Changes, old: &Contract, new: &Contract) {
    // A wildcard of egress leaves out what has a narrower entry of its own, one of egress_allowlist all that egress names.
    let (still, listed) = (Named::of(named(new)), Named::of(listed(new)));
    for gone in named(old).filter(|pattern| !still.has(pattern)) {
        let wide = still.around(gone).or_else(|| match gone {
            HostPattern::Exact(_) => None,
            HostPattern::Below(_) => listed.has(gone).then(|| gone.clone()),
        });
        if let Some(wide) = wide.or_else(|| listed.around(gone)) {
            let text = format!("takes away what egress said of {gone} itself, so that {wide} decides about it");
            changes.unjudged(EGRESS, text);
        }
    }
}

fn change(changes: &mut Changes, place: &Place<'_>, was: &Way<'_>, is: &Way<'_>) {
    if was == is {
        return;
    }
    let place = at(place);
    if was.class != is.class {
        let text = format!("changes {place} from class {} to class {}", class(was.class), class(is.class));
        changes.unjudged(EGRESS, text);
    }
    if was.tls != is.tls {
        let (kind, text) = match is.tls {
            true => (ChangeKind::Narrows, "asks for TLS at"),
            false => (ChangeKind::Widens, "no longer asks for TLS at"),
        };
        changes.push(kind, EGRESS, format!("{text} {place}"));
    }
    if was.ech != is.ech {
        let (kind, text) = match is.ech {
            true => (ChangeKind::Widens, "allows encrypted ClientHellos"),
            false => (ChangeKind::Narrows, "no longer allows encrypted ClientHellos"),
        };
        changes.push(kind, EGRESS, format!("{text} at {place}"));
    }
    if was.groups != is.groups {
        let text = format!("changes {place} from groups {} to groups {}", groups(&was.groups), groups(&is.groups));
        // More groups, more switches that take it away; but a group may also say that the risk is low.
        changes.unjudged(EGRESS, text);
    }
}

fn open(place: &Place<'_>, way: &Way<'_>) -> String {
    let of = way.class.map_or_else(String::new, |class| format!("{class} "));
    let groups = if way.groups.is_empty() { String::new() } else { format!(" (groups {})", groups(&way.groups)) };
    format!("{of}access to {}{groups}", at(place))
}

fn at((target, port, protocol): &Place<'_>) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    match target {
        Target::Host(pattern) => format!("{pattern}:{port}/{protocol}"),
        Target::Range(range) => format!("{range} port {port}/{protocol}"),
    }
}

fn class(class: Option<Class>) -> String {
    class.map_or_else(|| "unsaid".into(), |class| class.to_string())
}

fn groups(groups: &BTreeSet<&Group>) -> String {
    if groups.is_empty() {
        return "none".into();
    }
    groups.iter().map(|group| group.as_str()).collect::<Vec<_>>().join(" ")
}

fn listen(changes: &mut Changes, old: &Contract, new: &Contract) {
    let places = |contract: &Contract| -> BTreeSet<String> {
        let entries = contract.guard.listen.iter();
        let places = entries.flat_map(|entry| {
            let place = |port: &u16| at(&(Target::Range(entry.from), *port, entry.protocol));
            entry.ports.iter().map(place).collect::<Vec<_>>()
        });
        places.collect()
    };
    let (before, after) = (places(old), places(new));
    let (before, after) = (before.iter().map(String::as_str), after.iter().map(String::as_str));
    changes.list(LISTEN, "callers from", false, before, after);
}
