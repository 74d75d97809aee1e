//! What events are called on the page.

use std::fmt::Write;

use serde_json::Value;

use super::story::Tone;

/// An event in words: a headline, and what else is known.
pub(super) struct Said {
    pub(super) tone: Tone,
    pub(super) title: String,
    pub(super) detail: String,
}

/// Of an event; `body` is its record's, where that is known.
pub(super) fn of(event_type: &str, body: &Value) -> Said {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let (tone, title) = match event_type {
        "run_start" => (Tone::Plain, "The job began".into()),
        "run_end" => (Tone::Plain, "The job ended".into()),
        "policy_in_force" => (Tone::Plain, named("Another contract came into force", text("policy_id"))),
        "policy_expired" => (Tone::Refused, named("The contract expired", text("policy_id"))),
        "token" => token(text("result")),
        "tool_call" => (Tone::Allowed, named("Tool called", &tool(body))),
        "tool_denied" => (Tone::Refused, named("Tool refused", &tool(body))),
        "tool_held" => (Tone::Held, named("Tool held for a person", &tool(body))),
        "approval" => approval(text("result"), &tool(body)),
        "llm_call" => (Tone::Allowed, named("Model called", &model(body))),
        "llm_denied" => (Tone::Refused, named("Model refused", &model(body))),
        "llm_result" => (Tone::Plain, named("Model answered", text("outcome"))),
        "tool_group_killed" => (Tone::Killed, named("Killed", &group(body))),
        "tool_group_restored" => (Tone::Plain, named("Given back", &group(body))),
        "mode_changed" => (Tone::Killed, named("Mode", flip(body, "state"))),
        "flip_unproven" => (Tone::Killed, named("A flip that was not proven", &group(body))),
        "bypass_alert" => (Tone::Alert, named("Attempt to go around", text("kind"))),
        "host_alert" => (Tone::Alert, named("The host's alert", text("alert"))),
        "egress_decisions" => egress(body),
        "tool_pin" => (Tone::Plain, named("Tool definitions", text("result"))),
        "fence_removed" => (Tone::Alert, "The fence was taken off this host".into()),
        other => (Tone::Plain, other.replace('_', " ")),
    };
    Said { tone, title, detail: detail(event_type, body) }
}

fn named(what: &str, name: &str) -> String {
    if name.is_empty() { what.into() } else { format!("{what}: {name}") }
}

pub(super) fn tool(body: &Value) -> String {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    match (text("server"), text("tool")) {
        ("", tool) => tool.into(),
        (server, "") => format!("{server} {}", text("method")),
        (server, tool) => format!("{server}/{tool}"),
    }
}

pub(super) fn model(body: &Value) -> String {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    [text("provider"), text("model")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn flip<'a>(body: &'a Value, name: &str) -> &'a str {
    body.get("flip").and_then(|flip| flip.get(name)).and_then(Value::as_str).unwrap_or_default()
}

fn group(body: &Value) -> String {
    let names = |adopted: &Vec<Value>| {
        let name = |one: &Value| one.get("group").and_then(Value::as_str).unwrap_or_default().to_owned();
        adopted.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    match body.get("adopted").and_then(Value::as_array) {
        Some(adopted) => names(adopted),
        None => flip(body, "group").into(),
    }
}

fn token(result: &str) -> (Tone, String) {
    let tone = match result {
        "refused" | "revoked" | "ended" => Tone::Refused,
        _ => Tone::Plain,
    };
    (tone, named("The job's token", &result.replace('_', " ")))
}

fn approval(result: &str, tool: &str) -> (Tone, String) {
    let (tone, what) = match result {
        "asked" => (Tone::Held, "A person was asked"),
        "approved" => (Tone::Allowed, "A person agreed"),
        "refused" => (Tone::Refused, "A person refused"),
        "used" => (Tone::Allowed, "An approval was used"),
        "expired" => (Tone::Refused, "Nobody decided in time"),
        "withdrawn" => (Tone::Plain, "A question was withdrawn"),
        _ => (Tone::Held, "An approval"),
    };
    (tone, named(what, tool))
}

fn egress(body: &Value) -> (Tone, String) {
    let (mut passed, mut refused) = (0_u64, 0_u64);
    for entry in body.get("decisions").and_then(Value::as_array).into_iter().flatten() {
        let count = entry.get("count").and_then(Value::as_u64).unwrap_or(1);
        let of =
            if entry.get("verdict").and_then(Value::as_str) == Some("denied") { &mut refused } else { &mut passed };
        *of = of.saturating_add(count);
    }
    match (passed, refused) {
        (0, 0) => (Tone::Plain, "The kernel's decisions".into()),
        (_, 0) => (Tone::Allowed, format!("Traffic: {passed} let through")),
        (0, _) => (Tone::Refused, format!("Traffic: {refused} refused")),
        _ => (Tone::Refused, format!("Traffic: {passed} let through, {refused} refused")),
    }
}

/// What else a record says, in the order in which a person asks.
fn detail(event_type: &str, body: &Value) -> String {
    const NAMES: [(&str, &str); 17] = [
        ("status", ""),
        ("remote", ""),
        ("name", ""),
        ("command", ""),
        ("method", ""),
        ("reason", ""),
        ("cause", ""),
        ("message", ""),
        ("by", "by "),
        ("approved_by", "approved by "),
        ("rule", "rule "),
        ("origin", "from "),
        ("mode", ""),
        ("verb", ""),
        ("why", ""),
        ("wpc_hash", "contract "),
        ("server", "server "),
    ];
    let mut parts: Vec<String> = Vec::new();
    let whose = flip(body, "whose");
    if !whose.is_empty() {
        parts.push(if whose == "host" { "for the whole host".into() } else { format!("for {whose}") });
    }
    if event_type == "egress_decisions" {
        parts.extend(destinations(body));
    }
    for (name, before) in NAMES {
        // The headline has these.
        if (name == "server" && body.get("tool").is_some()) || (name == "method" && text(body, name) == "tools/call") {
            continue;
        }
        let value = match name {
            // Of what is the same for all of a job's calls, its beginning tells.
            "wpc_hash" if !matches!(event_type, "run_start" | "policy_in_force" | "policy_expired") => String::new(),
            "rule" => text(body, name).trim_start_matches("metadata.clawguard.v1.").to_owned(),
            "reason" | "cause" => plainly(text(body, name)),
            _ => text(body, name).to_owned(),
        };
        if !value.is_empty() && !parts.contains(&value) {
            parts.push(format!("{before}{value}"));
        }
    }
    let number = |name: &str| body.get(name).and_then(Value::as_u64);
    if let Some(us) = number("duration_us").filter(|us| *us > 0) {
        parts.push(duration(us.saturating_mul(1000)));
    }
    if let Some(count) = number("count").filter(|count| *count > 1) {
        parts.push(format!("{count} times"));
    }
    let flipped = |name: &str| body.get("flip").and_then(|flip| flip.get(name)).and_then(Value::as_u64);
    if let Some(ns) = flipped("effective_ns").filter(|ns| *ns > 0) {
        parts.push(format!("in effect after {}", duration(ns)));
    }
    for ended in [flipped("sockets_destroyed"), number("sockets_destroyed")].into_iter().flatten().filter(|n| *n > 0) {
        parts.push(format!("{ended} connections ended"));
    }
    parts.join(" \u{b7} ")
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A code of ours in words; anybody else's text as it is.
pub(super) fn plainly(code: &str) -> String {
    let ours = code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if ours { code.replace('_', " ") } else { code.to_owned() }
}

/// Where refused traffic went, some of it.
fn destinations(body: &Value) -> Option<String> {
    const MOST: usize = 3;
    let entries = body.get("decisions")?.as_array()?;
    let refused = |entry: &&Value| text(entry, "verdict") == "denied";
    let mut told: Vec<String> = Vec::new();
    for entry in entries.iter().filter(refused) {
        let place = [text(entry, "name"), text(entry, "remote"), text(entry, "protocol")];
        let place = place.into_iter().find(|place| !place.is_empty()).unwrap_or_default();
        let one = format!("{place} ({})", text(entry, "reason").replace('_', " "));
        if !told.contains(&one) {
            told.push(one);
        }
    }
    let more = told.len().saturating_sub(MOST);
    told.truncate(MOST);
    let mut said = told.join(", ");
    if more > 0 {
        let _ = write!(said, " and {more} more");
    }
    (!said.is_empty()).then(|| format!("refused: {said}"))
}

/// A time that something took, from nanoseconds.
pub(super) fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} \u{b5}s", ns / 1000),
        1_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        10_000_000_000..60_000_000_000 => format!("{} s", ns / 1_000_000_000),
        60_000_000_000..3_600_000_000_000 => {
            format!("{} min {} s", ns / 60_000_000_000, ns / 1_000_000_000 % 60)
        }
        _ => format!("{} h {} min", ns / 3_600_000_000_000, ns / 60_000_000_000 % 60),
    }
}
