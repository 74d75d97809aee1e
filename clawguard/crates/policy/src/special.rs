//! Ranges that no wide rule opens: they need a CIDR of their own in the contract.

use std::sync::LazyLock;

use clawguard_common::{Addr, Reason};

use crate::net::Cidr;

/// The addresses at which clouds hand out credentials to whoever asks from inside.
const METADATA: [&str; 8] = [
    "169.254.169.254/32", // AWS, GCP, Azure, OpenStack, DigitalOcean
    "169.254.169.253/32", // AWS DNS
    "169.254.170.2/32",   // AWS ECS task credentials
    "100.100.100.200/32", // Alibaba
    "168.63.129.16/32",   // Azure WireServer
    "192.0.0.192/32",     // Oracle
    "fd00:ec2::254/128",  // AWS
    "fd20:ce::254/128",   // GCP
];

/// IANA's special-purpose registries (RFC 6890), without the documentation ranges, which lead nowhere.
const SPECIAL: [&str; 21] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// A special range and why it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// The range.
    pub range: Cidr,
    /// [`Reason::Metadata`] or [`Reason::SpecialRange`].
    pub reason: Reason,
}

static TABLE: LazyLock<Vec<Special>> = LazyLock::new(|| {
    let rows = |texts: &[&str], reason| -> Vec<Special> {
        texts.iter().filter_map(|text| text.parse().ok()).map(|range| Special { range, reason }).collect()
    };
    let mut table = rows(&METADATA, Reason::Metadata);
    table.extend(rows(&SPECIAL, Reason::SpecialRange));
    table
});

/// All special ranges, the narrowest kind first.
#[must_use]
pub fn all() -> &'static [Special] {
    &TABLE
}

/// The narrowest special range that an address lies in.
#[must_use]
pub fn of(addr: Addr) -> Option<Special> {
    all().iter().filter(|special| special.range.contains(addr)).max_by_key(|special| special.range.bits).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_ranges() {
        assert_eq!(all().len(), METADATA.len() + SPECIAL.len());
    }

    #[test]
    fn metadata_is_told_apart_from_its_range() {
        let of = |text: &str| of(crate::net::addr(text.parse().unwrap())).map(|special| special.reason);
        assert_eq!(of("169.254.169.254"), Some(Reason::Metadata));
        assert_eq!(of("169.254.1.1"), Some(Reason::SpecialRange));
        assert_eq!(of("64:ff9b::a9fe:a9fe"), Some(Reason::Metadata));
        assert_eq!(of("192.168.7.7"), Some(Reason::SpecialRange));
        assert_eq!(of("203.0.113.1"), None);
        assert_eq!(of("2001:db8::1"), None);
        assert_eq!(of("fe80::1"), Some(Reason::SpecialRange));
    }
}
