//! What the API's bodies look like.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

mod evidence;
mod mcp;

pub use evidence::{EvidenceAnswer, EvidenceFile, EvidenceTrust};
pub use mcp::{All, ApprovalBody, ApprovalView, McpView, Names, PinBody, PinView, ServerPins, ServerView};

/// An error, in the one shape that all of them have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs: see [`Code`].
    pub code: Code,
    /// For people: what failed, for what.
    pub message: String,
    /// For people: what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// For programs, where the code leaves it open: why a token is refused, in clawscope's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl ErrorDetail {
    /// An error without a cause of its own.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into(), cause: None }
    }
}

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request makes no sense.
    BadRequest,
    /// The caller may not.
    Forbidden,
    /// What is asked about does not exist.
    NotFound,
    /// It exists already, or is in the way.
    Conflict,
    /// The contract is refused.
    ContractRefused,
    /// The job's token is refused; the cause says why.
    TokenRefused,
    /// The daemon cannot give what is asked: no room, no disk.
    Unavailable,
    /// What was asked for happened, but was not proven.
    Unproven,
    /// A fault of the daemon's.
    Internal,
}

impl Code {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden | Self::TokenRefused => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::ContractRefused => 422,
            Self::Unavailable => 503,
            Self::Unproven | Self::Internal => 500,
        }
    }
}

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Version of the kernel programs' ABI.
    pub abi: u32,
    /// When the daemon started (RFC 3339).
    pub started_at: String,
    /// The host's key, by which the audit chain is signed.
    pub host_did: String,
    /// Each hook, and whether its self-test passed.
    pub hooks: BTreeMap<String, bool>,
    /// The mode in force.
    pub mode: String,
    /// What is killed by name.
    pub kills: Vec<KillView>,
    /// The agents that are known.
    pub agents: Vec<AgentView>,
    /// The jobs that are not gone yet.
    pub jobs: Vec<JobView>,
    /// Records that did not fit, by source.
    pub lost: BTreeMap<String, u64>,
    /// How full the kernel's tables are: entries and room.
    pub maps: BTreeMap<String, (u64, u64)>,
    /// The registries that the configuration names.
    pub registries: Vec<RegistryView>,
    /// MCP servers and what waits for a person.
    #[serde(default)]
    pub mcp: McpView,
    /// The way to models.
    #[serde(default)]
    pub model: ModelView,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// What `GET /v1/status` says of the way to models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelView {
    /// Who makes model calls: `none`, `builtin`, or the URL of a clawproxy.
    pub gateway: String,
    /// The port of loopback at which agents find it.
    pub port: u16,
    /// Whether agents are sent there: a gateway listens.
    pub listening: bool,
    /// Whose receipts callers are given, as a DID; absent where nobody's are, or any of several.
    pub signer: Option<String>,
    /// The providers that calls may go to.
    pub providers: Vec<String>,
}

/// A registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// `clawcontrols` or `clawscope`.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether it answered the last time; absent before the first.
    pub up: Option<bool>,
    /// When it last answered (RFC 3339).
    pub last_success: Option<String>,
    /// What went wrong the last time, if it did.
    pub error: Option<String>,
}

/// A group that is killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillView {
    /// Which group.
    pub group: String,
    /// `host`, `agent NAME` or `job ID`.
    pub whose: String,
    /// Why.
    pub reason: String,
    /// When (RFC 3339).
    pub at: String,
    /// The flip that did it.
    pub flip_id: String,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: String,
    /// `enforce` or `observe`.
    pub mode: String,
    /// The contract in force for it.
    pub wpc_hash: Option<String>,
    /// `policy_id` of that contract.
    pub policy_id: Option<String>,
    /// When that contract expires (RFC 3339).
    pub expires_at: Option<String>,
    /// How many rules it has in the kernel.
    pub entries: u64,
    /// What it matches in place, if anything.
    pub r#match: Option<String>,
    /// Why it has no contract in force, if it should have one.
    pub problem: Option<String>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// Its agent.
    pub agent: String,
    /// Its cgroup below the cgroup root.
    pub cgroup: String,
    /// `running`, or `over` while something of it is left.
    pub state: String,
    /// `run`, `unit` or `match`.
    pub origin: String,
    /// The contract in force for it.
    pub wpc_hash: Option<String>,
    /// When it began (RFC 3339).
    pub started_at: String,
    /// Its token; absent where it has and needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenView>,
    /// Why it may reach and call nothing now, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// A job's token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// `valid`; or why the job reaches nothing: `missing`, `expired`, `revoked`, `refused` (by its issuer), `stale` (its issuer
    /// could not be asked for too long), `mismatched` (it pins another contract).
    pub state: String,
    /// SHA-256 of the token, in hexadecimal.
    pub token_hash: Option<String>,
    /// The key that signed it.
    pub kid: Option<String>,
    /// When it expires (RFC 3339).
    pub expires_at: Option<String>,
    /// When its issuer last said that it is good (RFC 3339).
    pub checked_at: Option<String>,
    /// The agent that it names.
    pub agent_did: Option<String>,
    /// Who holds that agent's key: `host` or `foreign`.
    pub agent_key: Option<String>,
}

/// Body of `PUT /v1/jobs/{id}/cst`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresentBody {
    /// The token.
    pub cst: String,
}

/// The answer to `POST /v1/jobs/{id}/key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The job, which need not have begun.
    pub job: String,
    /// The public half of the key that this host holds for it.
    pub agent_did: String,
}

/// Body of `POST /v1/tokens/revoke`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeBody {
    /// The token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Or its SHA-256, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hash: Option<String>,
    /// Why. Not empty.
    pub reason: String,
}

/// The answer to `POST /v1/tokens/revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeAnswer {
    /// The token's SHA-256, in hexadecimal.
    pub token_hash: String,
    /// The jobs whose egress ended.
    pub jobs_stopped: Vec<String>,
    /// Live connections that were ended.
    pub sockets_destroyed: u64,
}

/// `GET /v1/groups`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// Its name.
    pub group: String,
    /// `killed` or `live`, for the whole host.
    pub state: String,
    /// Whom else it is killed for: `agent NAME`, `job ID`.
    pub killed_for: Vec<String>,
    /// Whether the mode in force kills it.
    pub by_mode: bool,
    /// What tells it apart: `kernel`, `gateway`.
    pub enforced_by: Vec<String>,
    /// Hashes of the contracts in force that have it.
    pub policies: Vec<String>,
}

/// Body of a kill or a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlipBody {
    /// Why. Not empty.
    pub reason: String,
    /// Only for this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Only for this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// The answer to a kill, a restore or a change of mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlipAnswer {
    /// Which group; for a change of mode, `mode`.
    pub group: String,
    /// `killed` or `live`; for a change of mode, the mode.
    pub state: String,
    /// `host`, `agent NAME` or `job ID`.
    pub whose: String,
    /// What told it apart.
    pub enforced_by: Vec<String>,
    /// From the request's arrival to the kernel's map being written.
    pub effective_ns: u64,
    /// From the request's arrival to this answer.
    pub total_ns: u64,
    /// Live connections that were ended.
    pub sockets_destroyed: u64,
    /// Live connections that could not be ended. None of their packets pass.
    pub sockets_left: u64,
    /// Tool calls that were cancelled; 0 without a gateway.
    pub calls_cancelled: u64,
    /// What became of the gateway: `kept` (it keeps to the flip); `killed`, because it did not say so in time; for what was given
    /// back, `silent` (it may take a moment); absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// How the canary fared.
    pub canary: CanaryView,
    /// Hashes of the contracts concerned.
    pub policies: Vec<String>,
    /// This flip's id, as in the audit chain.
    pub flip_id: String,
    /// Who did it.
    pub actor: ActorView,
    /// The state before.
    pub previous: String,
    /// Whether it outlives a reboot.
    pub persisted: bool,
}

/// The canary before and after: `accepted`, `refused`, `mixed`, `nothing` or `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryView {
    /// Before the flip.
    pub before: String,
    /// After it.
    pub after: String,
}

/// Who did something, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorView {
    /// `control` or `on_bypass`.
    pub channel: String,
    /// The user.
    pub uid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
    /// What it ran.
    pub executable: Option<String>,
    /// Its cgroup.
    pub cgroup: Option<String>,
}

/// Body of `POST /v1/mode`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeBody {
    /// `normal`, `read-only`, `tools-off` or `lockdown`.
    pub mode: String,
    /// Why. Not empty.
    pub reason: String,
}

/// Body of `POST /v1/drill`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillBody {
    /// Which groups; all that are in force if empty.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Flip them for everybody and back, live connections included, instead of for the canary alone.
    #[serde(default)]
    pub live: bool,
}

/// The answer to a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillAnswer {
    /// Each group's result.
    pub groups: Vec<DrillView>,
    /// Whether all of them are as they should be.
    pub passed: bool,
}

/// One group's drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillView {
    /// Which group.
    pub group: String,
    /// Whether it was killed for everybody or only for the canary.
    pub live: bool,
    /// How the canary fared before and during.
    pub canary: CanaryView,
    /// How it fared once the group was given back.
    pub restored: String,
    /// From the start to the kernel's map being written.
    pub effective_ns: u64,
    /// Whether this is as it should be.
    pub passed: bool,
}

/// Body of `POST /v1/jobs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobBody {
    /// Its agent; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its id; one is made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Hash of a contract of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wpc_hash: Option<String>,
    /// A contract of its own, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Box<RawValue>>,
    /// Its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cst: Option<String>,
    /// The job is the systemd unit in whose cgroup the caller is.
    #[serde(default)]
    pub enrol_caller: bool,
}

/// The answer to `POST /v1/jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAnswer {
    /// The job.
    pub job: JobView,
    /// Its slot: no two jobs at a time have the same.
    pub slot: u32,
    /// Its cgroup's directory.
    pub cgroup_directory: String,
    /// The file in which it can read why it was denied.
    pub denials: String,
    /// Whether it may make unix sockets.
    pub unix_sockets: bool,
}

/// Body of `POST /v1/jobs/{id}/processes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessBody {
    /// A process of the caller's own, without sockets.
    pub pid: i32,
}

/// Body of `PUT /v1/agents/{name}/wpc`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UseBody {
    /// The contract, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Box<RawValue>>,
    /// Hash of a contract that the daemon has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wpc_hash: Option<String>,
    /// Accept a lower sequence than one accepted before.
    #[serde(default)]
    pub allow_rollback: bool,
    /// Why; needed with `allow_rollback`.
    #[serde(default)]
    pub reason: String,
}

/// What a contract in force is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractView {
    /// Its hash.
    pub wpc_hash: String,
    /// Its `policy_id`.
    pub policy_id: String,
    /// Its sequence.
    pub sequence: u64,
    /// Who signed it.
    pub signer: String,
    /// When it expires (RFC 3339).
    pub expires_at: Option<String>,
    /// How many rules it has in the kernel.
    pub entries: u64,
    /// The contract that was in force before.
    pub previous: Option<String>,
    /// Live connections that it does not allow and that were ended.
    pub sockets_destroyed: u64,
}

/// Something that the kernel decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionView {
    /// Its number, rising.
    pub id: u64,
    /// When it was first decided (RFC 3339).
    pub at: String,
    /// When it was last decided (RFC 3339).
    pub last_at: String,
    /// `allowed`, `denied` or `observed`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// The hook that decided.
    pub hook: String,
    /// The agent.
    pub agent: String,
    /// The job.
    pub job: String,
    /// `tcp`, `udp`, or what was asked for instead.
    pub protocol: String,
    /// The other end: ADDRESS:PORT. Where others called the job, the port is the job's own.
    pub remote: String,
    /// The first caller's process; 0 if the packet path has none.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its command.
    pub command: String,
    /// The contract under which it was decided.
    pub wpc_hash: Option<String>,
    /// The place in that contract, if a rule was found.
    pub rule: Option<String>,
    /// The name that was asked for, called for, or that led to the other end; empty where none is known.
    #[serde(default)]
    pub name: String,
    /// What it looks like, where nothing is known of the other end: `model` or `mcp`.
    #[serde(default)]
    pub suspected: Option<String>,
    /// All of it in one sentence.
    pub sentence: String,
}

/// `GET /v1/decisions`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decisions {
    /// The newest last.
    pub decisions: Vec<DecisionView>,
}

/// Something that passed only because the agent is in observe mode, once for all times that it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedEntry {
    /// `host` (by name), `address`, `inbound` (others called it), `name` (a question for one) or `other` (a kind of socket, a
    /// socket option).
    pub kind: String,
    /// The name that was called for, that led to the other end, or that was asked for; empty where none is known.
    pub name: String,
    /// The other end's address; for `host` the first one that was seen; empty where there is none.
    pub address: String,
    /// `tcp`, `udp`, or what was asked for instead.
    pub protocol: String,
    /// The other end's port; for `inbound` the agent's own, 0 where it is not known.
    pub port: u16,
    /// Whether a TLS ClientHello for the name was seen.
    pub tls: bool,
    /// Whether other names that the agent asked for led to the same address.
    pub shared: bool,
    /// Why it would have been denied.
    pub reason: String,
    /// How often it was decided.
    pub count: u64,
    /// When it was first seen (RFC 3339).
    pub first_at: String,
    /// When it was last seen (RFC 3339).
    pub last_at: String,
    /// One process that did it; 0 if none is known.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// Its job.
    pub job: String,
}

/// `GET /v1/agents/{name}/observed`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObservedView {
    /// The agent.
    pub agent: String,
    /// Its mode: `enforce` or `observe`.
    pub mode: String,
    /// The contract in force for it.
    pub wpc_hash: Option<String>,
    /// That contract's payload.
    pub contract: Option<serde_json::Value>,
    /// How often something was seen for which there was no room any more.
    pub left_out: u64,
    /// What was seen, sorted.
    pub entries: Vec<ObservedEntry>,
}

/// The answer to `DELETE /v1/agents/{name}/observed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedForgotten {
    /// The agent.
    pub agent: String,
    /// How many entries there were.
    pub forgotten: u64,
}
