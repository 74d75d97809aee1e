//! Attempts to go around: told, counted, and answered as the contract wants.

use claw::Hash;
use clawguard_common::{Reason, protocol};
use control::api::DecisionView;
use evidence::chain::Kind;
use fence::{AgentName, Decision, JobId, NameRefused};
use policy::{
    contract::OnBypass,
    name::HostName,
    names::{Suspect, model_port, suspect},
    special,
};
use serde_json::json;
use switch::Actor;
use sys::clock;

use crate::{
    core::Core,
    decisions::DNS,
    rules::Word,
    spoken::{Spoken, spoken},
};

/// What a name or a flow looks like, where nothing is known of it: a call of a model.
pub(crate) const MODEL: &str = "model";
/// A call of an MCP server.
pub(crate) const MCP: &str = "mcp";

/// A name that was refused to a job, by the DNS guard or on a flow.
pub(crate) struct NameDenied {
    pub(crate) job: JobId,
    pub(crate) agent: AgentName,
    pub(crate) wpc: Hash,
    pub(crate) name: String,
    pub(crate) reason: Reason,
    pub(crate) observed: bool,
    /// What it looks like, where nothing is known of it.
    pub(crate) suspected: Option<&'static str>,
    /// The type of the record that was asked for; 0 where its answer was the reason.
    pub(crate) asked: u16,
    /// Where its answer led.
    pub(crate) remote: Option<std::net::IpAddr>,
}

impl Core {
    /// The kind of bypass that a decision of the kernel's is, if it is one. Names on flows are told apart from this, one by one.
    fn kind(&self, decision: &Decision) -> Option<&'static str> {
        let remote = &decision.key.remote;
        let runtime = || remote.protocol == protocol::TCP && model_port(remote.port).is_some();
        // Under a contract that opens no range, a private one is an address like any other that it does not name.
        let near = || special::of(remote.addr).is_some();
        let server = || self.facts.servers_at(remote.addr, remote.port).next().is_some();
        let model = || remote.protocol == protocol::TCP && self.facts.is_model_place(remote.addr, remote.port);
        match decision.reason() {
            Reason::ModelDirect => Some("model_direct"),
            Reason::McpDirect => Some("mcp_direct"),
            Reason::RawSocket => Some("raw_socket"),
            Reason::ForeignSocket => Some("imported_socket"),
            Reason::Dns => Some("dns"),
            Reason::Quic => Some("quic"),
            // A model that runs on this host, or in its network.
            Reason::Loopback | Reason::SpecialRange if runtime() => Some("model_direct"),
            Reason::NotInContract if runtime() && near() => Some("model_direct"),
            Reason::Loopback | Reason::SpecialRange | Reason::NotInContract if model() => Some("model_direct"),
            Reason::Loopback | Reason::SpecialRange | Reason::NotInContract if server() => Some("mcp_direct"),
            _ => None,
        }
    }

    /// Counts attempts to go around, logs the first of each kind in an interval, and does what the contract wants then.
    pub(crate) fn alarm(&mut self, decision: &Decision, count: u64) {
        let Some(kind) = self.kind(decision) else { return };
        let Some(agent) = self.named(decision).agent else { return };
        self.counters.alert(&agent, kind, count);
        if count == 1 && decision.count.count == 1 {
            let mut view = self.view(decision);
            view.uid = decision.count.uid;
            self.sound(kind, &view, decision.count.cgroup);
            let hash = self.serials.get(&decision.key.serial).copied();
            if !decision.observed() {
                self.react(kind, &agent, hash);
            }
        }
    }

    /// Tells of an attempt, in the log and in the audit chain.
    fn sound(&mut self, kind: &str, view: &DecisionView, cgroup: u64) {
        tracing::warn!(
            kind,
            job = view.job,
            remote = view.remote,
            name = view.name,
            pid = view.pid,
            command = view.command,
            suspected = view.suspected,
            "bypass attempt"
        );
        let body = json!({ "kind": kind, "job": view.job, "agent": view.agent, "remote": view.remote, "name": view.name,
            "protocol": view.protocol, "pid": view.pid, "uid": view.uid, "command": view.command, "cgroup_id": cgroup,
            "wpc_hash": view.wpc_hash, "reason": view.reason, "verdict": view.verdict, "suspected": view.suspected });
        self.note(Kind::Alert, body);
    }

    /// A name that was refused when a job asked for it.
    pub(crate) fn name_denied(&mut self, denied: &NameDenied) {
        let at = Self::wall(clock::boot_ns());
        let mut view = DecisionView {
            id: 0,
            at: at.clone(),
            last_at: at,
            verdict: if denied.observed { "observed" } else { "denied" }.into(),
            reason: denied.reason.label().into(),
            count: 1,
            hook: DNS.into(),
            agent: denied.agent.to_string(),
            job: denied.job.to_string(),
            protocol: format!("dns type {}", denied.asked),
            remote: denied.remote.map_or_else(String::new, |address| address.to_string()),
            pid: 0,
            uid: 0,
            command: String::new(),
            wpc_hash: Some(denied.wpc.to_string()),
            rule: None,
            name: denied.name.clone(),
            suspected: denied.suspected.map(Into::into),
            sentence: String::new(),
        };
        view.sentence = self.sentence(&view, denied.reason, None);
        let kind = match (denied.reason, denied.suspected) {
            (Reason::ModelDirect, _) => Some("model_direct"),
            (Reason::McpDirect, _) | (_, Some(MCP)) => Some("mcp_direct"),
            (Reason::Dns, _) => Some("dns"),
            // An answer that leads where no name may.
            _ if denied.remote.is_some() => Some("dns"),
            _ => None,
        };
        if let Some(kind) = kind {
            self.counters.alert(&denied.agent, kind, 1);
            // Before it is known whether this is told: who makes up names enough to be told no more is answered all the same.
            if !denied.observed && denied.suspected.is_none() {
                self.react(kind, &denied.agent, Some(denied.wpc));
            }
        }
        if denied.observed {
            self.observed.asked(&denied.agent, &denied.job, &denied.name, denied.reason, 1);
        }
        let first = kind.is_some_and(|kind| self.recent.is_first(&denied.agent, kind));
        if !self.recent.is_news(&view) && !first {
            return;
        }
        self.deny_file(&view);
        self.follow(&view);
        self.recent.push_name(view.clone());
        let cgroup = self.jobs.get(&denied.job).map_or(0, |job| job.enrolled.cgroup);
        match (kind, denied.suspected) {
            (Some(kind), _) => self.sound(kind, &view, cgroup),
            (None, Some(suspected)) => {
                tracing::warn!(job = view.job, name = view.name, suspected, "a refused name looks like a way around");
            }
            (None, None) => {}
        }
    }

    /// A flow that was refused for the name that it called for, or for calling for none.
    pub(crate) fn flow_named(&mut self, refused: &NameRefused) {
        let decision = &refused.decision;
        self.observe_name(decision, &refused.name);
        let mut view = self.view(decision);
        view.name.clone_from(&refused.name);
        let name = refused.name.parse::<HostName>().ok();
        let what = name.and_then(|name| suspect(&name, &self.facts));
        let began = (decision.reason() == Reason::NotTls).then(|| spoken(&refused.began)).flatten();
        let (kind, suspected) = match (what, decision.reason(), began) {
            (Some(Suspect::Model), ..) | (_, Reason::ModelDirect, _) => ("model_direct", None),
            (Some(Suspect::Mcp), ..) | (_, Reason::McpDirect, _) => ("mcp_direct", None),
            (Some(Suspect::Resolver), ..) | (_, Reason::Dns, _) => ("dns", None),
            (Some(Suspect::LikelyMcp), ..) | (.., Some(Spoken::Mcp)) => ("mcp_direct", Some(MCP)),
            (.., Some(Spoken::Model)) => ("model_direct", Some(MODEL)),
            (Some(Suspect::LikelyModel), Reason::Ech, _) => ("ech", Some(MODEL)),
            (Some(Suspect::LikelyModel), ..) => ("sni_mismatch", Some(MODEL)),
            (_, Reason::Ech, _) => ("ech", None),
            (_, Reason::SniMismatch, _) => ("sni_mismatch", None),
            _ => ("no_sni", None),
        };
        view.suspected = suspected.map(Into::into);
        view.sentence = self.sentence(&view, decision.reason(), None);
        let named = self.named(decision);
        // First of all, so that whoever learns that the connection is ended finds it done.
        if let Some(agent) = &named.agent
            && !decision.observed()
            && suspected.is_none()
        {
            let hash = self.serials.get(&decision.key.serial).copied();
            self.react(kind, agent, hash);
        }
        let Some(agent) = named.agent else { return };
        self.counters.alert(&agent, kind, 1);
        let first = self.recent.is_first(&agent, kind);
        if !self.recent.is_news(&view) && !first {
            return;
        }
        self.deny_file(&view);
        self.follow(&view);
        self.recent.push_name(view.clone());
        let cgroup = named.job.and_then(|job| self.jobs.get(&job)).map_or(0, |job| job.enrolled.cgroup);
        self.sound(kind, &view, cgroup);
    }

    /// What the contract wants done when the agent tries another way to a model.
    fn react(&mut self, kind: &str, agent: &AgentName, hash: Option<Hash>) {
        if kind != "model_direct" {
            return;
        }
        let wanted = hash.and_then(|hash| self.contracts.get(&hash)).map(|contract| contract.on_bypass);
        let groups: &[&str] = match wanted {
            Some(OnBypass::ReadOnly) => &["class:write", "class:irreversible"],
            Some(OnBypass::Halt) => &["all"],
            Some(OnBypass::Alert) | None => return,
        };
        for group in groups {
            let whose = switch::Whose::Agent(agent.clone());
            let known = group.parse().is_ok_and(|group| self.switch.killed(&group, &whose).is_some());
            if known {
                continue;
            }
            let actor = Actor { channel: "on_bypass".into(), uid: None, pid: None, executable: None, cgroup: None };
            let body = control::api::FlipBody {
                reason: "the agent tried another way to a model".into(),
                agent: Some(agent.to_string()),
                job: None,
            };
            // Nobody waits for the gateway here: the beat looks whether it keeps to it.
            let effect = self.kill(group, &body, actor, std::time::Instant::now());
            match effect.and_then(|effect| self.conclude(effect, Word::Nobody)) {
                Ok((_, ticket)) => drop(ticket),
                Err(error) => {
                    tracing::error!(%agent, group, message = error.message, "on_bypass could not be carried out");
                }
            }
        }
    }
}
