//! `clawguard explain`

use control::{
    api::{DecisionView, Decisions},
    client::encode,
};

use super::{Context, Done, Failure, shown::lines, stdio};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only of this process.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Only of this job.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// The last so many.
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: usize,
    /// What was allowed as well.
    #[arg(long)]
    all: bool,
    /// Go on as decisions are made.
    #[arg(long, conflicts_with_all = ["pid", "last", "id"])]
    follow: bool,
    /// One decision, by its number.
    id: Option<u64>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let client = context.client();
    if arguments.follow {
        let mut read = Ok(true);
        let each = |data: &str| {
            read = stdio::say(&match serde_json::from_str::<DecisionView>(data) {
                Ok(view) if !context.json => lines(&line(&view)),
                _ => lines(data) + "\n",
            });
            matches!(read, Ok(true))
        };
        context.wait(client.follow("/v1/decisions", each))?;
        return read.map(drop);
    }
    let path = match &arguments.job {
        Some(job) => format!("/v1/decisions?job={}", encode(job)),
        None => "/v1/decisions".into(),
    };
    let Decisions { decisions } = context.wait(client.get(&path))?;
    let wanted = |view: &DecisionView| {
        arguments.pid.is_none_or(|pid| view.pid == pid)
            && arguments.id.is_none_or(|id| view.id == id)
            && (arguments.all || arguments.id.is_some() || view.verdict != "allowed")
    };
    let mut found: Vec<DecisionView> = decisions.into_iter().filter(wanted).collect();
    let first = found.len().saturating_sub(arguments.last);
    found.drain(..first);
    if found.is_empty() && arguments.id.is_some() {
        return Err(Failure::Failed("no decision with that number is remembered; the audit chain may have it".into()));
    }
    context.print(&found, |found| {
        if found.is_empty() {
            return "Nothing was denied, as far as is remembered.\n".into();
        }
        found.iter().map(line).collect()
    })
}

fn line(view: &DecisionView) -> String {
    format!("#{} {} {}\n", view.id, view.at, view.sentence)
}
