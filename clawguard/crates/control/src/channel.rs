//! The typed channel between the daemon and the unprivileged gateway: one JSON value a line, each way. The gateway asks, the
//! daemon answers; answers may come in another order than the questions.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What the gateway sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Stands in the answer too.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What the daemon sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The question's.
    pub id: u64,
    /// The answer.
    pub told: Told,
}

/// What the gateway may ask. It can neither change nor learn anything that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// The metrics, as Prometheus text.
    Metrics,
    /// Where to listen.
    Settings,
    /// What to fetch; the answer may take a while.
    Errands,
    /// What became of an errand.
    Done {
        /// The errand's.
        errand: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Tokens that a registry just told to be revoked, by hash.
    Revoked {
        /// Hexadecimal hashes.
        tokens: Vec<String>,
    },
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Told {
    /// The metrics, as Prometheus text.
    Metrics(String),
    /// Where to listen.
    Settings {
        /// `[metrics] listen`
        metrics: std::net::SocketAddr,
    },
    /// What to fetch.
    Errands(Vec<Errand>),
    /// It was heard.
    Noted,
}

/// Something to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errand {
    /// Its number.
    pub id: u64,
    /// From where.
    pub from: Source,
    /// What.
    pub what: What,
}

/// A registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its URL without a slash at the end.
    pub base: String,
    /// Its addresses, where the host fixes them; else its name is resolved.
    pub addresses: Vec<IpAddr>,
    /// The only certificates (PEM) by which it is trusted, instead of the platform's.
    pub ca: Option<String>,
    /// What proves that this host may ask for what is not public.
    pub bearer: Option<String>,
}

/// What there is to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// Whether the registry answers at all.
    Health,
    /// A contract's envelope, by hash.
    Contract {
        /// Its hash.
        hash: String,
    },
    /// The key set of a token issuer.
    Keys,
    /// How a token stands.
    Token {
        /// The token itself.
        token: String,
        /// Who binds it, where the registry keeps such bindings: a token bound by another is a replayed one. Empty for one
        /// that is bound already.
        binder: String,
    },
    /// Revocations as they happen, until the stream ends.
    Revocations,
}

/// What became of an errand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// The registry answers.
    Healthy,
    /// An envelope, as it came. Nothing of it was judged.
    Contract(String),
    /// A key set, as it came. Nothing of it was judged.
    Keys(String),
    /// How a token stands.
    Token(Standing),
    /// The stream ended.
    Ended,
    /// Nothing came that could be used.
    Failed(String),
}

/// How a token stands at its issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Standing {
    /// It is good.
    Active,
    /// It was revoked.
    Revoked,
    /// Another host, or another job, has it.
    BoundElsewhere,
    /// The issuer does not take it, for this reason.
    Refused(String),
}

/// The longest line either side takes.
pub const LONGEST: usize = 24 << 20;
/// The largest envelope that is fetched, in bytes.
pub const LARGEST_CONTRACT: usize = 8 << 20;
