//! Calls that wait for a person.
//!
//! An approval is for one call: of this job, under this contract, of this tool with this definition, with these very
//! arguments. It is on disk before anybody is told of it, it is used up by the first call that rests on it, and it ends by
//! itself. Whatever is not certain is no approval.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use claw::Hash;
use control::{
    api::{ApprovalBody, ApprovalView, Code},
    calls::{Held, Standing},
};
use evidence::chain::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switch::Actor;
use sys::clock;
use tokio::sync::watch;

use crate::{
    audit::Ticket,
    core::{Answer, Core, refuse},
    ledger,
};

/// Approvals of one job at once, decided or not.
const MOST_OF_JOB: usize = 64;
/// Approvals of all jobs.
const MOST: usize = 1024;
/// Bytes of arguments that a person can be asked to read.
const LONGEST: usize = 256 << 10;
/// Bytes of arguments of all of them together.
const LONGEST_OF_ALL: usize = 16 << 20;
/// Approvals that were used, remembered for the records of the calls that rest on them.
const REMEMBERED: usize = 4096;

const SECOND: u64 = 1_000_000_000;

/// How an approval stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum State {
    Pending,
    Approved { by: String, reason: String, at: String },
    Refused { by: String, reason: String, at: String },
}

impl State {
    const fn label(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved { .. } => "approved",
            Self::Refused { .. } => "refused",
        }
    }
}

/// An approval, asked for and perhaps decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Approval {
    id: String,
    /// The boot of which the job's number and the moment of its end are.
    boot: String,
    key: u64,
    job: String,
    agent: String,
    contract: String,
    server: String,
    method: String,
    tool: String,
    definition: Option<String>,
    arguments_hash: String,
    arguments: String,
    risk: String,
    class: String,
    rule: Option<String>,
    session: String,
    asked_at: String,
    expires_at: String,
    /// CLOCK_BOOTTIME: no clock that is set back prolongs it.
    expires_ns: u64,
    state: State,
}

impl Approval {
    /// Whether it is for this very call.
    fn is_for(&self, held: &Held, boot: &str) -> bool {
        let call = &held.call;
        self.boot == boot
            && self.key == call.key
            && self.contract == call.contract
            && (&self.server, &self.method, &self.tool) == (&call.server, &call.method, &call.tool)
            && self.definition == call.definition
            && self.arguments_hash == call.arguments_hash
            && self.arguments == held.arguments
    }

    fn view(&self) -> ApprovalView {
        let (by, reason, at) = match &self.state {
            State::Pending => (None, None, None),
            State::Approved { by, reason, at } | State::Refused { by, reason, at } => {
                (Some(by.clone()), Some(reason.clone()).filter(|reason| !reason.is_empty()), Some(at.clone()))
            }
        };
        ApprovalView {
            id: self.id.clone(),
            state: self.state.label().into(),
            agent: self.agent.clone(),
            job: self.job.clone(),
            session: self.session.clone(),
            server: self.server.clone(),
            method: self.method.clone(),
            tool: self.tool.clone(),
            risk: self.risk.clone(),
            class: self.class.clone(),
            wpc_hash: self.contract.clone(),
            rule: self.rule.clone(),
            arguments: self.arguments.clone(),
            arguments_sha256: self.arguments_hash.clone(),
            definition_sha256: self.definition.clone(),
            asked_at: self.asked_at.clone(),
            expires_at: self.expires_at.clone(),
            decided_by: by,
            decided_at: at,
            reason,
        }
    }

    /// What its records have in common.
    fn record(&self, result: &str) -> Value {
        json!({ "result": result, "approval": self.id, "job": self.job, "agent": self.agent, "server": self.server,
            "method": self.method, "tool": self.tool, "risk": self.risk, "class": self.class, "rule": self.rule,
            "arguments_sha256": self.arguments_hash, "definition_sha256": self.definition, "wpc_hash": self.contract })
    }
}

/// Which approvals nobody decided yet, for whoever waits for that. A lock of its own, under which nothing waits.
#[derive(Default)]
pub(crate) struct Undecided(Mutex<HashMap<String, watch::Sender<()>>>);

impl Undecided {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an approval is decided or gone.
    pub(crate) async fn decided(&self, id: &str) {
        let waits = self.lock().get(id).map(watch::Sender::subscribe);
        if let Some(mut waits) = waits {
            // Nothing is ever sent: the sender goes.
            let _ = waits.changed().await;
        }
    }
}

/// All approvals, in memory and on disk.
#[derive(Default)]
pub(crate) struct Approvals {
    directory: PathBuf,
    all: BTreeMap<String, Approval>,
    pub(crate) undecided: Arc<Undecided>,
    /// Who approved what was used last.
    used: HashMap<String, String>,
    order: VecDeque<String>,
}

impl Approvals {
    /// Takes up what is on disk of this boot; the rest is of jobs that are gone.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        sys::file::directory(directory, 0o700)?;
        let mut approvals = Self { directory: directory.to_owned(), ..Self::default() };
        let boot = clock::boot_id();
        for entry in fs::read_dir(directory)?.flatten() {
            let approval = ledger::read::<Option<Approval>>(&entry.path());
            match approval {
                Ok(Some(approval)) if approval.boot == boot && entry.path() == approvals.path(&approval.id) => {
                    approvals.enter(approval);
                }
                Ok(_) => fs::remove_file(entry.path())?,
                Err(error) => {
                    tracing::error!(%error, "an approval cannot be read: it counts no more");
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(approvals)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn enter(&mut self, approval: Approval) {
        let mut undecided = self.undecided.lock();
        if approval.state == State::Pending {
            undecided.insert(approval.id.clone(), watch::Sender::default());
        } else {
            undecided.remove(&approval.id);
        }
        drop(undecided);
        self.all.insert(approval.id.clone(), approval);
    }

    /// Writes one down, and only then keeps it.
    fn keep(&mut self, approval: Approval) -> io::Result<()> {
        ledger::write(&self.path(&approval.id), &approval)?;
        self.enter(approval);
        Ok(())
    }

    /// Takes one away: once this returns, no daemon finds it again.
    fn take(&mut self, id: &str) -> io::Result<Option<Approval>> {
        let Some(approval) = self.all.remove(id) else { return Ok(None) };
        self.undecided.lock().remove(id);
        // Gone in memory whatever the disk says. What it says decides whether this one use counts.
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => File::open(&self.directory)?.sync_all()?,
        }
        Ok(Some(approval))
    }

    fn found(&self, held: &Held, boot: &str) -> Option<&Approval> {
        self.all.values().find(|approval| approval.is_for(held, boot))
    }

    /// Why nobody can be asked about a call, if so.
    fn room(&self, held: &Held) -> Result<(), String> {
        let size = held.arguments.len();
        if size > LONGEST {
            return Err(format!("the arguments have {size} bytes, and a person is shown at most {LONGEST}"));
        }
        if self.all.values().filter(|approval| approval.key == held.call.key).count() >= MOST_OF_JOB {
            return Err(format!("{MOST_OF_JOB} calls of the job wait for a person already"));
        }
        let all: usize = self.all.values().map(|approval| approval.arguments.len()).sum();
        if self.all.len() >= MOST || all + size > LONGEST_OF_ALL {
            return Err("too many calls wait for a person already".into());
        }
        Ok(())
    }

    /// Uses an approval up.
    fn use_up(&mut self, id: &str) -> io::Result<Option<(Approval, String)>> {
        let Some(State::Approved { by, .. }) = self.all.get(id).map(|approval| &approval.state) else {
            return Ok(None);
        };
        let by = by.clone();
        let Some(approval) = self.take(id)? else { return Ok(None) };
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.used.remove(&oldest);
        }
        self.order.push_back(id.to_owned());
        self.used.insert(id.to_owned(), by.clone());
        Ok(Some((approval, by)))
    }

    /// Who approved a call that was made.
    pub(crate) fn who_approved(&self, id: &str) -> Option<&str> {
        self.used.get(id).map(String::as_str)
    }

    /// How many wait for a person.
    pub(crate) fn pending(&self) -> usize {
        self.all.values().filter(|approval| approval.state == State::Pending).count()
    }

    /// All that are not over, the oldest first.
    pub(crate) fn views(&self) -> Vec<ApprovalView> {
        let mut views: Vec<ApprovalView> = self.all.values().map(Approval::view).collect();
        views.sort_by(|a, b| (&a.asked_at, &a.id).cmp(&(&b.asked_at, &b.id)));
        views
    }

    /// Those that are over, and why.
    fn over(&self, now_ns: u64, gone: impl Fn(&Approval) -> Option<&'static str>) -> Vec<(String, &'static str)> {
        let why = |approval: &Approval| if now_ns >= approval.expires_ns { Some("expired") } else { gone(approval) };
        self.all.iter().filter_map(|(id, approval)| Some((id.clone(), why(approval)?))).collect()
    }
}

impl Core {
    /// How a held call stands. A person's word on it is used up by this; where there is none, a person is asked.
    pub(crate) fn stands(&mut self, held: &Held) -> Standing {
        self.tend_approvals();
        self.judged_standing(held).unwrap_or_else(Standing::Impossible)
    }

    fn judged_standing(&mut self, held: &Held) -> Result<Standing, String> {
        let call = &held.call;
        let job = self.jobs.iter().find(|(_, job)| job.enrolled.key == call.key && !job.over);
        let Some((job, agent, contract)) =
            job.map(|(id, job)| (id.to_string(), job.agent.to_string(), self.job_contract(job)))
        else {
            return Err("the job is over".into());
        };
        if contract.is_none_or(|hash| hash.to_string() != call.contract) {
            return Err("another contract is in force for the job by now".into());
        }
        if Hash::of(held.arguments.as_bytes()).to_string() != call.arguments_hash {
            return Err("the arguments are not those of which the hash is".into());
        }
        let boot = clock::boot_id();
        let Some(found) = self.approvals.found(held, &boot) else {
            self.approvals.room(held)?;
            return self.ask_a_person(held, job, agent, boot);
        };
        let id = found.id.clone();
        match &found.state {
            State::Pending => Ok(Standing::Pending { id, expires_at: found.expires_at.clone() }),
            State::Refused { reason, .. } => Ok(Standing::Refused { id, reason: reason.clone() }),
            State::Approved { .. } => self.use_approval(id),
        }
    }

    fn use_approval(&mut self, id: String) -> Result<Standing, String> {
        self.may_grant().map_err(|error| error.message)?;
        let used = self.approvals.use_up(&id).map_err(|error| format!("the approval cannot be used up: {error}"))?;
        let Some((approval, by)) = used else { return Err("the approval is gone".into()) };
        let mut body = approval.record("used");
        body["approved_by"] = json!(by);
        let recorded = self.record_grant(Kind::Approval, &body).map_err(|error| error.message)?;
        // On disk is what counts: that the approval is gone.
        drop(recorded);
        Ok(Standing::Approved { id, by })
    }

    fn ask_a_person(&mut self, held: &Held, job: String, agent: String, boot: String) -> Result<Standing, String> {
        let call = &held.call;
        let lasts = self.config.mcp.approval_expiry_seconds;
        let approval = Approval {
            id: crate::unique("ap"),
            boot,
            key: call.key,
            job,
            agent,
            contract: call.contract.clone(),
            server: call.server.clone(),
            method: call.method.clone(),
            tool: call.tool.clone(),
            definition: call.definition.clone(),
            arguments_hash: call.arguments_hash.clone(),
            arguments: held.arguments.clone(),
            risk: call.risk.clone(),
            class: call.class.clone(),
            rule: call.rule.clone(),
            session: call.session.clone(),
            asked_at: Self::now().format(),
            expires_at: in_seconds(lasts),
            expires_ns: clock::boot_ns().saturating_add(lasts.saturating_mul(SECOND)),
            state: State::Pending,
        };
        let (id, expires_at) = (approval.id.clone(), approval.expires_at.clone());
        self.approvals
            .keep(approval.clone())
            .map_err(|error| format!("what is asked for cannot be written down: {error}"))?;
        tracing::info!(
            id,
            job = approval.job,
            server = approval.server,
            tool = approval.tool,
            "a call waits for a person"
        );
        let mut body = approval.record("asked");
        body["expires_at"] = json!(expires_at);
        self.note(Kind::Approval, body);
        self.tell_hook(&approval.view());
        Ok(Standing::Pending { id, expires_at })
    }

    fn tell_hook(&self, view: &ApprovalView) {
        let command = &self.config.mcp.approval_hook;
        if !command.is_empty() {
            // A view of strings always serialises.
            self.hooks.start(command, serde_json::to_string(view).unwrap_or_default());
        }
    }

    /// A person's word on a call.
    pub(crate) fn decide_approval(
        &mut self,
        id: &str,
        body: &ApprovalBody,
        actor: &Actor,
    ) -> Answer<(ApprovalView, Option<Ticket>)> {
        self.tend_approvals();
        let reason = body.reason.trim().to_owned();
        if reason.len() > 1000 {
            return refuse(Code::BadRequest, "a reason has at most 1000 bytes", "");
        }
        let approve = match body.decision.as_str() {
            "approve" => true,
            "deny" if reason.is_empty() => {
                return refuse(Code::BadRequest, "a reason is needed", "the agent is told why");
            }
            "deny" => false,
            other => {
                let shown: String = other.chars().take(40).collect();
                return refuse(Code::BadRequest, format!("\"{shown}\" is neither approve nor deny"), "");
            }
        };
        let Some(mut approval) = self.approvals.all.get(id).cloned() else {
            let shown: String = id.chars().take(64).collect();
            return refuse(
                Code::NotFound,
                format!("no call waits under {shown}: it is used, expired, withdrawn, or never was"),
                "`clawguard approvals` lists those that do",
            );
        };
        if approval.state != State::Pending {
            return refuse(Code::Conflict, format!("{id} is {} already", approval.state.label()), "");
        }
        if approve {
            self.may_grant()?;
        }
        let (by, at) = (who(actor), Self::now().format());
        // Whoever was told "pending" needs time to come back.
        let lasts = self.config.mcp.approval_expiry_seconds;
        approval.expires_at = in_seconds(lasts);
        approval.expires_ns = clock::boot_ns().saturating_add(lasts.saturating_mul(SECOND));
        approval.state = if approve { State::Approved { by, reason, at } } else { State::Refused { by, reason, at } };
        let mut record = approval.record(approval.state.label());
        record["actor"] = json!(actor);
        record["reason"] = json!(body.reason.trim());
        let ticket = if approve {
            // Recorded first: what nobody can look up was approved by nobody.
            Some(self.record_grant(Kind::Approval, &record)?)
        } else {
            self.record(Kind::Approval, record).ok()
        };
        let view = approval.view();
        self.approvals.keep(approval).map_err(|error| crate::core::failed("write the decision down", &error))?;
        Ok((view, ticket))
    }

    /// Ends what is over: by its time, with its job, or with the contract under which it was asked for.
    pub(crate) fn tend_approvals(&mut self) {
        if self.approvals.all.is_empty() {
            return;
        }
        let live = self.jobs.values().filter(|job| !job.over);
        let contracts: HashMap<u64, Option<Hash>> =
            live.map(|job| (job.enrolled.key, self.job_contract(job))).collect();
        let gone = |approval: &Approval| match contracts.get(&approval.key) {
            None => Some("job_over"),
            Some(Some(hash)) if hash.to_string() == approval.contract => None,
            Some(_) => Some("contract_changed"),
        };
        let over = self.approvals.over(clock::boot_ns(), gone);
        for (id, why) in over {
            match self.approvals.take(&id) {
                Ok(Some(approval)) => {
                    let result = if why == "expired" { "expired" } else { "withdrawn" };
                    let mut body = approval.record(result);
                    body["state"] = json!(approval.state.label());
                    body["reason"] = json!(why);
                    self.note(Kind::Approval, body);
                }
                Ok(None) => {}
                // It is of another boot, or expired, for whoever finds it.
                Err(error) => tracing::error!(%error, id, "an approval that is over stays on disk"),
            }
        }
    }
}

/// So many seconds from now, by the wall clock.
fn in_seconds(seconds: u64) -> String {
    claw::time::Instant(clock::wall_ns().saturating_add(seconds.saturating_mul(SECOND))).format()
}

/// Who decided, in a word.
fn who(actor: &Actor) -> String {
    actor.uid.map_or_else(|| actor.channel.clone(), |uid| format!("uid {uid}"))
}

#[cfg(test)]
mod tests {
    use control::calls::{Call, Decision};

    use super::*;

    fn held() -> Held {
        let arguments = r#"{"id":1}"#.to_owned();
        let call = Call {
            number: 1,
            slot: 1,
            key: 7,
            session: "s".into(),
            reported: None,
            server: "crm".into(),
            method: "tools/call".into(),
            tool: "delete_case".into(),
            arguments_hash: Hash::of(arguments.as_bytes()).to_string(),
            arguments: None,
            decision: Decision::Held,
            reason: "approval".into(),
            rule: None,
            risk: "high".into(),
            class: "irreversible".into(),
            approval: None,
            contract: "c1".into(),
            token: None,
            definition: Some("d1".into()),
            count: 1,
            alert: None,
        };
        Held { call: Box::new(call), arguments }
    }

    fn approval(id: &str, held: &Held) -> Approval {
        let call = &held.call;
        Approval {
            id: id.into(),
            boot: clock::boot_id(),
            key: call.key,
            job: "j".into(),
            agent: "a".into(),
            contract: call.contract.clone(),
            server: call.server.clone(),
            method: call.method.clone(),
            tool: call.tool.clone(),
            definition: call.definition.clone(),
            arguments_hash: call.arguments_hash.clone(),
            arguments: held.arguments.clone(),
            risk: call.risk.clone(),
            class: call.class.clone(),
            rule: None,
            session: String::new(),
            asked_at: String::new(),
            expires_at: String::new(),
            expires_ns: 1000,
            state: State::Approved { by: "uid 0".into(), reason: String::new(), at: String::new() },
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("clawguard-approvals-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn an_approval_is_for_this_very_call_and_for_no_other() {
        let boot = clock::boot_id();
        let approval = approval("ap-1", &held());
        assert!(approval.is_for(&held(), &boot));
        assert!(!approval.is_for(&held(), "another boot"));
        let changes: [fn(&mut Held); 8] = [
            |held| held.call.key = 8,
            |held| held.call.contract = "c2".into(),
            |held| held.call.server = "crn".into(),
            |held| held.call.method = "resources/read".into(),
            |held| held.call.tool = "delete_cases".into(),
            |held| held.call.definition = Some("d2".into()),
            |held| held.call.arguments_hash = "h2".into(),
            |held| held.arguments = r#"{"id":2}"#.into(),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut other = held();
            change(&mut other);
            assert!(!approval.is_for(&other, &boot), "change {i}");
        }
        // Another session, or another time, is the same call.
        let mut again = held();
        (again.call.session, again.call.number) = ("t".into(), 2);
        assert!(approval.is_for(&again, &boot));
    }

    #[test]
    fn an_approval_is_used_once_and_no_daemon_finds_it_again() {
        let path = directory("once");
        let mut approvals = Approvals::open(&path).unwrap();
        approvals.keep(approval("ap-1", &held())).unwrap();
        // A daemon that starts anew has it.
        let mut again = Approvals::open(&path).unwrap();
        assert!(again.found(&held(), &clock::boot_id()).is_some());
        let (used, by) = again.use_up("ap-1").unwrap().unwrap();
        assert_eq!((used.id.as_str(), by.as_str(), again.who_approved("ap-1")), ("ap-1", "uid 0", Some("uid 0")));
        assert!(again.use_up("ap-1").unwrap().is_none());
        assert!(Approvals::open(&path).unwrap().found(&held(), &clock::boot_id()).is_none());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_is_pending_or_refused_is_no_approval() {
        let path = directory("states");
        let mut approvals = Approvals::open(&path).unwrap();
        let refused = State::Refused { by: "uid 0".into(), reason: "no".into(), at: String::new() };
        for (id, state) in [("ap-1", State::Pending), ("ap-2", refused)] {
            approvals.keep(Approval { state, ..approval(id, &held()) }).unwrap();
            assert!(approvals.use_up(id).unwrap().is_none(), "{id}");
            assert_eq!(approvals.who_approved(id), None);
        }
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn an_approval_ends_by_itself_with_its_job_and_with_its_contract() {
        let path = directory("ends");
        let mut approvals = Approvals::open(&path).unwrap();
        approvals.keep(approval("ap-1", &held())).unwrap();
        assert!(approvals.over(999, |_| None).is_empty());
        assert_eq!(approvals.over(1000, |_| None), [("ap-1".into(), "expired")]);
        assert_eq!(approvals.over(0, |_| Some("job_over")), [("ap-1".into(), "job_over")]);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn approvals_of_another_boot_and_damaged_ones_are_gone() {
        let path = directory("boot");
        let mut approvals = Approvals::open(&path).unwrap();
        approvals.keep(Approval { boot: "another".into(), ..approval("ap-1", &held()) }).unwrap();
        fs::write(path.join("ap-2.json"), "{").unwrap();
        // Not under its own name: somebody copied it.
        fs::write(path.join("ap-3.json"), serde_json::to_vec(&approval("ap-4", &held())).unwrap()).unwrap();
        let again = Approvals::open(&path).unwrap();
        assert!(again.views().is_empty());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_a_person_can_be_asked_has_bounds() {
        let path = directory("bounds");
        let mut approvals = Approvals::open(&path).unwrap();
        for i in 0..MOST_OF_JOB {
            approvals.enter(approval(&format!("ap-{i}"), &held()));
        }
        assert!(approvals.room(&held()).unwrap_err().contains("of the job"));
        let mut other = held();
        other.call.key = 8;
        assert_eq!(approvals.room(&other), Ok(()));
        other.arguments = "x".repeat(LONGEST + 1);
        assert!(approvals.room(&other).unwrap_err().contains("a person is shown"));
        for i in 0..MOST {
            approvals.enter(Approval { key: 1000 + i as u64, ..approval(&format!("aq-{i}"), &held()) });
        }
        other.arguments = String::new();
        assert!(approvals.room(&other).unwrap_err().contains("too many"));
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn whoever_waits_learns_that_it_is_decided() {
        let path = directory("waits");
        let mut approvals = Approvals::open(&path).unwrap();
        approvals.keep(Approval { state: State::Pending, ..approval("ap-1", &held()) }).unwrap();
        let undecided = Arc::clone(&approvals.undecided);
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let waits = tokio::spawn(async move { undecided.decided("ap-1").await });
            tokio::task::yield_now().await;
            assert!(!waits.is_finished());
            approvals.keep(approval("ap-1", &held())).unwrap();
            waits.await.unwrap();
            approvals.undecided.decided("never was").await;
        });
        fs::remove_dir_all(path).unwrap();
    }
}
