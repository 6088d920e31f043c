//! A client's connection, with a coroutine and without one.

use std::any::Any;
use std::time::Duration;

use super::bound::{Bound, BoundWaiting};
use super::closing::Closing;
use super::patience::bytes_alone;
use super::seats::Seat;
use crate::http1::Framing;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::Instant;

/// How long a connection keeps its coroutine when nothing comes: the next request often follows at once. One whose last
/// request took longer to come gives it up at once.
pub(super) const LINGER: Duration = Duration::from_millis(10);

/// A client connection that a coroutine has.
pub(super) struct Client<S> {
    pub(super) stream: S,
    /// Bytes read and not used up; none is held while the connection is idle.
    pub(super) buffer: Option<Buffer>,
    /// The current request's bytes at the buffer's front, while all of it is there: head and whole body.
    pub(super) whole_bytes: Option<usize>,
    /// Bytes of an incomplete head that were there when it was parsed last.
    pub(super) looked_at: usize,
    /// Requests begun on this connection.
    pub(super) requests: u64,
    /// When the next head must be whole, or (before its first byte) when the idle connection ends.
    pub(super) deadline: Deadline,
    /// Its requests follow each other closely: it is worth a coroutine to wait with.
    pub(super) brisk: bool,
    /// A backend's connection that is this one's alone, while it isn't in an exchange.
    pub(super) bound: Option<Bound>,
    pub(super) seat: Seat,
}

/// What a connection between two exchanges waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deadline {
    /// For the first byte of a head.
    Idle(Instant),
    /// For the rest of a head whose first bytes are there.
    Head(Instant),
    /// Not set yet: since the last exchange nothing was waited for.
    Unset,
}

/// What is kept of a client connection while no coroutine has it.
#[derive(Debug)]
pub struct Parked(pub(super) Stage);

/// What a parked connection is there for.
#[derive(Debug)]
pub(super) enum Stage {
    /// It waits for a head.
    Waiting(Waiting),
    /// The same, with a backend's connection that is its own.
    Bound(Box<BoundWaiting>),
    /// Its last answer is written.
    Closing(Closing),
    /// In the middle of something: an [`Aside`](super::aside::Aside), whose type knows the world.
    Aside(Box<dyn Any>),
}

/// A connection between two exchanges, or with half a head.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The bytes of half a head, in a piece of memory of just that size.
    half_head: Option<Box<[u8]>>,
    /// See [`Client::looked_at`].
    looked_at: usize,
    requests: u64,
    deadline: Deadline,
    /// When it began to wait.
    since: Instant,
    seat: Seat,
}

impl<S> Client<S> {
    pub(super) fn new(stream: S, seat: Seat) -> Self {
        Self {
            stream,
            buffer: None,
            whole_bytes: None,
            looked_at: 0,
            requests: 0,
            deadline: Deadline::Unset,
            brisk: true,
            bound: None,
            seat,
        }
    }

    /// Length of the request at the buffer's front, when all of it is there.
    pub(super) fn whole_request(&self, head_bytes: usize, framing: Framing) -> Option<usize> {
        let there = self.buffer.as_ref()?.len();
        let body_bytes = match framing {
            Framing::None => 0,
            Framing::Length(n) => usize::try_from(n).ok()?,
            Framing::Chunked | Framing::UntilClose => return None,
        };
        head_bytes.checked_add(body_bytes).filter(|&whole| whole <= there)
    }

    /// The first bytes of its next head are there.
    pub(super) fn awaits_rest_of_head(&self) -> bool {
        matches!(self.deadline, Deadline::Head(_))
    }

    /// The stream, and what is known of the connection without it.
    pub(super) fn part(self) -> (S, Client<()>) {
        let Self { stream, buffer, whole_bytes, looked_at, requests, deadline, brisk, bound, seat } = self;
        (stream, Client { stream: (), buffer, whole_bytes, looked_at, requests, deadline, brisk, bound, seat })
    }

    /// Takes the connection apart for parking, after it began to wait at `since`.
    pub(super) fn park(self, since: Instant) -> (S, Parked) {
        let half_head = self.buffer.as_ref().filter(|buffer| !buffer.is_empty()).map(bytes_alone);
        let Self { stream, looked_at, requests, deadline, seat, .. } = self;
        (stream, Parked(Stage::Waiting(Waiting { half_head, looked_at, requests, deadline, since, seat })))
    }

    /// The reverse of [`Client::park`]; `buffer` is filled with the half head.
    pub(super) fn unpark(stream: S, waiting: Waiting, now: Instant, buffer: impl FnOnce() -> Buffer) -> Self {
        let Waiting { half_head, looked_at, requests, deadline, since, seat } = waiting;
        let brisk = now.since(since) < LINGER;
        let buffer = half_head.map(|bytes| {
            let mut buffer = buffer();
            buffer.append(&bytes);
            buffer
        });
        Self { stream, buffer, whole_bytes: None, looked_at, requests, deadline, brisk, bound: None, seat }
    }
}

impl Client<()> {
    /// The reverse of [`Client::part`].
    pub(super) fn join<S>(self, stream: S) -> Client<S> {
        let Self { stream: (), buffer, whole_bytes, looked_at, requests, deadline, brisk, bound, seat } = self;
        Client { stream, buffer, whole_bytes, looked_at, requests, deadline, brisk, bound, seat }
    }
}

impl Deadline {
    pub(super) fn instant(self) -> Instant {
        match self {
            Self::Idle(at) | Self::Head(at) => at,
            Self::Unset => Instant::NEVER,
        }
    }
}
