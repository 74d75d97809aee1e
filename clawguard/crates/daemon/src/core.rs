//! The daemon's one state, and what every part of it needs.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use claw::{
    Hash,
    key::{Did, PrivateKey},
    time::Instant,
};
use control::{
    api::{Code, ErrorDetail},
    calls::ServerRules,
    model::ModelRules,
};
use evidence::chain::Kind;
use fence::{AgentName, Canary, Fence};
use policy::HostFacts;
use serde_json::{Value, json};
use switch::State;
use sys::clock;

use crate::{
    approvals::{Approvals, Undecided},
    audit::{AuditLog, Ticket},
    calls::Calls,
    config::{self, AgentMode, Config, ModelGateway},
    contracts::InForce,
    decisions::Recent,
    errands::Errands,
    hooks::Hooks,
    jobs::Job,
    learned::Learned,
    ledger::{self, AgentEntry, Ledger},
    metrics::Counters,
    model::Models,
    paths::Paths,
    pins::Pins,
    registry::Registries,
    rules::Rulebook,
};

/// Everything that the daemon knows. One lock: a kill waits for nothing long, because nothing long happens under it.
pub(crate) struct Core {
    pub(crate) paths: Paths,
    pub(crate) config: Config,
    pub(crate) facts: HostFacts,
    pub(crate) fence: Fence,
    pub(crate) canary: Option<Canary>,
    pub(crate) armed: bool,
    pub(crate) ledger: Ledger,
    pub(crate) switch: State,
    pub(crate) audit: AuditLog,
    pub(crate) contracts: BTreeMap<Hash, InForce>,
    /// Contracts whose tables are compiled anew; theirs stay until nobody is under them.
    pub(crate) retired: Vec<InForce>,
    pub(crate) agents: BTreeMap<AgentName, Agent>,
    pub(crate) jobs: BTreeMap<fence::JobId, Job>,
    /// Contracts that somebody loads and that no job is under yet.
    pub(crate) loading: Vec<Hash>,
    /// Whether there are tables of contracts that nobody may be under any more.
    pub(crate) untidy: bool,
    /// When each contract that was loaded since the start ends: nanoseconds, CLOCK_BOOTTIME.
    pub(crate) deadlines: BTreeMap<Hash, u64>,
    /// Whose a job's number was, for records that come after its end.
    pub(crate) owners: HashMap<u64, (fence::JobId, AgentName)>,
    /// Which contract a loading's number was.
    pub(crate) serials: HashMap<u64, Hash>,
    pub(crate) recent: Recent,
    pub(crate) learned: Learned,
    pub(crate) observed: crate::observed::Observed,
    pub(crate) counters: Counters,
    pub(crate) started_at: Instant,
    pub(crate) executable: PathBuf,
    /// What went wrong and still is, by what it concerns.
    pub(crate) problems: BTreeMap<String, String>,
    /// Sockets from outside that stay where they are and were told: the job, and what they are.
    pub(crate) imported_told: std::collections::HashSet<(fence::JobId, String)>,
    pub(crate) watch: crate::watch::Watch,
    pub(crate) followers: VecDeque<Follower>,
    pub(crate) registries: Registries,
    pub(crate) errands: Arc<Errands>,
    pub(crate) rulebook: Arc<Rulebook>,
    /// `[[mcp.server]]` with the secrets read, without those of which they cannot be.
    pub(crate) servers: Vec<ServerRules>,
    /// `[model]` with the secrets read, without the providers of which they cannot be.
    pub(crate) model: ModelRules,
    /// By which the receipts of model calls are signed.
    pub(crate) receipt_key: Arc<PrivateKey>,
    /// Where the model gateway listens, and as whose job.
    pub(crate) models_at: Option<(u16, u64)>,
    /// What kernel and gateway tell of connections for model calls.
    pub(crate) join: crate::model::join::Join,
    pub(crate) approvals: Approvals,
    pub(crate) hooks: Hooks,
    pub(crate) pins: Pins,
    pub(crate) stdio: crate::stdio::Stdio,
    /// The jobs' processes, as they were seen.
    pub(crate) seen: crate::coverage::Seen,
}

/// An agent, as the running daemon sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agent {
    pub(crate) slot: u32,
    pub(crate) wpc: Option<Hash>,
    pub(crate) mode: AgentMode,
    pub(crate) matches: Option<config::Match>,
    pub(crate) problem: Option<String>,
}

/// The name under which a problem with the audit chain is kept.
pub(crate) const AUDIT: &str = "audit";
/// How the name begins under which a problem with the way to models is kept.
const MODEL: &str = "model ";
/// How the name begins under which a problem with an MCP server is kept.
const SERVER: &str = "mcp-server ";
/// Who follows decisions: those of one job, or all, and where to.
pub(crate) type Follower = (Option<String>, tokio::sync::mpsc::Sender<String>);
/// The problem of a switch that is not on disk.
pub(crate) const SWITCH: &str = "switch";

/// A result that an API caller can be told.
pub(crate) type Answer<T> = Result<T, ErrorDetail>;

/// An error for an API caller.
pub(crate) fn refuse<T>(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Answer<T> {
    Err(ErrorDetail::new(code, message, hint))
}

/// A system's error for an API caller.
pub(crate) fn failed(what: &str, error: &dyn std::fmt::Display) -> ErrorDetail {
    ErrorDetail::new(Code::Unavailable, format!("could not {what}: {error}"), "")
}

/// The state behind its lock, shared by the tasks.
pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Beside the lock: whoever waits for the gateway holds nothing up.
    pub(crate) errands: Arc<Errands>,
    /// Beside the lock too.
    pub(crate) rulebook: Arc<Rulebook>,
    pub(crate) calls: Calls,
    pub(crate) models: Models,
    pub(crate) undecided: Arc<Undecided>,
    /// The threads that gateways may have.
    pub(crate) gateway_threads: tokio::sync::Semaphore,
    /// The exports that may be written at once.
    pub(crate) exports: tokio::sync::Semaphore,
}

impl Shared {
    pub(crate) fn new(core: Core) -> Self {
        let (errands, rulebook) = (Arc::clone(&core.errands), Arc::clone(&core.rulebook));
        let undecided = Arc::clone(&core.approvals.undecided);
        Self {
            core: Mutex::new(core),
            errands,
            rulebook,
            calls: Calls::default(),
            models: Models::default(),
            undecided,
            gateway_threads: tokio::sync::Semaphore::new(crate::gateway::MOST_THREADS),
            exports: tokio::sync::Semaphore::new(crate::export::AT_ONCE),
        }
    }

    /// Takes the lock. A thread that panicked cannot have left it: the daemon aborts on a panic.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock, if nobody has it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Core>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(core)) => Some(core.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Does something under the lock and answers once what it recorded is on disk.
    pub(crate) fn acknowledged<T>(&self, work: impl FnOnce(&mut Core) -> Answer<(T, Option<Ticket>)>) -> Answer<T> {
        let (answer, ticket) = work(&mut self.lock())?;
        if let Some(ticket) = ticket {
            ticket.wait().map_err(|error| failed("put the record on disk", &error))?;
        }
        Ok(answer)
    }
}

impl Core {
    /// Writes a record of something that happened, to be acknowledged. What cannot be written waits for room.
    pub(crate) fn record(&mut self, kind: Kind, body: Value) -> io::Result<Ticket> {
        let written = self.audit.append_or_owe(kind, body);
        self.audit_fared(written.as_ref().err());
        written
    }

    /// Writes a record of something that happened, for which nobody waits.
    pub(crate) fn note(&mut self, kind: Kind, body: Value) {
        if let Ok(ticket) = self.record(kind, body) {
            drop(ticket);
        }
    }

    /// Writes the record without which a grant is not given.
    pub(crate) fn record_grant(&mut self, kind: Kind, body: &Value) -> Answer<Ticket> {
        self.may_grant()?;
        let written = self.audit.append(kind, body);
        self.audit_fared(written.as_ref().err());
        written.map_err(|error| self.no_grants(&format!("the audit chain cannot be written: {error}")))
    }

    /// Whether anything new may be granted: only while what is granted can be recorded.
    pub(crate) fn may_grant(&mut self) -> Answer<()> {
        self.tend_audit();
        self.problems.get(AUDIT).map_or(Ok(()), |problem| Err(self.no_grants(problem)))
    }

    fn no_grants(&self, why: &str) -> ErrorDetail {
        ErrorDetail::new(
            Code::Unavailable,
            format!("nothing new is granted while {why}"),
            format!("make room under {}", self.paths.state().display()),
        )
    }

    /// After a failure, tries again to write what the disk refused. The disk counts as well again only when there is room
    /// to set aside too: the last bytes of a full one would take a short record and refuse the next.
    pub(crate) fn tend_audit(&mut self) {
        if !self.problems.contains_key(AUDIT) {
            return;
        }
        let well = ledger::set_aside(&self.paths.reserve()).and_then(|()| self.audit.pay());
        if well.is_ok() {
            self.problems.remove(AUDIT);
            self.publish();
            tracing::info!("the audit chain is written again");
        }
    }

    pub(crate) fn audit_fared(&mut self, error: Option<&io::Error>) {
        let Some(error) = error else { return };
        let text = format!("the audit chain cannot be written: {error}");
        if self.problems.insert(AUDIT.into(), text).is_none() {
            self.publish();
            tracing::error!(%error, "the audit chain cannot be written: new grants are refused, records wait in memory");
        }
    }

    /// Writes the switch down, as it is; what the disk refuses is tried again at every beat.
    pub(crate) fn switch_is_saved(&mut self) {
        match self.save_switch(&self.switch) {
            Ok(()) => drop(self.problems.remove(SWITCH)),
            Err(why) => {
                self.problems.insert(SWITCH.into(), format!("the switch is in force, but not on disk: {why}"));
            }
        }
    }

    /// What an auditor wants to know of the configuration in force.
    pub(crate) fn note_configuration(&mut self) {
        let agents: Vec<Value> = self
            .config
            .agent
            .iter()
            .map(|agent| {
                json!({ "name": agent.name.as_str(), "mode": agent.mode.label(), "wpc": agent.wpc,
                    "match": agent.r#match.as_ref().map(ToString::to_string) })
            })
            .collect();
        let dids = |dids: &[config::Text<Did>]| dids.iter().map(|did| did.0.to_string()).collect::<Vec<_>>();
        let (signers, issuers) = (dids(&self.config.trust.wpc_signers), dids(&self.config.trust.cst_issuers));
        let hosts: BTreeMap<String, &Vec<std::net::IpAddr>> =
            self.config.hosts.iter().map(|(name, addresses)| (name.0.to_string(), addresses)).collect();
        let digest = serde_json::to_vec(&hosts).map(|bytes| Hash::of(&bytes).to_string()).unwrap_or_default();
        self.note(Kind::Configuration, json!({ "wpc_signers": signers, "cst_issuers": issuers,
            "registry": { "clawcontrols": self.config.registry.clawcontrols, "clawscope": self.config.registry.clawscope,
                "jwks": self.config.registry.jwks },
            "agents": agents, "hosts_sha256": digest }));
    }

    /// Takes the MCP servers of the configuration anew. One whose secrets cannot be had is not to be reached.
    pub(crate) fn servers_anew(&mut self) {
        self.problems.retain(|what, _| !what.starts_with(SERVER));
        let mut servers = Vec::new();
        for server in &self.config.mcp.server {
            match server.rules(&self.config) {
                Ok(rules) => servers.push(rules),
                Err(why) => {
                    let text = format!("the MCP server {} is not reachable: {why}", server.name);
                    tracing::error!("{text}");
                    self.problems.insert(format!("{SERVER}{}", server.name), text);
                }
            }
        }
        self.servers = servers;
    }

    /// Takes the way to models of the configuration anew. A provider whose key cannot be had is not to be reached.
    pub(crate) fn models_anew(&mut self) {
        self.problems.retain(|what, _| !what.starts_with(MODEL));
        let (rules, problems) = config::model_rules(&self.config, self.receipt_signer());
        for problem in problems {
            tracing::error!("{problem}");
            self.problems.insert(format!("{MODEL}{problem}"), problem);
        }
        self.model = rules;
    }

    /// Whose receipts callers are given: this host's own; a clawproxy's, where one signer alone is trusted.
    fn receipt_signer(&self) -> String {
        let trusted = &self.config.trust.receipt_signers;
        match (self.config.model.gateway(), trusted.as_slice()) {
            (ModelGateway::Builtin, _) => self.receipt_key.did().to_string(),
            (ModelGateway::Clawproxy(_), [signer]) => signer.0.to_string(),
            _ => String::new(),
        }
    }

    /// Why a server is not to be reached, if so.
    pub(crate) fn server_problem(&self, name: &str) -> Option<String> {
        self.problems.get(&format!("{SERVER}{name}")).cloned()
    }

    /// Puts the ledger on disk.
    pub(crate) fn save_ledger(&mut self) -> Answer<()> {
        ledger::write(&self.paths.ledger(), &self.ledger).map_err(|error| failed("write the ledger", &error))
    }

    /// The running canary; one that died is replaced.
    pub(crate) fn canary(&mut self) -> Answer<()> {
        if self.canary.as_ref().is_some_and(Canary::alive) {
            return Ok(());
        }
        if let Some(dead) = self.canary.take()
            && let Err(error) = dead.stop(&mut self.fence)
        {
            tracing::warn!(%error, "what is left of a canary could not be removed");
        }
        let executable = self.executable.to_string_lossy().into_owned();
        let canary = Canary::start(&mut self.fence, &executable, crate::CANARY)
            .map_err(|error| failed("start the canary", &error))?;
        self.canary = Some(canary);
        Ok(())
    }

    /// The agent of a name; one that was never heard of gets a slot.
    pub(crate) fn agent(&mut self, name: &AgentName) -> Answer<&mut Agent> {
        if !self.agents.contains_key(name) {
            let slot = match self.ledger.agents.get(name) {
                Some(entry) => entry.slot,
                None => {
                    let slot = self.new_agent_slot()?;
                    let entry = AgentEntry { slot, wpc: None, configured: None };
                    self.ledger.agents.insert(name.clone(), entry);
                    self.save_ledger()?;
                    slot
                }
            };
            self.agents.insert(name.clone(), Agent { slot, ..Agent::default() });
            self.apply_switch();
        }
        self.agents.get_mut(name).ok_or_else(|| failed("find the agent", &name))
    }

    fn new_agent_slot(&self) -> Answer<u32> {
        let taken = |slot: &u32| self.ledger.agents.values().any(|entry| entry.slot == *slot);
        match (1..clawguard_common::MAX_AGENTS).find(|slot| !taken(slot)) {
            Some(slot) => Ok(slot),
            None => refuse(
                Code::Unavailable,
                format!("no room for another agent: this host has {}", clawguard_common::MAX_AGENTS - 1),
                "use an agent that exists",
            ),
        }
    }

    /// Now, by the wall clock.
    pub(crate) fn now() -> Instant {
        Instant(clock::wall_ns())
    }

    /// A moment of CLOCK_BOOTTIME as RFC 3339.
    pub(crate) fn wall(boot_ns: u64) -> String {
        let ago = clock::boot_ns().saturating_sub(boot_ns);
        Instant(clock::wall_ns().saturating_sub(ago)).format()
    }

    /// The host's own key.
    pub(crate) fn host_did(&self) -> Did {
        self.audit.signer()
    }
}
