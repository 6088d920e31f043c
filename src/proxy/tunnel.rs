//! Tunnels: after a 101 the two connections are joined byte for byte (RFC 9110 §7.8). One in which nothing moves needs no
//! coroutine.

use std::time::Duration;

use super::course::{Body, Course, Download};
use super::error::Failure;
use super::parked::Parked;
use super::pump::{Pump, PumpError, Step};
use super::record::End;
use super::state::{Ended, Exchange, Tunnel, Work};
use super::stillness::Stillness;
use super::wait::{Held, SLOW_AFTER};
use crate::http1::Framing;
use crate::runtime::world::{Instant, Need, PeerState, Stream, Wake, Watch, World};

impl<W: World<Parked = Parked>> Exchange<'_, W> {
    /// Makes a tunnel of a try whose answer is a 101, and whose request is sent. Buffered bytes of either side go first.
    #[cold]
    pub(super) fn open_tunnel(&mut self, course: Course<W>) -> Ended<W> {
        let Course { lease, visit, download, held, .. } = course;
        let Download::Body(Body { pump: down, answered, .. }) = download else { return Ended::CUT };
        let mut up = Pump::new(Framing::UntilClose, false, 0, 0);
        self.client.consume_whole();
        let from_client = self.client.buffer.get_or_insert_with(|| self.facts.bound.buffers.take());
        if up.begin(&mut Vec::new(), from_client, &lease.stream).is_err() {
            return Ended::CUT;
        }
        let stillness = Stillness::new(answered);
        let tunnel = Tunnel { lease, _visit: visit, up, down, client_ended: false, stillness, held };
        self.go_on_tunnelling(Box::new(tunnel), SLOW_AFTER)
    }

    /// Goes on with a tunnel, and keeps the coroutine for `lingers` after the last of its bytes.
    #[cold]
    pub(super) fn go_on_tunnelling(&mut self, mut tunnel: Box<Tunnel<W>>, lingers: Duration) -> Ended<W> {
        match self.tunnel(&mut tunnel, lingers) {
            Ok(ended) => {
                let record = &mut self.stand.record;
                record.up_bytes += tunnel.up.written();
                record.down_bytes += tunnel.down.written();
                record.moved = Some(tunnel.stillness.since());
                if !tunnel.client_ended {
                    tunnel.lease.stream.end_unsaid();
                }
                ended
            }
            Err((need, deadline)) => self.lay_aside(Work::Tunnel(tunnel), need, deadline),
        }
    }

    /// Moves bytes both ways until the backend ends, the client ends and the backend has said its last within
    /// `timeouts.half_closed`, or nothing moves for `timeouts.tunnel_idle`. Or it needs no coroutine until the client does
    /// what it has to, or until then.
    fn tunnel(&mut self, tunnel: &mut Tunnel<W>, lingers: Duration) -> Result<Ended<W>, (Need, Instant)> {
        let Self { proxy, client, facts, stand, .. } = self;
        let (world, bound) = (&proxy.world, &facts.bound);
        let timeouts = &bound.route.rules.timeouts;
        let mut slow_at = world.now() + lingers;
        let Tunnel { lease, up, down, client_ended, stillness, held, .. } = tunnel;
        loop {
            let upstream = &lease.stream;
            let outbound = client.buffer.get_or_insert_with(|| bound.buffers.take());
            let inbound = held.get_or_insert_with(|| bound.buffers.take());
            let steps = (
                if *client_ended { Ok(Step::Done) } else { up.step(&client.stream, outbound, upstream) },
                down.step(upstream, inbound, &client.stream),
            );
            let (up_step, down_step) = match steps {
                (_, Ok(Step::Done)) => return Ok(Ended::Answered { last: true, unread: !*client_ended }),
                (Ok(up_step), Ok(down_step)) => (up_step, down_step),
                // The backend reads no more, but may have something to say.
                (Err(PumpError::Write), Ok(down_step)) => (Step::Done, down_step),
                _ => return Ok(Ended::CUT),
            };
            if up_step == Step::Done && !*client_ended {
                *client_ended = true;
                upstream.shutdown_write();
            }
            if up_step == Step::Yields || down_step == Step::Yields {
                world.take_turns(upstream);
                continue;
            }
            let blocked = up_step == Step::NeedsWrite || down_step == Step::NeedsWrite;
            let step = if blocked { Step::NeedsWrite } else { Step::NeedsRead };
            let since = stillness.progress(up.written() + down.written(), step, world);
            slow_at = slow_at.max(since + lingers);
            let (still_max, failure) = match down_step {
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
                _ if client.stream.peer_state() == PeerState::Reset => return Ok(Ended::CUT),
                _ => Need::of_waiting(&client.stream),
            };
            let also = Some((&client.stream, Watch::Everything));
            let deadline = if blocked { stillness.until(still_max) } else { since + still_max };
            let buffers = [&mut client.buffer, &mut *held];
            let Some(wake) = proxy.wait_until_slow(Held { buffers, bound }, upstream, also, deadline, slow_at) else {
                if !world.tie(&client.stream, upstream) {
                    continue;
                }
                return Err((need, deadline));
            };
            if wake == Wake::Deadline {
                let unsent = || client.stream.unsent().saturating_add(lease.stream.unsent());
                if blocked && stillness.goes_on(unsent(), world.now()) {
                    continue;
                }
                if let Some(failure) = failure {
                    stand.record.end = End::Failed(failure.view().reason);
                    client.stream.end_unsaid();
                }
                return Ok(Ended::Answered { last: true, unread: false });
            }
        }
    }
}
