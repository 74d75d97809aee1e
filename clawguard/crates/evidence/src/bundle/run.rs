//! A job's run, gathered from the audit chain: its events, and what is made of them for a bundle.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use claw::{Hash, time::Instant};
use serde::{Deserialize, Serialize};

use crate::{
    chain::Kind,
    events::{Event, Runs, Told},
};

/// Names of tools and contracts that are kept of a run, at the most.
const MOST_NAMES: usize = 4096;

/// Everything that the audit chain says of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The job.
    pub job: String,
    /// Its agent.
    pub agent: String,
    /// The run.
    pub run_id: Arc<str>,
    /// Whether its contract was enforced, and not only observed.
    pub enforced: bool,
    /// When it began.
    pub started_at: Instant,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<Instant>,
    /// Hashes of the contracts that it was under, in their order.
    pub contracts: Vec<String>,
    /// Its events, in their order.
    pub events: Vec<Event>,
    /// Calls of tools that ended with a result.
    pub results: Vec<ToolResult>,
    /// How often each tool was called.
    pub tools: BTreeMap<String, u64>,
    /// What happened how often.
    pub counts: Counts,
}

/// A call of a tool that ended with a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// Which of the run's events it is.
    pub event: usize,
    /// `mcp.SERVER.TOOL`
    pub tool: String,
    /// SHA-256 of the arguments' canonical JSON.
    pub args_hash: Hash,
    /// SHA-256 of the result's canonical JSON.
    pub result_hash: Hash,
    /// Whether the tool did what it was asked.
    pub good: bool,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// Hash of the contract.
    pub contract: Option<Hash>,
}

/// What happened how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Calls of MCP that were made.
    pub tool_calls: u64,
    /// Those that were refused.
    pub tool_denied: u64,
    /// Those that waited for a person.
    pub tool_held: u64,
    /// Model calls that were made.
    pub model_calls: u64,
    /// Those that were refused.
    pub model_denied: u64,
    /// Groups that were killed, modes that were taken.
    pub flips: u64,
    /// Attempts to go around.
    pub alerts: u64,
    /// What the kernel let through.
    pub egress_allowed: u64,
    /// What it refused.
    pub egress_denied: u64,
    /// What it would have refused, had the job not been observed only.
    pub egress_observed: u64,
}

/// Reads the audit chain for one job.
#[derive(Debug)]
pub struct Gathering {
    job: String,
    runs: Runs,
    run: Option<Run>,
}

type Text<'a> = Cow<'a, str>;

#[derive(Deserialize)]
struct Start<'a> {
    #[serde(borrow)]
    agent: Text<'a>,
    #[serde(borrow, default)]
    wpc_hash: Option<Text<'a>>,
    #[serde(borrow, default)]
    mode: Text<'a>,
}

#[derive(Deserialize)]
struct InForce<'a> {
    #[serde(borrow, default)]
    wpc_hash: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow, default)]
    server: Text<'a>,
    #[serde(borrow, default)]
    method: Text<'a>,
    #[serde(borrow, default)]
    tool: Text<'a>,
    #[serde(borrow, default)]
    arguments_sha256: Text<'a>,
    #[serde(borrow, default)]
    status: Option<Text<'a>>,
    #[serde(default)]
    duration_us: u64,
    #[serde(borrow, default)]
    result_sha256: Option<Text<'a>>,
    #[serde(borrow, default)]
    wpc_hash: Text<'a>,
    #[serde(default = "one")]
    count: u64,
}

const fn one() -> u64 {
    1
}

#[derive(Deserialize)]
struct Decisions<'a> {
    #[serde(borrow)]
    decisions: Vec<Decision<'a>>,
}

#[derive(Deserialize)]
struct Decision<'a> {
    #[serde(borrow, default)]
    job: Text<'a>,
    #[serde(borrow, default)]
    verdict: Text<'a>,
    #[serde(default)]
    count: u64,
}

impl Gathering {
    /// For a job. Of several runs under its name, the last one is gathered.
    #[must_use]
    pub fn new(job: impl Into<String>) -> Self {
        Self { job: job.into(), runs: Runs::default(), run: None }
    }

    /// Takes the next record. The chain may begin anywhere before the run.
    pub fn take(&mut self, told: &Told<'_>) {
        for made in self.runs.take(told) {
            if made.job == self.job {
                self.event(told, made.event);
            }
        }
    }

    /// What was gathered; `None` if the job never began.
    #[must_use]
    pub fn finish(self) -> Option<Run> {
        self.run
    }

    fn event(&mut self, told: &Told<'_>, event: Event) {
        if told.kind == Kind::JobStart {
            let Ok(start) = serde_json::from_str::<Start<'_>>(told.body) else { return };
            self.run = Some(Run {
                job: self.job.clone(),
                agent: start.agent.into_owned(),
                run_id: Arc::clone(&event.run_id),
                enforced: start.mode == "enforce",
                started_at: event.timestamp,
                ended_at: None,
                contracts: start.wpc_hash.map(Text::into_owned).into_iter().collect(),
                events: Vec::new(),
                results: Vec::new(),
                tools: BTreeMap::new(),
                counts: Counts::default(),
            });
        }
        let Some(run) = &mut self.run else { return };
        run.note(told, event.event_type);
        if event.event_type == "run_end" {
            run.ended_at = Some(event.timestamp);
        }
        run.events.push(event);
    }
}

impl Run {
    /// The contract that it is under, or was under last.
    #[must_use]
    pub fn contract(&self) -> Option<&str> {
        self.contracts.last().map(String::as_str)
    }

    fn note(&mut self, told: &Told<'_>, event_type: &str) {
        match event_type {
            "tool_call" | "tool_held" | "tool_denied" => self.call(told, event_type),
            "llm_call" => self.counts.model_calls += 1,
            "llm_denied" => self.counts.model_denied += count(told),
            "tool_group_killed" | "tool_group_restored" | "mode_changed" | "flip_unproven" => self.counts.flips += 1,
            "bypass_alert" => self.counts.alerts += 1,
            "egress_decisions" => self.decisions(told),
            "policy_in_force" => {
                let hash = serde_json::from_str::<InForce<'_>>(told.body).ok().and_then(|body| body.wpc_hash);
                if let Some(hash) = hash
                    && self.contract() != Some(&*hash)
                    && self.contracts.len() < MOST_NAMES
                {
                    self.contracts.push(hash.into_owned());
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, told: &Told<'_>, event_type: &str) {
        let Ok(call) = serde_json::from_str::<Call<'_>>(told.body) else { return };
        match event_type {
            "tool_call" => self.counts.tool_calls += call.count,
            "tool_held" => self.counts.tool_held += call.count,
            _ => self.counts.tool_denied += call.count,
        }
        if event_type != "tool_call" || call.method != "tools/call" {
            return;
        }
        let tool = format!("mcp.{}.{}", call.server, call.tool);
        if self.tools.len() < MOST_NAMES || self.tools.contains_key(&tool) {
            *self.tools.entry(tool.clone()).or_default() += call.count;
        }
        // A call that was killed, cancelled or lost has no result, and the format no word for that.
        let good = match call.status.as_deref() {
            Some("ok") => true,
            Some("tool_error" | "blocked" | "error") => false,
            _ => return,
        };
        let hash = |text: &str| text.parse::<Hash>().ok();
        let (Some(args_hash), Some(result_hash)) =
            (hash(&call.arguments_sha256), call.result_sha256.as_deref().and_then(hash))
        else {
            return;
        };
        self.results.push(ToolResult {
            event: self.events.len(),
            tool,
            args_hash,
            result_hash,
            good,
            duration_us: call.duration_us,
            contract: hash(&call.wpc_hash),
        });
    }

    fn decisions(&mut self, told: &Told<'_>) {
        let Ok(body) = serde_json::from_str::<Decisions<'_>>(told.body) else { return };
        for decision in body.decisions.iter().filter(|decision| decision.job == *self.job) {
            let of = match &*decision.verdict {
                "allowed" => &mut self.counts.egress_allowed,
                "observed" => &mut self.counts.egress_observed,
                _ => &mut self.counts.egress_denied,
            };
            *of = of.saturating_add(decision.count);
        }
    }
}

/// How many a record stands for.
fn count(told: &Told<'_>) -> u64 {
    #[derive(Deserialize)]
    struct Counted {
        #[serde(default = "one")]
        count: u64,
    }
    serde_json::from_str::<Counted>(told.body).map_or(1, |counted| counted.count)
}
