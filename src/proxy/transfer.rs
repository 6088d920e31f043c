//! The middle of an exchange: the rest of the request goes out while the answer comes back.
//!
//! ```text
//! upload    Streaming ─→ Done          the request's body, client to backend
//!              └───────→ Broken        the backend takes no more: an answer may be there all the same
//! download  Head ─→ Body ─→ done       1xx answers come before the head; a 101 becomes a tunnel
//! ```
//!
//! One loop steps both and waits when neither can go on. What it waits for has a deadline each; progress sets only
//! its own direction's back.

use super::Proxy;
use super::answer::Answer;
use super::client::{Client, Parked};
use super::error::Failure;
use super::exchange::{After, Facts};
use super::pace::Pace;
use super::patience::{For, SLOW_AFTER};
use super::pump::{Pump, PumpError, Step};
use crate::balance::Outcome;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, PeerState, Stream, Wake, Watch, World};
use crate::upstream::{Lease, Visit};

/// The request's way to the backend.
#[expect(clippy::large_enum_variant, reason = "one lives on the stack for each exchange; a box would allocate")]
pub(super) enum Upload {
    /// All of it is written.
    Done,
    /// Its body is on its way.
    Streaming(Pump),
    /// The backend took no more of it.
    Broken,
}

/// The answer's way to the client.
#[expect(clippy::large_enum_variant, reason = "one lives on the stack for each exchange; a box would allocate")]
enum Download {
    /// Waiting for its head.
    Head,
    /// Its body is on its way.
    Body(Body),
}

pub(super) struct Body {
    pub(super) pump: Pump,
    /// What becomes of the client's connection when the body is through.
    pub(super) after: After,
    /// The upstream connection may be used again then.
    pub(super) reusable: bool,
    /// The client can tell a cut body from a whole one by its framing.
    pub(super) framed: bool,
    pub(super) status: u16,
    /// When its head came.
    pub(super) answered: Instant,
}

/// A transfer that ended before the answer's head was sent on.
pub(super) struct Interrupted {
    pub(super) failure: Failure,
    /// The backend hung up, and the request is still whole in the buffer.
    pub(super) replayable: bool,
}

/// One try's transfer.
pub(super) struct Transfer<'a, W: World<Parked = Parked>> {
    pub(super) proxy: &'a Proxy<W>,
    pub(super) client: &'a mut Client<W::Stream>,
    pub(super) facts: &'a Facts,
    pub(super) lease: Lease<W>,
    visit: &'a Visit<W>,
    began: Instant,
    /// When the answer's head must be there, over all tries; set once the request is sent.
    head_deadline: &'a mut Option<Instant>,
    /// When a wait has become a long one.
    slow_at: Instant,
    /// The client closed its sending side at this moment.
    half_closed_at: Option<Instant>,
    /// Interim answers that were sent on.
    pub(super) interim: u32,
    /// When the client was told to go on with its body (100).
    pub(super) continued_at: Option<Instant>,
}

/// What the loop waits for, and until when.
#[derive(Default)]
struct Wants {
    client: bool,
    upstream: bool,
    deadline: Option<(Instant, Expiry)>,
}

/// What a deadline that has passed says.
#[derive(Clone, Copy)]
enum Expiry {
    RequestBody,
    RequestBodyRate,
    ResponseHead,
    ResponseBody,
    ClientWrite,
    HalfClosed,
}

/// How long one direction has stood still.
struct Stillness {
    since: Instant,
    written: u64,
}

impl<'a, W: World<Parked = Parked>> Transfer<'a, W> {
    pub(super) fn new(
        proxy: &'a Proxy<W>,
        client: &'a mut Client<W::Stream>,
        facts: &'a Facts,
        lease: Lease<W>,
        visit: &'a Visit<W>,
        began: Instant,
        head_deadline: &'a mut Option<Instant>,
    ) -> Self {
        Self {
            proxy,
            client,
            facts,
            lease,
            visit,
            began,
            head_deadline,
            slow_at: began + SLOW_AFTER,
            half_closed_at: None,
            interim: 0,
            continued_at: None,
        }
    }

    /// Runs both directions to their end; what then becomes of the client's connection.
    #[expect(clippy::too_many_lines, reason = "one loop over two state machines; its parts have no sense alone")]
    pub(super) fn run(mut self, mut upload: Upload, scratch: &mut Vec<u8>) -> Result<After, Interrupted> {
        let world = &self.proxy.world;
        let mut held = None;
        // A failed write takes the error that the next read would have had: what looks like an end may be a reset.
        let mut upstream_failed = matches!(upload, Upload::Broken);
        let mut download = Download::Head;
        let mut up = Stillness { since: self.began, written: 0 };
        let mut down = Stillness { since: self.began, written: 0 };
        let mut pace = Pace::new(self.proxy.shared.config.limits.min_body_rate);
        loop {
            let mut wants = Wants::default();
            let mut yields = false;
            let mut buffer = held.take().unwrap_or_else(|| self.proxy.buffers.take());
            if let Upload::Streaming(pump) = &mut upload {
                if let Some(pace) = &mut pace {
                    pace.pause(world.now());
                }
                let from = self.client.buffer.get_or_insert_with(|| self.proxy.buffers.take());
                let step = pump.step(&self.client.stream, from, &self.lease.stream);
                let body_idle = self.proxy.shared.config.timeouts.body_idle;
                match step {
                    Ok(Step::Done) => upload = Upload::Done,
                    Ok(Step::Yields) => yields = true,
                    Ok(step) => {
                        let still_since = up.progress(pump.written(), world);
                        let idle_until = still_since.max(self.continued_at.unwrap_or(still_since)) + body_idle;
                        if step == Step::NeedsRead {
                            wants.client = true;
                            // A client that waits for a 100 isn't slow: the backend is.
                            if self.facts.expects_continue && self.continued_at.is_none() && pump.payload_bytes() == 0 {
                                let request_timeout = self.proxy.shared.config.request_timeout;
                                wants.until(self.began + request_timeout, Expiry::ResponseHead);
                            } else {
                                wants.until(idle_until, Expiry::RequestBody);
                                if let Some(pace) = &mut pace {
                                    let until = pace.wait(pump.payload_bytes(), world.now());
                                    wants.until(until, Expiry::RequestBodyRate);
                                }
                            }
                        } else {
                            wants.upstream = true;
                            wants.until(idle_until, Expiry::ResponseHead);
                        }
                    }
                    Err(PumpError::Write) => {
                        upload = Upload::Broken;
                        upstream_failed = true;
                    }
                    // An answer that has begun goes on whatever becomes of the request.
                    Err(_) if matches!(download, Download::Body(_)) => upload = Upload::Broken,
                    Err(error) => return self.break_off(download, upload_failure(&error)),
                }
            }
            let interim = self.interim;
            match &mut download {
                Download::Head => match self.read_answer(&mut buffer, matches!(upload, Upload::Done), scratch) {
                    Ok(Some(Answer::Body(body))) => {
                        down.since = body.answered;
                        download = Download::Body(body);
                        held = Some(buffer);
                        continue;
                    }
                    Ok(Some(Answer::Tunnel)) => {
                        self.record(Outcome::Answered(101, self.proxy.world.now().since(self.began)));
                        return Ok(self.proxy.tunnel(self.client, &self.lease.stream, buffer, scratch));
                    }
                    // A 100 changes what the upload waits for.
                    Ok(None) if self.interim > interim => {
                        held = Some(buffer);
                        continue;
                    }
                    Ok(None) => {
                        wants.upstream = true;
                        if !matches!(upload, Upload::Streaming(_)) {
                            wants.until(self.head_deadline(), Expiry::ResponseHead);
                        }
                    }
                    Err(failure) => {
                        self.record(blame(&failure));
                        let replayable = matches!(failure, Failure::ClosedBeforeHead)
                            && self.interim == 0
                            && self.client.whole_bytes.is_some();
                        return Err(Interrupted { failure, replayable });
                    }
                },
                Download::Body(body) => {
                    if buffer.is_empty() && body.pump.expects().is_none_or(|left| left > buffer.capacity() as u64) {
                        buffer = self.proxy.larger(buffer);
                    }
                    if upstream_failed {
                        body.pump.distrust_close();
                    }
                    match body.pump.step(&self.lease.stream, &mut buffer, &self.client.stream) {
                        Ok(Step::Done) => return Ok(self.finish(&download, &upload, &buffer)),
                        Ok(Step::Yields) => yields = true,
                        Ok(step) => {
                            let timeouts = &self.proxy.shared.config.timeouts;
                            let still_since = down.progress(body.pump.written(), world);
                            if step == Step::NeedsRead {
                                wants.upstream = true;
                                wants.until(still_since + timeouts.body_idle, Expiry::ResponseBody);
                            } else {
                                wants.client = true;
                                wants.until(still_since + timeouts.write, Expiry::ClientWrite);
                            }
                        }
                        Err(PumpError::Write) => return self.break_off(download, Failure::ClientGone),
                        Err(_) => return self.break_off(download, Failure::BodyCut),
                    }
                }
            }
            if yields {
                held = Some(buffer);
                world.yield_now(&self.lease.stream);
                continue;
            }
            held = Some(buffer);
            if let Some(expiry) = self.wait(&wants, down.since, &mut held) {
                let of_upload = matches!(expiry, Expiry::RequestBody | Expiry::RequestBodyRate | Expiry::ResponseHead);
                if of_upload && matches!(download, Download::Body(_)) {
                    upload = Upload::Broken;
                    continue;
                }
                let failure = match expiry {
                    Expiry::RequestBody => Failure::RequestBodyTimeout,
                    Expiry::RequestBodyRate => Failure::RequestBodyTooSlow,
                    Expiry::ResponseHead => Failure::ResponseTimeout,
                    Expiry::ResponseBody => Failure::ResponseBodyTimeout,
                    Expiry::ClientWrite => Failure::ClientWriteStalled,
                    Expiry::HalfClosed => Failure::ClientGone,
                };
                return self.break_off(download, failure);
            }
        }
    }

    fn head_deadline(&mut self) -> Instant {
        let timeout = self.proxy.shared.config.request_timeout;
        *self.head_deadline.get_or_insert_with(|| self.proxy.world.now() + timeout)
    }

    /// Waits for either stream, with `held` of the answer. Says which deadline has passed, if one has.
    fn wait(&mut self, wants: &Wants, still_since: Instant, held: &mut Option<Buffer>) -> Option<Expiry> {
        let (mut deadline, mut expiry) = wants.deadline.unwrap_or((Instant::NEVER, Expiry::ResponseHead));
        if !wants.client {
            match self.client.stream.peer_state() {
                PeerState::Reset => return Some(Expiry::HalfClosed),
                PeerState::HalfClosed => {
                    let world = &self.proxy.world;
                    let at = *self.half_closed_at.get_or_insert_with(|| world.now());
                    let patience = at.max(still_since) + self.proxy.shared.config.timeouts.half_closed;
                    if patience < deadline {
                        (deadline, expiry) = (patience, Expiry::HalfClosed);
                    }
                }
                PeerState::Open => {}
            }
        }
        let (upstream, client) = (&self.lease.stream, &self.client.stream);
        let (whom, on, also) = match (wants.client, wants.upstream) {
            (true, true) => (For::Client, upstream, Some((client, Watch::Everything))),
            (true, false) => (For::Client, client, None),
            (false, _) => (For::Backend, upstream, Some((client, Watch::Hangup))),
        };
        let wake =
            self.proxy.wait_holding([held, &mut self.client.buffer], whom, on, also, deadline, &mut self.slow_at);
        (wake == Wake::Deadline).then_some(expiry)
    }

    /// Ends a transfer on a failure: with an answer where none has begun, else by cutting.
    fn break_off(self, download: Download, failure: Failure) -> Result<After, Interrupted> {
        self.record(blame(&failure));
        let Download::Body(body) = download else { return Err(Interrupted { failure, replayable: false }) };
        self.proxy.count(failure.view().reason);
        // A stalled client's unread bytes would keep the connection's memory: they go too.
        let close = body.framed && !matches!(failure, Failure::ClientWriteStalled);
        #[cfg(feature = "sabotage-end-cut-body")] // Broken on purpose: ./x sabotage
        let close = close || !body.framed;
        Ok(if close { After::Close } else { After::Cut })
    }

    fn record(&self, outcome: Outcome) {
        self.visit.backend().record(self.proxy.world.worker(), outcome, || self.proxy.world.now().0);
    }

    /// The answer is through: returns the upstream connection, and clears the request from the client's buffer.
    fn finish(self, download: &Download, upload: &Upload, buffer: &Buffer) -> After {
        let Download::Body(body) = download else { return After::Cut };
        self.record(Outcome::Answered(body.status, body.answered.since(self.began)));
        let sent = matches!(upload, Upload::Done);
        if sent && body.reusable && buffer.is_empty() {
            self.lease.give_back(body.answered);
        }
        if let (Some(whole_bytes), Some(from)) = (self.client.whole_bytes.take(), self.client.buffer.as_mut()) {
            from.consume(whole_bytes);
        }
        if sent { body.after } else { After::Linger }
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

/// What a failure says of the backend.
pub(super) fn blame(failure: &Failure) -> Outcome {
    match failure {
        Failure::ClientGone
        | Failure::ClientWriteStalled
        | Failure::RequestBodyTimeout
        | Failure::RequestBodyTooSlow
        | Failure::BodyTooLarge
        | Failure::BadChunk(_)
        | Failure::NoLocalPort
        | Failure::NoDescriptor => Outcome::Abandoned,
        _ => Outcome::Failed,
    }
}

impl Wants {
    fn until(&mut self, at: Instant, expiry: Expiry) {
        if self.deadline.is_none_or(|(earliest, _)| at < earliest) {
            self.deadline = Some((at, expiry));
        }
    }
}

impl Stillness {
    /// Since when nothing moved, now that `written` bytes in all have been written.
    fn progress<W: World>(&mut self, written: u64, world: &W) -> Instant {
        if self.written != written {
            self.written = written;
            self.since = world.now();
        }
        self.since
    }
}
