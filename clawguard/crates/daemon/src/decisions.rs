//! What the kernel decided: told at once, counted exactly, recorded by interval, explained.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs::OpenOptions,
    io::Write,
};

use clawguard_common::{DecisionKey, EVENT_RING_BYTES, Endpoint, Hook, NO_RULE, Reason, protocol};
use control::api::DecisionView;
use evidence::chain::Kind;
use fence::{AgentName, Decision, JobId, Told};
use policy::{compile::Source, net};
use serde_json::json;

use crate::{
    alarms::{MCP, MODEL},
    core::Core,
    learned::Way,
};

/// How many decisions are kept for questions.
const KEPT: usize = 8192;
/// How many decisions one record holds.
const IN_A_RECORD: usize = 256;
/// Bytes of denials that a job can read of itself.
const MOST_DENIALS: u64 = 256 << 10;
/// How many events are taken at once, so that a kill does not wait behind a flood.
const AT_ONCE: usize = 512;
/// How many owners of former jobs are remembered.
const MOST_OWNERS: usize = 65_536;

/// The latest decisions.
#[derive(Default)]
pub(crate) struct Recent {
    views: VecDeque<DecisionView>,
    next: u64,
    /// The decisions of the running interval that were told already, with their numbers.
    told: HashMap<DecisionKey, u64>,
    /// Names that were refused in the running interval, with the numbers under which they were told.
    names: HashMap<RefusedName, u64>,
    /// How many of them each job has.
    names_of: HashMap<String, usize>,
    /// Agents, and the kinds of attempts of theirs that were told in the running interval.
    sounded: HashSet<(String, &'static str)>,
    /// Records that had not fit so far.
    lost: u64,
}

/// The hook of what the DNS guard decides.
pub(crate) const DNS: &str = "dns";
/// Names whose refusals are told one by one in an interval; more are only counted.
const MOST_NAMES: usize = 4096;
/// The same of one job, so that none hides what others try.
const MOST_NAMES_OF_A_JOB: usize = 512;
/// Job, name, reason and hook.
type RefusedName = (String, String, String, String);

impl Recent {
    /// Counts a refused name once more, if the interval has seen it. Answers whether it is to be told.
    pub(crate) fn is_news(&mut self, view: &DecisionView) -> bool {
        let key = (view.job.clone(), view.name.clone(), view.reason.clone(), view.hook.clone());
        let Some(id) = self.names.get(&key).copied() else {
            let own = self.names_of.get(&view.job).copied().unwrap_or(0);
            return self.names.len() < MOST_NAMES && own < MOST_NAMES_OF_A_JOB;
        };
        if let Some(old) = self.find(id) {
            old.count += 1;
            old.last_at.clone_from(&view.last_at);
        }
        false
    }

    /// Whether an agent's attempt is the first of its kind in the interval: that one is told whatever else is.
    pub(crate) fn is_first(&mut self, agent: &AgentName, kind: &'static str) -> bool {
        self.sounded.insert((agent.to_string(), kind))
    }

    /// Keeps a refused name for questions, and for the interval's records.
    pub(crate) fn push_name(&mut self, view: DecisionView) {
        let key = (view.job.clone(), view.name.clone(), view.reason.clone(), view.hook.clone());
        *self.names_of.entry(view.job.clone()).or_default() += 1;
        let id = self.push(view);
        self.names.insert(key, id);
    }

    /// The records of the names that were refused in the interval that ends.
    fn end_names(&mut self) -> Vec<serde_json::Value> {
        self.names_of.clear();
        self.sounded.clear();
        let ids: Vec<u64> = std::mem::take(&mut self.names).into_values().collect();
        ids.into_iter().filter_map(|id| self.find(id).map(|view| record(view))).collect()
    }

    fn push(&mut self, mut view: DecisionView) -> u64 {
        view.id = self.next;
        self.next += 1;
        if self.views.len() == KEPT {
            self.views.pop_front();
        }
        let id = view.id;
        self.views.push_back(view);
        id
    }

    /// The decision with a number, if it is still kept.
    fn find(&mut self, id: u64) -> Option<&mut DecisionView> {
        let first = self.views.front()?.id;
        // They are numbered without gaps.
        self.views.get_mut(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    /// The decisions since a number, of one job or all.
    pub(crate) fn since(&self, id: u64, job: Option<&str>) -> Vec<DecisionView> {
        let wanted = |view: &&DecisionView| view.id >= id && job.is_none_or(|job| view.job == job);
        self.views.iter().filter(wanted).cloned().collect()
    }
}

/// What a decision concerned, for records.
pub(crate) struct Named {
    pub(crate) job: Option<JobId>,
    pub(crate) agent: Option<AgentName>,
}

impl Core {
    pub(crate) fn named(&self, decision: &Decision) -> Named {
        let owner = self.owners.get(&decision.key.job_key);
        Named { job: owner.map(|(job, _)| job.clone()), agent: owner.map(|(_, agent)| agent.clone()) }
    }

    pub(crate) fn view(&self, decision: &Decision) -> DecisionView {
        let named = self.named(decision);
        let reason = decision.reason();
        let verdict = match (reason, decision.observed()) {
            (Reason::Allowed, _) => "allowed",
            (_, true) => "observed",
            (_, false) => "denied",
        };
        let wpc_hash = self.serials.get(&decision.key.serial).map(ToString::to_string);
        let rule = (decision.count.rule != NO_RULE)
            .then(|| Source::from_number(decision.count.rule).map(Source::path))
            .flatten();
        let (protocol, remote) = remote(decision);
        let mut view = DecisionView {
            id: 0,
            at: Self::wall(decision.count.first_ns),
            last_at: Self::wall(decision.count.last_ns),
            verdict: verdict.into(),
            reason: reason.label().into(),
            count: decision.count.count,
            hook: decision.hook().map_or("", Hook::label).into(),
            agent: named.agent.map_or_else(|| "none".into(), |agent| agent.to_string()),
            job: named.job.map_or_else(|| "none".into(), |job| job.to_string()),
            protocol,
            remote,
            pid: decision.count.pid,
            uid: decision.count.uid,
            command: decision.command(),
            wpc_hash,
            rule,
            name: self.way(decision).map_or_else(String::new, |way| way.name),
            suspected: None,
            sentence: String::new(),
        };
        view.sentence = self.sentence(&view, reason, self.way(decision));
        view
    }

    /// How the agent came to know the address of a decision.
    fn way(&self, decision: &Decision) -> Option<Way> {
        let hash = *self.serials.get(&decision.key.serial)?;
        let agent = self.named(decision).agent?;
        let remote = &decision.key.remote;
        self.learned.way(self.agents.get(&agent)?.slot, hash, remote.addr, remote.port)
    }

    /// Why, in one sentence.
    pub(crate) fn sentence(&self, view: &DecisionView, reason: Reason, way: Option<Way>) -> String {
        let who = if view.command.is_empty() {
            format!("Job {} of agent {}", view.job, view.agent)
        } else {
            format!("{} (process {}) in job {} of agent {}", view.command, view.pid, view.job, view.agent)
        };
        let what = match (reason, view.remote.is_empty()) {
            (Reason::RawSocket | Reason::Protocol, _) => format!("asked for a socket of {}", view.protocol),
            (Reason::SocketOption, _) => format!("set a socket option ({})", view.protocol),
            (Reason::Inbound, _) => match view.remote.rsplit_once(':') {
                Some((from, port)) => format!("was called by {from} at its port {port} over {}", view.protocol),
                None => format!("was called over {}", view.protocol),
            },
            (_, true) if view.hook == DNS => format!("asked for the name {}", view.name),
            (_, true) => "used a socket".into(),
            (_, false) => format!("went to {} over {}", view.remote, view.protocol),
        };
        let name = match way {
            Some(way) => format!(
                ", an address that {} led to {} s ago{}",
                way.name,
                way.ago,
                if way.expired { ", no longer" } else { "" }
            ),
            None if !view.name.is_empty() && !view.remote.is_empty() => format!(", calling for the name {}", view.name),
            None => String::new(),
        };
        let contract = view.wpc_hash.as_ref().map_or_else(|| "no contract".into(), |hash| format!("contract {hash}"));
        let rule = view.rule.as_ref().map_or_else(String::new, |rule| format!(" ({rule})"));
        let why = match reason {
            Reason::Allowed => format!("{contract} allows it{rule}"),
            Reason::NotInContract if view.hook == DNS => format!("no rule of {contract} names it"),
            Reason::NotInContract => format!("no rule of {contract} names that address and port"),
            Reason::SpecialRange => {
                format!("it lies in a private or special range, which {contract} does not name by a CIDR of its own")
            }
            Reason::Metadata => {
                format!("it is a cloud metadata address, which {contract} does not name by a CIDR of its own")
            }
            Reason::Killed => format!("a group that it belongs to is killed: {}{rule}", self.killed_words(view)),
            Reason::Expired => format!("{contract} has expired"),
            Reason::TokenEnded => self
                .failed_words(view)
                .unwrap_or_else(|| "the job's token has ended (`clawguard status` says why)".into()),
            Reason::NoContract => "no contract is in force".into(),
            Reason::JobOver => "the job is over".into(),
            Reason::NoJob => "the process is in an agent's slice but in no job".into(),
            Reason::ForeignSocket => "the socket was not made inside the job".into(),
            Reason::Protocol => "only TCP and UDP pass at all".into(),
            Reason::RawSocket => "raw and ping sockets are refused".into(),
            Reason::SocketOption => "it would send what the fence cannot judge".into(),
            Reason::Inbound => format!("no listen rule of {contract} names that address and port"),
            Reason::Malformed => "the packet has IP options, extension headers or no whole header".into(),
            Reason::ModelDirect => {
                format!("it is a model provider's host, and {contract} does not name it as the way to models")
            }
            Reason::Loopback => format!("the service there is not the job's own, and no rule of {contract} names it"),
            Reason::SniMismatch => {
                format!("no rule of {contract} allows the name that it called for at that address and port")
            }
            Reason::NoSni => "it called for no name, where one is demanded".into(),
            Reason::NotTls => {
                "it did not begin with one well-formed TLS ClientHello, or that changed on its way".into()
            }
            Reason::Ech => format!("it hides its true name (ECH), which {contract} does not allow there"),
            Reason::Dns => "names are asked for through the DNS guard alone".into(),
            Reason::Quic => format!("{contract} does not say \"quic\" for that address"),
            Reason::NameExpired => "the DNS answer that named the address is no longer good".into(),
            Reason::McpDirect => "it is an MCP server, which is reached through the MCP gateway alone".into(),
            Reason::Internal => "a look-up that may not fail failed".into(),
        };
        let times = if view.count > 1 { format!(" ({} times)", view.count) } else { String::new() };
        let verdict = match view.verdict.as_str() {
            "observed" => "would have been denied",
            other => other,
        };
        let looks = match view.suspected.as_deref() {
            Some(MODEL) => "; it looks like a model call",
            Some(MCP) => "; it looks like a call of an MCP server",
            _ => "",
        };
        format!("{who} {what}{name}{times} and was {verdict}: {why}{looks}.").replace("and was would", "and would")
    }

    fn failed_words(&self, view: &DecisionView) -> Option<String> {
        self.jobs.get(&view.job.parse::<JobId>().ok()?)?.failed.clone()
    }

    fn killed_words(&self, view: &DecisionView) -> String {
        let mut words: Vec<String> = self
            .switch
            .kills
            .iter()
            .filter(|kill| match &kill.whose {
                switch::Whose::Host => true,
                switch::Whose::Agent(name) => name.as_str() == view.agent,
                switch::Whose::Job(id) => id.as_str() == view.job,
            })
            .map(|kill| format!("{} ({})", kill.group, kill.reason))
            .collect();
        if self.switch.mode != switch::Mode::Normal {
            words.push(format!("mode {}", self.switch.mode));
        }
        if words.is_empty() { "it was restored meanwhile".into() } else { words.join(", ") }
    }

    /// Takes events out of the ring. Answers whether there may be more.
    pub(crate) fn take_events(&mut self) -> bool {
        let events = self.fence.events(AT_ONCE);
        let more = events.len() == AT_ONCE;
        let mut refused_flows: HashSet<u64> = HashSet::new();
        for event in events {
            match event {
                Told::Decision(event) => {
                    let view = self.view(&event);
                    self.deny_file(&view);
                    self.follow(&view);
                    let id = self.recent.push(view);
                    self.recent.told.insert(event.key, id);
                    self.alarm(&event, 1);
                }
                Told::Name(refused) => {
                    if !refused.decision.observed() {
                        refused_flows.insert(refused.cookie);
                    }
                    self.flow_named(&refused);
                }
            }
        }
        // What waits for an answer that will not come learns it at once; in another network namespace, when it has waited.
        match self.fence.sever_here(&refused_flows) {
            Ok(severed) => self.counters.sockets_destroyed.inc_by(severed.destroyed as u64),
            Err(error) => tracing::warn!(%error, "refused connections are not ended; they may send nothing"),
        }
        more
    }

    /// Ends the interval early if records did not fit: there is room in the next.
    pub(crate) fn end_full_interval(&mut self) {
        let lost = self.fence.lost().unwrap_or_default().iter().map(|(_, count)| count).sum();
        if lost > self.recent.lost {
            self.recent.lost = lost;
            self.end_interval();
        }
    }

    /// Ends the interval: adds its counts to what was told, and records all of it.
    pub(crate) fn end_interval(&mut self) {
        // One ringful: whoever is faster than this is counted, and told of in the next.
        let mut turns = EVENT_RING_BYTES as usize / size_of::<clawguard_common::Event>() / AT_ONCE + 1;
        while self.take_events() && turns > 0 {
            turns -= 1;
        }
        let decisions = match self.fence.drain() {
            Ok(decisions) => decisions,
            Err(error) => {
                tracing::error!(%error, "the interval's decisions stay for the next one");
                return;
            }
        };
        let told = std::mem::take(&mut self.recent.told);
        let mut records = Vec::with_capacity(decisions.len());
        for decision in &decisions {
            let mut view = self.view(decision);
            let seen = told.get(&decision.key).copied();
            let old = seen.and_then(|id| self.recent.find(id));
            match old {
                Some(old) => {
                    (view.id, view.pid, view.uid) = (old.id, old.pid, old.uid);
                    old.clone_from(&view);
                }
                None => view.id = self.recent.push(view.clone()),
            }
            self.alarm(decision, decision.count.count - u64::from(seen.is_some()));
            records.push(record(&view));
        }
        self.observe(&decisions);
        records.extend(self.recent.end_names());
        for part in records.chunks(IN_A_RECORD) {
            self.note(Kind::Decisions, json!({ "decisions": part }));
        }
        self.forget_former_owners();
    }

    /// Owners of jobs that are gone are kept only as long as there is room.
    fn forget_former_owners(&mut self) {
        if self.owners.len() > MOST_OWNERS {
            let live: HashSet<u64> = self.jobs.values().map(|job| job.enrolled.key).collect();
            self.owners.retain(|key, _| live.contains(key));
        }
        if self.serials.len() > MOST_OWNERS {
            let live: HashSet<claw::Hash> = self.contracts.keys().copied().collect();
            self.serials.retain(|_, hash| live.contains(hash));
        }
    }

    /// Lets the job read why it was denied.
    pub(crate) fn deny_file(&mut self, view: &DecisionView) {
        if view.verdict != "denied" {
            return;
        }
        let Ok(id) = view.job.parse::<JobId>() else { return };
        let path = self.paths.denials(&id);
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.denials < MOST_DENIALS) else { return };
        let line = json!({ "at": view.at, "reason": view.reason, "protocol": view.protocol, "remote": view.remote,
            "name": view.name, "suspected": view.suspected, "pid": view.pid, "command": view.command,
            "wpc_hash": view.wpc_hash, "sentence": view.sentence });
        let written = OpenOptions::new().append(true).open(path).and_then(|mut file| writeln!(file, "{line}"));
        if written.is_ok() {
            job.denials += line.to_string().len() as u64 + 1;
        }
    }

    /// Tells those who follow. Who does not keep up misses some, and can ask again.
    pub(crate) fn follow(&mut self, view: &DecisionView) {
        let Ok(text) = serde_json::to_string(view) else { return };
        self.followers.retain(|(_, follower)| !follower.is_closed());
        for (job, follower) in &self.followers {
            if job.as_ref().is_none_or(|job| *job == view.job) && follower.try_send(text.clone()).is_err() {
                self.counters.lost_followers.inc();
            }
        }
    }

    /// The exact counters of every agent: (agent, verdict, reason, count).
    pub(crate) fn totals(&self) -> Vec<(String, &'static str, &'static str, u64)> {
        let mut found = Vec::new();
        let mut slots: BTreeMap<u32, String> =
            self.ledger.agents.iter().map(|(name, entry)| (entry.slot, name.to_string())).collect();
        slots.insert(0, "none".into());
        for (slot, name) in slots {
            for counted in self.fence.counted(slot).unwrap_or_default() {
                let verdict = match (counted.reason, counted.observed) {
                    (Reason::Allowed, _) => "allowed",
                    (_, true) => "observed",
                    (_, false) => "denied",
                };
                found.push((name.clone(), verdict, counted.reason.label(), counted.count));
            }
        }
        found
    }
}

/// A decision as the audit chain keeps it.
fn record(view: &DecisionView) -> serde_json::Value {
    json!({
        "agent": view.agent, "job": view.job, "verdict": view.verdict, "reason": view.reason, "hook": view.hook,
        "protocol": view.protocol, "remote": view.remote, "name": view.name, "suspected": view.suspected, "count": view.count,
        "first": view.at, "last": view.last_at, "pid": view.pid, "command": view.command, "wpc_hash": view.wpc_hash, "rule": view.rule,
    })
}

/// The other end, or what was asked for instead of one.
fn remote(decision: &Decision) -> (String, String) {
    let remote: &Endpoint = &decision.key.remote;
    match decision.hook() {
        Some(Hook::SockCreate) => {
            let kind = match remote.protocol {
                1 => "stream",
                2 => "datagram",
                3 => "raw",
                _ => "other",
            };
            (format!("{kind} protocol {}", remote.port), String::new())
        }
        Some(Hook::Setsockopt) => (format!("level {} option {}", remote.protocol, remote.port), String::new()),
        _ if *remote == Endpoint::default() => ("any".into(), String::new()),
        _ => {
            let name = match remote.protocol {
                protocol::TCP => "tcp".into(),
                protocol::UDP => "udp".into(),
                other => format!("protocol {other}"),
            };
            (name, std::net::SocketAddr::new(net::ip(remote.addr), remote.port).to_string())
        }
    }
}
