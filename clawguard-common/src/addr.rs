//! IP addresses in the one form that rules and lookups use.
//!
//! An agent can write the same IPv4 destination in several IPv6 disguises. All of them are judged as the address they
//! carry, so each address is brought into one canonical form before it is looked up.

/// An IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
///
/// Held as four words in memory order, the way kernel contexts hand them out, so that a comparison is four integers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
pub struct Addr(pub [u32; 4]);

const MAPPED: u32 = 0x0000_ffff_u32.to_be();
const TRANSLATED: u32 = 0xffff_0000_u32.to_be();
const NAT64: u32 = 0x0064_ff9b_u32.to_be();
const ONE: u32 = 1_u32.to_be();
const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();

impl Addr {
    /// `::1`
    pub const LOOPBACK6: Self = Self([0, 0, 0, ONE]);

    /// From an IPv4 address in memory order, as `bpf_sock_addr.user_ip4` has it.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(raw: u32) -> Self {
        Self([0, 0, MAPPED, raw])
    }

    /// From 16 bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// The 16 bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] =
            [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes(), self.0[3].to_ne_bytes()];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// Whether this is `::ffff:a.b.c.d`.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Whether a packet to this address stays on the host: `127.0.0.0/8` (mapped or not) or `::1`.
    ///
    /// To be asked of the address on the wire, before [`Addr::canonical`]: `2002:7f00:1::` carries 127.0.0.1 and is
    /// judged as such, but a packet to it leaves.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            return self.0[3] & 0xff00_0000_u32.to_be() == 0x7f00_0000_u32.to_be();
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == ONE
    }

    /// What Linux makes of the unspecified address as a destination: the loopback address of its family.
    #[inline(always)]
    #[must_use]
    pub const fn as_destination(self) -> Self {
        if self.is_v4() && self.0[3] == 0 {
            return Self::from_v4(LOOPBACK4);
        }
        if self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0 {
            return Self::LOOPBACK6;
        }
        self
    }

    /// The form in which an address is judged: the IPv4 address where one is carried.
    ///
    /// | form | source |
    /// |---|---|
    /// | `::ffff:a.b.c.d` mapped | RFC 4291 section 2.5.5.2 |
    /// | `::a.b.c.d` compatible | RFC 4291 section 2.5.5.1 |
    /// | `::ffff:0:a.b.c.d` translated | RFC 2765 section 2.1 |
    /// | `64:ff9b::a.b.c.d` NAT64 | RFC 6052 section 2.1 |
    /// | `2002:aabb:ccdd::/48` 6to4 | RFC 3056 section 2 |
    #[inline(always)]
    #[must_use]
    pub const fn canonical(self) -> Self {
        let [a, b, c, d] = self.0;
        if a == 0 && b == 0 {
            let compatible = c == 0 && d != 0 && d != ONE;
            if compatible || c == TRANSLATED {
                return Self::from_v4(d);
            }
            return self;
        }
        if a == NAT64 && b == 0 && c == 0 {
            return Self::from_v4(d);
        }
        let (a, b) = (u32::from_be(a), u32::from_be(b));
        if a >> 16 == 0x2002 {
            return Self::from_v4(((a << 16) | (b >> 16)).to_be());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::Addr;
    use std::net::Ipv6Addr;

    fn addr(text: &str) -> Addr {
        Addr::from_bytes(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn every_disguise_of_an_ipv4_address_is_judged_as_the_address_it_carries() {
        let plain = addr("::ffff:203.0.113.7");
        for disguise in ["::203.0.113.7", "::ffff:0:203.0.113.7", "64:ff9b::203.0.113.7", "2002:cb00:7107:1::42"] {
            assert_eq!(addr(disguise).canonical(), plain, "{disguise}");
        }
        assert_eq!(plain.canonical(), plain);
    }

    #[test]
    fn native_ipv6_addresses_stay_what_they_are() {
        for native in ["2001:db8::1", "::1", "::", "64:ff9b:1::1", "64:ff9b::1:0:1", "fe80::1", "2003:cb00:7107::"] {
            assert_eq!(addr(native).canonical(), addr(native), "{native}");
        }
    }

    #[test]
    fn loopback_is_asked_of_the_address_on_the_wire() {
        assert!(addr("::1").is_loopback());
        assert!(addr("::ffff:127.8.9.10").is_loopback());
        assert!(!addr("2002:7f00:1::").is_loopback());
        assert!(addr("2002:7f00:1::").canonical().is_loopback());
        assert!(!addr("::ffff:128.0.0.1").is_loopback());
    }

    #[test]
    fn the_unspecified_address_is_a_loopback_destination() {
        assert_eq!(addr("::").as_destination(), addr("::1"));
        assert_eq!(addr("::ffff:0.0.0.0").as_destination(), addr("::ffff:127.0.0.1"));
        assert_eq!(addr("2001:db8::").as_destination(), addr("2001:db8::"));
    }

    #[test]
    fn bytes_round_trip() {
        let bytes = *b"0123456789abcdef";
        assert_eq!(Addr::from_bytes(bytes).bytes(), bytes);
    }
}
