//! Closing so that the last answer arrives. The sending side is shut down, and what the client still sends is read for a
//! while: closed with bytes unread, a connection is reset, and the reset eats the answer (RFC 9112 §9.6). A connection that
//! only waits for its client's end needs no coroutine.

use std::io;
use std::time::Duration;

use super::client::{Client, Connection};
use super::error::Failure;
use super::error_answer::{Fate, OwnAnswer, Representation};
use super::parked::{Closing, CountedAs, Parked, Stage, TurnedAway};
use super::respond;
use super::worker::Proxy;
use crate::runtime::world::{Need, Stream, Wake, World};

/// How long a closing connection is read, at most, and when its client says nothing more. Many clients read no answer before
/// all is sent, however much that is: only time bounds it, and others get their turns meanwhile.
const LINGER: LingerTimes = LingerTimes { whole: Duration::from_secs(30), silence: Duration::from_secs(2) };
/// The same of one that was never served.
const LINGER_TURNED_AWAY: LingerTimes =
    LingerTimes { whole: Duration::from_secs(5), silence: Duration::from_millis(500) };
/// Bytes of it that are read at a time, before others get a turn.
const TURN_BYTES: usize = 256 * 1024;

struct LingerTimes {
    whole: Duration,
    /// One that is silent so long has nothing on its way.
    silence: Duration,
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Ends a client's connection behind its last answer.
    pub(super) fn close(&self, connection: Connection<W::Stream>) {
        let Client { stream, seat, .. } = connection.client;
        self.begin_closing(stream, CountedAs::Served(seat));
    }

    /// Answers a connection that is one too many; only some of these are given time to read the answer.
    pub(super) fn turn_away(&self, stream: W::Stream, failure: &Failure) {
        // Closed with its request unread, it would be reset, and hardly ever see the answer.
        let bound = self.bound();
        let _ = stream.try_read(bound.buffers.take().spare());
        let mut scratch = self.scratch();
        self.count(failure.view().reason);
        let answer = OwnAnswer {
            failure: *failure,
            representation: Representation::Text,
            date: &self.date(),
            allowance: None,
            hsts: None,
            fate: Fate::Closes,
            head_only: false,
        };
        answer.write(&mut scratch.bytes);
        let Some(ticket) = TurnedAway::take(&self.turned_away, bound.connections.turned_away_max) else {
            let _ = stream.try_write(&[io::IoSlice::new(&scratch.bytes)]);
            return;
        };
        let Ok(written) = respond::write_on(&stream, &scratch.bytes) else { return };
        let counted_as = CountedAs::TurnedAway(ticket);
        if written == scratch.bytes.len() {
            drop(scratch);
            return self.begin_closing(stream, counted_as);
        }
        let until = self.world.now() + bound.connections.write_timeout;
        let closing = Closing { unsent: Some(scratch.bytes[written..].into()), until, counted_as };
        self.world.park_for(Need::Write, stream, Parked(Stage::Closing(closing)), until);
    }

    fn begin_closing(&self, stream: W::Stream, counted_as: CountedAs) {
        stream.shutdown_write();
        let until = self.world.now() + linger_times(&counted_as).whole;
        self.go_on_closing(stream, Closing { unsent: None, until, counted_as });
    }

    /// Goes on with a closing connection that was parked.
    pub(super) fn resume_closing(&self, stream: W::Stream, mut closing: Closing, wake: Wake) {
        if wake == Wake::Deadline {
            return;
        }
        let Some(unsent) = closing.unsent.take() else { return self.go_on_closing(stream, closing) };
        match respond::write_on(&stream, &unsent) {
            Ok(n) if n == unsent.len() => self.begin_closing(stream, closing.counted_as),
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
                // It has said its last, and not taken ours yet.
                Ok(0) if !stream.ends_at_once() => {
                    let until = closing.until;
                    return self.world.park_for(Need::Write, stream, Parked(Stage::Closing(closing)), until);
                }
                Ok(0) => return,
                Ok(n) => read_bytes += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        let now = self.world.now();
        if now < closing.until {
            let until = closing.until.min(now + linger_times(&closing.counted_as).silence);
            self.world.park(stream, Parked(Stage::Closing(closing)), until);
        }
    }
}

const fn linger_times(counted_as: &CountedAs) -> &'static LingerTimes {
    match counted_as {
        CountedAs::Served(_) => &LINGER,
        CountedAs::TurnedAway(_) => &LINGER_TURNED_AWAY,
    }
}
