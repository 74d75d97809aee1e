//! What becomes of a call: one function, which every path of the gateway asks.

use std::{collections::BTreeSet, fmt};

use policy::{
    group::{Class, Risk},
    tool::{Judgement, ToolReason, ToolVerdict},
};

/// What the contract says of a call, kept for the next one like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What the contract says.
    pub verdict: ToolVerdict,
    /// The tool's risk.
    pub risk: Risk,
    /// The tool's class.
    pub class: Class,
    /// While any of them is killed, no call is made.
    pub groups: Vec<Box<str>>,
    /// Where in the contract the line stands that decided.
    pub rule: Option<Box<str>>,
}

impl From<Judgement<'_>> for Judged {
    fn from(judgement: Judgement<'_>) -> Self {
        Self {
            verdict: judgement.verdict,
            risk: judgement.risk,
            class: judgement.class,
            groups: judgement.groups.iter().map(|group| group.as_str().into()).collect(),
            rule: judgement.rule.map(Into::into),
        }
    }
}

impl Judged {
    /// Whether one of its groups is killed, for the host or for the job.
    #[must_use]
    pub fn killed(&self, killed: [&BTreeSet<String>; 2]) -> Option<&str> {
        if killed.iter().all(|groups| groups.is_empty()) {
            return None;
        }
        self.groups.iter().map(AsRef::as_ref).find(|group: &&str| killed.iter().any(|killed| killed.contains(*group)))
    }
}

/// The definition under which a tool is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defined {
    /// The one that was accepted.
    Accepted,
    /// Nobody accepted any yet.
    New,
    /// Another one was accepted, or the server is another than the one that was.
    Changed,
    /// Its name cannot be told apart from another one's.
    Ambiguous,
    /// The server has no tool of this name.
    Unseen,
    /// What is asked for is no tool.
    None,
}

/// A limit that a job has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Calls a minute.
    Rate,
    /// Calls under way.
    Concurrency,
}

/// How far a person has decided on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Approval {
    /// Nobody was asked.
    Unasked,
    /// Somebody agreed, to exactly this call.
    Given,
    /// Nobody answered yet.
    Pending,
    /// Somebody refused.
    Refused,
    /// Nobody can be asked.
    Impossible,
}

/// All that a decision rests on, beside the contract.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Whether what is granted can be recorded.
    pub recordable: bool,
    /// Whether the job may call anything: it has a contract, in force, and the token that this demands.
    pub in_force: bool,
    /// Whether the token that the request carries, if any, is the job's.
    pub token_fits: bool,
    /// Groups that are killed: for the host, and for the job and its agent.
    pub killed: [&'a BTreeSet<String>; 2],
    /// The definition under which the tool is called.
    pub defined: Defined,
    /// Whether the arguments carry what the contract denies.
    pub data: bool,
    /// The limit that is reached, if one is.
    pub limit: Option<Limit>,
    /// How far a person has decided.
    pub approval: Approval,
    /// Whether what the contract denies passes all the same.
    pub observe: bool,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It is made, because the agent is only watched; enforced, it would have been refused.
    Observe(Reason),
    /// A person has to be asked first.
    Hold,
    /// It is not made.
    Deny(Reason),
}

/// Why a call is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// What is granted could not be recorded.
    Unrecordable,
    /// The job has no contract in force, or not the token that it demands.
    NotInForce,
    /// The request carries another token than the job's.
    Token,
    /// One of its groups is killed.
    Killed,
    /// What the contract says.
    Contract(ToolReason),
    /// The server has no such tool.
    ToolUnseen,
    /// Its name cannot be told apart from another one's.
    Ambiguous,
    /// Nobody accepted its definition.
    DefinitionNew,
    /// Its definition, or its server, is not the one that was accepted.
    DefinitionChanged,
    /// It carries data that the contract denies.
    Data,
    /// Too many calls a minute.
    Rate,
    /// Too many calls at once.
    Concurrency,
    /// A person has not decided yet.
    ApprovalPending,
    /// A person refused.
    ApprovalRefused,
    /// No person could be asked.
    ApprovalImpossible,
}

impl Reason {
    /// The word for it in records and answers. It stays.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unrecordable => "unrecordable",
            Self::NotInForce => "not_in_force",
            Self::Token => "token",
            Self::Killed => "killed",
            Self::Contract(reason) => reason.label(),
            Self::ToolUnseen => "tool_unseen",
            Self::Ambiguous => "ambiguous_name",
            Self::DefinitionNew => "definition_new",
            Self::DefinitionChanged => "definition_changed",
            Self::Data => "data_class",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::ApprovalPending => "approval_pending",
            Self::ApprovalRefused => "approval_refused",
            Self::ApprovalImpossible => "approval_impossible",
        }
    }

    /// The same for whoever called: a model reads it, so it says what would help and nothing of the host.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Unrecordable => "the host cannot record calls now, so none is made; try again later",
            Self::NotInForce => "no contract is in force for this job",
            Self::Token => "the token of this request is not this job's",
            Self::Killed => "an operator has switched this off; do not try again until it is given back",
            Self::Contract(reason) => reason.sentence(),
            Self::ToolUnseen => "the server has no such tool",
            Self::Ambiguous => "its name cannot be told apart from that of another tool of the server",
            Self::DefinitionNew => "its definition waits for an operator to accept it",
            Self::DefinitionChanged => {
                "its definition is not the one that was accepted; an operator has to accept the new one"
            }
            Self::Data => "its arguments carry data that the contract denies",
            Self::Rate => "this job calls too often; try again in a minute",
            Self::Concurrency => "this job has too many calls under way; try again when one has ended",
            Self::ApprovalPending => "it waits for a person's approval; repeat exactly the same call once it is given",
            Self::ApprovalRefused => "a person refused it",
            Self::ApprovalImpossible => "it needs a person's approval, and no more can be asked for now",
        }
    }

    /// Whether the answer hides that there is such a tool. What is hidden is not in lists either.
    #[must_use]
    pub const fn hides(self) -> bool {
        matches!(
            self,
            Self::Contract(_) | Self::ToolUnseen | Self::Ambiguous | Self::DefinitionNew | Self::DefinitionChanged
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Decides on a call. Whatever is not known to be good denies; a kill holds whatever else is true.
///
/// What can be said without a person is said first, so that nobody is asked about a call that would not be made anyway.
#[must_use]
pub fn decide(judged: &Judged, facts: &Facts<'_>) -> Verdict {
    if !facts.token_fits {
        return Verdict::Deny(Reason::Token);
    }
    if !facts.in_force && !facts.observe {
        return Verdict::Deny(Reason::NotInForce);
    }
    if judged.killed(facts.killed).is_some() {
        // What the contract hides stays hidden.
        return Verdict::Deny(match judged.verdict {
            ToolVerdict::Deny(reason) if !facts.observe => Reason::Contract(reason),
            _ => Reason::Killed,
        });
    }
    let contracts = match judged.verdict {
        ToolVerdict::Deny(reason) => Some(Reason::Contract(reason)),
        _ => None,
    };
    let hosts = defined(facts.defined).or(facts.limit.map(limited));
    let data = facts.data.then_some(Reason::Data);
    // What the contract says is only watched where the agent is; what the host says holds.
    let (denied, watched) =
        if facts.observe { (hosts, contracts.or(data)) } else { (contracts.or(hosts).or(data), None) };
    if let Some(reason) = denied {
        return Verdict::Deny(reason);
    }
    if !facts.recordable {
        return Verdict::Deny(Reason::Unrecordable);
    }
    if let Some(reason) = watched {
        return Verdict::Observe(reason);
    }
    match (judged.verdict, facts.approval) {
        (ToolVerdict::Hold, Approval::Unasked) if facts.observe => Verdict::Observe(Reason::ApprovalPending),
        (ToolVerdict::Hold, Approval::Unasked) => Verdict::Hold,
        (ToolVerdict::Hold, Approval::Pending) => Verdict::Deny(Reason::ApprovalPending),
        (ToolVerdict::Hold, Approval::Refused) => Verdict::Deny(Reason::ApprovalRefused),
        (ToolVerdict::Hold, Approval::Impossible) => Verdict::Deny(Reason::ApprovalImpossible),
        (ToolVerdict::Hold, Approval::Given) | (ToolVerdict::Allow, _) => Verdict::Allow,
        (ToolVerdict::Deny(reason), _) => Verdict::Deny(Reason::Contract(reason)),
    }
}

fn defined(defined: Defined) -> Option<Reason> {
    match defined {
        Defined::Accepted | Defined::None => None,
        Defined::New => Some(Reason::DefinitionNew),
        Defined::Changed => Some(Reason::DefinitionChanged),
        Defined::Ambiguous => Some(Reason::Ambiguous),
        Defined::Unseen => Some(Reason::ToolUnseen),
    }
}

const fn limited(limit: Limit) -> Reason {
    match limit {
        Limit::Rate => Reason::Rate,
        Limit::Concurrency => Reason::Concurrency,
    }
}

/// Whether a tool is shown: whether a call of it could be made, now or once a person agrees.
#[must_use]
pub fn shown(judged: &Judged, facts: &Facts<'_>) -> bool {
    let facts = Facts { limit: None, data: false, approval: Approval::Unasked, recordable: true, ..*facts };
    !matches!(decide(judged, &facts), Verdict::Deny(_))
}

#[cfg(test)]
mod tests;
