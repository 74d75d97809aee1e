//! Contracts: judged, kept, put in force, taken out of force.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use claw::{
    Hash,
    envelope::{Envelope, Kind as EnvelopeKind},
    time::Instant,
};
use clawguard_common::{Endpoint, NEVER};
use control::api::{Code, ContractView, ErrorDetail};
use evidence::chain::Kind;
use fence::{AgentName, Fence, Lowered, Severed};
use policy::{
    Contract, Group, HostFacts, Policy, compile,
    contract::{Lifetime, OnBypass, TokenRules},
};
use serde_json::json;
use switch::Numbers;
use sys::clock;

use crate::{
    config::Config,
    core::{Answer, Core, Shared, failed, refuse},
    learned::NameTerms,
    ledger,
};

/// A contract whose tables the kernel has. The tables themselves, which may be large, are only there.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) slot: u32,
    pub(crate) policy_id: String,
    pub(crate) sequence: u64,
    pub(crate) signer: String,
    pub(crate) not_after: Option<Instant>,
    pub(crate) unix_sockets: bool,
    pub(crate) on_bypass: OnBypass,
    pub(crate) kernel_groups: BTreeSet<Group>,
    pub(crate) gateway_groups: BTreeSet<Group>,
    /// An endpoint of each group, for the canary.
    pub(crate) samples: BTreeMap<Group, Endpoint>,
    /// What it says of names.
    pub(crate) names: Arc<NameTerms>,
    /// What it asks of a job's token; `None` where a job needs none.
    pub(crate) token: Option<TokenRules>,
    /// Whether it demands a receipt of each model call.
    pub(crate) receipts: bool,
    /// Whether its end was told.
    pub(crate) expiry_told: bool,
}

/// A contract that was judged and may be put in force.
pub(crate) struct Judged {
    pub(crate) bytes: Vec<u8>,
    pub(crate) policy: Policy,
    pub(crate) signer: String,
}

/// Under what a contract is judged.
#[derive(Clone)]
pub(crate) struct Bench {
    config: Config,
    facts: HostFacts,
    /// Until when contracts without an expiry of their own are in force, by hash.
    lifetimes: BTreeMap<String, String>,
}

/// What a contract has to be, and for how long one without an expiry of its own is good.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use {
    /// An operator, or the configuration, puts it in force now: such a contract's time begins.
    Anew(Option<Hash>),
    /// One job is to be under it: its time begins if it has not begun, and goes on if it has.
    Once(Option<Hash>),
    /// It was in force before, under this hash.
    Again(Hash),
}

/// Judges an envelope: shape, hash, signature, signer, form, and what it comes to on this host. Takes no lock and may take
/// a while.
pub(crate) fn judge(bytes: Vec<u8>, bench: &Bench, how: Use) -> Answer<Judged> {
    let Bench { config, facts, lifetimes } = bench;
    let refused = |message: String, hint: &str| {
        ErrorDetail::new(Code::ContractRefused, format!("the contract is refused: {message}"), hint)
    };
    let envelope = Envelope::open(&bytes, EnvelopeKind::WorkPolicyContract)
        .map_err(|error| refused(error.to_string(), "sign it again with `clawguard wpc sign`"))?;
    if let Use::Again(expected) | Use::Anew(Some(expected)) | Use::Once(Some(expected)) = how
        && expected != envelope.hash
    {
        let message = format!("it is {}, and {expected} was asked for", envelope.hash);
        return Err(refused(message, "whoever gave it gave another one: ask elsewhere"));
    }
    if !config.trust.wpc_signers.iter().any(|signer| signer.0 == envelope.signer) {
        let hint = "add the signer to [trust] wpc_signers, if you trust it";
        return Err(refused(format!("its signer {} is not trusted", envelope.signer), hint));
    }
    let contract = Contract::read(&envelope.payload)
        .map_err(|error| refused(error.to_string(), "`clawguard wpc check` shows every line"))?;
    let mut policy = compile(&contract, envelope.hash, facts)
        .map_err(|error| refused(error.to_string(), "`clawguard wpc check` shows every line"))?;
    let now = Core::now();
    if needs_lifetime(&policy) {
        let begun = lifetimes.get(&envelope.hash.to_string()).and_then(|until| Instant::parse(until));
        let fresh = Instant(now.0.saturating_add(config.trust.default_lifetime.0.saturating_mul(1_000_000_000)));
        policy.not_after = match (how, begun) {
            (Use::Anew(_), _) | (Use::Once(_), None) => Some(fresh),
            (_, Some(begun)) => Some(begun),
            (Use::Again(_), None) => {
                let message = "nobody knows since when it is in force, and it states no expiry".to_owned();
                return Err(refused(message, "put it in force anew with `clawguard wpc use`"));
            }
        };
    }
    if let Some(from) = policy.not_before.filter(|from| now < *from) {
        return Err(refused(format!("it is not in force before {}", from.format()), "use it then"));
    }
    if let Some(to) = policy.not_after.filter(|to| now >= *to) {
        return Err(refused(format!("it expired at {}", to.format()), "have a new one signed"));
    }
    Ok(Judged { bytes, policy, signer: envelope.signer.to_string() })
}

/// How a contract is to be put in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// Accept a lower sequence, for this reason.
    pub(crate) rollback: Option<String>,
    /// What the configuration said.
    pub(crate) configured: Option<String>,
    /// Which contract it has to be.
    pub(crate) expected: Option<Hash>,
    /// Who wants it.
    pub(crate) actor: Option<switch::Actor>,
}

/// A contract that somebody loads, and that no job is under yet. Not to be dropped under the lock.
pub(crate) struct Loading<'a> {
    shared: &'a Shared,
    hash: Hash,
}

impl<'a> Loading<'a> {
    fn begin(shared: &'a Shared, hash: Hash) -> Self {
        shared.lock().loading.push(hash);
        Self { shared, hash }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        if let Some(at) = core.loading.iter().position(|hash| *hash == self.hash) {
            core.loading.swap_remove(at);
        }
        core.untidy = true;
    }
}

impl Shared {
    /// Gives the groups of a contract their numbers, writes its tables, and enters it. The lock is not held while the tables
    /// are written. Until the answer is dropped, nobody takes the tables away.
    pub(crate) fn load(&self, judged: &Judged) -> Answer<Loading<'_>> {
        let hash = judged.policy.hash;
        let loading = Loading::begin(self, hash);
        let numbers = {
            let mut core = self.lock();
            if core.contracts.contains_key(&hash) {
                return Ok(loading);
            }
            core.number_groups(&judged.policy)?;
            core.ledger.numbers.clone()
        };
        let lowered = lower(&judged.policy, &numbers)?;
        let mut core = self.lock();
        if !core.contracts.contains_key(&hash) {
            core.enter(judged, lowered)?;
        }
        drop(core);
        Ok(loading)
    }

    /// What contracts are judged under.
    pub(crate) fn bench(&self) -> Bench {
        let core = self.lock();
        Bench { config: core.config.clone(), facts: core.facts.clone(), lifetimes: core.ledger.lifetimes.clone() }
    }

    /// Judges a contract and puts it in force for an agent.
    pub(crate) fn put_in_force(&self, agent: &AgentName, bytes: Vec<u8>, terms: &Terms) -> Answer<ContractView> {
        let judged = judge(bytes, &self.bench(), Use::Anew(terms.expected))
            .inspect_err(|error| self.lock().contract_refused(agent, error))?;
        self.lock().check_sequence(&judged.policy, terms)?;
        let loading = self.load(&judged)?;
        let view = self.acknowledged(|core| core.use_contract(agent, &judged, terms));
        drop(loading);
        // What it took to read it need not stay resident.
        drop(judged);
        sys::memory::trim();
        view
    }
}

fn lower(policy: &Policy, numbers: &Numbers) -> Answer<Lowered> {
    fence::lower(policy, numbers).map_err(|error| failed("write the contract's tables", &error))
}

/// Whether the host says how long the contract is in force, because its form has no place for it.
fn needs_lifetime(policy: &Policy) -> bool {
    policy.lifetime == Lifetime::Default
}

impl Core {
    /// Records that a contract was refused.
    pub(crate) fn contract_refused(&mut self, agent: &AgentName, error: &ErrorDetail) {
        self.note(Kind::Contract, json!({ "agent": agent.as_str(), "refused": error.message }));
    }

    /// A lower sequence than one accepted before is refused.
    fn check_sequence(&self, policy: &Policy, terms: &Terms) -> Answer<()> {
        let highest = self.ledger.sequences.get(&policy.id).copied().unwrap_or(0);
        if policy.sequence < highest && terms.rollback.is_none() {
            return refuse(
                Code::ContractRefused,
                format!(
                    "the contract is refused: its sequence is {}, and {highest} was accepted for policy_id {} before",
                    policy.sequence, policy.id
                ),
                "to go back on purpose, say --allow-rollback with a --reason",
            );
        }
        Ok(())
    }

    fn number_groups(&mut self, policy: &Policy) -> Answer<()> {
        let used: BTreeSet<Group> = self
            .contracts
            .values()
            .flat_map(|contract| contract.kernel_groups.iter().chain(&contract.gateway_groups))
            .chain(self.switch.kills.iter().map(|kill| &kill.group))
            .cloned()
            .collect();
        let before = self.ledger.numbers.clone();
        let groups = policy.sets.iter().flatten().chain(&policy.gateway_groups);
        match self.ledger.numbers.assign(groups, &used) {
            Ok(false) => Ok(()),
            Ok(true) => self.save_ledger().inspect_err(|_| self.ledger.numbers = before),
            Err(full) => refuse(Code::Unavailable, full.to_string(), "restore groups, or use fewer"),
        }
    }

    /// Gives tables to the kernel. No job points to them yet.
    pub(crate) fn enter(&mut self, judged: &Judged, lowered: Lowered) -> Answer<()> {
        let policy = &judged.policy;
        // Loaded anew after the clock was set back, a contract ends when it would have.
        let deadline = policy.not_after.map_or(NEVER, |to| clock::boot_deadline(to.0));
        let before = self.deadlines.get(&policy.hash).filter(|_| !needs_lifetime(policy));
        let deadline = before.map_or(deadline, |before| deadline.min(*before));
        self.deadlines.insert(policy.hash, deadline);
        let (slot, serial) = self
            .fence
            .put_policy(lowered, policy.hash, deadline)
            .map_err(|error| failed("give the contract to the kernel", &error))?;
        self.serials.insert(serial, policy.hash);
        let samples = policy.kernel_groups.iter();
        let samples =
            samples.filter_map(|group| Some((group.clone(), policy::sample::sample(policy, group)?))).collect();
        let contract = InForce {
            slot,
            policy_id: policy.id.clone(),
            sequence: policy.sequence,
            signer: judged.signer.clone(),
            not_after: policy.not_after,
            unix_sockets: policy.unix_sockets,
            on_bypass: policy.on_bypass,
            kernel_groups: policy.kernel_groups.clone(),
            // The policy's own are those that have no endpoint beside their tools.
            gateway_groups: policy.gateway_groups.iter().chain(policy.tools.groups()).cloned().collect(),
            samples,
            names: Arc::new(NameTerms::of(policy)),
            token: policy.token,
            receipts: policy.receipts,
            expiry_told: false,
        };
        self.learned.renew(policy.hash);
        self.contracts.insert(policy.hash, contract);
        Ok(())
    }

    /// Points an agent, and its jobs without a contract of their own, to a loaded contract. On disk first.
    fn use_contract(
        &mut self,
        agent: &AgentName,
        judged: &Judged,
        terms: &Terms,
    ) -> Answer<(ContractView, Option<crate::audit::Ticket>)> {
        self.check_sequence(&judged.policy, terms)?;
        let hash = judged.policy.hash;
        let previous = self.agent(agent)?.wpc;
        self.keep_contract(judged)?;
        let before = self.ledger.clone();
        if let Some(entry) = self.ledger.agents.get_mut(agent) {
            entry.wpc = Some(hash.to_string());
            entry.configured = terms.configured.clone();
        }
        self.remember_lifetime(judged);
        let highest = self.ledger.sequences.entry(judged.policy.id.clone()).or_default();
        if terms.rollback.is_some() || *highest < judged.policy.sequence {
            *highest = judged.policy.sequence;
        }
        self.save_ledger().inspect_err(|_| self.ledger = before.clone())?;
        let recorded = self.record_grant(
            Kind::Contract,
            &json!({
                "agent": agent.as_str(),
                "wpc_hash": hash.to_string(),
                "policy_id": judged.policy.id,
                "sequence": judged.policy.sequence,
                "signer": judged.signer,
                "rules": judged.policy.rules.len(),
                "previous": previous.map(|hash| hash.to_string()),
                "rollback": terms.rollback,
                "actor": terms.actor,
            }),
        );
        let ticket = match recorded {
            Ok(ticket) => ticket,
            // What was refused must not come into force at the next start.
            Err(refused) => {
                self.ledger = before;
                self.save_ledger()?;
                return Err(refused);
            }
        };
        // Put in force anew, a contract without an expiry of its own lives longer.
        if needs_lifetime(&judged.policy)
            && let (Some(contract), Some(to)) = (self.contracts.get_mut(&hash), judged.policy.not_after)
        {
            if contract.not_after.is_some_and(|before| before < to) {
                contract.not_after = Some(to);
                contract.expiry_told = false;
            }
            self.fence.put_off(contract.slot, clock::boot_deadline(to.0));
        }
        let agent_slot = self.point(agent, hash)?;
        self.settle_tokens();
        let severed = self.end_disallowed(|fence, job| fence.agent_of(job) == agent_slot)?;
        // The kernel waits for its readers then, and nobody has to wait with it.
        self.untidy = true;
        let view = ContractView {
            previous: previous.map(|hash| hash.to_string()),
            sockets_destroyed: severed.destroyed as u64,
            ..self.contract_view(hash)?
        };
        Ok((view, Some(ticket)))
    }

    /// The moment at which a contract comes into force: one store for each job. Answers the agent's slot.
    pub(crate) fn point(&mut self, agent: &AgentName, hash: Hash) -> Answer<u32> {
        let Some(contract) = self.contracts.get(&hash) else {
            return Err(failed("find the contract's tables", &hash));
        };
        let slot = contract.slot;
        let agent_slot = {
            let entry = self.agent(agent)?;
            let (agent_slot, before) = (entry.slot, entry.wpc);
            self.names_follow(agent, agent_slot, before, hash);
            let entry = self.agent(agent)?;
            entry.wpc = Some(hash);
            entry.problem = None;
            entry.slot
        };
        for job in self.jobs.values().filter(|job| job.agent == *agent && job.wpc.is_none()) {
            // First what the contract asks of the job's token: at no moment is it in force without that.
            let deadline = self.token_deadline(hash, job.token.as_ref()).unwrap_or(0);
            if deadline < self.fence.deadline(job.enrolled.slot) {
                self.fence.set_deadline(job.enrolled.slot, deadline);
            }
            self.fence.set_policy(job.enrolled.slot, slot);
        }
        self.publish();
        Ok(agent_slot)
    }

    /// Ends the live flows of jobs, chosen by slot, that the contracts in force do not allow.
    pub(crate) fn end_disallowed(&self, of: impl Fn(&Fence, u32) -> bool) -> Answer<Severed> {
        let fence = &self.fence;
        let severed = fence
            .sever(|flow| !flow.allowed && of(fence, flow.stamp.job))
            .map_err(|error| failed("end the connections that the contract does not allow", &error))?;
        self.counters.sockets_destroyed.inc_by(severed.destroyed as u64);
        Ok(severed)
    }

    /// Takes away the tables of contracts that nobody is under.
    pub(crate) fn drop_unused_contracts(&mut self) {
        let used: BTreeSet<Hash> = self
            .agents
            .values()
            .filter_map(|agent| agent.wpc)
            .chain(self.jobs.values().filter_map(|job| job.wpc))
            .chain(self.loading.iter().copied())
            .collect();
        let unused: Vec<Hash> = self.contracts.keys().filter(|hash| !used.contains(*hash)).copied().collect();
        for hash in unused {
            let Some(contract) = self.contracts.get(&hash) else { continue };
            match self.fence.drop_policy(contract.slot) {
                Ok(()) => {
                    self.contracts.remove(&hash);
                }
                Err(error) => tracing::warn!(%error, %hash, "the tables of an unused contract stay"),
            }
        }
    }

    /// Sets all loaded contracts aside, to be loaded anew. Their tables stay in force.
    pub(crate) fn retire_contracts(&mut self) {
        self.retired.extend(std::mem::take(&mut self.contracts).into_values());
    }

    /// Takes away the tables of contracts that were set aside. By now every job points to others, or to none.
    pub(crate) fn drop_retired_contracts(&mut self) {
        for contract in std::mem::take(&mut self.retired) {
            if let Err(error) = self.fence.drop_policy(contract.slot) {
                tracing::warn!(%error, "the tables of a former contract stay");
            }
        }
    }

    /// Writes into the ledger, which is not saved here, how long a contract without an expiry of its own lives.
    fn remember_lifetime(&mut self, judged: &Judged) {
        if needs_lifetime(&judged.policy)
            && let Some(to) = judged.policy.not_after
        {
            self.ledger.lifetimes.insert(judged.policy.hash.to_string(), to.format());
        }
    }

    /// Takes a contract for one job: no older than what was accepted before, kept, and its sequence remembered.
    pub(crate) fn accept_for_job(&mut self, judged: &Judged) -> Answer<()> {
        self.check_sequence(&judged.policy, &Terms::default())?;
        self.keep_contract(judged)?;
        self.remember_lifetime(judged);
        let highest = self.ledger.sequences.entry(judged.policy.id.clone()).or_default();
        if *highest < judged.policy.sequence {
            *highest = judged.policy.sequence;
        } else if !needs_lifetime(&judged.policy) {
            return Ok(());
        }
        self.save_ledger()
    }

    /// Keeps an accepted contract, by hash.
    pub(crate) fn keep_contract(&mut self, judged: &Judged) -> Answer<()> {
        let path = self.paths.contracts().join(format!("{}.json", judged.policy.hash));
        // Whatever was kept under this name before: somebody may have changed it.
        sys::file::replace(&path, &judged.bytes, 0o600).map_err(|error| failed("keep the contract", &error))
    }

    /// What is known of a contract in force.
    pub(crate) fn contract_view(&self, hash: Hash) -> Answer<ContractView> {
        let Some(contract) = self.contracts.get(&hash) else {
            return refuse(Code::NotFound, format!("no contract {hash} is in force"), "");
        };
        Ok(ContractView {
            wpc_hash: hash.to_string(),
            policy_id: contract.policy_id.clone(),
            sequence: contract.sequence,
            signer: contract.signer.clone(),
            expires_at: contract.not_after.map(Instant::format),
            entries: self.fence.policy_entries(contract.slot) as u64,
            previous: None,
            sockets_destroyed: 0,
        })
    }

    /// The bytes of a contract that was accepted before or that an operator put in place.
    pub(crate) fn contract_bytes(&self, hash: Hash) -> Answer<Vec<u8>> {
        for directory in [self.paths.contracts(), self.paths.offered_contracts()] {
            match fs::read(directory.join(format!("{hash}.json"))) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read the contract", &error)),
            }
        }
        refuse(
            Code::NotFound,
            format!("no contract {hash} is here"),
            format!("put it at {}/{hash}.json, or give the file itself", self.paths.offered_contracts().display()),
        )
    }

    /// Tells of contracts whose time has come, and ends what still runs under them. The kernel has let nothing through
    /// since that very moment.
    pub(crate) fn tell_expiries(&mut self) {
        let now = Self::now();
        let mut told = Vec::new();
        for (hash, contract) in &mut self.contracts {
            if !contract.expiry_told && contract.not_after.is_some_and(|to| now >= to) {
                contract.expiry_told = true;
                told.push((*hash, contract.slot, contract.policy_id.clone()));
            }
        }
        for (hash, slot, policy_id) in told {
            tracing::warn!(%hash, policy_id, "the contract has expired: nothing is allowed under it");
            let fence = &self.fence;
            let severed = fence.sever(|flow| fence.policy_of(flow.stamp.job) == slot).unwrap_or_default();
            self.counters.sockets_destroyed.inc_by(severed.destroyed as u64);
            let body = json!({ "wpc_hash": hash.to_string(), "policy_id": policy_id, "expired": true,
                "sockets_destroyed": severed.destroyed, "sockets_left": severed.left });
            self.note(Kind::Contract, body);
        }
    }

    /// After the wall clock was set: expiries that come earlier now do; none comes later.
    pub(crate) fn clock_was_set(&mut self) {
        for contract in self.contracts.values() {
            if let Some(to) = contract.not_after {
                self.fence.bring_forward(contract.slot, clock::boot_deadline(to.0));
            }
        }
        self.bring_tokens_forward();
    }

    /// Puts the switch on disk, whatever it takes.
    pub(crate) fn save_switch(&self, next: &switch::State) -> std::io::Result<()> {
        ledger::write_at_all_costs(&self.paths.switch(), next, &self.paths.reserve())
    }
}
