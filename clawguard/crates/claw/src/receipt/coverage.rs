//! A sentinel's word on what it saw of a run.

use super::{Error, Members, Object, Opened, open, seal};
use crate::{
    encoding::Hash,
    envelope::Kind,
    json::Value,
    key::{Did, PrivateKey},
    time::Instant,
};

/// Processes of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The first one; never zero.
    pub root_pid: u64,
    /// How many were seen.
    pub processes_tracked: u64,
    /// How many began where the sentinel does not look.
    pub unmonitored_spawns: u64,
    /// Whether one may have got away.
    pub escapes_suspected: bool,
}

/// Connections of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// All of them.
    pub connections_total: u64,
    /// Those that nothing judged.
    pub unmediated_connections: u64,
}

/// Whether the sentinel was there all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LivenessStatus {
    /// It was.
    Continuous,
    /// It was not.
    Interrupted,
}

/// How well the sentinel watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Whether it was interrupted.
    pub status: LivenessStatus,
    /// How long it watched the run, in milliseconds.
    pub uptime_ms: u64,
    /// How often it looked, in milliseconds; never zero.
    pub heartbeat_interval_ms: u64,
    /// The longest time that it did not, in milliseconds.
    pub max_gap_ms: u64,
}

/// Everything that it counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Processes.
    pub lineage: Lineage,
    /// Connections.
    pub egress: Egress,
    /// The sentinel itself.
    pub liveness: Liveness,
}

/// `coverage_attestation.v1`
#[derive(Clone, Debug, PartialEq)]
pub struct CoverageAttestation {
    /// Its id.
    pub attestation_id: String,
    /// The run.
    pub run_id: String,
    /// The agent of the bundle in which it lies.
    pub agent: Did,
    /// Who attests: the key that signs.
    pub sentinel: Did,
    /// When.
    pub issued_at: Instant,
    /// Hash of the first event of the chain.
    pub chain_root: Hash,
    /// What was counted.
    pub metrics: Metrics,
    /// More of it: an object, or nothing.
    pub metadata: Option<Value>,
}

impl CoverageAttestation {
    /// The payload, as it is hashed.
    #[must_use]
    pub fn payload(&self) -> String {
        let Metrics { lineage, egress, liveness } = &self.metrics;
        let mut payload = Object::default();
        payload.string("attestation_version", "1");
        payload.string("attestation_id", &self.attestation_id);
        payload.string("run_id", &self.run_id);
        payload.string("agent_did", &self.agent.to_string());
        payload.string("sentinel_did", &self.sentinel.to_string());
        payload.instant("issued_at", self.issued_at);
        payload.object("binding", |binding| binding.hash("event_chain_root_hash_b64u", &self.chain_root));
        payload.object("metrics", |metrics| {
            metrics.object("lineage", |of| {
                of.number("root_pid", lineage.root_pid.max(1));
                of.number("processes_tracked", lineage.processes_tracked);
                of.number("unmonitored_spawns", lineage.unmonitored_spawns);
                of.bool("escapes_suspected", lineage.escapes_suspected);
            });
            metrics.object("egress", |of| {
                of.number("connections_total", egress.connections_total);
                of.number("unmediated_connections", egress.unmediated_connections);
            });
            metrics.object("liveness", |of| {
                of.string(
                    "status",
                    match liveness.status {
                        LivenessStatus::Continuous => "continuous",
                        LivenessStatus::Interrupted => "interrupted",
                    },
                );
                of.number("uptime_ms", liveness.uptime_ms);
                of.number("heartbeat_interval_ms", liveness.heartbeat_interval_ms.max(1));
                of.number("max_gap_ms", liveness.max_gap_ms);
            });
        });
        if let Some(metadata) = &self.metadata {
            payload.value("metadata", metadata);
        }
        payload.end()
    }

    /// The signed envelope, in one line without its end. `None` if the key is not the sentinel's: verifiers would refuse it.
    #[must_use]
    pub fn seal(&self, key: &PrivateKey) -> Option<String> {
        (key.did() == self.sentinel).then(|| seal(&self.payload(), Kind::CoverageAttestation, key, self.issued_at))
    }

    /// Reads an envelope, and checks its hash, its signature and its shape.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Somebody else's signature than the sentinel's is one.
    pub fn open(text: &[u8]) -> Result<Opened<Self>, Error> {
        let opened = open(text, Kind::CoverageAttestation, Self::read)?;
        if opened.signer != opened.receipt.sentinel {
            return Err(Error::Wrong { name: "sentinel_did".into(), expected: "the signer" });
        }
        Ok(opened)
    }

    fn read(members: &Members<'_>) -> Result<Self, Error> {
        members.only(&[
            "attestation_version",
            "attestation_id",
            "run_id",
            "agent_did",
            "sentinel_did",
            "issued_at",
            "binding",
            "metrics",
            "metadata",
        ])?;
        members.is("attestation_version", "1")?;
        let binding = members.within("binding")?;
        binding.only(&["event_chain_root_hash_b64u"])?;
        let metrics = members.within("metrics")?;
        metrics.only(&["lineage", "egress", "liveness"])?;
        Ok(Self {
            attestation_id: members.string("attestation_id")?,
            run_id: members.string("run_id")?,
            agent: members.did("agent_did")?,
            sentinel: members.did("sentinel_did")?,
            issued_at: members.instant("issued_at")?,
            chain_root: binding.hash("event_chain_root_hash_b64u")?,
            metrics: read_metrics(&metrics)?,
            metadata: match members.value.get("metadata") {
                Some(metadata @ Value::Object(_)) => Some(metadata.clone()),
                Some(_) => return Err(members.wrong("metadata", "an object")),
                None => None,
            },
        })
    }
}

fn read_metrics(metrics: &Members<'_>) -> Result<Metrics, Error> {
    let lineage = metrics.within("lineage")?;
    lineage.only(&["root_pid", "processes_tracked", "unmonitored_spawns", "escapes_suspected"])?;
    let escapes_suspected = match lineage.get("escapes_suspected")? {
        Value::Bool(suspected) => *suspected,
        _ => return Err(lineage.wrong("escapes_suspected", "true or false")),
    };
    let egress = metrics.within("egress")?;
    egress.only(&["connections_total", "unmediated_connections"])?;
    let liveness = metrics.within("liveness")?;
    liveness.only(&["status", "uptime_ms", "heartbeat_interval_ms", "max_gap_ms"])?;
    let status = match liveness.string("status")?.as_str() {
        "continuous" => LivenessStatus::Continuous,
        "interrupted" => LivenessStatus::Interrupted,
        _ => return Err(liveness.wrong("status", "continuous or interrupted")),
    };
    let from_one = |members: &Members<'_>, name| match members.number(name)? {
        0 => Err(members.wrong(name, "a number from one up")),
        number => Ok(number),
    };
    Ok(Metrics {
        lineage: Lineage {
            root_pid: from_one(&lineage, "root_pid")?,
            processes_tracked: lineage.number("processes_tracked")?,
            unmonitored_spawns: lineage.number("unmonitored_spawns")?,
            escapes_suspected,
        },
        egress: Egress {
            connections_total: egress.number("connections_total")?,
            unmediated_connections: egress.number("unmediated_connections")?,
        },
        liveness: Liveness {
            status,
            uptime_ms: liveness.number("uptime_ms")?,
            heartbeat_interval_ms: from_one(&liveness, "heartbeat_interval_ms")?,
            max_gap_ms: liveness.number("max_gap_ms")?,
        },
    })
}
