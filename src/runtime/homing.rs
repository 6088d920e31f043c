//! Homing: every descriptor is moved to a number that belongs to its worker.
//!
//! `may` registers a descriptor with the selector `fd % workers`, and a coroutine resumes on the worker whose selector
//! saw the event. So a coroutine that waits on descriptors of different remainders moves between threads at every wait.
//! With all of a worker's descriptors homed it never moves: per-worker state needs no atomics, no lock, and `Rc` is
//! enough. [`check`] counts the exceptions, and there are none.

use std::cell::Cell;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::fd_numbers::FdNumbers;

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(usize::MAX) };
}

static MOVES: AtomicU64 = AtomicU64::new(0);

/// Duplicates `fd` until its number belongs to `worker` (of `workers`), and closes the others. The result has
/// `FD_CLOEXEC`. No system call when the number is right already. For what is opened at the start; of what comes and goes
/// a worker knows which numbers are free.
///
/// # Errors
/// `EMFILE` when the process has no descriptor of that remainder left.
pub fn home(fd: OwnedFd, worker: usize, workers: usize) -> io::Result<OwnedFd> {
    FdNumbers::new(worker, workers).home(fd, RawFd::MAX).map_err(|(error, _)| error)
}

/// Says that the calling thread is this worker's; called once by each at its start.
pub fn enter(worker: usize) {
    WORKER.set(worker);
}

/// The worker whose thread this is; None on a thread of the control plane.
pub fn here() -> Option<usize> {
    Some(WORKER.get()).filter(|&worker| worker != usize::MAX)
}

/// After a wait: counts a move when the calling thread is not `worker`'s.
#[inline]
pub fn check(worker: usize) {
    if WORKER.get() != worker {
        MOVES.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often a coroutine found itself on another worker's thread, since the process started.
pub fn moves() -> u64 {
    MOVES.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_homed_descriptor_belongs_to_its_worker() {
        for workers in 1..6 {
            for worker in 0..workers {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let fd = home(OwnedFd::from(socket), worker, workers).unwrap();
                assert_eq!(usize::try_from(fd.as_raw_fd()).unwrap() % workers, worker);
            }
        }
    }
}
