//! What was accepted: on disk before it is in force.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fence::AgentName;
use nix::fcntl::posix_fallocate;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use switch::Numbers;

use crate::tokens::Tokens;

/// The ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The agents that were ever known.
    #[serde(default)]
    pub agents: BTreeMap<AgentName, AgentEntry>,
    /// The highest sequence accepted for each `policy_id`.
    #[serde(default)]
    pub sequences: BTreeMap<String, u64>,
    /// The groups' numbers.
    #[serde(default)]
    pub numbers: Numbers,
    /// Until when contracts without an expiry of their own are in force (RFC 3339), by hash.
    #[serde(default)]
    pub lifetimes: BTreeMap<String, String>,
    /// What is known of job tokens.
    #[serde(default)]
    pub tokens: Tokens,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEntry {
    /// Its slot in the kernel's tables.
    pub slot: u32,
    /// Hash of the contract in force for it.
    pub wpc: Option<String>,
    /// What the configuration said when that contract came into force. If it says something else now, the configuration
    /// has the last word.
    pub configured: Option<String>,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was written there.
    #[error("{} is damaged ({why}); put a backup in its place, or move it away to begin without it", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
    },
}

/// Reads a state file; one that is not there is empty.
///
/// # Errors
///
/// See [`Error`].
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::Damaged { path: path.to_owned(), why: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Writes a state file: once this returns, it is on disk.
///
/// # Errors
///
/// If the disk is full or refuses; the old content is then still there.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    text.push(b'\n');
    sys::file::replace(path, &text, 0o600)
}

/// Writes a state file that must not fail for want of room: the reserve is given up for it.
///
/// # Errors
///
/// As [`write()`], if even that was not enough.
pub fn write_at_all_costs<T: Serialize>(path: &Path, value: &T, reserve: &Path) -> io::Result<()> {
    match write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            fs::remove_file(reserve)?;
            write(path, value)
        }
        other => other,
    }
}

/// Bytes that are set aside.
const RESERVE: i64 = 1 << 20;

/// Sets room aside on the disk, if it is not set aside already.
///
/// # Errors
///
/// If the disk is full.
pub fn set_aside(reserve: &Path) -> io::Result<()> {
    if fs::metadata(reserve).is_ok_and(|data| data.len() == RESERVE as u64) {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(reserve)?;
    // Blocks, not a length alone: a hole would be no room.
    let got = posix_fallocate(&file, 0, RESERVE).map_err(io::Error::from).and_then(|()| file.sync_all());
    if got.is_err() {
        fs::remove_file(reserve)?;
    }
    got
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_survives_its_file_and_damage_is_told() {
        let path = std::env::temp_dir().join(format!("clawguard-ledger-{}", std::process::id()));
        let mut ledger = Ledger::default();
        ledger.sequences.insert("p".into(), 7);
        ledger.agents.insert("a".parse().unwrap(), AgentEntry { slot: 1, wpc: None, configured: None });
        write(&path, &ledger).unwrap();
        assert_eq!(read::<Ledger>(&path).unwrap(), ledger);
        fs::write(&path, "{\"agents\":").unwrap();
        assert!(matches!(read::<Ledger>(&path), Err(Error::Damaged { .. })));
        fs::remove_file(&path).unwrap();
        assert_eq!(read::<Ledger>(&path).unwrap(), Ledger::default());
    }
}
