//! The heap.

/// Gives free heap pages back to the system: after a large contract was compiled, its tree would otherwise stay resident.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; glibc locks its own arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}
