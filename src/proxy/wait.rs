//! Waiting with little. Most waits are short, and keep all they have at hand. One that goes on keeps the bytes that it has
//! to keep, without the buffers around them and without the stack that isn't in use: slow clients come by the thousand.

use std::time::Duration;

use super::bound::Bound;
use super::client::bytes_alone;
use super::error::Failure;
use super::parked::Parked;
use super::worker::Proxy;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, Wake, Watch, World};

/// How long a wait keeps its stack, and its buffers too when it is for a backend. Beyond it, what a long wait saves
/// outweighs what taking it up again costs.
pub(super) const SLOW_AFTER: Duration = Duration::from_millis(250);

/// Buffers of one exchange. A wait gives empty ones back to their lists; the others keep their bytes, though not always
/// in the same buffer.
pub(super) struct Held<'b> {
    pub(super) buffers: [&'b mut Option<Buffer>; 2],
    /// Whose lists other buffers come from.
    pub(super) bound: &'b Bound,
}

/// What a transfer waits for, and until when.
#[derive(Default)]
pub(super) struct Wants {
    /// What the client has to do: send, or take.
    pub(super) client: Option<Need>,
    pub(super) upstream: bool,
    pub(super) deadline: Option<(Instant, Expiry)>,
    /// It could go on, but others may want a turn.
    pub(super) yields: bool,
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

impl Wants {
    /// The client has to take something until then.
    pub(super) fn room_until(&mut self, until: Instant) {
        self.client = Some(self.client.map_or(Need::Write, |_| Need::Either));
        self.until(until, Expiry::ClientWrite);
    }

    pub(super) fn until(&mut self, at: Instant, expiry: Expiry) {
        if self.deadline.is_none_or(|(earliest, _)| at < earliest) {
            self.deadline = Some((at, expiry));
        }
    }
}

impl Expiry {
    /// Why the exchange ends by it; behind a 101 the body is a tunnel's.
    pub(super) fn failure(self, switched: bool) -> Failure {
        match self {
            Self::RequestBody => Failure::RequestBodyTimeout,
            Self::RequestBodyRate => Failure::RequestBodyTooSlow,
            Self::RequestWrite | Self::ResponseHead => Failure::ResponseTimeout,
            Self::ResponseBody if switched => Failure::TunnelIdle,
            Self::ResponseBody => Failure::ResponseBodyTimeout,
            Self::ClientWrite => Failure::ClientWriteStalled,
            Self::HalfClosed => Failure::ClientGone,
        }
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Waits as [`World::wait`] does, for a client: how slow it is isn't known, so the buffers' bytes alone are kept.
    /// None at `slow_at`, when the wait goes on and has become a long one.
    pub(super) fn wait_until_slow(
        &self,
        held: Held<'_>,
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
            self.wait_once(on, also, deadline, slow_at)
        })
    }

    /// The same, for a backend: it answers soon, as a rule, and buffers that hold bytes stay as they are.
    pub(super) fn wait_for_backend_until_slow(
        &self,
        mut held: Held<'_>,
        on: &W::Stream,
        also: Option<(&W::Stream, Watch)>,
        deadline: Instant,
        slow_at: Instant,
    ) -> Option<Wake> {
        for buffer in &mut held.buffers {
            give_back_empty(buffer);
        }
        self.wait_once(on, also, deadline, slow_at)
    }

    #[inline]
    fn wait_once(
        &self,
        on: &W::Stream,
        also: Option<(&W::Stream, Watch)>,
        deadline: Instant,
        slow_at: Instant,
    ) -> Option<Wake> {
        let wake = self.world.wait(on, also, deadline.min(slow_at));
        (wake != Wake::Deadline || deadline <= slow_at).then_some(wake)
    }

    #[inline(never)]
    fn shelved<R>(&self, mut held: Held<'_>, wait: impl FnOnce() -> R) -> R {
        let shelved = held.buffers.each_mut().map(|buffer| {
            give_back_empty(buffer);
            buffer.take().as_ref().map(bytes_alone)
        });
        let result = wait();
        for (buffer, bytes) in held.buffers.into_iter().zip(shelved) {
            *buffer = bytes.map(|bytes| self.buffer_with(held.bound, &bytes));
        }
        result
    }
}

fn give_back_empty(buffer: &mut Option<Buffer>) {
    buffer.take_if(|buffer| buffer.is_empty());
}
