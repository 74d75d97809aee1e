//! What became of each line of a contract.

use serde::{Deserialize, Serialize};

/// How a field of a contract ends on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The kernel holds the agent to it.
    Kernel,
    /// The gateway holds the agent to it.
    Gateway,
    /// The daemon or `clawguard run` sees to it.
    Daemon,
    /// Meant for OpenClaw, whose configuration holds the agent to it; the fence holds whatever it starts.
    #[serde(rename = "openclaw")]
    OpenClaw,
    /// A grant that this host cannot honour, and so does not give.
    Denied,
    /// Neither grants nor restricts; it is written down.
    Recorded,
}

impl Outcome {
    /// The word for it in tables.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "enforced (kernel)",
            Self::Gateway => "enforced (gateway)",
            Self::Daemon => "enforced (daemon)",
            Self::OpenClaw => "for OpenClaw",
            Self::Denied => "denied",
            Self::Recorded => "recorded only",
        }
    }
}

/// One field's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where in the payload: `metadata.clawguard.v1.egress[2]`.
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, or how.
    pub note: String,
}
