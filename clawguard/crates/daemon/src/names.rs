//! Names: which of them a job may know, and which addresses their answers open to it.
//!
//! The gateway asks and resolves; what it says of addresses is judged here, and an answer is released only after the kernel's
//! table has what it opens. Nothing is shared between agents.

use std::net::{IpAddr, Ipv4Addr};

use clawguard_common::{Endpoint, Reason, protocol};
use control::channel::Named;
use evidence::chain::Kind;
use fence::{AgentName, JobId, Opening, Spot};
use policy::{
    Group,
    compile::NameRule,
    name::HostName,
    names::{Suspect, suspect},
    net,
};
use serde_json::json;
use switch::Target;
use sys::clock;

use crate::{
    alarms::{MCP, MODEL, NameDenied},
    config::AgentMode,
    contracts::InForce,
    core::Core,
    learned::{Came, Owner},
};

/// What a name is good for after its answer has run out, so that whoever was told can still begin: nanoseconds.
const GRACE_NS: u64 = 5_000_000_000;
/// The longest that an answer is good: seconds.
const LONGEST_TTL: u32 = 86_400;
/// How long the addresses that the host fixes may be remembered: seconds.
const FIXED_TTL: u32 = 300;
/// Addresses of one name that are opened.
const MOST_ADDRESSES: usize = 64;
/// Characters of what is no name that are kept.
const LONGEST_NAME: usize = 253;
/// Questions that one message of the gateway's can be about.
const MOST_EXCESS: u64 = 1 << 32;

/// Where the canary goes in the place of a name's address: an address for documentation (RFC 5737), which leads nowhere.
const STAND_IN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// How long it could stay open, should nobody shut it: nanoseconds.
const STANDS_IN_NS: u64 = 10_000_000_000;

/// Who asks.
struct Asker {
    job: JobId,
    agent: AgentName,
    owner: Owner,
    observed: bool,
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
        let owner = Owner { agent: entry.slot, hash, policy };
        Some(Asker { job, agent, owner, observed })
    }

    /// What is answered to a job for which no contract is in force: for a moment, while contracts are loaded anew, or for good.
    fn not_in_force(&self, slot: u32) -> Named {
        let owner = self.owners.get(&self.fence.job_key(slot));
        let assigned = owner.and_then(|(job, agent)| {
            self.jobs.get(job).and_then(|job| job.wpc).or_else(|| self.agents.get(agent).and_then(|agent| agent.wpc))
        });
        if assigned.is_some() { Named::Failed } else { Named::Refused }
    }

    /// Opens an endpoint by a rule of a group that only names belong to, for the canary to try the switch at.
    pub(crate) fn open_stand_in(&self, agent: u32, contract: &InForce, group: &Group) -> Option<Endpoint> {
        let rule = contract.names.samples.get(group)?;
        let spot = Spot { addr: net::addr(STAND_IN), port: rule.port, udp: !rule.tcp };
        let groups = self.fence.groups_of(contract.slot, rule)?;
        let expires_ns = clock::boot_ns() + STANDS_IN_NS;
        let opening = Opening { groups, number: rule.number, tls: rule.tls && rule.tcp, expires_ns };
        if let Err(error) = self.fence.learn(agent, contract.slot, spot, rule, &opening) {
            tracing::warn!(%error, %group, "the canary has nothing to try the switch at");
            return None;
        }
        let number = if spot.udp { protocol::UDP } else { protocol::TCP };
        Some(Endpoint { addr: spot.addr, port: spot.port, protocol: number, loopback: 0 })
    }

    /// Shuts what was opened for the canary.
    pub(crate) fn shut_stand_ins(&self, targets: &[Target]) {
        for target in targets.iter().filter(|target| target.endpoint.addr == net::addr(STAND_IN)) {
            let Endpoint { addr, port, protocol, .. } = target.endpoint;
            let spot = Spot { addr, port, udp: protocol == protocol::UDP };
            self.fence.shut_wholly(target.agent, target.policy, spot);
        }
    }

    /// Whether a job may know a name.
    pub(crate) fn name_asked(&mut self, slot: u32, text: &str, kind: u16) -> Named {
        let key = self.fence.job_key(slot);
        let Some(asker) = self.asker(slot) else {
            let Some((job, agent)) = self.observed_without_contract(slot) else { return self.not_in_force(slot) };
            self.observed.asked(&agent, &job, text, Reason::NoContract, 1);
            return Named::Resolve { wildcard: true, key };
        };
        let Ok(name) = text.parse::<HostName>() else {
            self.name_refused(&asker, &text.chars().take(LONGEST_NAME).collect::<String>(), None, kind);
            return Named::Refused;
        };
        let Some(contract) = self.contracts.get(&asker.owner.hash) else { return Named::Failed };
        let found = contract.names.index.rules(&name);
        let (allowed, wildcard, denied) = (!found.rules.is_empty(), found.wildcard, found.denied);
        if !allowed {
            self.name_refused(&asker, text, Some((&name, denied)), kind);
            return if asker.observed { Named::Resolve { wildcard: true, key } } else { Named::Refused };
        }
        self.count_question(&asker, "allowed");
        match self.facts.hosts.get(&name) {
            // In the kernel's tables since the contract was loaded.
            Some(addresses) => {
                let addresses: Vec<IpAddr> = addresses.iter().copied().collect();
                if asker.observed {
                    self.observed.led(&asker.agent, text, &addresses);
                }
                Named::Open { addresses, ttl_seconds: FIXED_TTL }
            }
            None => Named::Resolve { wildcard, key },
        }
    }

    /// Opens the addresses that a name has, and answers those that may be told.
    pub(crate) fn name_learned(&mut self, slot: u32, text: &str, addresses: &[IpAddr], ttl_seconds: u32) -> Named {
        let ttl = ttl_seconds.max(self.config.names.ttl_floor_seconds).min(LONGEST_TTL);
        if let Some((_, agent)) = self.observed_without_contract(slot) {
            self.observed.led(&agent, text, addresses);
            return Named::Open { addresses: addresses.to_vec(), ttl_seconds: ttl };
        }
        let Some(asker) = self.asker(slot) else { return self.not_in_force(slot) };
        let Ok(name) = text.parse::<HostName>() else { return Named::Refused };
        if asker.observed {
            self.observed.led(&asker.agent, text, addresses);
        }
        let Some(contract) = self.contracts.get(&asker.owner.hash) else { return Named::Failed };
        let rules: Vec<NameRule> = contract.names.index.rules(&name).rules.into_iter().cloned().collect();
        let expires_ns = clock::boot_ns() + u64::from(ttl) * 1_000_000_000 + GRACE_NS;
        let mut told = Vec::new();
        let mut failed = None;
        for address in addresses.iter().take(if rules.is_empty() { 0 } else { MOST_ADDRESSES }) {
            match self.open(asker.owner, &name, &rules, *address, expires_ns) {
                Came::Open => told.push(*address),
                Came::Withheld(reason) => self.answer_withheld(&asker, &name, *address, reason),
                Came::Failed(why) => failed = Some(format!("{name} does not open {address}: {why}")),
            }
        }
        if let Some(why) = failed {
            tracing::warn!(job = %asker.job, why, "a name does not open an address");
            self.problems.insert("names".into(), why);
            if told.is_empty() && !asker.observed {
                return Named::Failed;
            }
        }
        match (asker.observed, rules.is_empty()) {
            // Everything passes.
            (true, _) => Named::Open { addresses: addresses.to_vec(), ttl_seconds: ttl },
            (false, true) => Named::Refused,
            (false, false) => Named::Open { addresses: told, ttl_seconds: ttl },
        }
    }

    /// A job asked for too much.
    pub(crate) fn names_exceeded(&mut self, slot: u32, text: &str, why: &str, count: u64) {
        let Some(asker) = self.asker(slot) else { return };
        let why: String = why.chars().take(64).collect();
        let text: String = text.chars().take(LONGEST_NAME).collect();
        let (why, text, count) = (why.as_str(), text.as_str(), count.min(MOST_EXCESS));
        *self.learned.questions.entry((asker.agent.to_string(), "excess")).or_default() += count;
        if asker.observed {
            self.observed.asked(&asker.agent, &asker.job, text, Reason::Dns, count);
        }
        tracing::warn!(job = %asker.job, name = text, why, count, "questions for names are refused");
        self.note(
            Kind::Alert,
            json!({ "kind": "dns", "job": asker.job.as_str(), "agent": asker.agent.as_str(), "name": text, "why": why,
                "count": count, "wpc_hash": asker.owner.hash.to_string(), "verdict": "denied" }),
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
            wpc: asker.owner.hash,
            name: text.into(),
            reason,
            observed: asker.observed,
            suspected: match what {
                Some(Suspect::LikelyModel) => Some(MODEL),
                Some(Suspect::LikelyMcp) => Some(MCP),
                _ => None,
            },
            asked: kind,
            remote: None,
        };
        self.name_denied(&refused);
    }

    /// Records that an answer was withheld because of where it leads.
    fn answer_withheld(&mut self, asker: &Asker, name: &HostName, address: IpAddr, reason: Reason) {
        self.count_question(asker, "withheld");
        self.name_denied(&NameDenied {
            job: asker.job.clone(),
            agent: asker.agent.clone(),
            wpc: asker.owner.hash,
            name: name.to_string(),
            reason,
            observed: asker.observed,
            suspected: None,
            asked: 0,
            remote: Some(address),
        });
    }
}
