//! What the kernel decided: events at once, counts by interval.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use clawguard_common::{DecisionCount, DecisionKey, Event, Hook, NameEvent, REASONS, Reason, lost};
use sys::bpf;

use crate::{
    Error, Fence, NameRefused,
    maps::{Maps, new_decisions},
};

/// A decision and how often it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What was decided.
    pub key: DecisionKey,
    /// How often, when, by whom.
    pub count: DecisionCount,
}

impl Decision {
    /// Why. A number that is no reason is a fault of the fence's own.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::from_number(self.key.reason).unwrap_or(Reason::Internal)
    }

    /// By which hook.
    #[must_use]
    pub fn hook(&self) -> Option<Hook> {
        Hook::from_number(self.key.hook)
    }

    /// Whether it passed although the reason denies.
    #[must_use]
    pub fn observed(&self) -> bool {
        self.key.observed != 0
    }

    /// The caller's command name, as far as it is text.
    #[must_use]
    pub fn command(&self) -> String {
        let comm = self.count.comm;
        let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
        String::from_utf8_lossy(&comm[..end]).into_owned()
    }
}

/// What the kernel tells at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The first denial of its kind in the interval.
    Decision(Decision),
    /// A name that is refused on a flow.
    Name(Box<NameRefused>),
}

/// One of an agent's exact counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Why.
    pub reason: Reason,
    /// Whether it passed although the reason denies.
    pub observed: bool,
    /// How often since the maps were made.
    pub count: u64,
}

/// The map of the running interval. An earlier process's is taken over with what it has counted.
pub(crate) fn interval(maps: &Maps) -> Result<OwnedFd, Error> {
    let failed = "make a table for decisions";
    if let Some(id) = bpf::map_lookup::<u32, u32>(maps.decisions.fd(), &0).map_err(Error::system(failed))? {
        return bpf::map_by_id(id).map_err(Error::system(failed));
    }
    let map = new_decisions().map_err(Error::system(failed))?;
    put(maps, &map).map_err(Error::system(failed))?;
    Ok(map)
}

/// Returns once no program counts into the map that was there before.
fn put(maps: &Maps, map: &OwnedFd) -> io::Result<()> {
    bpf::map_update(maps.decisions.fd(), &0_u32, &(map.as_raw_fd() as u32))
}

impl Fence {
    /// Ends the interval and answers what was decided in it, exactly: programs count into a new table before the old
    /// one is read.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the counts then stay for the next time.
    pub fn drain(&mut self) -> Result<Vec<Decision>, Error> {
        let failed = "read the interval's decisions";
        let next = new_decisions().map_err(Error::system(failed))?;
        put(&self.maps, &next).map_err(Error::system(failed))?;
        let last = std::mem::replace(&mut self.interval, next);
        let entries = bpf::map_entries(&last).map_err(Error::system(failed))?;
        // An entry that only holds a job's number of destinations counts nothing.
        Ok(entries
            .into_iter()
            .map(|(key, count)| Decision { key, count })
            .filter(|made| made.count.count > 0)
            .collect())
    }

    /// The events that wait in the ring, at most `most`.
    pub fn events(&mut self, most: usize) -> Vec<Told> {
        let mut found = Vec::new();
        while found.len() < most {
            let Some(item) = self.maps.events.next() else { break };
            // They differ in length.
            if let Some(event) = bpf::read_one::<NameEvent>(&item) {
                found.push(Told::Name(Box::new(NameRefused::of(&event))));
            } else if let Some(Event { key, first }) = bpf::read_one::<Event>(&item) {
                found.push(Told::Decision(Decision { key, count: first }));
            }
        }
        found
    }

    /// Readable when events wait.
    #[must_use]
    pub fn events_fd(&self) -> RawFd {
        self.maps.events.as_raw_fd()
    }

    /// An agent's counters.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn counted(&self, agent: u32) -> Result<Vec<Counted>, Error> {
        let mut found = Vec::new();
        for reason in Reason::ALL {
            for observed in [false, true] {
                let slot = (agent as usize * REASONS + *reason as usize) * 2 + usize::from(observed);
                let count = bpf::per_cpu_sum(self.maps.totals.fd(), slot as u32, self.cpus)
                    .map_err(Error::system("read the counters"))?;
                if count > 0 {
                    found.push(Counted { reason: *reason, observed, count });
                }
            }
        }
        Ok(found)
    }

    /// Records that did not fit, by source.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn lost(&self) -> Result<[(&'static str, u64); lost::COUNT as usize], Error> {
        let mut found = [("event", 0), ("destination", 0), ("decision", 0)];
        for (source, slot) in [lost::EVENT, lost::DESTINATION, lost::DECISION].into_iter().enumerate() {
            found[source].1 = bpf::per_cpu_sum(self.maps.lost.fd(), slot, self.cpus)
                .map_err(Error::system("read the counters of lost records"))?;
        }
        Ok(found)
    }

    /// A borrowed handle to the ring, for a reactor.
    #[must_use]
    pub fn ring(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.maps.events.as_fd()
    }
}
