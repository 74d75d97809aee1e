//! Clocks, and the moment at which the wall clock is set.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
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

/// The boot on which CLOCK_BOOTTIME counts: a UUID that no other boot has (random(4)). Empty where /proc has none.
#[must_use]
pub fn boot_id() -> String {
    static ID: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().into())
    });
    ID.clone()
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

fn timer(clock: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and answers a new descriptor or an error.
    let fd = check(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

fn set(timer: &OwnedFd, flags: i32, first: libc::timespec, then: libc::timespec) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let time = libc::itimerspec { it_interval: then, it_value: first };
    // SAFETY: the pointer is to a live value; the old value is not asked for.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), flags, &raw const time, std::ptr::null_mut()) })?;
    Ok(())
}

/// A timer that becomes readable at once and then at every interval: exactly one wakeup each, where a runtime's own timers
/// wake it on the way as well.
///
/// # Errors
///
/// If the kernel gives no timer.
pub fn ticker(interval: Duration) -> io::Result<OwnedFd> {
    let ticker = timer(libc::CLOCK_MONOTONIC)?;
    set(&ticker, 0, timespec(Duration::from_nanos(1)), timespec(interval))?;
    Ok(ticker)
}

/// Takes a timer's news, so that it is no longer readable.
pub fn taken(timer: impl AsFd) {
    let mut buffer = [0_u8; 8];
    // Of a watched clock, ECANCELED is the news itself.
    let _ = nix::unistd::read(timer, &mut buffer);
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
        let watch = Self(timer(libc::CLOCK_REALTIME)?);
        watch.arm()?;
        Ok(watch)
    }

    /// Sets the timer as far ahead as it goes: only a change of the clock ends it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the timer.
    pub fn arm(&self) -> io::Result<()> {
        let far = timespec(Duration::from_secs(i32::MAX as u64));
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        set(&self.0, flags, far, timespec(Duration::ZERO))
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
