//! `clawguard audit export`: records for other programs, as JSON lines or as a table.

use std::collections::BTreeMap;

use claw::time::Instant;
use evidence::{
    around::{Around, Kills, Seen},
    chain::{Kind, Verifier},
    events::{Runs, Told},
};
use serde_json::{Value, json};

use super::{Context, Done, Failure, audit, stdio};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only what concerns this job: what names it, and what came over it, such as kills and contracts of its agent.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Only from this moment on (RFC 3339), or from so long ago: 90s, 15m, 12h, 7d.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Instant>,
    /// Only before this moment, written likewise.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Instant>,
    /// A record a line, as JSON or as a table's row. Of a kill, what was let through last before it and refused first because of it
    /// stand there too.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One JSON object a line.
    Json,
    /// Comma-separated values (RFC 4180). Cells that a spreadsheet would take for a formula begin with an apostrophe.
    Csv,
}

/// A moment, or how long ago it was.
fn moment(text: &str) -> Result<Instant, String> {
    let ago = || {
        let unit = text.chars().last()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        let count: u64 = text.get(..text.len() - unit.len_utf8())?.parse().ok()?;
        Some(Instant(sys::clock::wall_ns().saturating_sub(count.checked_mul(seconds)?.checked_mul(1_000_000_000)?)))
    };
    Instant::parse(text).or_else(ago).ok_or_else(|| "a moment as 2026-01-31T12:00:00Z, or 90s, 15m, 12h, 7d".into())
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let kills = kills(context, arguments.job.as_deref())?;
    if arguments.format == Format::Csv && !stdio::say(&row(&HEADS.map(Into::into)))? {
        return Ok(());
    }
    let mut failed = None;
    let mut jobs = Concern::new(arguments.job.clone());
    let mut reads = true;
    let broken = audit::read(&context.paths.audit(), &mut Verifier::new(None), |line, _| {
        let Some(told) = Told::of_line(line.trim_ascii_end()).filter(|_| reads) else { return };
        let event = jobs.event(&told);
        let within =
            arguments.since.is_none_or(|since| told.at >= since) && arguments.until.is_none_or(|until| told.at < until);
        if !within || (arguments.job.is_some() && event.is_none()) {
            return;
        }
        let around = kills.get(&told.seq);
        let text = match arguments.format {
            Format::Json => as_json(&told, event, around),
            Format::Csv => as_row(&told, event, around),
        };
        match stdio::say(&text) {
            Ok(goes_on) => reads = goes_on,
            Err(error) => {
                reads = false;
                failed = Some(error);
            }
        }
    })?;
    match (failed, broken) {
        (Some(failure), _) => Err(failure),
        (None, Some((file, broken))) => {
            Err(Failure::Failed(format!("the chain is broken in {}: {broken}", file.display())))
        }
        (None, None) => Ok(()),
    }
}

/// The kills, by their records.
pub(crate) fn kills(context: &Context, job: Option<&str>) -> Result<BTreeMap<u64, Around>, Failure> {
    let mut kills = Kills::new(job.map(Into::into));
    // Where it is broken is said by whoever reads it next.
    let _ = audit::read(&context.paths.audit(), &mut Verifier::new(None), |line, _| {
        if let Some(told) = Told::of_line(line.trim_ascii_end()) {
            kills.take(&told);
        }
    })?;
    Ok(kills.finish().into_iter().map(|around| (around.record, around)).collect())
}

/// Which records concern a job.
pub(crate) struct Concern {
    job: Option<String>,
    runs: Runs,
}

impl Concern {
    /// Of one job, or of all.
    pub(crate) fn new(job: Option<String>) -> Self {
        Self { job, runs: Runs::default() }
    }

    /// What the next record is called as an event of the job; `None` if it is none.
    pub(crate) fn event(&mut self, told: &Told<'_>) -> Option<&'static str> {
        let made = self.runs.take(told);
        let own = made.iter().find(|made| self.job.as_ref().is_none_or(|job| *job == made.job));
        let counted = || {
            let body: Value = serde_json::from_str(told.body).ok()?;
            let its = self.job.as_ref().is_some_and(|job| body.get("job").and_then(Value::as_str) == Some(job));
            (told.kind == Kind::Coverage && its).then_some("coverage")
        };
        own.map(|made| made.event.event_type).or_else(counted)
    }
}

fn kind(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn as_json(told: &Told<'_>, event: Option<&str>, around: Option<&Around>) -> String {
    let body: Value = serde_json::from_str(told.body).unwrap_or_default();
    let mut line =
        json!({ "seq": told.seq, "at": told.at.format(), "kind": kind(told.kind), "event": event, "body": body });
    if let (Some(around), Some(members)) = (around, line.as_object_mut()) {
        members.insert("last_allowed".into(), json!(around.last_allowed));
        members.insert("first_blocked".into(), json!(around.first_blocked));
    }
    format!("{line}\n")
}

const HEADS: [&str; 13] = [
    "seq",
    "at",
    "kind",
    "event",
    "agent",
    "job",
    "decision",
    "reason",
    "what",
    "count",
    "last_allowed",
    "first_blocked",
    "body",
];

fn as_row(told: &Told<'_>, event: Option<&str>, around: Option<&Around>) -> String {
    let body: Value = serde_json::from_str(told.body).unwrap_or_default();
    let of = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = |names: &[&str]| names.iter().find_map(|name| body.get(name)).map(of).unwrap_or_default();
    let flip = |name: &str| body.get("flip").and_then(|flip| flip.get(name)).map(of);
    let what = match told.kind {
        Kind::Call => format!("{} {}/{}", text(&["method"]), text(&["server"]), text(&["tool"])),
        Kind::Model => format!("{}/{}", text(&["provider"]), text(&["model"])),
        Kind::Flip | Kind::FlipFailed => {
            [flip("group"), flip("state"), flip("whose")].into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
        _ => text(&["kind", "wpc_hash", "tool", "server", "id"]),
    };
    row(&[
        told.seq.to_string(),
        told.at.format(),
        kind(told.kind),
        event.unwrap_or_default().into(),
        text(&["agent"]),
        text(&["job"]),
        text(&["decision", "verdict", "result", "status"]),
        text(&["reason"]),
        what,
        text(&["count"]),
        around.and_then(|around| around.last_allowed.as_ref()).map(seen).unwrap_or_default(),
        around.and_then(|around| around.first_blocked.as_ref()).map(seen).unwrap_or_default(),
        told.body.into(),
    ])
}

/// What was decided, in a line for people.
pub(crate) fn seen(seen: &Seen) -> String {
    format!("{} {} in job {} (record {})", seen.at.format(), seen.what, seen.job, seen.record)
}

/// A row of a table, RFC 4180.
fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
    cells.join(",") + "\r\n"
}

/// A cell that no spreadsheet carries out. (OWASP, "CSV Injection": what begins with one of these may be a formula.)
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_none_ends_before_its_end() {
        assert_eq!(cell("=HYPERLINK(\"http://x\")"), "\"'=HYPERLINK(\"\"http://x\"\")\"");
        assert_eq!(cell("+1"), "'+1");
        assert_eq!(cell("@x,y"), "\"'@x,y\"");
        assert_eq!(cell("-2\r\nx"), "\"'-2\r\nx\"");
        assert_eq!(cell("\t=1"), "'\t=1");
        assert_eq!(cell("a b"), "a b");
        assert_eq!(row(&["a".into(), "b\"c".into()]), "a,\"b\"\"c\"\r\n");
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        assert!(moment("2026-01-31T12:00:00Z").is_ok());
        let now = sys::clock::wall_ns();
        let ago = now - moment("15m").unwrap_or(Instant(0)).0.min(now);
        assert!((899_000_000_000..901_000_000_000).contains(&ago), "{ago}");
        for wrong in ["", "yesterday", "5", "5y", "-5m", "ä"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
