//! How long a worker answers first flights of handshakes before the network and all others get a turn: each takes as long as many
//! requests.

use std::cell::Cell;
use std::time::Duration;

use crate::runtime::world::{Instant, World};

/// First flights that are answered in a turn.
const FLIGHTS_MAX: u32 = 8;
/// How long a turn's flights take together, but for the last: each takes 0.1 to 4 ms, by its key.
const TIME_MAX: Duration = Duration::from_micros(500);

/// Handshakes' share of a worker's turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// In the turn that lasts.
    answered: Cell<u32>,
    /// What that took.
    spent: Cell<Duration>,
    /// Turns that have ended.
    ended: Cell<u64>,
}

/// A flight that is being answered, whose time counts.
pub(super) struct Flight<'t, W: World> {
    turns: &'t Turns,
    world: &'t W,
    began: Instant,
}

impl Turns {
    /// Whether the turn that lasts has a place for one more flight.
    pub(super) fn have_room(&self) -> bool {
        self.answered.get() < FLIGHTS_MAX && self.spent.get() < TIME_MAX
    }

    /// Waits for a turn that has a place for one more first flight.
    #[must_use]
    pub(super) fn take<'t, W: World>(&'t self, world: &'t W, on: &W::Stream) -> Flight<'t, W> {
        while !self.have_room() {
            let turn = self.ended.get();
            world.yield_now(on);
            // The first that comes back begins the next one.
            if self.ended.get() == turn {
                self.ended.set(turn + 1);
                self.answered.set(0);
                self.spent.set(Duration::ZERO);
            }
        }
        self.answered.set(self.answered.get() + 1);
        self.flight(world)
    }

    /// The same for one that has waited before and waits no more: its time counts for those that come next.
    #[must_use]
    pub(super) fn flight<'t, W: World>(&'t self, world: &'t W) -> Flight<'t, W> {
        Flight { turns: self, world, began: world.now() }
    }
}

impl<W: World> Drop for Flight<'_, W> {
    fn drop(&mut self) {
        let Self { turns, world, began } = self;
        turns.spent.set(turns.spent.get() + world.now().since(*began));
    }
}
