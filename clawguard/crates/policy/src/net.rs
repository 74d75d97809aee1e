//! Address ranges in the form in which they are judged.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use clawguard_common::Addr;

/// The canonical form of an address.
#[must_use]
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => Addr::from_v4(u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => Addr::from_bytes(ip.octets()).canonical(),
    }
}

/// An address as people write it.
#[must_use]
pub fn ip(addr: Addr) -> IpAddr {
    let bytes = addr.bytes();
    if addr.is_v4() {
        IpAddr::V4(Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]))
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes))
    }
}

/// A range of addresses: a prefix of the canonical form. IPv4 prefixes are 96 bits longer than they are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The first address.
    pub addr: Addr,
    /// Bits that all of them share, 0 to 128.
    pub bits: u8,
}

/// A text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotACidr {
    /// Not of the form ADDRESS/BITS.
    #[error("\"{0}\" is no range: ADDRESS/BITS is expected, as in 10.1.2.0/24 or 2001:db8::/32")]
    Form(String),
    /// There are bits set beyond the prefix.
    #[error("\"{text}\" has bits set beyond its prefix; the range is written {range}")]
    HostBits {
        /// What was written.
        text: String,
        /// What it would mean.
        range: Cidr,
    },
    /// An IPv6 way to write an IPv4 address.
    #[error("\"{0}\" carries IPv4 addresses in IPv6 form; write the IPv4 range")]
    CarriesV4(String),
}

impl Cidr {
    /// The range of one address.
    #[must_use]
    pub const fn host(addr: Addr) -> Self {
        Self { addr, bits: 128 }
    }

    /// All of IPv4.
    pub const V4: Self = Self { addr: Addr::from_v4(0), bits: 96 };

    fn number(self) -> u128 {
        u128::from_be_bytes(self.addr.bytes())
    }

    const fn mask(bits: u8) -> u128 {
        if bits == 0 { 0 } else { u128::MAX << (128 - bits) }
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(self, addr: Addr) -> bool {
        (u128::from_be_bytes(addr.bytes()) ^ self.number()) & Self::mask(self.bits) == 0
    }

    /// Whether all of `other` lies in the range.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.contains(other.addr)
    }

    /// The range of this prefix length around it.
    pub(crate) fn wider(self, bits: u8) -> Self {
        Self { addr: Addr::from_bytes((self.number() & Self::mask(bits)).to_be_bytes()), bits }
    }

    fn new(ip: IpAddr, bits: u8) -> Self {
        let (addr, bits) = match ip {
            IpAddr::V4(_) => (addr(ip), bits + 96),
            IpAddr::V6(ip) => (Addr::from_bytes(ip.octets()), bits),
        };
        let first = u128::from_be_bytes(addr.bytes()) & Self::mask(bits);
        Self { addr: Addr::from_bytes(first.to_be_bytes()), bits }
    }
}

impl FromStr for Cidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let short: String = text.chars().take(64).collect();
        let form = || NotACidr::Form(short.clone());
        let (address, bits) = text.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let canonical_number = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
        let bits: u8 = bits.parse().ok().filter(|bits| *bits <= most && canonical_number).ok_or_else(form)?;
        let range = Self::new(address, bits);
        if let IpAddr::V6(v6) = address {
            let raw = Addr::from_bytes(v6.octets());
            // The prefixes of the forms that `Addr::canonical` turns into IPv4, and the IPv4 form itself.
            let carries = raw.canonical() != raw || (raw.is_v4() && bits >= 96);
            if carries {
                return Err(NotACidr::CarriesV4(short));
            }
        }
        let written = match address {
            IpAddr::V4(_) => addr(address),
            IpAddr::V6(v6) => Addr::from_bytes(v6.octets()),
        };
        if range.addr == written { Ok(range) } else { Err(NotACidr::HostBits { text: short, range }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.addr.is_v4() && self.bits >= 96 {
            write!(f, "{}/{}", ip(self.addr), self.bits - 96)
        } else {
            write!(f, "{}/{}", Ipv6Addr::from(self.addr.bytes()), self.bits)
        }
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_written_as_they_are_read() {
        for text in ["10.1.2.0/24", "0.0.0.0/0", "203.0.113.7/32", "2001:db8::/32", "::/0", "::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
        }
    }

    #[test]
    fn ranges_have_one_spelling() {
        for wrong in [
            "10.1.2.0",
            "10.1.2.0/33",
            "10.1.2/24",
            "10.1.2.0/024",
            "10.1.2.0/+8",
            "010.1.2.0/24",
            "::/129",
            "/8",
            "a/8",
            "",
        ] {
            assert!(matches!(wrong.parse::<Cidr>(), Err(NotACidr::Form(_))), "{wrong:?}");
        }
        let error = "10.1.2.3/24".parse::<Cidr>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"10.1.2.3/24\" has bits set beyond its prefix; the range is written 10.1.2.0/24"
        );
    }

    #[test]
    fn disguises_of_ipv4_are_refused_in_contracts() {
        for wrong in ["::ffff:10.0.0.0/104", "64:ff9b::a00:0/104", "2002:a00::/24", "::a00:0/104"] {
            assert!(matches!(wrong.parse::<Cidr>(), Err(NotACidr::CarriesV4(_))), "{wrong:?}");
        }
    }

    #[test]
    fn covering_follows_the_prefix() {
        assert!(cidr("10.0.0.0/8").covers(cidr("10.1.0.0/16")));
        assert!(!cidr("10.1.0.0/16").covers(cidr("10.0.0.0/8")));
        assert!(cidr("0.0.0.0/0").contains(addr("203.0.113.1".parse().unwrap())));
        assert!(!cidr("0.0.0.0/0").contains(addr("2001:db8::1".parse().unwrap())));
        assert!(cidr("::/0").covers(Cidr::V4));
    }
}
