//! The store's file and its tables.

use std::{fs::File, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use super::Error;

const VERSION: i64 = 1;

/// `revocation.sequence` is never given twice, also not after the newest was pruned: it is the stream's cursor.
const TABLES: &str = "
    CREATE TABLE wpc (
        hash BLOB PRIMARY KEY, envelope BLOB NOT NULL, digest BLOB NOT NULL, at INTEGER NOT NULL, by TEXT NOT NULL
    ) STRICT;
    CREATE TABLE token (
        hash BLOB PRIMARY KEY, issued_at INTEGER NOT NULL, exp INTEGER NOT NULL, record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX token_exp ON token (exp);
    CREATE TABLE revocation (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, at INTEGER NOT NULL, exp INTEGER NOT NULL,
        reason TEXT, by TEXT NOT NULL
    ) STRICT;
    CREATE INDEX revocation_exp ON revocation (exp);
    CREATE TABLE binding (
        hash BLOB PRIMARY KEY, binder TEXT NOT NULL, at INTEGER NOT NULL, exp INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX binding_exp ON binding (exp);
    PRAGMA user_version = 1;
";

/// The last `exp` of a revocation or binding that was forgotten: no token that ends as early is good, whatever the clock says.
const PRUNED: &str = "
    CREATE TABLE IF NOT EXISTS pruned (one INTEGER PRIMARY KEY CHECK (one = 1), until INTEGER NOT NULL) STRICT;
";

pub(super) fn open(file: &Path) -> Result<Connection, Error> {
    let trouble = |error| Error::File(file.to_owned(), error);
    // SQLite gives its other files the mode of this one.
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file).map_err(trouble)?;
    let mut connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    // Every commit is synced before it is acknowledged; NORMAL would sync at checkpoints only.
    connection.pragma_update(None, "synchronous", "full")?;
    match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
        0 => {
            let transaction = connection.transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.commit()?;
        }
        VERSION => {}
        later => return Err(Error::Later(later)),
    }
    connection.execute_batch(PRUNED)?;
    // The file's own name must outlive a power loss as well.
    if let Some(directory) = file.parent() {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(trouble)?;
    }
    Ok(connection)
}

pub(super) fn reader(file: &Path) -> Result<Connection, Error> {
    connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(file: &Path, mode: OpenFlags) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(file, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}
