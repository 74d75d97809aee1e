//! Where the time and the tokens' ids come from, so that tests can say what they are.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use claw::time::Instant;

/// The time of day.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// The host's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Instant(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        })
    }

    /// Another.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Instant {
        (self.0)()
    }

    /// Now, in seconds since 1970.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.now().0 / 1_000_000_000
    }
}

/// Where a token's `jti` and `nonce` come from.
#[derive(Clone)]
pub struct Ids(Arc<dyn Fn() -> Option<String> + Send + Sync>);

impl Ids {
    /// Random UUIDs (RFC 9562, version 4).
    #[must_use]
    pub fn random() -> Self {
        Self::new(|| {
            let mut bytes = [0_u8; 16];
            getrandom::fill(&mut bytes).ok()?;
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            let mut text = String::with_capacity(36);
            for (at, byte) in bytes.iter().enumerate() {
                if [4, 6, 8, 10].contains(&at) {
                    text.push('-');
                }
                text.push_str(&format!("{byte:02x}"));
            }
            Some(text)
        })
    }

    /// Others.
    pub fn new(next: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(next))
    }

    /// The next one; nothing where the host has no randomness to give.
    pub(crate) fn next(&self) -> Option<String> {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let ids = Ids::random();
        let (one, other) = (ids.next().unwrap(), ids.next().unwrap());
        assert_ne!(one, other);
        for id in [one, other] {
            assert_eq!(id.len(), 36);
            assert_eq!((id.as_bytes()[14], id.matches('-').count()), (b'4', 4));
            assert!(b"89ab".contains(&id.as_bytes()[19]));
        }
    }
}
