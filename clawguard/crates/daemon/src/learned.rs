//! What names led to: the addresses that are open to an agent because a name's answer had them.
//!
//! Under each contract an agent has spots (an address, a port, TCP or UDP), and to each spot lead the names of one or more rules.
//! A kill must find what it is for, and TLS must be looked at or not: rules that could not be told apart at a spot do not share it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use claw::Hash;
use clawguard_common::{Addr, Groups, Reason};
use fence::{AgentName, Opening, Spot};
use policy::{Group, HostFacts, Policy, compile::NameRule, name::HostName, names::NameIndex, net, special};
use sys::clock;

use crate::core::Core;

/// Spots that one agent may have open under one contract.
const MOST_SPOTS: usize = 32_768;
/// Rules whose names may lead to one spot.
const MOST_RULES: usize = 32;

/// What a contract says of names.
#[derive(Debug, Default)]
pub(crate) struct NameTerms {
    pub(crate) index: NameIndex,
    /// A rule of each group that names belong to.
    pub(crate) samples: BTreeMap<Group, NameRule>,
}

impl NameTerms {
    pub(crate) fn of(policy: &Policy) -> Self {
        let mut samples = BTreeMap::new();
        for rule in policy.names.iter().filter(|rule| rule.reason == Reason::Allowed) {
            for group in policy.sets.get(usize::from(rule.set)).into_iter().flatten() {
                samples.entry(group.clone()).or_insert_with(|| rule.clone());
            }
        }
        Self { index: NameIndex::of(policy), samples }
    }
}

/// A rule whose names led to a spot.
#[derive(Clone, Debug)]
struct Led {
    /// The last of them.
    name: HostName,
    rule: NameRule,
    groups: Groups,
    expires_ns: u64,
    since_ns: u64,
}

/// What all agents have learned, by agent and contract.
#[derive(Default)]
pub(crate) struct Learned {
    by_owner: HashMap<(u32, Hash), HashMap<Spot, Vec<Led>>>,
    /// Questions, by agent and what became of them.
    pub(crate) questions: BTreeMap<(String, &'static str), u64>,
}

/// How a name's answer led to an address, for who asks.
pub(crate) struct Way {
    pub(crate) name: String,
    /// Seconds.
    pub(crate) ago: u64,
    pub(crate) expired: bool,
}

/// Under which contract an agent learns.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) agent: u32,
    pub(crate) hash: Hash,
    /// Slot of the contract.
    pub(crate) policy: u32,
}

/// What came of an address that a name has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Some port of it is open to the agent.
    Open,
    /// No name may lead there.
    Withheld(Reason),
    /// It cannot be opened.
    Failed(String),
}

impl Learned {
    /// How an agent came to know an address under a contract.
    pub(crate) fn way(&self, agent: u32, hash: Hash, addr: Addr, port: u16) -> Option<Way> {
        let spots = self.by_owner.get(&(agent, hash))?;
        let led = [false, true].into_iter().find_map(|udp| spots.get(&Spot { addr, port, udp }))?.last()?;
        let now = clock::boot_ns();
        let ago = now.saturating_sub(led.since_ns) / 1_000_000_000;
        Some(Way { name: led.name.to_string(), ago, expired: led.expires_ns <= now })
    }

    /// The tables of a contract are put up anew: what names led to is in the kernel's, and is learned anew as they are asked for.
    pub(crate) fn renew(&mut self, hash: Hash) {
        self.by_owner.retain(|(_, known), _| *known != hash);
    }
}

/// Why no name may lead to an address, whatever the contract says of the name.
fn withheld(address: IpAddr, spot: Spot, name: &HostName, facts: &HostFacts) -> Option<Reason> {
    let (addr, port) = (spot.addr, spot.port);
    // An answer in another form of an address than its own (an AAAA that holds an IPv4 address) hides which it is.
    if addr.canonical() != addr || (address.is_ipv6() && addr.is_v4()) {
        return Some(Reason::SpecialRange);
    }
    if facts.servers_at(addr, port).any(|server| server.host() != Some(name)) {
        return Some(Reason::McpDirect);
    }
    // Where the contract names an address in a special range itself, it is open without a name.
    special::of(addr).map(|special| special.reason)
}

impl Core {
    /// Opens one address of a name, at the ports of its rules.
    pub(crate) fn open(
        &mut self,
        owner: Owner,
        name: &HostName,
        rules: &[NameRule],
        address: IpAddr,
        expires_ns: u64,
    ) -> Came {
        let addr = net::addr(address);
        let since_ns = clock::boot_ns();
        let (mut open, mut held, mut failed) = (false, None, None);
        for rule in rules {
            for udp in [false, true].into_iter().filter(|udp| if *udp { rule.udp } else { rule.tcp }) {
                let spot = Spot { addr, port: rule.port, udp };
                match self.fence.address_rule(owner.policy, spot) {
                    // The contract says of the address itself what holds there. TLS is looked at there too, or not at all.
                    Some((Reason::Allowed, tls)) if !(tls && rule.tls) => {
                        open = true;
                        continue;
                    }
                    Some((Reason::Allowed, _)) => {}
                    Some((reason, _)) => {
                        held = Some(reason);
                        continue;
                    }
                    None => {
                        if let Some(reason) = withheld(address, spot, name, &self.facts) {
                            held = Some(reason);
                            continue;
                        }
                    }
                }
                let Some(groups) = self.fence.groups_of(owner.policy, rule) else {
                    return Came::Failed("the contract's tables are gone".into());
                };
                let led = Led { name: name.clone(), rule: rule.clone(), groups, expires_ns, since_ns };
                match self.lead(owner, spot, &led) {
                    Ok(()) => open = true,
                    Err(why) => failed = Some(why),
                }
            }
        }
        match (open, held, failed) {
            (true, _, _) => Came::Open,
            (_, _, Some(why)) => Came::Failed(why),
            (_, Some(reason), _) => Came::Withheld(reason),
            (_, None, None) => Came::Failed("its rules have no port".into()),
        }
    }

    /// Has a rule's name lead to a spot, in the kernel's table and here.
    fn lead(&mut self, owner: Owner, spot: Spot, led: &Led) -> Result<(), String> {
        let spots = self.learned.by_owner.entry((owner.agent, owner.hash)).or_default();
        if spots.len() >= MOST_SPOTS && !spots.contains_key(&spot) {
            return Err(format!("the agent has {MOST_SPOTS} addresses open already"));
        }
        let before = spots.get(&spot).map_or(&[][..], Vec::as_slice);
        let known = before.iter().find(|known| known.rule == led.rule);
        if known.is_some_and(|known| known.expires_ns >= led.expires_ns) {
            // The kernel has it for as long already.
            return Ok(());
        }
        // What has run out may still serve a live flow, as long as the spot is there.
        let mut all: Vec<Led> = before.iter().filter(|other| other.rule != led.rule).cloned().collect();
        if all.len() >= MOST_RULES {
            return Err(format!("the names of {MOST_RULES} rules lead there already"));
        }
        all.push(led.clone());
        let tls = led.rule.tls && !spot.udp;
        let mut groups = all.iter().fold(led.groups, |groups, other| groups.both(&other.groups));
        let mut expires_ns = all.iter().map(|led| led.expires_ns).max().unwrap_or(led.expires_ns);
        let mut apart =
            all.iter().all(|other| (other.rule.tls && !spot.udp) == tls && (tls || other.groups == led.groups));
        // What an earlier daemon, or the contract's former tables, left there is known by its groups alone.
        if before.is_empty()
            && let Some(opening) = self.fence.learned(owner.agent, owner.policy, spot)
        {
            apart &= opening.tls == tls && (tls || opening.groups == led.groups);
            groups = groups.both(&opening.groups);
            expires_ns = expires_ns.max(opening.expires_ns);
        }
        if !apart {
            return Err(
                "another name leads there too, and a kill or a look at its TLS name could not tell them apart".into()
            );
        }
        let opening = Opening { groups, number: led.rule.number, tls, expires_ns };
        self.fence.learn(owner.agent, owner.policy, spot, &led.rule, &opening).map_err(|error| error.to_string())?;
        spots.insert(spot, all);
        Ok(())
    }

    /// What an agent has learned under one contract stays good under the next, as far as that allows it.
    pub(crate) fn names_follow(&mut self, agent: &AgentName, agent_slot: u32, from: Option<Hash>, to: Hash) {
        let Some(from) = from.filter(|from| *from != to) else { return };
        let (Some(spots), Some(contract)) = (self.learned.by_owner.get(&(agent_slot, from)), self.contracts.get(&to))
        else {
            return;
        };
        let owner = Owner { agent: agent_slot, hash: to, policy: contract.slot };
        let terms = std::sync::Arc::clone(&contract.names);
        let now = clock::boot_ns();
        let mut names: HashMap<(HostName, IpAddr), u64> = HashMap::new();
        for (spot, led) in spots.iter().flat_map(|(spot, led)| led.iter().map(move |led| (spot, led))) {
            if led.expires_ns > now {
                let until = names.entry((led.name.clone(), net::ip(spot.addr))).or_default();
                *until = led.expires_ns.max(*until);
            }
        }
        for ((name, address), expires_ns) in names {
            let rules: Vec<NameRule> = terms.index.rules(&name).rules.into_iter().cloned().collect();
            if rules.is_empty() {
                continue;
            }
            if let Came::Failed(why) = self.open(owner, &name, &rules, address, expires_ns) {
                tracing::warn!(%agent, %name, %address, why, "an address does not stay open under the new contract");
            }
        }
    }

    /// Forgets what is no longer good and serves no live flow.
    pub(crate) fn forget_names(&mut self) {
        let forgotten = match self.fence.forget_learned(clock::boot_ns()) {
            Ok(forgotten) => forgotten,
            Err(error) => {
                tracing::warn!(%error, "addresses that names led to stay in the table");
                return;
            }
        };
        let hashes: HashMap<u32, Hash> = self.contracts.iter().map(|(hash, contract)| (contract.slot, *hash)).collect();
        for (agent, policy, spot) in forgotten {
            if let Some(hash) = hashes.get(&policy)
                && let Some(spots) = self.learned.by_owner.get_mut(&(agent, *hash))
            {
                spots.remove(&spot);
            }
        }
        let contracts = &self.contracts;
        self.learned.by_owner.retain(|(_, hash), spots| contracts.contains_key(hash) && !spots.is_empty());
        self.problems.remove("names");
    }
}
