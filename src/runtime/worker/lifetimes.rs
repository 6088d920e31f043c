//! How long connections live, which decides whether it pays to hand them over to another worker.

use std::cell::Cell;
use std::time::Duration;

/// The mean of how long accepted connections lived, over the last few.
pub(super) struct Lifetimes {
    mean_ns: Cell<u64>,
}

impl Lifetimes {
    /// From here on a connection is worth a wake-up of another worker.
    const LONG_NS: u64 = 100_000_000;
    /// None counts as longer, so that a few short ones tell.
    const MAX_NS: u64 = 1_000_000_000;

    /// Supposes that they are long.
    pub(super) const fn new() -> Self {
        Self { mean_ns: Cell::new(Self::MAX_NS) }
    }

    /// Counts a connection that has ended.
    pub(super) fn add(&self, lived: Duration) {
        let lived_ns = u64::try_from(lived.as_nanos()).unwrap_or(u64::MAX).min(Self::MAX_NS);
        let mean_ns = self.mean_ns.get();
        self.mean_ns.set(mean_ns - mean_ns / 8 + lived_ns / 8);
    }

    pub(super) fn are_long(&self) -> bool {
        self.mean_ns.get() >= Self::LONG_NS
    }
}
