//! `clawguard wpc new --from-observed`

use std::{fs, path::Path};

use claw::time::Instant;
use clawguard_common::Reason;
use control::{
    api::{ObservedEntry, ObservedView},
    client::encode,
};
use daemon::config::Config;
use policy::{
    contract::Protocol,
    observed::{Added, Draft, LeftOut, Observation, Terms, What, draft},
};
use serde_json::json;

use super::{
    Context, Done, Failure, stdio,
    table::table,
    wpc::{NOBODY, in_a_month},
};

/// Writes the contract that would have allowed what an agent did, and tells what it leaves out.
pub(crate) fn new(context: &Context, agent: &str, policy_id: Option<String>, out: Option<&Path>) -> Done {
    let config = Config::read(&context.paths.config()).map_err(|error| Failure::Failed(error.to_string()))?;
    let path = format!("/v1/agents/{}/observed", encode(agent));
    let view: ObservedView = context.wait(context.client().get(&path))?;
    let seen: Vec<Observation> = view.entries.iter().map(observation).collect();
    let policy_id = policy_id.or_else(|| view.contract.is_none().then(|| agent.to_owned()));
    let now = Instant(sys::clock::wall_ns());
    let terms = Terms { policy_id, issuer: NOBODY.into(), now, not_after: in_a_month() };
    let mut found = draft(view.contract.as_ref(), &seen, &config.facts(), &terms)
        .map_err(|error| Failure::Refused(error.to_string()))?;
    if view.left_out > 0 {
        found.notes.push(format!(
            "{} observations found no room and are not here: write this, put it in force, and begin anew",
            view.left_out
        ));
    }
    if view.mode != "observe" {
        found.notes.push(format!("{agent} is not in observe mode now: nothing is added to what was seen before"));
    }
    let payload = serde_json::to_string_pretty(&found.payload).map_err(|error| Failure::Failed(error.to_string()))?;
    if let Some(out) = out {
        let written = fs::write(out, payload + "\n");
        written.map_err(|error| Failure::Failed(format!("{}: {error}", out.display())))?;
    } else if !context.json {
        stdio::say(&(payload + "\n"))?;
        // The payload alone is what is piped on.
        stdio::complain(&super::shown::lines(&report(&found, None)));
        return Ok(());
    }
    let Draft { payload, added, left_out, known, notes } = &found;
    let value = json!({ "agent": agent, "file": out, "payload": payload, "added": added, "left_out": left_out,
        "known": known, "notes": notes });
    context.print(&value, |_| report(&found, out))
}

/// What is to be looked at before it is signed.
fn report(found: &Draft, out: Option<&Path>) -> String {
    let mut text = String::new();
    if let Some(out) = out {
        text += &format!("written to {}, not signed\n", out.display());
    }
    for note in &found.notes {
        text += &format!("{note}\n");
    }
    if found.known > 0 {
        text += &format!("{} observations need no more than the contract in force says\n", found.known);
    }
    if found.added.is_empty() {
        text += "\nNothing is added.\n";
    } else {
        let row = |Added { what, count, review }: &Added| vec![what.clone(), count.to_string(), review.join("; ")];
        let rows: Vec<Vec<String>> = found.added.iter().map(row).collect();
        text += &format!("\n{}", table(&["ADDED", "SEEN", "LOOK AT"], &rows));
    }
    if !found.left_out.is_empty() {
        let row = |LeftOut { what, reason, count, why }: &LeftOut| {
            vec![what.clone(), count.to_string(), reason.clone(), why.clone()]
        };
        let rows: Vec<Vec<String>> = found.left_out.iter().map(row).collect();
        text += &format!("\n{}", table(&["LEFT OUT", "SEEN", "REASON", "WHY"], &rows));
    }
    text
}

/// What the daemon saw, as it is judged. What is not understood can be left out only.
fn observation(entry: &ObservedEntry) -> Observation {
    let label = |reason: &&Reason| reason.label() == entry.reason;
    let reason = Reason::ALL.iter().find(label).copied().unwrap_or(Reason::Internal);
    let protocol = match entry.protocol.as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    };
    let other = || What::Other(if entry.protocol.is_empty() { entry.kind.clone() } else { entry.protocol.clone() });
    let port = entry.port;
    let address = entry.address.parse().ok();
    let what = match (entry.kind.as_str(), protocol, address) {
        ("name", _, _) => What::Name(entry.name.clone()),
        ("host", Some(protocol), _) => match entry.name.parse() {
            Ok(name) => What::Host { name, protocol, port, tls: entry.tls, shared: entry.shared },
            Err(_) => What::Name(entry.name.clone()),
        },
        ("address", Some(protocol), Some(addr)) => What::Address { addr, protocol, port },
        ("inbound", Some(protocol), Some(from)) => What::Inbound { from, protocol, port },
        _ => other(),
    };
    Observation { what, reason, count: entry.count }
}
