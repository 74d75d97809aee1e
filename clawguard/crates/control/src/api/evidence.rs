//! What happened to a job, for others to verify.

use serde::{Deserialize, Serialize};

/// `GET /v1/evidence/{name}`. As a stream: this without its files, then each file, then `{"complete":N}` with their number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceAnswer {
    /// The job.
    pub job: String,
    /// Its agent.
    pub agent: String,
    /// The run: of several under this job's name the last.
    pub run_id: String,
    /// By whose key the bundles are signed: the one that this host minted for the job.
    pub agent_did: String,
    /// Whether the job runs, so that there is more to come.
    pub running: bool,
    /// How many events there are.
    pub events: u64,
    /// How many bundles.
    pub parts: u64,
    /// What is not there, and why; the bundles say it too.
    pub absent: Vec<String>,
    /// Why receipts were left out of the bundles, one by one.
    pub left_out: Vec<String>,
    /// Whose signatures there are.
    pub trust: EvidenceTrust,
    /// The files: `bundle-N.json`, `bundle-urm.json`, `trust-pulse.json`, and the contracts' envelopes as `wpc.json`, or `wpc-N.json`
    /// in their order where there were several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<EvidenceFile>,
}

/// Public keys of this host's, by DID. Whether they are trusted is for whoever verifies to say, who knows them from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceTrust {
    /// Of the receipts of model calls.
    pub receipt_signers: Vec<String>,
    /// Of coverage attestations.
    pub sentinels: Vec<String>,
    /// Of contracts.
    pub wpc_signers: Vec<String>,
    /// Of the audit chain's checkpoints.
    pub host: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceFile {
    /// Its name.
    pub name: String,
    /// What stands in it, without the last line's end.
    pub text: String,
}
