//! Trust Pulse: a run's own summary, and the manifest by which a bundle points to it.
//!
//! The summary is in no envelope and proves nothing by itself; that is what its `evidence_class` says. Its hash stands in the
//! manifest, the manifest's in each bundle of the run. It has no member for traffic, and none is made up.

use claw::{Hash, key::Did, receipt::Object, time::Instant};

use crate::bundle::{Run, With};

/// Tools that are named; what is called less often is added up.
const MOST_TOOLS: usize = 128;
/// Characters of a tool's name.
const LONGEST: usize = 128;
/// Under this name.
const OTHERS: &str = "(others)";

/// `trust_pulse.v1`
pub(crate) struct Pulse {
    pub(crate) text: String,
    id: String,
}

impl Pulse {
    pub(crate) fn of(run: &Run, agent: &Did, issued_at: Instant) -> Self {
        let id = format!("pulse_{}", run.run_id);
        let mut pulse = Object::default();
        pulse.string("trust_pulse_version", "1");
        pulse.string("trust_pulse_id", &id);
        pulse.string("run_id", &run.run_id);
        pulse.string("agent_did", &agent.to_string());
        pulse.instant("issued_at", issued_at);
        pulse.string("evidence_class", "self_reported");
        pulse.bool("tier_uplift", false);
        pulse.instant("started_at", run.started_at);
        if let Some(end) = run.ended_at {
            pulse.instant("ended_at", end);
            pulse.number("duration_ms", end.0.saturating_sub(run.started_at.0) / 1_000_000);
        }
        let tools: Vec<String> = tools(run)
            .into_iter()
            .map(|(name, calls)| {
                let mut tool = Object::default();
                tool.string("name", &name);
                tool.number("calls", calls);
                tool.end()
            })
            .collect();
        pulse.list("tools", tools.iter().map(String::as_str));
        // What a job does to files is not looked at.
        pulse.list("files", []);
        Self { text: pulse.end(), id }
    }
}

/// The tools by name, most often called first.
fn tools(run: &Run) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> =
        run.tools.iter().map(|(name, calls)| (name.chars().take(LONGEST).collect(), *calls)).collect();
    all.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    if all.len() > MOST_TOOLS {
        let rest: u64 = all.drain(MOST_TOOLS - 1..).map(|(_, calls)| calls).sum();
        all.push((OTHERS.into(), rest));
    }
    all
}

/// `urm.v1`
pub(crate) struct Manifest {
    pub(crate) text: String,
    id: String,
}

impl Manifest {
    /// The reference in a bundle.
    pub(crate) fn refer(&self, payload: &mut Object) {
        payload.object("urm", |urm| {
            urm.string("urm_version", "1");
            urm.string("urm_id", &self.id);
            urm.string("resource_type", "universal_run_manifest");
            urm.hash("resource_hash_b64u", &Hash::of(self.text.as_bytes()));
        });
    }
}

/// The manifest of a run. `root` is the hash of its first event, if all its events are in one bundle.
pub(crate) fn manifest(pulse: &Pulse, run: &Run, with: &With<'_>, issued_at: Instant, root: Option<&Hash>) -> Manifest {
    let id = format!("urm_{}", run.run_id);
    let mut urm = Object::default();
    urm.string("urm_version", "1");
    urm.string("urm_id", &id);
    urm.string("run_id", &run.run_id);
    urm.string("agent_did", &with.agent.did().to_string());
    urm.instant("issued_at", issued_at);
    urm.object("harness", |harness| {
        harness.string("id", "clawguard");
        harness.string("version", with.harness.version);
        harness.string("runtime", with.harness.runtime);
        if let Some(hash) = &with.harness.config_hash {
            harness.hash("config_hash_b64u", hash);
        }
    });
    let inputs: Vec<String> = run
        .contract()
        .and_then(|hash| hash.parse::<Hash>().ok())
        .map(|hash| {
            let mut contract = Object::default();
            contract.string("type", "work_policy_contract");
            contract.hash("hash_b64u", &hash);
            contract.end()
        })
        .into_iter()
        .collect();
    urm.list("inputs", inputs.iter().map(String::as_str));
    urm.list("outputs", []);
    if let Some(root) = root {
        urm.hash("event_chain_root_hash_b64u", root);
    }
    urm.object("metadata", |metadata| {
        metadata.object("trust_pulse", |pointer| {
            pointer.string("schema", "https://schemas.clawbureau.org/claw.poh.trust_pulse.v1.json");
            pointer.string("trust_pulse_id", &pulse.id);
            pointer.hash("artifact_hash_b64u", &Hash::of(pulse.text.as_bytes()));
            pointer.string("evidence_class", "self_reported");
            pointer.bool("tier_uplift", false);
        });
    });
    Manifest { text: urm.end(), id }
}
