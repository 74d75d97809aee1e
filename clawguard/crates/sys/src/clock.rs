//! Clocks, and the moment at which the wall clock is set.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};

use crate::check;

/// Nanoseconds of CLOCK_BOOTTIME: monotonic, and it goes on while the machine sleeps. The kernel programs' clock.
#[must_use]
pub fn boot_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |t| (t.tv_sec() as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec() as u64))
}

/// Nanoseconds since 1970 by the wall clock.
#[must_use]
pub fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// A moment of the wall clock as one of CLOCK_BOOTTIME. What is past becomes 0.
#[must_use]
pub fn boot_deadline(wall_ns_since_1970: u64) -> u64 {
    let (wall, boot) = (wall_ns(), boot_ns());
    match wall_ns_since_1970.checked_sub(wall) {
        Some(left) => boot.saturating_add(left),
        None => 0,
    }
}

/// Becomes readable when somebody sets the wall clock (`TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2)).
#[derive(Debug)]
pub struct ClockWatch(OwnedFd);

impl ClockWatch {
    /// Starts watching.
    ///
    /// # Errors
    ///
    /// If the kernel gives no timer.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes two integers and answers a new descriptor or an error.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let watch = Self(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        watch.arm()?;
        Ok(watch)
    }

    /// Sets the timer as far ahead as it goes: only a change of the clock ends it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the timer.
    pub fn arm(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let far = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 },
        };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: the pointer is to a live value; the old value is not asked for.
        check(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), flags, &raw const far, std::ptr::null_mut()) })?;
        Ok(())
    }

    /// Takes the news, so that the descriptor is no longer readable.
    pub fn taken(&self) {
        let mut buffer = [0_u8; 8];
        // ECANCELED is the news itself.
        let _ = nix::unistd::read(&self.0, &mut buffer);
    }
}

impl AsFd for ClockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::os::fd::AsRawFd for ClockWatch {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}
