//! Answers how many levels below the kernel's own cgroup root a cgroup lies, for a task somewhere below it.
//!
//! The ancestor helpers count from the real root, and in a cgroup namespace (a container, say) nobody in userspace can tell
//! where that is. Attached to nothing: the daemon runs it once, by `BPF_PROG_TEST_RUN`.

use aya_ebpf::{
    helpers::generated::bpf_get_current_ancestor_cgroup_id, macros::raw_tracepoint, programs::RawTracePointContext,
};
use clawguard_common::MAX_LEVEL;

/// The level, or more than [`MAX_LEVEL`] if the cgroup is not among the task's.
#[raw_tracepoint]
pub(crate) fn depth(ctx: RawTracePointContext) -> i32 {
    let cgroup: u64 = ctx.arg(0);
    let mut level = 0;
    while level <= MAX_LEVEL as i32 {
        // SAFETY: the helper reads the current task, which is the one that runs this.
        if unsafe { bpf_get_current_ancestor_cgroup_id(level) } == cgroup {
            break;
        }
        level += 1;
    }
    level
}
