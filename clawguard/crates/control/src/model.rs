//! What daemon and gateway tell each other of model calls: the way to providers, calls for the record, receipts.
//!
//! The gateway reads what agents and providers send, and hashes it. The daemon writes a call's event before the call leaves, and
//! signs its receipt once it is known what came back; the key never leaves it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::calls::Decision;

/// `[model]`, as the gateway needs it. Always whole: what is not in it is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRules {
    /// The providers, by name. Empty where the gateway makes no model calls.
    pub providers: Vec<ProviderRules>,
    /// Whether calls go to a clawproxy, which answers for all providers and signs the receipts itself.
    pub proxied: bool,
    /// Whose receipts callers are given, as a DID: this host's own, or the one signer of the clawproxy's that is trusted. Empty where
    /// nobody's are, or any of several.
    pub signer: String,
}

/// The way to a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderRules {
    /// `openai`, `anthropic` or `google`.
    pub name: String,
    /// What a call's path is put behind; without a slash at its end.
    pub url: String,
    /// Its addresses, where the host fixes them; else its name is resolved.
    pub addresses: Vec<IpAddr>,
    /// The only certificates (PEM) by which it is trusted, instead of the platform's.
    pub ca: Option<String>,
    /// The host's key for it. No agent ever sees it.
    pub key: Option<String>,
}

/// A model call, as it was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCall {
    /// The gateway's own number for it, never given twice by one process. Tool calls are numbered by themselves.
    pub number: u64,
    /// Slot of the job.
    pub slot: u32,
    /// Number of the job.
    pub key: u64,
    /// The provider's name; empty where none is meant.
    pub provider: String,
    /// The model, as the request names it; empty where it names none.
    pub model: String,
    /// The path that was asked for, without its query.
    pub route: String,
    /// Whether the answer is asked for as a stream.
    pub streamed: bool,
    /// What the client calls this call, so that it can ask for the receipt; else the gateway's own word. The receipt's nonce.
    pub nonce: String,
    /// SHA-256 of the body that is sent on, base64url; of the one that was received, where none is.
    pub request_hash: String,
    /// Bytes of the request's body, as received.
    pub bytes_in: u64,
    /// How many places the contract's redaction rules changed.
    pub redactions: u64,
    /// What was decided.
    pub decision: Decision,
    /// Why, in a word.
    pub reason: String,
    /// Where in the contract the line stands that decided.
    pub rule: Option<String>,
    /// Hash of the contract.
    pub contract: String,
    /// Hash of the job's token, in lower-case hexadecimal.
    pub token: Option<String>,
    /// How many this stands for: more than one only for refusals that a limit added up.
    pub count: u64,
}

/// A call may be made: its event is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelGrant {
    /// The job's run, as its event chain names it.
    pub run_id: String,
    /// Hash of the call's event, base64url.
    pub event_hash: String,
    /// The job's token itself, for a clawproxy; `None` where there is none, or where calls do not go to one.
    pub token: Option<String>,
}

/// How a call that was made ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEnd {
    /// [`ModelCall::number`]
    pub number: u64,
    /// `ok`, `provider_error` (it answered an error), `unreachable` (it did not answer at all), `cut` (it stopped in the middle),
    /// `client_gone`, `killed`, `timeout`, `too_large`.
    pub outcome: String,
    /// The provider's HTTP status; 0 where it gave none.
    pub status: u16,
    /// SHA-256 of the body's bytes as the provider sent them, as far as it did; base64url.
    pub response_hash: String,
    /// Bytes of that body.
    pub bytes_out: u64,
    /// From the request to the answer's first byte, in microseconds; `None` where none came.
    pub first_byte_us: Option<u64>,
    /// From the request to the answer's last byte, in microseconds.
    pub duration_us: u64,
    /// Tokens of the request, as the provider counts them; `None` where it does not say.
    pub tokens_input: Option<u64>,
    /// Tokens of the answer, as the provider counts them; `None` where it does not say.
    pub tokens_output: Option<u64>,
    /// The envelope of the receipt that a clawproxy gave.
    pub receipt: Option<String>,
}

/// What became of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Receipt {
    /// It is on disk: the signed envelope.
    Signed(String),
    /// The call is recorded, and there is no receipt that counts: why.
    Missing(String),
}

/// The connections of a job that the gateway accepted for model calls, all so far. The kernel counts them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConnections {
    /// Slot of the job.
    pub slot: u32,
    /// Number of the job.
    pub key: u64,
    /// How many were accepted.
    pub accepted: u64,
    /// How many of them ended without a call, made or refused.
    pub empty: u64,
}
