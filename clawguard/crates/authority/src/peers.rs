//! Who is connected how often: one stranger must not take all the places.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// The connections of each peer.
#[derive(Default)]
pub(crate) struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// A peer's place, given back when it is dropped.
pub(crate) struct Seat {
    peers: Arc<Peers>,
    /// Nothing where it is not counted.
    of: Option<IpAddr>,
}

impl Peers {
    /// A place for a connection, unless its peer has `most` already. Loopback is not counted: a proxy is there.
    pub(crate) fn seat(self: &Arc<Self>, peer: IpAddr, most: usize) -> Option<Seat> {
        let peer = peer.to_canonical();
        let of = (!peer.is_loopback()).then(|| network(peer));
        if let Some(of) = of {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let many = known.get(&of).copied().unwrap_or(0);
            if many >= most {
                return None;
            }
            known.insert(of, many + 1);
        }
        Some(Seat { peers: Arc::clone(self), of })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(of) = self.of else { return };
        let mut known = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(many) = known.get_mut(&of) {
            *many -= 1;
            if *many == 0 {
                known.remove(&of);
            }
        }
    }
}

/// What is counted as one: whoever has an IPv6 address has all 2⁶⁴ of its network.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(peer) => IpAddr::V6((peer.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_gets_no_more_places_than_one_may_have() {
        let peers = Arc::new(Peers::default());
        let seat = |peer: &str| peers.seat(peer.parse().unwrap(), 2);
        let (one, two) = (seat("192.0.2.1"), seat("::ffff:192.0.2.1"));
        assert!(one.is_some() && two.is_some() && seat("192.0.2.1").is_none());
        assert!(seat("192.0.2.2").is_some(), "another peer is shut out");
        drop(one);
        let again = seat("192.0.2.1");
        assert!(again.is_some() && seat("192.0.2.1").is_none());
        let six = (seat("2001:db8::1"), seat("2001:db8::2:0:0:1"));
        assert!(six.0.is_some() && six.1.is_some() && seat("2001:db8::3").is_none());
        assert!(seat("2001:db8:0:1::1").is_some());
        let many: Vec<_> = (0..9).map(|_| (seat("127.0.0.1"), seat("::1"))).collect();
        assert!(many.iter().all(|(four, six)| four.is_some() && six.is_some()));
        drop((two, again, six, many));
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
