//! The process's descriptors: their limit, and how many of them each part of the process may have.

use std::io;
use std::os::fd::RawFd;

/// The control plane's reserve, at most.
const RESERVE_MAX: usize = 1024;
/// What a worker has of its own, listeners aside: its selector and that one's bell, its timer, mailbox and parking lot.
const OF_A_WORKER: usize = 5;
/// Connections to backends that are left to each worker when clients have all of their share, unless half is less.
const TO_BACKENDS_MAX: usize = 1024;

/// Pipes of a worker, at most: one that has one holds it for the time in which a client takes what it can, no longer.
const PIPES_MAX: usize = 64;
/// Pipes of all workers, at most: half of what a user has without privileges, whose every pipe more has a page or two
/// (`fs.pipe-user-pages-soft`, pipe(7)).
const PIPES_OF_ALL_MAX: usize = 512;
/// What a pipe has: both of its ends.
const OF_A_PIPE: usize = 2;

/// How the process's descriptors are shared out.
///
/// The system gives the lowest free number. So what keeps to numbers below a bound leaves all those above it to others,
/// without anything to count: the workers' sockets stay below [`Shares::sockets_below`], and the control plane (the admin
/// API, health checks, names) finds a number whatever clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Workers' sockets have numbers below this.
    pub sockets_below: RawFd,
    /// Numbers that only the control plane has.
    pub reserve: usize,
    /// Client connections over all workers, so that as many connections to backends fit beside them (or 1024 for each
    /// worker).
    pub clients_max: usize,
    /// Client connections beyond those: they are turned away, which takes a moment.
    pub turned_away_max: usize,
    /// Pipes of each worker, through which large bodies go.
    pub pipes_max: usize,
}

impl Shares {
    /// For a process with `limit` descriptors, and workers with `listeners` addresses each.
    pub fn of(limit: u64, workers: usize, listeners: usize) -> Self {
        // No more than the numbers that there are.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(RawFd::MAX as usize);
        let reserve = (limit / 8).min(RESERVE_MAX);
        // The control plane takes low numbers too, as many as it has in all.
        let of_workers = limit.saturating_sub(2 * reserve + workers * (OF_A_WORKER + listeners));
        let pipes_max = ((of_workers / 16 / OF_A_PIPE).min(PIPES_OF_ALL_MAX) / workers).min(PIPES_MAX);
        let of_workers = of_workers - pipes_max * workers * OF_A_PIPE;
        let to_backends = (of_workers / 2).min(TO_BACKENDS_MAX * workers);
        let turned_away_max = of_workers / 16;
        let clients_max = (of_workers - to_backends - turned_away_max).max(1);
        let sockets_below = RawFd::try_from(limit - reserve).unwrap_or(RawFd::MAX);
        Self { sockets_below, reserve, clients_max, turned_away_max, pipes_max }
    }
}

/// Raises the soft limit of open descriptors to the hard one, and returns what it is now.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit to write to.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is a valid rlimit to read from.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
            return Ok(limit.rlim_cur);
        }
        limit = raised;
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_is_shared_between_clients_and_backends() {
        let shares = Shares::of(256, 2, 1);
        assert_eq!(
            shares,
            Shares { sockets_below: 224, reserve: 32, clients_max: 76, turned_away_max: 10, pipes_max: 2 }
        );
    }

    #[test]
    fn a_large_table_belongs_to_clients_for_the_most_part() {
        let shares = Shares::of(20_000, 2, 1);
        assert_eq!(
            shares,
            Shares { sockets_below: 18_976, reserve: 1024, clients_max: 14_531, turned_away_max: 1_105, pipes_max: 64 }
        );
    }

    #[test]
    fn any_table_leaves_something_to_everyone() {
        for limit in [0, 16, 64, 256, 1024, 1 << 20, u64::MAX] {
            for workers in [1, 2, 64] {
                let shares = Shares::of(limit, workers, 2);
                assert!(shares.clients_max > 0, "{limit} {workers} {shares:?}");
                assert!(u64::from(shares.sockets_below.unsigned_abs()) <= limit);
                assert!(shares.pipes_max * workers <= PIPES_OF_ALL_MAX && shares.pipes_max <= PIPES_MAX);
            }
        }
    }
}
