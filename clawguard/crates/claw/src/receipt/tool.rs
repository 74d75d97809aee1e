//! A tool's call.

use super::{Binding, Error, Members, Object, Opened, open, seal};
use crate::{
    encoding::Hash,
    envelope::Kind,
    key::{Did, PrivateKey},
    time::Instant,
};

/// How a tool's call ended. The format has no word for one that was denied: of that there is an event, and no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultStatus {
    /// The tool did what it was asked.
    Success,
    /// It said that it did not.
    Error,
    /// It took too long.
    Timeout,
}

impl ResultStatus {
    const ALL: [Self; 3] = [Self::Success, Self::Error, Self::Timeout];

    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Timeout => "timeout",
        }
    }
}

/// `tool_receipt.v1`: hashes alone, never arguments or results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolReceipt {
    /// Its id.
    pub receipt_id: String,
    /// The tool.
    pub tool_name: String,
    /// Its version, where it is known.
    pub tool_version: Option<String>,
    /// SHA-256 of the arguments' canonical JSON (JCS).
    pub args_hash: Hash,
    /// SHA-256 of the result's canonical JSON (JCS).
    pub result_hash: Hash,
    /// How it ended.
    pub result_status: ResultStatus,
    /// Who called it: the agent of the bundle in which it lies.
    pub agent: Did,
    /// When it was called.
    pub timestamp: Instant,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// The run and the event to which it belongs.
    pub binding: Binding,
}

const KNOWN: [&str; 12] = [
    "receipt_version",
    "receipt_id",
    "tool_name",
    "tool_version",
    "args_hash_b64u",
    "result_hash_b64u",
    "result_status",
    "hash_algorithm",
    "agent_did",
    "timestamp",
    "latency_ms",
    "binding",
];

impl ToolReceipt {
    /// The payload, as it is hashed, and as it may lie in a bundle without an envelope of its own.
    #[must_use]
    pub fn payload(&self) -> String {
        let mut payload = Object::default();
        payload.string("receipt_version", "1");
        payload.string("receipt_id", &self.receipt_id);
        payload.string("tool_name", &self.tool_name);
        payload.maybe("tool_version", self.tool_version.as_deref());
        payload.hash("args_hash_b64u", &self.args_hash);
        payload.hash("result_hash_b64u", &self.result_hash);
        payload.string("result_status", self.result_status.label());
        payload.string("hash_algorithm", "SHA-256");
        payload.string("agent_did", &self.agent.to_string());
        payload.instant("timestamp", self.timestamp);
        payload.number("latency_ms", self.latency_ms);
        self.binding.write(&mut payload);
        payload.end()
    }

    /// The signed envelope, in one line without its end.
    #[must_use]
    pub fn seal(&self, key: &PrivateKey, issued_at: Instant) -> String {
        seal(&self.payload(), Kind::ToolReceipt, key, issued_at)
    }

    /// Reads an envelope, and checks its hash, its signature and its shape.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(text: &[u8]) -> Result<Opened<Self>, Error> {
        open(text, Kind::ToolReceipt, Self::read)
    }

    fn read(members: &Members<'_>) -> Result<Self, Error> {
        members.only(&KNOWN)?;
        members.is("receipt_version", "1")?;
        members.is("hash_algorithm", "SHA-256")?;
        let status = members.string("result_status")?;
        let status = ResultStatus::ALL.into_iter().find(|known| known.label() == status);
        Ok(Self {
            receipt_id: members.string("receipt_id")?,
            tool_name: members.string("tool_name")?,
            tool_version: members.there("tool_version").map(|()| members.string("tool_version")).transpose()?,
            args_hash: members.hash("args_hash_b64u")?,
            result_hash: members.hash("result_hash_b64u")?,
            result_status: status.ok_or_else(|| members.wrong("result_status", "success, error or timeout"))?,
            agent: members.did("agent_did")?,
            timestamp: members.instant("timestamp")?,
            latency_ms: members.number("latency_ms")?,
            binding: Binding::read(&members.within("binding")?)?,
        })
    }
}
