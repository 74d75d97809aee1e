//! Finding live sockets by their stamp and ending them.

use std::{
    collections::{HashMap, HashSet},
    io,
    mem::offset_of,
    path::Path,
    time::{Duration, Instant},
};

use clawguard_common::{
    ADDRESS, ExactKey, Groups, Job, Learned, LearnedKey, PolicyHead, RangeData, Reason, Rule, Stamp, Stamped, group,
    job, policy as flags, protocol, rule, side, stamp, tag,
};
use sys::{
    bpf::{self, RangeKey},
    diag::{Diag, Listed, Protocol, States},
    netns::{self, NetNs},
};

use crate::{Error, Fence};

/// A live flow of a stamped socket, as the contract in force judges it.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// The socket's stamp.
    pub stamp: Stamp,
    /// Whether the contract in force still allows it.
    pub allowed: bool,
    /// The groups it belongs to.
    pub groups: Groups,
}

/// What became of the sockets that were chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Severed {
    /// Ended: blocked calls on them have returned.
    pub destroyed: usize,
    /// Still there. The fence lets none of their packets through all the same.
    pub left: usize,
}

impl Severed {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.destroyed += other.destroyed;
        self.left += other.left;
    }
}

/// How long sockets of other network namespaces are looked for.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// How often the survivors are tried again before they are counted as left.
const ROUNDS: usize = 3;

impl Fence {
    /// Every stamped socket that a network namespace has a way to, in every namespace in which a process lives: what is in no other
    /// one any more may send nothing, and nobody waits for it.
    ///
    /// # Errors
    ///
    /// If the kernel does not run the iterators in this process's own namespace.
    pub(crate) fn stamped(&self) -> io::Result<Vec<Stamped>> {
        let mut found = self.stamped_here()?;
        let until = Instant::now() + ELSEWHERE;
        let own = NetNs::open(Path::new("/proc/thread-self/ns/net"))?.id()?;
        for namespace in netns::all()? {
            if Instant::now() > until {
                break;
            }
            if namespace.id().is_ok_and(|id| id == own) {
                continue;
            }
            match namespace.run(|| self.stamped_here()) {
                Ok(more) => found.extend(more),
                Err(error) => tracing::warn!(%error, "sockets of a network namespace could not be listed"),
            }
        }
        Ok(found)
    }

    /// The same of this thread's namespace.
    fn stamped_here(&self) -> io::Result<Vec<Stamped>> {
        let mut found = Vec::new();
        for sweep in &self.sweeps {
            found.append(&mut bpf::read_all(&mut bpf::iterate(sweep)?)?);
        }
        Ok(found)
    }

    /// Ends the live flows that are chosen, in every network namespace; listeners stay. Their packets must be denied
    /// already: what is ended here cannot be made again.
    ///
    /// # Errors
    ///
    /// If the sockets cannot be listed.
    pub fn sever(&self, chosen: impl Fn(&Flow) -> bool) -> Result<Severed, Error> {
        let stamped = self.stamped().map_err(Error::system("list the stamped sockets"))?;
        let mut by_namespace: HashMap<u64, HashSet<u64>> = HashMap::new();
        for Stamped { cookie, stamp } in stamped {
            // A socket that never carried anything has no flow to end.
            if stamp.flow.generation != 0 && chosen(&self.judged(stamp)) {
                by_namespace.entry(stamp.netns).or_default().insert(cookie);
            }
        }
        Self::sever_sockets(by_namespace)
    }

    /// Ends sockets, by namespace and cookie.
    pub(crate) fn sever_sockets(mut by_namespace: HashMap<u64, HashSet<u64>>) -> Result<Severed, Error> {
        let mut severed = Severed::default();
        if by_namespace.is_empty() {
            return Ok(severed);
        }
        let here = sys::diag::namespace_cookie().map_err(Error::system("tell the network namespaces apart"))?;
        if let Some(cookies) = by_namespace.remove(&here) {
            severed.add(end(&cookies).map_err(Error::system("end sockets"))?);
        }
        if !by_namespace.is_empty() {
            severed.add(Self::sever_elsewhere(by_namespace)?);
        }
        Ok(severed)
    }

    /// The same in the other namespaces, which are found through the processes that live in them.
    fn sever_elsewhere(mut by_namespace: HashMap<u64, HashSet<u64>>) -> Result<Severed, Error> {
        let mut severed = Severed::default();
        // An agent may make namespaces by the thousand, and whoever kills is waiting; what is left may send nothing.
        let until = Instant::now() + ELSEWHERE;
        for namespace in netns::all().map_err(Error::system("list the network namespaces"))? {
            if by_namespace.is_empty() || Instant::now() > until {
                break;
            }
            let found = namespace_sever(&namespace, &by_namespace);
            match found {
                Ok(Some((cookie, part))) => {
                    by_namespace.remove(&cookie);
                    severed.add(part);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "sockets of a network namespace could not be ended"),
            }
        }
        // A namespace without a process, or beyond the time: its sockets are held by descriptors alone.
        severed.left += by_namespace.values().map(HashSet::len).sum::<usize>();
        Ok(severed)
    }

    /// What the contract in force says of a flow, read from the kernel's own tables.
    fn judged(&self, stamp: Stamp) -> Flow {
        let jobs = &self.maps.jobs;
        let slot = stamp.job;
        let refused = Flow { stamp, allowed: false, groups: Groups::one(group::ALL) };
        let over = jobs.get(slot, offset_of!(Job, flags)) & job::OVER != 0;
        if over || jobs.get(slot, offset_of!(Job, key)) != stamp.key {
            return refused;
        }
        let policy = jobs.get(slot, offset_of!(Job, policy)) as u32;
        let remote = &stamp.flow.remote;
        let tcp = remote.protocol == protocol::TCP;
        let outgoing = stamp.flags & stamp::OUTGOING != 0;
        let allows = |rule: &Rule| rule.reason == Reason::Allowed as u8;
        let mut rule = None;
        if !tcp || outgoing {
            let agent = jobs.get(slot, offset_of!(Job, agent)) as u32;
            let tag = tag(side::EGRESS, remote.protocol, remote.port);
            rule = self.rule(agent, policy, tag, remote.addr).filter(allows);
        }
        if rule.is_none() && !(tcp && outgoing) {
            let port = stamp.flow.local_port as u16;
            rule = self.rule(0, policy, tag(side::LISTEN, remote.protocol, port), remote.addr).filter(allows);
        }
        match rule {
            // The name that it called for adds its groups, which the kernel noted with the flow.
            Some(mut rule) if rule.flags & rule::TLS != 0 => {
                rule.groups.add(&stamp.flow.groups);
                Flow { stamp, allowed: true, groups: rule.groups }
            }
            Some(rule) => Flow { stamp, allowed: true, groups: rule.groups },
            // What no rule names and still has a flow is the job's own loopback.
            None if remote.loopback != 0 => Flow { stamp, allowed: true, groups: refused.groups },
            None => refused,
        }
    }

    /// Looks a rule up in the kernel's tables.
    pub(crate) fn fixed_rule(&self, policy: u32, place: ExactKey) -> Option<Rule> {
        let lowered = self.policies.get(&policy)?;
        let exact = lowered.exact.as_ref().and_then(|exact| bpf::map_lookup(exact, &place).ok().flatten());
        exact.or_else(|| {
            let data = RangeData { tag: place.tag, addr: place.addr, pad: 0 };
            let key = RangeKey { prefix: RangeData::prefix(128), data };
            bpf::map_lookup(lowered.ranges.as_ref()?, &key).ok().flatten()
        })
    }

    /// The same, and then by what names led to.
    fn rule(&self, agent: u32, policy: u32, tag: u32, addr: clawguard_common::Addr) -> Option<Rule> {
        let lowered = self.policies.get(&policy)?;
        let place = ExactKey { tag, rule: ADDRESS, addr };
        let found = self.maps.policies.get(policy, offset_of!(PolicyHead, flags));
        if found & flags::EXACT != 0 {
            let exact = lowered.exact.as_ref()?;
            if let Ok(Some(rule)) = bpf::map_lookup(exact, &place) {
                return Some(rule);
            }
        }
        if found & flags::NAMES != 0 {
            // What lives may go on though its answer is no longer good.
            let learned = bpf::map_lookup::<_, Learned>(self.maps.learned.fd(), &LearnedKey { agent, policy, place });
            let serial = self.maps.policies.get(policy, offset_of!(PolicyHead, serial));
            if let Ok(Some(learned)) = learned
                && learned.serial == serial
            {
                return Some(learned.rule);
            }
        }
        let ranges = lowered.ranges.as_ref()?;
        let key = RangeKey { prefix: RangeData::prefix(128), data: RangeData { tag, addr, pad: 0 } };
        bpf::map_lookup(ranges, &key).ok().flatten()
    }
}

/// Ends chosen sockets in one namespace, if it is among the wanted ones.
fn namespace_sever(namespace: &NetNs, wanted: &HashMap<u64, HashSet<u64>>) -> io::Result<Option<(u64, Severed)>> {
    namespace.run(|| {
        let cookie = sys::diag::namespace_cookie()?;
        match wanted.get(&cookie) {
            Some(cookies) => Ok(Some((cookie, end(cookies)?))),
            None => Ok(None),
        }
    })
}

/// Ends sockets of this thread's namespace, by cookie.
fn end(cookies: &HashSet<u64>) -> io::Result<Severed> {
    let mut diag = Diag::open()?;
    let mut severed = Severed::default();
    for round in 0..ROUNDS {
        let mut live: Vec<Listed> = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let listed = diag.list(protocol, States::FLOWS)?;
            live.extend(listed.into_iter().filter(|socket| cookies.contains(&socket.cookie)));
        }
        severed.left = live.len();
        if live.is_empty() || round + 1 == ROUNDS {
            break;
        }
        severed.destroyed += diag.destroy(&live)?;
    }
    Ok(severed)
}
