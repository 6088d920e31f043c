//! A log-linear histogram of latencies: four buckets an octave, from 1 us up to 134 s.

use std::time::Duration;

/// Values below this many microseconds have a bucket each; every octave above is cut into this many.
const SUB: u64 = 4;
/// log2 of [`SUB`].
const SUB_BITS: u32 = SUB.trailing_zeros();
/// The octave of the last bucket: 2^26..2^27 us. No deadline of the proxy's lets an answer's head take longer.
const LAST_OCTAVE: u32 = 26;

/// How many buckets there are.
pub(super) const BUCKETS: usize = ((LAST_OCTAVE - SUB_BITS + 2) as usize) * SUB as usize;

/// The bucket that a latency is counted in; the last one takes all that is longer.
pub(super) fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < SUB {
        return micros as usize;
    }
    let octave = micros.ilog2();
    let within = (micros >> (octave - SUB_BITS)) & (SUB - 1);
    let index = u64::from(octave - SUB_BITS + 1) * SUB + within;
    (index as usize).min(BUCKETS - 1)
}

/// Counted latencies.
#[derive(Clone, Debug)]
pub struct Latency {
    counts: [u64; BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

impl Latency {
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time within which a fraction `of` (0–1) of the answers came, rounded up to its bucket's end: at most a
    /// quarter too long. None when nothing was counted.
    pub fn quantile(&self, of: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss)] // counts stay far below 2^53
        let rank = ((count as f64 * of.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Some(end(index.unwrap_or(BUCKETS - 1)))
    }

    pub(super) fn add(&mut self, index: usize, count: u64) {
        self.counts[index] += count;
    }
}

/// The first latency beyond the bucket.
fn end(index: usize) -> Duration {
    let next = index as u64 + 1;
    let micros = if next <= SUB { next } else { (SUB + next % SUB) << (next / SUB - 1) };
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_below_its_buckets_end_and_not_below_the_one_before() {
        for micros in (0..4096).chain([65_535, 65_536, 1_000_000, 30_000_000, (1 << 27) - 1]) {
            let took = Duration::from_micros(micros);
            let index = bucket(took);
            assert!(took < end(index), "{micros} us in bucket {index}");
            assert!(index == 0 || took >= end(index - 1), "{micros} us in bucket {index}");
        }
    }

    #[test]
    fn buckets_are_at_most_a_quarter_wide() {
        for index in 4..BUCKETS {
            let (from, to) = (end(index - 1).as_micros(), end(index).as_micros());
            assert!((to - from) * 4 <= from, "bucket {index}: {from}..{to}");
        }
        assert_eq!(end(BUCKETS - 1), Duration::from_micros(1 << 27));
    }

    #[test]
    fn what_is_too_long_lands_in_the_last_bucket() {
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_the_ends_of_the_buckets_they_fall_in() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        for millis in 1..=100 {
            latency.add(bucket(Duration::from_millis(millis)), 1);
        }
        for (of, exact_ms) in [(0.5, 50), (0.9, 90), (0.99, 99)] {
            let found = latency.quantile(of).unwrap();
            let exact = Duration::from_millis(exact_ms);
            assert!(found >= exact && found <= exact * 5 / 4, "{of}: {found:?}");
        }
        assert!(latency.quantile(0.0).unwrap() >= Duration::from_millis(1));
    }
}
