//! Ranges, to be asked which of them lie around another: a look-up for each length of prefix that is there.

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
};

use crate::net::Cidr;

/// Ranges under a key, by the length of their prefix.
pub(crate) struct Ranges<K>(BTreeMap<u8, HashSet<(K, Cidr)>>);

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Copy + Eq + Hash> Ranges<K> {
    pub(crate) fn insert(&mut self, key: K, range: Cidr) {
        self.0.entry(range.bits).or_default().insert((key, range));
    }

    /// Whether one of them covers a range and has a prefix of so many bits at least.
    pub(crate) fn around(&self, key: K, range: Cidr, least: u8) -> bool {
        let mut lengths = self.0.range(least..=range.bits.max(least));
        lengths.any(|(bits, there)| *bits <= range.bits && there.contains(&(key, range.wider(*bits))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_around_those_that_it_covers_and_under_its_key_only() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let mut ranges = Ranges::default();
        ranges.insert(1, cidr("10.0.0.0/8"));
        ranges.insert(1, cidr("192.0.2.4/30"));
        assert!(ranges.around(1, cidr("10.1.2.3/32"), 0));
        assert!(ranges.around(1, cidr("10.0.0.0/8"), 96 + 8));
        assert!(!ranges.around(1, cidr("10.1.2.3/32"), 96 + 9));
        assert!(!ranges.around(1, cidr("0.0.0.0/0"), 0));
        assert!(!ranges.around(2, cidr("10.1.2.3/32"), 0));
        assert!(ranges.around(1, cidr("192.0.2.7/32"), 0));
        assert!(!ranges.around(1, cidr("192.0.2.8/32"), 0));
    }
}
