//! The typed channel between the daemon and the unprivileged gateway: one JSON value a line, each way. The gateway asks, the
//! daemon answers; answers may come in another order than the questions.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    calls::{Called, Definition, Held, Pin, Rules, Spawned, Standing as Approval},
    model::{ModelCall, ModelConnections, ModelEnd, ModelGrant, Receipt},
};

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
    /// The DNS guard listens at this port.
    Guard {
        /// Of UDP and of TCP.
        port: u16,
    },
    /// Which job asks from a port of `::1`.
    Caller {
        /// The port.
        port: u16,
        /// UDP instead of TCP.
        udp: bool,
    },
    /// Whether a job may know a name.
    Name {
        /// Slot of the job, as the kernel told it.
        job: u32,
        /// In lower case, without the root's dot.
        name: String,
        /// What is asked for: the record's type (RFC 1035 section 3.2.2).
        kind: u16,
    },
    /// What the resolvers answered to a job's question. The addresses may be told once this is answered with [`Named::Open`].
    Learn {
        /// Slot of the job, as the kernel told it.
        job: u32,
        /// Number of the job for which resolvers were asked.
        key: u64,
        /// In lower case, without the root's dot.
        name: String,
        /// All that belong to it, by whatever aliases.
        addresses: Vec<IpAddr>,
        /// How long they are good, as the resolvers say.
        ttl_seconds: u32,
    },
    /// The MCP gateway listens at this TCP port.
    Tools {
        /// Of every IPv4 address.
        port: u16,
    },
    /// The rules in force, once they are others than those of this number; the answer may take a while.
    Rules {
        /// Of the rules that the gateway has; 0 for none.
        seen: u64,
    },
    /// The gateway keeps to the rules of this number.
    Kept {
        /// The number.
        serial: u64,
        /// How many calls under way were ended for it.
        cancelled: u64,
    },
    /// Which job has a slot now.
    Job {
        /// The slot.
        slot: u32,
    },
    /// A contract's payload.
    Contract {
        /// Its hash.
        hash: String,
    },
    /// Calls, for the record. Not answered if all of them only begin.
    Calls(Vec<Called>),
    /// A way for calls that begin, each [`Called::Begun`] a packet: the daemon reads it before it takes [`Ask::Calls`], and when the
    /// channel ends, so that nobody has to wake for a beginning. To be asked once.
    Beginnings,
    /// A person's word on a call: one that was given is used up by the answer.
    Approval(Box<Held>),
    /// Answered once a person decided, or the approval ended.
    Decided {
        /// Of the approval.
        id: String,
    },
    /// How definitions stand that a server gives.
    Pins {
        /// The server's name.
        server: String,
        /// What it gives.
        definitions: Vec<Definition>,
    },
    /// Starts a stdio server for a job.
    Spawn {
        /// Slot of the job.
        slot: u32,
        /// Number of the job.
        key: u64,
        /// The server's name.
        server: String,
    },
    /// Ends a stdio server.
    Stop {
        /// Id of its own job.
        id: String,
    },
    /// The model gateway listens at this TCP port.
    Models {
        /// Of every IPv4 address.
        port: u16,
    },
    /// A model call that is about to be made, or is refused. Its record is written before this is answered.
    Model(Box<ModelCall>),
    /// A model call ended. Its receipt is on disk before this is answered.
    Receipt(Box<ModelEnd>),
    /// Connections for model calls, a job each: once a second for those of which there is news.
    Connected(Vec<ModelConnections>),
    /// A job asked for more than it may, or for what looks like a tunnel; for the record.
    Excess {
        /// Slot of the job, as the kernel told it.
        job: u32,
        /// The name that was too much, in lower case, without the root's dot.
        name: String,
        /// Why, in a few words.
        why: String,
        /// How many questions this stands for.
        count: u64,
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
        /// `[mcp] port`
        tools: u16,
        /// `[model] port`
        models: u16,
        /// For the DNS guard.
        names: Names,
    },
    /// What to fetch.
    Errands(Vec<Errand>),
    /// It was heard.
    Noted,
    /// The end to write to comes with this. What does not fit, or is longer than 4096 bytes, is asked with [`Ask::Calls`].
    Beginnings,
    /// What becomes of a name.
    Named(Named),
    /// Slot of the job that asks; `None` for nobody's question.
    Caller(Option<u32>),
    /// The rules in force.
    Rules(Box<Rules>),
    /// The job of a slot: its number, and the number of rules that have it. `None` for nobody's.
    Job(Option<(u64, u64)>),
    /// A contract's payload as JSON; `None` for one that is not in force.
    Contract(Option<String>),
    /// What was to be recorded is not: why. Nothing that rests on it may be answered.
    Unrecorded(String),
    /// How a held call stands.
    Approval(Approval),
    /// How each of the definitions stands, in their order.
    Pins(Vec<Pin>),
    /// A stdio server.
    Spawned(Spawned),
    /// A model call may be made.
    Model(Box<ModelGrant>),
    /// A model call's receipt.
    Receipt(Receipt),
}

/// What the DNS guard needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Who is asked, in this order.
    pub resolvers: Vec<std::net::SocketAddr>,
    /// How many questions a second a job may ask; it may ask four times as many at once.
    pub per_second: u32,
    /// How many names below a wildcard a job may ask for in a minute.
    pub new_names_per_minute: u32,
    /// The shortest that an answer is good, in seconds.
    pub ttl_floor_seconds: u32,
}

/// What becomes of a name that a job asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Named {
    /// The job may know it: the resolvers are to be asked, and their answer is to be learned.
    Resolve {
        /// Whether a wildcard allows it: then its labels could carry something out.
        wildcard: bool,
        /// Number of the job. A later one in the same slot has another.
        key: u64,
    },
    /// These addresses are open to the job, and may be told.
    Open {
        /// Those of them that the contract allows; none for a name that has none.
        addresses: Vec<IpAddr>,
        /// How long.
        ttl_seconds: u32,
    },
    /// The job may not know it. Recorded.
    Refused,
    /// It cannot be opened now.
    Failed,
    /// The slot is another job's by now: nothing that its predecessor learned is good for it.
    Stale,
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
