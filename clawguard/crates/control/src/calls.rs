//! What daemon and gateway tell each other of MCP: the rules in force, calls for the record, approvals, pins, stdio servers.
//!
//! The gateway reads what agents and servers send. The daemon takes what comes of it as text that it keeps and compares, and never
//! parses; what it keeps of a text has a bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

/// What the gateway holds callers to. Always whole: what is not in it is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Raised with every change; 0 is never given out.
    pub serial: u64,
    /// Why nothing new may be granted now, if so: what is granted could not be recorded.
    pub closed: Option<String>,
    /// Groups that are killed for the host, those of its mode included, by name. That of a single tool is `tool:SERVER/TOOL` with
    /// its exact name, which is among the groups of which the policy says that a call belongs to them.
    pub killed: BTreeSet<String>,
    /// The jobs that are not over.
    pub jobs: Vec<JobRules>,
    /// `[[mcp.server]]`
    pub servers: Vec<ServerRules>,
    /// `[limits]`
    pub limits: CallLimits,
    /// How long a held call waits for a person before it is answered "pending", in seconds.
    pub approval_wait_seconds: u64,
    /// Whether records have the arguments themselves beside their hash.
    pub record_arguments: bool,
    /// `[model]`
    pub model: crate::model::ModelRules,
}

/// A job, as far as the gateway has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRules {
    /// Slot of the job: the kernel tells it with every connection.
    pub slot: u32,
    /// Number of the job. A later one in the same slot has another.
    pub key: u64,
    /// Its id.
    pub job: String,
    /// Its agent.
    pub agent: String,
    /// Hash of the contract that it is under; asked for by [`Ask::Contract`](crate::channel::Ask::Contract).
    pub contract: Option<String>,
    /// Groups that are killed for the agent or the job.
    pub killed: BTreeSet<String>,
    /// Whether denials are only recorded. Kills hold all the same.
    pub observe: bool,
    /// Hash of the job's token, in lower-case hexadecimal.
    pub token: Option<String>,
    /// Why the job may call nothing, if so: a token that is demanded and not there, a contract that has expired.
    pub stopped: Option<String>,
}

/// A server of the host's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRules {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub upstream: Upstream,
    /// `low`, `medium` or `high`.
    pub risk: String,
    /// Name patterns of tools that change nothing.
    pub read: Vec<String>,
    /// Of tools that change what can be changed back.
    pub write: Vec<String>,
    /// Of tools that change something for good.
    pub irreversible: Vec<String>,
    /// Raised when an operator accepted or withdrew a definition: what the daemon said of pins before is to be asked anew.
    pub pins: u64,
}

/// The way to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Upstream {
    /// Over HTTP.
    Http {
        /// The endpoint.
        url: String,
        /// Its addresses, where the host fixes them; else its name is resolved.
        addresses: Vec<IpAddr>,
        /// The only certificates (PEM) by which it is trusted, instead of the platform's.
        ca: Option<String>,
        /// Headers of the host's own, credentials among them.
        headers: BTreeMap<String, String>,
        /// Whether it speaks HTTP+SSE of 2024-11-05 instead of streamable HTTP.
        sse: bool,
    },
    /// A process that the daemon starts.
    Stdio,
}

/// `[limits]`, per job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallLimits {
    /// Calls a minute.
    pub calls_per_minute: u32,
    /// Calls that are under way at once.
    pub concurrent_calls: u32,
    /// Sessions at once.
    pub sessions: u32,
    /// Bytes of one message, either way.
    pub message_bytes: u32,
    /// Seconds that one call may take, approval not included.
    pub call_seconds: u32,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self { calls_per_minute: 600, concurrent_calls: 64, sessions: 1024, message_bytes: 4 << 20, call_seconds: 300 }
    }
}

/// What became of a call, as far as the gateway decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was made.
    Allowed,
    /// It waits, or waited in vain, for a person.
    Held,
    /// It was not made.
    Denied,
}

impl Decision {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Held => "held",
            Self::Denied => "denied",
        }
    }
}

/// A call, as it was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The gateway's own number for it, never given twice by one process.
    pub number: u64,
    /// Slot of the job.
    pub slot: u32,
    /// Number of the job.
    pub key: u64,
    /// The gateway's name for the MCP session; empty where the era has none.
    pub session: String,
    /// What the client called its session, by its own word.
    pub reported: Option<String>,
    /// The server's name.
    pub server: String,
    /// `tools/call`, or another method of MCP.
    pub method: String,
    /// The tool's exact name, or what else is asked for (a URI, a prompt's name).
    pub tool: String,
    /// SHA-256 of the arguments' canonical JSON, base64url.
    pub arguments_hash: String,
    /// The arguments' canonical JSON, where the configuration asks for it.
    pub arguments: Option<String>,
    /// What was decided.
    pub decision: Decision,
    /// Why, in a word.
    pub reason: String,
    /// Where in the contract the line stands that decided.
    pub rule: Option<String>,
    /// The tool's risk.
    pub risk: String,
    /// The tool's class.
    pub class: String,
    /// Id of the approval that was asked for or used.
    pub approval: Option<String>,
    /// Hash of the contract.
    pub contract: String,
    /// Hash of the job's token.
    pub token: Option<String>,
    /// Hash of the tool's definition.
    pub definition: Option<String>,
    /// How many this stands for: more than one only for refusals that a limit added up.
    pub count: u64,
    /// Kind of a bypass alert that this is, if any: `tool_unseen`, `mcp_direct`.
    pub alert: Option<String>,
}

/// How a call that was made ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// [`Call::number`]
    pub number: u64,
    /// `ok`, `tool_error`, `error`, `cancelled`, `killed`, `timeout`, `input_required`, `blocked`, `unknown`.
    pub status: String,
    /// From the request to the answer's last byte, in microseconds.
    pub duration_us: u64,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// SHA-256 of the canonical JSON of the result that was given out, base64url; `None` where a call of a tool gave none, and for
    /// other calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_hash: Option<String>,
    /// Data classes that were found, by name, and how often.
    pub classes: BTreeMap<String, u64>,
}

/// Something of a call, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Called {
    /// It is being made. Its record is written when it ends, or when the gateway does.
    Begun(Box<Call>),
    /// It ended. Its record is written before this is answered.
    Ended(Ended),
    /// It was not made. Its record is written before this is answered.
    Refused(Box<Call>),
}

impl Called {
    /// Whether the daemon answers: somebody may wait for a record, but nobody for a beginning.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        !matches!(self, Self::Begun(_))
    }
}

/// A call that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The call.
    pub call: Box<Call>,
    /// The complete arguments as canonical JSON.
    pub arguments: String,
}

/// How a held call stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Standing {
    /// A person has to decide.
    Pending {
        /// Of the approval.
        id: String,
        /// When it ends, RFC 3339.
        expires_at: String,
    },
    /// A person agreed, and this call has used that up.
    Approved {
        /// Of the approval.
        id: String,
        /// Who agreed.
        by: String,
    },
    /// A person refused.
    Refused {
        /// Of the approval.
        id: String,
        /// The person's reason.
        reason: String,
    },
    /// Nobody may be asked: why.
    Impossible(String),
}

/// A tool's definition, as a server gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The tool's name; `""` for the server's own identity.
    pub name: String,
    /// SHA-256 of the canonical JSON, base64url.
    pub hash: String,
    /// The canonical JSON.
    pub text: String,
}

/// How a definition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// It is the one that was accepted.
    Accepted,
    /// Nobody accepted any of this name.
    New,
    /// Another one was accepted.
    Changed,
}

/// A stdio server that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Spawned {
    /// It runs. Two descriptors come with the line: the server's standard input, to write to, and its standard output, to read.
    Running {
        /// Id of the server's own job; by it the gateway has it stopped.
        id: String,
    },
    /// It was not started: why.
    Refused(String),
}
