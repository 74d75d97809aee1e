//! Which jobs a record concerns, and what it is called as their event. The bodies are those that the daemon writes.

use std::{borrow::Cow, collections::BTreeSet};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::chain::Kind;

/// A record's event.
pub(super) struct Concern<'a> {
    pub(super) event_type: &'static str,
    pub(super) whom: Whom<'a>,
}

/// Whose event it is.
pub(super) enum Whom<'a> {
    /// Jobs that it names, whether they are over or not.
    Named(BTreeSet<Cow<'a, str>>),
    /// All jobs that are not over.
    Everybody,
    /// Those under an agent's contract.
    Under { agent: &'a str },
    /// Those under a contract.
    Contract { hash: &'a str },
    /// Those within scopes of the switch: `host`, `agent NAME`, `job ID`.
    Scopes(Vec<&'a str>),
}

/// Whether a scope of the switch has a job of an agent.
pub(super) fn names_agent(scope: &str, job: &str, agent: &str) -> bool {
    match scope.split_once(' ') {
        None => scope == "host",
        Some(("agent", name)) => name == agent,
        Some(("job", id)) => id == job,
        Some(_) => false,
    }
}

/// A record's body, as far as this has to know it.
pub(super) enum Body<'a> {
    JobStart(JobStart<'a>),
    JobEnd(JobEnd<'a>),
    Contract(Contract<'a>),
    Token(Token<'a>),
    Flip(Flip<'a>),
    FlipFailed(Flip<'a>),
    Call(Call<'a>),
    Model(Call<'a>),
    Approval(OfJob<'a>),
    Alert(OfJob<'a>),
    Decisions(Decisions<'a>),
    Pin,
    BreakGlass,
}

type Text<'a> = Cow<'a, str>;

#[derive(Deserialize)]
pub(super) struct JobStart<'a> {
    #[serde(borrow)]
    pub(super) job: Text<'a>,
    #[serde(borrow)]
    pub(super) agent: Text<'a>,
    #[serde(borrow, default)]
    pub(super) wpc_hash: Option<Text<'a>>,
    #[serde(default)]
    pub(super) own_contract: bool,
}

#[derive(Deserialize)]
pub(super) struct JobEnd<'a> {
    #[serde(borrow)]
    pub(super) job: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct Contract<'a> {
    #[serde(borrow, default)]
    pub(super) agent: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) wpc_hash: Option<Text<'a>>,
    #[serde(default)]
    expired: bool,
}

#[derive(Deserialize)]
pub(super) struct Token<'a> {
    #[serde(borrow, default)]
    job: Option<Text<'a>>,
    #[serde(borrow, default)]
    jobs: Vec<Text<'a>>,
    #[serde(borrow, default)]
    observed: Vec<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Flip<'a> {
    #[serde(borrow, default)]
    flip: Option<Change<'a>>,
    #[serde(borrow, default)]
    adopted: Vec<Adopted<'a>>,
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    group: Text<'a>,
    #[serde(borrow)]
    state: Text<'a>,
    #[serde(borrow)]
    whose: Text<'a>,
}

#[derive(Deserialize)]
struct Adopted<'a> {
    #[serde(borrow)]
    whose: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow, default)]
    job: Text<'a>,
    #[serde(borrow, default)]
    decision: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct OfJob<'a> {
    #[serde(borrow, default)]
    job: Option<Text<'a>>,
    #[serde(borrow, default)]
    alert: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Decisions<'a> {
    #[serde(borrow)]
    decisions: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    job: Text<'a>,
}

impl<'a> Body<'a> {
    /// Of a record's text. Kinds that are about no job, and bodies of a shape that is not known here, have none.
    pub(super) fn read(kind: Kind, text: &'a str) -> Option<Self> {
        fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
            serde_json::from_str(text).ok()
        }
        match kind {
            Kind::JobStart => read(text).map(Self::JobStart),
            Kind::JobEnd => read(text).map(Self::JobEnd),
            Kind::Contract => read(text).map(Self::Contract),
            Kind::Token => read(text).map(Self::Token),
            Kind::Flip => read(text).map(Self::Flip),
            Kind::FlipFailed => read(text).map(Self::FlipFailed),
            Kind::Call => read(text).map(Self::Call),
            Kind::Model => read(text).map(Self::Model),
            Kind::Approval => read(text).map(Self::Approval),
            Kind::Alert => read(text).map(Self::Alert),
            Kind::Decisions => read(text).map(Self::Decisions),
            Kind::Pin => read::<IgnoredAny>(text).map(|_| Self::Pin),
            Kind::BreakGlass => read::<IgnoredAny>(text).map(|_| Self::BreakGlass),
            // A drill's own flips are records of their own. What was counted of a job goes into its attestation.
            Kind::Start
            | Kind::Stop
            | Kind::Checkpoint
            | Kind::Torn
            | Kind::Configuration
            | Kind::Drill
            | Kind::Coverage => None,
        }
    }

    pub(super) fn concern(&self) -> Option<Concern<'_>> {
        let all = |event_type| Some(Concern { event_type, whom: Whom::Everybody });
        match self {
            Self::JobStart(start) => one("run_start", &start.job),
            Self::JobEnd(end) => one("run_end", &end.job),
            Self::Contract(Contract { wpc_hash: Some(hash), expired: true, .. }) => {
                Some(Concern { event_type: "policy_expired", whom: Whom::Contract { hash } })
            }
            // One that was refused is nobody's.
            Self::Contract(Contract { agent: Some(agent), wpc_hash: Some(_), .. }) => {
                Some(Concern { event_type: "policy_in_force", whom: Whom::Under { agent } })
            }
            Self::Contract(_) => None,
            Self::Token(Token { job, jobs, observed }) => {
                let jobs: BTreeSet<Text<'_>> = job.iter().chain(jobs).chain(observed).cloned().collect();
                Some(Concern { event_type: "token", whom: Whom::Named(jobs) })
            }
            Self::Flip(flip) => flip.concern(),
            Self::FlipFailed(flip) => Some(Concern { event_type: "flip_unproven", ..flip.concern()? }),
            Self::Call(call) => one(
                match call.decision.as_deref()? {
                    "allowed" => "tool_call",
                    "held" => "tool_held",
                    "denied" => "tool_denied",
                    _ => return None,
                },
                &call.job,
            ),
            Self::Model(call) => one(
                match call.decision.as_deref() {
                    Some("allowed") => "llm_call",
                    Some(_) => "llm_denied",
                    None => "llm_result",
                },
                &call.job,
            ),
            Self::Approval(approval) => one("approval", approval.job.as_deref()?),
            Self::Alert(OfJob { job: Some(job), .. }) => one("bypass_alert", job),
            // Of the host: that records were lost, that the gateway had to be killed.
            Self::Alert(OfJob { alert: Some(_), .. }) => all("host_alert"),
            Self::Alert(_) => None,
            Self::Decisions(Decisions { decisions }) => {
                let jobs = decisions.iter().filter_map(|entry| owner(entry)).collect();
                Some(Concern { event_type: "egress_decisions", whom: Whom::Named(jobs) })
            }
            Self::Pin => all("tool_pin"),
            Self::BreakGlass => all("fence_removed"),
        }
    }

    /// The payload of a job's event, where that is not the whole body.
    pub(super) fn payload_of(&self, job: &str) -> Option<String> {
        let Self::Decisions(Decisions { decisions }) = self else { return None };
        let mut text = String::from("{\"decisions\":[");
        for entry in decisions.iter().filter(|entry| owner(entry).is_some_and(|owner| owner == job)) {
            if !text.ends_with('[') {
                text.push(',');
            }
            text.push_str(entry.get());
        }
        text.push_str("]}");
        Some(text)
    }
}

/// Of one job.
fn one<'a>(event_type: &'static str, job: &'a str) -> Option<Concern<'a>> {
    // A call of which nobody knows whose it was has an empty name.
    (!job.is_empty()).then(|| Concern { event_type, whom: Whom::Named(BTreeSet::from([Cow::Borrowed(job)])) })
}

fn owner(entry: &RawValue) -> Option<Text<'_>> {
    serde_json::from_str::<Entry<'_>>(entry.get()).ok().map(|entry| entry.job)
}

impl Flip<'_> {
    fn concern(&self) -> Option<Concern<'_>> {
        if let Some(change) = &self.flip {
            let event_type = match (&*change.group, &*change.state) {
                ("mode", _) => "mode_changed",
                (_, "killed") => "tool_group_killed",
                _ => "tool_group_restored",
            };
            return Some(Concern { event_type, whom: Whom::Scopes(vec![&change.whose]) });
        }
        let scopes: Vec<&str> = self.adopted.iter().map(|adopted| &*adopted.whose).collect();
        Some(Concern { event_type: "tool_group_killed", whom: Whom::Scopes(scopes) })
    }
}
