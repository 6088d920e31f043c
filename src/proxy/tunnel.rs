//! Tunnels: after a 101 the two connections are joined byte for byte (RFC 9110 §7.8). One in which nothing moves needs no
//! coroutine.

use std::time::Duration;

use super::Proxy;
use super::aside::{Aside, Work};
use super::client::{Client, LINGER, Parked};
use super::error::Failure;
use super::exchange::{After, Turn};
use super::patience::SLOW_AFTER;
use super::pump::{Pump, PumpError, Step};
use super::request_id::RequestId;
use super::stillness::Stillness;
use crate::http1::Framing;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, PeerState, Stream, Wake, Watch, World};
use crate::upstream::{Lease, Visit};

/// What is known of a tunnel, its client's connection apart.
pub(super) struct Tunnel<W: World> {
    id: RequestId,
    lease: Lease<W>,
    /// In flight until it ends.
    _visit: Visit<W>,
    up: Pump<W::Stream>,
    down: Pump<W::Stream>,
    client_ended: bool,
    stillness: Stillness,
}

impl<W: World> Tunnel<W> {
    /// A tunnel of which `down` has begun to bring the backend's bytes.
    pub(super) fn new(id: RequestId, lease: Lease<W>, visit: Visit<W>, since: Instant, down: Pump<W::Stream>) -> Self {
        let up = Pump::new(Framing::UntilClose, false, 0, 0);
        Self { id, lease, _visit: visit, up, down, client_ended: false, stillness: Stillness::new(since) }
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Moves bytes both ways until the backend ends, the client ends and the backend has
    /// said its last within `timeouts.half_closed`, or nothing moves for `timeouts.tunnel_idle`. Buffered bytes of
    /// either side go first.
    pub(super) fn open_tunnel(
        &self,
        client: &mut Client<W::Stream>,
        mut tunnel: Tunnel<W>,
        from_upstream: Buffer,
    ) -> Turn<W> {
        let mut from_client = client.buffer.take().unwrap_or_else(|| self.buffers.take());
        if let Some(whole_bytes) = client.whole_bytes.take() {
            from_client.consume(whole_bytes);
        }
        if tunnel.up.begin(&mut Vec::new(), &mut from_client, &tunnel.lease.stream).is_err() {
            return Turn::Over(After::Cut);
        }
        client.buffer = Some(from_client);
        self.go_on_tunnelling(client, Box::new(tunnel), Some(from_upstream), SLOW_AFTER)
    }

    /// Goes on with a tunnel that was laid aside. Its bytes often come in a few pieces, or call for an answer at once.
    pub(super) fn resume_tunnel(
        &self,
        client: &mut Client<W::Stream>,
        tunnel: Box<Tunnel<W>>,
        from_upstream: Option<Buffer>,
    ) -> Turn<W> {
        self.go_on_tunnelling(client, tunnel, from_upstream, LINGER)
    }

    /// Moves bytes, and keeps its coroutine for `lingers` after the last of them.
    fn go_on_tunnelling(
        &self,
        client: &mut Client<W::Stream>,
        mut tunnel: Box<Tunnel<W>>,
        mut from_upstream: Option<Buffer>,
        lingers: Duration,
    ) -> Turn<W> {
        let timeouts = &self.shared.config.timeouts;
        let mut slow_at = self.world.now() + lingers;
        loop {
            let Tunnel { lease, up, down, client_ended, stillness, .. } = &mut *tunnel;
            let upstream = &lease.stream;
            let outbound = client.buffer.get_or_insert_with(|| self.buffers.take());
            let inbound = from_upstream.get_or_insert_with(|| self.buffers.take());
            let steps = (
                if *client_ended { Ok(Step::Done) } else { up.step(&client.stream, outbound, upstream) },
                down.step(upstream, inbound, &client.stream),
            );
            let (up_step, down_step) = match steps {
                (_, Ok(Step::Done)) => return Turn::Over(if *client_ended { After::Close } else { After::Linger }),
                (Ok(up_step), Ok(down_step)) => (up_step, down_step),
                // The backend reads no more, but may have something to say.
                (Err(PumpError::Write), Ok(down_step)) => (Step::Done, down_step),
                _ => return Turn::Over(After::Cut),
            };
            if up_step == Step::Done && !*client_ended {
                *client_ended = true;
                upstream.shutdown_write();
            }
            if up_step == Step::Yields || down_step == Step::Yields {
                self.world.take_turns(upstream);
                continue;
            }
            let blocked = up_step == Step::NeedsWrite || down_step == Step::NeedsWrite;
            let step = if blocked { Step::NeedsWrite } else { Step::NeedsRead };
            let since = stillness.progress(up.written() + down.written(), step, &self.world);
            slow_at = slow_at.max(since + lingers);
            let (patience, failure) = match down_step {
                // The backend has said what it had to say.
                Step::NeedsRead if *client_ended => (timeouts.half_closed, None),
                _ if *client_ended => (timeouts.write, Some(Failure::ClientWriteStalled)),
                _ => (timeouts.tunnel_idle, Some(Failure::TunnelIdle)),
            };
            let need = match (up_step, down_step) {
                (Step::NeedsRead, Step::NeedsWrite) => Need::Either,
                (Step::NeedsRead, _) => Need::Read,
                (_, Step::NeedsWrite) => Need::Write,
                // Nothing can be brought to it any more.
                _ if client.stream.peer_state() == PeerState::Reset => return Turn::Over(After::Cut),
                _ => Need::of_waiting(&client.stream),
            };
            let also = Some((&client.stream, Watch::Everything));
            let deadline = if blocked { stillness.until(patience) } else { since + patience };
            let mut buffers = [&mut client.buffer, &mut from_upstream];
            let Some(wake) = self.wait_until_slow(&mut buffers, upstream, also, deadline, slow_at) else {
                if !self.world.tie(&client.stream, upstream) {
                    continue;
                }
                let aside = Aside::new(client, from_upstream, Work::Tunnel(tunnel), need, deadline);
                return Turn::Aside(aside);
            };
            if wake == Wake::Deadline {
                let unsent = || client.stream.unsent().saturating_add(lease.stream.unsent());
                if blocked && stillness.goes_on(unsent(), self.world.now()) {
                    continue;
                }
                if let Some(failure) = failure {
                    self.count(failure.view().reason);
                }
                return Turn::Over(After::Close);
            }
        }
    }
}
