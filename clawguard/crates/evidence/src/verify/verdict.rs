//! What is said of a bundle.

use std::collections::BTreeSet;

use claw::Hash;
use serde::Serialize;

use super::{fault::Fault, parts::Part};

pub use super::models::ModelTier;

/// How much a claim is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// It is signed by who has to sign it, and bound to this run. Where that is the agent's own key, the claim says so.
    Verified,
    /// The agent or its host says so, and nobody else.
    SelfReported,
    /// It follows from something else that was verified.
    Inferred,
    /// Nobody says anything.
    Absent,
}

impl Grade {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::SelfReported => "self-reported",
            Self::Inferred => "inferred",
            Self::Absent => "absent",
        }
    }
}

/// One thing that a bundle claims, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// What it is about: `model_calls`, `coverage`.
    pub about: &'static str,
    /// How much it is worth.
    pub grade: Grade,
    /// What is claimed, and by whom.
    pub says: String,
}

/// How far the evidence is to be trusted, as Claw counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustTier {
    /// The bundle is not valid.
    #[default]
    Unknown,
    /// The envelope only.
    Basic,
    /// An event chain, or receipts.
    Verified,
}

/// Who speaks for the run, as Claw counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofTier {
    /// The bundle is not valid.
    #[default]
    Unknown,
    /// The agent.
    #[serde(rename = "self")]
    Own,
    /// A gateway as well.
    Gateway,
    /// An attester as well.
    Sandbox,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the bundle is invalid; of a valid one there is none.
    pub fault: Option<Fault>,
    /// Its id.
    pub bundle_id: Option<String>,
    /// Whose it is.
    pub agent_did: Option<String>,
    /// The run that it is about.
    pub run_id: Option<String>,
    /// Its payload's hash, by which others refer to it.
    pub hash: Option<Hash>,
    /// The hash of its last event.
    pub last_event_hash_b64u: Option<String>,
    /// Which part of a job it says that it is.
    pub part: Option<Part>,
    /// How far it is to be trusted.
    pub trust_tier: TrustTier,
    /// Who speaks for it.
    pub proof_tier: ProofTier,
    /// How well its models are known.
    pub model_identity_tier: ModelTier,
    /// What an operator should know of, valid or not.
    pub risk_flags: BTreeSet<String>,
    /// What it claims, graded. Of an invalid one nothing is claimed.
    pub claims: Vec<Claim>,
}

impl Verdict {
    /// Whether it is valid.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.fault.is_none()
    }

    /// The claim about something.
    #[must_use]
    pub fn claim(&self, about: &str) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.about == about)
    }
}
