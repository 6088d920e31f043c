//! Tunnels: after a 101 the two connections are joined byte for byte (RFC 9110 §7.8).

use super::Proxy;
use super::client::{Client, Parked};
use super::error::Failure;
use super::exchange::After;
use super::patience::SLOW_AFTER;
use super::pump::{Pump, PumpError, Step};
use crate::http1::Framing;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Stream, Wake, Watch, World};

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Sends the 101's `head` and moves bytes both ways until the backend ends, the client ends and the backend has
    /// said its last within `timeouts.half_closed`, or nothing moves for `timeouts.tunnel_idle`. Buffered bytes of
    /// either side go first.
    pub(super) fn tunnel(
        &self,
        client: &mut Client<W::Stream>,
        upstream: &W::Stream,
        mut from_upstream: Buffer,
        head: &mut Vec<u8>,
    ) -> After {
        let timeouts = &self.shared.config.timeouts;
        let mut from_client = client.buffer.take().unwrap_or_else(|| self.buffers.take());
        if let Some(whole_bytes) = client.whole_bytes.take() {
            from_client.consume(whole_bytes);
        }
        let mut up = Pump::new(Framing::UntilClose, false, 0, 0);
        let mut down = Pump::new(Framing::UntilClose, false, 0, 0);
        if down.begin(head, &mut from_upstream, &client.stream).is_err()
            || up.begin(&mut Vec::new(), &mut from_client, upstream).is_err()
        {
            return After::Cut;
        }
        let (mut from_client, mut from_upstream) = (Some(from_client), Some(from_upstream));
        let mut client_ended = false;
        let (mut moved, mut since) = (0, self.world.now());
        let mut slow_at = since + SLOW_AFTER;
        loop {
            let outbound = from_client.get_or_insert_with(|| self.buffers.take());
            let inbound = from_upstream.get_or_insert_with(|| self.buffers.take());
            let steps = (
                if client_ended { Ok(Step::Done) } else { up.step(&client.stream, outbound, upstream) },
                down.step(upstream, inbound, &client.stream),
            );
            let (up_step, down_step) = match steps {
                (_, Ok(Step::Done)) => return if client_ended { After::Close } else { After::Linger },
                (Ok(up_step), Ok(down_step)) => (up_step, down_step),
                // The backend reads no more, but may have something to say.
                (Err(PumpError::Write), Ok(down_step)) => (Step::Done, down_step),
                _ => return After::Cut,
            };
            if up_step == Step::Done && !client_ended {
                client_ended = true;
                upstream.shutdown_write();
            }
            if up_step == Step::Yields || down_step == Step::Yields {
                self.world.yield_now(upstream);
                continue;
            }
            let now_moved = up.written() + down.written();
            if now_moved != moved {
                (moved, since) = (now_moved, self.world.now());
            }
            let (patience, failure) = match down_step {
                // The backend has said what it had to say.
                Step::NeedsRead if client_ended => (timeouts.half_closed, None),
                _ if client_ended => (timeouts.write, Some(Failure::ClientWriteStalled)),
                _ => (timeouts.tunnel_idle, Some(Failure::TunnelIdle)),
            };
            let also = Some((&client.stream, Watch::Everything));
            let deadline = since + patience;
            let mut buffers = [&mut from_client, &mut from_upstream];
            let soon = self.wait_until_slow(&mut buffers, upstream, also, deadline, slow_at);
            let wake = soon.unwrap_or_else(|| self.wait_long(&mut buffers, upstream, also, deadline, &mut slow_at));
            if wake == Wake::Deadline {
                if let Some(failure) = failure {
                    self.count(failure.view().reason);
                }
                return After::Close;
            }
        }
    }
}
