//! `clawguard status`

use std::time::Duration;

use control::api::{Status, TokenView};

use super::{
    Context, Done, stdio,
    table::{short, table},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show it again every two seconds.
    #[arg(long)]
    watch: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    loop {
        let client = context.client();
        let status: Status = context.wait(client.get("/v1/status"))?;
        // Clears the terminal and goes home.
        let before = if arguments.watch && !context.json { "\x1b[2J\x1b[H" } else { "" };
        let read = stdio::say(&(before.to_owned() + &context.written(&status, text)?))?;
        if !arguments.watch || !read {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn text(status: &Status) -> String {
    let armed = status.hooks.values().filter(|armed| **armed).count();
    let mut text = format!(
        "clawguard {} (ABI {}) since {}\nhooks armed: {armed} of {}\nmode: {}\n",
        status.version,
        status.abi,
        status.started_at,
        status.hooks.len(),
        status.mode
    );
    for (hook, armed) in &status.hooks {
        if !armed {
            text.push_str(&format!("  NOT ARMED: {hook}\n"));
        }
    }
    for kill in &status.kills {
        text.push_str(&format!("killed: {} for {} since {} ({})\n", kill.group, kill.whose, kill.at, kill.reason));
    }
    let lost: Vec<String> = status
        .lost
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(source, count)| format!("{source} {count}"))
        .collect();
    if !lost.is_empty() {
        text.push_str(&format!("records that did not fit: {}\n", lost.join(", ")));
    }
    for registry in &status.registries {
        let how = match (registry.up, &registry.last_success) {
            (None, _) => "not asked yet".to_owned(),
            (Some(true), _) => "up".to_owned(),
            (Some(false), None) => format!("DOWN, never answered ({})", registry.error.as_deref().unwrap_or("-")),
            (Some(false), Some(at)) => {
                format!("DOWN since some time after {at} ({})", registry.error.as_deref().unwrap_or("-"))
            }
        };
        text.push_str(&format!("registry {} {}: {how}\n", registry.name, registry.url));
    }
    for server in &status.mcp.servers {
        let mut notes = vec![server.upstream.clone(), format!("risk {}", server.risk)];
        if server.upstream == "stdio" {
            notes.push(format!("{} running", server.running));
        }
        if server.pins_waiting > 0 {
            notes.push(format!("{} definitions HIDDEN (clawguard pins)", server.pins_waiting));
        }
        notes.extend(server.problem.as_ref().map(|_| "NOT REACHABLE".to_owned()));
        text.push_str(&format!("mcp server {}: {}\n", server.name, notes.join(", ")));
    }
    if status.mcp.approvals_pending > 0 {
        text.push_str(&format!(
            "calls that wait for a person: {} (clawguard approvals)\n",
            status.mcp.approvals_pending
        ));
    }
    if status.model.gateway != "none" {
        let how = if status.model.listening { "listening" } else { "NOT LISTENING" };
        text.push_str(&format!(
            "models by {} at 127.0.0.1:{}: {how}, {}, receipts by {}\n",
            status.model.gateway,
            status.model.port,
            if status.model.providers.is_empty() { "NO PROVIDER".into() } else { status.model.providers.join(" ") },
            status.model.signer.as_deref().unwrap_or("any of several")
        ));
    }
    for job in &status.jobs {
        if let Some(why) = &job.stopped {
            text.push_str(&format!("job {} is stopped: {why}\n", job.id));
        }
    }
    for warning in &status.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let agents: Vec<Vec<String>> = status
        .agents
        .iter()
        .map(|agent| {
            vec![
                agent.name.clone(),
                agent.mode.clone(),
                agent.wpc_hash.as_deref().map_or_else(|| "none".into(), short),
                or(&agent.policy_id),
                agent.entries.to_string(),
                or(&agent.expires_at),
                agent.problem.clone().or_else(|| agent.r#match.clone()).unwrap_or_else(|| "-".into()),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["AGENT", "MODE", "CONTRACT", "POLICY", "RULES", "EXPIRES", "NOTE"], &agents));
    let jobs: Vec<Vec<String>> = status
        .jobs
        .iter()
        .map(|job| {
            vec![
                job.id.clone(),
                job.agent.clone(),
                job.state.clone(),
                job.origin.clone(),
                job.wpc_hash.as_deref().map_or_else(|| "none".into(), short),
                job.started_at.clone(),
                job.token.as_ref().map_or_else(|| "-".into(), token),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["JOB", "AGENT", "STATE", "ORIGIN", "CONTRACT", "STARTED", "TOKEN"], &jobs));
    text
}

/// How a job stands with its token.
fn token(token: &TokenView) -> String {
    match &token.expires_at {
        Some(at) => format!("{} until {at}", token.state),
        None => token.state.clone(),
    }
}
