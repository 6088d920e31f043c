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

mod holdup;
mod stop;
mod wait;

use std::time::Duration;

use super::Proxy;
use super::answer::Answer;
use super::client::{Client, Parked};
use super::error::Failure;
use super::exchange::{After, Facts};
use super::pace::Pace;
use super::pump::{Pump, PumpError, Step};
use super::stillness::Stillness;
use super::witness::Reached;
use crate::balance::{Backend, Outcome};
use crate::http1::{Framing, HopTrailers};
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, Stream, World};
use crate::upstream::{Lease, Visit};
pub(super) use holdup::Holdup;
pub(super) use stop::{Stop, Upstream};
use wait::{Expiry, Waited, Wants};

/// The request's way to the backend.
#[expect(clippy::large_enum_variant, reason = "one lives on the stack for each exchange; a box would allocate")]
pub(super) enum Upload<S: Stream> {
    /// All of it is written.
    Done,
    /// Its body is on its way.
    Streaming(Pump<S>),
    /// The backend took no more of it.
    Broken,
}

impl<S: Stream> Upload<S> {
    /// What is left of a request that is whole elsewhere.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn rest(bytes: &[u8]) -> Self {
        let mut pump = Pump::new(Framing::None, false, 0, 0);
        pump.lead_with(bytes);
        Self::Streaming(pump)
    }
}

/// The answer's way to the client.
#[expect(clippy::large_enum_variant, reason = "one lives on the stack for each exchange; a box would allocate")]
enum Download<S: Stream> {
    /// Waiting for its head.
    Head,
    /// Its body is on its way.
    Body(Body<S>),
}

#[expect(clippy::struct_excessive_bools, reason = "what is known of an answer is a list of independent facts")]
pub(super) struct Body<S: Stream> {
    pub(super) pump: Pump<S>,
    /// What becomes of the client's connection when the body is through.
    pub(super) after: After,
    /// The upstream connection may be used again then.
    pub(super) reusable: bool,
    /// Until its backend is about to close it.
    pub(super) kept_until: Instant,
    /// The client can tell a cut body from a whole one by its framing.
    pub(super) framed: bool,
    pub(super) status: u16,
    /// When its head came.
    pub(super) answered: Instant,
    /// How long that took; see [`Course::took`].
    pub(super) took: Option<Duration>,
    /// It came before the request's end, which the backend goes on to read.
    pub(super) upload_goes_on: bool,
    /// All of it is sent on.
    pub(super) is_through: bool,
}

/// A transfer that ended before the answer's head was sent on.
pub(super) struct Interrupted {
    pub(super) cut: Cut,
    /// When the answer's head must be there, whoever gives it; set once a try has sent the request.
    pub(super) head_deadline: Option<Instant>,
}

/// What interrupted it.
pub(super) enum Cut {
    Failed {
        failure: Failure,
        /// The backend hung up, and the request is still whole in the buffer.
        replayable: bool,
    },
    /// Another backend is to be asked, since this one said that it can't serve the request now.
    PassedOver,
}

/// What one try has come to.
pub(super) struct Course<W: World> {
    pub(super) lease: Lease<W>,
    pub(super) visit: Visit<W>,
    /// The connection belongs to the client's from now on.
    pub(super) bound: bool,
    began: Instant,
    upload: Upload<W::Stream>,
    download: Download<W::Stream>,
    /// Bytes of the answer that were read and not used up.
    pub(super) held: Option<Buffer>,
    up: Stillness,
    pub(super) down: Stillness,
    pace: Option<Pace>,
    /// A failed write takes the error that the next read would have had: what looks like an end may be a reset.
    upstream_failed: bool,
    pub(super) head_deadline: Option<Instant>,
    /// The client closed its sending side at this moment.
    half_closed_at: Option<Instant>,
    /// Interim answers that were sent on.
    pub(super) interim: u32,
    /// What the client has not taken yet of the last of them.
    pub(super) unsent: Vec<u8>,
    /// What the answer's `Connection` keeps from going further behind its body.
    pub(super) hop_trailers: Option<HopTrailers>,
    /// When the client was told to go on with its body (100).
    pub(super) continued_at: Option<Instant>,
    pub(super) holdup: Holdup,
}

/// One try's transfer, while a coroutine runs it.
pub(super) struct Transfer<'a, W: World<Parked = Parked>> {
    pub(super) proxy: &'a Proxy<W>,
    pub(super) client: &'a mut Client<W::Stream>,
    pub(super) facts: &'a Facts,
    pub(super) course: &'a mut Course<W>,
    /// When a wait has become a long one.
    slow_at: Instant,
    /// Bytes that had moved when the backend was given some more time.
    lingered_at: u64,
    /// The backends that have been asked, this one included; none where there won't be another try.
    pub(super) tried: &'a [u64],
}

impl<W: World> Course<W> {
    /// A try whose request was sent as far as `upload` says. `head_deadline` is that of an earlier try. Inlined, so that it is
    /// made in its place: it is large.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn new(
        lease: Lease<W>,
        visit: Visit<W>,
        bound: bool,
        began: Instant,
        upload: Upload<W::Stream>,
        pace: Option<Pace>,
        head_deadline: Option<Instant>,
    ) -> Self {
        Self {
            lease,
            visit,
            bound,
            began,
            upstream_failed: matches!(upload, Upload::Broken),
            upload,
            download: Download::Head,
            held: None,
            up: Stillness::new(began),
            down: Stillness::new(began),
            pace,
            head_deadline,
            half_closed_at: None,
            interim: 0,
            unsent: Vec::new(),
            hop_trailers: None,
            continued_at: None,
            holdup: Holdup::default(),
        }
    }

    /// The answer's body begins; made in its place, since it is large.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn begin_body(&mut self, body: Body<W::Stream>) -> &mut Body<W::Stream> {
        self.down.begin_anew(body.answered);
        self.download = Download::Body(body);
        let Download::Body(body) = &mut self.download else { unreachable!("it has just been set") };
        body
    }

    /// What came for an answer wasn't one.
    #[cold]
    pub(super) fn has_no_answer(&mut self) {
        self.download = Download::Head;
    }

    /// All of the request has left.
    fn is_sent_now(&mut self, now: Instant) {
        self.upload = Upload::Done;
        self.up.begin_anew(now);
        self.holdup.request_is_sent();
    }

    /// How long a backend whose answer's head came at `answered` has taken for it: from the last byte that it was sent before.
    /// None where that may be due to a client that kept it waiting for more.
    pub(super) fn took(&self, answered: Instant) -> Option<Duration> {
        (!self.holdup.is_due_to_client()).then(|| answered.since(self.up.since()))
    }

    /// A part of the answer was sent on.
    fn has_begun(&self) -> bool {
        matches!(self.download, Download::Body(_))
    }

    /// All of the answer was, and the rest of the request is still to go out.
    fn is_through(&self) -> bool {
        matches!(&self.download, Download::Body(body) if body.is_through)
    }

    /// The answer is a 101: what follows belongs to the tunnel, on the client's side behind its request's body.
    fn is_switched(&self) -> bool {
        matches!(&self.download, Download::Body(body) if body.status == 101)
    }

    /// The rest of the request can go on after its answer, since the client is sending it. One that waits for a 100 takes the
    /// answer for a reason to send no body.
    pub(super) fn upload_can_go_on(&self, expects_continue: bool) -> bool {
        let Upload::Streaming(pump) = &self.upload else { return false };
        !expects_continue || self.continued_at.is_some() || pump.payload_bytes() > 0
    }

    /// Where it goes.
    pub(super) fn backend(&self) -> &Backend {
        self.visit.backend()
    }

    /// The request is sent.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.upload, Upload::Done)
    }
}

impl<'a, W: World<Parked = Parked>> Transfer<'a, W> {
    /// A transfer whose waits for the client are long ones from `slow_at` on.
    pub(super) fn new(
        proxy: &'a Proxy<W>,
        client: &'a mut Client<W::Stream>,
        facts: &'a Facts,
        course: &'a mut Course<W>,
        slow_at: Instant,
        tried: &'a [u64],
    ) -> Self {
        Self { proxy, client, facts, course, slow_at, lingered_at: u64::MAX, tried }
    }

    /// Whether to ask another backend instead of passing an answer of this status on, which came at `at`; takes the retry
    /// out of the budget.
    pub(super) fn passes_over(&self, status: u16, at: Instant) -> bool {
        let shared = &self.proxy.shared;
        let distrusted = self.proxy.note_answer(&self.course.visit, status, at, &self.course.holdup);
        (distrusted || shared.config.retries.is_on(status))
            && self.facts.method.is_idempotent()
            && self.client.whole_bytes.is_some()
            && self.course.interim == 0
            && !self.course.bound
            && (1..self.proxy.tries_max()).contains(&self.tried.len())
            && shared.fleet.snapshot.load().offers_other_than(self.tried)
            && self.proxy.withdraw_retry()
    }

    /// Runs both directions to their end, or until they need no coroutine for a while.
    #[expect(clippy::too_many_lines, reason = "one loop over two state machines; its parts have no sense alone")]
    pub(super) fn run(&mut self, scratch: &mut Vec<u8>) -> Result<Stop, Interrupted> {
        let world = &self.proxy.world;
        loop {
            self.course.holdup.wait_ends(&self.course.up, &self.course.down, || world.now());
            let mut wants = Wants::default();
            let (mut yields, mut is_over) = (false, false);
            let mut buffer = self.course.held.take().unwrap_or_else(|| self.proxy.buffers.take());
            if let Upload::Streaming(pump) = &mut self.course.upload {
                if let Some(pace) = &mut self.course.pace {
                    pace.pause(world.now());
                }
                let from = self.client.buffer.get_or_insert_with(|| self.proxy.buffers.take());
                let step = pump.step(&self.client.stream, from, &self.course.lease.stream);
                let body_idle = self.proxy.shared.config.timeouts.body_idle;
                match step {
                    Ok(Step::Done) => self.course.is_sent_now(world.now()),
                    Ok(Step::Yields) => yields = true,
                    Ok(step) => {
                        let still_since = self.course.up.progress(pump.written(), step, world);
                        let idle_until = still_since.max(self.course.continued_at.unwrap_or(still_since)) + body_idle;
                        if step == Step::NeedsRead {
                            wants.client = Some(Need::Read);
                            // A client that waits for a 100 isn't slow: the backend is.
                            let unasked = self.facts.expects_continue && self.course.continued_at.is_none();
                            if unasked && pump.payload_bytes() == 0 {
                                let request_timeout = self.proxy.shared.config.request_timeout;
                                wants.until(self.course.began + request_timeout, Expiry::ResponseHead);
                            } else {
                                wants.until(idle_until, Expiry::RequestBody);
                                if let Some(pace) = &mut self.course.pace {
                                    let until = pace.wait(pump.payload_bytes(), world.now());
                                    wants.until(until, Expiry::RequestBodyRate);
                                }
                            }
                        } else {
                            wants.upstream = true;
                            wants.until(self.course.up.until(body_idle), Expiry::RequestWrite);
                        }
                    }
                    Err(PumpError::Write) => {
                        self.course.upload = Upload::Broken;
                        self.course.upstream_failed = true;
                    }
                    // An answer that has begun goes on whatever becomes of the request. No tunnel can begin behind half of one.
                    Err(_) if self.course.has_begun() && !self.course.is_switched() => {
                        self.course.upload = Upload::Broken;
                    }
                    Err(error) => return self.break_off(upload_failure(&error)),
                }
            }
            let interim = self.course.interim;
            if !self.course.unsent.is_empty() && self.send_interim_on().is_err() {
                return self.break_off(Failure::ClientGone);
            }
            if self.course.is_switched() && self.course.is_sent() {
                return Ok(Stop::Tunnel(buffer));
            }
            let switched = self.course.is_switched();
            let streams = matches!(self.course.upload, Upload::Streaming(_));
            match &mut self.course.download {
                Download::Head if !self.course.unsent.is_empty() => {
                    wants.client = Some(wants.client.map_or(Need::Write, |_| Need::Either));
                    let until = self.course.down.until(self.proxy.shared.config.timeouts.write);
                    wants.until(until, Expiry::ClientWrite);
                }
                Download::Head => match self.read_answer(&mut buffer, scratch) {
                    Ok(Some(Answer::Body)) => {
                        self.course.held = Some(buffer);
                        continue;
                    }
                    Ok(Some(Answer::Tunnel)) => {
                        let answered = world.now();
                        self.proxy.note_answer(&self.course.visit, 101, answered, &self.course.holdup);
                        self.record(Outcome::Answered(101, self.course.took(answered)));
                        if !self.begin_tunnel(answered, &mut buffer, scratch) {
                            return Ok(Stop::Over(After::Cut));
                        }
                        self.course.held = Some(buffer);
                        continue;
                    }
                    Ok(Some(Answer::PassedOver(status))) => {
                        self.record(Outcome::Answered(status, self.course.took(world.now())));
                        return Err(self.interrupted(Cut::PassedOver));
                    }
                    // A 100 changes what the upload waits for.
                    Ok(None) if self.course.interim > interim => {
                        self.course.held = Some(buffer);
                        continue;
                    }
                    Ok(None) => {
                        wants.upstream = true;
                        if !matches!(self.course.upload, Upload::Streaming(_)) {
                            wants.until(self.head_deadline(), Expiry::ResponseHead);
                        }
                    }
                    Err(failure) => {
                        self.note_failure(&failure);
                        let replayable = matches!(failure, Failure::ClosedBeforeHead)
                            && self.course.interim == 0
                            && self.client.whole_bytes.is_some();
                        return Err(self.interrupted(Cut::Failed { failure, replayable }));
                    }
                },
                Download::Body(body) if body.is_through => is_over = !streams,
                Download::Body(body) => {
                    if buffer.is_empty() && body.pump.expects().is_none_or(|left| left > buffer.capacity() as u64) {
                        buffer = self.proxy.larger(buffer);
                    }
                    if self.course.upstream_failed {
                        body.pump.distrust_close();
                    }
                    match body.pump.step(&self.course.lease.stream, &mut buffer, &self.client.stream) {
                        Ok(Step::Done) if body.upload_goes_on && streams => body.is_through = true,
                        Ok(Step::Done) => is_over = true,
                        Ok(Step::Yields) => yields = true,
                        Ok(step) => {
                            let timeouts = &self.proxy.shared.config.timeouts;
                            let (read, write) = if switched {
                                (timeouts.tunnel_idle, timeouts.tunnel_idle)
                            } else {
                                (timeouts.body_idle, timeouts.write)
                            };
                            let still_since = self.course.down.progress(body.pump.written(), step, world);
                            if step == Step::NeedsRead {
                                wants.upstream = true;
                                wants.until(still_since + read, Expiry::ResponseBody);
                            } else {
                                wants.client = Some(wants.client.map_or(Need::Write, |_| Need::Either));
                                wants.until(self.course.down.until(write), Expiry::ClientWrite);
                            }
                        }
                        Err(_) if switched => return Ok(Stop::Over(After::Cut)),
                        Err(PumpError::Write) => return self.break_off(Failure::ClientGone),
                        Err(PumpError::Chunk(error)) => return self.break_off(Failure::BadResponseChunk(error)),
                        Err(_) => return self.break_off(Failure::BodyCut),
                    }
                }
            }
            if is_over {
                let (after, upstream) = self.finish(&buffer);
                return Ok(Stop::Through(after, upstream));
            }
            self.course.held = Some(buffer);
            if yields {
                world.take_turns(&self.course.lease.stream);
                continue;
            }
            let expiry = match self.wait(&wants) {
                Waited::Woken => continue,
                Waited::Expired(expiry) => expiry,
                Waited::Aside(need, deadline) => return Ok(Stop::Aside(need, deadline)),
            };
            if self.is_taken_slowly(expiry) {
                continue;
            }
            let of_upload = matches!(
                expiry,
                Expiry::RequestBody | Expiry::RequestBodyRate | Expiry::RequestWrite | Expiry::ResponseHead
            );
            if self.course.is_through() || (of_upload && self.course.has_begun() && !switched) {
                if matches!(expiry, Expiry::RequestBody | Expiry::RequestBodyRate) {
                    self.course.holdup.request_stays_unsent();
                }
                self.course.upload = Upload::Broken;
                continue;
            }
            let failure = match expiry {
                Expiry::RequestBody => Failure::RequestBodyTimeout,
                Expiry::RequestBodyRate => Failure::RequestBodyTooSlow,
                Expiry::RequestWrite | Expiry::ResponseHead => Failure::ResponseTimeout,
                Expiry::ResponseBody if switched => Failure::TunnelIdle,
                Expiry::ResponseBody => Failure::ResponseBodyTimeout,
                Expiry::ClientWrite => Failure::ClientWriteStalled,
                Expiry::HalfClosed => Failure::ClientGone,
            };
            return self.break_off(failure);
        }
    }

    fn head_deadline(&mut self) -> Instant {
        let timeout = self.proxy.shared.config.request_timeout;
        *self.course.head_deadline.get_or_insert_with(|| self.proxy.world.now() + timeout)
    }

    /// Ends a transfer on a failure: with an answer where none has begun, else by cutting.
    fn break_off(&self, failure: Failure) -> Result<Stop, Interrupted> {
        // How a tunnel ends says nothing of its backend.
        if !self.course.is_switched() {
            self.note_failure(&failure);
        }
        let Download::Body(body) = &self.course.download else {
            return Err(self.interrupted(Cut::Failed { failure, replayable: false }));
        };
        self.proxy.count(failure.view().reason);
        // A stalled client's unread bytes would keep the connection's memory: they go too.
        let close = body.framed && !matches!(failure, Failure::ClientWriteStalled);
        #[cfg(feature = "sabotage-end-cut-body")] // Broken on purpose: ./x sabotage
        let close = close || !body.framed;
        Ok(Stop::Over(if close { After::Close } else { After::Cut }))
    }

    fn interrupted(&self, cut: Cut) -> Interrupted {
        Interrupted { cut, head_deadline: self.course.head_deadline }
    }

    fn note_failure(&self, failure: &Failure) {
        let reached = match &self.course.download {
            Download::Body(body) => Reached::Answer(body.status),
            Download::Head if self.course.lease.reused => Reached::KeptConnection,
            Download::Head => Reached::NewConnection,
        };
        self.proxy.note_failure(&self.course.visit, failure, reached, &self.course.holdup);
    }

    fn record(&self, outcome: Outcome) {
        let world = &self.proxy.world;
        self.course.backend().record(world.worker(), outcome, || world.now().0);
    }

    /// The answer is through: clears the request from the client's buffer, and says what becomes of the client's connection
    /// and of the backend's.
    fn finish(&mut self, buffer: &Buffer) -> (After, Upstream) {
        let Download::Body(body) = &self.course.download else { return (After::Cut, Upstream::Closes) };
        if !self.course.is_switched() {
            self.record(Outcome::Answered(body.status, body.took));
        }
        let (after, sent) = (body.after, matches!(self.course.upload, Upload::Done));
        let mut upstream = Upstream::Closes;
        if sent && body.reusable && buffer.is_empty() {
            let (since, until, early) = (body.answered, body.kept_until, body.upload_goes_on);
            let bound = self.course.bound;
            #[cfg(feature = "sabotage-share-login")] // Broken on purpose: ./x sabotage
            let bound = false;
            // What a backend has said since an early answer belongs to none.
            let usable = !early || self.course.lease.stream.is_quiet(true);
            if usable && bound {
                upstream = Upstream::IsTheClients { until };
            } else if usable {
                let since = if early { self.proxy.world.now() } else { since };
                upstream = Upstream::IsIdle { since, until };
            }
        }
        if let (Some(whole_bytes), Some(from)) = (self.client.whole_bytes.take(), self.client.buffer.as_mut()) {
            from.consume(whole_bytes);
        }
        (if sent { after } else { After::Linger }, upstream)
    }
}

/// What an upload that broke off on the client's side means.
pub(super) fn upload_failure(error: &PumpError) -> Failure {
    match error {
        PumpError::TooLarge => Failure::BodyTooLarge,
        PumpError::Chunk(error) => Failure::BadChunk(*error),
        PumpError::Read | PumpError::EarlyEnd | PumpError::Write => Failure::ClientGone,
    }
}
