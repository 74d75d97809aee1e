//! The gateway's word that a model call went through it.

use super::{Binding, Error, Members, Object, Opened, open, seal};
use crate::{encoding::Hash, envelope::Kind, json::Value, key::PrivateKey, time::Instant};

/// `gateway_receipt.v1`
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayReceipt {
    /// Its id; Claw's gateway writes `rcpt_` and a UUID.
    pub receipt_id: String,
    /// Which gateway.
    pub gateway_id: String,
    /// `openai`, `anthropic` or `google`.
    pub provider: String,
    /// The model, as the request named it.
    pub model: String,
    /// SHA-256 of the body that was sent on.
    pub request_hash: Hash,
    /// SHA-256 of the body's bytes as the provider sent them.
    pub response_hash: Hash,
    /// Tokens of the request, as the provider counted them; zero where it did not say.
    pub tokens_input: u64,
    /// Tokens of the answer, as the provider counted them; zero where it did not say.
    pub tokens_output: u64,
    /// From the request to the answer's last byte, in milliseconds.
    pub latency_ms: u64,
    /// When the call ended. No later than the envelope's `issued_at`, or verifiers see a contradiction.
    pub timestamp: Instant,
    /// The run and the event to which it belongs.
    pub binding: Binding,
    /// More of it: an object, or nothing.
    pub metadata: Option<Value>,
}

const KNOWN: [&str; 13] = [
    "receipt_version",
    "receipt_id",
    "gateway_id",
    "provider",
    "model",
    "request_hash_b64u",
    "response_hash_b64u",
    "tokens_input",
    "tokens_output",
    "latency_ms",
    "timestamp",
    "binding",
    "metadata",
];

impl GatewayReceipt {
    /// The payload, as it is hashed.
    #[must_use]
    pub fn payload(&self) -> String {
        let mut payload = Object::default();
        payload.string("receipt_version", "1");
        payload.string("receipt_id", &self.receipt_id);
        payload.string("gateway_id", &self.gateway_id);
        payload.string("provider", &self.provider);
        payload.string("model", &self.model);
        payload.hash("request_hash_b64u", &self.request_hash);
        payload.hash("response_hash_b64u", &self.response_hash);
        payload.number("tokens_input", self.tokens_input);
        payload.number("tokens_output", self.tokens_output);
        payload.number("latency_ms", self.latency_ms);
        payload.instant("timestamp", self.timestamp);
        self.binding.write(&mut payload);
        if let Some(metadata) = &self.metadata {
            payload.value("metadata", metadata);
        }
        payload.end()
    }

    /// The signed envelope, in one line without its end.
    #[must_use]
    pub fn seal(&self, key: &PrivateKey, issued_at: Instant) -> String {
        seal(&self.payload(), Kind::GatewayReceipt, key, issued_at)
    }

    /// Reads an envelope, and checks its hash, its signature and its shape. Spans and fractions of milliseconds, which other
    /// gateways may write, are covered by its hash and not kept here.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(text: &[u8]) -> Result<Opened<Self>, Error> {
        open(text, Kind::GatewayReceipt, Self::read)
    }

    fn read(members: &Members<'_>) -> Result<Self, Error> {
        members.only(&KNOWN)?;
        members.is("receipt_version", "1")?;
        let metadata = match members.value.get("metadata") {
            Some(metadata @ Value::Object(_)) => Some(metadata.clone()),
            Some(_) => return Err(members.wrong("metadata", "an object")),
            None => None,
        };
        Ok(Self {
            receipt_id: members.string("receipt_id")?,
            gateway_id: members.string("gateway_id")?,
            provider: members.string("provider")?,
            model: members.string("model")?,
            request_hash: members.hash("request_hash_b64u")?,
            response_hash: members.hash("response_hash_b64u")?,
            tokens_input: members.number("tokens_input")?,
            tokens_output: members.number("tokens_output")?,
            latency_ms: members.number("latency_ms")?,
            timestamp: members.instant("timestamp")?,
            binding: Binding::read(&members.within("binding")?)?,
            metadata,
        })
    }
}
