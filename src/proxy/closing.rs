//! Closing so that the last answer arrives. The sending side is shut down, and what the client still sends is read for a
//! while: closed with bytes unread, a connection is reset, and the reset eats the answer (RFC 9112 §9.6). A connection that
//! only waits for its client's end needs no coroutine.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::Proxy;
use super::client::{Client, Parked, Stage};
use super::error::{self, Failure, Representation};
use super::respond;
use super::seats::Seat;
use crate::runtime::world::{Instant, Need, Stream, Wake, World};

/// How long a closing connection is read, at most, and when its client says nothing more. Many clients read no answer before
/// all is sent, however much that is: only time bounds it, and others get their turns meanwhile.
const PATIENCE: Patience = Patience { whole: Duration::from_secs(30), silence: Duration::from_secs(2) };
/// The same of one that was never served.
const PATIENCE_TURNED_AWAY: Patience = Patience { whole: Duration::from_secs(5), silence: Duration::from_millis(500) };
/// Bytes of it that are read at a time, before others get a turn.
const TURN_BYTES: usize = 256 * 1024;
/// Connections over a limit that a worker lets read their answer at the same time, at most, and as a part of those
/// within it.
const TURNED_AWAY_MAX: usize = 64;
const TURNED_AWAY_PARTS: usize = 16;

/// A connection that only has to be read to its end.
#[derive(Debug)]
pub(super) struct Closing {
    /// What it has not taken of the answer; only of one that was turned away.
    unsent: Option<Box<[u8]>>,
    until: Instant,
    place: Place,
}

struct Patience {
    whole: Duration,
    /// One that is silent so long has nothing on its way.
    silence: Duration,
}

/// What a closing connection counts against.
#[derive(Debug)]
enum Place {
    Served(#[expect(dead_code, reason = "held until it is dropped")] Seat),
    TurnedAway(#[expect(dead_code, reason = "held until it is dropped")] Ticket),
}

/// One of those that are let read their answer.
#[derive(Debug)]
struct Ticket(Rc<Cell<usize>>);

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Ends a client's connection behind its last answer.
    pub(super) fn close(&self, client: Client<W::Stream>) {
        let Client { stream, seat, .. } = client;
        self.begin_closing(stream, Place::Served(seat));
    }

    /// Answers a connection that is one too many; only some of these are given time to read the answer.
    pub(super) fn turn_away(&self, stream: W::Stream, failure: &Failure) {
        // Closed with its request unread, it would be reset, and hardly ever see the answer.
        let _ = stream.try_read(self.buffers.take().spare());
        let mut scratch = self.scratch();
        self.count(failure.view().reason);
        error::write_error_answer(
            &mut scratch.bytes,
            failure,
            Representation::Text,
            &self.date(),
            None,
            error::Fate::Closes,
            false,
        );
        let turned_away_max = self.shared.connections_max() / self.shared.config.workers / TURNED_AWAY_PARTS;
        let ticket = Ticket::take(&self.turned_away, turned_away_max.clamp(1, TURNED_AWAY_MAX));
        let Some(ticket) = ticket else {
            let _ = stream.try_write(&[io::IoSlice::new(&scratch.bytes)]);
            return;
        };
        let Ok(written) = respond::write_on(&stream, &scratch.bytes) else { return };
        let place = Place::TurnedAway(ticket);
        if written == scratch.bytes.len() {
            drop(scratch);
            return self.begin_closing(stream, place);
        }
        let until = self.world.now() + self.shared.config.timeouts.write;
        let closing = Closing { unsent: Some(scratch.bytes[written..].into()), until, place };
        self.world.park_for(Need::Write, stream, Parked(Stage::Closing(closing)), until);
    }

    fn begin_closing(&self, stream: W::Stream, place: Place) {
        stream.shutdown_write();
        let until = self.world.now() + place.patience().whole;
        self.go_on_closing(stream, Closing { unsent: None, until, place });
    }

    /// Goes on with a closing connection that was parked.
    pub(super) fn resume_closing(&self, stream: W::Stream, mut closing: Closing, wake: Wake) {
        if wake == Wake::Deadline {
            return;
        }
        let Some(unsent) = closing.unsent.take() else { return self.go_on_closing(stream, closing) };
        match respond::write_on(&stream, &unsent) {
            Ok(n) if n == unsent.len() => self.begin_closing(stream, closing.place),
            Ok(n) => {
                let (until, unsent) = (closing.until, Some(unsent[n..].into()));
                let closing = Closing { unsent, ..closing };
                self.world.park_for(Need::Write, stream, Parked(Stage::Closing(closing)), until);
            }
            Err(_) => {}
        }
    }

    /// Reads what is there, and parks until more comes. Where more is there than one turn is for, it comes back at once,
    /// behind all others.
    fn go_on_closing(&self, stream: W::Stream, closing: Closing) {
        let mut buffer = self.body_buffers.take();
        let mut read_bytes = 0;
        while read_bytes < TURN_BYTES {
            match stream.try_read(buffer.spare()) {
                Ok(0) => return,
                Ok(n) => read_bytes += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        let now = self.world.now();
        if now < closing.until {
            let until = closing.until.min(now + closing.place.patience().silence);
            self.world.park(stream, Parked(Stage::Closing(closing)), until);
        }
    }
}

impl Place {
    const fn patience(&self) -> &'static Patience {
        match self {
            Self::Served(_) => &PATIENCE,
            Self::TurnedAway(_) => &PATIENCE_TURNED_AWAY,
        }
    }
}

impl Ticket {
    fn take(taken: &Rc<Cell<usize>>, turned_away_max: usize) -> Option<Self> {
        let fits = taken.get() < turned_away_max;
        fits.then(|| {
            taken.set(taken.get() + 1);
            Self(Rc::clone(taken))
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
