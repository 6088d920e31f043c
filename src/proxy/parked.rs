//! What is kept of a client's connection while no coroutine has it.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, Connection, Deadline, LINGER, Reading, bytes_alone};
use super::pinned::PinnedSlot;
use super::stillness::Stillness;
use crate::policy::Seat;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::Instant;

/// What is kept of a client connection while no coroutine has it.
#[derive(Debug)]
pub struct Parked(pub(super) Stage);

/// What a parked connection is there for.
#[derive(Debug)]
pub(super) enum Stage {
    /// It waits for a head.
    Waiting(Waiting),
    /// The same, with a backend's connection that is its own.
    Pinned(Box<PinnedWaiting>),
    /// It takes an answer of the proxy's own little by little.
    Answering(Box<Answering>),
    /// Its last answer is written.
    Closing(Closing),
    /// In the middle of an exchange, whose type knows the world.
    Aside(Box<dyn Any>),
}

/// A connection between two exchanges, or with half a head.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The bytes of half a head, in a piece of memory of just that size.
    pub(super) half_head: Option<Box<[u8]>>,
    /// See [`Reading::looked_at`].
    pub(super) looked_at: usize,
    pub(super) requests: u64,
    pub(super) deadline: Deadline,
    /// When it began to wait; with half a head, the first moment known since that one's first byte.
    pub(super) since: Instant,
    pub(super) seat: Seat,
}

/// A parked client with its backend's connection, which has no request either.
#[derive(Debug)]
pub(super) struct PinnedWaiting {
    pub(super) waiting: Waiting,
    pub(super) pinned: PinnedSlot,
    pub(super) deadline: Instant,
}

/// A connection with what it has not taken yet of an answer of the proxy's own.
pub(super) struct Answering {
    pub(super) connection: Connection<()>,
    pub(super) unsent: Unsent,
}

/// What a client has not taken yet of an answer of the proxy's own.
pub(super) struct Unsent {
    pub(super) bytes: Box<[u8]>,
    /// It is the connection's last.
    pub(super) last: bool,
    /// How long the client may take nothing.
    pub(super) timeout: Duration,
    pub(super) stillness: Stillness,
}

/// A connection that only has to be read to its end.
#[derive(Debug)]
pub(super) struct Closing {
    /// What it has not taken of the answer; only of one that was turned away.
    pub(super) unsent: Option<Box<[u8]>>,
    pub(super) until: Instant,
    pub(super) counted_as: CountedAs,
}

/// What a closing connection counts against.
#[derive(Debug)]
pub(super) enum CountedAs {
    Served(#[expect(dead_code, reason = "held until it is dropped")] Seat),
    TurnedAway(#[expect(dead_code, reason = "held until it is dropped")] TurnedAway),
}

/// One of those over a limit that are let read their answer.
#[derive(Debug)]
pub(super) struct TurnedAway(Rc<Cell<usize>>);

impl Waiting {
    /// Takes a connection apart that waits for a head.
    #[inline]
    pub(super) fn of<S>(connection: Connection<S>) -> (S, Self) {
        let Connection { client, reading } = connection;
        let Reading { looked_at, deadline, since, begun, .. } = reading;
        let half_head = client.buffer.as_ref().filter(|buffer| !buffer.is_empty()).map(bytes_alone);
        let since = begun.or(since).unwrap_or(Instant::NEVER);
        let Client { stream, requests, seat, .. } = client;
        (stream, Self { half_head, looked_at, requests, deadline, since, seat })
    }

    /// The reverse of [`Waiting::of`]; `buffer` makes one of the half head.
    pub(super) fn join<S>(self, stream: S, now: Instant, buffer: impl FnOnce(&[u8]) -> Buffer) -> Connection<S> {
        let Self { half_head, looked_at, requests, deadline, since, seat } = self;
        let buffer = half_head.map(|bytes| buffer(&bytes));
        let client = Client { stream, buffer, whole_bytes: None, requests, pinned: None, seat };
        // Where it had nothing of a head, what brought it back is the first of it, as a rule.
        let begun = Some(if client.buffer.is_some() { since } else { now });
        let reading = Reading { looked_at, deadline, begun, ..Reading::new(now.since(since) < LINGER) };
        Connection { client, reading }
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

impl TurnedAway {
    pub(super) fn take(taken: &Rc<Cell<usize>>, turned_away_max: usize) -> Option<Self> {
        let fits = taken.get() < turned_away_max;
        fits.then(|| {
            taken.set(taken.get() + 1);
            Self(Rc::clone(taken))
        })
    }
}

impl Drop for TurnedAway {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
