//! Which numbers a worker's descriptors have had, so that homing finds a fitting one that is free without trying those of
//! other workers one after the other.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Tries of each kind: numbers that were given back and may have been taken by others; such as the worker never had; any.
const TRIES_MAX: usize = 64;

/// The numbers of one worker: those that leave its own as the remainder. They are only believed to be free, since anything
/// in the process may take them; one that was taken is forgotten, and found again when it is given out by chance, or at last.
#[derive(Debug)]
pub(super) struct FdNumbers {
    worker: usize,
    workers: usize,
    /// A bit for each number that this worker has had and given back.
    free: Vec<u64>,
    /// No word of `free` from here on has a bit.
    free_end: usize,
    /// From the number at this place on all have been left alone so far.
    unused_from: usize,
    /// Where to look on at last.
    look_from: usize,
    /// System calls made.
    #[cfg(test)]
    calls: usize,
}

impl FdNumbers {
    pub(super) fn new(worker: usize, workers: usize) -> Self {
        Self {
            worker,
            workers,
            free: Vec::new(),
            free_end: 0,
            unused_from: 0,
            look_from: 0,
            #[cfg(test)]
            calls: 0,
        }
    }

    /// Gives `fd` a number of the worker's below `below`: duplicates it and closes the original, unless it has one. The
    /// result has `FD_CLOEXEC`. One system call for nearly all, and never more than a few dozen.
    ///
    /// # Errors
    /// `EMFILE` when no such number was found, with `fd` as it was.
    pub(super) fn home(&mut self, fd: OwnedFd, below: RawFd) -> Result<OwnedFd, (io::Error, OwnedFd)> {
        if fd.as_raw_fd() < below
            && let Some(place) = self.place_of(fd.as_raw_fd())
        {
            self.take(place);
            return Ok(fd);
        }
        // The highest that is free: the system gives out the lowest ones, to anyone.
        for _ in 0..TRIES_MAX {
            let Some(place) = self.highest_free() else { break };
            self.take(place);
            match self.attempt(&fd, place, below) {
                Ok(homed) => return Ok(homed),
                Err(Missed::At(_)) => {}
                Err(Missed::Failed(error)) => return Err((error, fd)),
            }
        }
        for _ in 0..TRIES_MAX {
            match self.attempt(&fd, self.unused_from, below) {
                Ok(homed) => return Ok(homed),
                Err(Missed::At(number)) if number < below => self.unused_from = self.place_behind(number),
                Err(_) => break,
            }
        }
        for _ in 0..TRIES_MAX {
            match self.attempt(&fd, self.look_from, below) {
                Ok(homed) => return Ok(homed),
                Err(Missed::At(number)) if number < below => self.look_from = self.place_behind(number),
                Err(_) if self.look_from > 0 => self.look_from = 0,
                Err(_) => break,
            }
        }
        Err((io::Error::from_raw_os_error(libc::EMFILE), fd))
    }

    /// Takes note of a number that is about to be closed.
    pub(super) fn give_back(&mut self, number: RawFd) {
        let Some(place) = self.place_of(number) else { return };
        let word = place / 64;
        if word >= self.free.len() {
            self.free.resize(word + 1, 0);
        }
        self.free[word] |= 1 << (place % 64);
        self.free_end = self.free_end.max(word + 1);
    }

    /// One try to get the number at `place`. What it gets is taken if it fits, whichever it is.
    fn attempt(&mut self, fd: &OwnedFd, place: usize, below: RawFd) -> Result<OwnedFd, Missed> {
        #[cfg(test)]
        {
            self.calls += 1;
        }
        let wanted = RawFd::try_from(place * self.workers + self.worker).unwrap_or(RawFd::MAX);
        if wanted >= below {
            return Err(Missed::At(wanted));
        }
        let copy = duplicate(fd, wanted).map_err(Missed::Failed)?;
        match self.place_of(copy.as_raw_fd()) {
            Some(place) if copy.as_raw_fd() < below => {
                self.take(place);
                Ok(copy)
            }
            _ => Err(Missed::At(copy.as_raw_fd())),
        }
    }

    fn take(&mut self, place: usize) {
        if let Some(word) = self.free.get_mut(place / 64) {
            *word &= !(1 << (place % 64));
        }
        self.unused_from = self.unused_from.max(place + 1);
    }

    fn highest_free(&mut self) -> Option<usize> {
        while let Some(word) = self.free_end.checked_sub(1) {
            if self.free[word] != 0 {
                return Some(word * 64 + self.free[word].ilog2() as usize);
            }
            self.free_end = word;
        }
        None
    }

    /// The place of a number, if it is the worker's.
    fn place_of(&self, number: RawFd) -> Option<usize> {
        let number = usize::try_from(number).ok()?;
        (number % self.workers == self.worker).then_some(number / self.workers)
    }

    /// The first place whose number is above this one.
    fn place_behind(&self, number: RawFd) -> usize {
        let number = usize::try_from(number).unwrap_or(0);
        number / self.workers + usize::from(number % self.workers >= self.worker)
    }
}

/// A copy with the lowest free number from `from` on, and `FD_CLOEXEC`.
fn duplicate(fd: &OwnedFd, from: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fd` is open for as long as `fd` lives; F_DUPFD_CLOEXEC makes a descriptor that has no other owner.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl just returned it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Why a try came to nothing.
enum Missed {
    /// The lowest free number is this one, which doesn't fit.
    At(RawFd),
    /// There is no number left at all.
    Failed(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    const BELOW: RawFd = 4000;

    fn socket() -> OwnedFd {
        UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    fn close(numbers: &mut FdNumbers, fds: Vec<OwnedFd>) {
        for fd in fds {
            numbers.give_back(fd.as_raw_fd());
            drop(fd);
        }
    }

    fn home(numbers: &mut FdNumbers, count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| numbers.home(socket(), BELOW).unwrap()).collect()
    }

    /// Descriptors that belong to no worker are left out of account: other tests of this process open some meanwhile.
    #[test]
    fn homing_takes_a_call_a_descriptor_however_skewed_the_workers_are() {
        const MANY: usize = 120;
        let (mut even, mut odd) = (FdNumbers::new(0, 2), FdNumbers::new(1, 2));
        let (of_even, of_odd) = (home(&mut even, MANY), home(&mut odd, MANY));
        // All of the one worker's end: from now on the lowest free numbers are its own, one beside each of the other's.
        close(&mut even, of_even);
        odd.calls = 0;
        let more = home(&mut odd, MANY);
        assert!(odd.calls <= 2 * MANY, "{} calls for {MANY} descriptors", odd.calls);
        assert!(more.iter().all(|fd| fd.as_raw_fd() % 2 == 1));
        // Connections come and go beside the others.
        odd.calls = 0;
        for _ in 0..MANY {
            let one = home(&mut odd, 1);
            close(&mut odd, one);
        }
        assert!(odd.calls <= 2 * MANY, "{} calls for {MANY} descriptors", odd.calls);
        drop((of_odd, more));
    }

    #[test]
    fn numbers_that_were_given_back_are_used_again() {
        let mut numbers = FdNumbers::new(1, 3);
        let highest = |fds: &[OwnedFd]| fds.iter().map(OwnedFd::as_raw_fd).max();
        let first = home(&mut numbers, 40);
        let peak = highest(&first);
        close(&mut numbers, first);
        for _ in 0..20 {
            let again = home(&mut numbers, 30);
            assert!(again.iter().all(|fd| fd.as_raw_fd() % 3 == 1));
            // Now and then another test takes one of them.
            assert!(highest(&again) <= peak.map(|peak| peak + 60), "{:?} above {peak:?}", highest(&again));
            close(&mut numbers, again);
        }
    }

    #[test]
    fn what_does_not_fit_below_the_bound_comes_back_as_it_was() {
        let fd = socket();
        let number = fd.as_raw_fd();
        let (error, fd) = FdNumbers::new(0, 1).home(fd, 0).unwrap_err();
        assert_eq!((error.raw_os_error(), fd.as_raw_fd()), (Some(libc::EMFILE), number));
    }

    #[test]
    fn at_last_any_number_that_fits_is_found() {
        let mut numbers = FdNumbers::new(0, 2);
        // As if it had come to the bound, and had lost sight of those below.
        numbers.unused_from = usize::try_from(BELOW).unwrap();
        let homed = numbers.home(socket(), BELOW).unwrap();
        assert!(homed.as_raw_fd() % 2 == 0 && homed.as_raw_fd() < BELOW);
    }
}
