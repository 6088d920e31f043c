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

/// Buffers of one exchange. A wait gives empty ones back to their lists; the others keep their bytes, though not always
/// in the same buffer.
pub(super) type Held<'b> = [&'b mut Option<Buffer>; 2];

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Waits as [`World::wait`] does, for a client: nobody knows how slow it is, so the buffers' bytes alone are kept.
    /// None at `slow_at`, when the wait goes on and has become a long one.
    pub(super) fn wait_until_slow(
        &self,
        held: &mut Held<'_>,
        on: &W::Stream,
        also: Option<(&W::Stream, Watch)>,
        deadline: Instant,
        slow_at: Instant,
    ) -> Option<Wake> {
        #[cfg(feature = "sabotage-keep-coroutine")] // Broken on purpose: ./x sabotage
        let slow_at = slow_at.max(Instant::NEVER);
        self.shelved(held, || {
            if slow_at < deadline {
                let now = self.world.now();
                if now >= slow_at {
                    return (now >= deadline).then_some(Wake::Deadline);
                }
            }
            let wake = self.world.wait(on, also, deadline.min(slow_at));
            (wake != Wake::Deadline || deadline <= slow_at).then_some(wake)
        })
    }

    /// The same, for a backend: it answers soon, as a rule, and buffers that hold bytes stay as they are.
    pub(super) fn wait_for_backend_until_slow(
        &self,
        held: &mut Held<'_>,
        on: &W::Stream,
        also: Option<(&W::Stream, Watch)>,
        deadline: Instant,
        slow_at: Instant,
    ) -> Option<Wake> {
        for buffer in held.iter_mut() {
            give_back_empty(buffer);
        }
        let wake = self.world.wait(on, also, deadline.min(slow_at));
        (wake != Wake::Deadline || deadline <= slow_at).then_some(wake)
    }

    #[inline(never)]
    fn shelved<R>(&self, held: &mut Held<'_>, wait: impl FnOnce() -> R) -> R {
        let shelved = held.each_mut().map(|buffer| {
            give_back_empty(buffer);
            buffer.take().as_ref().map(bytes_alone)
        });
        let result = wait();
        for (buffer, bytes) in held.iter_mut().zip(shelved) {
            **buffer = bytes.map(|bytes| self.buffer_with(&bytes));
        }
        result
    }

    /// A buffer that begins with these bytes.
    pub(super) fn buffer_with(&self, bytes: &[u8]) -> Buffer {
        let fits = bytes.len() <= self.buffers.buffer_bytes();
        let mut buffer = if fits { self.buffers.take() } else { self.body_buffers.take() };
        buffer.append(bytes);
        buffer
    }
}

fn give_back_empty(buffer: &mut Option<Buffer>) {
    buffer.take_if(|buffer| buffer.is_empty());
}

/// The bytes in memory of just their size.
pub(super) fn bytes_alone(buffer: &Buffer) -> Box<[u8]> {
    buffer.filled().into()
}
