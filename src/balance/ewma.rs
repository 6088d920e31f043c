//! How long a backend takes to answer, as one number that jumps up and comes down slowly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// After this time an observation weighs 1/e of what it did. Finagle and linkerd take the same.
const DECAY: Duration = Duration::from_secs(10);
/// A failed request counts as one that took twice as long as the average, within these bounds: a backend that fails fast
/// must not look like a fast one, and one that failed once (its server closed a kept connection, say) must not be shunned.
const FAILED_MIN_MICROS: f32 = 1e3;
const FAILED_MAX_MICROS: f32 = 10e6;

/// A peak-sensitive moving average of the latencies of one backend, shared by all workers.
///
/// A latency above it replaces it at once; one below pulls it down by how long ago the last one was. Looking at it
/// lets it decay too, so that a backend that was slow gets a request again some time.
///
/// Updates are one load and one store: of two at the same moment one may be lost, which an average can bear.
#[derive(Debug, Default)]
pub struct PeakEwma {
    /// The average in microseconds as an `f32` in the upper half, milliseconds of its moment in the lower; 0 before the
    /// first observation.
    cell: AtomicU64,
}

impl PeakEwma {
    /// Takes in how long an answer took that came at `now_ns`.
    pub fn observe(&self, took: Duration, now_ns: u64) {
        self.observe_micros(took.as_secs_f32() * 1e6, now_ns);
    }

    /// Takes in that a request failed.
    pub fn observe_failure(&self, now_ns: u64) {
        let average = self.micros(now_ns).unwrap_or(0.0);
        self.observe_micros((2.0 * average).clamp(FAILED_MIN_MICROS, FAILED_MAX_MICROS), now_ns);
    }

    fn observe_micros(&self, micros: f32, now_ns: u64) {
        let (average, age) = self.read(now_ns);
        let kept = (-age).exp();
        let next = if micros >= average { micros } else { average * kept + micros * (1.0 - kept) };
        let moment = u64::from((now_ns / 1_000_000) as u32);
        self.cell.store(u64::from(next.max(f32::MIN_POSITIVE).to_bits()) << 32 | moment, Ordering::Relaxed);
    }

    /// The average in microseconds as it is at `now_ns`; None before the first observation.
    pub fn micros(&self, now_ns: u64) -> Option<f32> {
        let (average, age) = self.read(now_ns);
        (average > 0.0).then(|| average * (-age).exp())
    }

    /// The average as it was noted, and how long ago, in units of [`DECAY`].
    fn read(&self, now_ns: u64) -> (f32, f32) {
        let cell = self.cell.load(Ordering::Relaxed);
        // Milliseconds wrap after 49 days. A moment that lies in the future by a hair is another worker's, just now.
        let age_ms = ((now_ns / 1_000_000) as u32).wrapping_sub(cell as u32).cast_signed();
        #[allow(clippy::cast_precision_loss)] // exact enough for a weight
        let age = age_ms.max(0) as f32 / DECAY.as_millis() as f32;
        (f32::from_bits((cell >> 32) as u32), age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn observed(took_ms: u64, now_ns: u64) -> PeakEwma {
        let ewma = PeakEwma::default();
        ewma.observe(Duration::from_millis(took_ms), now_ns);
        ewma
    }

    fn near(got: Option<f32>, want: f32) {
        let got = got.expect("something was observed");
        assert!((got - want).abs() <= want / 1000.0, "{got}, {want} was wanted");
    }

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        assert_eq!(PeakEwma::default().micros(5 * SECOND), None);
        assert!(observed(0, SECOND).micros(SECOND).is_some());
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_and_by() {
        let ewma = observed(10, 0);
        ewma.observe(Duration::from_millis(500), SECOND);
        near(ewma.micros(SECOND), 500_000.0);
        near(ewma.micros(11 * SECOND), 500_000.0 / std::f32::consts::E);
    }

    #[test]
    fn a_quick_answer_pulls_it_down_by_the_time_since_the_last() {
        let ewma = observed(100, 0);
        ewma.observe(Duration::from_millis(10), 0);
        near(ewma.micros(0), 100_000.0);
        ewma.observe(Duration::from_millis(10), 10 * SECOND);
        near(ewma.micros(10 * SECOND), 10_000.0 + 90_000.0 / std::f32::consts::E);
    }

    #[test]
    fn each_failure_in_a_row_makes_it_twice_as_slow() {
        let ewma = observed(10, 0);
        ewma.observe_failure(0);
        near(ewma.micros(0), 20_000.0);
        for _ in 0..20 {
            ewma.observe_failure(0);
        }
        near(ewma.micros(0), 10e6);
        let unknown = PeakEwma::default();
        unknown.observe_failure(0);
        near(unknown.micros(0), 1e3);
    }

    #[test]
    fn a_moment_from_before_the_last_observation_has_no_age() {
        near(observed(10, 5 * SECOND).micros(4 * SECOND), 10_000.0);
        let wrap = (u64::from(u32::MAX) - 1) * 1_000_000;
        near(observed(10, wrap).micros(wrap + 10 * SECOND), 10_000.0 / std::f32::consts::E);
    }
}
