//! `clawguard groups`, `kill`, `restore`, `mode`, `drill`

use control::{
    api::{DrillAnswer, DrillBody, FlipAnswer, FlipBody, GroupView, ModeBody},
    client::encode,
};
use hyper::Method;

use super::{
    Context, Done, Failure,
    table::{short, table},
};

#[derive(clap::Args)]
pub(crate) struct FlipArguments {
    /// Which groups; `clawguard groups` lists them.
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    /// Only for this agent.
    #[arg(long, value_name = "NAME", conflicts_with = "job")]
    agent: Option<String>,
    /// Only for this job.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Why; it is recorded.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(clap::Args)]
pub(crate) struct ModeArguments {
    /// normal, read-only, tools-off or lockdown.
    mode: String,
    /// Why; it is recorded.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(clap::Args)]
pub(crate) struct DrillArguments {
    /// Which groups; all that are in force if none are named.
    #[arg(value_name = "GROUP")]
    groups: Vec<String>,
    /// Kill them for everybody and restore them, live connections included, instead of for the canary alone.
    #[arg(long)]
    live: bool,
}

pub(crate) fn groups(context: &Context) -> Done {
    let client = context.client();
    let groups: Vec<GroupView> = context.wait(client.get("/v1/groups"))?;
    context.print(&groups, |groups| {
        let rows: Vec<Vec<String>> = groups
            .iter()
            .map(|group| {
                let mut state = group.state.clone();
                if group.by_mode {
                    state.push_str(" (mode)");
                }
                if !group.killed_for.is_empty() {
                    state.push_str(&format!(", killed for {}", group.killed_for.join(", ")));
                }
                let by = if group.enforced_by.is_empty() { "-".into() } else { group.enforced_by.join(" ") };
                let policies: Vec<String> = group.policies.iter().map(|hash| short(hash)).collect();
                vec![group.group.clone(), state, by, if policies.is_empty() { "-".into() } else { policies.join(" ") }]
            })
            .collect();
        table(&["GROUP", "STATE", "ENFORCED BY", "CONTRACTS"], &rows)
    })
}

pub(crate) fn kill(context: &Context, arguments: &FlipArguments) -> Done {
    flip(context, arguments, "kill")
}

pub(crate) fn restore(context: &Context, arguments: &FlipArguments) -> Done {
    flip(context, arguments, "restore")
}

fn flip(context: &Context, arguments: &FlipArguments, verb: &str) -> Done {
    let client = context.client();
    let body =
        FlipBody { reason: arguments.reason.clone(), agent: arguments.agent.clone(), job: arguments.job.clone() };
    let mut answers = Vec::new();
    let mut failed = None;
    // One that fails must not keep the others from being taken away.
    for group in &arguments.groups {
        let path = format!("/v1/groups/{}/{verb}", encode(group));
        match context.wait::<FlipAnswer>(client.send(Method::POST, &path, &body)) {
            Ok(answer) => answers.push(answer),
            Err(failure) => {
                if let Some(before) = failed.replace(failure) {
                    before.report();
                }
            }
        }
    }
    let unsaved = answers.iter().any(|answer| !answer.persisted);
    match answers.as_slice() {
        [] => {}
        [answer] if arguments.groups.len() == 1 => context.print(answer, told)?,
        several => context.print(&several, |several| several.iter().map(told).collect())?,
    }
    failed.map_or_else(|| remembered(unsaved), Err)
}

pub(crate) fn mode(context: &Context, arguments: &ModeArguments) -> Done {
    let client = context.client();
    let body = ModeBody { mode: arguments.mode.clone(), reason: arguments.reason.clone() };
    let answer: FlipAnswer = context.wait(client.send(Method::POST, "/v1/mode", &body))?;
    context.print(&answer, told)?;
    remembered(!answer.persisted)
}

/// A flip that is in force but not on disk is not what was asked for.
fn remembered(unsaved: bool) -> Done {
    if unsaved {
        return Err(Failure::Failed("in force, but not on disk yet: it holds until the daemon starts anew, and is written as soon as there is room".into()));
    }
    Ok(())
}

/// A flip in a few lines.
fn told(answer: &FlipAnswer) -> String {
    let ms = |ns: u64| format!("{:.2} ms", ns as f64 / 1e6);
    let for_whom = if answer.whose == "host" { String::new() } else { format!(" for {}", answer.whose) };
    let left = match answer.sockets_left {
        0 => String::new(),
        n => format!(", {n} left (none of their packets pass)"),
    };
    let canary = match (answer.canary.before.as_str(), answer.canary.after.as_str()) {
        ("refused", "refused") if answer.previous == "live" => " (refused all along: something else holds it down)",
        _ => "",
    };
    let place = if answer.enforced_by.iter().any(|by| by == "kernel") { "in the kernel" } else { "at the gateway" };
    let calls = match (answer.gateway.as_deref(), answer.calls_cancelled) {
        (Some("killed"), _) => {
            "  the gateway did not answer in time and was KILLED, with every call under way\n".to_owned()
        }
        (Some("silent"), _) => "  the gateway has not said yet that it knows\n".to_owned(),
        (Some(_), cancelled) => format!("  calls cancelled: {cancelled}\n"),
        (None, _) => String::new(),
    };
    format!(
        "{}{for_whom}: {} -> {}\n  {place} after {}, done after {}\n  live connections ended: {}{left}\n{calls}  \
         canary: {} before, {} after{canary}\n  flip {}\n",
        answer.group,
        answer.previous,
        answer.state,
        ms(answer.effective_ns),
        ms(answer.total_ns),
        answer.sockets_destroyed,
        answer.canary.before,
        answer.canary.after,
        answer.flip_id,
    )
}

pub(crate) fn drill(context: &Context, arguments: &DrillArguments) -> Done {
    let client = context.client();
    let body = DrillBody { groups: arguments.groups.clone(), live: arguments.live };
    let answer: DrillAnswer = context.wait(client.send(Method::POST, "/v1/drill", &body))?;
    context.print(&answer, |answer| {
        let rows: Vec<Vec<String>> = answer
            .groups
            .iter()
            .map(|group| {
                vec![
                    group.group.clone(),
                    if group.passed { "passed" } else { "FAILED" }.into(),
                    group.canary.before.clone(),
                    group.canary.after.clone(),
                    group.restored.clone(),
                    format!("{:.1} us", group.effective_ns as f64 / 1e3),
                ]
            })
            .collect();
        table(&["GROUP", "DRILL", "BEFORE", "KILLED", "RESTORED", "EFFECTIVE"], &rows)
    })?;
    if answer.passed { Ok(()) } else { Err(Failure::Failed("the drill failed".into())) }
}
