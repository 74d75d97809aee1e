//! Carrying a change out, and proving it.

use std::{io, time::Instant};

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

/// What a flip did.
#[derive(Clone, Debug)]
pub struct Flipped {
    /// From the start to the map being written.
    pub effective_ns: u64,
    /// The whole of it.
    pub total_ns: u64,
    /// What became of the live connections.
    pub severed: Severed,
    /// The canary before.
    pub before: Proof,
    /// The canary after.
    pub after: Proof,
    /// Whether the new state is on disk. If not, it holds until the next reboot.
    pub persisted: Result<(), String>,
}

/// Carries a change out: `groups` is everything that is killed in `scope` from now on. `persist` writes the new state
/// down; if it cannot, a kill goes on all the same, because stopping matters more than remembering, and says so.
///
/// # Errors
///
/// If the kernel's map does not read back as it was written, or the live connections cannot be listed. A kill is in force
/// by then. That there is no canary, or none that answers, stops nothing and is told as [`Proof::Unknown`].
pub fn apply(
    fence: &Fence,
    mut canary: Option<&mut Canary>,
    scope: Scope,
    groups: &Groups,
    targets: &[Target],
    started: Instant,
    persist: impl FnOnce() -> io::Result<()>,
) -> Result<Flipped, Error> {
    let was = fence.killed(scope)?;
    let killing = groups.0.iter().zip(was.0).any(|(new, old)| new & !old != 0);
    let before = canary.as_deref_mut().map_or(Proof::Unknown, |canary| try_all(fence, canary, scope, &was, targets));
    let persisted = persist().map_err(|error| error.to_string());
    if persisted.is_err() && !killing {
        // What is given back must stay given back: without a record it is not.
        let total_ns = nanoseconds(started);
        return Ok(Flipped { effective_ns: 0, total_ns, severed: Severed::default(), before, after: before, persisted });
    }
    fence.set_killed(scope, groups);
    let effective_ns = nanoseconds(started);
    let read = fence.killed(scope)?;
    if read != *groups {
        return Err(Error::SelfTest { hook: "switch", what: "the map does not read back as it was written".into() });
    }
    let severed = if killing {
        fence.sever(|flow| {
            let concerned = match scope {
                Scope::Host => true,
                Scope::Agent(agent) => fence.agent_of(flow.stamp.job) == agent,
                Scope::Job(job) => flow.stamp.job == job,
            };
            concerned && (flow.groups.intersects(groups) || !flow.allowed)
        })?
    } else {
        Severed::default()
    };
    let after = canary.map_or(Proof::Unknown, |canary| try_all(fence, canary, scope, groups, targets));
    Ok(Flipped { effective_ns, total_ns: nanoseconds(started), severed, before, after, persisted })
}

/// Flips groups for the canary alone and back: proves the switch without touching anybody.
pub fn rehearse(fence: &Fence, canary: &mut Canary, groups: &Groups, targets: &[Target]) -> Flipped {
    let started = Instant::now();
    let job = Scope::Job(canary.slot());
    let before = try_all(fence, canary, Scope::Host, groups, targets);
    fence.set_killed(job, groups);
    let effective_ns = nanoseconds(started);
    let after = try_all(fence, canary, Scope::Host, groups, targets);
    fence.set_killed(job, &Groups::default());
    let total_ns = nanoseconds(started);
    Flipped { effective_ns, total_ns, severed: Severed::default(), before, after, persisted: Ok(()) }
}

/// Tries every target. A switch of one job is the canary's own for that time.
fn try_all(fence: &Fence, canary: &mut Canary, scope: Scope, groups: &Groups, targets: &[Target]) -> Proof {
    let own = Scope::Job(canary.slot());
    let one_job = matches!(scope, Scope::Job(_));
    if one_job {
        fence.set_killed(own, groups);
    }
    let (mut accepted, mut refused) = (0, 0);
    let mut known = true;
    for target in targets {
        match canary.try_endpoint(fence, target.agent, target.policy, &target.endpoint) {
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
