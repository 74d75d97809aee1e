//! What was let through last before a kill, and what was refused first because of it.
//!
//! A kill holds from the moment at which the kernel's map was written, which its record names: a little before the record itself. The
//! kernel's decisions come by interval, with the first time and the last one of each kind.

use std::collections::BTreeMap;

use claw::time::Instant;
use serde::{Deserialize, Serialize, Serializer};

use crate::{chain::Kind, events::Told};

/// Something that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// When.
    #[serde(serialize_with = "rfc3339")]
    pub at: Instant,
    /// Whose it was.
    pub job: String,
    /// What: where it went, or what was called.
    pub what: String,
    /// Why, in the records' word for it.
    pub reason: String,
    /// The number of the record that has it.
    pub record: u64,
}

/// A kill, or a mode that takes something away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Around {
    /// The number of its record.
    pub record: u64,
    /// Since when it held.
    #[serde(serialize_with = "rfc3339")]
    pub at: Instant,
    /// The group, or `mode`.
    pub group: String,
    /// `killed`, or the mode.
    pub state: String,
    /// `host`, `agent NAME` or `job ID`.
    pub whose: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// What was let through last before it.
    pub last_allowed: Option<Seen>,
    /// What was refused first because of it.
    pub first_blocked: Option<Seen>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's own form")]
fn rfc3339<S: Serializer>(at: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.format())
}

#[derive(Deserialize)]
struct Flip {
    flip: Change,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Change {
    group: String,
    state: String,
    whose: String,
    #[serde(default)]
    effective_ns: u64,
    #[serde(default)]
    total_ns: u64,
}

#[derive(Deserialize)]
struct Start {
    job: String,
    agent: String,
}

#[derive(Deserialize)]
struct Decisions {
    decisions: Vec<Decision>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Decision {
    agent: String,
    job: String,
    verdict: String,
    reason: String,
    protocol: String,
    remote: String,
    name: String,
    first: String,
    last: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Call {
    agent: String,
    job: String,
    decision: String,
    reason: String,
    server: String,
    method: String,
    tool: String,
    provider: String,
    model: String,
}

/// Reads the audit chain for kills.
#[derive(Debug, Default)]
pub struct Kills {
    /// The only job that counts.
    job: Option<String>,
    /// What was let through last, by job.
    latest: BTreeMap<String, Seen>,
    agents: BTreeMap<String, String>,
    found: Vec<Around>,
}

impl Kills {
    /// Of everybody, or around one job.
    #[must_use]
    pub fn new(job: Option<String>) -> Self {
        Self { job, ..Self::default() }
    }

    /// Takes the next record.
    pub fn take(&mut self, told: &Told<'_>) {
        match told.kind {
            Kind::JobStart => {
                if let Ok(start) = serde_json::from_str::<Start>(told.body) {
                    self.agents.insert(start.job, start.agent);
                }
            }
            Kind::Flip | Kind::FlipFailed => self.flip(told),
            Kind::Decisions => {
                let decisions = serde_json::from_str::<Decisions>(told.body).map(|body| body.decisions);
                for decision in decisions.unwrap_or_default() {
                    self.decision(told.seq, &decision);
                }
            }
            Kind::Call | Kind::Model => {
                if let Ok(call) = serde_json::from_str::<Call>(told.body) {
                    self.call(told, &call);
                }
            }
            _ => {}
        }
    }

    /// The kills, in their order.
    #[must_use]
    pub fn finish(self) -> Vec<Around> {
        self.found
    }

    fn flip(&mut self, told: &Told<'_>) {
        let Ok(Flip { flip, reason }) = serde_json::from_str::<Flip>(told.body) else { return };
        let takes = flip.state == "killed" || (flip.group == "mode" && flip.state != "normal");
        let concerns = self
            .job
            .as_ref()
            .is_none_or(|job| within(&flip.whose, job, self.agents.get(job).map(String::as_str).unwrap_or_default()));
        if !takes || !concerns {
            return;
        }
        // The record is written once everything is proven.
        let at = Instant(told.at.0.saturating_sub(flip.total_ns.saturating_sub(flip.effective_ns)));
        let agents = &self.agents;
        let in_scope = |seen: &&Seen| {
            let agent = agents.get(&seen.job).map(String::as_str).unwrap_or_default();
            within(&flip.whose, &seen.job, agent) && seen.at <= at
        };
        let last_allowed = self.latest.values().filter(in_scope).max_by_key(|seen| seen.at).cloned();
        self.found.push(Around {
            record: told.seq,
            at,
            group: flip.group,
            state: flip.state,
            whose: flip.whose,
            reason,
            last_allowed,
            first_blocked: None,
        });
    }

    fn decision(&mut self, record: u64, decision: &Decision) {
        let times = (Instant::parse(&decision.first), Instant::parse(&decision.last));
        let (Some(first), Some(last)) = times else { return };
        let name = if decision.name.is_empty() { String::new() } else { format!(" ({})", decision.name) };
        let what = format!("{} {}{name}", decision.protocol, decision.remote);
        let seen =
            |at| Seen { at, job: decision.job.clone(), what: what.clone(), reason: decision.reason.clone(), record };
        match decision.verdict.as_str() {
            "allowed" => self.allowed(&decision.agent, &[seen(first), seen(last)]),
            _ if decision.reason == "killed" => self.blocked(&decision.agent, &seen(first)),
            _ => {}
        }
    }

    fn call(&mut self, told: &Told<'_>, call: &Call) {
        let what = match told.kind {
            Kind::Model => format!("model {}/{}", call.provider, call.model),
            _ => format!("{} {}/{}", call.method, call.server, call.tool),
        };
        let seen = Seen { at: told.at, job: call.job.clone(), what, reason: call.reason.clone(), record: told.seq };
        match call.decision.as_str() {
            "allowed" => self.allowed(&call.agent, &[seen]),
            _ if call.reason == "killed" => self.blocked(&call.agent, &seen),
            _ => {}
        }
    }

    fn concerns(&self, job: &str) -> bool {
        self.job.as_ref().is_none_or(|own| own == job)
    }

    fn allowed(&mut self, agent: &str, times: &[Seen]) {
        for seen in times.iter().filter(|seen| self.concerns(&seen.job)).cloned().collect::<Vec<_>>() {
            // An interval's record comes after kills that lie in the interval.
            for around in self.found.iter_mut().rev().take(MOST_OPEN) {
                let later = around.last_allowed.as_ref().is_none_or(|last| last.at < seen.at);
                if seen.at <= around.at && later && within(&around.whose, &seen.job, agent) {
                    around.last_allowed = Some(seen.clone());
                }
            }
            let latest = self.latest.entry(seen.job.clone()).or_insert_with(|| seen.clone());
            if latest.at <= seen.at {
                *latest = seen;
            }
        }
    }

    fn blocked(&mut self, agent: &str, seen: &Seen) {
        if !self.concerns(&seen.job) {
            return;
        }
        for around in self.found.iter_mut().rev().take(MOST_OPEN) {
            let earlier = around.first_blocked.as_ref().is_none_or(|first| seen.at < first.at);
            if around.at <= seen.at && earlier && within(&around.whose, &seen.job, agent) {
                around.first_blocked = Some(seen.clone());
            }
        }
    }
}

/// The last kills to which a decision is compared.
const MOST_OPEN: usize = 64;

/// Whether a scope of the switch has a job of an agent.
fn within(scope: &str, job: &str, agent: &str) -> bool {
    match scope.split_once(' ') {
        None => scope == "host",
        Some(("agent", name)) => name == agent,
        Some(("job", id)) => id == job,
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(1_700_000_000_000_000_000 + seconds * 1_000_000_000)
    }

    fn read(job: Option<&str>, records: &[(Kind, u64, Value)]) -> Vec<Around> {
        let mut kills = Kills::new(job.map(Into::into));
        for (seq, (kind, seconds, body)) in records.iter().enumerate() {
            let body = body.to_string();
            kills.take(&Told { seq: seq as u64, at: at(*seconds), kind: *kind, body: &body });
        }
        kills.finish()
    }

    fn decided(job: &str, verdict: &str, reason: &str, first: u64, last: u64) -> Value {
        json!({ "decisions": [{ "agent": "a", "job": job, "verdict": verdict, "reason": reason, "protocol": "tcp",
            "remote": "203.0.113.10:443", "name": "crm.example", "first": at(first).format(), "last": at(last).format() }] })
    }

    fn kill(whose: &str) -> Value {
        json!({ "flip": { "group": "crm", "state": "killed", "whose": whose, "effective_ns": 1, "total_ns": 2_000_000_001_u64 },
            "reason": "test" })
    }

    #[test]
    fn the_last_that_passed_and_the_first_that_did_not_stand_around_the_moment_in_which_the_map_was_written() {
        let start = |job: &str| json!({ "job": job, "agent": "a" });
        let records = [
            (Kind::JobStart, 0, start("j")),
            (Kind::JobStart, 0, start("k")),
            (
                Kind::Call,
                5,
                json!({ "agent": "a", "job": "j", "decision": "allowed", "reason": "allowed", "method": "tools/call",
                "server": "crm-mcp", "tool": "get_case" }),
            ),
            // Written at 20, in force at 18.
            (Kind::Flip, 20, kill("job j")),
            (Kind::Decisions, 30, decided("j", "allowed", "allowed", 10, 17)),
            (Kind::Decisions, 30, decided("k", "allowed", "allowed", 10, 18)),
            (Kind::Decisions, 30, decided("j", "denied", "killed", 19, 25)),
            (Kind::Call, 31, json!({ "agent": "a", "job": "j", "decision": "denied", "reason": "killed" })),
            (Kind::Decisions, 32, decided("k", "denied", "not_in_contract", 18, 18)),
        ];
        for job in [None, Some("j")] {
            let found = read(job, &records);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].at, at(18));
            assert_eq!(found[0].last_allowed.as_ref().unwrap().at, at(17));
            let first = found[0].first_blocked.as_ref().unwrap();
            assert_eq!((first.at, first.what.as_str()), (at(19), "tcp 203.0.113.10:443 (crm.example)"));
        }
        assert!(read(Some("k"), &records).is_empty());
    }

    #[test]
    fn what_is_given_back_is_no_kill_and_a_mode_is_one() {
        let flip = |group: &str, state: &str| {
            (Kind::Flip, 1, json!({ "flip": { "group": group, "state": state, "whose": "host" }, "reason": "" }))
        };
        let found = read(None, &[flip("crm", "live"), flip("mode", "normal"), flip("mode", "lockdown")]);
        assert_eq!(found.iter().map(|around| around.state.as_str()).collect::<Vec<_>>(), ["lockdown"]);
    }
}
