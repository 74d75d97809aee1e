//! Who calls: the job of the current task, by its cgroup's ancestors.

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_sk_ancestor_cgroup_id};
use clawguard_common::{DEEPEST, JOB_LEVEL, JOB_NONE, Job, MAX_LEVEL};
use core::ffi::c_void;

use crate::maps::{CGROUPS, HOST};

/// Slot of the job that the current task belongs to; `None` for an unmanaged task.
///
/// Asked of the ancestors and not of the exact cgroup, where a child would hide; and not in packet programs, where the
/// current task is not the sender.
#[inline(always)]
pub(crate) fn job() -> Option<u32> {
    // SAFETY: the helper reads the current task, which every hook that calls this has.
    nearest(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// Whether the current task belongs to this very job.
#[inline(always)]
pub(crate) fn is_of(job: &Job) -> bool {
    // SAFETY: as above.
    job.key != 0 && unsafe { bpf_get_current_ancestor_cgroup_id(job.level as i32) } == job.cgroup
}

/// The job of a socket's own cgroup: the one its maker was in.
///
/// # Safety
///
/// `socket` is a full socket that the verifier knows not to be null, in a packet program.
#[inline(always)]
pub(crate) unsafe fn job_of_socket(socket: *mut c_void) -> Option<u32> {
    // SAFETY: the caller's promise.
    nearest(|level| unsafe { bpf_sk_ancestor_cgroup_id(socket, level) })
}

#[inline(always)]
fn nearest(ancestor: impl Fn(i32) -> u64) -> Option<u32> {
    let host = HOST.get(0)?;
    // Most tasks of most hosts are told unmanaged by this one comparison.
    let agents = host.agents_level as u32;
    if agents != 0 && ancestor(agents as i32) == host.agents_cgroup {
        let job = ancestor((agents + JOB_LEVEL) as i32);
        // SAFETY: an entry is one word, written whole.
        return Some(unsafe { CGROUPS.get(job) }.map_or(JOB_NONE, |cgroup| cgroup.job as u32));
    }
    let levels = host.levels;
    if levels == 0 {
        return None;
    }
    // From the deepest, which is the nearest.
    let deepest = (levels >> DEEPEST) as u32;
    let mut level = if deepest < MAX_LEVEL { deepest } else { MAX_LEVEL };
    while level > 0 {
        if levels & (1 << level) != 0 {
            let id = ancestor(level as i32);
            // SAFETY: as above.
            let cgroup = if id == 0 { None } else { unsafe { CGROUPS.get(id) } };
            if let Some(cgroup) = cgroup {
                return Some(cgroup.job as u32);
            }
        }
        level -= 1;
    }
    None
}
