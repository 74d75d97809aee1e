//! What compiled rules say about one endpoint, and an endpoint for each group to try the switch at.

use clawguard_common::{Addr, Endpoint, Reason, side};

use crate::{
    compile::{Policy, Rule},
    group::Group,
    net::Cidr,
};

/// The rule that the kernel will find for an endpoint: an independent reading of the compiled rules, for tests and for
/// telling what a contract allows.
#[must_use]
pub fn find(policy: &Policy, side: u8, protocol: u8, port: u16, addr: Addr) -> Option<&Rule> {
    policy
        .rules
        .iter()
        .filter(|rule| (rule.side, rule.protocol, rule.port) == (side, protocol, port) && rule.range.contains(addr))
        .max_by_key(|rule| rule.range.bits)
}

/// An endpoint that the policy opens for a group, if there is one: what a proof of the switch can try.
#[must_use]
pub fn sample(policy: &Policy, group: &Group) -> Option<Endpoint> {
    let in_group = |rule: &&Rule| {
        rule.side == side::EGRESS
            && rule.reason == Reason::Allowed
            && policy.sets.get(usize::from(rule.set)).is_some_and(|set| set.contains(group))
    };
    policy.rules.iter().filter(in_group).find_map(|rule| {
        candidates(rule.range).find(|addr| find(policy, rule.side, rule.protocol, rule.port, *addr) == Some(rule)).map(
            |addr| Endpoint { addr, port: rule.port, protocol: rule.protocol, loopback: u8::from(addr.is_loopback()) },
        )
    })
}

/// A few addresses of a range: the first, its neighbour, and the middle, which is in none of the special ranges for the
/// widest ranges there are.
fn candidates(range: Cidr) -> impl Iterator<Item = Addr> {
    let first = u128::from_be_bytes(range.addr.bytes());
    let size = 1_u128.checked_shl(128 - u32::from(range.bits)).unwrap_or(0);
    [0, 1, size / 2 + 1, size / 3 + 1]
        .into_iter()
        .filter(move |offset| size == 0 || *offset < size)
        .map(move |offset| Addr::from_bytes(first.wrapping_add(offset).to_be_bytes()))
}
