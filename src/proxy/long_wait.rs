//! Long waits of a transfer: what is waited for comes late, or little by little.

use super::client::LINGER;
use super::course::{Download, Upload};
use super::parked::Parked;
use super::state::Transfer;
use super::wait::{Expiry, Held};
use crate::runtime::world::{Instant, Need, Stream, Wake, Watch, World};

impl<W: World<Parked = Parked>> Transfer<'_, '_, W> {
    /// Waits for the client, which has to do what it `need`s, and for the backend too where `upstream` says so.
    pub(super) fn wait_for_client(
        &mut self,
        need: Need,
        upstream: bool,
        deadline: Instant,
        expiry: Expiry,
    ) -> Result<Option<Expiry>, (Need, Instant)> {
        let (backend, client) = (&self.course.lease.stream, &self.exchange.client.stream);
        let (on, also) = if upstream { (backend, Some((client, Watch::Everything))) } else { (client, None) };
        let buffers = [&mut self.course.held, &mut self.exchange.client.buffer];
        let held = Held { buffers, bound: &self.exchange.facts.bound };
        match self.exchange.proxy.wait_until_slow(held, on, also, deadline, self.slow_at) {
            Some(Wake::Deadline) => Ok(Some(expiry)),
            Some(_) => Ok(None),
            None => self.lay_aside_until(need, upstream, deadline),
        }
    }

    /// How long a client is served that has closed its sending side.
    #[cold]
    pub(super) fn half_closed_until(&mut self) -> Instant {
        let world = &self.exchange.proxy.world;
        let at = *self.course.half_closed_at.get_or_insert_with(|| world.now());
        let moved = self.course.down.since().max(self.course.up.since());
        at.max(moved) + self.exchange.facts.rules().timeouts.half_closed
    }

    /// Whether the side that has to take something does so, if only slowly.
    pub(super) fn is_taken_slowly(&mut self, expiry: Expiry) -> bool {
        let now = self.exchange.proxy.world.now();
        match expiry {
            Expiry::RequestWrite => self.course.up.goes_on(self.course.lease.stream.unsent(), now),
            Expiry::ResponseHead if self.course.is_sent() => {
                // What was written may still be on its way, and the backend's time begins when it has the request.
                let unsent = self.course.lease.stream.unsent();
                let on_its_way = unsent > 0 || self.course.up.was_looked_at();
                let goes_on = on_its_way && self.course.up.goes_on(unsent, now);
                if goes_on {
                    self.exchange.stand.head_deadline = Some(now + self.exchange.facts.rules().timeouts.response);
                }
                goes_on
            }
            Expiry::ClientWrite => self.course.down.goes_on(self.exchange.client.stream.unsent(), now),
            _ => false,
        }
    }

    /// Waits for a backend that hasn't answered soon.
    #[cold]
    pub(super) fn wait_on_for_backend(
        &mut self,
        deadline: Instant,
        expiry: Expiry,
    ) -> Result<Option<Expiry>, (Need, Instant)> {
        let moved = self.course.up.written() + self.course.down.written();
        if self.lingered_at == moved {
            return self.lay_aside_until(Need::of_waiting(&self.exchange.client.stream), true, deadline);
        }
        // The moment may have passed before this wait began: bytes have moved since it was set.
        self.lingered_at = moved;
        self.slow_at = self.exchange.proxy.world.now() + LINGER;
        let (upstream, also) = (&self.course.lease.stream, Some((&self.exchange.client.stream, Watch::Hangup)));
        let buffers = [&mut self.course.held, &mut self.exchange.client.buffer];
        let held = Held { buffers, bound: &self.exchange.facts.bound };
        match self.exchange.proxy.wait_for_backend_until_slow(held, upstream, also, deadline, self.slow_at) {
            Some(Wake::Deadline) => Ok(Some(expiry)),
            Some(_) => Ok(None),
            None => self.lay_aside_until(Need::of_waiting(&self.exchange.client.stream), true, deadline),
        }
    }

    /// The wait goes on without a coroutine, unless the backend has had an event meanwhile.
    fn lay_aside_until(
        &mut self,
        need: Need,
        upstream: bool,
        deadline: Instant,
    ) -> Result<Option<Expiry>, (Need, Instant)> {
        if upstream && !self.exchange.proxy.world.tie(&self.exchange.client.stream, &self.course.lease.stream) {
            return Ok(None);
        }
        self.empty_pipes();
        Err((need, deadline))
    }

    /// Takes what is in pipes into buffers: a long wait keeps no pipe.
    fn empty_pipes(&mut self) {
        let buffers = &self.exchange.proxy.body_buffers;
        if let Upload::Streaming(pump) = &mut self.course.upload {
            pump.empty_pipe(&mut self.exchange.client.buffer, buffers);
        }
        if let Download::Body(body) = &mut self.course.download {
            body.pump.empty_pipe(&mut self.course.held, buffers);
        }
    }
}
