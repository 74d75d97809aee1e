//! What the kernel counts of each job, and the daemon's pulse beside it.

use std::{
    fs, io,
    mem::offset_of,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::programs::Program;
use clawguard_common::{Host, Tally};
use sys::{bpf, clock, mapped::Words};

use crate::{Error, Fence, maps::Maps};

/// The programs that count processes, and the tracepoints that they belong to.
const LINEAGE: [(&str, &str); 3] =
    [("spawned", "task_newtask"), ("executed", "sched_process_exec"), ("ended", "sched_process_exit")];

/// Loads the programs that count processes and pins them where they belong. What an earlier daemon attached and does the same
/// stays as it is, so that nothing is missed or counted twice.
///
/// Tracepoints enforce nothing: a host that refuses them has a fence all the same, and counts that are only sampled.
pub(crate) fn count_processes(ebpf: &mut aya::Ebpf, directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::system("make a directory for pins"))?;
    for (name, tracepoint) in LINEAGE {
        let program = ebpf.program_mut(name).ok_or(Error::ObjectLacks(name))?;
        let Program::RawTracePoint(tracing) = program else { return Err(Error::ObjectLacks(name)) };
        tracing.load().map_err(|source| Error::Program { program: name, source: Box::new(source) })?;
        let program = crate::owned(program, name)?;
        attach(&program, tracepoint, &directory.join(name)).map_err(Error::system("count the processes of jobs"))?;
    }
    Ok(())
}

fn attach(program: &OwnedFd, tracepoint: &str, pin: &Path) -> io::Result<()> {
    let before = bpf::pinned(pin).and_then(bpf::link_info).and_then(|link| bpf::program_by_id(link.program));
    match before.and_then(bpf::program_tag) {
        Ok(tag) if tag == bpf::program_tag(program)? => return Ok(()),
        Ok(_) => fs::remove_file(pin)?,
        Err(_) => drop(fs::remove_file(pin)),
    }
    bpf::pin(bpf::raw_tracepoint(program, tracepoint)?, pin)
}

/// Tells the kernel's tables that the daemon lives, from a thread of its own: what was written last is there whatever ends the
/// daemon, and however.
pub struct Pulse {
    host: Words,
    tallies: Words,
    /// No job has a slot above this.
    highest: Arc<AtomicU32>,
}

impl Pulse {
    pub(crate) fn new(maps: &Maps, highest: Arc<AtomicU32>) -> io::Result<Self> {
        Ok(Self { host: maps.host.again(1)?, tallies: maps.tallies.again(clawguard_common::MAX_JOBS)?, highest })
    }

    /// Beats once, and notes for each job how long it was since the last beat, if it never was longer. The first beat of a daemon
    /// counts from the last one of the daemon before. Answers how long it was, in nanoseconds.
    pub fn beat(&self) -> u64 {
        let (at, now) = (offset_of!(Host, heartbeat_ns) / 8, clock::boot_ns());
        let last = self.host.load(at);
        self.host.store(at, now);
        if last == 0 {
            return 0;
        }
        let gap = now.saturating_sub(last);
        for slot in 1..=self.highest.load(Ordering::Acquire) {
            let longest = (slot as usize * size_of::<Tally>() + offset_of!(Tally, gap_ns)) / 8;
            if self.tallies.load(longest) < gap {
                self.tallies.store(longest, gap);
            }
        }
        gap
    }
}

impl Fence {
    /// The pulse, for a thread that nothing holds up.
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be mapped once more.
    pub fn pulse(&self) -> Result<Pulse, Error> {
        Pulse::new(&self.maps, Arc::clone(&self.highest)).map_err(Error::system("map the fence's state into memory"))
    }

    /// When the daemon last told the kernel that it lives: nanoseconds, CLOCK_BOOTTIME.
    #[must_use]
    pub fn last_beat(&self) -> u64 {
        self.maps.host.get(0, offset_of!(Host, heartbeat_ns))
    }

    /// Whether the kernel counts processes here.
    #[must_use]
    pub const fn counts_processes(&self) -> bool {
        self.counts_processes
    }

    /// What the job in a slot has done so far.
    #[must_use]
    pub fn tally(&self, slot: u32) -> Tally {
        let get = |offset| self.maps.tallies.get(slot, offset);
        Tally {
            connects: get(offset_of!(Tally, connects)),
            flows: get(offset_of!(Tally, flows)),
            to_gateway: get(offset_of!(Tally, to_gateway)),
            own: get(offset_of!(Tally, own)),
            unruled: get(offset_of!(Tally, unruled)),
            denied: get(offset_of!(Tally, denied)),
            spawned: get(offset_of!(Tally, spawned)),
            ended: get(offset_of!(Tally, ended)),
            taken_over: get(offset_of!(Tally, taken_over)),
            execs: get(offset_of!(Tally, execs)),
            first_pid: get(offset_of!(Tally, first_pid)),
            since_ns: get(offset_of!(Tally, since_ns)),
            // One that lasts counts too.
            gap_ns: get(offset_of!(Tally, gap_ns)).max(clock::boot_ns().saturating_sub(self.last_beat())),
        }
    }

    /// Begins a slot's record anew, before a job has the slot.
    pub(crate) fn begin_tally(&self, slot: u32) {
        for word in 0..size_of::<Tally>() / 8 {
            self.maps.tallies.set(slot, word * 8, 0);
        }
        self.maps.tallies.set(slot, offset_of!(Tally, since_ns), clock::boot_ns());
        self.highest.fetch_max(slot, Ordering::AcqRel);
    }
}
