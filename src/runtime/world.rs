//! The small traits through which the proxy sees everything outside itself: sockets, time, chance, coroutines and
//! waking. The very same proxying code runs over `may` in production and over a simulated network with a virtual
//! clock in tests; everything is monomorphised.
//!
//! The model in short. A worker runs many coroutines, one at a time. A [`Stream`] is non-blocking and remembers its
//! readiness (edge-triggered: a read that would block or came back short clears it, an event sets it). A coroutine that
//! can't go on calls [`World::wait`], the only place where it blocks, always with a deadline. A connection that waits
//! between requests gives its coroutine up with [`World::park`] and comes back through [`Service::resumed`] on a fresh
//! one.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::Waker;
use std::time::Duration;

/// A moment on a worker's monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// Later than every moment: a deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Nanoseconds from `earlier` to this moment; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::NEVER`].
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// What a coroutine wants to be woken by on the second stream of a [`World::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Only that the peer closed or reset (see [`Stream::peer_state`]).
    Hangup,
    /// Readable, writable, and hang-ups.
    Everything,
}

/// What a parked stream waits for, besides its peer's going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Bytes to read.
    Read,
    /// Room to write.
    Write,
    /// Either of them.
    Either,
    /// The end of its peer's sending side, which must not have been seen yet.
    End,
    /// Only that its peer resets, or the connection breaks.
    Nothing,
}

impl Need {
    /// What a stream needs of which only the end of its peer matters.
    pub fn of_waiting(stream: &impl Stream) -> Self {
        if stream.peer_state() == PeerState::Open { Self::End } else { Self::Nothing }
    }
}

/// Why a wait came to an end. Spurious ends are allowed: look at the streams' readiness, and wait again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// One of the streams may be ready, or its peer has gone.
    Event,
    /// The deadline has passed.
    Deadline,
    /// [`World::resume_parked`] was called (only for parked streams).
    Recalled,
}

/// What is known of the other side without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Nothing says that it has gone.
    Open,
    /// It has closed its sending side (FIN), and may still read.
    HalfClosed,
    /// It has reset the connection, or the connection broke.
    Reset,
}

/// Holds bytes on their way from one stream to another that this program need not look at: [`Stream::try_fill`] moves them
/// in, [`Stream::try_drain`] moves them out in order. It belongs to its worker, which gets it back when it is dropped.
pub trait Pipe: 'static {
    /// Bytes inside.
    fn len(&self) -> usize;

    /// No byte is inside.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes bytes out into memory, in order, as many as fit, and says how many they were. Those that can't be had stay
    /// inside.
    fn pour(&mut self, into: &mut [u8]) -> usize;
}

/// A connected (or connecting) byte stream, non-blocking. Dropping it closes it.
pub trait Stream: 'static {
    /// Through which bytes get to another stream of the same worker.
    type Pipe: Pipe;

    /// Reads what is there. `Ok(0)` is the end of the stream; [`io::ErrorKind::WouldBlock`] says that nothing is there
    /// yet. Clears the readiness to read when the stream is known to be drained.
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes as much of `from`, in order, as fits. [`io::ErrorKind::WouldBlock`] when nothing fits.
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize>;

    /// False when a read is known to block now.
    fn is_readable(&self) -> bool;

    /// False when a write is known to block now.
    fn is_writable(&self) -> bool;

    /// Nobody on the way between its two ends can read it.
    fn is_encrypted(&self) -> bool {
        false
    }

    /// What its other end has shown that it is, as text for a header field. None where there is no way to show it.
    fn peer_identity(&self) -> Option<&str> {
        None
    }

    /// Whether its other end is in the right place with what is meant for `host`, a name or an address without a port.
    fn stands_for(&self, _host: &str) -> bool {
        true
    }

    /// What the events so far said of the peer; no system call.
    fn peer_state(&self) -> PeerState;

    /// For an idle stream whose peer may not speak: false when an event, or a look at the socket if `thorough`, says
    /// that it was closed or has bytes. Without `thorough` it makes no system call, unless an event says that something came.
    fn is_quiet(&self, thorough: bool) -> bool;

    /// After [`World::connect`], once writable: the outcome of connecting.
    fn take_connect_error(&self) -> io::Result<()>;

    /// Bytes that a write would take now without waiting, as far as that is known; an estimate, at the price of a system
    /// call.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Bytes that were written and that the peer hasn't confirmed yet, at the price of a system call: they get fewer as it
    /// reads, long before a write would take more. None when that isn't known.
    fn unsent(&self) -> usize {
        0
    }

    /// Whether bytes from a pipe can be written to it: false where each byte has to be looked at on its way out.
    fn takes_pipe(&self) -> bool {
        true
    }

    /// An empty pipe, to move a body of so many bytes. None when the body is too short to gain by it, or no pipe is to be
    /// had just now: then it goes through memory.
    fn pipe(&self, body_bytes: u64) -> Option<Self::Pipe>;

    /// Moves up to `bytes_max` (more than none) of what is there into `pipe`, which must be empty; else as
    /// [`Stream::try_read`]. Fewer bytes than asked for say nothing of what is there. After an error other than
    /// [`io::ErrorKind::WouldBlock`] a read says what there is.
    fn try_fill(&self, pipe: &mut Self::Pipe, bytes_max: usize) -> io::Result<usize>;

    /// Writes as much of what is in `pipe`, which must not be empty, as fits; else as [`Stream::try_write`]. Only asked of one
    /// that [`Stream::takes_pipe`].
    fn try_drain(&self, pipe: &mut Self::Pipe) -> io::Result<usize>;

    /// Closes the sending side (FIN); errors are ignored.
    fn shutdown_write(&self);

    /// Says what is to be said before it is closed in good order. False where there is no room for it yet: closed now, it would look
    /// cut.
    fn ends_at_once(&self) -> bool {
        true
    }

    /// Has the coming close not look like an end in good order, where one can tell: what was written isn't all there was to be.
    fn end_unsaid(&self) {}

    /// Makes the coming close a reset (RST) that discards what is unsent.
    fn reset_on_close(&self);
}

/// What a service sees of its worker. Clones are cheap handles to the same worker; none leaves its thread.
pub trait World: Clone + 'static {
    /// Its sockets.
    type Stream: Stream;
    /// What [`World::park`] keeps of a connection while no coroutine has it.
    type Parked: 'static;

    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// Seconds since the Unix epoch, for `Date`.
    fn unix_seconds(&self) -> u64;

    /// 64 random bits; not for secrets.
    fn random(&self) -> u64;

    /// This worker's number, from 0.
    fn worker(&self) -> usize;

    /// Starts to connect; the stream becomes writable (or fails) later, see [`Stream::take_connect_error`].
    /// Errors that the system knows at once come at once: no descriptor left, no local port, no route.
    fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream>;

    /// The same for a stream that is to be encrypted, whose other side has to prove that it is `host`. It becomes writable once its
    /// handshake is over, too, which goes on while it is waited on; what [`Stream::take_connect_error`] says may be a
    /// [`HandshakeFault`](super::handshake::HandshakeFault) then.
    fn connect_encrypted(&self, address: SocketAddr, host: &str) -> io::Result<Self::Stream> {
        let _ = (address, host);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Of what connections are encrypted by that begin now: which other side is believed, and what it is shown. Another one than
    /// before says that this has changed.
    fn encryption_generation(&self) -> u32 {
        0
    }

    /// Gives the worker to others until `on` has an event, the `also` stream has one of its kind, or `deadline` is
    /// there. One coroutine at a time may wait on a stream, as `on` or as `also`.
    fn wait(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake;

    /// Gives the worker's other coroutines and the network a turn although `on` could go on; for loops that stream.
    fn yield_now(&self, on: &Self::Stream);

    /// To be called between two pieces of work that no wait need part (requests that are answered here, tries, parts of a
    /// body): yields as [`World::yield_now`] does when this coroutine has had the worker for long enough.
    fn take_turns(&self, on: &Self::Stream);

    /// As [`World::wait`], for a wait that is expected to be long: gives back what memory the coroutine doesn't use
    /// meanwhile, at the price of some system calls.
    fn wait_long(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake {
        self.wait(on, also, deadline)
    }

    /// Ends a wait on `on` with [`Wake::Event`]; any thread may call it. If a coroutine waits on the stream at that moment, or
    /// it is parked, then it goes on soon. If not, the call may be lost, or may end the next wait on the stream early.
    fn waker(&self, on: &Self::Stream) -> Waker;

    /// Keeps the stream without a coroutine until it is readable, its peer goes, `deadline` is there, or it is
    /// recalled; then [`Service::resumed`] gets it on a fresh coroutine.
    fn park(&self, stream: Self::Stream, parked: Self::Parked, deadline: Instant);

    /// The same for a stream that may be parked again and again, until what it needs is there, which must be known not to
    /// be there now. It knows its readiness when it comes back.
    fn park_for(&self, need: Need, stream: Self::Stream, parked: Self::Parked, deadline: Instant);

    /// Has any event of `also` bring `stream` back too, which must be parked next, before anything is waited for. False,
    /// and nothing is changed, when `also` has had an event that hasn't been looked at. `also` may be closed meanwhile, which
    /// brings nothing back.
    fn tie(&self, stream: &Self::Stream, also: &Self::Stream) -> bool;

    /// Resumes every parked stream with [`Wake::Recalled`].
    fn resume_parked(&self);
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its other end.
    pub peer: SocketAddr,
    /// The listener that it came by: its place among those that the workers were started with.
    pub listener: usize,
}

/// What runs on a worker: the world calls it, each time on a coroutine of its own.
pub trait Service<W: World>: 'static {
    /// A connection came in. It may have bytes already.
    fn accepted(&self, stream: W::Stream, arrival: Arrival);

    /// A parked connection came back.
    fn resumed(&self, stream: W::Stream, parked: W::Parked, wake: Wake);

    /// Descriptors are short: closes a connection that is idle, if there is one. Must not wait.
    fn spare_descriptor(&self) -> bool {
        false
    }

    /// Once a second, for housekeeping. Must not wait.
    fn tick(&self);

    /// A piece of the housekeeping that takes long: called after each [`Self::tick`], and again, once others have had a turn,
    /// as long as it says that there is more.
    fn sweep(&self) -> bool {
        false
    }
}
