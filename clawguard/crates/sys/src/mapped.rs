//! A BPF array in this process's memory, word by word.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

/// A `BPF_F_MMAPABLE` array map, seen as 64-bit words. Each word is read and written by one atomic access, so that the
/// kernel never sees half of one; no system call is needed.
#[derive(Debug)]
pub struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is shared with the kernel and only ever accessed atomically.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `bytes` of the array behind a descriptor.
    ///
    /// # Errors
    ///
    /// If the map is not mappable or smaller than that.
    pub fn new(map: impl AsFd, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self { start, count: bytes / size_of::<AtomicU64>() })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        // Beyond the end is a fault of the caller's arithmetic; the last word keeps it inside the mapping.
        let index = index.min(self.count - 1);
        debug_assert!(index < self.count);
        // SAFETY: within the mapping, which lives as long as `self`; page-aligned, hence aligned for words.
        unsafe { self.start.add(index).as_ref() }
    }

    /// Reads a word.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    /// Writes a word.
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    /// Adds to a word and answers the new value.
    pub fn add(&self, index: usize, by: u64) -> u64 {
        self.word(index).fetch_add(by, Ordering::SeqCst).wrapping_add(by)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length; no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}
