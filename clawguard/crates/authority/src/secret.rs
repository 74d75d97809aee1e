//! The administrator's bearer token.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use claw::{Hash, encoding};

/// Characters below which a token could be guessed.
const SHORTEST: usize = 20;
/// Bytes of a token's file.
const MOST_BYTES: u64 = 4096;

/// The administrator's bearer token, of which only the hash is kept.
#[derive(Clone)]
pub struct AdminToken(Hash);

impl AdminToken {
    /// Of its text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Hash::of(text.as_bytes()))
    }

    /// Whether that is it. How long the comparison takes tells something about the hashes, and so nothing about the token.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        Hash::of(text.as_bytes()).0.iter().zip(self.0.0).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }

    /// Reads it from its file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is open to everybody, or what is in it is short enough to be guessed or
    /// looks like a job token.
    pub fn read(file: &Path) -> io::Result<Self> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        if fs::metadata(file)?.permissions().mode() & 0o007 != 0 {
            return Err(wrong("everybody may read it: chmod 600"));
        }
        let bytes = sys::file::read_limited(file, MOST_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
        let text = text.trim();
        if text.len() < SHORTEST || text.chars().any(char::is_whitespace) {
            return Err(wrong("one word of at least 20 characters is expected"));
        }
        if text.split('.').count() == 3 {
            return Err(wrong("with two dots it would be taken for a job token: another one is expected"));
        }
        Ok(Self::new(text))
    }

    /// Makes one and writes it to a file for its owner alone, if the file is not there.
    ///
    /// # Errors
    ///
    /// If there is no randomness or the file cannot be written.
    pub fn make(file: &Path) -> io::Result<()> {
        if file.exists() {
            return Ok(());
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        sys::file::replace(file, format!("{}\n", encoding::encode(&bytes)).as_bytes(), 0o600)
    }
}
