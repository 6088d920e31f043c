//! A coroutine's turn: what it may do before the network and the others get theirs. Most turns end by themselves, at the
//! next wait; one that has work at hand that never waits (answers made here, a body that flows) is ended here.

use std::cell::Cell;
use std::time::Duration;

use crate::runtime::clock;
use crate::runtime::world::Instant;

/// Pieces of work in a turn, at most: so that hundreds of busy connections make a round of some ten milliseconds.
const PIECES_MAX: u32 = 4;
/// How long a turn lasts, at most, and a piece: a long one may be as dear as many short ones.
const TIME_MAX: Duration = Duration::from_micros(250);

/// The turn of the coroutine that runs.
pub(super) struct Turn {
    pieces: Cell<u32>,
    began: Cell<Instant>,
}

impl Turn {
    pub(super) const fn new() -> Self {
        Self { pieces: Cell::new(0), began: Cell::new(Instant::NEVER) }
    }

    /// Another coroutine runs, or the same one after a wait.
    #[inline]
    pub(super) fn begin(&self) {
        self.pieces.set(0);
    }

    /// Counts a piece of work that is done; true when it was enough. The first one of a turn costs no look at the clock:
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
