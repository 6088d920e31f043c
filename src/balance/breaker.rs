//! A backend's circuit breaker: what speaks for and against it, and when that turns its [`Gate`]. Only failures look at
//! what all workers have counted; a success costs its worker a few plain stores. The counts are the backend's, and the
//! thresholds are handed in, so that other ones may come while requests are in flight.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::cells::bump;
use super::gate::{Gate, Standing, Word};

/// The window moves on in so many steps.
const BUCKETS: u64 = 10;
/// A bucket's key is its number on the clock below the gate's epoch.
const NUMBER_BITS: u32 = 40;

/// When a backend has failed too much, and when it is trusted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// So many failures in a row, over all workers, are too many; at least 1.
    pub consecutive_failures: u32,
    /// Such a part of the requests within `window`, 1–100, is too large if there are `minimum_requests` of them.
    pub error_percent: u32,
    /// See `error_percent`; at least 1.
    pub minimum_requests: u32,
    /// How long a request counts for `error_percent`, to a tenth of itself; at least 1 µs.
    pub window: Duration,
    /// So many requests are sent on trial, all of which must pass; 1–100.
    pub trials: u8,
    /// Answers of these statuses are failures.
    pub failing: Vec<RangeInclusive<u16>>,
}

/// What was seen of a request to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It began an answer that is none of a failing status.
    Good,
    /// It failed, or answered with a failing status.
    Bad,
    /// It broke off an answer that was seen as good when it began.
    Cut,
    /// Nothing that could be held against it, or for it.
    Nothing,
}

/// A change of a breaker's state that a worker has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// So many requests in a row have failed.
    TrippedInARow(u32),
    /// So many of those within the window have.
    TrippedByShare {
        /// Those that failed,
        failed: u64,
        /// and all.
        of: u64,
    },
    /// A request that was sent on trial has failed.
    Relapsed,
    /// All that were sent on trial have passed.
    Recovered,
}

/// What is counted of a backend's requests, for its breaker.
#[derive(Debug)]
pub(super) struct Counts {
    /// Failures since the last success.
    consecutive: AtomicU32,
    /// Each written by its worker alone.
    windows: Box<[CachePadded<Window>]>,
}

#[derive(Debug, Default)]
struct Window([Bucket; BUCKETS as usize]);

/// A tenth of the window.
#[derive(Debug, Default)]
struct Bucket {
    /// Which one; the place of an old one is taken.
    key: AtomicU64,
    requests: AtomicU64,
    failed: AtomicU64,
}

/// A backend's breaker as it takes in what was seen of one request: what was counted, and what the settings make of it.
pub(super) struct Breaker<'b> {
    pub(super) gate: &'b Gate,
    pub(super) counts: &'b Counts,
    pub(super) thresholds: &'b Thresholds,
    /// That of the gate when the request began.
    pub(super) epoch: u32,
    pub(super) worker: usize,
    pub(super) now_ns: u64,
}

impl Thresholds {
    /// What an answer of this status says.
    #[inline]
    pub fn judge(&self, status: u16) -> Seen {
        let fails = self.failing.iter().any(|range| range.contains(&status));
        if fails { Seen::Bad } else { Seen::Good }
    }
}

impl Counts {
    /// For workers `0..workers`.
    pub(super) fn new(workers: usize) -> Self {
        Self { consecutive: AtomicU32::new(0), windows: (0..workers).map(|_| CachePadded::default()).collect() }
    }

    /// Failures in a row until now, or until it tripped.
    pub(super) fn consecutive_failures(&self) -> u32 {
        self.consecutive.load(Ordering::Relaxed)
    }
}

impl Breaker<'_> {
    /// Takes in what was seen of the request, and tells of the turn that this makes.
    pub(super) fn observe(&self, seen: Seen, tell: impl FnOnce(Transition) -> bool) {
        let word = self.gate.word();
        if word.epoch != self.epoch {
            return;
        }
        match (word.standing, seen) {
            (Standing::Closed, Seen::Good) => {
                self.note(1, 0);
                // The line is shared by all workers: mostly it has only to be read.
                if self.counts.consecutive.load(Ordering::Relaxed) != 0 {
                    self.counts.consecutive.store(0, Ordering::Relaxed);
                }
            }
            (Standing::Closed, Seen::Bad) => self.fail(1, tell),
            // It was counted when it began.
            (Standing::Closed, Seen::Cut) => self.fail(0, tell),
            (Standing::Trial, Seen::Good) => self.pass(tell),
            (Standing::Trial, Seen::Bad | Seen::Cut) => {
                let relapsed =
                    |word: Word| word.is(self.epoch, Standing::Trial).then(|| word.turned(Standing::Avoided));
                self.gate.turn(relapsed, || tell(Transition::Relapsed));
            }
            (Standing::Trial, Seen::Nothing) => self.gate.give_token_back(self.epoch),
            (Standing::Closed, Seen::Nothing) | (Standing::Avoided | Standing::Tolerated, _) => {}
        }
    }

    #[cold]
    fn fail(&self, requests: u64, tell: impl FnOnce(Transition) -> bool) {
        self.note(requests, 1);
        let in_a_row = self.counts.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let turn = if in_a_row >= self.thresholds.consecutive_failures {
            Transition::TrippedInARow(in_a_row)
        } else {
            let (failed, of) = self.recent();
            let enough = of >= self.thresholds.minimum_requests.into();
            if !enough || failed * 100 < of * u64::from(self.thresholds.error_percent) {
                return;
            }
            Transition::TrippedByShare { failed, of }
        };
        let tripped = |word: Word| word.is(self.epoch, Standing::Closed).then(|| word.turned(Standing::Avoided));
        self.gate.turn(tripped, || tell(turn));
    }

    #[cold]
    fn pass(&self, tell: impl FnOnce(Transition) -> bool) {
        // Nothing is counted on trial, so that this is over before the row begins anew.
        self.counts.consecutive.store(0, Ordering::Relaxed);
        let passed = |word: Word| {
            word.is(self.epoch, Standing::Trial).then(|| match word.passed + 1 {
                passed if passed < word.trials => Word { passed, ..word },
                _ => word.turned(Standing::Closed),
            })
        };
        self.gate.turn(passed, || tell(Transition::Recovered));
    }

    #[inline]
    fn note(&self, requests: u64, failed: u64) {
        let Some(window) = self.counts.windows.get(self.worker) else { return };
        let (number, key) = self.bucket();
        let bucket = &window.0[(number % BUCKETS) as usize];
        if bucket.key.load(Ordering::Relaxed) != key {
            bucket.requests.store(0, Ordering::Relaxed);
            bucket.failed.store(0, Ordering::Relaxed);
            bucket.key.store(key, Ordering::Relaxed);
        }
        if requests > 0 {
            bump(&bucket.requests);
        }
        if failed > 0 {
            bump(&bucket.failed);
        }
    }

    /// Failures and requests of the window that ends now, over all workers.
    fn recent(&self) -> (u64, u64) {
        let (number, last) = self.bucket();
        let window = last - number.min(BUCKETS - 1)..=last;
        let (mut failed, mut requests) = (0, 0);
        for bucket in self.counts.windows.iter().flat_map(|window| &window.0) {
            if window.contains(&bucket.key.load(Ordering::Relaxed)) {
                failed += bucket.failed.load(Ordering::Relaxed);
                requests += bucket.requests.load(Ordering::Relaxed);
            }
        }
        (failed, requests)
    }

    /// Its number on the clock, and its key, which no bucket of another epoch has.
    fn bucket(&self) -> (u64, u64) {
        let window_ns = u64::try_from(self.thresholds.window.as_nanos()).unwrap_or(u64::MAX);
        let number = (self.now_ns / (window_ns / BUCKETS).max(1)) & ((1 << NUMBER_BITS) - 1);
        (number, u64::from(self.epoch.wrapping_add(1)) << NUMBER_BITS | number)
    }
}

#[cfg(test)]
mod tests;
