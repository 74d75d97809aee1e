//! `clawguard bundle export`

use std::path::{Path, PathBuf};

use control::{
    api::{EvidenceAnswer, EvidenceFile},
    client::encode,
};
use serde::Deserialize;
use serde_json::json;

use super::{Context, Done, Failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The job: one that runs, as of now, or one that is over. Of several under this name the last.
    job: String,
    /// Where to write; made if it is not there. What lies there under the same names is replaced.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let (answer, files) = fetch(context, &arguments.job)?;
    write(&arguments.out, &answer, &files)?;
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).chain(["trust.json"]).collect();
    let value = json!({ "job": answer.job, "run_id": answer.run_id, "agent_did": answer.agent_did, "running": answer.running,
        "events": answer.events, "parts": answer.parts, "absent": answer.absent, "left_out": answer.left_out,
        "out": arguments.out, "files": names });
    context.print(&value, |_| {
        let mut text = format!(
            "{}: {} events in {} bundle{}, signed by {}\nwritten to {}: {}\n",
            answer.run_id,
            answer.events,
            answer.parts,
            if answer.parts == 1 { "" } else { "s" },
            answer.agent_did,
            arguments.out.display(),
            names.join(" ")
        );
        if answer.running {
            text += "the job runs: there is more to come\n";
        }
        for line in answer.absent.iter().chain(&answer.left_out) {
            text += &format!("absent: {line}\n");
        }
        text
    })
}

#[derive(Deserialize)]
struct Complete {
    complete: usize,
}

/// A job's evidence, file by file, as the daemon writes it.
pub(crate) fn fetch(context: &Context, job: &str) -> Result<(EvidenceAnswer, Vec<EvidenceFile>), Failure> {
    let path = format!("/v1/evidence/{}", encode(job));
    let client = context.client();
    let mut answer: Option<EvidenceAnswer> = None;
    let (mut files, mut complete, mut wrong) = (Vec::new(), None, None);
    context.wait(client.follow(&path, |data| {
        let read = if answer.is_none() {
            serde_json::from_str(data).map(|read| answer = Some(read))
        } else if let Ok(end) = serde_json::from_str::<Complete>(data) {
            complete = Some(end.complete);
            return false;
        } else {
            serde_json::from_str(data).map(|file| files.push(file))
        };
        wrong = read.err();
        wrong.is_none()
    }))?;
    if let Some(error) = wrong {
        return Err(Failure::Failed(format!("the daemon's answer cannot be read: {error}")));
    }
    match answer {
        Some(answer) if complete == Some(files.len()) => Ok((answer, files)),
        _ => Err(Failure::Failed(format!("the evidence of {job} did not come whole"))),
    }
}

/// Writes a job's evidence, for its owner alone to read.
pub(crate) fn write(out: &Path, answer: &EvidenceAnswer, files: &[EvidenceFile]) -> Done {
    sys::file::directory(out, 0o700).map_err(|error| Failure::Failed(format!("{}: {error}", out.display())))?;
    for file in files {
        put(out, &file.name, &format!("{}\n", file.text))?;
    }
    let trust = serde_json::to_string_pretty(&answer.trust).map_err(|error| Failure::Failed(error.to_string()))?;
    put(out, "trust.json", &format!("{trust}\n"))
}

/// Writes one file. Its name is the daemon's word: nothing is written elsewhere for it.
pub(crate) fn put(out: &Path, name: &str, text: &str) -> Done {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(Failure::Failed(format!("{name:?} is no name for a file")));
    }
    let path = out.join(name);
    sys::file::replace(&path, text.as_bytes(), 0o600)
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}
