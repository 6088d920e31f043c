//! A client's connection from exchange to exchange: waiting for heads, parking when none comes, and what becomes of it when
//! an exchange has ended.

use std::any::Any;
use std::io;
use std::time::Duration;

use super::client::{Client, Connection, Deadline, LINGER, Reading, bytes_alone};
use super::error::Failure;
use super::half_head::is_worth_a_look;
use super::parked::{Answering, Parked, PinnedWaiting, Stage, Waiting};
use super::pinned::Pinned;
use super::state::{Aside, Ended, Exchange};
use super::worker::Proxy;
use crate::http1::RequestError;
use crate::plan::ConnectionRules;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, Stream, Wake, World};

/// What came instead of a head.
enum Pause {
    /// Nothing for a while: the connection needs no coroutine.
    Park,
    /// The client is gone, or has nothing to say.
    Gone,
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Serves a connection until it ends or parks.
    pub(super) fn serve(&self, connection: Connection<W::Stream>) {
        self.go_on(connection, None);
    }

    /// The same, after what the exchange has come to that it is in.
    fn go_on(&self, mut connection: Connection<W::Stream>, mut ended: Option<Ended<W>>) {
        loop {
            let ended = match ended.take().map_or_else(|| self.next_exchange(&mut connection), Ok) {
                Ok(ended) => ended,
                Err(Pause::Park) => return self.park(connection),
                Err(Pause::Gone) => return,
            };
            let stream = &connection.client.stream;
            match ended {
                Ended::Answered { last: false, .. } => {
                    connection.reading = Reading::new(connection.reading.brisk);
                    #[cfg(not(feature = "sabotage-keep-worker"))] // Broken on purpose: ./x sabotage
                    self.world.take_turns(stream);
                }
                Ended::Answered { last: true, unread: false } | Ended::BrokenOff { shown: true }
                    if stream.is_quiet(false) && stream.ends_at_once() =>
                {
                    return;
                }
                Ended::Answered { .. } | Ended::BrokenOff { shown: true } => return self.close(connection),
                Ended::BrokenOff { shown: false } | Ended::Refused { .. } => return stream.reset_on_close(),
                Ended::Unsent(unsent) => return self.park_answering(connection, *unsent),
                Ended::Aside(aside) => return self.park_aside(connection, aside),
            }
        }
    }

    /// Reads until a head is whole, and runs its exchange.
    fn next_exchange(&self, connection: &mut Connection<W::Stream>) -> Result<Ended<W>, Pause> {
        let Connection { client, reading } = connection;
        let mut bound = self.bound();
        let mut buffer = client.buffer.take().unwrap_or_else(|| bound.buffers.take());
        // Whose head didn't come in one go gets no coroutine to wait for the rest with.
        let lingers = reading.brisk && !reading.awaits_rest();
        let linger = if lingers { LINGER } else { Duration::ZERO };
        loop {
            let head_bytes_max = bound.connections.head_limits.head_bytes;
            let is_long = reading.looked_at > 0 && (buffer.is_full() || buffer.len() >= head_bytes_max);
            if !buffer.is_empty() && (is_long || is_worth_a_look(buffer.filled(), reading.looked_at)) {
                let mut exchange = Exchange::new(self, client, bound, reading.begun);
                match exchange.open(buffer.filled()) {
                    Ok(true) => {
                        exchange.has_head(buffer);
                        self.spread(&mut exchange);
                        return Ok(exchange.run());
                    }
                    Ok(false) => bound = exchange.facts.bound,
                    Err(error) => {
                        exchange.client.buffer = Some(buffer);
                        exchange.refuse(Failure::BadRequest(error));
                        return Ok(exchange.run());
                    }
                }
                reading.looked_at = buffer.len();
            }
            if buffer.is_full() {
                buffer.compact();
            }
            if buffer.is_full() {
                self.renew(&mut bound);
                if buffer.capacity() >= bound.buffers.buffer_bytes() {
                    client.buffer = Some(buffer);
                    return Ok(self.refuse(client, reading, Failure::BadRequest(RequestError::HeadTooLarge)));
                }
                // It was taken under another plan, which allowed no such head.
                buffer = self.buffer_with(&bound, buffer.filled());
            }
            if read(&client.stream, &mut buffer)? {
                continue;
            }
            if buffer.is_empty() && self.shared.is_draining() {
                return Err(Pause::Gone);
            }
            let now = self.world.now();
            reading.has_waited_since(now, !buffer.is_empty());
            set_deadline(reading, client.requests == 0, &bound.connections, !buffer.is_empty(), now);
            let until = reading.since.map_or(now, |since| since + linger);
            if now >= until {
                client.buffer = Some(buffer);
                return Err(Pause::Park);
            }
            // Buffers serve others meanwhile.
            let half_head = Some(&buffer).filter(|buffer| !buffer.is_empty()).map(bytes_alone);
            drop(buffer);
            self.world.wait(&client.stream, None, until);
            self.renew(&mut bound);
            buffer = half_head.map_or_else(|| bound.buffers.take(), |bytes| self.buffer_with(&bound, &bytes));
        }
    }

    /// Answers a request whose head could not be used, or did not come in time.
    #[cold]
    fn refuse(&self, client: &mut Client<W::Stream>, reading: &Reading, failure: Failure) -> Ended<W> {
        let mut exchange = Exchange::new(self, client, self.bound(), reading.begun);
        exchange.refuse(failure);
        exchange.run()
    }

    /// Parks a connection that waits for a head, or for the rest of one.
    fn park(&self, mut connection: Connection<W::Stream>) {
        if let Some(pinned) = connection.client.pinned.take() {
            return self.park_pinned(connection, pinned);
        }
        let (half_head, deadline) = (connection.reading.awaits_rest(), connection.reading.deadline.instant());
        let (stream, waiting) = Waiting::of(connection);
        self.park_waiting(half_head, stream, Stage::Waiting(waiting), deadline);
    }

    fn park_waiting(&self, half_head: bool, stream: W::Stream, stage: Stage, deadline: Instant) {
        if half_head {
            self.world.park_for(Need::Read, stream, Parked(stage), deadline);
        } else {
            self.world.park(stream, Parked(stage), deadline);
        }
    }

    /// Goes on with a parked connection, unless it ended while it was parked.
    pub(super) fn unpark(&self, stream: W::Stream, waiting: Waiting, pinned: Option<Pinned>, wake: Wake) {
        let mut connection = waiting.join(stream, self.world.now(), |bytes| self.buffer_with(&self.bound(), bytes));
        let Connection { client, reading } = &mut connection;
        client.pinned = pinned;
        let half_head = client.buffer.is_some();
        match wake {
            Wake::Event => self.serve(connection),
            // An idle connection ends without a word; half a head gets its answer when its time is over.
            Wake::Deadline if half_head => {
                let ended = self.refuse(client, reading, Failure::RequestHeadTimeout);
                self.go_on(connection, Some(ended));
            }
            Wake::Recalled if half_head => self.serve(connection),
            Wake::Deadline | Wake::Recalled => {}
        }
    }

    /// Parks a client's connection with the one that belongs to it, whose end brings it back.
    #[cold]
    fn park_pinned(&self, connection: Connection<W::Stream>, pinned: Pinned) {
        let (half_head, deadline) = (connection.reading.awaits_rest(), connection.reading.deadline.instant());
        let watched = loop {
            if !pinned.is_usable::<W>() {
                break None;
            }
            let stream = pinned.stream::<W>();
            if stream.is_none_or(|stream| self.world.tie(&connection.client.stream, stream)) {
                break Some(self.pinned.keep(pinned));
            }
        };
        let (stream, waiting) = Waiting::of(connection);
        let stage = match watched {
            Some(pinned) => Stage::Pinned(Box::new(PinnedWaiting { waiting, pinned, deadline })),
            None => Stage::Waiting(waiting),
        };
        self.park_waiting(half_head, stream, stage, deadline);
    }

    /// Takes them up again.
    #[cold]
    pub(super) fn unpark_pinned(&self, stream: W::Stream, parked: PinnedWaiting, wake: Wake) {
        let PinnedWaiting { waiting, pinned, deadline } = parked;
        // Where the kernel can't watch the backend's, it is looked at now and then.
        let early = wake == Wake::Deadline && self.world.now() < deadline;
        let wake = if early { Wake::Event } else { wake };
        self.unpark(stream, waiting, pinned.take().filter(Pinned::is_usable::<W>), wake);
    }

    /// Parks a connection in the middle of an exchange.
    fn park_aside(&self, connection: Connection<W::Stream>, mut aside: Box<Aside<W>>) {
        let (stream, connection) = connection.part();
        let (need, deadline) = (aside.need, aside.deadline);
        aside.connection = Some(connection);
        self.world.park_for(need, stream, Parked(Stage::Aside(aside)), deadline);
    }

    /// Goes on with what was laid aside.
    pub(super) fn take_up(&self, stream: W::Stream, aside: Box<dyn Any>) {
        // It is this world's: the proxy that laid it aside takes it up.
        let Ok(mut aside) = aside.downcast::<Aside<W>>() else { return };
        let Some(connection) = aside.connection.take() else { return };
        let mut connection = connection.join(stream);
        let ended = Exchange::taken_up(self, &mut connection.client, *aside).run();
        self.go_on(connection, Some(ended));
    }

    /// A client that doesn't read an answer of the proxy's own is waited for without a coroutine.
    #[cold]
    fn park_answering(&self, connection: Connection<W::Stream>, unsent: super::parked::Unsent) {
        let deadline = unsent.stillness.until(unsent.timeout);
        let (stream, mut connection) = connection.part();
        connection.client.buffer.take_if(|buffer| buffer.is_empty());
        let stage = Stage::Answering(Box::new(Answering { connection, unsent }));
        self.world.park_for(Need::Write, stream, Parked(stage), deadline);
    }

    /// Goes on with such an answer.
    #[cold]
    pub(super) fn go_on_answering(&self, stream: W::Stream, answering: Answering) {
        let Answering { connection, unsent } = answering;
        let mut connection = connection.join(stream);
        let ended = self.send_rest(&mut connection.client, unsent);
        self.go_on(connection, Some(ended));
    }
}

/// Reads what is there, if anything is.
#[inline]
fn read<S: Stream>(stream: &S, buffer: &mut Buffer) -> Result<bool, Pause> {
    if !stream.is_readable() {
        return Ok(false);
    }
    match stream.try_read(buffer.spare()) {
        Ok(0) => Err(Pause::Gone),
        Ok(n) => {
            buffer.fill(n);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(_) => Err(Pause::Gone),
    }
}

/// Starts the clock that now applies, unless it runs already: bytes that trickle in don't set it back.
fn set_deadline(reading: &mut Reading, fresh: bool, rules: &ConnectionRules, has_bytes: bool, now: Instant) {
    reading.deadline = match reading.deadline {
        // A connection's first head is timed from its beginning.
        Deadline::Unset if has_bytes || fresh => {
            let at = now + rules.head_timeout;
            if has_bytes { Deadline::Head(at) } else { Deadline::Idle(at) }
        }
        Deadline::Unset => Deadline::Idle(now + rules.keep_alive),
        Deadline::Idle(at) if has_bytes && fresh => Deadline::Head(at),
        Deadline::Idle(_) if has_bytes => Deadline::Head(now + rules.head_timeout),
        running => running,
    };
}
