//! Counters, and all metrics as Prometheus text.

use clawguard_common::{Hook, MAX_AGENTS, MAX_CGROUPS, MAX_JOBS, MAX_LEARNED, MAX_POLICIES};
use control::api::FlipAnswer;
use fence::AgentName;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::core::Core;

/// What is counted as it happens. The rest is read when somebody asks.
pub(crate) struct Counters {
    pub(crate) sockets_destroyed: IntCounter,
    pub(crate) lost_followers: IntCounter,
    alerts: IntCounterVec,
    flips: IntCounterVec,
    tokens: IntCounterVec,
    kill_seconds: Histogram,
    calls: IntCounterVec,
    pub(crate) call_seconds: Histogram,
    model_calls: IntCounterVec,
    /// Receipts of model calls, by what became of them.
    pub(crate) receipts: IntCounterVec,
    registry: Registry,
}

impl Counters {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let alerts = IntCounterVec::new(
            Opts::new("clawguard_bypass_alerts_total", "Attempts to go around the fence"),
            &["agent", "kind"],
        )?;
        let flips = IntCounterVec::new(
            Opts::new("clawguard_kill_flips_total", "Flips of the switch, by group and the state after"),
            &["group", "to"],
        )?;
        let kill_seconds = Histogram::with_opts(
            HistogramOpts::new("clawguard_kill_seconds", "From a kill's arrival to its proof")
                .buckets(vec![0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28]),
        )?;
        let sockets_destroyed =
            IntCounter::new("clawguard_sockets_destroyed_total", "Live connections that were ended")?;
        let lost_followers = IntCounter::new("clawguard_lost_followers", "Decisions that a follower was too slow for")?;
        registry.register(Box::new(alerts.clone()))?;
        registry.register(Box::new(flips.clone()))?;
        registry.register(Box::new(kill_seconds.clone()))?;
        registry.register(Box::new(sockets_destroyed.clone()))?;
        let tokens = IntCounterVec::new(
            Opts::new("clawguard_cst_total", "Job tokens: accepted, refused or ended, and why"),
            &["result", "cause"],
        )?;
        registry.register(Box::new(tokens.clone()))?;
        let calls = IntCounterVec::new(
            Opts::new(
                "clawguard_mcp_calls_total",
                "Calls of MCP servers, by what was decided (other: no server of this host's)",
            ),
            &["server", "decision"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        let call_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "clawguard_mcp_call_seconds",
                "Calls of MCP servers that were made, from request to the answer's end",
            )
            .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0]),
        )?;
        registry.register(Box::new(call_seconds.clone()))?;
        let model_calls = IntCounterVec::new(
            Opts::new(
                "clawguard_model_calls_total",
                "Model calls, by what was decided (other: no provider that is understood)",
            ),
            &["provider", "decision"],
        )?;
        registry.register(Box::new(model_calls.clone()))?;
        let receipts = IntCounterVec::new(
            Opts::new(
                "clawguard_receipts_total",
                "Receipts of model calls: signed here, verified (a clawproxy's), missing, or unrecorded",
            ),
            &["result"],
        )?;
        registry.register(Box::new(receipts.clone()))?;
        Ok(Self {
            sockets_destroyed,
            lost_followers,
            alerts,
            flips,
            tokens,
            kill_seconds,
            calls,
            call_seconds,
            model_calls,
            receipts,
            registry,
        })
    }

    pub(crate) fn alert(&self, agent: &AgentName, kind: &str, count: u64) {
        self.alerts.with_label_values(&[agent.as_str(), kind]).inc_by(count);
    }

    pub(crate) fn token(&self, result: &str, cause: &str) {
        self.tokens.with_label_values(&[result, cause]).inc();
    }

    /// Counts calls of a server that the configuration names, or of `other` ones: their number has a bound.
    pub(crate) fn called(&self, server: &str, decision: &str, count: u64) {
        self.calls.with_label_values(&[server, decision]).inc_by(count);
    }

    /// Counts model calls of a provider that is understood, or of `other` ones: their number has a bound.
    pub(crate) fn model_called(&self, provider: &str, decision: &str, count: u64) {
        self.model_calls.with_label_values(&[provider, decision]).inc_by(count);
    }

    pub(crate) fn flipped(&self, flip: &FlipAnswer) {
        self.flips.with_label_values(&[flip.group.as_str(), flip.state.as_str()]).inc();
        self.sockets_destroyed.inc_by(flip.sockets_destroyed);
        if flip.state != "live" && flip.state != "normal" {
            self.kill_seconds.observe(flip.total_ns as f64 / 1e9);
        }
    }
}

/// Gauges of the moment, in a registry of their own.
struct Snapshot(Registry);

impl Snapshot {
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn whole(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str, value: f64) -> Result<(), prometheus::Error> {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }
}

impl Core {
    /// All metrics.
    pub(crate) fn metrics(&self) -> Result<String, prometheus::Error> {
        let now = Snapshot(Registry::new());
        let build = now.whole("clawguard_build_info", "The running version", &["version", "abi"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), &clawguard_common::ABI.to_string()]).set(1);
        let armed =
            now.whole("clawguard_hook_armed", "Whether the hook passed its self-test and is attached now", &["hook"])?;
        for hook in Hook::ALL {
            armed.with_label_values(&[hook.label()]).set(i64::from(self.armed && self.fence.attached(hook)));
        }
        let beat_ago = sys::clock::boot_ns().saturating_sub(self.fence.last_beat());
        let beat = sys::clock::wall_ns().saturating_sub(beat_ago) as f64 / 1e9;
        now.gauge("clawguard_heartbeat_timestamp_seconds", "When the daemon last told the kernel that it lives", beat)?;
        let decisions = now.counters(
            "clawguard_egress_decisions_total",
            "Decisions of the kernel, exact",
            &["agent", "verdict", "reason"],
        )?;
        for (agent, verdict, reason, count) in self.totals() {
            decisions.with_label_values(&[agent.as_str(), verdict, reason]).inc_by(count);
        }
        let killed = now.whole("clawguard_group_killed", "Whether the group is killed for the host", &["group"])?;
        for group in self.groups() {
            killed.with_label_values(&[group.group.as_str()]).set(i64::from(group.state == "killed"));
        }
        let info = now.whole("clawguard_policy_info", "The contract in force", &["agent", "wpc_hash"])?;
        let expiry =
            now.gauges("clawguard_policy_expiry_timestamp_seconds", "When the contract in force expires", &["agent"])?;
        let rules = now.whole("clawguard_policy_rules", "Rules of the contract in force, in the kernel", &["agent"])?;
        for (name, agent) in &self.agents {
            let Some((hash, contract)) = agent.wpc.and_then(|hash| Some((hash, self.contracts.get(&hash)?))) else {
                continue;
            };
            info.with_label_values(&[name.as_str(), &hash.to_string()]).set(1);
            rules.with_label_values(&[name.as_str()]).set(self.fence.policy_entries(contract.slot) as i64);
            if let Some(to) = contract.not_after {
                expiry.with_label_values(&[name.as_str()]).set(to.0 as f64 / 1e9);
            }
        }
        let entries = now.whole("clawguard_map_entries", "Entries of the kernel's tables", &["map"])?;
        let capacity = now.whole("clawguard_map_capacity", "Room in the kernel's tables", &["map"])?;
        for (map, used, room) in self.map_usage() {
            entries.with_label_values(&[map]).set(used as i64);
            capacity.with_label_values(&[map]).set(room as i64);
        }
        let questions = now.counters(
            "clawguard_dns_questions_total",
            "Names that jobs asked for: allowed, denied, observed, withheld for where they lead, or too many",
            &["agent", "result"],
        )?;
        for ((agent, result), count) in &self.learned.questions {
            questions.with_label_values(&[agent.as_str(), result]).inc_by(*count);
        }
        let up = now.whole("clawguard_registry_up", "Whether the registry answered the last time", &["registry"])?;
        let success = now.gauges(
            "clawguard_registry_last_success_timestamp_seconds",
            "When the registry last answered",
            &["registry"],
        )?;
        for (name, reach) in self.registries.reached() {
            up.with_label_values(&[name]).set(i64::from(reach.up == Some(true)));
            if let Some(at) = reach.last_success {
                success.with_label_values(&[name]).set(at.0 as f64 / 1e9);
            }
        }
        now.gauge("clawguard_approvals_pending", "Calls that wait for a person", self.approvals.pending() as f64)?;
        let jobs =
            now.whole("clawguard_jobs", "Jobs, by the state of their token (none: it needs none)", &["token"])?;
        for job in self.jobs.values().filter(|job| !job.over) {
            let state = self.token_view(job).map_or_else(|| "none".into(), |token| token.state);
            jobs.with_label_values(&[state.as_str()]).inc();
        }
        let ends = now.gauges(
            "clawguard_cst_expiry_timestamp_seconds",
            "When the first of the agent's good job tokens expires",
            &["agent"],
        )?;
        for (agent, end) in self.next_token_ends() {
            ends.with_label_values(&[agent.as_str()]).set(end as f64);
        }
        let lost = now.counters("clawguard_events_lost_total", "Records that did not fit, by source", &["source"])?;
        for (source, count) in self.fence.lost().unwrap_or_default() {
            lost.with_label_values(&[source]).inc_by(count);
        }
        lost.with_label_values(&["follower"]).inc_by(self.counters.lost_followers.get());
        let records = IntCounter::new("clawguard_audit_records_total", "Records in the audit chain")?;
        records.inc_by(self.audit.records());
        now.0.register(Box::new(records))?;
        let mut families = now.0.gather();
        families.extend(self.counters.registry.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// How full the kernel's tables are: name, entries, room.
    pub(crate) fn map_usage(&self) -> Vec<(&'static str, u64, u64)> {
        vec![
            ("jobs", self.fence.jobs_in_use() as u64, u64::from(MAX_JOBS) - 1),
            ("policies", self.fence.policies_in_use() as u64, u64::from(MAX_POLICIES) - 1),
            ("cgroups", self.fence.cgroups_in_use() as u64, u64::from(MAX_CGROUPS)),
            ("agents", self.ledger.agents.len() as u64, u64::from(MAX_AGENTS) - 1),
            ("learned", self.fence.learned_in_use() as u64, u64::from(MAX_LEARNED)),
        ]
    }
}
