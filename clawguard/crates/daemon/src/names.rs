//! Names: which of them a job may know, and which addresses their answers open to it.
//!
//! The gateway asks and resolves; what it says of addresses is judged here, and an answer is released only after the kernel's
//! table has what it opens. Nothing is shared between agents.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use claw::Hash;
use clawguard_common::{Addr, Groups, Reason, protocol, side};
use control::channel::Named;
use evidence::chain::Kind;
use fence::{AgentName, JobId, Opening, Spot};
use policy::{
    Policy,
    compile::NameRule,
    name::HostName,
    names::{NameIndex, Suspect, suspect},
    net::{self, Cidr},
    special,
};
use serde_json::json;
use sys::clock;

use crate::{
    alarms::{MCP, MODEL, NameDenied},
    config::AgentMode,
    core::Core,
};

/// What a name is good for after its answer has run out, so that whoever was told can still begin: nanoseconds.
const GRACE_NS: u64 = 5_000_000_000;
/// The longest that an answer is good: seconds.
const LONGEST_TTL: u32 = 86_400;
/// How long the addresses that the host fixes may be remembered: seconds.
const FIXED_TTL: u32 = 300;
/// Addresses of one name that are opened.
const MOST_ADDRESSES: usize = 64;
/// Spots that one agent may have open under one contract.
const MOST_SPOTS: usize = 65_536;

/// What a contract says of names.
#[derive(Debug, Default)]
pub(crate) struct NameTerms {
    index: NameIndex,
    /// Ranges inside special ones that the contract names itself: protocol, port, range.
    explicit: Vec<(u8, u16, Cidr)>,
}

impl NameTerms {
    pub(crate) fn of(policy: &Policy) -> Self {
        let inside = |range: Cidr| special::of(range.addr).is_some_and(|special| special.range.covers(range));
        let explicit = policy
            .rules
            .iter()
            .filter(|rule| rule.side == side::EGRESS && rule.reason == Reason::Allowed && inside(rule.range))
            .map(|rule| (rule.protocol, rule.port, rule.range))
            .collect();
        Self { index: NameIndex::of(policy), explicit }
    }

    /// Why an address is not opened by a name, if it is not: another form of an IPv4 address, or one in a special range that the
    /// contract does not name itself.
    fn withheld(&self, addr: Addr, spot: Spot) -> Option<Reason> {
        let special = special::of(addr)?;
        let number = if spot.udp { protocol::UDP } else { protocol::TCP };
        let named = self.explicit.iter().any(|(protocol, port, range)| {
            (*protocol, *port) == (number, spot.port) && special.range.covers(*range) && range.contains(addr)
        });
        (!named).then_some(special.reason)
    }
}

/// A name that led to a spot.
#[derive(Clone, Debug)]
struct Led {
    name: HostName,
    rule: NameRule,
    groups: Groups,
    expires_ns: u64,
    since_ns: u64,
}

/// What an agent has learned under a contract.
#[derive(Default)]
struct Learnt {
    spots: HashMap<Spot, Vec<Led>>,
}

/// What all agents have learned.
#[derive(Default)]
pub(crate) struct Learned {
    by_owner: HashMap<(u32, Hash), Learnt>,
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

/// Who asks.
struct Asker {
    job: JobId,
    agent: AgentName,
    agent_slot: u32,
    hash: Hash,
    policy: u32,
    observed: bool,
}

impl Learned {
    /// How an agent came to know an address under a contract.
    pub(crate) fn way(&self, agent: u32, hash: Hash, addr: Addr, port: u16) -> Option<Way> {
        let learnt = self.by_owner.get(&(agent, hash))?;
        let led = [false, true].into_iter().find_map(|udp| learnt.spots.get(&Spot { addr, port, udp }))?.last()?;
        let now = clock::boot_ns();
        let ago = now.saturating_sub(led.since_ns) / 1_000_000_000;
        Some(Way { name: led.name.to_string(), ago, expired: led.expires_ns <= now })
    }
}

impl Core {
    /// Who has a slot, if a contract is in force for it.
    fn asker(&self, slot: u32) -> Option<Asker> {
        let key = self.fence.job_key(slot);
        let (job, agent) = self.owners.get(&key).filter(|_| key != 0)?.clone();
        let known = self.jobs.get(&job).filter(|job| job.enrolled.key == key)?;
        let entry = self.agents.get(&agent)?;
        let hash = known.wpc.or(entry.wpc)?;
        let policy = self.contracts.get(&hash)?.slot;
        let observed = entry.mode == AgentMode::Observe;
        Some(Asker { job, agent, agent_slot: entry.slot, hash, policy, observed })
    }

    /// Whether a job may know a name.
    pub(crate) fn name_asked(&mut self, slot: u32, text: &str, kind: u16) -> Named {
        let Some(asker) = self.asker(slot) else { return Named::Refused };
        let Ok(name) = text.parse::<HostName>() else {
            self.name_refused(&asker, text, None, kind);
            return Named::Refused;
        };
        let Some(contract) = self.contracts.get(&asker.hash) else { return Named::Failed };
        let found = contract.names.index.rules(&name);
        let (allowed, wildcard, denied) = (!found.rules.is_empty(), found.wildcard, found.denied);
        if !allowed {
            self.name_refused(&asker, text, Some((&name, denied)), kind);
            return if asker.observed { Named::Resolve { wildcard: true } } else { Named::Refused };
        }
        self.count_question(&asker, "allowed");
        match self.facts.hosts.get(&name) {
            // In the kernel's tables since the contract was loaded.
            Some(addresses) => Named::Open { addresses: addresses.iter().copied().collect(), ttl_seconds: FIXED_TTL },
            None => Named::Resolve { wildcard },
        }
    }

    /// Opens the addresses that a name has, and answers those that may be told.
    pub(crate) fn name_learned(&mut self, slot: u32, text: &str, addresses: &[IpAddr], ttl_seconds: u32) -> Named {
        let (Some(asker), Ok(name)) = (self.asker(slot), text.parse::<HostName>()) else { return Named::Refused };
        let Some(contract) = self.contracts.get(&asker.hash) else { return Named::Failed };
        let rules: Vec<NameRule> = contract.names.index.rules(&name).rules.into_iter().cloned().collect();
        let ttl = ttl_seconds.clamp(self.config.names.ttl_floor_seconds, LONGEST_TTL);
        if rules.is_empty() {
            // In observe mode everything passes, so there is nothing to open.
            let addresses = addresses.to_vec();
            return if asker.observed { Named::Open { addresses, ttl_seconds: ttl } } else { Named::Refused };
        }
        let now = clock::boot_ns();
        let expires_ns = now + u64::from(ttl) * 1_000_000_000 + GRACE_NS;
        let mut told = Vec::new();
        for address in addresses.iter().take(MOST_ADDRESSES) {
            match self.open(&asker, &name, &rules, *address, expires_ns, now) {
                Ok(true) => told.push(*address),
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(job = %asker.job, %name, %address, why, "a name does not open an address");
                    self.problems.insert("names".into(), format!("{name} does not open {address}: {why}"));
                    return Named::Failed;
                }
            }
        }
        Named::Open { addresses: told, ttl_seconds: ttl }
    }

    /// Opens one address of a name. Answers whether any port of it is open now.
    fn open(
        &mut self,
        asker: &Asker,
        name: &HostName,
        rules: &[NameRule],
        address: IpAddr,
        expires_ns: u64,
        now_ns: u64,
    ) -> Result<bool, String> {
        let addr = net::addr(address);
        let mut any = false;
        let mut withheld = None;
        // An answer in another form of an address than its own (an AAAA that holds an IPv4 address) names what it hides.
        if addr.canonical() != addr || (address.is_ipv6() && addr.is_v4()) {
            withheld = Some(Reason::SpecialRange);
        }
        for rule in rules {
            for udp in [false, true].into_iter().filter(|udp| if *udp { rule.udp } else { rule.tcp }) {
                let spot = Spot { addr, port: rule.port, udp };
                let Some(contract) = self.contracts.get(&asker.hash) else { return Err("its contract is gone".into()) };
                let why = withheld.or_else(|| contract.names.withheld(addr, spot));
                if why.is_some() {
                    withheld = why;
                    continue;
                }
                let groups = self.fence.groups_of(asker.policy, rule).ok_or("the contract's tables are gone")?;
                let led = Led { name: name.clone(), rule: rule.clone(), groups, expires_ns, since_ns: now_ns };
                self.lead(asker, spot, led)?;
                any = true;
            }
        }
        if let Some(reason) = withheld {
            self.answer_withheld(asker, name, address, reason);
        }
        Ok(any)
    }

    /// Has a name lead to a spot, in the kernel's table and here.
    fn lead(&mut self, asker: &Asker, spot: Spot, led: Led) -> Result<(), String> {
        let learnt = self.learned.by_owner.entry((asker.agent_slot, asker.hash)).or_default();
        if learnt.spots.len() >= MOST_SPOTS && !learnt.spots.contains_key(&spot) {
            return Err(format!("the agent has {MOST_SPOTS} addresses open already"));
        }
        let before = learnt.spots.get(&spot).map_or(&[][..], Vec::as_slice);
        let known = before.iter().find(|known| known.name == led.name && known.rule == led.rule);
        if known.is_some_and(|known| known.expires_ns >= led.expires_ns) {
            // The kernel has it for as long already.
            return Ok(());
        }
        let now = clock::boot_ns();
        let mut all: Vec<Led> = before
            .iter()
            .filter(|other| other.expires_ns > now && !(other.name == led.name && other.rule == led.rule))
            .cloned()
            .collect();
        all.push(led.clone());
        let tls = led.rule.tls && !spot.udp;
        if let Some(other) = all.iter().find(|other| {
            let judged = other.rule.tls && !spot.udp;
            judged != tls || (!tls && other.groups != led.groups)
        }) {
            return Err(format!(
                "{} leads there too, and a kill or a look at its TLS name could not tell them apart",
                other.name
            ));
        }
        let groups = all.iter().fold(led.groups, |groups, other| groups.both(&other.groups));
        let expires_ns = all.iter().map(|led| led.expires_ns).max().unwrap_or(led.expires_ns);
        let opening = Opening { groups, number: led.rule.number, tls, expires_ns };
        self.fence
            .learn(asker.agent_slot, asker.policy, spot, &led.rule, &opening)
            .map_err(|error| error.to_string())?;
        learnt.spots.insert(spot, all);
        Ok(())
    }

    /// What an agent has learned under one contract stays good under the next, as far as that allows it.
    pub(crate) fn names_follow(&mut self, agent: &AgentName, agent_slot: u32, from: Option<Hash>, to: Hash) {
        let Some(from) = from.filter(|from| *from != to) else { return };
        let Some(learnt) = self.learned.by_owner.get(&(agent_slot, from)) else { return };
        let (Some(contract), Ok(job)) = (self.contracts.get(&to), "none".parse::<JobId>()) else { return };
        let policy = contract.slot;
        let asker = Asker { job, agent: agent.clone(), agent_slot, hash: to, policy, observed: false };
        let now = clock::boot_ns();
        let live = learnt.spots.iter().flat_map(|(spot, led)| led.iter().map(|led| (*spot, led.clone())));
        let live: Vec<(Spot, Led)> = live.filter(|(_, led)| led.expires_ns > now).collect();
        for (spot, led) in live {
            let Some(contract) = self.contracts.get(&to) else { return };
            let found = contract.names.index.rules(&led.name);
            let rule = found.rules.into_iter().find(|rule| rule.port == spot.port).cloned();
            let Some(rule) = rule.filter(|rule| if spot.udp { rule.udp } else { rule.tcp }) else { continue };
            let Some(groups) = self.fence.groups_of(policy, &rule) else { continue };
            if let Err(why) = self.lead(&asker, spot, Led { rule, groups, ..led }) {
                tracing::warn!(%agent, why, "an address does not stay open under the new contract");
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
                && let Some(learnt) = self.learned.by_owner.get_mut(&(agent, *hash))
            {
                learnt.spots.remove(&spot);
            }
        }
        let contracts = &self.contracts;
        self.learned.by_owner.retain(|(_, hash), learnt| contracts.contains_key(hash) && !learnt.spots.is_empty());
        self.problems.remove("names");
    }

    /// A job asked for too much.
    pub(crate) fn names_exceeded(&mut self, slot: u32, text: &str, why: &str, count: u64) {
        let Some(asker) = self.asker(slot) else { return };
        *self.learned.questions.entry((asker.agent.to_string(), "excess")).or_default() += count;
        tracing::warn!(job = %asker.job, name = text, why, count, "questions for names are refused");
        self.note(
            Kind::Alert,
            json!({ "kind": "dns", "job": asker.job.as_str(), "agent": asker.agent.as_str(), "name": text, "why": why,
                "count": count, "wpc_hash": asker.hash.to_string(), "verdict": "denied" }),
        );
        self.counters.alert(&asker.agent, "dns", count);
    }

    fn count_question(&mut self, asker: &Asker, result: &'static str) {
        *self.learned.questions.entry((asker.agent.to_string(), result)).or_default() += 1;
    }

    /// Records that a name was refused, and raises the alarm where it is a way around.
    fn name_refused(&mut self, asker: &Asker, text: &str, known: Option<(&HostName, Option<Reason>)>, kind: u16) {
        self.count_question(asker, if asker.observed { "observed" } else { "denied" });
        let what = known.and_then(|(name, _)| suspect(name, &self.facts));
        let denied = known.and_then(|(_, denied)| denied).filter(|reason| *reason != Reason::NotInContract);
        let reason = match (what, denied) {
            (Some(Suspect::Model), _) => Reason::ModelDirect,
            (Some(Suspect::Mcp), _) => Reason::McpDirect,
            (Some(Suspect::Resolver), _) => Reason::Dns,
            (_, Some(reason)) => reason,
            _ => Reason::NotInContract,
        };
        let refused = NameDenied {
            job: asker.job.clone(),
            agent: asker.agent.clone(),
            wpc: asker.hash,
            name: text.into(),
            reason,
            observed: asker.observed,
            suspected: match what {
                Some(Suspect::LikelyModel) => Some(MODEL),
                Some(Suspect::LikelyMcp) => Some(MCP),
                _ => None,
            },
            asked: kind,
        };
        self.name_denied(&refused);
    }

    /// Records that an answer was withheld because of where it leads.
    fn answer_withheld(&mut self, asker: &Asker, name: &HostName, address: IpAddr, reason: Reason) {
        self.count_question(asker, "withheld");
        tracing::warn!(job = %asker.job, %name, %address, reason = reason.label(), "a name leads where no name may lead");
        self.counters.alert(&asker.agent, "dns", 1);
        self.note(
            Kind::Alert,
            json!({ "kind": "dns", "job": asker.job.as_str(), "agent": asker.agent.as_str(), "name": name.as_str(),
                "remote": address.to_string(), "why": reason.label(), "wpc_hash": asker.hash.to_string(),
                "verdict": if asker.observed { "observed" } else { "denied" } }),
        );
    }
}
