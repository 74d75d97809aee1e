//! Carrying a change out, and proving it.

use std::{
    io,
    time::{Duration, Instant},
};

use clawguard_common::{Endpoint, Groups};
use fence::{Canary, Error, Fence, Scope, Severed, Tried};
use serde::{Deserialize, Serialize};

/// An endpoint of the group, as a job under one contract would reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Slot of the agent under whose switch it is tried.
    pub agent: u32,
    /// Slot of the contract.
    pub policy: u32,
    /// Where to.
    pub endpoint: Endpoint,
}

/// How the canary fared at the group's endpoints, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// Let through everywhere.
    Accepted,
    /// Refused everywhere.
    Refused,
    /// Let through at some, refused at others.
    Mixed,
    /// The group has no endpoint in any contract in force.
    Nothing,
    /// The canary could not be asked.
    Unknown,
}

/// What a flip is to do.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// For whom.
    pub scope: Scope,
    /// Everything that is killed in `scope` from then on.
    pub groups: &'a Groups,
    /// Whether the kernel tells it apart. If not, no flow of it lives.
    pub kernel: bool,
    /// What the canary tries.
    pub targets: &'a [Target],
    /// When it was asked for.
    pub started: Instant,
}

/// What a flip did.
#[derive(Clone, Debug)]
pub struct Flipped {
    /// From the start to the map being written; 0 if it was not.
    pub effective_ns: u64,
    /// The whole of it.
    pub total_ns: u64,
    /// What became of the live connections.
    pub severed: Severed,
    /// The canary before.
    pub before: Proof,
    /// The canary after.
    pub after: Proof,
    /// Whether the new state is on disk. If not, it holds until the daemon starts again.
    pub persisted: Result<(), String>,
    /// What went wrong on the way. The kernel has the new state all the same.
    pub trouble: Option<String>,
}

/// Carries a change out. `persist` writes the new state down. What takes something away is in force before anything is written,
/// and goes on whatever fails, because stopping matters more than remembering; what gives something back is written down first,
/// or not given.
pub fn apply(
    fence: &Fence,
    mut canary: Option<&mut Canary>,
    wanted: Wanted<'_>,
    persist: impl FnOnce() -> io::Result<()>,
) -> Flipped {
    let Wanted { scope, groups, kernel, targets, started } = wanted;
    let was = fence.killed(scope).unwrap_or_default();
    let killing = groups.0.iter().zip(was.0).any(|(new, old)| new & !old != 0);
    let patience = if killing { HURRIED } else { Canary::PATIENCE };
    let before =
        canary.as_deref_mut().map_or(Proof::Unknown, |canary| try_all(fence, canary, scope, &was, targets, patience));
    let mut flipped = Flipped {
        effective_ns: 0,
        total_ns: 0,
        severed: Severed::default(),
        before,
        after: before,
        persisted: Ok(()),
        trouble: None,
    };
    let mut goal = was;
    if killing {
        // What was killed before stays so until the new state is written down.
        goal.add(groups);
        fence.set_killed(scope, &goal);
        flipped.effective_ns = nanoseconds(started);
    }
    flipped.persisted = persist().map_err(|error| error.to_string());
    if flipped.persisted.is_ok() {
        goal = *groups;
        fence.set_killed(scope, &goal);
    }
    // From here on a daemon that ends finds the kill on disk. No packet of these flows has passed since the map was written.
    if killing && kernel {
        match end_flows(fence, scope, groups) {
            Ok(severed) => flipped.severed = severed,
            Err(error) => flipped.trouble = Some(format!("the live connections could not be ended: {error}")),
        }
    }
    if flipped.effective_ns == 0 && flipped.persisted.is_ok() {
        flipped.effective_ns = nanoseconds(started);
    }
    match fence.killed(scope) {
        Ok(read) if read == goal => {}
        Ok(_) => flipped.trouble = Some("the kernel's map does not read back as it was written".into()),
        Err(error) => flipped.trouble = Some(error.to_string()),
    }
    flipped.after =
        canary.map_or(Proof::Unknown, |canary| try_all(fence, canary, scope, &goal, targets, Canary::PATIENCE));
    flipped.total_ns = nanoseconds(started);
    flipped
}

/// How long a kill waits for all that the canary tries before it. Afterwards there is time.
const HURRIED: Duration = Duration::from_millis(250);

fn end_flows(fence: &Fence, scope: Scope, groups: &Groups) -> Result<Severed, Error> {
    fence.sever(|flow| {
        let concerned = match scope {
            Scope::Host => true,
            Scope::Agent(agent) => fence.agent_of(flow.stamp.job) == agent,
            Scope::Job(job) => flow.stamp.job == job,
        };
        concerned && (flow.groups.intersects(groups) || !flow.allowed)
    })
}

/// Flips groups for the canary alone and back: proves the switch without touching anybody.
pub fn rehearse(fence: &Fence, canary: &mut Canary, groups: &Groups, targets: &[Target]) -> Flipped {
    let started = Instant::now();
    let job = Scope::Job(canary.slot());
    let before = try_all(fence, canary, Scope::Host, groups, targets, Canary::PATIENCE);
    fence.set_killed(job, groups);
    let effective_ns = nanoseconds(started);
    let after = try_all(fence, canary, Scope::Host, groups, targets, Canary::PATIENCE);
    fence.set_killed(job, &Groups::default());
    let total_ns = nanoseconds(started);
    Flipped { effective_ns, total_ns, severed: Severed::default(), before, after, persisted: Ok(()), trouble: None }
}

/// Tries every target, for so long altogether. A switch of one job is the canary's own for that time.
fn try_all(
    fence: &Fence,
    canary: &mut Canary,
    scope: Scope,
    groups: &Groups,
    targets: &[Target],
    patience: Duration,
) -> Proof {
    let until = Instant::now() + patience;
    let own = Scope::Job(canary.slot());
    let one_job = matches!(scope, Scope::Job(_));
    if one_job {
        fence.set_killed(own, groups);
    }
    let (mut accepted, mut refused) = (0, 0);
    let mut known = true;
    for target in targets {
        match canary.try_endpoint(fence, target.agent, target.policy, &target.endpoint, until) {
            Ok(Tried::Accepted) => accepted += 1,
            Ok(Tried::Refused) => refused += 1,
            Err(error) => {
                tracing::error!(%error, "the canary could not try an endpoint");
                known = false;
                break;
            }
        }
    }
    if one_job {
        fence.set_killed(own, &Groups::default());
    }
    match (known, accepted, refused) {
        (false, _, _) => Proof::Unknown,
        (_, 0, 0) => Proof::Nothing,
        (_, _, 0) => Proof::Accepted,
        (_, 0, _) => Proof::Refused,
        _ => Proof::Mixed,
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
