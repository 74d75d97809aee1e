//! `clawguard evidence`: everything that there is about a job, for whoever looks into an incident.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use claw::Hash;
use control::api::{EvidenceAnswer, EvidenceFile, Status};
use evidence::{
    around::Around,
    chain::{Kind, Verifier},
    events::Told,
};
use serde_json::{Value, json};

use super::{
    Context, Done, Failure, audit, doctor,
    export::{self, put},
    records::{Concern, kills, seen},
    report, wpc,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The job: one that runs, as of now, or one that is over. Of several under this name the last.
    job: String,
    /// Where to put it; made if it is not there, and refused if anything lies in it.
    directory: PathBuf,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let out = &arguments.directory;
    empty(out)?;
    let (answer, files) = export::fetch(context, &arguments.job)?;
    export::write(out, &answer, &files)?;
    contracts(out, &files)?;
    let extract = extract(context, &arguments.job)?;
    extract.write(out)?;
    around(context, &arguments.job, out)?;
    let status: Result<Status, _> = context.wait(context.client().get("/v1/status"));
    let status = status.map_or_else(|_| json!({ "error": "the daemon did not answer" }), |status| json!(status));
    put(out, "status.json", &pretty(&status))?;
    put(out, "doctor.json", &pretty(&doctor::snapshot(context)))?;
    put(out, "run.json", &pretty(&json!(answer)))?;
    let report = report::write(context, &report::Arguments::of(out))?;
    let sums = sums(out)?;
    put(out, "SHA256SUMS", &sums)?;
    let value = json!({ "job": answer.job, "run_id": answer.run_id, "directory": out, "files": sums.lines().count(),
        "records": extract.lines, "chain": extract.broken, "fault": report.fault, "absent": answer.absent });
    context.print(&value, |_| {
        let mut text = told(&answer, out, &extract, sums.lines().count());
        if let Some(fault) = &report.fault {
            text += &format!("the bundles are NOT VALID: {fault}\n");
        }
        text
    })
}

/// What lies in a directory already is not this job's, and would be taken for it.
fn empty(out: &Path) -> Done {
    match fs::read_dir(out).map(Iterator::count) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::Failed(format!("{} is not empty: name a new directory", out.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::Failed(format!("{}: {error}", out.display()))),
    }
}

fn told(answer: &EvidenceAnswer, out: &Path, extract: &Extract, files: usize) -> String {
    let chain = match &extract.broken {
        None => "the audit chain holds".to_owned(),
        Some(broken) => format!("the audit chain is BROKEN: {broken}"),
    };
    let mut text = format!(
        "{}: {} records of the chain, {} events; {chain}\n{files} files in {}; `cd` there and `sha256sum -c SHA256SUMS`\n",
        answer.run_id,
        extract.lines,
        answer.events,
        out.display()
    );
    for line in &answer.absent {
        text += &format!("absent: {line}\n");
    }
    text
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// What changed from each contract to the next.
fn contracts(out: &Path, files: &[EvidenceFile]) -> Done {
    let mut before: Option<&EvidenceFile> = None;
    for file in files.iter().filter(|file| file.name.starts_with("wpc")) {
        if let Some(before) = before {
            let changes = wpc::changes(before.text.as_bytes(), file.text.as_bytes())?;
            let name = format!("changes-to-{}", file.name);
            put(out, &name, &pretty(&changes))?;
        }
        before = Some(file);
    }
    Ok(())
}

/// What the audit chain says of a job.
struct Extract {
    /// `audit.jsonl`: lines of the chain as they stand there.
    audit: String,
    lines: u64,
    /// What has files of its own, by their names.
    parts: BTreeMap<&'static str, String>,
    /// Where the chain is broken.
    broken: Option<String>,
    /// Where the chain stood when it was read.
    head: Value,
}

impl Extract {
    fn write(&self, out: &Path) -> Done {
        put(out, "audit.jsonl", &self.audit)?;
        put(out, "audit-head.json", &pretty(&self.head))?;
        for (name, text) in &self.parts {
            put(out, name, text)?;
        }
        Ok(())
    }
}

/// Takes the lines of a job's last run out of the chain, and every checkpoint from its beginning on. Each line says its place: by its
/// number, by the hash of the line before, and by its own, the SHA-256 of its bytes, which the next line of the chain has.
fn extract(context: &Context, job: &str) -> Result<Extract, Failure> {
    let own = ::daemon::host_did(&context.paths.host_key());
    let mut verifier = Verifier::new(own);
    let mut found = Extract { audit: String::new(), lines: 0, parts: BTreeMap::new(), broken: None, head: Value::Null };
    let mut concern = Concern::new(Some(job.to_owned()));
    let mut begun = false;
    let broken = audit::read(&context.paths.audit(), &mut verifier, |line, _| {
        let line = line.trim_ascii_end();
        let Some(told) = Told::of_line(line) else { return };
        let event = concern.event(&told);
        if event == Some("run_start") {
            // Another run under this name was before.
            (begun, found.audit, found.lines) = (true, String::new(), 0);
            found.parts.clear();
        }
        if !begun || (event.is_none() && told.kind != Kind::Checkpoint) {
            return;
        }
        let record = String::from_utf8_lossy(line);
        found.audit.push_str(&record);
        found.audit.push('\n');
        let name = match told.kind {
            Kind::Checkpoint => return,
            Kind::Decisions => "decisions.jsonl",
            Kind::Approval => "approvals.jsonl",
            Kind::Pin => "pins.jsonl",
            Kind::Call => "calls.jsonl",
            Kind::Model => "models.jsonl",
            Kind::Flip | Kind::FlipFailed => "flips.jsonl",
            Kind::Alert => "alerts.jsonl",
            _ => "other.jsonl",
        };
        found.lines += 1;
        let text = found.parts.entry(name).or_default();
        text.push_str(&record);
        text.push('\n');
    })?;
    found.broken = broken.map(|(file, broken)| format!("{} in {}", broken, file.display()));
    let head = verifier.head();
    found.head = json!({ "records": head.next, "hash": head.hash.map(|hash| hash.to_string()),
        "signer": verifier.signer().map(|did| did.to_string()), "unsealed": verifier.unsealed(), "broken": found.broken });
    Ok(found)
}

/// What passed last and what was refused first around each kill, for programs and for people.
fn around(context: &Context, job: &str, out: &Path) -> Done {
    let kills: Vec<Around> = kills(context, Some(job))?.into_values().collect();
    let mut text = String::new();
    for around in &kills {
        let line = |what: Option<&evidence::around::Seen>| what.map_or_else(|| "nothing".into(), seen);
        text += &format!(
            "{} {} {} ({}): {}\n  last allowed:  {}\n  first blocked: {}\n",
            around.at.format(),
            around.group,
            around.state,
            around.whose,
            around.reason,
            line(around.last_allowed.as_ref()),
            line(around.first_blocked.as_ref()),
        );
    }
    put(out, "kills.json", &pretty(&json!(kills)))?;
    put(out, "kills.txt", &super::shown::lines(&text))
}

/// Checksums of all files in a directory, as sha256sum(1) reads them. A link is none of this run's files.
fn sums(out: &Path) -> Result<String, Failure> {
    let mut lines = BTreeMap::new();
    for entry in fs::read_dir(out)?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let own = entry.file_type()?.is_file();
        let Some(name) = name.to_str().filter(|name| own && *name != "SHA256SUMS") else { continue };
        let hash: String = Hash::of(&fs::read(&path)?).0.iter().map(|byte| format!("{byte:02x}")).collect();
        lines.insert(name.to_owned(), hash);
    }
    Ok(lines.into_iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_was_written_is_summed_and_only_where_nothing_was() {
        let out = std::env::temp_dir().join(format!("clawguard-evidence-{}", std::process::id()));
        assert!(empty(&out).is_ok());
        fs::create_dir_all(&out).unwrap();
        assert!(empty(&out).is_ok());
        assert!(put(&out, "run.json", "{}").is_ok());
        symlink("/etc/passwd", out.join("passwd")).unwrap();
        symlink(out.join("run.json"), out.join("again.json")).unwrap();
        let sums = sums(&out).unwrap_or_default();
        let refused = empty(&out).is_err();
        fs::remove_dir_all(&out).unwrap();
        assert!(sums.ends_with("  run.json\n") && sums.lines().count() == 1, "{sums}");
        assert!(refused);
    }
}
