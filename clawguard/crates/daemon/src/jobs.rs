//! Jobs: started, moved into, ended, found again after a restart.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use claw::{Hash, token::Token};
use clawguard_common::NEVER;
use control::api::{Code, JobAnswer, JobBody, JobView};
use evidence::chain::Kind;
use fence::{AgentName, Enrolled, JobId, JobSpec};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sys::{cgroup, peer::Peer};

use crate::{
    audit::Ticket,
    config::AgentMode,
    core::{Answer, Core, failed, refuse},
    ledger,
    tokens::{Case, JobToken, taken},
};

/// How long a job may take from being made to having its first process.
const FIRST_PROCESS: Duration = Duration::from_secs(30);

/// How long a unit's cgroup may be empty between enrolment and its own first process.
const UNIT_BEGINS: Duration = Duration::from_secs(3);

/// Where a job comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// `clawguard run`
    Run,
    /// A systemd unit that enrolled itself.
    Unit,
    /// `[[agent]] match`
    Match,
    /// The gateway.
    Gateway,
    /// A stdio server.
    Server,
}

impl Origin {
    const fn label(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Unit => "unit",
            Self::Match => "match",
            Self::Gateway => "gateway",
            Self::Server => "server",
        }
    }
}

/// A job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) enrolled: Enrolled,
    pub(crate) agent: AgentName,
    /// A contract of its own.
    pub(crate) wpc: Option<Hash>,
    pub(crate) directory: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) started_at: String,
    pub(crate) over: bool,
    /// Until when its first process has to be there.
    pub(crate) awaited: Option<Instant>,
    /// Bytes of denials that it can read.
    pub(crate) denials: u64,
    /// Its token.
    pub(crate) token: Option<JobToken>,
    /// Whether it was told that it goes without a token, or no longer by one.
    pub(crate) token_told: bool,
    /// Why it reaches nothing any more, if so: its model calls and receipts do not fit.
    pub(crate) failed: Option<String>,
    /// Processes of it that were seen outside.
    pub(crate) escaped: u64,
    /// Processes that it started and that are neither in it nor ended there.
    pub(crate) missing: u64,
}

impl Job {
    /// Whether a unit's job was enrolled only just now: between the enrolling process and the unit's own first one its cgroup is
    /// empty, and that is not its end.
    pub(crate) fn begins(&self) -> bool {
        self.origin == Origin::Unit && self.awaited.is_some_and(|until| Instant::now() < until)
    }

    /// Whether a unit's cgroup is gone, or another one stands in its place.
    fn is_former(&self) -> bool {
        self.origin == Origin::Unit && !self.has_its_cgroup()
    }

    fn has_its_cgroup(&self) -> bool {
        cgroup::id(&self.directory).is_ok_and(|id| id == self.enrolled.cgroup)
    }

    /// Whether a job that is made in the same cgroup takes this one's place. In a cgroup of the daemon's own making none does:
    /// what is left in it would be the new job's.
    fn gives_way(&self) -> bool {
        matches!(self.origin, Origin::Unit | Origin::Match) && (self.over || self.begins() || self.is_former())
    }

    /// Whether an enrolment is the same unit's, started once more: it may ask for nothing that this job did not have.
    pub(crate) fn is_asked_for_again(&self, body: &JobBody) -> bool {
        let own = body.id.is_some() || body.wpc_hash.is_some() || body.envelope.is_some();
        self.begins() && !own && body.agent.as_deref() == Some(self.agent.as_str())
    }
}

/// A job, as a daemon that starts anew finds it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: JobId,
    slot: u32,
    key: u64,
    cgroup: u64,
    agent: AgentName,
    wpc: Option<String>,
    directory: PathBuf,
    origin: Origin,
    started_at: String,
    over: bool,
    #[serde(default)]
    token: Option<JobToken>,
    #[serde(default)]
    token_told: bool,
    #[serde(default)]
    failed: Option<String>,
    #[serde(default)]
    escaped: u64,
    #[serde(default)]
    missing: u64,
}

/// Whether a cgroup counts as populated though no process is in it: the last one is about to be gone.
fn is_being_left(directory: &Path) -> bool {
    let empty = |directories: Vec<PathBuf>| {
        directories.iter().all(|directory| cgroup::processes(directory).is_ok_and(|processes| processes.is_empty()))
    };
    cgroup::populated(directory).unwrap_or(false) && cgroup::tree(directory).is_ok_and(empty)
}

/// In whose hands a cgroup is.
pub(crate) enum Hands {
    /// Nobody's: an operator's, say.
    Free,
    /// In the agents' slice, or in the cgroup of a unit's former life, but not enrolled.
    Slice,
    /// This job's.
    Job(JobId),
}

/// What is needed to make a job.
pub(crate) struct NewJob {
    pub(crate) id: JobId,
    pub(crate) agent: AgentName,
    pub(crate) wpc: Option<Hash>,
    pub(crate) directory: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) token: Option<JobToken>,
    pub(crate) actor: serde_json::Value,
}

impl Core {
    /// In whose hands a cgroup of the v2 hierarchy is.
    pub(crate) fn hands(&self, path: &str) -> Hands {
        let directory = self.fence.places().cgroup(path);
        let job = self.jobs.iter().find(|(_, job)| directory.starts_with(&job.directory));
        match job {
            Some((_, job)) if job.over && job.origin == Origin::Unit || job.is_former() => Hands::Slice,
            Some((id, _)) => Hands::Job(id.clone()),
            None if directory.starts_with(&self.fence.places().agents) => Hands::Slice,
            None => Hands::Free,
        }
    }

    /// The agent and the id of the job that a caller of the API wants. Without an id, its token names it.
    pub(crate) fn named_job(&self, body: &JobBody) -> Answer<(AgentName, JobId)> {
        let named = |text: &str| text.parse::<AgentName>();
        let agent = match body.agent.as_deref().map_or_else(|| named("default"), named) {
            Ok(name) if self.is_servers(&name) => {
                return refuse(Code::BadRequest, format!("{name} is the name of a stdio server"), "");
            }
            Ok(name) if name.as_str() != crate::GATEWAY || body.enrol_caller => name,
            Ok(name) => return refuse(Code::BadRequest, format!("{name} is the gateway's own name"), ""),
            Err(error) => return refuse(Code::BadRequest, error.to_string(), ""),
        };
        let mission = body.cst.as_ref().and_then(|cst| Token::parse(cst.trim()).ok()).and_then(|t| t.claims.mission_id);
        let id = body.id.clone().or(mission).unwrap_or_else(|| crate::unique("job"));
        match id.parse::<JobId>() {
            Ok(id) => Ok((agent, id)),
            Err(error) => refuse(Code::BadRequest, error.to_string(), ""),
        }
    }

    /// The contract that a new job will be under.
    pub(crate) fn contract_for(&mut self, agent: &AgentName, wpc: Option<Hash>) -> Answer<Option<Hash>> {
        let entry = self.agent(agent)?;
        let contract = wpc.or(entry.wpc);
        if contract.is_none() && entry.mode == AgentMode::Enforce {
            return refuse(
                Code::Conflict,
                format!("the agent {agent} has no contract in force, so that the job could reach nothing"),
                format!("give one with --wpc, or `clawguard wpc use FILE --agent {agent}`"),
            );
        }
        Ok(contract)
    }

    /// Makes the job that a caller of the API wants. A contract of its own is loaded already, and its token judged.
    pub(crate) fn start_job(
        &mut self,
        (agent, id): (AgentName, JobId),
        body: &JobBody,
        wpc: Option<Hash>,
        token: Option<(JobToken, Case)>,
        peer: &Peer,
    ) -> Answer<(JobAnswer, Option<Ticket>)> {
        let (directory, origin) = if body.enrol_caller {
            (self.callers_unit(peer)?, Origin::Unit)
        } else {
            (self.fence.places().job(&agent, &id), Origin::Run)
        };
        let contract = self.contract_for(&agent, wpc)?;
        let rules = contract.map_or(Ok(None), |hash| self.token_rules(hash))?;
        let demanded = contract.filter(|_| rules.is_some());
        match (&token, demanded) {
            (Some((_, case)), _) if (contract, rules) != (Some(case.contract), case.rules) => {
                return refuse(Code::Conflict, "the contract changed while the job's token was judged", "try again");
            }
            // A unit that is being enrolled waits for its token with the fence around it.
            (None, Some(contract)) if !body.enrol_caller => return Err(self.token_required(&agent, &id, contract)),
            _ => {}
        }
        self.make_room(&id, &directory)?;
        if let Some((token, case)) = &token {
            self.bind_token(token, case, None)?;
        }
        let actor = json!({ "uid": peer.uid, "pid": peer.pid, "executable": peer.executable, "cgroup": peer.cgroup });
        let (token, case) = token.map_or((None, None), |(token, case)| (Some(token), Some(case)));
        let new = NewJob { id: id.clone(), agent, wpc, directory, origin, token: token.clone(), actor: actor.clone() };
        let mut ticket = self.make_job(new).inspect_err(|_| {
            if let Some(token) = &token {
                self.unbind_token(token);
            }
        })?;
        if let (Some(token), Some(case)) = (&token, &case) {
            ticket = self.bound_to_cgroup(token, case, &actor).inspect_err(|_| {
                // What could not be written down must not run.
                drop(self.finish_job(&id, None));
                self.bury(&id);
            })?;
        }
        Ok((self.job_answer(&id)?, Some(ticket)))
    }

    /// The cgroup of a new job, beside its token, on disk and in the chain.
    fn bound_to_cgroup(&mut self, token: &JobToken, case: &Case, actor: &serde_json::Value) -> Answer<Ticket> {
        let Some(enrolled) = self.jobs.get(&case.job).map(|job| job.enrolled.clone()) else {
            return Err(failed("find the job", &case.job));
        };
        self.bind_cgroup(token, &enrolled)?;
        let ticket = self.record_grant(Kind::Token, &taken(case, token, "presented", actor))?;
        self.counters.token("accepted", "");
        Ok(ticket)
    }

    /// The unit in whose cgroup a caller is. Only root before its first instruction (`ExecStartPre=+`) gets here: a caller
    /// in a job is refused earlier.
    fn callers_unit(&self, peer: &Peer) -> Answer<PathBuf> {
        if peer.uid != 0 {
            return refuse(Code::Forbidden, "only root enrols a unit", "use ExecStartPre=+ (with the plus sign)");
        }
        let directory = self.fence.places().cgroup(&peer.cgroup);
        let own = cgroup::of_process(std::process::id() as i32).unwrap_or_default();
        if self.fence.places().cgroup(&own).starts_with(&directory) {
            return refuse(Code::Forbidden, format!("{} is the daemon's own cgroup, or holds it", peer.cgroup), "");
        }
        Ok(directory)
    }

    /// Sees to it that a job's name is free. Who had it last may have ended without that having been noticed.
    fn make_room(&mut self, id: &JobId, directory: &Path) -> Answer<()> {
        // A process that was waited for may be its cgroup's for a moment longer.
        for _ in 0..20 {
            if !self.jobs.get(id).is_some_and(|job| is_being_left(&job.directory)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.bury(id);
        match self.jobs.get(id) {
            Some(job) if !(job.gives_way() && job.directory == directory) => {
                refuse(Code::Conflict, format!("there is a job {id} already"), "choose another --job")
            }
            _ => Ok(()),
        }
    }

    /// Makes a job: recorded first, then fenced, then known.
    pub(crate) fn make_job(&mut self, new: NewJob) -> Answer<Ticket> {
        self.make_room(&new.id, &new.directory)?;
        let agent = self.agent(&new.agent)?.clone();
        let hash = new.wpc.or(agent.wpc);
        let policy = match hash.map(|hash| (hash, self.contracts.get(&hash))) {
            None => 0,
            Some((_, Some(contract))) => contract.slot,
            Some((hash, None)) => return Err(failed("find the contract's tables", &hash)),
        };
        let ticket = self.record_grant(
            Kind::JobStart,
            &json!({
                "job": new.id.as_str(),
                "agent": new.agent.as_str(),
                "wpc_hash": hash.map(|hash| hash.to_string()),
                "own_contract": new.wpc.is_some(),
                "mode": agent.mode.label(),
                "origin": new.origin.label(),
                "cgroup": new.directory.strip_prefix(&self.fence.places().cgroup_root).unwrap_or(&new.directory),
                "actor": new.actor,
            }),
        )?;
        if matches!(new.origin, Origin::Run | Origin::Gateway | Origin::Server) {
            fs::create_dir_all(&new.directory).map_err(|error| failed("make the job's cgroup", &error))?;
        }
        let observe = agent.mode == AgentMode::Observe;
        let killed = self.killed_for_job(&new.id);
        // Without a contract nothing is allowed anyway.
        let deadline_ns = hash.and_then(|hash| self.token_deadline(hash, new.token.as_ref())).unwrap_or(NEVER);
        let gateway = new.agent.as_str() == crate::GATEWAY;
        let spec = JobSpec { agent: agent.slot, policy, observe, gateway, killed, deadline_ns };
        let former = self.jobs.iter().find(|(_, job)| job.gives_way() && job.directory == new.directory);
        if let Some(former) = former.map(|(id, _)| id.clone()) {
            drop(self.finish_job(&former, None));
            self.forget(&former);
        }
        let enrolled = self.fence.enrol(&new.directory, spec).map_err(|error| failed("fence the job", &error))?;
        self.owners.insert(enrolled.key, (new.id.clone(), new.agent.clone()));
        if let Err(error) = self.watch.add(&new.id, &new.directory) {
            tracing::warn!(%error, job = %new.id, "the job's end will be noticed late");
        }
        let job = Job {
            enrolled,
            agent: new.agent,
            wpc: new.wpc,
            directory: new.directory,
            origin: new.origin,
            started_at: Self::now().format(),
            over: false,
            awaited: match new.origin {
                Origin::Match => None,
                Origin::Unit => Some(Instant::now() + UNIT_BEGINS),
                Origin::Run | Origin::Gateway | Origin::Server => Some(Instant::now() + FIRST_PROCESS),
            },
            denials: 0,
            token: new.token,
            token_told: deadline_ns == 0,
            failed: None,
            escaped: 0,
            missing: 0,
        };
        if let Err(error) = open_denials(&self.paths.denials(&new.id)) {
            tracing::warn!(%error, job = %new.id, "the job will not be able to read why it is denied");
        }
        self.jobs.insert(new.id.clone(), job);
        self.save_jobs();
        if matches!(new.origin, Origin::Unit | Origin::Match) {
            self.look_for_imported(&new.id);
        }
        self.publish();
        Ok(ticket)
    }

    fn job_answer(&self, id: &JobId) -> Answer<JobAnswer> {
        let Some(job) = self.jobs.get(id) else {
            return refuse(Code::NotFound, format!("there is no job {id}"), "");
        };
        let contract = self.job_contract(job).and_then(|hash| self.contracts.get(&hash));
        Ok(JobAnswer {
            job: self.job_view(id, job),
            slot: job.enrolled.slot,
            cgroup_directory: job.directory.to_string_lossy().into_owned(),
            denials: self.paths.denials(id).to_string_lossy().into_owned(),
            unix_sockets: contract.is_some_and(|contract| contract.unix_sockets),
        })
    }

    /// The contract that a job is under.
    pub(crate) fn job_contract(&self, job: &Job) -> Option<Hash> {
        job.wpc.or_else(|| self.agents.get(&job.agent).and_then(|agent| agent.wpc))
    }

    /// What is known of a job.
    pub(crate) fn job_view(&self, id: &JobId, job: &Job) -> JobView {
        let root = &self.fence.places().cgroup_root;
        JobView {
            id: id.to_string(),
            agent: job.agent.to_string(),
            cgroup: job.directory.strip_prefix(root).unwrap_or(&job.directory).to_string_lossy().into_owned(),
            state: if job.over { "over" } else { "running" }.into(),
            origin: job.origin.label().into(),
            wpc_hash: self.job_contract(job).map(|hash| hash.to_string()),
            started_at: job.started_at.clone(),
            token: self.token_view(job),
            stopped: if job.over { None } else { self.stopped(job) },
        }
    }

    /// Moves a process of a caller's own into a job, before its first instruction: it may hold no socket yet.
    pub(crate) fn add_process(&mut self, name: &str, pid: i32, peer: &Peer) -> Answer<(JobAnswer, Option<Ticket>)> {
        let id = self.job_id(name)?;
        let Some(job) = self.jobs.get(&id).filter(|job| !job.over && job.origin == Origin::Run) else {
            return refuse(Code::Conflict, format!("the job {id} takes no processes"), "");
        };
        let status = fs::metadata(format!("/proc/{pid}")).map_err(|error| failed("look at the process", &error))?;
        let uid = std::os::unix::fs::MetadataExt::uid(&status);
        let parent = parent(pid);
        if (uid != peer.uid && peer.uid != 0) || parent != Some(peer.pid) {
            return refuse(Code::Forbidden, format!("process {pid} is not a child of the caller's own"), "");
        }
        let held = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| failed("look at the process", &error))?;
        let sockets = held
            .flatten()
            .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
            .count();
        if sockets > 0 {
            return refuse(
                Code::Conflict,
                format!("process {pid} holds {sockets} sockets, made outside the fence"),
                "",
            );
        }
        fs::write(job.directory.join("cgroup.procs"), pid.to_string())
            .map_err(|error| failed("move the process", &error))?;
        if let Some(job) = self.jobs.get_mut(&id) {
            job.awaited = None;
        }
        Ok((self.job_answer(&id)?, None))
    }

    fn job_id(&self, name: &str) -> Answer<JobId> {
        match name.parse::<JobId>() {
            Ok(id) if self.jobs.contains_key(&id) => Ok(id),
            _ => refuse(Code::NotFound, format!("there is no job {name}"), "`clawguard status` lists them"),
        }
    }

    /// Ends a job for an operator: what is left of it reaches nothing from here on.
    pub(crate) fn end_job(&mut self, name: &str, actor: &serde_json::Value) -> Answer<(JobView, Option<Ticket>)> {
        let id = self.job_id(name)?;
        let ticket = self.finish_job(&id, Some(actor));
        self.bury(&id);
        let view = match self.jobs.get(&id) {
            Some(job) => self.job_view(&id, job),
            None => JobView {
                id: id.to_string(),
                agent: String::new(),
                cgroup: String::new(),
                state: "gone".into(),
                origin: String::new(),
                wpc_hash: None,
                started_at: String::new(),
                token: None,
                stopped: None,
            },
        };
        Ok((view, ticket))
    }

    /// A job is over: nothing of it passes any more, its live connections are ended, and that is recorded.
    pub(crate) fn finish_job(&mut self, id: &JobId, actor: Option<&serde_json::Value>) -> Option<Ticket> {
        let job = self.jobs.get_mut(id)?;
        if job.over {
            return None;
        }
        job.over = true;
        let (enrolled, agent) = (job.enrolled.clone(), job.agent.clone());
        self.fence.end(enrolled.slot);
        self.models_ended(id);
        self.forget_server(id);
        self.stop_servers("its job is over", |server| server.owner == enrolled.key);
        self.publish();
        self.tend_approvals();
        let severed = self.fence.sever(|flow| flow.stamp.key == enrolled.key).unwrap_or_default();
        self.counters.sockets_destroyed.inc_by(severed.destroyed as u64);
        self.save_jobs();
        self.note_coverage(id);
        let populated = self.jobs.get(id).is_some_and(|job| cgroup::populated(&job.directory).unwrap_or(true));
        self.record(
            Kind::JobEnd,
            json!({
                "job": id.as_str(),
                "agent": agent.as_str(),
                "sockets_destroyed": severed.destroyed,
                "sockets_left": severed.left,
                "orphans": populated,
                "actor": actor,
            }),
        )
        .ok()
    }

    /// Looks after a job whose cgroup changed: somebody came, and may have left again before this was noticed.
    pub(crate) fn stirred(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get_mut(id).filter(|job| !job.begins()) {
            job.awaited = None;
        }
        self.bury(id);
    }

    /// Looks after a job: once nobody is in it, the job is over, and its cgroup goes.
    pub(crate) fn bury(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        match cgroup::populated(&job.directory) {
            Ok(true) => {
                if !job.begins() {
                    job.awaited = None;
                }
                return;
            }
            Ok(false) if !job.over && job.awaited.is_some_and(|until| Instant::now() < until) => return,
            // Whoever comes next into a cgroup that was matched is the agent too.
            Ok(false) if job.origin == Origin::Match && job.has_its_cgroup() => {
                return;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, job = %id, "the job's cgroup cannot be read");
                return;
            }
        }
        drop(self.finish_job(id, None));
        let Some(job) = self.jobs.get(id).cloned() else { return };
        if matches!(job.origin, Origin::Run | Origin::Gateway | Origin::Server)
            && let Err(error) = cgroup::remove(&job.directory)
        {
            tracing::warn!(%error, job = %id, "the job's cgroup stays, and stays fenced");
            return;
        }
        if job.has_its_cgroup() {
            // systemd's own cgroup of a unit that is stopping, or starting again: it goes when it does.
            return;
        }
        self.forget(id);
    }

    /// Gives a job's slot back: its cgroup is gone, or about to be another job's.
    fn forget(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id).cloned() else { return };
        let released = match job.has_its_cgroup() {
            true => self.fence.vacate(&job.enrolled),
            false => self.fence.release(&job.enrolled),
        };
        if let Err(error) = released {
            tracing::warn!(%error, job = %id, "the job's slot stays taken");
            return;
        }
        self.watch.remove(id);
        self.jobs.remove(id);
        if let Some(directory) = self.paths.denials(id).parent() {
            let _ = fs::remove_dir_all(directory);
        }
        self.save_jobs();
        self.drop_unused_contracts();
        self.imported_told.retain(|(job, _)| job != id);
        // Nothing is left that a kill of this one job could hold down.
        let before = self.switch.kills.len();
        self.switch.kills.retain(|kill| !matches!(&kill.whose, switch::Whose::Job(job) if job == id));
        if self.switch.kills.len() != before {
            self.switch_is_saved();
        }
        self.publish();
    }

    /// Looks after all jobs.
    pub(crate) fn bury_all(&mut self) {
        let ids: Vec<JobId> = self.jobs.keys().cloned().collect();
        for id in ids {
            self.bury(&id);
        }
    }

    /// Writes the jobs down for a daemon that starts anew. Not synced: they do not outlive a boot, nor does this file.
    pub(crate) fn save_jobs(&self) {
        let entries: Vec<Entry> = self
            .jobs
            .iter()
            .map(|(id, job)| Entry {
                id: id.clone(),
                slot: job.enrolled.slot,
                key: job.enrolled.key,
                cgroup: job.enrolled.cgroup,
                agent: job.agent.clone(),
                wpc: job.wpc.map(|hash| hash.to_string()),
                directory: job.directory.clone(),
                origin: job.origin,
                started_at: job.started_at.clone(),
                over: job.over,
                token: job.token.clone(),
                token_told: job.token_told,
                failed: job.failed.clone(),
                escaped: job.escaped,
                missing: job.missing,
            })
            .collect();
        if let Err(error) = ledger::write(&self.paths.jobs(), &entries) {
            // A daemon that does not find a job ends it: nothing is opened by this.
            tracing::error!(%error, "the jobs cannot be written down");
        }
    }

    /// Takes over the jobs of an earlier daemon.
    pub(crate) fn adopt_jobs(&mut self) -> Result<(), fence::Error> {
        let entries: Vec<Entry> = ledger::read(&self.paths.jobs()).unwrap_or_else(|error| {
            tracing::error!(%error, "the jobs of the daemon before are not known: they are over");
            Vec::new()
        });
        for entry in entries {
            let enrolled = match self.adopt_job(&entry) {
                Ok(Some(enrolled)) => enrolled,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%error, job = %entry.id, "the job cannot be enrolled anew: it reaches nothing");
                    continue;
                }
            };
            let token = entry.token.and_then(|token| self.adopt_token(enrolled.slot, token));
            self.rebind(&entry.id, &enrolled);
            // Whatever ended while nobody was there to see it is told now.
            let token_told = entry.token_told;
            let wpc = entry.wpc.and_then(|text| text.parse().ok());
            self.owners.insert(enrolled.key, (entry.id.clone(), entry.agent.clone()));
            self.adopt_models(&enrolled);
            if let Err(error) = self.watch.add(&entry.id, &entry.directory) {
                tracing::warn!(%error, job = %entry.id, "the job's end will be noticed late");
            }
            let denials = fs::metadata(self.paths.denials(&entry.id)).map_or(0, |data| data.len());
            let job = Job {
                enrolled,
                agent: entry.agent,
                wpc,
                directory: entry.directory,
                origin: entry.origin,
                started_at: entry.started_at,
                over: entry.over,
                awaited: (entry.origin == Origin::Run).then(|| Instant::now() + FIRST_PROCESS),
                denials,
                token,
                token_told,
                failed: entry.failed,
                escaped: entry.escaped,
                missing: entry.missing,
            };
            self.jobs.insert(entry.id, job);
        }
        let known: Vec<Enrolled> = self.jobs.values().map(|job| job.enrolled.clone()).collect();
        self.fence.adopt_only(&known)
    }

    /// Finds a job in the kernel's tables. A daemon with other tables left its cgroup alone: that is enrolled anew, with
    /// sockets that nobody here made.
    fn adopt_job(&mut self, entry: &Entry) -> Result<Option<Enrolled>, fence::Error> {
        let enrolled = Enrolled { slot: entry.slot, key: entry.key, cgroup: entry.cgroup };
        if self.fence.adopt(&enrolled) {
            return Ok(Some(enrolled));
        }
        if !cgroup::id(&entry.directory).is_ok_and(|id| id == entry.cgroup) {
            return Ok(None);
        }
        let agent = match self.agent(&entry.agent) {
            Ok(agent) => agent.slot,
            Err(error) => {
                tracing::error!(message = error.message, job = %entry.id, "the job's agent has no place: it reaches nothing");
                return Ok(None);
            }
        };
        let enrolled = self.fence.enrol(&entry.directory, JobSpec { agent, deadline_ns: 0, ..JobSpec::default() })?;
        if entry.over {
            self.fence.end(enrolled.slot);
        }
        match self.fence.imported(&enrolled, &entry.directory, true) {
            Ok(ended) => tracing::info!(job = %entry.id, sockets_ended = ended.len(), "enrolled anew after an upgrade"),
            Err(error) => tracing::warn!(%error, job = %entry.id, "sockets of before the upgrade could not be ended"),
        }
        Ok(Some(enrolled))
    }

    /// Whether sockets could come into a job from outside, so that they have to be looked for.
    fn open_to_imports(&self, job: &Job) -> bool {
        let contract = self.job_contract(job).and_then(|hash| self.contracts.get(&hash));
        !job.over
            && (matches!(job.origin, Origin::Unit | Origin::Match)
                || (job.origin == Origin::Run && contract.is_some_and(|contract| contract.unix_sockets)))
    }

    /// Looks for sockets from outside in every job that could have some.
    pub(crate) fn look_for_all_imported(&mut self) {
        let ids: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| self.open_to_imports(job)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.look_for_imported(&id);
        }
    }

    /// Looks for sockets in one job that it did not make; ends and tells what it finds.
    fn look_for_imported(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let observe = self.agents.get(&job.agent).is_some_and(|agent| agent.mode == AgentMode::Observe);
        let (agent, found) = match self.fence.imported(&job.enrolled, &job.directory, !observe) {
            Ok(found) => (job.agent.clone(), found),
            Err(error) => {
                tracing::error!(%error, job = %id, "sockets from outside could not be looked for");
                return;
            }
        };
        for socket in found {
            // One that could not be ended, or may stay in observe mode, is told once.
            if !socket.destroyed && !self.imported_told.insert((id.clone(), socket.what.clone())) {
                continue;
            }
            self.counters.alert(&agent, "imported_socket", 1);
            self.counters.sockets_destroyed.inc_by(u64::from(socket.destroyed));
            tracing::warn!(job = %id, pid = socket.pid, what = socket.what, destroyed = socket.destroyed,
                "a job holds a socket that it did not make");
            let body = json!({ "kind": "imported_socket", "job": id.as_str(), "agent": agent.as_str(),
                "pid": socket.pid, "what": socket.what, "destroyed": socket.destroyed });
            self.note(Kind::Alert, body);
        }
    }
}

/// The parent of a process (proc_pid_stat(5); the name before it may hold anything but its own last parenthesis).
fn parent(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Makes the file in which a job reads why it was denied: anybody's to read, nobody's to write.
fn open_denials(path: &Path) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    sys::file::directory(directory, 0o755)?;
    fs::write(path, "")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}
