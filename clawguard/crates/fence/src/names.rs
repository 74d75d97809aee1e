//! Addresses that answers to DNS questions open, and names that are refused.

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
};

use claw::Hash;
use clawguard_common::{
    ADDRESS, Addr, ExactKey, Groups, Host, JOB_NONE, Learned, LearnedKey, NO_RULE, NameEvent, PolicyHead, Reason, Rule,
    bound, guard, protocol, rule, side, tag,
};
use policy::compile::NameRule;
use sys::bpf;

use crate::{
    Decision, Error, Fence,
    lower::{Lowered, name_rule},
    sever::Severed,
};

/// An address and port that a name's answer opens, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    /// In canonical form.
    pub addr: Addr,
    /// The port.
    pub port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

impl Spot {
    fn place(self, rule: u32) -> ExactKey {
        let protocol = if self.udp { protocol::UDP } else { protocol::TCP };
        ExactKey { tag: tag(side::EGRESS, protocol, self.port), rule, addr: self.addr }
    }
}

/// A name that a flow called for and that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRefused {
    /// What was decided, as for any packet.
    pub decision: Decision,
    /// The name; empty where nothing was called for.
    pub name: String,
    /// Where nothing was called for: what the flow began with, 254 bytes at most. Its sender's own words, secrets among them:
    /// to be looked at, not to be kept.
    pub began: Vec<u8>,
    /// `SO_COOKIE` of the socket.
    pub cookie: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
}

impl NameRefused {
    pub(crate) fn of(event: &NameEvent) -> Self {
        let bytes = (event.called.prefix / 8).saturating_sub(3) as usize;
        let reversed = event.called.data.reversed.get(..bytes).unwrap_or_default();
        let name = reversed.iter().rev().map(|byte| char::from(*byte)).collect();
        let began = match event.called.prefix {
            0 => event.called.data.reversed.iter().take(event.began as usize).copied().collect(),
            _ => Vec::new(),
        };
        let mut count = clawguard_common::DecisionCount { count: 1, ..Default::default() };
        (count.first_ns, count.last_ns, count.rule) = (event.at_ns, event.at_ns, NO_RULE);
        count.pid = event.pid;
        Self { decision: Decision { key: event.key, count }, name, began, cookie: event.cookie, netns: event.netns }
    }
}

/// What stands open at a spot, for all names that led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The groups of which any takes it away: those that all its names are in.
    pub groups: Groups,
    /// The rule of the name that led there last.
    pub number: u32,
    /// Whether a TLS name must be called for.
    pub tls: bool,
    /// Until when new flows may begin: nanoseconds, CLOCK_BOOTTIME.
    pub expires_ns: u64,
}

impl Fence {
    /// The groups of a name's rule, as the kernel has them; `None` for a contract that this process did not load.
    #[must_use]
    pub fn groups_of(&self, policy: u32, rule: &NameRule) -> Option<Groups> {
        self.policies.get(&policy)?.sets.get(usize::from(rule.set)).copied()
    }

    /// Opens a spot to an agent under a contract, for a rule of names. In the kernel's table when this returns.
    ///
    /// # Errors
    ///
    /// If the table is full or the kernel refuses; nothing more than before is open then.
    pub fn learn(&self, agent: u32, policy: u32, spot: Spot, rule: &NameRule, opening: &Opening) -> Result<(), Error> {
        let failed = "open an address that a name led to";
        let serial = self.maps.policies.get(policy, offset_of!(PolicyHead, serial));
        let put = |number: u32, rule: Rule| {
            let key = LearnedKey { agent, policy, place: spot.place(number) };
            let learned = Learned { rule, serial, expires_ns: opening.expires_ns };
            bpf::map_update(self.maps.learned.fd(), &key, &learned).map_err(Error::system(failed))
        };
        let own = name_rule(rule, opening.groups);
        if rule.tls && !spot.udp {
            put(bound(rule.number), own)?;
        }
        let flags = if opening.tls { own.flags } else { 0 };
        put(ADDRESS, Rule { number: opening.number, reason: Reason::Allowed as u8, flags, ..own })
    }

    /// What stands open at a spot, as the kernel has it.
    #[must_use]
    pub fn learned(&self, agent: u32, policy: u32, spot: Spot) -> Option<Opening> {
        let key = LearnedKey { agent, policy, place: spot.place(ADDRESS) };
        let Learned { rule, serial, expires_ns } = bpf::map_lookup(self.maps.learned.fd(), &key).ok().flatten()?;
        let own = serial == self.maps.policies.get(policy, offset_of!(PolicyHead, serial));
        let tls = rule.flags & rule::TLS != 0;
        own.then_some(Opening { groups: rule.groups, number: rule.number, tls, expires_ns })
    }

    /// What a contract says of a spot's address itself, without any name: why, and whether a TLS name must be called for.
    #[must_use]
    pub fn address_rule(&self, policy: u32, spot: Spot) -> Option<(Reason, bool)> {
        let rule = self.fixed_rule(policy, spot.place(ADDRESS))?;
        let reason = Reason::from_number(rule.reason).unwrap_or(Reason::Internal);
        Some((reason, rule.flags & rule::TLS != 0))
    }

    /// Shuts a spot for the names of a rule.
    pub fn unlearn(&self, agent: u32, policy: u32, spot: Spot, number: u32) {
        let key = LearnedKey { agent, policy, place: spot.place(bound(number)) };
        // It may never have been there.
        let _ = bpf::map_delete(self.maps.learned.fd(), &key);
    }

    /// Shuts a spot for every name.
    pub fn shut_wholly(&self, agent: u32, policy: u32, spot: Spot) {
        self.shut(agent, policy, spot);
        let place = spot.place(ADDRESS);
        for key in bpf::map_keys::<LearnedKey>(self.maps.learned.fd()).unwrap_or_default() {
            let same = (key.agent, key.policy) == (agent, policy);
            if same && (key.place.tag, key.place.addr) == (place.tag, place.addr) {
                let _ = bpf::map_delete(self.maps.learned.fd(), &key);
            }
        }
    }

    /// Shuts a spot.
    pub fn shut(&self, agent: u32, policy: u32, spot: Spot) {
        let key = LearnedKey { agent, policy, place: spot.place(ADDRESS) };
        // It may be gone with its contract.
        let _ = bpf::map_delete(self.maps.learned.fd(), &key);
    }

    /// Takes what was learned under a contract's former tables to its new ones, as far as those have its rules: flows that live
    /// go on. The names that led there are not known here; their rules are, by number and port.
    pub(crate) fn carry_over(&self, hash: Hash, slot: u32, serial: u64, lowered: &Lowered) -> Result<(), Error> {
        let failed = "carry over what names led to";
        let entries = bpf::map_entries::<LearnedKey, Learned>(self.maps.learned.fd()).map_err(Error::system(failed))?;
        for (key, learned) in entries {
            let head = self.maps.policies.read_back(key.policy).map_err(Error::system(failed))?;
            if key.policy == slot || head.serial != learned.serial || words(&hash) != head.hash {
                continue;
            }
            let Some(rule) = lowered.by_number.get(&(learned.rule.number, (key.place.tag >> 16) as u16)) else {
                continue;
            };
            // At an address that several rules share, what they had in common is known, and no more.
            let tls = learned.rule.flags & rule::TLS;
            if tls != rule.flags & rule::TLS && key.place.tag as u8 == protocol::TCP {
                continue;
            }
            let groups = if tls != 0 { learned.rule.groups } else { rule.groups };
            let key = LearnedKey { policy: slot, ..key };
            let learned = Learned { rule: Rule { groups, ..learned.rule }, serial, ..learned };
            bpf::map_update(self.maps.learned.fd(), &key, &learned).map_err(Error::system(failed))?;
        }
        Ok(())
    }

    /// Forgets what was learned under contracts whose tables are gone, and what is no longer good and serves no live flow.
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read.
    pub fn forget_learned(&self, now_ns: u64) -> Result<Vec<(u32, u32, Spot)>, Error> {
        let failed = "look through what names led to";
        let entries = bpf::map_entries::<LearnedKey, Learned>(self.maps.learned.fd()).map_err(Error::system(failed))?;
        let serial = |slot| self.maps.policies.get(slot, offset_of!(PolicyHead, serial));
        let (stale, good): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(key, learned)| learned.serial != serial(key.policy));
        let late: Vec<LearnedKey> =
            good.into_iter().filter(|(_, learned)| learned.expires_ns <= now_ns).map(|(key, _)| key).collect();
        let lives: HashSet<(Addr, u16)> = match late.is_empty() {
            true => HashSet::new(),
            false => {
                let stamped = self.stamped().map_err(Error::system(failed))?;
                stamped.iter().map(|socket| (socket.stamp.flow.remote.addr, socket.stamp.flow.remote.port)).collect()
            }
        };
        let mut forgotten = Vec::new();
        for key in stale.into_iter().map(|(key, _)| key).chain(late) {
            let port = (key.place.tag >> 16) as u16;
            let udp = key.place.tag as u8 == protocol::UDP;
            let stale = serial(key.policy) == 0;
            if !stale && lives.contains(&(key.place.addr, port)) {
                continue;
            }
            bpf::map_delete(self.maps.learned.fd(), &key).map_err(Error::system(failed))?;
            if key.place.rule == ADDRESS {
                forgotten.push((key.agent, key.policy, Spot { addr: key.place.addr, port, udp }));
            }
        }
        Ok(forgotten)
    }

    /// How many entries the table of learned addresses has.
    #[must_use]
    pub fn learned_in_use(&self) -> usize {
        bpf::map_keys::<LearnedKey>(self.maps.learned.fd()).map_or(0, |keys| keys.len())
    }

    /// Tells the kernel where the DNS guard answers, and whose sockets do. Port 0: nobody does.
    pub fn set_guard(&self, port: u16, key: u64) {
        self.announce(key, [(offset_of!(Host, guard_port), u64::from(port))]);
    }

    /// Tells the kernel at which TCP port of loopback agents look for the MCP gateway, and at which port it listens, by the
    /// sockets of the same job that guards names. Port 0: nobody does.
    pub fn set_tools(&self, port: u16, at: u16, key: u64) {
        let at = u64::from(at);
        self.announce(key, [(offset_of!(Host, tools_at), at), (offset_of!(Host, tools_port), u64::from(port))]);
    }

    /// The same for the model gateway.
    pub fn set_models(&self, port: u16, at: u16, key: u64) {
        let at = u64::from(at);
        self.announce(key, [(offset_of!(Host, models_at), at), (offset_of!(Host, models_port), u64::from(port))]);
    }

    /// Writes where the gateway serves. Nobody is sent to the port of one gateway in the name of another.
    fn announce<const N: usize>(&self, key: u64, ports: [(usize, u64); N]) {
        let host = &self.maps.host;
        let another = host.get(0, offset_of!(Host, guard_key)) != key;
        if !another && ports.iter().all(|(word, port)| host.get(0, *word) == *port) {
            return;
        }
        if another {
            for word in [
                offset_of!(Host, tools_port),
                offset_of!(Host, tools_at),
                offset_of!(Host, models_port),
                offset_of!(Host, models_at),
                offset_of!(Host, guard_port),
            ] {
                host.set(0, word, 0);
            }
            host.set(0, offset_of!(Host, guard_key), key);
        }
        for (word, port) in ports {
            host.set(0, word, port);
        }
        self.raise_generation();
    }

    /// The slot of the job that asked last from a port of `::1`.
    #[must_use]
    pub fn caller(&self, port: u16, udp: bool) -> Option<u32> {
        let slot: u64 = bpf::map_lookup(self.maps.callers.fd(), &guard::caller(port, udp)).ok().flatten()?;
        u32::try_from(slot).ok().filter(|slot| *slot != JOB_NONE)
    }

    /// Ends sockets of this process's network namespace, by cookie.
    ///
    /// # Errors
    ///
    /// If the sockets cannot be listed.
    pub fn sever_here(&self, cookies: &HashSet<u64>) -> Result<Severed, Error> {
        if cookies.is_empty() {
            return Ok(Severed::default());
        }
        let here = sys::diag::namespace_cookie().map_err(Error::system("tell the network namespaces apart"))?;
        Self::sever_sockets(HashMap::from([(here, cookies.clone())]))
    }
}

fn words(hash: &Hash) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.0.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use clawguard_common::NameData;

    use super::*;

    #[test]
    fn a_refused_flow_is_told_by_its_name_or_by_how_it_began() {
        let mut event = NameEvent { began: 4, ..NameEvent::default() };
        event.called.data.reversed[..6].copy_from_slice(b"POST /");
        let refused = NameRefused::of(&event);
        assert_eq!((refused.name.as_str(), refused.began.as_slice()), ("", &b"POST"[..]));
        // More than has room.
        event.began = 512;
        assert_eq!(NameRefused::of(&event).began.len(), 254);
        let mut event = NameEvent { began: 9, ..NameEvent::default() };
        event.called.prefix = NameData::prefix(4);
        event.called.data.reversed[..4].copy_from_slice(b"tob\0");
        let refused = NameRefused::of(&event);
        assert_eq!((refused.name.as_str(), refused.began.as_slice()), ("bot", &b""[..]));
    }
}
