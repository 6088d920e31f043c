//! A client's connection that a coroutine has: what an exchange sees of it, and what HTTP/1 makes of it between two.

use std::time::Duration;

use super::pinned::Pinned;
use crate::http1::{self, Framing, HeadLimits, Parsed, Request};
use crate::policy::Seat;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::Instant;

/// How long a connection keeps its coroutine when nothing comes: the next request often follows at once. One whose last
/// request took longer to come gives it up at once.
pub(super) const LINGER: Duration = Duration::from_millis(10);

/// What an exchange sees of its client.
pub(super) struct Client<S> {
    pub(super) stream: S,
    /// Bytes read and not used up; none is held while the connection is idle.
    pub(super) buffer: Option<Buffer>,
    /// The current request's bytes at the buffer's front, while all of it is there: head and whole body.
    pub(super) whole_bytes: Option<usize>,
    /// Requests begun on this connection.
    pub(super) requests: u64,
    /// A backend's connection that is this one's alone, while it isn't in an exchange.
    pub(super) pinned: Option<Pinned>,
    pub(super) seat: Seat,
}

/// A connection of HTTP/1.
pub(super) struct Connection<S> {
    pub(super) client: Client<S>,
    pub(super) reading: Reading,
}

/// How far the next head has come.
pub(super) struct Reading {
    /// Bytes of an incomplete head that were there when it was parsed last.
    pub(super) looked_at: usize,
    /// When the head must be whole, or (before its first byte) when the idle connection ends.
    pub(super) deadline: Deadline,
    /// Requests follow each other closely: the connection is worth a coroutine to wait with.
    pub(super) brisk: bool,
    /// When it began to wait for bytes, once it has.
    pub(super) since: Option<Instant>,
    /// The first moment known since the head's first byte, if it didn't come whole.
    pub(super) begun: Option<Instant>,
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

impl<S> Client<S> {
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

    /// Parses the request at the buffer's front again.
    pub(super) fn look_again<R>(&self, limits: &HeadLimits, look: impl FnOnce(&Request<'_, '_>) -> R) -> Option<R> {
        let bytes = self.buffer.as_ref().map_or(&[][..], |buffer| buffer.filled());
        match http1::parse_request(bytes, limits, look) {
            Ok(Parsed::Complete { value, .. }) => Some(value),
            _ => None,
        }
    }

    /// Takes the request off the buffer's front, if all of it is there.
    pub(super) fn consume_whole(&mut self) -> bool {
        let whole_bytes = self.whole_bytes.take();
        if let (Some(whole_bytes), Some(buffer)) = (whole_bytes, self.buffer.as_mut()) {
            buffer.consume(whole_bytes);
        }
        whole_bytes.is_some()
    }
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, seat: Seat) -> Self {
        let client = Client { stream, buffer: None, whole_bytes: None, requests: 0, pinned: None, seat };
        Self { client, reading: Reading::new(true) }
    }

    /// The stream, and what is known of the connection without it.
    pub(super) fn part(self) -> (S, Connection<()>) {
        let Client { stream, buffer, whole_bytes, requests, pinned, seat } = self.client;
        let client = Client { stream: (), buffer, whole_bytes, requests, pinned, seat };
        (stream, Connection { client, reading: self.reading })
    }
}

impl Connection<()> {
    /// The reverse of [`Connection::part`].
    pub(super) fn join<S>(self, stream: S) -> Connection<S> {
        let Client { stream: (), buffer, whole_bytes, requests, pinned, seat } = self.client;
        let client = Client { stream, buffer, whole_bytes, requests, pinned, seat };
        Connection { client, reading: self.reading }
    }
}

impl Reading {
    /// Nothing has come of it.
    pub(super) fn new(brisk: bool) -> Self {
        Self { looked_at: 0, deadline: Deadline::Unset, brisk, since: None, begun: None }
    }

    /// Bytes are waited for now, the head's first or, where it `has_bytes`, others.
    pub(super) fn has_waited_since(&mut self, now: Instant, has_bytes: bool) {
        self.since.get_or_insert(now);
        self.begun = if has_bytes { self.begun.or(Some(now)) } else { None };
    }

    /// The head's first bytes are there.
    pub(super) fn awaits_rest(&self) -> bool {
        matches!(self.deadline, Deadline::Head(_))
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

/// The bytes in memory of just their size.
pub(super) fn bytes_alone(buffer: &Buffer) -> Box<[u8]> {
    buffer.filled().into()
}
