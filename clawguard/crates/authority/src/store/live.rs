//! The revocations in force, in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

use claw::token::TokenHash;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::watch;

use super::writer::Effects;

/// Revocations that followers are served from memory; who is further behind is served from the file.
const RECENT: usize = 4096;

/// A revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// Its place in the order of all revocations, from 1.
    pub(crate) sequence: u64,
    /// Of which token.
    pub(crate) hash: TokenHash,
    /// When, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) reason: Option<String>,
    pub(crate) by: String,
}

#[derive(Default)]
struct Inner {
    all: HashMap<TokenHash, Arc<Revocation>>,
    recent: VecDeque<Arc<Revocation>>,
    /// The highest sequence number that is not in `recent`, though it may have been given.
    before_recent: u64,
    /// Tokens that end as early are over: what was known of them may be forgotten.
    pruned: u64,
}

pub(crate) struct Live {
    inner: RwLock<Inner>,
    head: watch::Sender<u64>,
}

impl Default for Live {
    fn default() -> Self {
        Self { inner: RwLock::default(), head: watch::Sender::new(0) }
    }
}

impl Live {
    /// The revocation of a token.
    pub(crate) fn find(&self, hash: TokenHash) -> Option<Arc<Revocation>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).all.get(&hash).cloned()
    }

    /// Until when tokens may have ended whose revocations and bindings are forgotten. Asked after [`Self::find`] it misses
    /// nothing.
    pub(crate) fn pruned(&self) -> u64 {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).pruned
    }

    /// The newest sequence number, and a wake-up at every later one.
    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Revocations after a sequence number, oldest first.
    ///
    /// # Errors
    ///
    /// Where memory does not reach back that far: the last sequence number before it does.
    pub(crate) fn after(&self, sequence: u64, most: usize) -> Result<Vec<Arc<Revocation>>, u64> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if sequence < inner.before_recent {
            return Err(inner.before_recent);
        }
        let from = inner.recent.partition_point(|known| known.sequence <= sequence);
        Ok(inner.recent.range(from..).take(most).cloned().collect())
    }

    /// Takes over what the file has.
    pub(super) fn load(&self, connection: &Connection) -> rusqlite::Result<()> {
        let given: Option<i64> = connection
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'revocation'", [], |row| row.get(0))
            .optional()?;
        let given = given.unwrap_or(0).max(0) as u64;
        let all = after(connection, 0, usize::MAX)?.into_iter().map(|found| (found.hash, Arc::new(found))).collect();
        let pruned = pruned(connection)?;
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) =
            Inner { all, recent: VecDeque::new(), before_recent: given, pruned };
        self.head.send_replace(given);
        Ok(())
    }

    /// Takes over what was committed.
    pub(super) fn apply(&self, effects: Effects) {
        let newest = effects.revoked.last().map(|revocation| revocation.sequence);
        {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            inner.pruned = inner.pruned.max(effects.pruned);
            for hash in effects.forgotten {
                inner.all.remove(&hash);
            }
            for revocation in effects.known {
                inner.all.entry(revocation.hash).or_insert(revocation);
            }
            for revocation in effects.revoked {
                inner.all.insert(revocation.hash, Arc::clone(&revocation));
                inner.recent.push_back(revocation);
            }
            while inner.recent.len() > RECENT {
                if let Some(old) = inner.recent.pop_front() {
                    inner.before_recent = old.sequence;
                }
            }
        }
        if let Some(newest) = newest {
            self.head.send_replace(newest);
        }
    }
}

fn revocation(row: &Row<'_>) -> rusqlite::Result<Revocation> {
    Ok(Revocation {
        sequence: row.get::<_, i64>(0)?.max(0) as u64,
        hash: TokenHash(row.get(1)?),
        at: row.get::<_, i64>(2)?.max(0) as u64,
        reason: row.get(3)?,
        by: row.get(4)?,
    })
}

pub(super) fn find(connection: &Connection, hash: TokenHash) -> rusqlite::Result<Option<Revocation>> {
    connection
        .prepare_cached("SELECT sequence, hash, at, reason, by FROM revocation WHERE hash = ?1")?
        .query_row([hash.0], revocation)
        .optional()
}

pub(super) fn pruned(connection: &Connection) -> rusqlite::Result<u64> {
    let found: Option<i64> =
        connection.prepare_cached("SELECT until FROM pruned")?.query_row([], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0).max(0) as u64)
}

fn bounded(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn before(connection: &Connection, sequence: u64, most: usize) -> rusqlite::Result<Vec<Revocation>> {
    let words =
        "SELECT sequence, hash, at, reason, by FROM revocation WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2";
    let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
    connection.prepare_cached(words)?.query_map(params![sequence, bounded(most)], revocation)?.collect()
}

pub(super) fn after(connection: &Connection, sequence: u64, most: usize) -> rusqlite::Result<Vec<Revocation>> {
    let words = "SELECT sequence, hash, at, reason, by FROM revocation WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
    let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
    connection.prepare_cached(words)?.query_map(params![sequence, bounded(most)], revocation)?.collect()
}
