//! The fence: the kernel programs, loaded, attached, pinned and kept in step with the policies.
//!
//! This room is the only one that knows aya. What it enforces stays in force when the process ends.
#![forbid(unsafe_code)]

mod canary;
mod error;
mod events;
mod imported;
mod jobs;
mod links;
mod lower;
mod maps;
mod names;
mod object;
mod places;
mod remove;
mod sever;
mod tally;

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU32},
};

use aya::{Btf, EbpfLoader, programs::Program};
use claw::Hash;
use clawguard_common::{Groups, Hook, Host, MAX_JOBS, MAX_LEVEL, MAX_POLICIES, PolicyHead};
use sys::clock;

pub use canary::{Canary, Tried, serve as serve_canary};
pub use error::Error;
pub use events::{Counted, Decision, Told};
pub use imported::Imported;
pub use jobs::{Enrolled, JobSpec};
pub use lower::{Lowered, Numbering, lower};
pub use names::{NameRefused, Opening, Spot};
pub use places::{AgentName, BPFFS, Instance, JobId, NotAName, Places};
pub use remove::{Removed, remove};
pub use sever::{Flow, Severed};
pub use tally::Pulse;

use links::Changes;
use maps::Maps;

/// A loaded fence.
pub struct Fence {
    places: Places,
    maps: Maps,
    programs: HashMap<Hook, OwnedFd>,
    /// The iterators over TCP's and UDP's sockets.
    sweeps: [OwnedFd; 2],
    /// How many levels below the kernel's own root the cgroup root lies that this process sees.
    depth: u32,
    cpus: usize,
    /// The map into which decisions are counted now.
    interval: OwnedFd,
    free_jobs: Vec<u32>,
    /// Jobs that were there when this process came.
    found_jobs: Vec<u32>,
    policies: HashMap<u32, Lowered>,
    /// Slots of contracts that an earlier process left in force: not to be written to while a job points there.
    left_in_force: HashSet<u32>,
    last_number: u64,
    /// No job has a slot above this.
    highest: Arc<AtomicU32>,
    counts_processes: bool,
    changes: Option<Changes>,
}

/// Whose switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everybody's.
    Host,
    /// One agent's, by slot.
    Agent(u32),
    /// One job's, by slot.
    Job(u32),
}

impl Fence {
    /// Loads the programs over the pinned maps, if there are any, and attaches them, atomically for each hook.
    ///
    /// The new programs stand once [`Fence::keep`] is called. If the fence is dropped before that, the programs that were
    /// attached before are put back.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Whatever was in force before still is.
    pub fn open(places: Places) -> Result<Self, Error> {
        let object = object::bytes().ok_or(Error::NoObject)?;
        mount_bpffs()?;
        let pins = places.abi();
        let links = pins.join("links");
        let maps = pins.join("maps");
        let armed = fs::read_dir(&links).is_ok_and(|mut entries| entries.next().is_some());
        if !armed {
            // What a start that failed half-way left behind holds nothing.
            for directory in [&maps, &links, &pins.join("tracing")] {
                match fs::remove_dir_all(directory) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::System { what: "remove the pins of a start that failed", source: error });
                    }
                    _ => {}
                }
            }
        }
        for directory in [&places.pins, &pins, &maps, &links] {
            private_directory(directory).map_err(Error::system("make the pin directory"))?;
        }
        if maps::pinned(&maps)? != armed {
            return Err(Error::Incomplete { path: pins });
        }
        if !armed {
            take_over(&places, &links).map_err(Error::system("take over the links of another version"))?;
        }
        let mut loader = EbpfLoader::new();
        for (name, _) in maps::SHAPES {
            loader.map_pin_path(name, maps.join(name));
        }
        let mut ebpf = loader.load(object)?;
        let programs = load_programs(&mut ebpf)?;
        let btf = Btf::from_sys_fs().map_err(|source| Error::Load(source.into()))?;
        let sweeps =
            [load_sweep(&mut ebpf, &btf, "sweep_tcp", "tcp")?, load_sweep(&mut ebpf, &btf, "sweep_udp", "udp")?];
        let depth = depth(&mut ebpf, &places.cgroup_root)?;
        let counts_processes = tally::count_processes(&mut ebpf, &pins.join("tracing"))
            .inspect_err(|error| tracing::warn!(%error, "processes of jobs are not counted, only sampled"))
            .is_ok();
        let maps = Maps::take(&mut ebpf)?;
        let interval = events::interval(&maps)?;
        fs::create_dir_all(&places.agents).map_err(Error::system("make the agents' cgroup"))?;
        let mut fence = Self {
            cpus: sys::bpf::possible_cpus().map_err(Error::system("count the CPUs"))?,
            free_jobs: Vec::new(),
            found_jobs: Vec::new(),
            policies: HashMap::new(),
            left_in_force: HashSet::new(),
            last_number: 0,
            highest: Arc::default(),
            counts_processes,
            changes: None,
            places,
            maps,
            programs,
            sweeps,
            depth,
            interval,
        };
        fence.recover()?;
        fence.manage_agents_slice()?;
        fence.arm(&links)?;
        Ok(fence)
    }

    /// Reads from the maps what an earlier process left in force.
    fn recover(&mut self) -> Result<(), Error> {
        let serial = std::mem::offset_of!(PolicyHead, serial);
        let last = (1..MAX_POLICIES).map(|slot| self.maps.policies.get(slot, serial)).max();
        self.last_number = last.unwrap_or(0).max(self.newest_job());
        (self.free_jobs, self.found_jobs) = (1..MAX_JOBS).rev().partition(|slot| self.job_key(*slot) == 0);
        self.highest = Arc::new(AtomicU32::new(self.found_jobs.iter().copied().max().unwrap_or(0)));
        self.left_in_force = self.found_jobs.iter().map(|slot| self.policy_of(*slot)).collect();
        // Verdicts of before are judged again by the programs of now.
        self.raise_generation();
        Ok(())
    }

    /// The packet hooks first: whatever the others let through meets them.
    fn arm(&mut self, links: &std::path::Path) -> Result<(), Error> {
        let mut changes = Changes::default();
        for hook in [Hook::Egress, Hook::Ingress] {
            changes.put(hook, self.program(hook)?, &self.places.agents, &links.join(hook.label()))?;
        }
        for entry in fs::read_dir(links).map_err(Error::system("read the pinned links"))?.flatten() {
            let name = entry.file_name();
            let Some((id, hook)) = name.to_str().and_then(jobs::in_place_link) else { continue };
            match self.managed_directory(id) {
                Some(cgroup) => {
                    self.manage_until_enrolled(&cgroup, id)?;
                    changes.put(hook, self.program(hook)?, &cgroup, &entry.path())?;
                }
                // Its cgroup is gone.
                None => fs::remove_file(entry.path()).map_err(Error::system("remove a link to a removed cgroup"))?,
            }
        }
        for hook in Hook::ALL.into_iter().filter(|hook| !matches!(hook, Hook::Egress | Hook::Ingress)) {
            changes.put(hook, self.program(hook)?, &self.places.cgroup_root, &links.join(hook.label()))?;
        }
        self.changes = Some(changes);
        Ok(())
    }

    fn program(&self, hook: Hook) -> Result<std::os::fd::BorrowedFd<'_>, Error> {
        self.programs.get(&hook).map(AsFd::as_fd).ok_or(Error::ObjectLacks(hook.label()))
    }

    /// Lets the programs that [`Fence::open`] attached stand. What another version pinned holds nothing any more, and goes.
    pub fn keep(&mut self) {
        if let Some(changes) = self.changes.take() {
            changes.keep();
        }
        for directory in self.places.other_abis() {
            if let Err(error) = fs::remove_dir_all(&directory) {
                tracing::warn!(%error, directory = %directory.display(), "another version's pins stay");
            }
        }
    }

    /// The instance's paths.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Whether a hook is still attached, with this process's program behind it: asked of the kernel through the pin.
    #[must_use]
    pub fn attached(&self, hook: Hook) -> bool {
        let link = sys::bpf::pinned(&self.links().join(hook.label())).and_then(sys::bpf::link_info);
        let own = self.programs.get(&hook).and_then(|program| sys::bpf::program_id(program).ok());
        link.is_ok_and(|link| link.cgroup != 0 && Some(link.program) == own)
    }

    /// Where the links of managed cgroups are pinned.
    fn links(&self) -> PathBuf {
        self.places.abi().join("links")
    }

    /// A number that was never given out before on this boot: from the clock, and rising.
    fn new_number(&mut self) -> u64 {
        self.last_number = clock::boot_ns().max(self.last_number + 1);
        self.last_number
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.maps.host.get(0, std::mem::offset_of!(Host, generation))
    }

    /// Has every socket's next packet judged anew.
    pub(crate) fn raise_generation(&self) {
        self.maps.host.add(0, std::mem::offset_of!(Host, generation), 1);
    }

    /// The groups that are killed, as the kernel's map has them: read by a system call, not from this process's memory.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn killed(&self, scope: Scope) -> Result<Groups, Error> {
        let read = match scope {
            Scope::Host => self.maps.host.read_back(0).map(|host| host.killed),
            Scope::Agent(slot) => self.maps.agents.read_back(slot).map(|agent| agent.killed),
            Scope::Job(slot) => self.maps.jobs.read_back(slot).map(|job| job.killed),
        };
        read.map_err(Error::system("read the switch back"))
    }

    /// Sets the groups that are killed. In force for every packet that is judged after this returns.
    pub fn set_killed(&self, scope: Scope, groups: &Groups) {
        match scope {
            Scope::Host => self.maps.host.set_groups(0, std::mem::offset_of!(Host, killed), groups),
            Scope::Agent(slot) => {
                self.maps.agents.set_groups(slot, std::mem::offset_of!(clawguard_common::Agent, killed), groups);
            }
            Scope::Job(slot) => {
                self.maps.jobs.set_groups(slot, std::mem::offset_of!(clawguard_common::Job, killed), groups);
            }
        }
        self.raise_generation();
    }

    /// Puts a contract's tables where jobs can be pointed to them; answers their slot and their number.
    ///
    /// # Errors
    ///
    /// If all slots are taken or the kernel refuses.
    pub fn put_policy(&mut self, lowered: Lowered, hash: Hash, deadline_ns: u64) -> Result<(u32, u64), Error> {
        let taken = |slot: &u32| self.policies.contains_key(slot) || self.left_in_force.contains(slot);
        let free = (1..MAX_POLICIES).find(|slot| !taken(slot));
        let slot = free.ok_or(Error::Full { what: "contract in force", limit: MAX_POLICIES - 1 })?;
        let failed = "give a contract's tables to the kernel";
        let tables = [
            (&self.maps.exact, &lowered.exact),
            (&self.maps.ranges, &lowered.ranges),
            (&self.maps.names, &lowered.names),
        ];
        for (outer, inner) in tables {
            match inner {
                Some(inner) => {
                    let fd = std::os::fd::AsRawFd::as_raw_fd(inner) as u32;
                    sys::bpf::map_update(outer.fd(), &slot, &fd).map_err(Error::system(failed))?;
                }
                // An earlier process may have left one there. Looking is cheap; the kernel waits for its readers after a change.
                None => {
                    if sys::bpf::map_lookup::<u32, u32>(outer.fd(), &slot).map_err(Error::system(failed))?.is_some() {
                        sys::bpf::map_delete(outer.fd(), &slot).map_err(Error::system(failed))?;
                    }
                }
            }
        }
        let serial = self.new_number();
        let head = &self.maps.policies;
        head.set(slot, std::mem::offset_of!(PolicyHead, deadline_ns), deadline_ns);
        head.set(slot, std::mem::offset_of!(PolicyHead, serial), serial);
        head.set(slot, std::mem::offset_of!(PolicyHead, flags), lowered.flags);
        for (i, word) in hash.0.chunks_exact(8).enumerate() {
            let word = word.try_into().map_or(0, u64::from_ne_bytes);
            head.set(slot, std::mem::offset_of!(PolicyHead, hash) + 8 * i, word);
        }
        if lowered.names.is_some()
            && let Err(error) = self.carry_over(hash, slot, serial, &lowered)
        {
            // Then names have to be asked for again.
            tracing::warn!(%error, "what names led to is forgotten");
        }
        self.policies.insert(slot, lowered);
        Ok((slot, serial))
    }

    /// Takes a contract's tables away once no job points to them.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn drop_policy(&mut self, slot: u32) -> Result<(), Error> {
        let failed = "take a contract's tables back";
        if let Some(lowered) = self.policies.get(&slot) {
            // Each waits until no program uses the table.
            if lowered.exact.is_some() {
                sys::bpf::map_delete(self.maps.exact.fd(), &slot).map_err(Error::system(failed))?;
            }
            if lowered.ranges.is_some() {
                sys::bpf::map_delete(self.maps.ranges.fd(), &slot).map_err(Error::system(failed))?;
            }
            if lowered.names.is_some() {
                sys::bpf::map_delete(self.maps.names.fd(), &slot).map_err(Error::system(failed))?;
            }
        }
        self.policies.remove(&slot);
        // What was learned under it is nobody's.
        self.maps.policies.set(slot, std::mem::offset_of!(PolicyHead, serial), 0);
        Ok(())
    }

    /// Takes away what an earlier process left in force, once every job points to what this one put there.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn drop_left_in_force(&mut self) -> Result<(), Error> {
        let failed = "take an earlier process's tables back";
        let in_use: HashSet<u32> = self.jobs_in_slots().map(|slot| self.policy_of(slot)).collect();
        for slot in std::mem::take(&mut self.left_in_force) {
            if in_use.contains(&slot) && !self.policies.contains_key(&slot) {
                self.left_in_force.insert(slot);
                continue;
            }
            for outer in [&self.maps.exact, &self.maps.ranges, &self.maps.names] {
                sys::bpf::map_delete(outer.fd(), &slot).map_err(Error::system(failed))?;
            }
            self.maps.policies.set(slot, std::mem::offset_of!(PolicyHead, serial), 0);
        }
        Ok(())
    }

    /// Moves a contract's expiry: only to an earlier time.
    pub fn bring_forward(&self, slot: u32, deadline_ns: u64) {
        let offset = std::mem::offset_of!(PolicyHead, deadline_ns);
        if deadline_ns < self.maps.policies.get(slot, offset) {
            self.maps.policies.set(slot, offset, deadline_ns);
            self.raise_generation();
        }
    }

    /// Moves a contract's expiry to a later time, because an operator put it in force anew.
    pub fn put_off(&self, slot: u32, deadline_ns: u64) {
        let offset = std::mem::offset_of!(PolicyHead, deadline_ns);
        if deadline_ns > self.maps.policies.get(slot, offset) {
            self.maps.policies.set(slot, offset, deadline_ns);
            // Denials are not cached, and a flow that is allowed looks again when its old expiry comes.
        }
    }

    /// How many entries a contract's tables have.
    #[must_use]
    pub fn policy_entries(&self, slot: u32) -> usize {
        self.policies.get(&slot).map_or(0, |lowered| lowered.entries)
    }
}

/// Pins the links of another ABI's daemon here too. They are then given this version's programs like this version's own,
/// one by one and without a moment without a program; and back, if that fails.
fn take_over(places: &Places, links: &std::path::Path) -> std::io::Result<()> {
    for other in places.other_abis() {
        let Ok(entries) = fs::read_dir(other.join("links")) else { continue };
        for entry in entries.flatten() {
            match fs::hard_link(entry.path(), links.join(entry.file_name())) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn mount_bpffs() -> Result<(), Error> {
    use nix::{
        mount::{MsFlags, mount},
        sys::statfs::{BPF_FS_MAGIC, statfs},
    };
    let failed = "mount the bpf file system at /sys/fs/bpf";
    let there = statfs(BPFFS).map_err(|e| Error::System { what: failed, source: e.into() })?;
    if there.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=700"))
        .map_err(|e| Error::System { what: failed, source: e.into() })
}

fn private_directory(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn load_programs(ebpf: &mut aya::Ebpf) -> Result<HashMap<Hook, OwnedFd>, Error> {
    let mut loaded = HashMap::new();
    for hook in Hook::ALL {
        let name = hook.label();
        let failed = |source| Error::Program { program: name, source: Box::new(source) };
        let program = ebpf.program_mut(name).ok_or(Error::ObjectLacks(name))?;
        match program {
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            _ => return Err(Error::ObjectLacks(name)),
        }
        .map_err(failed)?;
        loaded.insert(hook, owned(program, name)?);
    }
    Ok(loaded)
}

fn load_sweep(ebpf: &mut aya::Ebpf, btf: &Btf, name: &'static str, of: &str) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Program { program: name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(Error::ObjectLacks(name))?;
    let Program::Iter(iterator) = program else { return Err(Error::ObjectLacks(name)) };
    iterator.load(of, btf).map_err(failed)?;
    owned(program, name)
}

/// How many levels below the kernel's own root the cgroup root lies that this process sees: 0 outside containers.
fn depth(ebpf: &mut aya::Ebpf, root: &std::path::Path) -> Result<u32, Error> {
    const NAME: &str = "depth";
    let program = ebpf.program_mut(NAME).ok_or(Error::ObjectLacks(NAME))?;
    let Program::RawTracePoint(query) = program else { return Err(Error::ObjectLacks(NAME)) };
    query.load().map_err(|source| Error::Program { program: NAME, source: Box::new(source) })?;
    let wrong = |why: String| Error::Cgroup { cgroup: root.to_owned(), why };
    let id = sys::cgroup::id(root).map_err(|error| wrong(error.to_string()))?;
    let level = sys::bpf::run_raw_tracepoint(owned(program, NAME)?, &[id])
        .map_err(Error::system("ask how deep the cgroup root lies"))?;
    if level > MAX_LEVEL {
        return Err(wrong("this process does not lie below it".into()));
    }
    Ok(level)
}

fn owned(program: &Program, name: &'static str) -> Result<OwnedFd, Error> {
    let fd = program.fd().map_err(|source| Error::Program { program: name, source: Box::new(source) })?;
    fd.as_fd().try_clone_to_owned().map_err(Error::system("hold a program"))
}
