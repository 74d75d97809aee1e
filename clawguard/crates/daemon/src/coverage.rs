//! What this daemon saw of a job, in numbers: its processes, its connections, and how well it watched.
//!
//! Connections, and processes that begin and end, are counted by the kernel, whatever this daemon does meanwhile. Who is where is
//! looked up once a second, beside the daemon's lock. What each number means stands in docs/ARCHITECTURE.md.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use claw::time::Instant;
use evidence::chain::Kind;
use fence::{JobId, Pulse};
use serde::Serialize;
use serde_json::json;
use sys::{cgroup, clock};

use crate::{
    core::{Core, Shared},
    jobs::Job,
};

/// How often the daemon says that it lives.
const BEAT: Duration = Duration::from_millis(250);
/// How often it is looked who is in which job.
const LOOK: Duration = Duration::from_secs(1);
/// The longest time between two beats, in milliseconds, that is no interruption.
const MOST_GAP_MS: u64 = 1000;
/// Processes of one job that are told apart, once it is looked for those that left.
const MOST_PROCESSES: usize = 65_536;

/// Beats from here on, on a thread of its own: nothing that the daemon waits for holds it up.
pub(crate) fn beat(pulse: Pulse) -> io::Result<()> {
    thread::Builder::new().name("pulse".into()).spawn(move || {
        loop {
            pulse.beat();
            thread::sleep(BEAT);
        }
    })?;
    Ok(())
}

/// Looks after the jobs' processes from here on.
pub(crate) fn look_after(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("lineage".into()).spawn(move || {
        loop {
            thread::sleep(LOOK);
            shared.look();
        }
    })?;
    Ok(())
}

/// What was seen of jobs' processes by looking, by the jobs' numbers.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<BTreeMap<u64, Processes>>>);

/// What was seen of one job's.
#[derive(Default)]
struct Processes {
    /// Those that are there, and when each began (proc_pid_stat(5), field 22): a number alone is given anew.
    now: HashMap<i32, u64>,
    /// The first that was seen; 0 for none yet.
    first: i32,
    /// How many there were.
    all: u64,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Processes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, key: u64) -> (u64, u64) {
        self.lock().get(&key).map_or((0, 0), |seen| (seen.first.unsigned_abs().into(), seen.all))
    }

    /// Forgets jobs that are gone.
    fn keep(&self, keys: &BTreeSet<u64>) {
        self.lock().retain(|key, _| keys.contains(key));
    }
}

impl Processes {
    /// Takes who is in the job now. Answers who was in it before, lives, and is somewhere else.
    fn look(&mut self, pids: Vec<i32>) -> Vec<i32> {
        let mut now = HashMap::with_capacity(pids.len());
        for pid in pids.into_iter().take(MOST_PROCESSES) {
            let known = self.now.remove(&pid);
            // One whose number was given anew within a second is told apart when it ends, at the latest.
            let Some(began) = known.or_else(|| began(pid)) else { continue };
            if known.is_none() {
                self.all += 1;
            }
            if self.first == 0 {
                self.first = pid;
            }
            now.insert(pid, began);
        }
        let left = std::mem::replace(&mut self.now, now);
        left.into_iter().filter(|(pid, start)| began(*pid) == Some(*start)).map(|(pid, _)| pid).collect()
    }
}

/// When a process began, in ticks since the boot (proc_pid_stat(5)); `None` for one that is gone, or dead and not buried yet.
fn began(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A job, for looking at without the daemon's lock.
struct Looked {
    id: JobId,
    slot: u32,
    key: u64,
    directory: PathBuf,
    /// How many processes its processes had started, before it was looked who is there.
    spawned: u64,
}

impl Shared {
    /// Looks who is in each job, and tells who got out of one.
    fn look(&self) {
        let (jobs, seen) = {
            let core = self.lock();
            let keys = core.jobs.values().map(|job| job.enrolled.key).collect();
            core.seen.keep(&keys);
            let looked = |(id, job): (&JobId, &Job)| Looked {
                id: id.clone(),
                slot: job.enrolled.slot,
                key: job.enrolled.key,
                directory: job.directory.clone(),
                spawned: core.fence.tally(job.enrolled.slot).spawned,
            };
            let live = core.jobs.iter().filter(|(_, job)| !job.over);
            (live.map(looked).collect::<Vec<_>>(), core.seen.clone())
        };
        let Ok(root) = cgroup::mount_point() else { return };
        for job in jobs {
            // What cannot be read has ended: that is noticed elsewhere.
            let Ok(pids) = cgroup::processes(&job.directory) else { continue };
            let live = pids.len() as u64;
            let left = seen.lock().entry(job.key).or_default().look(pids);
            for pid in left {
                // It may be inside all the same: it moved within the job, or ended meanwhile.
                let at = cgroup::of_process(pid).ok().filter(|at| !is_within(at, &root, &job.directory));
                if let Some(at) = at {
                    self.lock().escaped(&job.id, job.key, pid, &at);
                }
            }
            self.lock().count_missing(&job, live);
        }
    }
}

/// Whether a cgroup's path, below the hierarchy's root, lies in a job's directory.
fn is_within(path: &str, root: &Path, directory: &Path) -> bool {
    root.join(path.trim_start_matches('/')).starts_with(directory)
}

/// The numbers of one job, as its record has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    job: String,
    agent: String,
    /// `counted` by the kernel, or `sampled` once a second where it does not let itself be traced.
    lineage: &'static str,
    root_pid: u64,
    processes_tracked: u64,
    unmonitored_spawns: u64,
    escapes_suspected: bool,
    connections_total: u64,
    unmediated_connections: u64,
    /// Of the connections, those to the gateway.
    to_gateway: u64,
    /// Connections within the job, which are no egress.
    own: u64,
    /// Calls and packets that were denied.
    denied: u64,
    status: &'static str,
    uptime_ms: u64,
    heartbeat_interval_ms: u64,
    max_gap_ms: u64,
    /// Since when all of it is counted.
    since: String,
}

impl Facts {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!(self)
    }
}

/// How many of the processes that a job's processes started are neither in it nor ended there. At least: one came from outside, and
/// others may have come after it.
fn missing(spawned: u64, live: u64, tally: &clawguard_common::Tally) -> u64 {
    let ended = tally.ended.saturating_sub(tally.taken_over);
    if tally.first_pid == 0 { 0 } else { (spawned + 1).saturating_sub(ended + live) }
}

impl Core {
    /// The numbers of a job, as of now.
    pub(crate) fn facts(&self, id: &JobId, job: &Job) -> Facts {
        let spawned = self.fence.tally(job.enrolled.slot).spawned;
        let live = cgroup::processes(&job.directory).map_or(0, |pids| pids.len() as u64);
        // Last, so that who ends meanwhile counts twice and not at all never.
        let tally = self.fence.tally(job.enrolled.slot);
        let (first, seen) = self.seen.of(job.enrolled.key);
        let counted = self.fence.counts_processes();
        let ended = tally.ended.saturating_sub(tally.taken_over);
        let missing = if counted { missing(spawned, live, &tally) } else { 0 };
        let came = u64::from(tally.first_pid != 0);
        let tracked = if counted { (spawned + came).max(ended + live) } else { seen };
        let direct = self.fence.connections(job.enrolled.slot).direct;
        let passed = tally.connects + tally.flows + tally.to_gateway + tally.unruled;
        // What was before the kernel counted was not watched.
        let since = Instant::parse(&Self::wall(tally.since_ns)).unwrap_or_else(Self::now);
        let unseen = Instant::parse(&job.started_at).map_or(0, |at| since.0.saturating_sub(at.0));
        let max_gap_ms = tally.gap_ns.max(unseen) / 1_000_000;
        Facts {
            job: id.to_string(),
            agent: job.agent.to_string(),
            lineage: if counted { "counted" } else { "sampled" },
            root_pid: if tally.first_pid == 0 { first } else { tally.first_pid },
            processes_tracked: tracked.max(seen),
            unmonitored_spawns: missing.max(job.missing),
            escapes_suspected: job.escaped > 0 || missing.max(job.missing) > 0,
            connections_total: passed,
            unmediated_connections: tally.unruled + direct,
            to_gateway: tally.to_gateway,
            own: tally.own,
            denied: tally.denied,
            status: if max_gap_ms > MOST_GAP_MS { "interrupted" } else { "continuous" },
            uptime_ms: clock::boot_ns().saturating_sub(tally.since_ns) / 1_000_000,
            heartbeat_interval_ms: BEAT.as_millis() as u64,
            max_gap_ms,
            since: since.format(),
        }
    }

    /// Writes the numbers of a job that ends into the chain.
    pub(crate) fn note_coverage(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let facts = self.facts(id, job);
        self.note(Kind::Coverage, facts.to_json());
    }

    /// A process of a job lives outside of it.
    fn escaped(&mut self, id: &JobId, key: u64, pid: i32, at: &str) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.enrolled.key == key && !job.over) else { return };
        job.escaped += 1;
        let agent = job.agent.clone();
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let command = command.trim_end();
        self.counters.alert(&agent, "cgroup_escape", 1);
        tracing::warn!(job = %id, pid, command, cgroup = at, "a process left its job's cgroup");
        let body = json!({ "kind": "cgroup_escape", "job": id.as_str(), "agent": agent.as_str(), "pid": pid,
            "command": command, "cgroup": at });
        self.note(Kind::Alert, body);
        self.save_jobs();
    }

    /// Compares what a job's processes started with what is there and what has ended, and tells if more is missing than before.
    fn count_missing(&mut self, looked: &Looked, live: u64) {
        if !self.fence.counts_processes() {
            return;
        }
        let tally = self.fence.tally(looked.slot);
        let Some(job) = self.jobs.get_mut(&looked.id).filter(|job| job.enrolled.key == looked.key && !job.over) else {
            return;
        };
        let more = missing(looked.spawned, live, &tally).saturating_sub(job.missing);
        if more == 0 {
            return;
        }
        job.missing += more;
        let agent = job.agent.clone();
        self.counters.alert(&agent, "cgroup_escape", more);
        tracing::warn!(job = %looked.id, more, "processes that the job started are not in its cgroup");
        let body =
            json!({ "kind": "cgroup_escape", "job": looked.id.as_str(), "agent": agent.as_str(), "count": more });
        self.note(Kind::Alert, body);
        self.save_jobs();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawguard_common::Tally;

    #[test]
    fn who_left_and_lives_is_told_apart_from_who_ended() {
        let own = std::process::id() as i32;
        let mut seen = Processes::default();
        assert!(seen.look(vec![own]).is_empty());
        // A number that another process had.
        seen.now.insert(1, 0);
        assert_eq!(seen.look(Vec::new()), [own]);
        assert_eq!((seen.first, seen.all), (own, 1));
        assert!(seen.look(Vec::new()).is_empty());
    }

    #[test]
    fn only_what_lies_in_a_jobs_own_cgroup_is_within_it() {
        let (root, job) = (Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/agents.slice/a.slice/j.job"));
        for path in ["/agents.slice/a.slice/j.job", "/agents.slice/a.slice/j.job/below"] {
            assert!(is_within(path, root, job), "{path}");
        }
        for path in ["/", "/elsewhere.service", "/j.job", "/agents.slice/a.slice", "/agents.slice/a.slice/j.job2"] {
            assert!(!is_within(path, root, job), "{path}");
        }
    }

    #[test]
    fn a_process_that_is_neither_there_nor_ended_there_is_missing() {
        let tally = |spawned, ended, taken_over| Tally { spawned, ended, taken_over, first_pid: 7, ..Tally::default() };
        // The first process, two of its own of which one has ended, and a thread that took the other one over.
        assert_eq!(missing(2, 2, &tally(2, 2, 1)), 0);
        assert_eq!(missing(2, 1, &tally(2, 1, 0)), 1);
        // One came from outside.
        assert_eq!(missing(2, 3, &tally(2, 1, 0)), 0);
        assert_eq!(missing(0, 0, &Tally::default()), 0);
    }
}
