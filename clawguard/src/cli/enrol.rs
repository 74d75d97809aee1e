//! `clawguard enrol`: what a protected unit runs before its first instruction (`ExecStartPre=+`).

use control::api::{JobAnswer, JobBody};
use hyper::Method;

use super::{Context, Done};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The unit's agent.
    #[arg(long, value_name = "NAME")]
    agent: String,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let client = context.client();
    let body = JobBody { agent: Some(arguments.agent.clone()), enrol_caller: true, ..JobBody::default() };
    let answer: JobAnswer = context.wait(client.send(Method::POST, "/v1/jobs", &body))?;
    context.print(&answer, |answer| format!("{} is inside the fence as job {}\n", answer.job.cgroup, answer.job.id))
}
