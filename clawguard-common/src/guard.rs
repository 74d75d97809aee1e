//! The gateway's addresses, for names and for tools: by which of them somebody comes, the kernel tells who it is.

use crate::{Addr, MAX_JOBS};

/// The port of DNS.
pub const DNS_PORT: u16 = 53;
/// First two bytes of the addresses at which the gateway listens: `127.67.0.0/16`.
const NET: [u8; 2] = [127, 67];

const _: () = assert!(MAX_JOBS <= 1 << 16, "a job's slot must fit two bytes of an address");

/// The gateway's address for a job: only the job itself can send there.
#[inline(always)]
#[must_use]
pub const fn address(job: u32) -> Addr {
    let [high, low] = (job as u16).to_be_bytes();
    Addr::from_v4(u32::from_ne_bytes([NET[0], NET[1], high, low]))
}

/// Where in the table of callers a socket's port stands: IPv6 has one loopback address only, so there the port tells who asks.
#[inline(always)]
#[must_use]
pub const fn caller(port: u16, udp: bool) -> u32 {
    port as u32 | (udp as u32) << 16
}

/// How many callers there can be.
pub const MAX_CALLERS: u32 = 2 << 16;

/// The job for which an address is the gateway's.
#[inline(always)]
#[must_use]
pub const fn job(addr: Addr) -> Option<u32> {
    let [a, b, high, low] = addr.0[3].to_ne_bytes();
    if addr.is_v4() && a == NET[0] && b == NET[1] { Some(u16::from_be_bytes([high, low]) as u32) } else { None }
}

/// Ports at which names are asked for by other ways than plain DNS: over TLS or QUIC, by multicast.
#[inline(always)]
#[must_use]
pub const fn other_dns(port: u16) -> bool {
    matches!(port, 853 | 5353 | 5355)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_its_own_address() {
        for slot in [0, 1, 255, 256, MAX_JOBS - 1] {
            assert_eq!(job(address(slot)), Some(slot));
            assert!(address(slot).is_loopback());
        }
        assert_eq!(address(0x0102), Addr::from_v4(u32::from_ne_bytes([127, 67, 1, 2])));
        assert_eq!(job(Addr::from_v4(u32::from_ne_bytes([127, 0, 0, 1]))), None);
        assert_eq!(job(Addr::LOOPBACK6), None);
    }
}
