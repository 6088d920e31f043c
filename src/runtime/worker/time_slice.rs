//! A coroutine's time slice: what it may do in one turn, before the network and the others get theirs. Most end by
//! themselves, at the next wait; where work is at hand that never waits (answers made here, a body that flows) the slice is
//! ended here.

use std::cell::Cell;
use std::time::Duration;

use crate::runtime::clock;
use crate::runtime::world::Instant;

/// Pieces of work in a slice, at most: so that hundreds of busy connections make a round of some ten milliseconds.
const PIECES_MAX: u32 = 4;
/// How long a slice lasts, at most, and a piece: a long one may be as dear as many short ones.
const TIME_MAX: Duration = Duration::from_micros(250);

/// The slice of the coroutine that runs.
pub(super) struct TimeSlice {
    pieces: Cell<u32>,
    began: Cell<Instant>,
    /// It began while the events of a look at the network were gone through, not behind them all.
    by_event: Cell<bool>,
}

impl TimeSlice {
    pub(super) const fn new() -> Self {
        Self { pieces: Cell::new(0), began: Cell::new(Instant::NEVER), by_event: Cell::new(false) }
    }

    /// Another coroutine runs, or the same one after a wait; for an event of its own, or because it was woken.
    #[inline]
    pub(super) fn begin(&self, by_event: bool) {
        self.pieces.set(0);
        self.by_event.set(by_event);
    }

    pub(super) fn began_by_event(&self) -> bool {
        self.by_event.get()
    }

    /// Counts a piece of work that is done; true when it was enough. The first one of a slice costs no look at the clock:
    /// as a rule there is no second one.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        let pieces = self.pieces.get() + 1;
        self.pieces.set(pieces);
        pieces > 1 && self.has_lasted(pieces)
    }

    #[cold]
    fn has_lasted(&self, pieces: u32) -> bool {
        let now = clock::now();
        if pieces == 2 {
            self.began.set(now);
        }
        pieces >= PIECES_MAX || now.since(self.began.get()) >= TIME_MAX
    }
}
