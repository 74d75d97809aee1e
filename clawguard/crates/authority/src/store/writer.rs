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
    pub(super) forgotten: Vec<TokenHash>,
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
    // What comes while one batch is committed is the next batch.
    while waiting.blocking_recv_many(&mut jobs, TOGETHER) > 0 {
        let mut effects = Effects::default();
        let mut settles = Vec::with_capacity(jobs.len());
        if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
            tracing::error!(%error, "the store could not begin; nothing of it was acknowledged");
            works.store(false, Ordering::Relaxed);
            jobs.clear();
            continue;
        }
        for job in jobs.drain(..) {
            settles.push(one(connection, job, &mut effects));
        }
        let committed = connection.execute_batch("COMMIT");
        works.store(committed.is_ok(), Ordering::Relaxed);
        match &committed {
            Ok(()) => live.apply(effects),
            Err(error) => {
                tracing::error!(%error, "the store could not commit; nothing of it was acknowledged");
                let _ = connection.execute_batch("ROLLBACK");
                // A commit that failed late may be on disk all the same: memory follows the file.
                if let Err(error) = live.load(connection) {
                    tracing::error!(%error, "the store cannot be read");
                }
            }
        }
        for settle in settles {
            settle(committed.is_ok());
        }
    }
}

/// One job, undone alone if it fails.
fn one(connection: &Connection, job: Job, effects: &mut Effects) -> Settle {
    let before = (effects.revoked.len(), effects.forgotten.len());
    let marked = connection.execute_batch("SAVEPOINT one").is_ok();
    let (good, settle) = job(connection, effects);
    if good && marked && connection.execute_batch("RELEASE one").is_ok() {
        return settle;
    }
    let _ = connection.execute_batch("ROLLBACK TO one; RELEASE one");
    effects.revoked.truncate(before.0);
    effects.forgotten.truncate(before.1);
    // What could not be released is not said to be committed.
    Box::new(move |_| settle(false))
}
