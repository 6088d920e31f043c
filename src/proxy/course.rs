//! One try: what has become of the request on its way to the backend, and of the answer on its way back.

use std::time::Duration;

use super::holdup::Holdup;
use super::pace::Pace;
use super::pump::Pump;
use super::stillness::Stillness;
use crate::balance::Backend;
use crate::http1::HopTrailers;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Stream, World};
use crate::upstream::{Lease, Visit};

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

/// The answer's way to the client.
#[expect(clippy::large_enum_variant, reason = "one lives on the stack for each exchange; a box would allocate")]
pub(super) enum Download<S: Stream> {
    /// Waiting for its head.
    Head,
    /// Its body is on its way.
    Body(Body<S>),
}

#[expect(clippy::struct_excessive_bools, reason = "what is known of an answer is a list of independent facts")]
pub(super) struct Body<S: Stream> {
    pub(super) pump: Pump<S>,
    /// The client was told that it is the last one on its connection.
    pub(super) last: bool,
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

/// What one try has come to.
pub(super) struct Course<W: World> {
    pub(super) lease: Lease<W>,
    pub(super) visit: Visit<W>,
    /// The connection belongs to the client's from now on.
    pub(super) pinned: bool,
    pub(super) began: Instant,
    pub(super) upload: Upload<W::Stream>,
    pub(super) download: Download<W::Stream>,
    /// Bytes of the answer that were read and not used up.
    pub(super) held: Option<Buffer>,
    pub(super) up: Stillness,
    pub(super) down: Stillness,
    pub(super) pace: Option<Pace>,
    /// A failed write takes the error that the next read would have had: what looks like an end may be a reset.
    pub(super) upstream_failed: bool,
    /// The client closed its sending side at this moment.
    pub(super) half_closed_at: Option<Instant>,
    /// Interim answers that were sent on.
    pub(super) interim: u32,
    /// What the client has not taken yet of the last of them.
    pub(super) unsent: Vec<u8>,
    /// What the answer's `Connection` keeps from going further behind its body.
    pub(super) hop_trailers: Option<HopTrailers>,
    /// When the client was told to go on with its body (100).
    pub(super) continued_at: Option<Instant>,
    pub(super) holdup: Holdup,
    /// Since when the backend's connection is idle behind the answer, and until when its server keeps it; None: it closes.
    pub(super) idle: Option<(Instant, Instant)>,
}

impl<W: World> Course<W> {
    /// A try that has a connection since `began`, over which all of the request is sent, unless something else is said.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn new(lease: Lease<W>, visit: Visit<W>, pinned: bool, began: Instant) -> Self {
        Self {
            lease,
            visit,
            pinned,
            began,
            upstream_failed: false,
            upload: Upload::Done,
            download: Download::Head,
            held: None,
            up: Stillness::new(began),
            down: Stillness::new(began),
            pace: None,
            half_closed_at: None,
            interim: 0,
            unsent: Vec::new(),
            hop_trailers: None,
            continued_at: None,
            holdup: Holdup::default(),
            idle: None,
        }
    }

    /// Something of the request is still to be sent, of whose payload so many bytes a second have to come; 0: any number.
    /// Its pump, and where to.
    pub(super) fn begin_upload(
        &mut self,
        pump: Pump<W::Stream>,
        body_rate_min: u64,
    ) -> (&mut Pump<W::Stream>, &W::Stream) {
        self.pace = Pace::new(body_rate_min);
        self.upload = Upload::Streaming(pump);
        let Upload::Streaming(pump) = &mut self.upload else { unreachable!("it has just been set") };
        (pump, &self.lease.stream)
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
    pub(super) fn is_sent_now(&mut self, now: Instant) {
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
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.download, Download::Body(_))
    }

    /// All of the answer was, and the rest of the request is still to go out.
    pub(super) fn is_through(&self) -> bool {
        matches!(&self.download, Download::Body(body) if body.is_through)
    }

    /// The answer is a 101: what follows belongs to the tunnel, on the client's side behind its request's body.
    pub(super) fn is_switched(&self) -> bool {
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
