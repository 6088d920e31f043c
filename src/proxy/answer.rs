//! The head of a backend's answer: reading it, passing interim ones on, and starting its body on its way.

use std::io;
use std::time::Duration;

use super::course::Body;
use super::error::Failure;
use super::forward::{self, ResponseForwarding};
use super::parked::Parked;
use super::pump::{Pump, PumpError};
use super::respond::write_on;
use super::state::{Answer, Exchange, Transfer};
use super::sticky::SessionCookie;
use crate::http1::{self, Framing, Parsed, Response, Version, is_offered};
use crate::runtime::buffer::Buffer;
use crate::runtime::handshake::HandshakeFault;
use crate::runtime::world::{Instant, Stream, World};

/// So long before its backend closes an idle connection it gets no more requests.
const KEPT_MARGIN: Duration = Duration::from_secs(1);

/// What is to be known of a head once it is rewritten.
#[expect(clippy::struct_excessive_bools, reason = "what a head says is a list of independent facts")]
struct Head {
    status: u16,
    framing: Framing,
    keep_alive: bool,
    to_client: Framing,
    close: bool,
    kept_seconds: Option<u32>,
    binds: bool,
    /// It is a 101 to what the request offers.
    switches: bool,
    upload_goes_on: bool,
}

/// What an error says of a backend that hasn't answered.
#[cold]
fn ended_by(error: &io::Error) -> Failure {
    HandshakeFault::of(error).map_or(Failure::ClosedBeforeHead, Failure::from)
}

impl<W: World<Parked = Parked>> Transfer<'_, '_, W> {
    /// Reads the answer's head and sends it on, with what came of its body. None when it isn't there yet.
    pub(super) fn read_answer(&mut self, buffer: &mut Buffer) -> Result<Option<Answer>, Failure> {
        loop {
            // More than one head may have come: after an interim one that its client was slow to take, the rest is here.
            while let Some((head, head_bytes)) = self.parse_answer(buffer)? {
                buffer.consume(head_bytes);
                self.course.pinned |= head.binds;
                match head.status {
                    101 if head.switches => return Ok(Some(Answer::Tunnel)),
                    101 => return Err(Failure::UnaskedSwitch),
                    100..=199 if self.pass_interim_on()? => {}
                    100..=199 => return Ok(None),
                    // Nothing of it is sent on, so the request may be sent again as after an end without a word.
                    408 if self.was_given_up(&head) => return Err(Failure::ClosedBeforeHead),
                    status => {
                        let answered = self.exchange.proxy.world.now();
                        if self.passes_over(status, answered) {
                            return Ok(Some(Answer::PassedOver(status)));
                        }
                        return self.begin_body(&head, answered, buffer);
                    }
                }
            }
            if buffer.is_full() {
                buffer.compact();
            }
            if buffer.is_full() {
                return Err(Failure::BadResponse(http1::ResponseError::HeadTooLarge));
            }
            if !self.course.lease.stream.is_readable() {
                return Ok(None);
            }
            match self.course.lease.stream.try_read(buffer.spare()) {
                Ok(0) => return Err(Failure::ClosedBeforeHead),
                Ok(n) => buffer.fill(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(ended_by(&error)),
            }
        }
    }

    /// Whether a 408 says that the backend gave its connection up, which had waited for a request for too long, just as this
    /// one came (RFC 9110 §15.5.9), and the request may be sent again over another one.
    fn was_given_up(&self, head: &Head) -> bool {
        self.course.lease.reused
            && !head.keep_alive
            && self.exchange.facts.rules().retries.on_reset
            && self.exchange.facts.method.is_idempotent()
            && self.exchange.client.whole_bytes.is_some()
            && self.course.interim == 0
            && (1..self.exchange.tries_max()).contains(&self.exchange.stand.record.count())
    }

    /// Whether to ask another backend instead of passing an answer of this status on, which came at `at`; takes the retry
    /// out of the budget.
    fn passes_over(&self, status: u16, at: Instant) -> bool {
        let (route, tried) = (self.exchange.facts.route(), self.exchange.stand.record.tried());
        let distrusted = self.exchange.proxy.note_answer(route, &self.course.visit, status, at, &self.course.holdup);
        (distrusted || route.rules.retries.is_on(status))
            && self.exchange.facts.method.is_idempotent()
            && self.exchange.client.whole_bytes.is_some()
            && self.course.interim == 0
            && !self.course.pinned
            && (1..self.exchange.tries_max()).contains(&tried.len())
            && route.pool.snapshot.load().offers_other_than(tried)
            && self.exchange.withdraw_retry()
    }

    /// Parses a head at the buffer's front and rewrites it.
    fn parse_answer(&mut self, buffer: &Buffer) -> Result<Option<(Head, usize)>, Failure> {
        if buffer.is_empty() {
            return Ok(None);
        }
        let limits = self.exchange.facts.bound.connections.head_limits;
        let parsed = http1::parse_response(buffer.filled(), self.exchange.facts.method, &limits, |response| {
            if let Some(names) = response.hop_trailers() {
                self.course.hop_trailers = Some(names);
            }
            self.rewrite_answer(response)
        });
        match parsed {
            Ok(Parsed::Complete { head_bytes, value }) => Ok(Some((value, head_bytes))),
            Ok(Parsed::Partial) => Ok(None),
            Err(error) => Err(Failure::BadResponse(error)),
        }
    }

    fn rewrite_answer(&mut self, response: &Response<'_, '_>) -> Head {
        let (exchange, course) = (&mut *self.exchange, &*self.course);
        let facts = &exchange.facts;
        let (to_client, must_close) = forward::client_framing(response, facts.version);
        // RFC 9110 §10.1.1: a backend that doesn't close reads the rest of the request.
        let upload_goes_on = response.keep_alive && course.upload_can_go_on(facts.expects_continue);
        // Where the rest of the request isn't read, it isn't known where the next one would begin.
        let cut_short = !course.is_sent() && !upload_goes_on;
        let close = must_close || cut_short || !facts.keep_alive || exchange.is_last();
        let offers = facts.offers.as_deref().zip(response.upgrade);
        let switches = response.status == 101 && offers.is_some_and(|(offered, taken)| is_offered(taken, offered));
        let date = if response.has_date { [0; 29] } else { exchange.proxy.date() };
        let how = ResponseForwarding {
            client_version: facts.version,
            framing: to_client,
            close,
            date: &date,
            upgrade: switches,
            allowance: facts.allowance(),
            session: SessionCookie::of(facts.cookie, facts.route(), course.backend(), &exchange.proxy.world),
            hsts: facts.hsts(&exchange.client.stream),
        };
        exchange.head.bytes.clear();
        forward::write_response_head(&mut exchange.head.bytes, response, &how);
        Head {
            status: response.status,
            framing: response.framing,
            keep_alive: response.keep_alive,
            to_client,
            close,
            kept_seconds: response.kept_seconds,
            binds: response.binds_connection,
            switches,
            upload_goes_on,
        }
    }

    /// False when its client takes no more: the rest goes before all that follows.
    fn pass_interim_on(&mut self) -> Result<bool, Failure> {
        self.course.interim += 1;
        if self.course.interim > http1::INTERIM_MAX {
            return Err(Failure::BadResponse(http1::TOO_MANY_INTERIM));
        }
        if self.exchange.facts.expects_continue && self.course.continued_at.is_none() {
            self.course.continued_at = Some(self.exchange.proxy.world.now());
        }
        // RFC 9110 §15.2: never to an HTTP/1.0 client.
        if self.exchange.facts.version == Version::Http10 {
            return Ok(true);
        }
        let head = &self.exchange.head.bytes;
        let written = write_on(&self.exchange.client.stream, head).map_err(|_| Failure::ClientGone)?;
        self.exchange.stand.record.down_bytes += written as u64;
        if written < head.len() {
            self.course.unsent = head[written..].to_vec();
            self.course.down.begin_anew(self.exchange.proxy.world.now());
            return Ok(false);
        }
        self.exchange.proxy.world.take_turns(&self.exchange.client.stream);
        Ok(true)
    }

    /// Writes what is left of an interim answer, as much as the client takes now. Meanwhile nothing is asked of the backend, so
    /// that its time doesn't run.
    #[inline]
    pub(super) fn send_interim_on(&mut self) -> Result<(), Failure> {
        if self.course.unsent.is_empty() { Ok(()) } else { self.send_interim_rest() }
    }

    #[cold]
    fn send_interim_rest(&mut self) -> Result<(), Failure> {
        let written = write_on(&self.exchange.client.stream, &self.course.unsent).map_err(|_| Failure::ClientGone)?;
        if written > 0 {
            self.course.unsent.drain(..written);
            self.exchange.stand.record.down_bytes += written as u64;
            let now = self.exchange.proxy.world.now();
            let waited = now.since(self.course.down.since());
            let head_deadline = &mut self.exchange.stand.head_deadline;
            *head_deadline = head_deadline.map(|at| at + waited);
            self.course.down.begin_anew(now);
        }
        Ok(())
    }

    /// Sends a 101's head on, with what came of the tunnel. False when its client takes nothing any more.
    pub(super) fn begin_tunnel(&mut self, answered: Instant, buffer: &mut Buffer) -> bool {
        let body = self.course.begin_body(Body {
            pump: Pump::new(Framing::UntilClose, false, 0, 0),
            last: true,
            reusable: false,
            kept_until: answered,
            framed: false,
            status: 101,
            answered,
            took: None,
            upload_goes_on: false,
            is_through: false,
        });
        let Exchange { client, head, stand, .. } = &mut *self.exchange;
        let begins = body.pump.begin(&mut head.bytes, buffer, &client.stream).is_ok();
        if begins {
            stand.record.has_answer(101, answered);
        }
        begins
    }

    fn begin_body(&mut self, head: &Head, answered: Instant, buffer: &mut Buffer) -> Result<Option<Answer>, Failure> {
        // From when its head came: its backend may have counted since then. A second before, a request could meet the close.
        let kept_until = head
            .kept_seconds
            .map_or(Instant::NEVER, |kept| answered + Duration::from_secs(u64::from(kept)).saturating_sub(KEPT_MARGIN));
        let chunks = head.to_client == Framing::Chunked;
        let trailer_bytes_max = self.exchange.facts.bound.connections.head_limits.head_bytes;
        let took = self.course.took(answered);
        let hop_trailers = self.course.hop_trailers.take();
        let body = self.course.begin_body(Body {
            pump: Pump::new(head.framing, chunks, 0, trailer_bytes_max).of_backend(),
            last: head.close,
            reusable: head.keep_alive && head.framing != Framing::UntilClose && kept_until > answered,
            kept_until,
            framed: head.to_client != Framing::UntilClose,
            status: head.status,
            answered,
            took,
            upload_goes_on: head.upload_goes_on,
            is_through: false,
        });
        if let Some(names) = &hop_trailers {
            body.pump.withhold(None, Some(names));
        }
        let Err(error) = body.pump.begin(&mut self.exchange.head.bytes, buffer, &self.exchange.client.stream) else {
            self.exchange.stand.record.has_answer(head.status, answered);
            return Ok(Some(Answer::Body));
        };
        // Nothing of it has gone to the client.
        self.course.has_no_answer();
        Err(match error {
            PumpError::Write => Failure::ClientGone,
            PumpError::Chunk(error) => Failure::BadResponseChunk(error),
            _ => Failure::BodyCut,
        })
    }
}
