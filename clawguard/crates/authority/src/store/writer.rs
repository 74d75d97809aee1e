//! The thread that writes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use claw::token::TokenHash;
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{Error, Live, Revocation};

/// Writes that wait, before who asks has to.
const QUEUE: usize = 1024;
/// Writes that share a commit.
const TOGETHER: usize = 256;

/// What memory learns once a commit succeeded.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) revoked: Vec<Arc<Revocation>>,
    /// Revoked before, and found in the file again.
    pub(super) known: Vec<Arc<Revocation>>,
    pub(super) forgotten: Vec<TokenHash>,
    /// Of what was forgotten, the last `exp`.
    pub(super) pruned: u64,
}

impl Effects {
    fn lengths(&self) -> [usize; 3] {
        [self.revoked.len(), self.known.len(), self.forgotten.len()]
    }

    fn truncate(&mut self, [revoked, known, forgotten]: [usize; 3]) {
        self.revoked.truncate(revoked);
        self.known.truncate(known);
        self.forgotten.truncate(forgotten);
    }
}

/// Says to who asked whether it was committed.
pub(super) type Settle = Box<dyn FnOnce(bool) + Send>;
/// Does its part of a transaction, and answers whether it could.
pub(super) type Job = Box<dyn FnOnce(&Connection, &mut Effects) -> (bool, Settle) + Send>;

pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    works: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(connection: Connection, live: Arc<Live>) -> Result<Self, Error> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let works = Arc::new(AtomicBool::new(true));
        let said = Arc::clone(&works);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || write(&connection, waiting, &live, &said))
            .map_err(|error| Error::File("the store's thread".into(), error))?;
        Ok(Self { queue: Mutex::new(Some(queue)), works, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    pub(super) async fn send(&self, job: Job) -> Result<(), Error> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        queue.ok_or(Error::Closed)?.send(job).await.map_err(|_| Error::Closed)
    }

    pub(super) fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

fn write(connection: &Connection, mut waiting: mpsc::Receiver<Job>, live: &Live, works: &AtomicBool) {
    let mut jobs = Vec::with_capacity(TOGETHER);
    // Whether memory may say something else than the file.
    let mut stale = false;
    // What comes while one batch is committed is the next batch.
    while waiting.blocking_recv_many(&mut jobs, TOGETHER) > 0 {
        if let Err(error) = begin(connection, live, &mut stale) {
            tracing::error!(%error, "the store could not begin; nothing of it was acknowledged");
            works.store(false, Ordering::Relaxed);
            jobs.clear();
            continue;
        }
        let mut effects = Effects::default();
        let mut settles = Vec::with_capacity(jobs.len());
        // Those after one that could not be undone are not begun.
        let clean = jobs.drain(..).all(|job| {
            let (settle, clean) = one(connection, job, &mut effects);
            settles.extend(settle);
            clean
        });
        let committed = clean
            && connection
                .execute_batch("COMMIT")
                .inspect_err(|error| {
                    tracing::error!(%error, "the store could not commit; nothing of it was acknowledged");
                })
                .is_ok();
        if committed {
            live.apply(effects);
        } else {
            // A commit that failed late may be on disk all the same: memory follows the file.
            stale = true;
            if let Err(error) = follow(connection, live, &mut stale) {
                tracing::error!(%error, "the store cannot be read");
            }
        }
        works.store(committed, Ordering::Relaxed);
        for settle in settles {
            settle(committed);
        }
    }
}

fn begin(connection: &Connection, live: &Live, stale: &mut bool) -> rusqlite::Result<()> {
    follow(connection, live, stale)?;
    connection.execute_batch("BEGIN IMMEDIATE")
}

/// Ends what is left of a transaction and makes memory what the file is, where that may differ.
fn follow(connection: &Connection, live: &Live, stale: &mut bool) -> rusqlite::Result<()> {
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    if *stale {
        live.load(connection)?;
        *stale = false;
    }
    Ok(())
}

/// One job, undone alone if it fails. Answers also whether nothing is left of one that failed.
fn one(connection: &Connection, job: Job, effects: &mut Effects) -> (Option<Settle>, bool) {
    let before = effects.lengths();
    if let Err(error) = connection.execute_batch("SAVEPOINT one") {
        tracing::error!(%error, "a write could not be begun; nothing of what it came with was acknowledged");
        return (None, false);
    }
    let (good, settle) = job(connection, effects);
    if good && connection.execute_batch("RELEASE one").is_ok() {
        return (Some(settle), true);
    }
    effects.truncate(before);
    let undone = connection.execute_batch("ROLLBACK TO one; RELEASE one");
    if let Err(error) = &undone {
        tracing::error!(%error, "a write could not be undone; nothing of what it came with was acknowledged");
    }
    // What could not be released is not said to be committed.
    (Some(Box::new(move |_| settle(false))), undone.is_ok())
}
