//! What each worker counts of each backend, and the sum of it that readers get.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::latency::{self, Latency};

/// How a request to a backend ended, for its totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the status code and how long that took: from the request's last byte sent to the answer's head. None where
    /// that says nothing of the backend.
    Answered(u16, Option<Duration>),
    /// It failed before it answered, or in the middle of its answer.
    Failed,
    /// The client left or kept it waiting, or the request was at fault: says nothing of the backend.
    Abandoned,
}

/// What a backend has been seen to do since it was added.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Requests that got an answer's head.
    pub answered: u64,
    /// Requests that failed at the backend.
    pub failed: u64,
    /// Requests that ended through no doing of the backend.
    pub abandoned: u64,
    /// Answers by the status code's first digit: 1xx first, 5xx last.
    pub classes: [u64; 5],
    /// How long answers took.
    pub latency: Latency,
}

/// One worker's counters of one backend: written by that worker alone (plain load and store), read by anyone.
#[derive(Debug)]
pub(super) struct Cell {
    answered: AtomicU64,
    failed: AtomicU64,
    abandoned: AtomicU64,
    classes: [AtomicU64; 5],
    latency: [AtomicU64; latency::BUCKETS],
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            classes: [const { AtomicU64::new(0) }; 5],
            latency: [const { AtomicU64::new(0) }; latency::BUCKETS],
        }
    }
}

impl Cell {
    pub(super) fn record(&self, outcome: Outcome) {
        match outcome {
            Outcome::Answered(status, took) => {
                bump(&self.answered);
                let class = usize::from(status / 100).clamp(1, 5) - 1;
                bump(&self.classes[class]);
                if let Some(took) = took {
                    bump(&self.latency[latency::bucket(took)]);
                }
            }
            Outcome::Failed => bump(&self.failed),
            Outcome::Abandoned => bump(&self.abandoned),
        }
    }

    pub(super) fn add_to(&self, totals: &mut Totals) {
        totals.answered += self.answered.load(Ordering::Relaxed);
        totals.failed += self.failed.load(Ordering::Relaxed);
        totals.abandoned += self.abandoned.load(Ordering::Relaxed);
        for (sum, class) in totals.classes.iter_mut().zip(&self.classes) {
            *sum += class.load(Ordering::Relaxed);
        }
        for (index, count) in self.latency.iter().enumerate() {
            totals.latency.add(index, count.load(Ordering::Relaxed));
        }
    }
}

/// A locked increment would cost what a request's whole bookkeeping costs, and with one writer it isn't needed.
pub(super) fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
