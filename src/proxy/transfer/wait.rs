//! What a transfer waits for when neither of its directions can go on.

use super::{Download, Transfer, Upload};
use crate::proxy::client::{LINGER, Parked};
use crate::runtime::world::{Instant, Need, PeerState, Stream, Wake, Watch, World};

/// What the loop waits for, and until when.
#[derive(Default)]
pub(super) struct Wants {
    /// What the client has to do: send, or take.
    pub(super) client: Option<Need>,
    pub(super) upstream: bool,
    deadline: Option<(Instant, Expiry)>,
}

/// What a deadline that has passed says.
#[derive(Clone, Copy)]
pub(super) enum Expiry {
    RequestBody,
    RequestBodyRate,
    RequestWrite,
    ResponseHead,
    ResponseBody,
    ClientWrite,
    HalfClosed,
}

/// How a wait ended.
pub(super) enum Waited {
    Woken,
    Expired(Expiry),
    /// It goes on, and needs no coroutine; until when.
    Aside(Need, Instant),
}

impl<W: World<Parked = Parked>> Transfer<'_, W> {
    /// Waits for either stream.
    pub(super) fn wait(&mut self, wants: &Wants) -> Waited {
        let (mut deadline, mut expiry) = wants.deadline.unwrap_or((Instant::NEVER, Expiry::ResponseHead));
        if wants.client.is_none() {
            match self.client.stream.peer_state() {
                PeerState::Reset => return Waited::Expired(Expiry::HalfClosed),
                // It has its answer, and what it sent goes on.
                PeerState::HalfClosed if self.course.is_through() => {}
                PeerState::HalfClosed => {
                    let world = &self.proxy.world;
                    let at = *self.course.half_closed_at.get_or_insert_with(|| world.now());
                    let moved = self.course.down.since().max(self.course.up.since());
                    let patience = at.max(moved) + self.proxy.shared.config.timeouts.half_closed;
                    if patience < deadline {
                        (deadline, expiry) = (patience, Expiry::HalfClosed);
                    }
                }
                PeerState::Open => {}
            }
        }
        self.course.holdup.wait_begins(wants.client, || self.proxy.world.now());
        let (upstream, client) = (&self.course.lease.stream, &self.client.stream);
        let held = &mut [&mut self.course.held, &mut self.client.buffer];
        let wake = if let Some(need) = wants.client {
            let (on, also) =
                if wants.upstream { (upstream, Some((client, Watch::Everything))) } else { (client, None) };
            let Some(wake) = self.proxy.wait_until_slow(held, on, also, deadline, self.slow_at) else {
                return self.lay_aside_until(need, wants.upstream, deadline);
            };
            wake
        } else {
            let also = Some((client, Watch::Hangup));
            let soon = self.proxy.wait_for_backend_until_slow(held, upstream, also, deadline, self.slow_at);
            let Some(wake) = soon else { return self.wait_on_for_backend(deadline, expiry) };
            wake
        };
        if wake == Wake::Deadline { Waited::Expired(expiry) } else { Waited::Woken }
    }

    /// Whether the side that has to take something does so, if only slowly.
    pub(super) fn is_taken_slowly(&mut self, expiry: Expiry) -> bool {
        let now = self.proxy.world.now();
        match expiry {
            Expiry::RequestWrite => self.course.up.goes_on(self.course.lease.stream.unsent(), now),
            Expiry::ResponseHead if self.course.is_sent() => {
                // What was written may still be on its way, and the backend's time begins when it has the request.
                let unsent = self.course.lease.stream.unsent();
                let on_its_way = unsent > 0 || self.course.up.was_looked_at();
                let goes_on = on_its_way && self.course.up.goes_on(unsent, now);
                if goes_on {
                    self.course.head_deadline = Some(now + self.proxy.shared.config.request_timeout);
                }
                goes_on
            }
            Expiry::ClientWrite => self.course.down.goes_on(self.client.stream.unsent(), now),
            _ => false,
        }
    }

    /// Waits for a backend that hasn't answered soon.
    #[cold]
    fn wait_on_for_backend(&mut self, deadline: Instant, expiry: Expiry) -> Waited {
        let moved = self.course.up.written() + self.course.down.written();
        if self.lingered_at == moved {
            return self.lay_aside_until(Need::of_waiting(&self.client.stream), true, deadline);
        }
        // The moment may have passed before this wait began: bytes have moved since it was set.
        self.lingered_at = moved;
        self.slow_at = self.proxy.world.now() + LINGER;
        let (upstream, also) = (&self.course.lease.stream, Some((&self.client.stream, Watch::Hangup)));
        let held = &mut [&mut self.course.held, &mut self.client.buffer];
        match self.proxy.wait_for_backend_until_slow(held, upstream, also, deadline, self.slow_at) {
            Some(Wake::Deadline) => Waited::Expired(expiry),
            Some(_) => Waited::Woken,
            None => self.lay_aside_until(Need::of_waiting(&self.client.stream), true, deadline),
        }
    }

    /// The wait goes on without a coroutine, unless the backend has had an event meanwhile.
    fn lay_aside_until(&mut self, need: Need, upstream: bool, deadline: Instant) -> Waited {
        if upstream && !self.proxy.world.tie(&self.client.stream, &self.course.lease.stream) {
            return Waited::Woken;
        }
        self.settle();
        Waited::Aside(need, deadline)
    }

    /// Takes what is in pipes into buffers: a long wait keeps no pipe.
    fn settle(&mut self) {
        let buffers = &self.proxy.body_buffers;
        if let Upload::Streaming(pump) = &mut self.course.upload {
            pump.settle(&mut self.client.buffer, buffers);
        }
        if let Download::Body(body) = &mut self.course.download {
            body.pump.settle(&mut self.course.held, buffers);
        }
    }
}

impl Wants {
    pub(super) fn until(&mut self, at: Instant, expiry: Expiry) {
        if self.deadline.is_none_or(|(earliest, _)| at < earliest) {
            self.deadline = Some((at, expiry));
        }
    }
}
