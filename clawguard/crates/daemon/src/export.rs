//! Hands out what happened to a job, in a form that others can verify: made from the audit chain alone, so that a job that is
//! long over is told as well as one that runs.
//!
//! The chain's files are read beside the daemon's lock. Nothing is written but the keys that a first export needs.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use claw::{
    Hash,
    envelope::{Envelope, Kind as EnvelopeKind},
    key::{Did, PrivateKey},
    receipt::{Egress, Hosts, Lineage, Liveness, LivenessStatus, Metrics},
};
use control::api::{Code, EvidenceAnswer, EvidenceFile, EvidenceTrust};
use evidence::{
    bundle::{self, Absent, Gathering, Harness, Held, Run, With},
    chain::{Kind, Verifier},
    events::Told,
};
use fence::JobId;
use policy::{
    Contract, HostFacts,
    contract::{Allowed, To},
    name::HostPattern,
};
use serde_json::Value;

use crate::{
    audit,
    config::{Config, ModelGateway, Text},
    core::{Answer, Core, Shared, failed, refuse},
    host_key,
};

/// Exports that are made at once: each holds a thread that others may need.
pub(crate) const AT_ONCE: usize = 2;
/// Bytes of an answer that is not a stream.
const MOST_AT_ONCE: usize = 32 << 20;
/// Events of a run that are told: each is held in memory while its bundles are written.
const MOST_EVENTS: usize = 1_000_000;

/// What an export needs of the daemon, taken under its lock.
struct Asked {
    job: JobId,
    config: Config,
    facts: HostFacts,
    /// The numbers of a job that runs, as of now.
    coverage: Option<Value>,
    /// Records that were written by then.
    records: u64,
    files: Vec<(u64, PathBuf)>,
    host: Did,
    receipts: Did,
}

/// What signs.
struct Keys {
    agent: PrivateKey,
    sentinel: PrivateKey,
}

/// What the chain says of a job beside its events.
#[derive(Default)]
struct Said {
    run: Option<Run>,
    /// Its last numbers.
    coverage: Option<Value>,
    /// Processes that were told to have left it.
    escaped: bool,
    /// Model connections without a receipt, as they were told.
    unreceipted: u64,
    /// Envelopes of gateway receipts.
    receipts: Vec<String>,
    /// The agent that its token names, where this host does not have the key.
    foreign_agent: Option<String>,
    /// The configuration in force.
    config_hash: Option<Hash>,
    /// Where the chain is broken.
    broken: Option<String>,
}

impl Shared {
    /// Writes the bundles of a job, and everything that is needed to verify them.
    pub(crate) fn export(&self, name: &str) -> Answer<EvidenceAnswer> {
        let Ok(_place) = self.exports.try_acquire() else {
            return refuse(Code::Unavailable, "other exports are being written", "try again in a moment");
        };
        let asked = self.lock().asked(name)?;
        let said = gather(&asked)?;
        let Some(run) = &said.run else {
            return refuse(
                Code::NotFound,
                format!("the audit chain knows of no job {name}"),
                "`clawguard audit tail` shows it",
            );
        };
        let contracts = self.contracts_of(run);
        let keys = self.lock().keys(&asked.job)?;
        let answer = write(&asked, &keys, &said, run, &contracts)?;
        sys::memory::trim();
        Ok(answer)
    }

    /// The envelopes of the contracts that a run was under, as far as they are kept, by hash.
    fn contracts_of(&self, run: &Run) -> Vec<(String, Option<Vec<u8>>)> {
        let core = self.lock();
        let kept = |text: &String| {
            let bytes = text.parse::<Hash>().ok().and_then(|hash| core.contract_bytes(hash).ok());
            (text.clone(), bytes)
        };
        run.contracts.iter().map(kept).collect()
    }
}

impl Core {
    fn asked(&mut self, name: &str) -> Answer<Asked> {
        let job: JobId =
            name.parse().or_else(|error: fence::NotAName| refuse(Code::BadRequest, error.to_string(), ""))?;
        // What was decided so far is in the chain before that is read.
        self.end_interval();
        let coverage = self.jobs.get(&job).filter(|job| !job.over).map(|known| self.facts(&job, known).to_json());
        Ok(Asked {
            config: self.config.clone(),
            facts: self.facts.clone(),
            coverage,
            records: self.audit.records(),
            files: audit::files(&self.paths.audit()).map_err(|error| failed("read the audit chain", &error))?,
            host: self.host_did(),
            receipts: self.receipt_key.did(),
            job,
        })
    }

    /// The key of a job's agent, minted with the first export if no token needed it before, and the sentinel's.
    fn keys(&mut self, job: &JobId) -> Answer<Keys> {
        let key = |path: &Path, what: &str| host_key(path).map_err(|error| failed(what, &error));
        Ok(Keys {
            agent: key(&self.paths.job_key(job), "make the job's key")?,
            sentinel: key(&self.paths.sentinel_key(), "read the sentinel's key")?,
        })
    }
}

/// Reads the chain from the last start of the job on.
fn gather(asked: &Asked) -> Answer<Said> {
    let first = begins_in(asked)?;
    let mut said = Said::default();
    let mut gathering = Gathering::new(asked.job.as_str());
    let mut verifier: Option<Verifier> = None;
    'files: for (_, path) in asked.files.iter().filter(|(number, _)| *number >= first) {
        let file = File::open(path).map_err(|error| failed("read the audit chain", &error))?;
        let mut lines = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line).map_err(|error| failed("read the audit chain", &error))?;
            if read == 0 {
                break;
            }
            let Some(told) = Told::of_line(line.trim_ascii_end()) else {
                said.broken.get_or_insert_with(|| format!("a line of {} is no record", path.display()));
                continue;
            };
            if told.seq >= asked.records {
                break 'files;
            }
            let verifier = verifier.get_or_insert_with(|| Verifier::from(audit::before(&line), Some(asked.host)));
            if said.broken.is_none()
                && let Err(broken) = verifier.read(&line)
            {
                said.broken = Some(broken.to_string());
            }
            said.take(&told, asked.job.as_str());
            gathering.take(&told);
        }
    }
    said.run = gathering.finish();
    if said.run.as_ref().is_some_and(|run| run.events.len() > MOST_EVENTS) {
        return refuse(
            Code::Unavailable,
            format!("the job has more than {MOST_EVENTS} events, which this host does not hold in memory at once"),
            "`clawguard audit export --job` tells all of them",
        );
    }
    Ok(said)
}

/// The newest file in which the job starts; all of them where none says so.
fn begins_in(asked: &Asked) -> Answer<u64> {
    let wanted = format!("\"job\":\"{}\"", asked.job);
    for (number, path) in asked.files.iter().rev() {
        let file = File::open(path).map_err(|error| failed("read the audit chain", &error))?;
        let starts = |line: &[u8]| {
            let text = String::from_utf8_lossy(line);
            text.contains("\"kind\":\"job_start\"") && text.contains(&wanted)
        };
        let mut lines = BufReader::with_capacity(1 << 16, file).split(b'\n');
        if lines.any(|line| line.is_ok_and(|line| starts(&line))) {
            return Ok(*number);
        }
    }
    Ok(0)
}

impl Said {
    fn take(&mut self, told: &Told<'_>, job: &str) {
        let interesting = matches!(
            told.kind,
            Kind::JobStart | Kind::Coverage | Kind::Alert | Kind::Model | Kind::Token | Kind::Configuration
        );
        if !interesting {
            return;
        }
        if told.kind == Kind::Configuration {
            self.config_hash = Some(Hash::of(told.body.as_bytes()));
            return;
        }
        let Ok(body) = serde_json::from_str::<Value>(told.body) else { return };
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        if text("job") != Some(job) {
            return;
        }
        match told.kind {
            // Another run under the same name.
            Kind::JobStart => *self = Self { config_hash: self.config_hash, ..Self::default() },
            Kind::Coverage => self.coverage = Some(body),
            Kind::Alert if text("kind") == Some("cgroup_escape") => self.escaped = true,
            Kind::Alert if text("kind") == Some("receipt_missing") => {
                self.unreceipted += body.get("count").and_then(Value::as_u64).unwrap_or(1);
            }
            Kind::Model => self.receipts.extend(text("receipt").map(str::to_owned)),
            Kind::Token => {
                let foreign = text("agent_key") == Some("foreign");
                if let Some(did) = text("agent_did") {
                    self.foreign_agent = foreign.then(|| did.to_owned());
                }
            }
            _ => {}
        }
    }

    /// The numbers of the attestation.
    fn metrics(&self, live: Option<&Value>) -> Result<Metrics, String> {
        let Some(facts) = live.or(self.coverage.as_ref()) else {
            return Err("nobody was there to count when the job ended".into());
        };
        let number = |name: &str| facts.get(name).and_then(Value::as_u64).unwrap_or(0);
        let said = |name: &str| facts.get(name).and_then(Value::as_bool).unwrap_or(true);
        let continuous = facts.get("status").and_then(Value::as_str) == Some("continuous");
        Ok(Metrics {
            lineage: Lineage {
                root_pid: number("root_pid"),
                processes_tracked: number("processes_tracked"),
                unmonitored_spawns: number("unmonitored_spawns"),
                escapes_suspected: said("escapes_suspected") || self.escaped,
            },
            egress: Egress {
                connections_total: number("connections_total"),
                unmediated_connections: number("unmediated_connections").max(self.unreceipted),
            },
            liveness: Liveness {
                status: if continuous { LivenessStatus::Continuous } else { LivenessStatus::Interrupted },
                uptime_ms: number("uptime_ms"),
                heartbeat_interval_ms: number("heartbeat_interval_ms"),
                max_gap_ms: number("max_gap_ms"),
            },
        })
    }

    /// What else is not there.
    fn absent(&self, live: Option<&Value>, contracts: &[(String, Option<Vec<u8>>)]) -> Vec<Absent> {
        let mut absent = Vec::new();
        let mut say = |what: String, why: &str| absent.push(Absent { what, why: why.into() });
        if let Some(broken) = &self.broken {
            say("an unbroken audit chain".into(), broken);
        }
        let facts = live.or(self.coverage.as_ref());
        if facts.and_then(|facts| facts.get("lineage")).and_then(Value::as_str) == Some("sampled") {
            say("a count of processes".into(), "this host's kernel is not traced: they are sampled once a second");
        }
        for (hash, _) in contracts.iter().filter(|(_, bytes)| bytes.is_none()) {
            say(format!("the contract {hash}"), "it is not kept on this host");
        }
        absent
    }
}

fn write(
    asked: &Asked,
    keys: &Keys,
    said: &Said,
    run: &Run,
    contracts: &[(String, Option<Vec<u8>>)],
) -> Answer<EvidenceAnswer> {
    let live = asked.coverage.as_ref().filter(|_| run.ended_at.is_none());
    let absent = said.absent(live, contracts);
    let last = contracts.last().and_then(|(_, bytes)| bytes.as_deref());
    let with = With {
        agent: &keys.agent,
        sentinel: &keys.sentinel,
        receipts: &said.receipts,
        coverage: said.metrics(live),
        egress: held(&asked.config, &asked.facts, last),
        foreign_agent: said.foreign_agent.as_deref(),
        absent: &absent,
        harness: Harness { version: env!("CARGO_PKG_VERSION"), runtime: "host", config_hash: said.config_hash },
        issued_at: Core::now(),
    };
    let export = bundle::write(run, &with).map_err(|error| failed("write the bundle", &error))?;
    let mut files = Vec::with_capacity(export.parts.len() + contracts.len() + 2);
    let parts = export.parts.len();
    for (i, part) in export.parts.into_iter().enumerate() {
        files.push(EvidenceFile { name: format!("bundle-{}.json", i + 1), text: part.text });
    }
    files.push(EvidenceFile { name: "bundle-urm.json".into(), text: export.urm });
    files.push(EvidenceFile { name: "trust-pulse.json".into(), text: export.trust_pulse });
    for (i, (_, bytes)) in contracts.iter().enumerate() {
        let name = if contracts.len() == 1 { "wpc.json".into() } else { format!("wpc-{}.json", i + 1) };
        let text = bytes.as_deref().map(String::from_utf8_lossy);
        files.extend(text.map(|text| EvidenceFile { name, text: text.trim_end().to_owned() }));
    }
    let dids = |dids: &[Text<Did>]| dids.iter().map(|did| did.0.to_string()).collect::<Vec<_>>();
    let mut receipt_signers = vec![asked.receipts.to_string()];
    receipt_signers.extend(dids(&asked.config.trust.receipt_signers));
    Ok(EvidenceAnswer {
        job: run.job.clone(),
        agent: run.agent.clone(),
        run_id: run.run_id.to_string(),
        agent_did: keys.agent.did().to_string(),
        running: run.ended_at.is_none(),
        events: run.events.len() as u64,
        parts: parts as u64,
        absent: absent.into_iter().map(|absent| format!("{}: {}", absent.what, absent.why)).collect(),
        left_out: export.left_out.into_iter().map(|(_, why)| why).collect(),
        trust: EvidenceTrust {
            receipt_signers,
            sentinels: vec![keys.sentinel.did().to_string()],
            wpc_signers: dids(&asked.config.trust.wpc_signers),
            host: asked.host.to_string(),
        },
        files,
    })
}

/// What the last contract held the job to, in the form of an egress policy receipt; or why there is none.
fn held(config: &Config, facts: &HostFacts, envelope: Option<&[u8]>) -> Result<Held, String> {
    let envelope = envelope.ok_or("the contract in force is not kept on this host")?;
    let envelope =
        Envelope::open(envelope, EnvelopeKind::WorkPolicyContract).map_err(|error| format!("the contract: {error}"))?;
    let contract = Contract::read(&envelope.payload).map_err(|error| format!("the contract: {error}"))?;
    // Its own loopback is every job's.
    let mut children: Vec<String> = ["127.0.0.1", "::1", "localhost"].map(Into::into).into();
    let mut model = None;
    let mut host = |pattern: &HostPattern| {
        // A pattern around providers' hosts does not open those (`compile`); one of theirs does.
        let serves = match pattern {
            HostPattern::Exact(name) => facts.is_model_host(name),
            HostPattern::Below(name) => format!("x.{name}").parse().is_ok_and(|below| facts.is_model_host(&below)),
        };
        if serves {
            model = Some(pattern.to_string());
        }
        children.push(pattern.to_string());
    };
    for allowed in contract.egress_allowlist.iter().flatten() {
        if let Allowed::Host(pattern) = allowed {
            host(pattern);
        }
    }
    let (mut ranges, mut place) = (Vec::new(), None);
    for egress in &contract.guard.egress {
        match &egress.to {
            To::Host(pattern) => host(pattern),
            To::Range(range) => {
                let serves = |port: &u16| facts.is_model_place(range.addr, *port);
                if range.bits == 128 && egress.ports.iter().any(serves) {
                    place = Some(range.to_string());
                }
                ranges.push(range.to_string());
            }
        }
    }
    if let Some(name) = model.or(place) {
        return Err(format!("the contract opens {name}, where models answer without a receipt"));
    }
    for range in ranges {
        let one = range.strip_suffix("/32").or_else(|| range.strip_suffix("/128"));
        match one {
            Some(address) => children.push(address.to_owned()),
            None => return Err(format!("the contract opens the range {range}, for which its form has no word")),
        }
    }
    let own = format!("http://127.0.0.1:{}", config.model.port);
    let (clawproxy_url, proxies) = match config.model.gateway() {
        ModelGateway::Clawproxy(url) => (url.to_owned(), config.model.destinations()),
        ModelGateway::Builtin => (own, config.model.destinations()),
        ModelGateway::None => (own, Vec::new()),
    };
    let proxies = if proxies.is_empty() { vec!["127.0.0.1".to_owned()] } else { proxies };
    Ok(Held {
        clawproxy_url,
        proxy_destinations: Hosts::new(proxies).map_err(|error| error.to_string())?,
        child_destinations: Hosts::new(children).map_err(|error| error.to_string())?,
    })
}

/// An export as one answer, if it is small enough.
pub(crate) fn at_once(answer: &EvidenceAnswer) -> Answer<()> {
    let bytes: usize = answer.files.iter().map(|file| file.text.len()).sum();
    if bytes <= MOST_AT_ONCE {
        return Ok(());
    }
    refuse(
        Code::Unavailable,
        format!("the evidence is {bytes} bytes, and an answer has {MOST_AT_ONCE} at the most"),
        "ask with \"Accept: text/event-stream\": each file is an event of its own, and the last one says that it is the last",
    )
}

/// An export as a stream: what it is, its files one by one, and its end.
pub(crate) fn streamed(mut answer: EvidenceAnswer) -> tokio::sync::mpsc::Receiver<String> {
    let files = std::mem::take(&mut answer.files);
    // Room for all of it: no thread waits for who reads.
    let (sender, receiver) = tokio::sync::mpsc::channel(files.len() + 2);
    let count = files.len();
    let first = serde_json::to_string(&answer);
    let last = serde_json::to_string(&BTreeMap::from([("complete", count)]));
    let rest = files.iter().map(serde_json::to_string);
    for text in std::iter::once(first).chain(rest).chain([last]).flatten() {
        if sender.try_send(text).is_err() {
            break;
        }
    }
    receiver
}
