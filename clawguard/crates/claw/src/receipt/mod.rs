//! What a host signs of a run: gateway receipts, tool receipts, coverage attestations, egress policy receipts.
//!
//! Each is written once, as JSON text in the order in which Claw's own services emit its members. The hash is over that text:
//! V8 would write the very same again, so nothing is parsed or sorted on the way to a signature.

mod coverage;
mod egress;
mod gateway;
mod tool;

pub use coverage::{CoverageAttestation, Egress, Lineage, Liveness, LivenessStatus, Metrics};
pub use egress::{EgressPolicyReceipt, Hosts, NotHosts};
pub use gateway::GatewayReceipt;
pub use tool::{ResultStatus, ToolReceipt};

use std::fmt::Write;

use crate::{
    encoding::{self, Hash},
    envelope::{self, Envelope, Kind},
    json::{self, Value},
    key::{Did, PrivateKey},
    time::Instant,
};

/// The largest whole number of which every JavaScript reader sees each digit.
const MOST: u64 = (1 << 53) - 1;

/// What ties a receipt to a run. The schema has spans too; nothing here makes any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The run.
    pub run_id: String,
    /// Hash of the event to which it belongs.
    pub event_hash: Hash,
    /// What the call was called by whoever made it, so that it has one receipt.
    pub nonce: Option<String>,
    /// Hash of the contract.
    pub policy_hash: Option<Hash>,
    /// Scope hash of the job's token.
    pub token_scope_hash: Option<Hash>,
}

impl Binding {
    fn write(&self, into: &mut Object) {
        into.object("binding", |binding| {
            binding.string("run_id", &self.run_id);
            binding.hash("event_hash_b64u", &self.event_hash);
            binding.maybe("nonce", self.nonce.as_deref());
            if let Some(hash) = &self.policy_hash {
                binding.hash("policy_hash", hash);
            }
            if let Some(hash) = &self.token_scope_hash {
                binding.hash("token_scope_hash_b64u", hash);
            }
        });
    }

    fn read(members: &Members<'_>) -> Result<Self, Error> {
        const KNOWN: [&str; 14] = [
            "run_id",
            "event_hash_b64u",
            "nonce",
            "policy_hash",
            "token_scope_hash_b64u",
            "span_id",
            "spanId",
            "parent_span_id",
            "parentSpanId",
            "tool_span_id",
            "toolSpanId",
            "phase",
            "attribution_confidence",
            "attributionConfidence",
        ];
        members.only(&KNOWN)?;
        Ok(Self {
            run_id: members.string("run_id")?,
            event_hash: members.hash("event_hash_b64u")?,
            nonce: members.there("nonce").map(|()| members.string("nonce")).transpose()?,
            policy_hash: members.there("policy_hash").map(|()| members.hash("policy_hash")).transpose()?,
            token_scope_hash: members
                .there("token_scope_hash_b64u")
                .map(|()| members.hash("token_scope_hash_b64u"))
                .transpose()?,
        })
    }
}

/// A receipt that was read: its hash and signature are right. Whether its signer is trusted is for the caller to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened<T> {
    /// What it says.
    pub receipt: T,
    /// Hash of its payload.
    pub hash: Hash,
    /// Who signed it.
    pub signer: Did,
    /// When it says that it was signed. Not covered by the signature.
    pub issued_at: Instant,
}

/// Why a text is no receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its envelope.
    #[error(transparent)]
    Envelope(#[from] envelope::Error),
    /// A member that is needed.
    #[error("the receipt has no \"{0}\"")]
    Missing(String),
    /// A member that none has.
    #[error("the receipt has an unknown member \"{0}\"")]
    Unknown(String),
    /// A member of another kind.
    #[error("the receipt's \"{name}\" is not {expected}")]
    Wrong {
        /// Which.
        name: String,
        /// What is right there.
        expected: &'static str,
    },
}

/// Signs a payload that is written as V8 would write it, and puts the envelope around it.
#[must_use]
pub fn seal(payload: &str, kind: Kind, key: &PrivateKey, issued_at: Instant) -> String {
    let hash = Hash::of(payload.as_bytes()).to_string();
    let signature = encoding::encode(&key.sign(hash.as_bytes()));
    let mut envelope = Object::with_room(payload.len() + 512);
    envelope.string("envelope_version", "1");
    envelope.string("envelope_type", kind.name());
    envelope.raw("payload", payload);
    envelope.string("payload_hash_b64u", &hash);
    envelope.string("hash_algorithm", "SHA-256");
    envelope.string("signature_b64u", &signature);
    envelope.string("algorithm", "Ed25519");
    envelope.string("signer_did", &key.did().to_string());
    envelope.string("issued_at", &issued_at.format());
    envelope.end()
}

/// Opens an envelope and hands its payload's members to `read`.
fn open<T>(text: &[u8], kind: Kind, read: impl FnOnce(&Members<'_>) -> Result<T, Error>) -> Result<Opened<T>, Error> {
    let envelope = Envelope::open(text, kind)?;
    let receipt = read(&Members { value: &envelope.payload, path: "" })?;
    Ok(Opened { receipt, hash: envelope.hash, signer: envelope.signer, issued_at: envelope.issued_at })
}

/// A JSON object that is being written: its members in the order in which they are given. None of their names may be an array
/// index, which V8 would write first.
pub struct Object {
    text: String,
}

impl Default for Object {
    fn default() -> Self {
        Self::with_room(1024)
    }
}

impl Object {
    fn with_room(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self { text }
    }

    /// The whole text.
    #[must_use]
    pub fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }

    fn name(&mut self, name: &str) {
        if !self.text.ends_with('{') {
            self.text.push(',');
        }
        json::quote(name, &mut self.text);
        self.text.push(':');
    }

    /// A string.
    pub fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        json::quote(value, &mut self.text);
    }

    /// A string, where there is one.
    pub fn maybe(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(name, value);
        }
    }

    /// A hash.
    pub fn hash(&mut self, name: &str, value: &Hash) {
        self.string(name, &value.to_string());
    }

    /// A moment.
    pub fn instant(&mut self, name: &str, value: Instant) {
        self.string(name, &value.format());
    }

    /// A whole number; what is beyond 2^53 - 1 is written as that, because readers would not see its last digits.
    pub fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        // A string takes everything.
        let _ = write!(self.text, "{}", value.min(MOST));
    }

    /// Yes or no.
    pub fn bool(&mut self, name: &str, value: bool) {
        self.raw(name, if value { "true" } else { "false" });
    }

    /// A value that is written already, as V8 writes it.
    pub fn raw(&mut self, name: &str, value: &str) {
        self.name(name);
        self.text.push_str(value);
    }

    /// A value.
    pub fn value(&mut self, name: &str, value: &Value) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    /// A list of strings.
    pub fn strings<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        self.name(name);
        self.text.push('[');
        for (i, value) in values.into_iter().enumerate() {
            if i > 0 {
                self.text.push(',');
            }
            json::quote(value, &mut self.text);
        }
        self.text.push(']');
    }

    /// A list of values that are written already.
    pub fn list<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        self.name(name);
        self.text.push('[');
        for (i, value) in values.into_iter().enumerate() {
            if i > 0 {
                self.text.push(',');
            }
            self.text.push_str(value);
        }
        self.text.push(']');
    }

    /// An object within.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.name(name);
        self.text.push('{');
        write(self);
        self.text.push('}');
    }
}

/// An object that is being read.
struct Members<'a> {
    value: &'a Value,
    path: &'a str,
}

impl<'a> Members<'a> {
    fn wrong(&self, name: &str, expected: &'static str) -> Error {
        Error::Wrong { name: self.called(name), expected }
    }

    fn called(&self, name: &str) -> String {
        let name: String = name.chars().take(64).collect();
        if self.path.is_empty() { name } else { format!("{}.{name}", self.path) }
    }

    fn only(&self, known: &[&str]) -> Result<(), Error> {
        let Value::Object(members) = self.value else { return Err(self.wrong("", "an object")) };
        match members.iter().find(|(name, _)| !known.contains(&&**name)) {
            Some((name, _)) => Err(Error::Unknown(self.called(name))),
            None => Ok(()),
        }
    }

    fn there(&self, name: &str) -> Option<()> {
        self.value.get(name).map(|_| ())
    }

    fn get(&self, name: &str) -> Result<&'a Value, Error> {
        self.value.get(name).ok_or_else(|| Error::Missing(self.called(name)))
    }

    fn within(&self, name: &'a str) -> Result<Members<'a>, Error> {
        match self.get(name)? {
            value @ Value::Object(_) => Ok(Members { value, path: name }),
            _ => Err(self.wrong(name, "an object")),
        }
    }

    fn string(&self, name: &str) -> Result<String, Error> {
        match self.get(name)?.as_str() {
            Some(text) if !text.is_empty() => Ok(text.into()),
            _ => Err(self.wrong(name, "a string with something in it")),
        }
    }

    fn is(&self, name: &str, expected: &'static str) -> Result<(), Error> {
        if self.get(name)?.as_str() == Some(expected) { Ok(()) } else { Err(self.wrong(name, expected)) }
    }

    fn hash(&self, name: &str) -> Result<Hash, Error> {
        let text = self.get(name)?.as_str().unwrap_or_default();
        text.parse().map_err(|_| self.wrong(name, "a SHA-256 hash"))
    }

    fn did(&self, name: &str) -> Result<Did, Error> {
        let text = self.get(name)?.as_str().unwrap_or_default();
        text.parse().map_err(|_| self.wrong(name, "an Ed25519 did:key"))
    }

    fn instant(&self, name: &str) -> Result<Instant, Error> {
        let text = self.get(name)?.as_str().unwrap_or_default();
        Instant::parse(text).ok_or_else(|| self.wrong(name, "an RFC 3339 date-time"))
    }

    /// A number that is not negative. Others may write fractions of milliseconds: they are left off.
    fn number(&self, name: &str) -> Result<u64, Error> {
        match self.get(name)? {
            Value::Number(number) if *number >= 0.0 => Ok(*number as u64),
            _ => Err(self.wrong(name, "a number from zero up")),
        }
    }
}
