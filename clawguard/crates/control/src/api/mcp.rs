//! Bodies of the API's part on MCP: servers, calls that wait for a person, tool definitions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `GET /v1/status` says of MCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpView {
    /// The port of loopback at which agents find their servers.
    pub port: u16,
    /// The servers that the configuration names.
    pub servers: Vec<ServerView>,
    /// Calls that wait for a person.
    pub approvals_pending: u64,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub name: String,
    /// `http`, `sse` or `stdio`.
    pub upstream: String,
    /// Its risk: `low`, `medium` or `high`.
    pub risk: String,
    /// How many of its processes run, for `stdio`.
    pub running: u64,
    /// How many of its definitions an operator has to look at.
    pub pins_waiting: u64,
    /// Why it is not to be reached, if so.
    pub problem: Option<String>,
}

/// A call that waits for a person, or was decided and not made yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalView {
    /// Its id.
    pub id: String,
    /// `pending`, `approved` or `refused`.
    pub state: String,
    /// The agent.
    pub agent: String,
    /// The job. The approval is good for no other.
    pub job: String,
    /// The gateway's name for the MCP session.
    pub session: String,
    /// The server.
    pub server: String,
    /// `tools/call`, or another method of MCP.
    pub method: String,
    /// The tool.
    pub tool: String,
    /// The tool's risk.
    pub risk: String,
    /// The tool's class.
    pub class: String,
    /// The contract in force for the job.
    pub wpc_hash: String,
    /// Where in it the line stands for which a person is asked.
    pub rule: Option<String>,
    /// The complete arguments, as canonical JSON.
    pub arguments: String,
    /// Their SHA-256.
    pub arguments_sha256: String,
    /// SHA-256 of the tool's definition.
    pub definition_sha256: Option<String>,
    /// When it was asked for (RFC 3339).
    pub asked_at: String,
    /// When it ends (RFC 3339).
    pub expires_at: String,
    /// Who decided.
    pub decided_by: Option<String>,
    /// When (RFC 3339).
    pub decided_at: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// Body of `POST /v1/approvals/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalBody {
    /// `approve` or `deny`.
    pub decision: String,
    /// Why; not empty for `deny`: the agent is told.
    #[serde(default)]
    pub reason: String,
}

/// `GET /v1/pins`, and `GET /v1/pins/{server}` with the texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPins {
    /// The server.
    pub server: String,
    /// Its definitions, by name; the server's own identity is `""`.
    pub pins: BTreeMap<String, PinView>,
}

/// A definition, as it was accepted and as it was last offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinView {
    /// `accepted`; or why the tool is hidden and denied: `new` (nobody accepted any), `changed` (another one was accepted).
    pub state: String,
    /// SHA-256 of the one that is accepted, of its canonical JSON.
    pub accepted_sha256: Option<String>,
    /// When that was (RFC 3339).
    pub accepted_at: Option<String>,
    /// Who accepted it: `first use`, or a user.
    pub accepted_by: Option<String>,
    /// SHA-256 of the one that the server offers and that waits, if any does.
    pub offered_sha256: Option<String>,
    /// When it was first offered (RFC 3339).
    pub offered_at: Option<String>,
    /// The accepted definition's canonical JSON; absent where it is not asked for, or too long to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    /// The same of the one that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<String>,
}

/// Names of definitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Names {
    /// `"all"`: every one that there is.
    All(All),
    /// These.
    These(Vec<String>),
}

/// The word for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// `all`
    All,
}

/// Body of `POST /v1/pins/{server}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinBody {
    /// Definitions to accept, as they were last offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Names>,
    /// Definitions that count as accepted no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdraw: Option<Names>,
    /// SHA-256 of the definitions to accept that somebody looked at, by name: others are not accepted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}
