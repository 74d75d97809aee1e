//! The audit chain: JSON lines of which each names the hash of the one before, with signed checkpoints in between.
//!
//! A line is `{"seq":N,"at":"…Z","prev":"…","kind":"…","body":{…}}`. Its hash is the SHA-256 of its bytes without the
//! newline, so that nothing needs to be re-serialised to verify it. The first line's `prev` is null. A checkpoint signs the
//! hash of the line before it, as the 43 ASCII characters in which it is written.

mod scan;

use claw::{
    Hash, encoding,
    key::{Did, PrivateKey},
    time::Instant,
};
use scan::Scanned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The chain begins, or its daemon starts.
    Start,
    /// The daemon stops in good order.
    Stop,
    /// A signature over everything before.
    Checkpoint,
    /// A line that was only half written was cut off.
    Torn,
    /// A group was killed or restored, or the mode changed.
    Flip,
    /// A flip that was not proven.
    FlipFailed,
    /// A contract came into force.
    Contract,
    /// A configuration came into force.
    Configuration,
    /// A job began.
    JobStart,
    /// A job ended.
    JobEnd,
    /// A job's token: presented, refused, ended.
    Token,
    /// What the kernel decided in an interval.
    Decisions,
    /// An attempt to go around.
    Alert,
    /// The fence was taken off by hand.
    BreakGlass,
    /// A drill of the switch.
    Drill,
    /// A tool call, or another call of MCP, with its decision and how it ended.
    Call,
    /// A model call: that it is about to be made or was refused; how it ended.
    Model,
    /// A call that waits for a person: asked for, decided, used, expired.
    Approval,
    /// A tool's definition or a server's identity: seen first, changed, accepted, withdrawn.
    Pin,
    /// What was counted of a job, at its end: its processes, its connections, how well it was watched.
    Coverage,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    seq: u64,
    at: String,
    prev: Option<String>,
    kind: Kind,
    body: Value,
}

/// A line that is written: its body may be of any type.
#[derive(Serialize)]
struct Written<B> {
    seq: u64,
    at: String,
    prev: Option<String>,
    kind: Kind,
    body: B,
}

/// Where a chain stands: what the next record follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Hash of the last record; `None` before the first.
    pub hash: Option<Hash>,
    /// Number of the next record.
    pub next: u64,
}

impl Head {
    /// Writes the next record. Answers its line, with the newline, and where the chain stands after it.
    #[must_use]
    pub fn append(self, kind: Kind, at: Instant, body: impl Serialize) -> (String, Self) {
        let line =
            Written { seq: self.next, at: at.format(), prev: self.hash.map(|hash| hash.to_string()), kind, body };
        // A body of strings and numbers always serialises.
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        let head = Self { hash: Some(Hash::of(text.as_bytes())), next: self.next + 1 };
        text.push('\n');
        (text, head)
    }

    /// Signs everything before.
    #[must_use]
    pub fn checkpoint(self, key: &PrivateKey, at: Instant) -> (String, Self) {
        let head = self.hash.map(|hash| hash.to_string()).unwrap_or_default();
        let signature = encoding::encode(&key.sign(head.as_bytes()));
        let body = json!({ "head": head, "signer_did": key.did().to_string(), "signature_b64u": signature });
        self.append(Kind::Checkpoint, at, body)
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// When it was written.
    pub at: String,
    /// What it is about.
    pub kind: Kind,
    /// What it says.
    pub body: Value,
}

impl Record {
    /// Of a line, with or without its newline. Whether it belongs into the chain is for [`Verifier`] to say.
    #[must_use]
    pub fn of_line(line: &[u8]) -> Option<Self> {
        let Line { seq, at, kind, body, .. } = serde_json::from_slice(line).ok()?;
        Some(Self { seq, at, kind, body })
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a record.
    #[error("it is no record: {0}")]
    NoRecord(String),
    /// The end of the file in the middle of it.
    #[error("it ends without a newline: it was only half written")]
    Torn,
    /// Out of order.
    #[error("its number is {found}, not {expected}: records are missing, doubled or out of order")]
    Sequence {
        /// What it says.
        found: u64,
        /// What follows.
        expected: u64,
    },
    /// It does not follow the record before.
    #[error("it does not follow from the record before: that one, or this one, was changed")]
    Link,
    /// A checkpoint that does not sign what is before it.
    #[error("its signature is not the host's signature of the chain before it")]
    Signature,
    /// A checkpoint by somebody else.
    #[error("it is signed by {0}, who is not the host")]
    Signer(String),
}

/// The first bad place in a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq}: {fault}")]
pub struct Broken {
    /// The record that should have been there.
    pub seq: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Reads a chain line by line and stops at the first bad place.
#[derive(Clone, Debug)]
pub struct Verifier {
    head: Head,
    signer: Option<Did>,
    checkpoints: u64,
    sealed: u64,
}

impl Verifier {
    /// From the beginning. With `signer`, only that host's checkpoints count as signatures; without, the first one's.
    #[must_use]
    pub fn new(signer: Option<Did>) -> Self {
        Self::from(Head::default(), signer)
    }

    /// From the middle: what comes next must follow `head`.
    #[must_use]
    pub const fn from(head: Head, signer: Option<Did>) -> Self {
        Self { head, signer, checkpoints: 0, sealed: head.next }
    }

    /// Where the chain stands after what was read.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// How many checkpoints were read.
    #[must_use]
    pub const fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// How many records come after the last checkpoint: nothing but their links holds them.
    #[must_use]
    pub const fn unsealed(&self) -> u64 {
        self.head.next - self.sealed
    }

    /// Who signed the checkpoints.
    #[must_use]
    pub const fn signer(&self) -> Option<Did> {
        self.signer
    }

    /// Looks at one line, with its newline: as strictly as [`Self::read`], and several times as fast, for whoever wants to know
    /// no more than that it is the record that follows.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn check(&mut self, line: &[u8]) -> Result<(), Broken> {
        if let Some(bytes) = line.strip_suffix(b"\n")
            && let Some(scanned) = Scanned::of(bytes)
            && scanned.kind != Kind::Checkpoint
            && scanned.seq == self.head.next
            && scanned.prev == self.head.hash.map(|hash| hash.to_string()).as_deref().map(str::as_bytes)
        {
            self.head = Head { hash: Some(Hash::of(bytes)), next: scanned.seq + 1 };
            return Ok(());
        }
        // Another form, a checkpoint, or a fault: the other way says which.
        self.read(line).map(drop)
    }

    /// Reads one line, with its newline.
    ///
    /// # Errors
    ///
    /// [`Broken`], if it is not the record that follows.
    pub fn read(&mut self, line: &[u8]) -> Result<Record, Broken> {
        let seq = self.head.next;
        let broken = |fault| Broken { seq, fault };
        let bytes = line.strip_suffix(b"\n").ok_or(broken(Fault::Torn))?;
        let read: Line = serde_json::from_slice(bytes).map_err(|e| broken(Fault::NoRecord(e.to_string())))?;
        if read.seq != self.head.next {
            return Err(broken(Fault::Sequence { found: read.seq, expected: self.head.next }));
        }
        if read.prev != self.head.hash.map(|hash| hash.to_string()) {
            return Err(broken(Fault::Link));
        }
        if read.kind == Kind::Checkpoint {
            self.signed(&read.body).map_err(broken)?;
            self.checkpoints += 1;
            self.sealed = read.seq + 1;
        }
        self.head = Head { hash: Some(Hash::of(bytes)), next: read.seq + 1 };
        Ok(Record { seq: read.seq, at: read.at, kind: read.kind, body: read.body })
    }

    fn signed(&mut self, body: &Value) -> Result<(), Fault> {
        let text = |name| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let signer: Did = text("signer_did").parse().map_err(|_| Fault::Signature)?;
        if self.signer.is_some_and(|host| host != signer) {
            return Err(Fault::Signer(signer.to_string()));
        }
        let head = self.head.hash.map(|hash| hash.to_string()).unwrap_or_default();
        let signature = encoding::decode::<64>(text("signature_b64u")).ok_or(Fault::Signature)?;
        if text("head") != head || !signer.verifies(head.as_bytes(), &signature) {
            return Err(Fault::Signature);
        }
        self.signer = Some(signer);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
