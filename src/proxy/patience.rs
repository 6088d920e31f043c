//! Waiting with little. Most waits are short, and keep all they have at hand. One that goes on keeps the bytes that it has
//! to keep, without the buffers around them and without the stack that isn't in use: slow clients come by the thousand.

use std::time::Duration;

use super::Proxy;
use super::client::Parked;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Wake, Watch, World};

/// How long a wait keeps its stack, and its buffers too when it is for a backend. Beyond it, what a long wait saves
/// outweighs what taking it up again costs.
pub(super) const SLOW_AFTER: Duration = Duration::from_millis(250);

/// Whom a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A backend alone: it answers soon, as a rule.
    Backend,
    /// The client, whoever else: nobody knows how slow it is.
    Client,
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Waits as [`World::wait`] does. Of `buffers` the empty ones go back to their lists; the others keep their bytes,
    /// though not always in the same buffer. A wait that goes on at `slow_at` is a long one; who waits again and again
    /// keeps that moment, so that a short wait costs no look at the clock.
    pub(super) fn wait_holding(
        &self,
        buffers: [&mut Option<Buffer>; 2],
        whom: For,
        on: &W::Stream,
        also: Option<(&W::Stream, Watch)>,
        deadline: Instant,
        slow_at: &mut Instant,
    ) -> Wake {
        let buffers = buffers.map(|buffer| {
            buffer.take_if(|buffer| buffer.is_empty());
            buffer
        });
        if whom == For::Backend {
            let wake = self.world.wait(on, also, deadline.min(*slow_at));
            if wake != Wake::Deadline || deadline <= *slow_at {
                return wake;
            }
        }
        self.wait_shelved(buffers, on, also, deadline, slow_at)
    }

    /// Waits with the buffers' bytes alone, and from `slow_at` on without the unused part of the stack.
    #[inline(never)]
    fn wait_shelved(
        &self,
        buffers: [&mut Option<Buffer>; 2],
        on: &W::Stream,
        also: Option<(&W::Stream, Watch)>,
        deadline: Instant,
        slow_at: &mut Instant,
    ) -> Wake {
        let shelved = buffers.map(|buffer| {
            let bytes = buffer.take().as_ref().map(bytes_alone);
            (buffer, bytes)
        });
        let mut wake = Wake::Deadline;
        if deadline <= *slow_at || self.world.now() < *slow_at {
            wake = self.world.wait(on, also, deadline.min(*slow_at));
        }
        if wake == Wake::Deadline && *slow_at < deadline {
            wake = self.world.wait_long(on, also, deadline);
            *slow_at = self.world.now() + SLOW_AFTER;
        }
        for (buffer, bytes) in shelved {
            *buffer = bytes.map(|bytes| self.buffer_with(&bytes));
        }
        wake
    }

    /// A buffer that begins with these bytes.
    pub(super) fn buffer_with(&self, bytes: &[u8]) -> Buffer {
        let fits = bytes.len() <= self.buffers.buffer_bytes();
        let mut buffer = if fits { self.buffers.take() } else { self.body_buffers.take() };
        buffer.append(bytes);
        buffer
    }
}

/// The bytes in memory of just their size.
pub(super) fn bytes_alone(buffer: &Buffer) -> Box<[u8]> {
    buffer.filled().into()
}
