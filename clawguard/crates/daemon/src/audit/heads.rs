//! Where the event chain of each job stands, as the audit chain is written: a receipt binds to the hash of an event at once.
//!
//! What stands in memory follows from the records alone. So that a start need not read all of them, it is kept beside the chain with
//! every new file, and the records since then are read again.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use evidence::{
    chain::Kind,
    events::{Made, Runs, Told},
};
use serde::{Deserialize, Serialize};

/// Model calls of which it is remembered that nobody said yet how they ended.
const MOST_OPEN: usize = 65_536;

/// The jobs' event chains, and the model calls that are under way.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Heads {
    runs: Runs,
    /// Job and agent of each, by the hash of its event.
    open: BTreeMap<String, (String, String)>,
}

/// A model call's record, as far as this has to know it.
#[derive(Deserialize)]
struct ModelRecord<'a> {
    #[serde(borrow)]
    job: Cow<'a, str>,
    #[serde(borrow)]
    agent: Cow<'a, str>,
    #[serde(borrow, default)]
    decision: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    call: Option<Cow<'a, str>>,
}

impl Heads {
    /// As the records in a directory's files tell: from the last one on beside which a state is kept, or from the first.
    pub(super) fn open(directory: &Path, files: &[(u64, PathBuf)]) -> io::Result<Self> {
        let (mut heads, from) = files
            .iter()
            .rev()
            .find_map(|(number, _)| Some((read(&kept(directory, *number))?, *number)))
            .unwrap_or_default();
        for (_, path) in files.iter().filter(|(number, _)| *number >= from) {
            let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                heads.take_line(&line);
                line.clear();
            }
        }
        Ok(heads)
    }

    /// Takes a record that was written. Answers the events that it is.
    pub(super) fn take(&mut self, line: &str) -> Vec<Made> {
        self.take_line(line.as_bytes())
    }

    fn take_line(&mut self, line: &[u8]) -> Vec<Made> {
        // What was half written, or changed by somebody, is nobody's event.
        let Some(told) = Told::of_line(line) else { return Vec::new() };
        let made = self.runs.take(&told);
        if told.kind == Kind::Model {
            self.model(&told, &made);
        }
        made
    }

    fn model(&mut self, told: &Told<'_>, made: &[Made]) {
        let Ok(record) = serde_json::from_str::<ModelRecord<'_>>(told.body) else { return };
        match (record.decision.as_deref(), record.call) {
            (Some("allowed"), _) => {
                for made in made {
                    let whose = (record.job.clone().into_owned(), record.agent.clone().into_owned());
                    self.open.insert(made.event.event_hash.to_string(), whose);
                }
                if self.open.len() > MOST_OPEN {
                    self.open.pop_first();
                }
            }
            (None, Some(call)) => drop(self.open.remove(&*call)),
            _ => {}
        }
    }

    /// Model calls of which no record says how they ended: event, job and agent.
    pub(super) fn open_calls(&self) -> Vec<(String, String, String)> {
        self.open.iter().map(|(call, (job, agent))| (call.clone(), job.clone(), agent.clone())).collect()
    }

    /// The jobs that no record ends.
    pub(super) fn live(&self) -> Vec<String> {
        self.runs.live().map(str::to_owned).collect()
    }

    /// The run of a job, and how many events it has.
    pub(super) fn run(&self, job: &str) -> Option<(&str, u64)> {
        self.runs.chain(job).map(|chain| (chain.run_id(), chain.events()))
    }

    /// Keeps the state before the first record of a file. Those of before the last file are no longer needed.
    pub(super) fn keep(&self, directory: &Path, number: u64) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        sys::file::replace(&kept(directory, number), &text, 0o600)?;
        if let Some(old) = number.checked_sub(2) {
            match fs::remove_file(kept(directory, old)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn kept(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("events-{number:06}.json"))
}

fn read(path: &Path) -> Option<Heads> {
    // One that is not there or not whole: an older one, and more records to be read.
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
