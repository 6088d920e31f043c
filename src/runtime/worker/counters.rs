//! What a worker counts of its own work.

use std::sync::atomic::{AtomicU64, Ordering};

/// One worker's counts, written by it alone but for one. Two cache lines of their own: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Connections accepted, those that came from another worker included.
    pub accepted: Counter,
    /// Accepted connections that have ended.
    pub ended: Counter,
    /// Connections that could not be accepted or kept, for want of descriptors or memory.
    pub accept_errors: Counter,
    /// Panics caught; each ended one connection, or a round of housekeeping.
    pub panics: Counter,
    /// Connections on their way from other workers, which count them up.
    pub(super) arriving: AtomicU64,
}

impl Counters {
    /// Accepted connections that are open or on their way here.
    pub fn open(&self) -> u64 {
        let began = self.accepted.value() + self.arriving.load(Ordering::Relaxed);
        // Another thread may see the end of a connection before its beginning.
        began.saturating_sub(self.ended.value())
    }
}

/// A count with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more; the worker's own thread alone may. With one writer no locked increment is needed.
    pub(super) fn bump(&self) {
        self.0.store(self.value() + 1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
