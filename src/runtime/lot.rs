//! The parking lot: an epoll inside the worker's own, for descriptors that no coroutine waits on, and for the second
//! stream of a wait on two.
//!
//! A stream is added at its first need and then only modified; closing its descriptor takes it out. What is no
//! longer waited for is disarmed lazily, when its event comes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::world::Need;

/// What the lot listens for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Not in the lot yet.
    Absent,
    /// In it, and silent.
    Disarmed,
    /// Edge-triggered: FIN, RST, errors.
    Hangup,
    /// Edge-triggered: everything.
    Everything,
    /// Edge-triggered: bytes to read, FIN, RST, errors. It stays when the stream comes back: one that parks between all of its
    /// requests is armed once, and its hang-up is seen meanwhile.
    Parked,
    /// Once: what a parked stream needs, RST, errors, and FIN where it needs bytes.
    ParkedFor(Need),
}

impl Mode {
    /// Whether every event of a [`Mode::Hangup`] would be told of too.
    pub(super) fn sees_hangups(self) -> bool {
        matches!(self, Self::Hangup | Self::Everything | Self::Parked)
    }
}

/// The nested epoll's descriptor operations.
#[derive(Debug)]
pub(super) struct Lot {
    epoll: OwnedFd,
}

/// Events taken at a time.
const BATCH: i32 = 128;

/// What came of one look at the lot.
pub(super) struct Events {
    events: [libc::epoll_event; BATCH as usize],
    len: usize,
}

impl Lot {
    /// An epoll for a lot; the caller homes its descriptor.
    pub(super) fn open() -> io::Result<OwnedFd> {
        // SAFETY: no pointers; the result is checked and has no other owner.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: epoll_create1 just returned it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Takes a second descriptor of the same epoll for operations.
    pub(super) fn over(epoll: OwnedFd) -> Self {
        Self { epoll }
    }

    /// Its descriptor, lent for registering.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Changes what is listened for on `fd`, whose events carry `key`. A state that is there already is reported.
    pub(super) fn arm(&self, fd: RawFd, key: usize, from: Mode, to: Mode) -> io::Result<()> {
        let gone = libc::EPOLLRDHUP | libc::EPOLLET;
        let events = match to {
            Mode::Hangup => gone,
            Mode::Everything => gone | libc::EPOLLIN | libc::EPOLLOUT,
            Mode::Parked => gone | libc::EPOLLIN,
            Mode::ParkedFor(Need::Read) => gone | libc::EPOLLIN | libc::EPOLLONESHOT,
            // A FIN that was seen would be reported again at once.
            Mode::ParkedFor(Need::Write) => libc::EPOLLET | libc::EPOLLOUT | libc::EPOLLONESHOT,
            Mode::ParkedFor(Need::End) => gone | libc::EPOLLONESHOT,
            Mode::Absent | Mode::Disarmed | Mode::ParkedFor(Need::Nothing) => libc::EPOLLET | libc::EPOLLONESHOT,
            Mode::ParkedFor(Need::Either) => gone | libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLONESHOT,
        };
        let events = events.cast_unsigned();
        let operation = if from == Mode::Absent { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD };
        let mut event = libc::epoll_event { events, u64: key as u64 };
        // SAFETY: both descriptors are open, and `event` is a valid epoll_event for the length of the call.
        if unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// What has happened; never waits. `true` with the result when there may be more.
    pub(super) fn look(&self) -> (Events, bool) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH as usize];
        // SAFETY: `events` has room for BATCH entries, and the descriptor is open.
        let n = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), BATCH, 0) };
        let len = usize::try_from(n).unwrap_or(0);
        (Events { events, len }, n == BATCH)
    }
}

impl Events {
    /// Each event's key and flags.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.events[..self.len].iter().map(|event| (event.u64 as usize, event.events))
    }
}
