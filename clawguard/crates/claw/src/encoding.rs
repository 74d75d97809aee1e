//! base64url without padding, and the SHA-256 hashes that are written in it.

use std::{fmt, str::FromStr};

use base64::{Engine, alphabet, engine::DecodePaddingMode, engine::GeneralPurpose, engine::GeneralPurposeConfig};
use sha2::{Digest, Sha256};

/// The URL-safe alphabet, no padding, and no stray bits in the last character: each value has one spelling.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// Encodes bytes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// Decodes exactly `N` bytes.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    ENGINE.decode(text).ok()?.try_into().ok()
}

/// Decodes bytes of any number.
#[must_use]
pub fn decode_any(text: &str) -> Option<Vec<u8>> {
    ENGINE.decode(text).ok()
}

/// A SHA-256 hash; written as 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// A text that is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no SHA-256 hash: 43 characters of base64url without padding are expected")]
pub struct NotAHash(pub String);

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        decode(text).map(Self).ok_or_else(|| NotAHash(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_one_spelling() {
        let text = Hash::of(b"x").to_string();
        assert_eq!(text.len(), 43);
        assert_eq!(text.parse::<Hash>().unwrap(), Hash::of(b"x"));
        // The last character carries four bits; the other two must be zero.
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let spellings = alphabet.chars().filter(|c| format!("{}{c}", &text[..42]).parse::<Hash>().is_ok()).count();
        assert_eq!(spellings, 16);
        for wrong in [format!("{text}="), format!("{text}A"), text[..42].to_owned(), text.replace(|_: char| true, "+")]
        {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
        }
    }
}
