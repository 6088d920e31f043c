//! The one timerfd of a worker.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The one timerfd of a worker, and when it is set to.
pub(super) struct Timer {
    pub(super) fd: OwnedFd,
    pub(super) set_to_ns: Cell<u64>,
}

impl Timer {
    pub(super) fn open() -> io::Result<OwnedFd> {
        // SAFETY: no pointers; the result is checked and has no other owner.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: timerfd_create just returned it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Has the timer fire at `at_ns` of the monotonic clock (at once when that has passed).
    pub(super) fn set(&self, at_ns: u64) {
        self.set_to_ns.set(at_ns);
        let at_ns = at_ns.max(1);
        let (seconds, nanoseconds) = (at_ns / 1_000_000_000, at_ns % 1_000_000_000);
        let at = libc::timespec { tv_sec: seconds.cast_signed(), tv_nsec: nanoseconds.cast_signed() };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        // SAFETY: `once` is a valid itimerspec, the descriptor is an open timerfd, and no old value is asked for.
        unsafe {
            libc::timerfd_settime(self.fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &raw const once, std::ptr::null_mut());
        }
    }
}
