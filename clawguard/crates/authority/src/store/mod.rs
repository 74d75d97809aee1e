//! What is remembered: contracts, issued tokens, bindings, revocations, in one SQLite file.
//!
//! One thread writes. It takes what waits, commits it together and answers only then, so that what was acknowledged is on
//! disk and two hundred clients share a sync. Every revocation that is in force is also in memory, put there after the
//! commit and before the answer.

mod live;
mod schema;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use claw::{Hash, token::TokenHash};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{Semaphore, oneshot};

pub(crate) use live::{Live, Revocation};

use crate::{KEPT, LONGEST_LIFE};
use writer::{Effects, Job, Writer};

/// Reads from the file at once.
const READERS: usize = 4;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite's word.
    #[error("the store refused: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The commit that it was part of failed.
    #[error("the store could not commit")]
    NotCommitted,
    /// The writer is gone.
    #[error("the store is closed")]
    Closed,
    /// Made by a later version.
    #[error("the store has version {0}, which is later than this program's")]
    Later(i64),
    /// What is stored is not what was stored.
    #[error("the store's bytes of this contract changed")]
    Corrupted,
    /// The file cannot be opened.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
}

/// What became of a revocation.
pub(crate) struct Revoked {
    pub(crate) revocation: Arc<Revocation>,
    /// Revoked before.
    pub(crate) before: bool,
}

/// What became of a binding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Bound to who asked, now or before.
    Here { before: bool },
    /// Bound to somebody else.
    Elsewhere,
    /// Not bound: it is revoked.
    Revoked,
    /// Not bound: whether it was revoked or bound may be forgotten.
    Over,
}

/// What became of a contract.
pub(crate) struct Published {
    /// There before.
    pub(crate) existed: bool,
    /// The envelope that is stored: the first one.
    pub(crate) envelope: Bytes,
    /// What it hashed to when it was stored.
    pub(crate) digest: Hash,
}

/// The store.
pub(crate) struct Store {
    writer: Writer,
    live: Arc<Live>,
    file: PathBuf,
    readers: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Store {
    pub(crate) fn open(data: &Path) -> Result<Self, Error> {
        let file = data.join("store.sqlite");
        let connection = schema::open(&file)?;
        let live = Arc::new(Live::default());
        live.load(&connection)?;
        let writer = Writer::start(connection, Arc::clone(&live))?;
        Ok(Self { writer, live, file, readers: Arc::new(Semaphore::new(READERS)), idle: Arc::default() })
    }

    /// The revocations in force.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Whether the last commit succeeded.
    pub(crate) fn works(&self) -> bool {
        self.writer.works()
    }

    /// Commits what waits and ends the writer.
    pub(crate) fn close(&self) {
        self.writer.close();
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Effects) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection, effects| {
            let result = work(connection, effects);
            let good = result.is_ok();
            let settle = move |committed: bool| {
                // Who asked may have gone; what is committed stays.
                let _ = reply.send(match result {
                    Ok(value) if committed => Ok(value),
                    Ok(_) => Err(Error::NotCommitted),
                    Err(error) => Err(Error::Sqlite(error)),
                });
            };
            (good, Box::new(settle))
        });
        self.writer.send(job).await?;
        answer.await.map_err(|_| Error::NotCommitted)?
    }

    /// Writes down that a token was issued. The token itself is not stored.
    pub(crate) async fn issued(&self, hash: TokenHash, iat: u64, exp: u64, record: String) -> Result<(), Error> {
        self.write(move |connection, _| {
            connection
                .prepare_cached("INSERT OR IGNORE INTO token (hash, issued_at, exp, record) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![hash.0, iat as i64, exp as i64, record])
                .map(drop)
        })
        .await
    }

    /// Revokes a token, for as long as it could live.
    pub(crate) async fn revoke(
        &self,
        hash: TokenHash,
        now: u64,
        reason: Option<String>,
        by: String,
    ) -> Result<Revoked, Error> {
        self.write(move |connection, effects| {
            if let Some(found) = live::find(connection, hash)? {
                // Should memory not have it, it has it from now on.
                let revocation = Arc::new(found);
                effects.known.push(Arc::clone(&revocation));
                return Ok(Revoked { revocation, before: true });
            }
            // A token that was not issued here is none that could be accepted here for longer than any.
            let exp = connection
                .prepare_cached("SELECT exp FROM token WHERE hash = ?1")?
                .query_row([hash.0], |row| row.get::<_, i64>(0))
                .optional()?
                .map_or(now.saturating_add(LONGEST_LIFE), |exp| exp.max(0) as u64);
            connection
                .prepare_cached("INSERT INTO revocation (hash, at, exp, reason, by) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![hash.0, now as i64, exp as i64, reason, by])?;
            let sequence = connection.last_insert_rowid().max(0) as u64;
            let revocation = Arc::new(Revocation { sequence, hash, at: now, reason, by });
            effects.revoked.push(Arc::clone(&revocation));
            Ok(Revoked { revocation, before: false })
        })
        .await
    }

    /// Binds a token to the first who asks.
    pub(crate) async fn bind(&self, hash: TokenHash, binder: String, now: u64, exp: u64) -> Result<Bound, Error> {
        self.write(move |connection, _| {
            if live::find(connection, hash)?.is_some() {
                return Ok(Bound::Revoked);
            }
            if exp <= live::pruned(connection)? {
                return Ok(Bound::Over);
            }
            let first: Option<String> = connection
                .prepare_cached("SELECT binder FROM binding WHERE hash = ?1")?
                .query_row([hash.0], |row| row.get(0))
                .optional()?;
            match first {
                Some(first) if first == binder => Ok(Bound::Here { before: true }),
                Some(_) => Ok(Bound::Elsewhere),
                None => {
                    connection
                        .prepare_cached("INSERT INTO binding (hash, binder, at, exp) VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![hash.0, binder, now as i64, exp as i64])?;
                    Ok(Bound::Here { before: false })
                }
            }
        })
        .await
    }

    /// Stores a contract's envelope, unless there is one for that hash.
    pub(crate) async fn publish(&self, hash: Hash, envelope: Bytes, now: u64, by: String) -> Result<Published, Error> {
        let digest = Hash::of(&envelope);
        self.write(move |connection, _| {
            if let Some((envelope, digest)) = envelope_of(connection, hash)? {
                return Ok(Published { existed: true, envelope, digest });
            }
            connection
                .prepare_cached("INSERT INTO wpc (hash, envelope, digest, at, by) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![hash.0, &envelope[..], digest.0, now as i64, by])?;
            Ok(Published { existed: false, envelope, digest })
        })
        .await
    }

    /// Forgets what concerns tokens that expired long ago.
    pub(crate) async fn prune(&self, now: u64) -> Result<usize, Error> {
        let until = now.saturating_sub(KEPT) as i64;
        self.write(move |connection, effects| {
            // A clock that ran ahead takes what is still needed. How far that went is kept with it.
            let newest =
                "SELECT max(exp) FROM (SELECT exp FROM revocation UNION ALL SELECT exp FROM binding) WHERE exp < ?1";
            if let Some(newest) = connection.query_row(newest, [until], |row| row.get::<_, Option<i64>>(0))? {
                let keep = "INSERT INTO pruned (one, until) VALUES (1, ?1)
                    ON CONFLICT (one) DO UPDATE SET until = max(until, excluded.until)";
                connection.execute(keep, [newest])?;
                effects.pruned = effects.pruned.max(newest.max(0) as u64);
            }
            let mut gone = connection.prepare_cached("DELETE FROM revocation WHERE exp < ?1 RETURNING hash")?;
            let hashes = gone.query_map([until], |row| row.get(0))?;
            let hashes = hashes.map(|hash| hash.map(TokenHash)).collect::<Result<Vec<_>, _>>()?;
            let mut count = hashes.len();
            effects.forgotten.extend(hashes);
            count += connection.execute("DELETE FROM binding WHERE exp < ?1", [until])?;
            count += connection.execute("DELETE FROM token WHERE exp < ?1", [until])?;
            Ok(count)
        })
        .await
    }

    /// The size of a contract's envelope, in bytes.
    pub(crate) async fn size(&self, hash: Hash) -> Result<Option<usize>, Error> {
        self.read(move |connection| {
            let found: Option<i64> = connection
                .prepare_cached("SELECT length(envelope) FROM wpc WHERE hash = ?1")?
                .query_row([hash.0], |row| row.get(0))
                .optional()?;
            Ok(found.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)))
        })
        .await
    }

    /// A contract's envelope.
    pub(crate) async fn envelope(&self, hash: Hash) -> Result<Option<Bytes>, Error> {
        self.read(move |connection| match envelope_of(connection, hash)? {
            Some((envelope, digest)) if Hash::of(&envelope) == digest => Ok(Some(envelope)),
            Some(_) => Err(Error::Corrupted),
            None => Ok(None),
        })
        .await
    }

    /// Revocations before a sequence number, newest first, and whether there are older ones.
    pub(crate) async fn before(&self, sequence: u64, most: usize) -> Result<(Vec<Revocation>, bool), Error> {
        self.read(move |connection| {
            let mut found = live::before(connection, sequence, most + 1)?;
            let more = found.len() > most;
            found.truncate(most);
            Ok((found, more))
        })
        .await
    }

    /// Revocations after a sequence number, oldest first.
    pub(crate) async fn after(&self, sequence: u64, most: usize) -> Result<Vec<Revocation>, Error> {
        self.read(move |connection| Ok(live::after(connection, sequence, most)?)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| Error::Closed)?;
        let (file, idle) = (self.file.clone(), Arc::clone(&self.idle));
        let task = tokio::task::spawn_blocking(move || {
            let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.map_or_else(|| schema::reader(&file), Ok)?;
            let found = work(&connection);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(place);
            found
        });
        task.await.map_err(|_| Error::Closed)?
    }
}

fn envelope_of(connection: &Connection, hash: Hash) -> rusqlite::Result<Option<(Bytes, Hash)>> {
    connection
        .prepare_cached("SELECT envelope, digest FROM wpc WHERE hash = ?1")?
        .query_row([hash.0], |row| Ok((Bytes::from(row.get::<_, Vec<u8>>(0)?), Hash(row.get(1)?))))
        .optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let data = std::env::temp_dir().join(format!("clawguard-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir(&data).unwrap();
        data
    }

    /// A kill does not show this; only a power loss would.
    #[test]
    fn every_commit_is_synced() {
        let data = fresh("synced");
        let connection = schema::open(&data.join("store.sqlite")).unwrap();
        let value = |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
        assert_eq!(value("synchronous").unwrap(), rusqlite::types::Value::Integer(2));
        assert_eq!(value("journal_mode").unwrap(), rusqlite::types::Value::Text("wal".into()));
        std::fs::remove_dir_all(data).unwrap();
    }

    #[tokio::test]
    async fn a_write_that_fails_is_undone_alone_and_is_not_acknowledged() {
        let data = fresh("alone");
        let store = Arc::new(Store::open(&data).unwrap());
        let hash = |name: &str| TokenHash::of(name);
        // The first write keeps the thread busy, so that the others share a commit.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let busy = Arc::clone(&store);
        let busy = tokio::spawn(async move { busy.write(move |_, _| Ok(wait.recv().is_ok())).await });
        let spawn = |name: &'static str, fails: bool| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let insert = "INSERT INTO revocation (hash, at, exp, by) VALUES (?1, 1, 1, 'test')";
                store
                    .write(move |connection, effects| {
                        connection.execute(insert, [TokenHash::of(name).0])?;
                        let (sequence, hash) = (connection.last_insert_rowid() as u64, TokenHash::of(name));
                        let by = String::from("test");
                        effects.revoked.push(Arc::new(Revocation { sequence, hash, at: 1, reason: None, by }));
                        if fails { connection.execute("INSERT INTO nowhere VALUES (1)", []).map(drop) } else { Ok(()) }
                    })
                    .await
            })
        };
        let (one, bad, two) = (spawn("one", false), spawn("bad", true), spawn("two", false));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        go.send(()).unwrap();
        busy.await.unwrap().unwrap();
        assert!(one.await.unwrap().is_ok() && two.await.unwrap().is_ok());
        assert!(matches!(bad.await.unwrap(), Err(Error::Sqlite(_))));
        assert!(store.live().find(hash("one")).is_some() && store.live().find(hash("two")).is_some());
        assert!(store.live().find(hash("bad")).is_none());
        assert_eq!(store.before(u64::MAX, 10).await.unwrap().0.len(), 2);

        // A transaction that cannot be committed is acknowledged to nobody.
        let lost = store.write(|connection, _| connection.execute_batch("ROLLBACK")).await;
        assert!(lost.is_err());
        assert!(!store.works());
        assert!(store.issued(hash("x"), 1, 2, "{}".into()).await.is_ok());
        assert!(store.works());
        store.close();
        assert!(matches!(store.prune(0).await, Err(Error::Closed)));
        std::fs::remove_dir_all(data).unwrap();
    }

    #[tokio::test]
    async fn a_commit_that_fails_is_acknowledged_to_nobody() {
        let data = fresh("commit");
        let file = data.join("store.sqlite");
        let connection = schema::open(&file).unwrap();
        // A constraint that is looked at when the transaction ends.
        let tables = "PRAGMA foreign_keys = ON; CREATE TABLE parent (id INTEGER PRIMARY KEY);
            CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);";
        connection.execute_batch(tables).unwrap();
        let live = Arc::new(Live::default());
        let writer = Writer::start(connection, Arc::clone(&live)).unwrap();
        let readers = Arc::new(Semaphore::new(READERS));
        let store = Store { writer, live, file, readers, idle: Arc::default() };
        let hash = TokenHash::of("one");
        store.revoke(hash, 1, None, "test".into()).await.unwrap();
        let other = TokenHash::of("other");
        let lost = store
            .write(move |connection, effects| {
                connection.execute("DELETE FROM revocation", [])?;
                connection.execute("INSERT INTO child VALUES (1)", [])?;
                let by = String::from("test");
                effects.revoked.push(Arc::new(Revocation { sequence: 2, hash: other, at: 1, reason: None, by }));
                effects.forgotten.push(hash);
                Ok(())
            })
            .await;
        assert!(matches!(lost, Err(Error::NotCommitted)));
        assert!(!store.works());
        assert!(store.live().find(hash).is_some() && store.live().find(other).is_none());
        store.revoke(other, 1, None, "test".into()).await.unwrap();
        assert!(store.works() && store.live().find(other).is_some());
        std::fs::remove_dir_all(data).unwrap();
    }

    #[tokio::test]
    async fn a_write_that_cannot_be_undone_takes_what_it_came_with_along() {
        let data = fresh("undone");
        let store = Arc::new(Store::open(&data).unwrap());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let busy = Arc::clone(&store);
        let busy = tokio::spawn(async move { busy.write(move |_, _| Ok(wait.recv().is_ok())).await });
        let revoke = |name: &'static str| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.revoke(TokenHash::of(name), 1, None, "test".into()).await })
        };
        let settled = std::time::Duration::from_millis(100);
        tokio::time::sleep(settled).await;
        let one = revoke("one");
        tokio::time::sleep(settled).await;
        let same = Arc::clone(&store);
        let bad = tokio::spawn(async move {
            let work = |connection: &Connection, _: &mut Effects| {
                connection.execute_batch("INSERT INTO binding VALUES (x'00', 'bad', 1, 1); RELEASE one")?;
                connection.execute("INSERT INTO nowhere VALUES (1)", [])
            };
            same.write(work).await
        });
        tokio::time::sleep(settled).await;
        let two = revoke("two");
        tokio::time::sleep(settled).await;
        go.send(()).unwrap();
        busy.await.unwrap().unwrap();
        assert!(matches!(bad.await.unwrap(), Err(Error::Sqlite(_))));
        assert!(matches!(one.await.unwrap(), Err(Error::NotCommitted)));
        assert!(matches!(two.await.unwrap(), Err(Error::NotCommitted)));
        assert!(!store.works());
        let left = "SELECT (SELECT count(*) FROM binding) + (SELECT count(*) FROM revocation)";
        let left = store.read(move |file| Ok(file.query_row(left, [], |row| row.get::<_, i64>(0))?)).await;
        assert_eq!(left.unwrap(), 0);
        assert!(store.live().find(TokenHash::of("one")).is_none());
        store.revoke(TokenHash::of("one"), 1, None, "test".into()).await.unwrap();
        assert!(store.works() && store.live().find(TokenHash::of("one")).is_some());
        std::fs::remove_dir_all(data).unwrap();
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_while_memory_may_differ_from_the_file() {
        let data = fresh("stale");
        let store = Store::open(&data).unwrap();
        let (other, next) = (TokenHash::of("other"), TokenHash::of("next"));
        let file = Connection::open(data.join("store.sqlite")).unwrap();
        file.execute_batch("ALTER TABLE revocation RENAME TO away").unwrap();
        assert!(store.write(|connection, _| connection.execute_batch("ROLLBACK")).await.is_err());
        assert!(matches!(store.issued(next, 1, 2, "{}".into()).await, Err(Error::NotCommitted)));
        assert!(!store.works());
        let back = "ALTER TABLE away RENAME TO revocation";
        file.execute_batch(back).unwrap();
        let insert = "INSERT INTO revocation (hash, at, exp, by) VALUES (?1, 1, 1, 'test')";
        file.execute(insert, [other.0]).unwrap();
        store.issued(next, 1, 2, "{}".into()).await.unwrap();
        assert!(store.works() && store.live().find(other).is_some());

        // What memory misses all the same is there once somebody revokes it again.
        file.execute(insert, [next.0]).unwrap();
        assert!(store.live().find(next).is_none());
        assert!(store.revoke(next, 2, None, "test".into()).await.unwrap().before);
        assert!(store.live().find(next).is_some());
        std::fs::remove_dir_all(data).unwrap();
    }

    #[tokio::test]
    async fn a_contract_whose_bytes_changed_is_not_handed_out() {
        let data = fresh("changed");
        let store = Store::open(&data).unwrap();
        let hash = Hash::of(b"contract");
        store.publish(hash, Bytes::from_static(b"{\"a\":1}"), 1, "test".into()).await.unwrap();
        assert_eq!(store.envelope(hash).await.unwrap().unwrap(), "{\"a\":1}");
        let change = "UPDATE wpc SET envelope = CAST('{\"a\":2}' AS BLOB)";
        store.write(move |connection, _| connection.execute(change, [])).await.unwrap();
        assert!(matches!(store.envelope(hash).await, Err(Error::Corrupted)));
        std::fs::remove_dir_all(data).unwrap();
    }
}
