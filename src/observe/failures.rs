//! How often exchanges failed, and why.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::Reason;

/// Failures by reason, in a cell for each worker: written by that worker alone, on cache lines of its own.
#[derive(Debug)]
pub struct FailureCounts(Box<[CachePadded<Cell>]>);

#[derive(Debug)]
struct Cell([AtomicU64; Reason::ALL.len()]);

impl FailureCounts {
    /// Cells for workers `0..workers`, all zero.
    pub fn new(workers: usize) -> Self {
        let cell = || CachePadded::new(Cell([const { AtomicU64::new(0) }; Reason::ALL.len()]));
        Self((0..workers).map(|_| cell()).collect())
    }

    /// Counts one more. Only `worker`'s own thread may call it with its number: another one's updates could be lost. A
    /// number beyond the workers that this was made for is ignored.
    pub fn count(&self, worker: usize, reason: Reason) {
        if let Some(Cell(counts)) = self.0.get(worker).map(|cell| &**cell) {
            let count = &counts[reason as usize];
            // With one writer no locked increment is needed.
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// How often, over all workers.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0.iter().map(|cell| cell.0[reason as usize].load(Ordering::Relaxed)).sum()
    }

    /// Each reason with its count, in the order of [`Reason::ALL`].
    pub fn all(&self) -> Vec<(Reason, u64)> {
        Reason::ALL.iter().map(|&reason| (reason, self.of(reason))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_workers_and_reasons_kept_apart() {
        let counts = FailureCounts::new(2);
        counts.count(0, Reason::NoBackend);
        counts.count(1, Reason::NoBackend);
        counts.count(1, Reason::ClientGone);
        counts.count(2, Reason::ClientGone);
        assert_eq!((counts.of(Reason::NoBackend), counts.of(Reason::ClientGone)), (2, 1));
        assert_eq!(counts.all().iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
