//! The middle of an exchange: the rest of the request goes out while the answer comes back.
//!
//! ```text
//! upload    Streaming ─→ Done          the request's body, client to backend
//!              └───────→ Broken        the backend takes no more: an answer may be there all the same
//! download  Head ─→ Body ─→ done       1xx answers come before the head; behind a 101 a tunnel begins
//!                     └───→ through    the answer is sent on, and its backend goes on to read
//! ```
//!
//! One loop steps both and waits when neither can go on. What it waits for has a deadline each; progress sets only
//! its own direction's back.
//!
//! The side that is through first leaves the other as it is: behind a 101 the client's body is finished before its bytes
//! are the tunnel's, and an answer that comes early doesn't end an upload that its backend goes on to read.

use super::course::{Course, Download, Upload};
use super::error::Failure;
use super::outcome::Reached;
use super::parked::Parked;
use super::pump::{PumpError, Step, upload_failure};
use super::record::{End, Missed};
use super::state::{Again, Answer, Ended, Exchange, Stop, Transfer};
use super::wait::{Expiry, Wants};
use crate::balance::Outcome;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, PeerState, Stream, Wake, Watch, World};

impl<W: World<Parked = Parked>> Exchange<'_, W> {
    /// Moves what is left of the request out and its answer in, and waits long for the client from `slow_at` on.
    #[inline]
    pub(super) fn transfer(&mut self, course: &mut Course<W>, slow_at: Instant) -> Result<Stop<W>, Again> {
        let mut transfer = Transfer { exchange: self, course, slow_at, lingered_at: u64::MAX };
        let stop = transfer.run();
        if !matches!(stop, Ok(Stop::Aside(..))) {
            transfer.note_end(matches!(stop, Ok(Stop::Tunnel)));
        }
        stop
    }
}

impl<W: World<Parked = Parked>> Transfer<'_, '_, W> {
    /// Runs both directions to their end, or until they need no coroutine for a while.
    fn run(&mut self) -> Result<Stop<W>, Again> {
        let world = &self.exchange.proxy.world;
        loop {
            self.course.holdup.wait_ends(&self.course.up, &self.course.down, || world.now());
            let mut wants = Wants::default();
            let mut buffer = self.course.held.take().unwrap_or_else(|| self.exchange.facts.bound.buffers.take());
            let interim = self.course.interim;
            if let Err(failure) = self.step_upload(&mut wants).and_then(|()| self.send_interim_on()) {
                return self.break_off(failure);
            }
            let switched = self.course.is_switched();
            if switched && self.course.is_sent() {
                self.course.held = Some(buffer);
                return Ok(Stop::Tunnel);
            }
            let is_over = if self.course.has_begun() {
                match self.step_body(&mut buffer, &mut wants) {
                    Ok(is_over) => is_over,
                    Err(_) if switched => return Ok(Stop::Over(Ended::CUT)),
                    Err(PumpError::Write) => return self.break_off(Failure::ClientGone),
                    Err(PumpError::Chunk(error)) => return self.break_off(Failure::BadResponseChunk(error)),
                    Err(_) => return self.break_off(Failure::BodyCut),
                }
            } else {
                let has_begun = match self.step_head(&mut buffer, &mut wants) {
                    Ok(has_begun) => has_begun,
                    Err(stop) => return stop,
                };
                // A 100 changes what the upload waits for.
                if has_begun || self.course.interim > interim {
                    self.course.held = Some(buffer);
                    continue;
                }
                false
            };
            if is_over {
                return Ok(Stop::Over(self.finish(&buffer)));
            }
            self.course.held = Some(buffer);
            if wants.yields {
                world.take_turns(&self.course.lease.stream);
                continue;
            }
            match self.wait(&wants) {
                Ok(None) => {}
                Ok(Some(expiry)) => {
                    if let Some(failure) = self.expired(expiry) {
                        return self.break_off(failure);
                    }
                }
                Err((need, deadline)) => return Ok(Stop::Aside(need, deadline)),
            }
        }
    }

    /// Sends on what there is of the request.
    #[inline]
    fn step_upload(&mut self, wants: &mut Wants) -> Result<(), Failure> {
        let Upload::Streaming(pump) = &mut self.course.upload else { return Ok(()) };
        let world = &self.exchange.proxy.world;
        if let Some(pace) = &mut self.course.pace {
            pace.pause(world.now());
        }
        let from = self.exchange.client.buffer.get_or_insert_with(|| self.exchange.facts.bound.buffers.take());
        let timeouts = &self.exchange.facts.rules().timeouts;
        match pump.step(&self.exchange.client.stream, from, &self.course.lease.stream) {
            Ok(Step::Done) => {
                self.exchange.stand.record.up_bytes += pump.written();
                self.course.is_sent_now(world.now());
            }
            Ok(Step::Yields) => wants.yields = true,
            Ok(step @ Step::NeedsWrite) => {
                self.course.up.progress(pump.written(), step, world);
                wants.upstream = true;
                wants.until(self.course.up.until(timeouts.body_idle), Expiry::RequestWrite);
            }
            Ok(step @ Step::NeedsRead) => {
                let still_since = self.course.up.progress(pump.written(), step, world);
                wants.client = Some(Need::Read);
                // A client that waits for a 100 isn't slow: the backend is.
                let unasked = self.exchange.facts.expects_continue && self.course.continued_at.is_none();
                if unasked && pump.payload_bytes() == 0 {
                    wants.until(self.course.began + timeouts.response, Expiry::ResponseHead);
                } else {
                    let idle_since = still_since.max(self.course.continued_at.unwrap_or(still_since));
                    wants.until(idle_since + timeouts.body_idle, Expiry::RequestBody);
                    if let Some(pace) = &mut self.course.pace {
                        let until = pace.wait(pump.payload_bytes(), world.now());
                        wants.until(until, Expiry::RequestBodyRate);
                    }
                }
            }
            Err(PumpError::Write) => {
                self.break_upload_off();
                self.course.upstream_failed = true;
            }
            // An answer that has begun goes on whatever becomes of the request. No tunnel can begin behind half of one.
            Err(_) if self.course.has_begun() && !self.course.is_switched() => self.break_upload_off(),
            Err(error) => return Err(upload_failure(&error)),
        }
        Ok(())
    }

    /// Reads the answer's head, once its client has taken the interim ones before it. Whether what follows it has begun.
    ///
    /// # Errors
    /// What the transfer has come to, if it is over.
    #[inline]
    fn step_head(&mut self, buffer: &mut Buffer, wants: &mut Wants) -> Result<bool, Result<Stop<W>, Again>> {
        if !self.course.unsent.is_empty() {
            let until = self.course.down.until(self.exchange.facts.rules().timeouts.write);
            wants.room_until(until);
            return Ok(false);
        }
        let proxy = self.exchange.proxy;
        match self.read_answer(buffer) {
            Ok(Some(Answer::Body)) => Ok(true),
            Ok(Some(Answer::Tunnel)) => {
                let answered = proxy.world.now();
                let route = self.exchange.facts.route();
                proxy.note_answer(route, &self.course.visit, 101, answered, &self.course.holdup);
                self.tell(Outcome::Answered(101, self.course.took(answered)));
                if self.begin_tunnel(answered, buffer) { Ok(true) } else { Err(Ok(Stop::Over(Ended::CUT))) }
            }
            Ok(Some(Answer::PassedOver(status))) => {
                self.tell(Outcome::Answered(status, self.course.took(proxy.world.now())));
                self.exchange.stand.record.has_missed(Missed::PassedOver(status));
                Err(Err(Again::Granted))
            }
            Ok(None) => {
                wants.upstream = true;
                if !matches!(self.course.upload, Upload::Streaming(_)) {
                    wants.until(self.head_deadline(), Expiry::ResponseHead);
                }
                Ok(false)
            }
            Err(failure) => {
                self.note_failure(&failure);
                Err(Err(self.may_be_sent_again(failure)))
            }
        }
    }

    /// Sends on what there is of the answer's body. Whether the transfer is over.
    #[inline]
    fn step_body(&mut self, buffer: &mut Buffer, wants: &mut Wants) -> Result<bool, PumpError> {
        let proxy = self.exchange.proxy;
        let streams = matches!(self.course.upload, Upload::Streaming(_));
        let Download::Body(body) = &mut self.course.download else { return Ok(true) };
        if body.is_through {
            return Ok(!streams);
        }
        if buffer.is_empty() && body.pump.expects().is_none_or(|left| left > buffer.capacity() as u64) {
            proxy.enlarge(buffer);
        }
        if self.course.upstream_failed {
            body.pump.distrust_close();
        }
        let step = body.pump.step(&self.course.lease.stream, buffer, &self.exchange.client.stream)?;
        let timeouts = &self.exchange.facts.rules().timeouts;
        let switched = body.status == 101;
        match step {
            Step::Done if body.upload_goes_on && streams => body.is_through = true,
            Step::Done => return Ok(true),
            Step::Yields => wants.yields = true,
            Step::NeedsRead => {
                let still_since = self.course.down.progress(body.pump.written(), step, &proxy.world);
                let timeout = if switched { timeouts.tunnel_idle } else { timeouts.body_idle };
                wants.upstream = true;
                wants.until(still_since + timeout, Expiry::ResponseBody);
            }
            Step::NeedsWrite => {
                self.course.down.progress(body.pump.written(), step, &proxy.world);
                let timeout = if switched { timeouts.tunnel_idle } else { timeouts.write };
                wants.room_until(self.course.down.until(timeout));
            }
        }
        Ok(false)
    }

    /// A deadline has passed. Why the transfer breaks off, unless it goes on.
    #[cold]
    fn expired(&mut self, expiry: Expiry) -> Option<Failure> {
        if self.is_taken_slowly(expiry) {
            return None;
        }
        let switched = self.course.is_switched();
        let of_body = matches!(expiry, Expiry::RequestBody | Expiry::RequestBodyRate);
        let of_upload = of_body || matches!(expiry, Expiry::RequestWrite | Expiry::ResponseHead);
        if self.course.is_through() || (of_upload && self.course.has_begun() && !switched) {
            if of_body {
                self.course.holdup.request_stays_unsent();
            }
            self.break_upload_off();
            return None;
        }
        Some(expiry.failure(switched))
    }

    /// Waits for either stream. None when it was woken; else what its deadline said. Or it goes on, and needs no coroutine until
    /// the client does this, or until then.
    fn wait(&mut self, wants: &Wants) -> Result<Option<Expiry>, (Need, Instant)> {
        let proxy = self.exchange.proxy;
        let (mut deadline, mut expiry) = wants.deadline.unwrap_or((Instant::NEVER, Expiry::ResponseHead));
        if wants.client.is_none() {
            match self.exchange.client.stream.peer_state() {
                PeerState::Open => {}
                PeerState::Reset => return Ok(Some(Expiry::HalfClosed)),
                // It has its answer, and what it sent goes on.
                PeerState::HalfClosed if self.course.is_through() => {}
                PeerState::HalfClosed => {
                    let at = self.half_closed_until();
                    if at < deadline {
                        (deadline, expiry) = (at, Expiry::HalfClosed);
                    }
                }
            }
        }
        self.course.holdup.wait_begins(wants.client, || proxy.world.now());
        if let Some(need) = wants.client {
            return self.wait_for_client(need, wants.upstream, deadline, expiry);
        }
        self.course.held.take_if(|buffer| buffer.is_empty());
        self.exchange.client.buffer.take_if(|buffer| buffer.is_empty());
        let also = Some((&self.exchange.client.stream, Watch::Hangup));
        let wake = proxy.world.wait(&self.course.lease.stream, also, deadline.min(self.slow_at));
        match wake {
            Wake::Deadline if deadline <= self.slow_at => Ok(Some(expiry)),
            Wake::Deadline => self.wait_on_for_backend(deadline, expiry),
            _ => Ok(None),
        }
    }

    fn head_deadline(&mut self) -> Instant {
        let (proxy, timeout) = (self.exchange.proxy, self.exchange.facts.rules().timeouts.response);
        *self.exchange.stand.head_deadline.get_or_insert_with(|| proxy.world.now() + timeout)
    }

    #[cold]
    fn break_upload_off(&mut self) {
        if let Upload::Streaming(pump) = &self.course.upload {
            self.exchange.stand.record.up_bytes += pump.written();
        }
        self.course.upload = Upload::Broken;
    }

    /// Ends a transfer on a failure: with an answer where none has begun, else by cutting.
    #[cold]
    fn break_off(&mut self, failure: Failure) -> Result<Stop<W>, Again> {
        // How a tunnel ends says nothing of its backend.
        if !self.course.is_switched() {
            self.note_failure(&failure);
        }
        let Download::Body(body) = &self.course.download else { return Err(Again::No(failure)) };
        let record = &mut self.exchange.stand.record;
        record.has_failed(failure);
        record.end = End::Failed(failure.view().reason);
        // A stalled client's unread bytes would keep the connection's memory: they go too.
        let shown = body.framed && !matches!(failure, Failure::ClientWriteStalled);
        #[cfg(feature = "sabotage-end-cut-body")] // Broken on purpose: ./x sabotage
        let shown = shown || !body.framed;
        Ok(Stop::Over(Ended::BrokenOff { shown }))
    }

    /// What the retry rule says of a request whose try failed before its answer began.
    #[cold]
    fn may_be_sent_again(&self, failure: Failure) -> Again {
        let replayable = matches!(failure, Failure::ClosedBeforeHead | Failure::TlsAlert)
            && self.course.interim == 0
            && self.exchange.client.whole_bytes.is_some();
        let again = replayable && self.exchange.facts.method.is_idempotent();
        #[cfg(feature = "sabotage-retry-post")] // Broken on purpose: ./x sabotage
        let again = again || replayable;
        if again { self.exchange.again_after_reset(failure, self.course.lease.reused) } else { Again::No(failure) }
    }

    #[cold]
    fn note_failure(&self, failure: &Failure) {
        let reached = match &self.course.download {
            Download::Body(body) => Reached::Answer(body.status),
            Download::Head if self.course.lease.reused => Reached::KeptConnection,
            Download::Head => Reached::NewConnection,
        };
        let route = self.exchange.facts.route();
        self.exchange.proxy.note_failure(route, &self.course.visit, failure, reached, &self.course.holdup);
    }

    fn tell(&self, outcome: Outcome) {
        self.exchange.proxy.record(self.exchange.facts.route(), self.course.backend(), outcome);
    }

    /// The answer is through: clears the request from the client's buffer, and says what becomes of the backend's connection.
    fn finish(&mut self, buffer: &Buffer) -> Ended<W> {
        let Download::Body(body) = &self.course.download else { return Ended::CUT };
        let switched = body.status == 101;
        if !switched {
            self.tell(Outcome::Answered(body.status, body.took));
        }
        let sent = matches!(self.course.upload, Upload::Done);
        // A client that doesn't expect the end may have sent its next request already.
        let unread = !sent || switched || self.exchange.facts.keep_alive;
        let ended = Ended::Answered { last: body.last || !sent, unread };
        if sent && body.reusable && buffer.is_empty() {
            let (since, until, early) = (body.answered, body.kept_until, body.upload_goes_on);
            #[cfg(feature = "sabotage-share-login")] // Broken on purpose: ./x sabotage
            {
                self.course.pinned = false;
            }
            // What a backend has said since an early answer belongs to none.
            if !early || self.course.lease.stream.is_quiet(true) {
                let since = if early { self.exchange.proxy.world.now() } else { since };
                self.course.idle = Some((since, until));
            }
        }
        self.exchange.client.consume_whole();
        ended
    }

    /// Takes down what the try has come to.
    fn note_end(&mut self, tunnels: bool) {
        let record = &mut self.exchange.stand.record;
        if let Upload::Streaming(pump) = &self.course.upload {
            record.up_bytes += pump.written();
        }
        if let Download::Body(body) = &self.course.download {
            record.moved = Some(self.course.down.since());
            // A tunnel takes its pump along.
            record.down_bytes += if tunnels { 0 } else { body.pump.written() };
            if body.status == 101 && !tunnels {
                // What its backend has of the client is cut.
                self.course.lease.stream.end_unsaid();
            }
        }
    }
}
