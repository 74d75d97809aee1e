//! Counts the processes of jobs: who starts one, executes a program, ends. For coverage attestations; nothing is refused here.
//!
//! A task that belongs to no job pays for one comparison. Only what the tracepoints hand over as numbers is read, and never
//! through a pointer: so no kernel's layouts are relied on.
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/task.h>,
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h>.

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use clawguard_common::JOB_NONE;

use crate::{
    caller,
    maps::{JOBS, TALLIES},
    tally::{self, What},
};

const CLONE_THREAD: u64 = 0x10000;

/// Counts one more for the current task's job.
#[inline(always)]
fn count(what: What) -> Option<u32> {
    let slot = caller::job().filter(|slot| *slot != JOB_NONE)?;
    let key = JOBS.get(slot)?.key;
    tally::count(slot, key, what);
    Some(slot)
}

/// Notes the current process as the job's first one, if there was none.
#[inline(always)]
fn first(slot: u32) {
    if let Some(tally) = TALLIES.get_ptr_mut(slot) {
        // SAFETY: a word of a record of the map's. While there is one process, nobody else writes it. The helper reads the
        // current task.
        unsafe {
            if (&raw const (*tally).first_pid).read_volatile() == 0 {
                (&raw mut (*tally).first_pid).write_volatile(bpf_get_current_pid_tgid() >> 32);
            }
        }
    }
}

/// A task was made: by the current one.
///
/// # Safety
///
/// The context is that of the tracepoint: the new task, and the flags by which it was made.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/task_newtask")]
pub(crate) unsafe fn spawned(arguments: *const u64) -> i32 {
    // SAFETY: the verifier knows the context.
    if unsafe { *arguments.add(1) } & CLONE_THREAD == 0
        && let Some(slot) = count(tally::SPAWNED)
    {
        first(slot);
    }
    0
}

/// The current process executes a program.
///
/// # Safety
///
/// The context is that of the tracepoint: the task, and the id that it had before.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sched_process_exec")]
pub(crate) unsafe fn executed(arguments: *const u64) -> i32 {
    let Some(slot) = count(tally::EXECS) else { return 0 };
    // SAFETY: the helper reads the current task.
    let id = unsafe { bpf_get_current_pid_tgid() };
    // SAFETY: the verifier knows the context.
    if unsafe { *arguments.add(1) } as u32 != id as u32 {
        // Another thread than the first executes: it takes that one's id, and that one has ended.
        let _ = count(tally::TAKEN_OVER);
    }
    first(slot);
    0
}

/// The current task ends.
///
/// # Safety
///
/// The context is that of the tracepoint.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sched_process_exit")]
pub(crate) unsafe fn ended(_arguments: *const u64) -> i32 {
    // SAFETY: the helper reads the current task.
    let id = unsafe { bpf_get_current_pid_tgid() };
    // A process is told apart from its other threads by its first one's id.
    if (id >> 32) as u32 == id as u32 {
        let _ = count(tally::ENDED);
    }
    0
}
