//! The audit chain: JSON lines of which each names the hash of the one before, with signed checkpoints in between.
//!
//! A line is `{"seq":N,"at":"…Z","prev":"…","kind":"…","body":{…}}`. Its hash is the SHA-256 of its bytes without the
//! newline, so that nothing needs to be re-serialised to verify it. The first line's `prev` is null. A checkpoint signs the
//! hash of the line before it, as the 43 ASCII characters in which it is written.

use claw::{
    Hash, encoding,
    key::{Did, PrivateKey},
    time::Instant,
};
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
            self.check(&read.body).map_err(broken)?;
            self.checkpoints += 1;
            self.sealed = read.seq + 1;
        }
        self.head = Head { hash: Some(Hash::of(bytes)), next: read.seq + 1 };
        Ok(Record { seq: read.seq, at: read.at, kind: read.kind, body: read.body })
    }

    fn check(&mut self, body: &Value) -> Result<(), Fault> {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> PrivateKey {
        PrivateKey::from_seed(&[9; 32])
    }

    /// Ten records with a checkpoint after every third.
    fn chain() -> Vec<String> {
        let (mut head, mut lines) = (Head::default(), Vec::new());
        for i in 0..10_u64 {
            let at = Instant(1_700_000_000_000_000_000 + i * 1_000_000_000);
            let (line, next) = if i % 3 == 2 {
                head.checkpoint(&key(), at)
            } else {
                head.append(Kind::Flip, at, json!({ "group": "crm", "n": i }))
            };
            lines.push(line);
            head = next;
        }
        lines
    }

    fn verify(lines: &[impl AsRef<[u8]>]) -> Result<Verifier, Broken> {
        let mut verifier = Verifier::new(Some(key().did()));
        for line in lines {
            verifier.read(line.as_ref())?;
        }
        Ok(verifier)
    }

    #[test]
    fn a_chain_verifies_and_says_what_no_checkpoint_covers() {
        let verifier = verify(&chain()).unwrap();
        assert_eq!((verifier.head().next, verifier.checkpoints(), verifier.unsealed()), (10, 3, 1));
    }

    #[test]
    fn a_dropped_doubled_or_swapped_record_is_found_where_it_is() {
        for at in 0..9 {
            let mut dropped = chain();
            dropped.remove(at);
            assert_eq!(verify(&dropped).unwrap_err().seq, at as u64);
            let mut doubled = chain();
            doubled.insert(at, doubled[at].clone());
            assert_eq!(verify(&doubled).unwrap_err().seq, at as u64 + 1);
            let mut swapped = chain();
            swapped.swap(at, at + 1);
            assert_eq!(verify(&swapped).unwrap_err().seq, at as u64);
        }
    }

    #[test]
    fn a_half_written_last_record_is_told_apart() {
        let mut lines = chain();
        let last = lines.pop().unwrap();
        lines.push(last[..last.len() / 2].to_owned());
        assert_eq!(verify(&lines).unwrap_err(), Broken { seq: 9, fault: Fault::Torn });
    }

    #[test]
    fn a_checkpoint_by_another_key_is_refused() {
        let (mut head, mut lines) = (Head::default(), Vec::new());
        for line in chain().iter().take(2) {
            let mut verifier = Verifier::from(head, None);
            verifier.read(line.as_bytes()).unwrap();
            head = verifier.head();
            lines.push(line.clone());
        }
        let other = PrivateKey::from_seed(&[10; 32]);
        lines.push(head.checkpoint(&other, Instant(0)).0);
        assert!(matches!(verify(&lines).unwrap_err().fault, Fault::Signer(_)));
    }

    #[test]
    fn a_rewritten_tail_needs_the_hosts_key() {
        // Everything from record 4 on is written anew, links and all, with the old signatures kept.
        let mut verifier = Verifier::new(None);
        let lines = chain();
        for line in &lines[..4] {
            verifier.read(line.as_bytes()).unwrap();
        }
        let mut forged = lines[..4].to_vec();
        let (line, head) = verifier.head().append(Kind::Flip, Instant(1), json!({ "group": "other" }));
        forged.push(line);
        let old: Line = serde_json::from_str(lines[5].trim_end()).unwrap();
        forged.push(head.append(Kind::Checkpoint, Instant(2), old.body).0);
        assert_eq!(verify(&forged).unwrap_err(), Broken { seq: 5, fault: Fault::Signature });
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_found_at_its_record_or_the_next(at in 0_usize..3000, byte in any::<u8>()) {
            let lines = chain();
            let text = lines.concat();
            let at = at % text.len();
            let mut bytes = text.into_bytes();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            let mut split: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            let hit = {
                let mut seen = 0;
                lines.iter().position(|line| { seen += line.len(); at < seen }).unwrap()
            };
            // The last record is held by nothing after it, unless it is a checkpoint.
            prop_assume!(hit < 9);
            let broken = verify(&split).unwrap_err();
            prop_assert!(broken.seq as usize == hit || broken.seq as usize == hit + 1);
            split.clear();
        }
    }
}
