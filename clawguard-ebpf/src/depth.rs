//! Answers how many levels below the kernel's own cgroup root a cgroup lies, for a task somewhere below it.
//!
//! The ancestor helpers count from the real root, and in a cgroup namespace (a container, say) nobody in userspace can tell
//! where that is. Attached to nothing: the daemon runs it once, by `BPF_PROG_TEST_RUN`.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use clawguard_common::MAX_LEVEL;

/// The level, or more than [`MAX_LEVEL`] if the cgroup is not among the task's. Aya's own macro would answer 0 always.
///
/// # Safety
///
/// The context is that of a raw tracepoint with one argument at least: the cgroup's id.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/depth")]
pub(crate) unsafe fn depth(arguments: *const u64) -> i32 {
    // SAFETY: the verifier knows the context.
    let cgroup = unsafe { *arguments };
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
