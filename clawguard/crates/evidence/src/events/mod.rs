//! Claw's event chain of a job, derived from the audit chain: an event is an audit record that concerns the job.
//!
//! The daemon writes the chain as the job runs, because a receipt names the hash of the event to which it belongs; an export
//! derives it again from the records. Both ask [`Runs`], and nothing else knows which record is whose event.
//!
//! - A run begins with a job's start. Its `run_id` is `run_JOB_SEQ` with the number of that record, since a job's name may be given again.
//! - An event's id is `evt_SEQ` with the number of its record, its time the record's. Its payload is the record's body; of a record
//!   of decisions, the body with the entries of other jobs left out. The payload's hash is that of what V8 writes for it.
//! - The chain begins anew with every [`PART`]th event, whose `prev_hash_b64u` is null as that of the first: so a run of any length
//!   can be told in bundles of a thousand events, and every hash is final when it is written.
//! - What names the job and comes after its end, such as the last interval's decisions, is still its event: up to [`LATE`] records
//!   later, if no other job began under that name meanwhile.

mod concern;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use claw::{
    Hash,
    json::{self, Limits},
    receipt::Object,
    time::Instant,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::chain::Kind;
use concern::{Body, Concern, Whom, names_agent};

/// Events after which a run's chain begins anew. Fewer than a bundle may have, so that what is added to one finds room.
pub const PART: u64 = 900;

/// Records after a job's end in which it can still be named.
pub const LATE: u64 = 65_536;

/// An audit record, as far as events are made of it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Its number.
    pub seq: u64,
    /// When it was written.
    pub at: Instant,
    /// What it is about.
    pub kind: Kind,
    /// Its body, as it stands in the chain.
    pub body: &'a str,
}

/// A line of the audit chain, borrowed.
#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    at: String,
    kind: Kind,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl<'a> Told<'a> {
    /// Of a line of the audit chain. Whether the line belongs there is for [`crate::chain::Verifier`] to say.
    #[must_use]
    pub fn of_line(line: &'a [u8]) -> Option<Self> {
        let line: Line<'a> = serde_json::from_slice(line).ok()?;
        Some(Self { seq: line.seq, at: Instant::parse(&line.at)?, kind: line.kind, body: line.body.get() })
    }
}

/// An event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `evt_SEQ`
    pub event_id: String,
    /// `run_JOB_SEQ`
    pub run_id: Arc<str>,
    /// What happened, in a word.
    pub event_type: &'static str,
    /// When.
    pub timestamp: Instant,
    /// Hash of what V8 writes for the payload.
    pub payload_hash: Hash,
    /// Hash of the event before; `None` for the first of a part.
    pub prev_hash: Option<Hash>,
    /// Hash of all of this.
    pub event_hash: Hash,
}

impl Event {
    fn header(&self) -> Object {
        let mut header = Object::default();
        header.string("event_id", &self.event_id);
        header.string("run_id", &self.run_id);
        header.string("event_type", self.event_type);
        header.instant("timestamp", self.timestamp);
        header.hash("payload_hash_b64u", &self.payload_hash);
        match &self.prev_hash {
            Some(hash) => header.hash("prev_hash_b64u", hash),
            None => header.raw("prev_hash_b64u", "null"),
        }
        header
    }

    /// As it stands in a bundle.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut whole = self.header();
        whole.hash("event_hash_b64u", &self.event_hash);
        whole.end()
    }
}

/// A run's chain, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    #[serde(with = "shared_text")]
    run_id: Arc<str>,
    events: u64,
    #[serde(with = "hash_text")]
    head: Option<Hash>,
}

impl Chain {
    /// Of a run in which nothing happened yet.
    #[must_use]
    pub fn new(run_id: impl Into<Arc<str>>) -> Self {
        Self { run_id: run_id.into(), events: 0, head: None }
    }

    /// The run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// How many events there are.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Hash of the last event.
    #[must_use]
    pub const fn head(&self) -> Option<Hash> {
        self.head
    }

    /// The next event.
    pub fn append(&mut self, seq: u64, event_type: &'static str, at: Instant, payload: &str) -> Event {
        let mut event = Event {
            event_id: format!("evt_{seq}"),
            run_id: Arc::clone(&self.run_id),
            event_type,
            // What is written of a moment are its milliseconds.
            timestamp: Instant(at.0 - at.0 % 1_000_000),
            payload_hash: payload_hash(payload),
            prev_hash: self.head.filter(|_| !self.events.is_multiple_of(PART)),
            event_hash: Hash([0; 32]),
        };
        event.event_hash = Hash::of(event.header().end().as_bytes());
        self.events += 1;
        self.head = Some(event.event_hash);
        event
    }
}

/// SHA-256 of what V8 writes when it has read a payload (`JSON.stringify(JSON.parse(text))`). That is nearly always the very text:
/// records have no fractions, and no member whose name is a number. What V8 would read differently from us is hashed as it stands.
#[must_use]
pub fn payload_hash(text: &str) -> Hash {
    const DEEPEST: usize = 128;
    // Seen at a look, because it is asked for each record as that is written.
    if json::is_written(text) {
        return Hash::of(text.as_bytes());
    }
    json::parse(text.as_bytes(), Limits { bytes: text.len(), depth: DEEPEST })
        .map_or_else(|_| Hash::of(text.as_bytes()), |value| value.insertion_hash())
}

/// The payload of a record's event for a job.
#[must_use]
pub fn payload_of<'a>(told: &Told<'a>, job: &str) -> Cow<'a, str> {
    let own = Body::read(told.kind, told.body).and_then(|body| body.payload_of(job));
    own.map_or(Cow::Borrowed(told.body), Cow::Owned)
}

/// Everything that was made of one record for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The job.
    pub job: String,
    /// The event.
    pub event: Event,
}

/// A job's run, as far as later records have to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    agent: Box<str>,
    contract: Option<Box<str>>,
    /// Whether the contract is its own, and not its agent's.
    own: bool,
    /// The number of the record that it is over.
    over: Option<u64>,
    chain: Chain,
}

/// The runs of a host, as its records tell of them. What it answers depends on nothing but the records since the oldest run that
/// is wanted began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    runs: BTreeMap<String, Run>,
    /// Jobs that are over, by the number of the record that says so.
    over: BTreeMap<u64, String>,
}

impl Runs {
    /// Takes the next record, and answers the events that it is: one for each job that it concerns, in the order of their names.
    pub fn take(&mut self, told: &Told<'_>) -> Vec<Made> {
        self.forget(told.seq);
        let Some(body) = Body::read(told.kind, told.body) else { return Vec::new() };
        let Some(concern) = body.concern() else { return Vec::new() };
        if let Body::JobStart(start) = &body {
            let chain = Chain::new(format!("run_{}_{}", start.job, told.seq));
            let contract = start.wpc_hash.as_deref().map(Into::into);
            let run = Run { agent: (&*start.agent).into(), contract, own: start.own_contract, over: None, chain };
            if let Some(Run { over: Some(seq), .. }) = self.runs.insert(start.job.clone().into_owned(), run) {
                self.over.remove(&seq);
            }
        }
        let made = self.append(told, &concern, &body);
        match &body {
            Body::JobEnd(end) => {
                if let Some(run) = self.runs.get_mut(&*end.job).filter(|run| run.over.is_none()) {
                    run.over = Some(told.seq);
                    self.over.insert(told.seq, end.job.clone().into_owned());
                }
            }
            Body::Contract(contract) => {
                if let (Some(agent), Some(hash)) = (&contract.agent, &contract.wpc_hash) {
                    for run in self.runs.values_mut().filter(|run| !run.own && *run.agent == **agent) {
                        run.contract = Some((&**hash).into());
                    }
                }
            }
            _ => {}
        }
        made
    }

    /// The jobs that are not over.
    pub fn live(&self) -> impl Iterator<Item = &str> {
        self.runs.iter().filter(|(_, run)| run.over.is_none()).map(|(job, _)| job.as_str())
    }

    /// The chain of a job's run.
    #[must_use]
    pub fn chain(&self, job: &str) -> Option<&Chain> {
        self.runs.get(job).map(|run| &run.chain)
    }

    fn append(&mut self, told: &Told<'_>, concern: &Concern<'_>, body: &Body<'_>) -> Vec<Made> {
        let mut made = Vec::new();
        let mut append = |job: &str, run: &mut Run| {
            let own = body.payload_of(job);
            let payload = own.as_deref().unwrap_or(told.body);
            let event = run.chain.append(told.seq, concern.event_type, told.at, payload);
            made.push(Made { job: job.into(), event });
        };
        match &concern.whom {
            Whom::Named(jobs) => {
                for job in jobs {
                    if let Some(run) = self.runs.get_mut(&**job) {
                        append(job, run);
                    }
                }
            }
            Whom::Everybody => {
                for (job, run) in self.runs.iter_mut().filter(|(_, run)| run.over.is_none()) {
                    append(job, run);
                }
            }
            Whom::Under { agent } => {
                for (job, run) in &mut self.runs {
                    if run.over.is_none() && !run.own && *run.agent == **agent {
                        append(job, run);
                    }
                }
            }
            Whom::Contract { hash } => {
                for (job, run) in &mut self.runs {
                    if run.over.is_none() && run.contract.as_deref() == Some(&**hash) {
                        append(job, run);
                    }
                }
            }
            Whom::Scopes(scopes) => {
                for (job, run) in &mut self.runs {
                    if run.over.is_none() && scopes.iter().any(|scope| names_agent(scope, job, &run.agent)) {
                        append(job, run);
                    }
                }
            }
        }
        made
    }

    fn forget(&mut self, seq: u64) {
        while let Some(entry) = self.over.first_entry()
            && entry.key() + LATE < seq
        {
            self.runs.remove(&entry.remove());
        }
    }
}

mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Into::into)
    }
}

mod hash_text {
    use claw::Hash;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde's own form")]
    pub(super) fn serialize<S: Serializer>(hash: &Option<Hash>, serializer: S) -> Result<S::Ok, S::Error> {
        match hash {
            Some(hash) => serializer.serialize_some(&hash.to_string()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hash>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
