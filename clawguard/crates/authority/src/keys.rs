//! The two signing keys: one for contracts, one for tokens. The second one can be replaced while the server runs.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use claw::{
    Value, encoding,
    json::{self, Limits},
    key::{Did, PrivateKey},
    token::Issuers,
};

use crate::{
    LONGEST_LIFE,
    reply::{number, object, text},
};

const CONTROLS: &str = "controls.jwk";
const SCOPE: &str = "scope.jwks";
/// Bytes of a key file.
const MOST_BYTES: u64 = 64 << 10;

/// A key that signs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Which.
    pub key: Did,
    /// The last second, since 1970, in which it verifies.
    pub not_after: u64,
}

/// The keys for tokens.
#[derive(Debug)]
pub struct ScopeKeys {
    /// The one that signs.
    pub active: PrivateKey,
    /// Those that signed before, newest first.
    pub retired: Vec<Retired>,
}

/// What is known of a key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Accepted,
    Over,
    Unknown,
}

impl ScopeKeys {
    /// The keys that verify now, the signing one first, with the last second of those that leave.
    pub fn accepted(&self, now: u64) -> impl Iterator<Item = (Did, Option<u64>)> {
        let retired = self.retired.iter().filter(move |old| now <= old.not_after);
        std::iter::once((self.active.did(), None)).chain(retired.map(|old| (old.key, Some(old.not_after))))
    }

    pub(crate) fn issuers(&self, now: u64) -> Issuers {
        Issuers::new(self.accepted(now).map(|(key, _)| key))
    }

    pub(crate) fn knows(&self, kid: &str, now: u64) -> Known {
        if self.accepted(now).any(|(key, _)| key.kid() == kid) {
            Known::Accepted
        } else if self.retired.iter().any(|old| old.key.kid() == kid) {
            Known::Over
        } else {
            Known::Unknown
        }
    }

    fn read(content: &str) -> Result<Self, &'static str> {
        let value = json::parse(content.as_bytes(), Limits { bytes: MOST_BYTES as usize, depth: 4 })
            .map_err(|_| "it is no JSON")?;
        let Some(Value::Array(keys)) = value.get("keys") else { return Err("it has no list of keys") };
        let (mut active, mut retired) = (None, Vec::new());
        for key in keys {
            if key.get("d").is_some() {
                let key = PrivateKey::from_jwk(&key.to_string()).map_err(|_| "its private key is no Ed25519 JWK")?;
                if active.replace(key).is_some() {
                    return Err("it has two private keys");
                }
                continue;
            }
            let x = key.get("x").and_then(Value::as_str).and_then(encoding::decode::<32>);
            let public = x.and_then(Did::from_public_key).ok_or("a retired key is no Ed25519 JWK")?;
            match key.get("not_after") {
                Some(Value::Number(at)) if *at >= 0.0 => retired.push(Retired { key: public, not_after: *at as u64 }),
                _ => return Err("a retired key has no not_after"),
            }
        }
        Ok(Self { active: active.ok_or("it has no private key")?, retired })
    }

    fn write(&self) -> String {
        let retired: String = self
            .retired
            .iter()
            .map(|old| {
                let key = object([
                    ("kty", text("OKP")),
                    ("crv", text("Ed25519")),
                    ("kid", text(old.key.kid())),
                    ("x", text(encoding::encode(old.key.public_key()))),
                    ("not_after", number(old.not_after)),
                ]);
                format!(",{key}")
            })
            .collect();
        format!("{{\"keys\":[{}{retired}]}}\n", self.active.to_jwk().trim_end())
    }
}

/// The directory of the keys, mode 0700.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The keys of a data directory; both are made if they are not there.
    ///
    /// # Errors
    ///
    /// If the directory or a key cannot be made.
    pub fn open(data: &Path) -> io::Result<Self> {
        let directory = Self(data.join("keys"));
        sys::file::directory(&directory.0, 0o700)?;
        let _lock = directory.lock()?;
        if !directory.0.join(CONTROLS).exists() {
            directory.put(CONTROLS, &random_key()?.to_jwk())?;
        }
        if !directory.0.join(SCOPE).exists() {
            directory.put(SCOPE, &ScopeKeys { active: random_key()?, retired: Vec::new() }.write())?;
        }
        Ok(directory)
    }

    /// Puts given keys where a data directory has its own: for tests, and for who moves in with keys that hosts trust.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn install(data: &Path, controls: &PrivateKey, scope: PrivateKey) -> io::Result<()> {
        let directory = Self(data.join("keys"));
        sys::file::directory(&directory.0, 0o700)?;
        directory.put(CONTROLS, &controls.to_jwk())?;
        directory.put(SCOPE, &ScopeKeys { active: scope, retired: Vec::new() }.write())
    }

    /// The key that signs contracts.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn controls(&self) -> io::Result<PrivateKey> {
        PrivateKey::from_jwk(&self.get(CONTROLS)?).map_err(|error| self.wrong(CONTROLS, &error.to_string()))
    }

    /// The keys for tokens.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn scope(&self) -> io::Result<ScopeKeys> {
        ScopeKeys::read(&self.get(SCOPE)?).map_err(|why| self.wrong(SCOPE, why))
    }

    /// Replaces the key that signs tokens. The old one verifies for as long as a token lives, and a running server takes
    /// the new one at its next request.
    ///
    /// # Errors
    ///
    /// If the keys cannot be read or written.
    pub fn rotate(&self, now: u64) -> io::Result<ScopeKeys> {
        let _lock = self.lock()?;
        let mut keys = self.scope()?;
        keys.retired.retain(|old| now <= old.not_after);
        keys.retired.insert(0, Retired { key: keys.active.did(), not_after: now.saturating_add(LONGEST_LIFE) });
        keys.active = random_key()?;
        self.put(SCOPE, &keys.write())?;
        Ok(keys)
    }

    fn get(&self, name: &str) -> io::Result<String> {
        let bytes = sys::file::read_limited(&self.0.join(name), MOST_BYTES)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.0.join(name).display())))?;
        String::from_utf8(bytes).map_err(|_| self.wrong(name, "it is not UTF-8"))
    }

    fn put(&self, name: &str, content: &str) -> io::Result<()> {
        sys::file::replace(&self.0.join(name), content.as_bytes(), 0o600)
    }

    fn wrong(&self, name: &str, why: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", self.0.join(name).display()))
    }

    /// Held while keys are made or replaced.
    fn lock(&self) -> io::Result<File> {
        let path = self.0.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    }

    /// By what a replaced file is told from the one before.
    fn stamp(&self) -> Option<(u64, i64, i64, u64)> {
        let found = fs::metadata(self.0.join(SCOPE)).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    }
}

fn random_key() -> io::Result<PrivateKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(PrivateKey::from_seed(&seed))
}

type Loaded = (Option<(u64, i64, i64, u64)>, Arc<ScopeKeys>);

/// The keys in use.
pub(crate) struct Keyring {
    directory: Directory,
    pub(crate) controls: PrivateKey,
    scope: RwLock<Loaded>,
}

impl Keyring {
    pub(crate) fn open(directory: Directory) -> io::Result<Self> {
        let stamp = directory.stamp();
        let scope = RwLock::new((stamp, Arc::new(directory.scope()?)));
        Ok(Self { controls: directory.controls()?, directory, scope })
    }

    /// The keys for tokens, as the file has them now.
    pub(crate) fn scope(&self) -> Arc<ScopeKeys> {
        let stamp = self.directory.stamp();
        {
            let loaded = self.scope.read().unwrap_or_else(PoisonError::into_inner);
            if stamp.is_none() || loaded.0 == stamp {
                return Arc::clone(&loaded.1);
            }
        }
        let mut loaded = self.scope.write().unwrap_or_else(PoisonError::into_inner);
        match self.directory.scope() {
            Ok(keys) => {
                tracing::info!(kid = keys.active.did().kid(), "another key signs tokens from now on");
                *loaded = (stamp, Arc::new(keys));
            }
            // The keys that were good before go on.
            Err(error) => tracing::error!(%error, "the replaced token keys cannot be read"),
        }
        Arc::clone(&loaded.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_key_verifies_for_an_hour_and_then_leaves() {
        let data = std::env::temp_dir().join(format!("clawguard-authority-keys-{}", std::process::id()));
        let directory = Directory::open(&data).unwrap();
        let keyring = Keyring::open(directory.clone()).unwrap();
        let old = keyring.scope().active.did();
        let controls = directory.controls().unwrap().did();
        let rotated = directory.rotate(1000).unwrap();
        assert_ne!(rotated.active.did(), old);
        // Without a restart.
        let keys = keyring.scope();
        assert_eq!(keys.active.did(), rotated.active.did());
        assert_eq!(keys.knows(&old.kid(), 4600), Known::Accepted);
        assert_eq!(keys.knows(&old.kid(), 4601), Known::Over);
        assert_eq!(keys.knows("0000000000000000", 1000), Known::Unknown);
        assert_eq!(keys.accepted(4600).count(), 2);
        assert_eq!(keys.accepted(4601).count(), 1);
        // Keys that are over are forgotten by the next rotation, others kept.
        assert_eq!(directory.rotate(4600).unwrap().retired.len(), 2);
        assert_eq!(directory.rotate(8201).unwrap().retired.len(), 1);
        assert_eq!(Directory::open(&data).unwrap().controls().unwrap().did(), controls);
        fs::remove_dir_all(data).unwrap();
    }
}
