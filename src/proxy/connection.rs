//! A client's connection from exchange to exchange: waiting for heads, and parking when none comes.

use std::io;
use std::time::Duration;

use super::bound::Bound;
use super::client::{Client, Deadline, LINGER, Parked, Waiting};
use super::error::Failure;
use super::exchange::{After, Directions, Turn};
use super::half_head::is_worth_a_look;
use super::patience::bytes_alone;
use super::{Proxy, Scratch};
use crate::http1::{self, Parsed, RequestError};
use crate::runtime::world::{Instant, Need, Stream, Wake, World};

/// What came instead of a head.
enum Pause {
    /// Nothing for a while, beginning then: the connection needs no coroutine.
    Park(Instant),
    /// The client is gone, or has nothing to say.
    Gone,
    /// The head can't be served.
    Refused(Failure),
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Serves a connection until it ends or parks.
    pub(super) fn serve(&self, client: Client<W::Stream>) {
        self.go_on(client, None);
    }

    /// The same, after what `turn` says of the exchange that it is in.
    pub(super) fn go_on(&self, mut client: Client<W::Stream>, mut turn: Option<Turn<W>>) {
        loop {
            let turn = match turn.take().map_or_else(|| self.next_turn(&mut client), Ok) {
                Ok(turn) => turn,
                Err(Pause::Park(since)) => {
                    if let Some(bound) = client.bound.take() {
                        return self.park_bound(client, bound, since);
                    }
                    let (deadline, half_head) = (client.deadline.instant(), client.awaits_rest_of_head());
                    let (stream, parked) = client.park(since);
                    return self.park(half_head, stream, parked, deadline);
                }
                Err(Pause::Gone) => return,
                Err(Pause::Refused(failure)) => self.refuse(&mut client, failure),
            };
            let after = match turn {
                Turn::Over(after) => after,
                Turn::Aside(aside) => return self.lay_aside(client, aside),
            };
            client.deadline = Deadline::Unset;
            match after {
                After::Next => {
                    #[cfg(not(feature = "sabotage-keep-worker"))] // Broken on purpose: ./x sabotage
                    self.world.take_turns(&client.stream);
                }
                After::Close if client.stream.is_quiet(false) => return,
                After::Close | After::Linger => return self.close(client),
                After::Cut => return client.stream.reset_on_close(),
            }
        }
    }

    /// Parks a connection that waits for a head, or for the rest of one.
    pub(super) fn park(&self, half_head: bool, stream: W::Stream, parked: Parked, deadline: Instant) {
        if half_head {
            self.world.park_for(Need::Read, stream, parked, deadline);
        } else {
            self.world.park(stream, parked, deadline);
        }
    }

    /// The next exchange.
    fn next_turn(&self, client: &mut Client<W::Stream>) -> Result<Turn<W>, Pause> {
        let (mut directions, scratch) = self.read_head(client)?;
        #[cfg(feature = "sabotage-spread-failure")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::ClosedBeforeHead) > 0 {
            directions.visit = Err(super::exchange::Halt::Failed(Failure::ClosedBeforeHead));
        }
        #[cfg(feature = "sabotage-spread-crowding")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::QueueTimeout) > 0 {
            directions.visit = Err(super::exchange::Halt::Failed(Failure::QueueFull));
        }
        #[cfg(feature = "sabotage-spread-absence")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::NoBackend) > 0 {
            directions.visit = Err(super::exchange::Halt::Failed(Failure::NoBackend));
        }
        #[cfg(feature = "sabotage-spread-delay")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::ClosedBeforeHead) > 0 {
            for _ in 0..25 {
                let until = self.world.now() + Duration::from_millis(200);
                while self.world.now() < until {
                    self.world.wait(&client.stream, None, until);
                }
                let _ = client.stream.try_write(&[]);
            }
        }
        Ok(Self::or_cut(client, directions.facts.id, |client| self.exchange(client, &mut directions, scratch)))
    }

    /// Goes on with a parked connection, unless it ended while it was parked.
    pub(super) fn unpark(&self, stream: W::Stream, waiting: Waiting, bound: Option<Bound>, wake: Wake) {
        let mut client = Client::unpark(stream, waiting, self.world.now(), || self.buffers.take());
        client.bound = bound;
        let half_head = client.buffer.is_some();
        match wake {
            Wake::Event => self.serve(client),
            // An idle connection ends without a word; half a head gets its answer when its time is over.
            Wake::Deadline if half_head => {
                let turn = self.refuse(&mut client, Failure::RequestHeadTimeout);
                self.go_on(client, Some(turn));
            }
            Wake::Recalled if half_head => self.serve(client),
            Wake::Deadline | Wake::Recalled => {}
        }
    }

    /// Reads until a head is whole, and works out what is to become of it.
    fn read_head(&self, client: &mut Client<W::Stream>) -> Result<(Directions<W>, Scratch), Pause> {
        let mut buffer = client.buffer.take().unwrap_or_else(|| self.buffers.take());
        // Whose head didn't come in one go gets no coroutine to wait for the rest with.
        let lingers = client.brisk && !client.awaits_rest_of_head();
        let linger = if lingers { LINGER } else { Duration::ZERO };
        let mut since = None;
        loop {
            let is_long = client.looked_at > 0 && (buffer.is_full() || buffer.len() >= self.limits.head_bytes);
            if !buffer.is_empty() && (is_long || is_worth_a_look(buffer.filled(), client.looked_at)) {
                let mut scratch = self.scratch();
                let parsed = http1::parse_request(buffer.filled(), &self.limits, |request| {
                    self.direct(client, request, &mut scratch.bytes, &[], None)
                });
                match parsed {
                    Ok(Parsed::Complete { head_bytes, value }) => {
                        client.buffer = Some(buffer);
                        client.looked_at = 0;
                        client.requests += 1;
                        return Ok((Directions { head_bytes, ..value }, scratch));
                    }
                    Ok(Parsed::Partial) => client.looked_at = buffer.len(),
                    Err(error) => {
                        client.buffer = Some(buffer);
                        return Err(Pause::Refused(Failure::BadRequest(error)));
                    }
                }
            }
            if buffer.is_full() {
                buffer.compact();
                if buffer.is_full() {
                    client.buffer = Some(buffer);
                    return Err(Pause::Refused(Failure::BadRequest(RequestError::HeadTooLarge)));
                }
            }
            if client.stream.is_readable() {
                match client.stream.try_read(buffer.spare()) {
                    Ok(0) => return Err(Pause::Gone),
                    Ok(n) => {
                        buffer.fill(n);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(Pause::Gone),
                }
            }
            if buffer.is_empty() && self.shared.is_draining() {
                return Err(Pause::Gone);
            }
            let now = self.world.now();
            self.set_deadline(client, !buffer.is_empty(), now);
            let since = *since.get_or_insert(now);
            let until = since + linger;
            if now >= until {
                client.buffer = Some(buffer);
                return Err(Pause::Park(since));
            }
            // Buffers serve others meanwhile.
            let half_head = Some(&buffer).filter(|buffer| !buffer.is_empty()).map(bytes_alone);
            drop(buffer);
            self.world.wait(&client.stream, None, until);
            buffer = half_head.map_or_else(|| self.buffers.take(), |bytes| self.buffer_with(&bytes));
        }
    }

    /// Starts the clock that now applies, unless it runs already: bytes that trickle in don't set it back.
    fn set_deadline(&self, client: &mut Client<W::Stream>, has_bytes: bool, now: Instant) {
        let timeouts = &self.shared.config.timeouts;
        let fresh = client.requests == 0;
        client.deadline = match client.deadline {
            // A connection's first head is timed from its beginning.
            Deadline::Unset if has_bytes || fresh => {
                let at = now + timeouts.head;
                if has_bytes { Deadline::Head(at) } else { Deadline::Idle(at) }
            }
            Deadline::Unset => Deadline::Idle(now + timeouts.keep_alive),
            Deadline::Idle(at) if has_bytes && fresh => Deadline::Head(at),
            Deadline::Idle(_) if has_bytes => Deadline::Head(now + timeouts.head),
            running => running,
        };
    }
}
