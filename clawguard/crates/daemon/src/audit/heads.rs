//! Where the event chain of each job stands, as the audit chain is written: a receipt binds to the hash of an event at once.
//!
//! What stands in memory follows from the records alone. So that a start need not read all of them, it is kept beside the chain with
//! every new file, and the records since then are read again.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use evidence::events::{Made, Runs, Told};

/// The jobs' event chains.
#[derive(Default)]
pub(super) struct Heads(Runs);

impl Heads {
    /// As the records in a directory's files tell: from the last one on beside which a state is kept, or from the first.
    pub(super) fn open(directory: &Path, files: &[(u64, PathBuf)]) -> io::Result<Self> {
        let (runs, from) = files
            .iter()
            .rev()
            .find_map(|(number, _)| Some((read(&kept(directory, *number))?, *number)))
            .unwrap_or_default();
        let mut heads = Self(runs);
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
        Told::of_line(line).map(|told| self.0.take(&told)).unwrap_or_default()
    }

    /// The run of a job, and how many events it has.
    pub(super) fn run(&self, job: &str) -> Option<(&str, u64)> {
        self.0.chain(job).map(|chain| (chain.run_id(), chain.events()))
    }

    /// Keeps the state before the first record of a file. Those of before the last file are no longer needed.
    pub(super) fn keep(&self, directory: &Path, number: u64) -> io::Result<()> {
        let text = serde_json::to_vec(&self.0).map_err(io::Error::other)?;
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

fn read(path: &Path) -> Option<Runs> {
    // One that is not there or not whole: an older one, and more records to be read.
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
