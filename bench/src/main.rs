//! `cargo xtask bench`: measures what docs/SPECIFICATION.md promises and prints it as that document's tables.
//!
//! Machines are noisy, so each cost is measured in rounds that alternate with its alternative, and what is said of a
//! round is its median call. No traffic leaves the network namespaces of the run.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement that goes wrong stops")]

mod cost;
mod daemon;
mod evidence;
mod far;
mod host;
mod identity;
mod mcp;
mod mcp_echo;
mod mcp_http;
mod mcp_worker;
mod model;
mod model_provider;
mod model_worker;
mod names;
mod names_worker;
mod receipts;
mod spawn;
mod switch;
mod tls;
mod tls_worker;
mod ways;
mod worker;

/// A line of the report: what, what was measured, the promise, whether it is kept.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) promised: &'static str,
    pub(crate) kept: bool,
}

impl Line {
    pub(crate) fn new(what: impl Into<String>, measured: String, promised: &'static str, kept: bool) -> Self {
        Self { what: what.into(), measured, promised, kept }
    }
}

type Measurement = fn() -> Vec<Line>;

const ALL: &[(&str, Measurement)] = &[
    ("connect", cost::connect),
    ("packet", cost::packet),
    ("stream", cost::stream),
    ("entries", cost::entries),
    ("kill", switch::kill),
    ("refusal", switch::refusal),
    ("run", daemon::run),
    ("memory", daemon::memory),
    ("count", daemon::count),
    ("idle", daemon::idle),
    ("spawn", spawn::spawn),
    ("contracts", identity::contracts),
    ("tokens", identity::tokens),
    ("revocation", identity::revocation),
    ("tls", tls::throughput),
    ("first-byte", tls::first_byte),
    ("names", names::answers),
    ("look-ups", names::look_ups),
    ("receipts", receipts::signed),
    ("verify-bundle", evidence::bundles),
    ("verify-audit", evidence::audit),
    ("keep-audit", evidence::kept),
    ("mcp-calls", mcp::calls),
    ("mcp-sessions", mcp::sessions),
    ("mcp-kill", mcp::kill),
    ("model-calls", model::calls),
    ("model-stream", model::stream),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "worker") {
        return worker::main(&words[1..]);
    }
    let unknown: Vec<&String> = words.iter().filter(|word| ALL.iter().all(|(name, _)| !means(word, name))).collect();
    if !unknown.is_empty() {
        let known: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("bench: no measurement {unknown:?}; there are {}", known.join(" "));
        std::process::exit(2);
    }
    println!("| what | measured | promised | |\n|---|---|---|---|");
    let mut broken = 0;
    for (name, measure) in ALL {
        if !words.is_empty() && !words.iter().any(|word| means(word, name)) {
            continue;
        }
        // A network namespace belongs to a thread.
        let lines = std::thread::spawn(measure).join().unwrap();
        for line in lines {
            broken += usize::from(!line.kept);
            let kept = if line.kept { "kept" } else { "**not kept**" };
            println!("| {} | {} | {} | {kept} |", line.what, line.measured, line.promised);
        }
    }
    if broken > 0 {
        eprintln!("bench: {broken} promises were not kept in this run");
    }
}

/// Whether a word means a measurement: by its name, or with others by what their names begin with.
fn means(word: &str, name: &str) -> bool {
    name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The middle one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The one that so many of a hundred are not above.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
