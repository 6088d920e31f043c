//! Homing: every descriptor is moved to a number that belongs to its worker.
//!
//! `may` registers a descriptor with the selector `fd % workers`, and a coroutine resumes on the worker whose selector
//! saw the event. So a coroutine that waits on descriptors of different remainders moves between threads at every wait.
//! With all of a worker's descriptors homed it never moves: per-worker state needs no atomics, no lock, and `Rc` is
//! enough. [`check`] counts the exceptions, and there are none.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(usize::MAX) };
}

static MOVES: AtomicU64 = AtomicU64::new(0);

/// Duplicates `fd` until its number belongs to `worker` (of `workers`), and closes the others. The result has
/// `FD_CLOEXEC`. No system call when the number is right already.
///
/// # Errors
/// `EMFILE` when the process has no descriptor of that remainder left.
pub fn home(fd: OwnedFd, worker: usize, workers: usize) -> io::Result<OwnedFd> {
    home_below(fd, worker, workers, RawFd::MAX).map_err(|(error, _)| error)
}

/// The same with a number less than `below`.
///
/// # Errors
/// `EMFILE` when none of these is left, with `fd` as it was.
pub fn home_below(fd: OwnedFd, worker: usize, workers: usize, below: RawFd) -> Result<OwnedFd, (io::Error, OwnedFd)> {
    let belongs = |fd: &OwnedFd| usize::try_from(fd.as_raw_fd()).is_ok_and(|n| n % workers == worker);
    if fd.as_raw_fd() < below && belongs(&fd) {
        return Ok(fd);
    }
    // Each try asks for the lowest free number at or above the next one that would fit; only a gap that others fill
    // makes a second try necessary, so tries are few. Those that missed stay open meanwhile, or they would be found
    // again.
    let mut missed = Vec::new();
    let mut from = fd.as_raw_fd();
    loop {
        let above = usize::try_from(from).unwrap_or(0) + 1;
        let fitting = above + (worker + workers - above % workers) % workers;
        // SAFETY: `fd` is open for as long as `fd` lives; F_DUPFD_CLOEXEC makes a descriptor that nobody else owns.
        let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first_try(&missed, worker, fitting)) };
        if copy < 0 {
            return Err((io::Error::last_os_error(), fd));
        }
        // SAFETY: fcntl just returned it, and nobody else has it.
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        if copy.as_raw_fd() >= below {
            return Err((io::Error::from_raw_os_error(libc::EMFILE), fd));
        }
        if belongs(&copy) {
            return Ok(copy);
        }
        from = copy.as_raw_fd();
        missed.push(copy);
    }
}

/// The first try starts at the lowest number that fits, so that low numbers are used again; later ones go upwards.
fn first_try(missed: &[OwnedFd], worker: usize, fitting: usize) -> i32 {
    let from = if missed.is_empty() { worker } else { fitting };
    i32::try_from(from).unwrap_or(i32::MAX)
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
    #[test]
    fn what_does_not_fit_below_the_bound_comes_back_as_it_was() {
        let socket = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let number = socket.as_raw_fd();
        let (error, socket) = home_below(socket, 0, 1, 0).unwrap_err();
        assert_eq!((error.raw_os_error(), socket.as_raw_fd()), (Some(libc::EMFILE), number));
    }
}
