//! The audit chain on disk: appended, synced in groups, rotated, taken up again after a crash.

mod heads;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use claw::{
    Hash,
    key::{Did, PrivateKey},
    time::Instant,
};
use evidence::{
    chain::{Broken, Fault, Head, Kind, Verifier},
    events::{Event, Made},
};
use heads::Heads;
use serde::Serialize;
use serde_json::{Value, json};

/// Records between two checkpoints, at the most.
const CHECKPOINT_EVERY: u64 = 256;
/// Records that wait in memory for room on the disk, at the most.
const OWED: usize = 4096;

/// The chain, open for writing.
pub struct AuditLog {
    directory: PathBuf,
    file: File,
    number: u64,
    size: u64,
    rotate_at: u64,
    head: Head,
    heads: Heads,
    unsealed: u64,
    key: PrivateKey,
    sync: Arc<Sync>,
    owed: VecDeque<Owed>,
    dropped: u64,
}

/// A record of something that happened and could not be written yet.
struct Owed {
    kind: Kind,
    at: Instant,
    body: Value,
}

/// What is on disk.
struct Sync {
    written: AtomicU64,
    state: Mutex<Synced>,
}

struct Synced {
    records: u64,
    /// Records of which the disk once said that it does not have them. It says so once only (fsync(2)): that it takes later ones says
    /// nothing of these.
    lost: Range<u64>,
    file: File,
}

/// A record that is written, but not yet known to be on disk.
#[must_use = "a record is acknowledged only once it is on disk"]
pub struct Ticket {
    record: u64,
    sync: Arc<Sync>,
}

impl Ticket {
    /// Waits until the record is on disk. Whoever waits first syncs for all.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub fn wait(self) -> io::Result<()> {
        let mut synced = self.sync.state.lock().unwrap_or_else(PoisonError::into_inner);
        if synced.lost.contains(&self.record) {
            return Err(io::Error::other("the disk did not take the record"));
        }
        if synced.records > self.record {
            return Ok(());
        }
        let written = self.sync.written.load(Ordering::Acquire);
        if let Err(error) = synced.file.sync_data() {
            let first = if synced.lost.is_empty() { synced.records } else { synced.lost.start };
            synced.lost = first..written;
            return Err(error);
        }
        synced.records = written;
        Ok(())
    }
}

/// What was found when the chain was taken up.
#[derive(Debug, Default)]
pub struct Found {
    /// Bytes of a half-written last record that were cut off, and where they were put.
    pub torn: Option<(u64, PathBuf)>,
    /// A place where the chain is broken.
    pub broken: Option<Broken>,
}

impl AuditLog {
    /// Takes up the chain in a directory, or begins one.
    ///
    /// # Errors
    ///
    /// If the directory or the last file cannot be read or written.
    pub fn open(directory: &Path, key: PrivateKey, rotate_at: u64) -> io::Result<(Self, Found)> {
        sys::file::directory(directory, 0o700)?;
        let mut found = Found::default();
        let all = files(directory)?;
        let (number, head, size) = match all.last() {
            None => (1, Head::default(), 0),
            Some((number, path)) => {
                let (head, size) = take_up(path, &mut found)?;
                (*number, head, size)
            }
        };
        let heads = Heads::open(directory, &all)?;
        let path = directory.join(name(number));
        let file = append_to(&path)?;
        let sync = Arc::new(Sync {
            written: AtomicU64::new(head.next),
            state: Mutex::new(Synced { records: head.next, lost: 0..0, file: file.try_clone()? }),
        });
        let log = Self {
            directory: directory.to_owned(),
            file,
            number,
            size,
            rotate_at,
            head,
            heads,
            unsealed: 0,
            key,
            sync,
            owed: VecDeque::new(),
            dropped: 0,
        };
        Ok((log, found))
    }

    /// The key by which checkpoints are signed.
    #[must_use]
    pub fn signer(&self) -> Did {
        self.key.did()
    }

    /// How many records there are.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.head.next
    }

    /// Writes a record. It is acknowledged by its ticket.
    ///
    /// # Errors
    ///
    /// If the disk is full or refuses, or something owed cannot be written either. The chain is then as it was.
    pub fn append(&mut self, kind: Kind, body: &Value) -> io::Result<Ticket> {
        self.pay()?;
        self.append_at(kind, Instant(sys::clock::wall_ns()), body)
    }

    /// Writes a record that is an event of a job's, and answers the event too. `None` where no run of that job is known.
    ///
    /// # Errors
    ///
    /// As [`AuditLog::append`].
    pub fn append_event(&mut self, kind: Kind, body: &Value, job: &str) -> io::Result<(Ticket, Option<Event>)> {
        self.pay()?;
        let (ticket, made) = self.append_told(kind, Instant(sys::clock::wall_ns()), body)?;
        Ok((ticket, made.into_iter().find(|made| made.job == job).map(|made| made.event)))
    }

    /// The run of a job, and how many events it has so far.
    #[must_use]
    pub fn run(&self, job: &str) -> Option<(&str, u64)> {
        self.heads.run(job)
    }

    /// Model calls of which no record says how they ended: event, job and agent.
    #[must_use]
    pub fn open_calls(&self) -> Vec<(String, String, String)> {
        self.heads.open_calls()
    }

    /// The jobs that no record ends.
    #[must_use]
    pub fn live(&self) -> Vec<String> {
        self.heads.live()
    }

    /// Writes a record of something that happened in any case: what the disk refuses now waits in memory for room.
    ///
    /// # Errors
    ///
    /// If it waits.
    pub fn append_or_owe(&mut self, kind: Kind, body: Value) -> io::Result<Ticket> {
        let at = Instant(sys::clock::wall_ns());
        let written = self.pay().and_then(|()| self.append_at(kind, at, &body));
        if written.is_err() {
            self.owe(Owed { kind, at, body });
        }
        written
    }

    /// Writes what is owed, in its order, with the times at which it happened.
    ///
    /// # Errors
    ///
    /// If the disk still refuses; what is left waits on.
    pub fn pay(&mut self) -> io::Result<()> {
        while let Some(Owed { kind, at, body }) = self.owed.pop_front() {
            if let Err(error) = self.append_at(kind, at, &body) {
                self.owed.push_front(Owed { kind, at, body });
                return Err(error);
            }
        }
        if self.dropped > 0 {
            let body = json!({ "alert": "records_lost", "count": self.dropped });
            let ticket = self.append_at(Kind::Alert, Instant(sys::clock::wall_ns()), &body)?;
            drop(ticket);
            self.dropped = 0;
        }
        Ok(())
    }

    /// How many records wait in memory, and how many could not even do that.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.owed.len() as u64 + self.dropped
    }

    fn append_at(&mut self, kind: Kind, at: Instant, body: &Value) -> io::Result<Ticket> {
        self.append_told(kind, at, body).map(|(ticket, _)| ticket)
    }

    fn append_told(&mut self, kind: Kind, at: Instant, body: &Value) -> io::Result<(Ticket, Vec<Made>)> {
        let (line, head) = self.head.append(kind, at, body);
        self.write(&line, head, 1)?;
        let made = self.heads.take(&line);
        // It is written: what fails now is tried again with the next record, which then fails by itself.
        if let Err(error) = self.seal() {
            tracing::warn!(%error, "the audit chain could not be signed, or a new file begun");
        }
        Ok((Ticket { record: head.next - 1, sync: Arc::clone(&self.sync) }, made))
    }

    /// Writes many records of one kind of things that happened in any case, as few times as it can. For a moment they are not on
    /// disk: nobody is given a ticket.
    ///
    /// # Errors
    ///
    /// If some wait in memory for room.
    pub fn append_all<B: Serialize>(&mut self, kind: Kind, bodies: &[B]) -> io::Result<()> {
        let at = Instant(sys::clock::wall_ns());
        let mut paid = self.pay();
        for batch in bodies.chunks(CHECKPOINT_EVERY as usize) {
            paid = paid.and_then(|()| self.append_batch(kind, at, batch));
            if paid.is_ok() {
                // What fails here failed after these were written.
                paid = self.seal();
                continue;
            }
            for body in batch {
                // A body of strings and numbers always serialises.
                self.owe(Owed { kind, at, body: serde_json::to_value(body).unwrap_or_default() });
            }
        }
        paid
    }

    fn append_batch<B: Serialize>(&mut self, kind: Kind, at: Instant, bodies: &[B]) -> io::Result<()> {
        let (mut lines, mut head) = (String::new(), self.head);
        for body in bodies {
            let (line, next) = head.append(kind, at, body);
            lines.push_str(&line);
            head = next;
        }
        self.write(&lines, head, bodies.len() as u64)?;
        for line in lines.split_inclusive('\n') {
            self.heads.take(line);
        }
        Ok(())
    }

    fn owe(&mut self, owed: Owed) {
        if self.owed.len() < OWED {
            self.owed.push_back(owed);
        } else {
            self.dropped += 1;
        }
    }

    /// Signs and rotates when it is time.
    fn seal(&mut self) -> io::Result<()> {
        if self.unsealed >= CHECKPOINT_EVERY {
            self.checkpoint()?;
        }
        if self.size >= self.rotate_at {
            self.rotate()?;
        }
        Ok(())
    }

    /// Signs everything so far, if there is anything new.
    ///
    /// # Errors
    ///
    /// As [`AuditLog::append`].
    pub fn checkpoint(&mut self) -> io::Result<()> {
        if self.unsealed == 0 {
            return Ok(());
        }
        let now = Instant(sys::clock::wall_ns());
        let (line, head) = self.head.checkpoint(&self.key, now);
        self.write(&line, head, 1)?;
        self.unsealed = 0;
        Ok(())
    }

    fn write(&mut self, lines: &str, head: Head, records: u64) -> io::Result<()> {
        if let Err(error) = self.file.write_all(lines.as_bytes()) {
            // What was half written is taken back, so that the chain stays whole.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += lines.len() as u64;
        self.head = head;
        self.unsealed += records;
        self.sync.written.store(head.next, Ordering::Release);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.checkpoint()?;
        self.file.sync_all()?;
        let next = append_to(&self.directory.join(name(self.number + 1)))?;
        File::open(&self.directory)?.sync_all()?;
        let mut synced = self.sync.state.lock().unwrap_or_else(PoisonError::into_inner);
        (synced.records, synced.file) = (self.head.next, next.try_clone()?);
        drop(synced);
        self.file = next;
        self.number += 1;
        self.size = 0;
        if let Err(error) = self.heads.keep(&self.directory, self.number) {
            tracing::warn!(%error, "the next start reads more of the audit chain than it had to");
        }
        Ok(())
    }
}

fn name(number: u64) -> String {
    format!("audit-{number:06}.jsonl")
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The chain's files in order.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Reads the last file to its end, cuts off what was half written, and answers where the chain stands and how long the file
/// is. Whether everything before is whole is for `audit verify` to say.
fn take_up(path: &Path, found: &mut Found) -> io::Result<(Head, u64)> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    let (mut size, mut verifier) = (0, None);
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            break;
        }
        let verifier = verifier.get_or_insert_with(|| Verifier::from(before(&line), None));
        match verifier.read(&line) {
            Ok(_) => {}
            Err(Broken { fault: Fault::Torn, .. }) => {
                found.torn = Some((length, cut(path, size)?));
                break;
            }
            Err(broken) => {
                // Somebody changed the file. It stays as it is; the chain goes on after its last readable record.
                found.broken.get_or_insert(broken);
                *verifier = Verifier::from(after(&line, verifier.head()), None);
            }
        }
        size += length;
    }
    Ok((verifier.map_or_else(Head::default, |verifier| verifier.head()), size))
}

/// Where the chain stood before a record, as the record itself says.
pub(crate) fn before(line: &[u8]) -> Head {
    let record: Value = serde_json::from_slice(line).unwrap_or_default();
    let hash = record.get("prev").and_then(Value::as_str).and_then(|text| text.parse().ok());
    Head { hash, next: record.get("seq").and_then(Value::as_u64).unwrap_or(0) }
}

/// Where the chain stands after a line that does not verify.
fn after(line: &[u8], head: Head) -> Head {
    let record: Value = serde_json::from_slice(line).unwrap_or_default();
    let seq = record.get("seq").and_then(Value::as_u64).unwrap_or(head.next);
    Head { hash: Some(Hash::of(line.strip_suffix(b"\n").unwrap_or(line))), next: seq + 1 }
}

/// Moves the end of a file, from `size` on, into a file of its own.
fn cut(path: &Path, size: u64) -> io::Result<PathBuf> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.seek(SeekFrom::Start(size))?;
    let mut torn = path.as_os_str().to_owned();
    torn.push(format!(".torn-{}", sys::clock::wall_ns()));
    let torn = PathBuf::from(torn);
    io::copy(&mut file, &mut append_to(&torn)?)?;
    file.set_len(size)?;
    file.sync_all()?;
    Ok(torn)
}

/// The record of what was found when the chain was taken up.
#[must_use]
pub fn found_record(found: &Found) -> Option<Value> {
    if found.torn.is_none() && found.broken.is_none() {
        return None;
    }
    let torn = found.torn.as_ref();
    Some(json!({
        "torn_bytes": torn.map(|(bytes, _)| bytes),
        "kept_in": torn.and_then(|(_, path)| path.file_name()).map(|name| name.to_string_lossy().into_owned()),
        "broken": found.broken.as_ref().map(ToString::to_string),
    }))
}

#[cfg(test)]
mod tests;
