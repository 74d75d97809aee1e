//! Jobs: which cgroups are managed, and under which contract.

use std::{
    fs,
    mem::offset_of,
    path::{Path, PathBuf},
};

use clawguard_common::{
    Cgroup, Connections, DEEPEST, Groups, Hook, Host, JOB_LEVEL, JOB_NONE, Job, MAX_JOBS, MAX_LEVEL, NEVER, job,
};
use sys::{bpf, cgroup};

use crate::{Error, Fence, links::Changes};

/// What a job is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// Slot of its agent.
    pub agent: u32,
    /// Slot of its contract; 0 for none, which allows nothing.
    pub policy: u32,
    /// Everything passes; what would be denied is recorded.
    pub observe: bool,
    /// The gateway's: its DNS questions go where they are sent.
    pub gateway: bool,
    /// Groups that are killed for it from the start.
    pub killed: Groups,
    /// When its token ends: nanoseconds, CLOCK_BOOTTIME. [`NEVER`] for a job that needs none, 0 for one that has none yet.
    pub deadline_ns: u64,
}

impl Default for JobSpec {
    fn default() -> Self {
        Self { agent: 0, policy: 0, observe: false, gateway: false, killed: Groups::default(), deadline_ns: NEVER }
    }
}

/// A job in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Its slot.
    pub slot: u32,
    /// Its number, never used twice on this boot.
    pub key: u64,
    /// Id of its cgroup.
    pub cgroup: u64,
}

impl Fence {
    /// The number of the job that has a slot; 0 if none has.
    #[must_use]
    pub fn job_key(&self, slot: u32) -> u64 {
        self.maps.jobs.get(slot, offset_of!(Job, key))
    }

    /// What was counted of the connections of the job that has a slot.
    #[must_use]
    pub fn connections(&self, slot: u32) -> Connections {
        let counted = |offset| self.maps.connections.get(slot, offset);
        Connections {
            models: counted(offset_of!(Connections, models)),
            direct: counted(offset_of!(Connections, direct)),
        }
    }

    pub(crate) fn newest_job(&self) -> u64 {
        (1..MAX_JOBS).map(|slot| self.job_key(slot)).max().unwrap_or(0)
    }

    /// The slots that jobs have.
    pub(crate) fn jobs_in_slots(&self) -> impl Iterator<Item = u32> {
        (1..MAX_JOBS).filter(|slot| self.job_key(*slot) != 0)
    }

    /// The agents' slice itself is managed and belongs to no job: what is started there without being enrolled reaches
    /// nothing.
    pub(crate) fn manage_agents_slice(&mut self) -> Result<(), Error> {
        let agents = &self.places.agents;
        let (id, level) = self.place(agents)?;
        let host = &self.maps.host;
        // Whoever reads the one without the other finds nobody managed, for as long as no hook is attached.
        host.set(0, offset_of!(Host, agents_cgroup), id);
        host.set(0, offset_of!(Host, agents_level), u64::from(level));
        Ok(())
    }

    /// Makes a cgroup a job. From here on, whatever is born in it or below it is fenced.
    ///
    /// # Errors
    ///
    /// If there is no room, the cgroup lies too deep, or the hooks cannot be attached to it.
    pub fn enrol(&mut self, directory: &Path, spec: JobSpec) -> Result<Enrolled, Error> {
        let slot = self.free_jobs.pop().ok_or(Error::Full { what: "job", limit: MAX_JOBS - 1 })?;
        let key = self.new_number();
        self.begin_tally(slot);
        let jobs = &self.maps.jobs;
        jobs.set(slot, offset_of!(Job, agent), u64::from(spec.agent));
        jobs.set(slot, offset_of!(Job, policy), u64::from(spec.policy));
        jobs.set(slot, offset_of!(Job, deadline_ns), spec.deadline_ns);
        let flags = if spec.observe { job::OBSERVE } else { 0 } | if spec.gateway { job::GATEWAY } else { 0 };
        jobs.set(slot, offset_of!(Job, flags), flags);
        jobs.set_groups(slot, offset_of!(Job, killed), &spec.killed);
        for counted in [offset_of!(Connections, models), offset_of!(Connections, direct)] {
            self.maps.connections.set(slot, counted, 0);
        }
        let enrolled = self.manage(directory, slot, key);
        if enrolled.is_err() {
            self.maps.jobs.set(slot, offset_of!(Job, key), 0);
            self.free_jobs.push(slot);
        }
        enrolled
    }

    /// The id of a cgroup and how deep it lies.
    fn place(&self, directory: &Path) -> Result<(u64, u32), Error> {
        let wrong = |why: String| Error::Cgroup { cgroup: directory.to_owned(), why };
        let level = cgroup::level(&self.places.cgroup_root, directory).map_err(|error| wrong(error.to_string()))?;
        if level == 0 {
            return Err(wrong("it is the root, where everybody is".into()));
        }
        let level = level + self.depth;
        if level > MAX_LEVEL {
            return Err(wrong(format!("it lies {level} levels deep, and {MAX_LEVEL} is the most")));
        }
        let id = cgroup::id(directory).map_err(|error| wrong(error.to_string()))?;
        Ok((id, level))
    }

    /// Enters a cgroup among the managed ones.
    fn manage(&mut self, directory: &Path, slot: u32, key: u64) -> Result<Enrolled, Error> {
        let (id, level) = self.place(directory)?;
        let wrong = |why: String| Error::Cgroup { cgroup: directory.to_owned(), why };
        let in_slice = directory.strip_prefix(&self.places.agents).ok();
        let slice = self.maps.host.get(0, offset_of!(Host, agents_cgroup));
        if in_slice.is_some() && cgroup::id(&self.places.agents).ok() != Some(slice) {
            return Err(wrong("the agents' slice is another one than at the start; restart the daemon".into()));
        }
        if in_slice.is_some_and(|below| below.components().count() != JOB_LEVEL as usize) {
            return Err(wrong("in the agents' slice, jobs lie below an agent's slice and nowhere else".into()));
        }
        let jobs = &self.maps.jobs;
        jobs.set(slot, offset_of!(Job, cgroup), id);
        jobs.set(slot, offset_of!(Job, level), u64::from(level));
        jobs.set(slot, offset_of!(Job, key), key);
        bpf::map_update(self.maps.cgroups.fd(), &id, &Cgroup { job: u64::from(slot) })
            .map_err(|error| wrong(format!("the kernel's table of cgroups does not take it: {error}")))?;
        if in_slice.is_none() {
            self.add_level(level);
            self.attach_in_place(directory, id)?;
        }
        Ok(Enrolled { slot, key, cgroup: id })
    }

    /// A cgroup to which a version with other maps attached its hooks: managed, and nobody's, until its job is enrolled anew.
    pub(crate) fn manage_until_enrolled(&self, directory: &Path, id: u64) -> Result<(), Error> {
        let failed = || Error::system("manage a cgroup of another version's");
        let map = self.maps.cgroups.fd();
        if bpf::map_lookup::<u64, Cgroup>(map, &id).map_err(failed())?.is_none() {
            let (_, level) = self.place(directory)?;
            bpf::map_update(map, &id, &Cgroup { job: u64::from(JOB_NONE) }).map_err(failed())?;
            self.add_level(level);
        }
        Ok(())
    }

    fn add_level(&self, level: u32) {
        let offset = offset_of!(Host, levels);
        // Never taken back: a level too many costs unmanaged tasks one look-up.
        let levels = self.maps.host.get(0, offset);
        let deepest = (levels >> DEEPEST).max(u64::from(level));
        let bits = levels & ((1 << DEEPEST) - 1) | (1 << level);
        self.maps.host.set(0, offset, bits | deepest << DEEPEST);
    }

    /// Attaches the packet hooks to a cgroup outside the agents' slice.
    fn attach_in_place(&self, directory: &Path, cgroup: u64) -> Result<(), Error> {
        let mut changes = Changes::default();
        for hook in [Hook::Egress, Hook::Ingress] {
            let pin = self.links().join(format!("cg-{cgroup}-{}", hook.label()));
            changes.put(hook, self.program(hook)?, directory, &pin)?;
        }
        changes.keep();
        Ok(())
    }

    /// Takes over a job that an earlier process enrolled; answers whether it is still the same job.
    #[must_use]
    pub fn adopt(&self, enrolled: &Enrolled) -> bool {
        enrolled.slot != JOB_NONE && self.job_key(enrolled.slot) == enrolled.key
    }

    /// Ends every job of an earlier process that is not among these, and forgets the cgroups that are gone.
    ///
    /// # Errors
    ///
    /// If the table of cgroups cannot be read.
    pub fn adopt_only(&mut self, known: &[Enrolled]) -> Result<(), Error> {
        let failed = "read the table of cgroups";
        let alive: std::collections::HashSet<u64> = cgroup::tree(&self.places.cgroup_root)
            .map_err(Error::system(failed))?
            .iter()
            .filter_map(|directory| cgroup::id(directory).ok())
            .collect();
        let jobs = &self.maps.jobs;
        for slot in std::mem::take(&mut self.found_jobs) {
            let key = self.job_key(slot);
            if key == 0 || known.iter().any(|job| job.slot == slot && job.key == key) {
                continue;
            }
            jobs.set(slot, offset_of!(Job, flags), job::OVER);
            jobs.set(slot, offset_of!(Job, policy), 0);
            if !alive.contains(&jobs.get(slot, offset_of!(Job, cgroup))) {
                // Nobody is in it and nobody can come: another job may have the slot.
                jobs.set(slot, offset_of!(Job, key), 0);
                self.free_jobs.push(slot);
            }
        }
        for id in bpf::map_keys::<u64>(self.maps.cgroups.fd()).map_err(Error::system(failed))? {
            if !alive.contains(&id) {
                bpf::map_delete(self.maps.cgroups.fd(), &id).map_err(Error::system(failed))?;
            }
        }
        self.raise_generation();
        Ok(())
    }

    /// Points a job to another contract: from the next packet on, that one is in force, whole.
    pub fn set_policy(&self, slot: u32, policy: u32) {
        self.maps.jobs.set(slot, offset_of!(Job, policy), u64::from(policy));
        self.raise_generation();
    }

    /// Moves the moment at which a job's token ends: nanoseconds, CLOCK_BOOTTIME. An earlier one holds from the next packet on;
    /// a later one is seen by a flow when its old one comes.
    pub fn set_deadline(&self, slot: u32, deadline_ns: u64) {
        let offset = offset_of!(Job, deadline_ns);
        let before = self.maps.jobs.get(slot, offset);
        self.maps.jobs.set(slot, offset, deadline_ns);
        if deadline_ns < before {
            self.raise_generation();
        }
    }

    /// The moment at which a job's token ends.
    #[must_use]
    pub fn deadline(&self, slot: u32) -> u64 {
        self.maps.jobs.get(slot, offset_of!(Job, deadline_ns))
    }

    /// The slot of the contract that a job is under.
    #[must_use]
    pub fn policy_of(&self, slot: u32) -> u32 {
        self.maps.jobs.get(slot, offset_of!(Job, policy)) as u32
    }

    /// The slot of the agent that a job belongs to.
    #[must_use]
    pub fn agent_of(&self, slot: u32) -> u32 {
        self.maps.jobs.get(slot, offset_of!(Job, agent)) as u32
    }

    /// Sets whether a job is only observed.
    pub fn set_observe(&self, slot: u32, observe: bool) {
        let offset = offset_of!(Job, flags);
        let flags = self.maps.jobs.get(slot, offset) & !job::OBSERVE;
        self.maps.jobs.set(slot, offset, flags | if observe { job::OBSERVE } else { 0 });
        self.raise_generation();
    }

    /// Ends a job: what is left of it, processes and sockets, may send and receive nothing more.
    pub fn end(&self, slot: u32) {
        let offset = offset_of!(Job, flags);
        self.maps.jobs.set(slot, offset, (self.maps.jobs.get(slot, offset) & !job::OBSERVE) | job::OVER);
        self.raise_generation();
    }

    /// Gives a job's slot back once its cgroup is gone. Sockets that outlive it bear a number that is no job's.
    ///
    /// # Errors
    ///
    /// If the table of cgroups cannot be changed; the slot then stays taken.
    pub fn release(&mut self, enrolled: &Enrolled) -> Result<(), Error> {
        if !self.adopt(enrolled) {
            return Ok(());
        }
        bpf::map_delete(self.maps.cgroups.fd(), &enrolled.cgroup).map_err(Error::system("forget a cgroup"))?;
        for hook in [Hook::Egress, Hook::Ingress] {
            let pin = self.links().join(format!("cg-{}-{}", enrolled.cgroup, hook.label()));
            match fs::remove_file(pin) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::System { what: "remove the link to a removed cgroup", source: error });
                }
                _ => {}
            }
        }
        self.give_back(enrolled.slot);
        Ok(())
    }

    /// Gives a job's slot back whose cgroup is about to be another job's. Until then it stays managed, and nobody's: whoever
    /// is in it reaches nothing.
    ///
    /// # Errors
    ///
    /// If the table of cgroups cannot be changed; the slot then stays taken.
    pub fn vacate(&mut self, enrolled: &Enrolled) -> Result<(), Error> {
        if !self.adopt(enrolled) {
            return Ok(());
        }
        bpf::map_update(self.maps.cgroups.fd(), &enrolled.cgroup, &Cgroup { job: u64::from(JOB_NONE) })
            .map_err(Error::system("keep a cgroup for its next job"))?;
        self.give_back(enrolled.slot);
        Ok(())
    }

    fn give_back(&mut self, slot: u32) {
        self.maps.jobs.set(slot, offset_of!(Job, key), 0);
        self.maps.jobs.set(slot, offset_of!(Job, flags), job::OVER);
        self.free_jobs.push(slot);
        self.raise_generation();
    }

    /// How many jobs have a slot.
    #[must_use]
    pub fn jobs_in_use(&self) -> usize {
        (MAX_JOBS - 1) as usize - self.free_jobs.len()
    }

    /// How many cgroups are managed.
    #[must_use]
    pub fn cgroups_in_use(&self) -> usize {
        bpf::map_keys::<u64>(self.maps.cgroups.fd()).map_or(0, |keys| keys.len())
    }

    /// How many contracts have tables.
    #[must_use]
    pub fn policies_in_use(&self) -> usize {
        self.policies.len()
    }

    /// The directory of a managed cgroup, by id.
    pub(crate) fn managed_directory(&self, id: u64) -> Option<PathBuf> {
        let all = cgroup::tree(&self.places.cgroup_root).ok()?;
        all.into_iter().find(|directory| cgroup::id(directory).is_ok_and(|found| found == id))
    }

    /// Marks a job as the daemon's own test.
    pub(crate) fn make_canary(&self, slot: u32) {
        self.maps.jobs.set(slot, offset_of!(Job, flags), job::CANARY);
    }

    /// Puts a job under another agent's switch. For the canary, which stands in for each agent in turn.
    pub(crate) fn set_agent(&self, slot: u32, agent: u32) {
        self.maps.jobs.set(slot, offset_of!(Job, agent), u64::from(agent));
    }
}

/// Reads the name under which a link to a cgroup outside the agents' slice is pinned.
pub(crate) fn in_place_link(name: &str) -> Option<(u64, Hook)> {
    let (id, hook) = name.strip_prefix("cg-")?.split_once('-')?;
    let hook = [Hook::Egress, Hook::Ingress].into_iter().find(|h| h.label() == hook)?;
    Some((id.parse().ok()?, hook))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_in_place_links_are_told_apart_from_the_others() {
        assert_eq!(in_place_link("cg-77-egress"), Some((77, Hook::Egress)));
        for other in ["egress", "connect4", "cg-77-connect4", "cg-x-egress", "cg-77"] {
            assert_eq!(in_place_link(other), None);
        }
    }
}
