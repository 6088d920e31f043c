//! How long an exchange has waited for its client, so that what its backend does then isn't held against the backend.

use std::time::Duration;

use super::stillness::Stillness;
use crate::runtime::world::{Instant, Need};

/// A client that has been waited for this long may be why its backend gives up. Backends wait for theirs for a second at
/// least; what one does sooner is its own doing.
const HELD_UP: Duration = Duration::from_millis(100);
/// A backend that has been waited for this long since, with all of the client's in its hands, has itself to blame. Shorter
/// waits come when a client reads on: what a backend sent before it gave up is still under way.
const MADE_UP: Duration = Duration::from_secs(1);

/// What an exchange has waited for its client.
#[derive(Default)]
pub(super) struct Holdup {
    /// What the client has to do, and when the wait for it began. `Some((None, _))`: the backend alone is waited for.
    wait: Option<(Option<Need>, Instant)>,
    /// The last wait was for the client.
    for_client: bool,
    /// How long the client has held the exchange up.
    client: Duration,
    /// The client didn't send the rest of its request, which the answer's end may wait for.
    unsent: bool,
}

impl Holdup {
    /// A wait begins for the client, which has to do this, or for the backend alone.
    #[inline]
    pub(super) fn wait_begins(&mut self, need: Option<Need>, now: impl FnOnce() -> Instant) {
        self.for_client = need.is_some();
        // Where no client has been waited for, nothing has to be measured.
        if self.for_client || !self.client.is_zero() {
            self.wait = Some((need, now()));
        }
    }

    /// The wait, if one was begun, is over; since when both directions have stood still until now.
    #[inline]
    pub(super) fn wait_ends(&mut self, up: &Stillness, down: &Stillness, now: impl FnOnce() -> Instant) {
        let Some((need, since)) = self.wait.take() else { return };
        let now = now();
        if matches!(need, Some(Need::Read | Need::Either)) {
            // However small its pieces are: many backends time the whole.
            self.client += now.since(since);
        }
        if matches!(need, Some(Need::Write | Need::Either)) {
            // One that reads takes a little at a time, as room comes: only without any does it hold its backend up.
            self.has_waited_to_write(now.since(down.since()));
        }
        if need.is_none() && now.since(up.since().max(down.since())) >= MADE_UP {
            self.client = Duration::ZERO;
        }
    }

    /// The client has taken nothing for so long.
    fn has_waited_to_write(&mut self, waited: Duration) {
        self.client = self.client.max(waited);
    }

    /// The client has sent all that was waited for.
    pub(super) fn request_is_sent(&mut self) {
        self.client = Duration::ZERO;
    }

    /// The rest of the request has been waited for in vain.
    pub(super) fn request_stays_unsent(&mut self) {
        self.unsent = true;
    }

    /// Whether the client has held the exchange up so that its backend may have given up on it.
    pub(super) fn is_due_to_client(&self) -> bool {
        let client = self.client;
        #[cfg(feature = "sabotage-blame-backend")] // Broken on purpose: ./x sabotage
        let client = client.min(Duration::ZERO);
        client >= HELD_UP || self.unsent
    }

    /// Whether it is the client that was waited for last.
    pub(super) fn waited_for_client(&self) -> bool {
        self.for_client || self.unsent
    }
}
