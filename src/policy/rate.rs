//! A rate with a burst, as the generic cell rate algorithm keeps it (ITU-T I.371, annex A): one number for each client.

use std::num::NonZero;
use std::time::Duration;

/// So many requests in so much time, and so many at once.
///
/// Each request costs an interval of time. What a client has used is how far its *theoretical arrival time* (of the next
/// request, had it come evenly) lies ahead of now; it may lie ahead by as many intervals as the burst has requests.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    interval_ns: NonZero<u64>,
    /// The burst's intervals.
    depth_ns: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// It may pass.
    pub admits: bool,
    /// What its client has left now.
    pub quota: Quota,
}

/// What a client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// As many more may pass at once.
    pub remaining: u32,
    /// Until there is one more; rounded up to whole seconds.
    pub more_seconds: NonZero<u32>,
}

impl Rate {
    /// `requests` within `per`, and `burst` at once, both at least 1. An interval is whole nanoseconds, so a rate of up to a
    /// million a second is met within a thousandth, and slower ones better.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let per_ns = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let interval_ns = NonZero::new(per_ns / u64::from(requests.max(1))).unwrap_or(NonZero::<u64>::MIN);
        Self { interval_ns, depth_ns: interval_ns.get().saturating_mul(burst.max(1).into()) }
    }

    /// Decides on a request now, and charges the client for it if it may pass. `arrival_ns` is the client's theoretical
    /// arrival time, on the clock of `now_ns`; 0 for one that isn't known.
    pub(super) fn charge(&self, arrival_ns: &mut u64, now_ns: u64) -> Charge {
        let interval_ns = self.interval_ns;
        let mut used_ns = arrival_ns.saturating_sub(now_ns);
        let admits = used_ns.saturating_add(interval_ns.get()) <= self.depth_ns;
        if admits {
            used_ns += interval_ns.get();
            *arrival_ns = now_ns.saturating_add(used_ns);
        }
        let free_ns = self.depth_ns.saturating_sub(used_ns);
        let more_ns = interval_ns.get() - free_ns % interval_ns;
        let more_seconds = u32::try_from(more_ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
        let quota = Quota {
            remaining: u32::try_from(free_ns / interval_ns).unwrap_or(u32::MAX),
            more_seconds: NonZero::new(more_seconds).unwrap_or(NonZero::<u32>::MIN),
        };
        Charge { admits, quota }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Which of the requests at these moments pass.
    fn passing(rate: Rate, moments: &[u64]) -> Vec<u64> {
        let mut arrival_ns = 0;
        moments.iter().copied().filter(|now| rate.charge(&mut arrival_ns, *now).admits).collect()
    }

    #[test]
    fn a_burst_passes_at_once_and_then_exactly_the_rate() {
        let rate = Rate::new(100, Duration::from_secs(1), 200);
        // 1,000 a second for ten seconds.
        let moments: Vec<u64> = (0..10_000).map(|n| 7 * SECOND + n * SECOND / 1_000).collect();
        let passed = passing(rate, &moments);
        let within = |from: u64, to: u64| {
            passed.iter().filter(|at| (from * SECOND..to * SECOND).contains(&(*at - 7 * SECOND))).count()
        };
        // The first second's last interval ends with it.
        assert_eq!(within(0, 1), 200 + 99);
        for second in 1..10 {
            assert_eq!(within(second, second + 1), 100, "second {second}");
        }
    }

    #[test]
    fn what_remains_counts_down_and_comes_back() {
        let rate = Rate::new(1, Duration::from_secs(10), 3);
        let mut arrival_ns = 0;
        let mut at = |seconds: u64| {
            let Charge { admits, quota } = rate.charge(&mut arrival_ns, (1_000 + seconds) * SECOND);
            (admits, quota.remaining, quota.more_seconds.get())
        };
        assert_eq!(at(0), (true, 2, 10));
        assert_eq!(at(0), (true, 1, 10));
        assert_eq!(at(4), (true, 0, 6));
        assert_eq!(at(4), (false, 0, 6));
        assert_eq!(at(9), (false, 0, 1));
        assert_eq!(at(10), (true, 0, 10));
        assert_eq!(at(1_000), (true, 2, 10), "idle time brings no more than the burst");
    }

    #[test]
    fn a_clock_that_is_read_before_another_workers_does_no_harm() {
        let rate = Rate::new(10, Duration::from_secs(1), 2);
        assert_eq!(passing(rate, &[5 * SECOND, 5 * SECOND - 1, 5 * SECOND]), [5 * SECOND, 5 * SECOND]);
    }

    #[test]
    fn the_largest_of_what_can_be_configured_fits() {
        let rate = Rate::new(1, Duration::from_secs(24 * 3600), 100_000);
        let mut arrival_ns = 0;
        let now_ns = 100 * 365 * 24 * 3600 * SECOND;
        for left in (0..100_000).rev() {
            assert_eq!(rate.charge(&mut arrival_ns, now_ns).quota.remaining, left);
        }
        let over = rate.charge(&mut arrival_ns, now_ns);
        assert_eq!((over.admits, over.quota.more_seconds.get()), (false, 24 * 3600));
    }

    proptest! {
        #[test]
        fn no_span_of_time_has_more_than_the_burst_and_the_rate_and_nobody_is_refused_below(
            requests in 1_u32..50,
            burst in 1_u32..20,
            gaps in prop::collection::vec(0_u64..300_000_000, 1..200),
        ) {
            let rate = Rate::new(requests, Duration::from_secs(1), burst);
            let moments: Vec<u64> = gaps.iter().scan(SECOND, |at, gap| { *at += gap; Some(*at) }).collect();
            let passed = passing(rate, &moments);
            let interval_ns = SECOND / u64::from(requests);
            let room = |from: u64, to: u64| u64::from(burst) + (to - from) / interval_ns;
            for (nth, from) in passed.iter().enumerate() {
                for (count, to) in (1..).zip(&passed[nth..]) {
                    assert!(count <= room(*from, *to), "{count} from {from} to {to}");
                }
            }
            // A refused request would have been one too many of some span that ends with it.
            for at in moments.iter().filter(|at| !passed.contains(at)) {
                let before: Vec<u64> = passed.iter().copied().filter(|passed| passed < at).collect();
                let too_many = |nth: usize| (before.len() - nth) as u64 + 1 > room(before[nth], *at);
                assert!((0..before.len()).any(too_many), "refused without need at {at}");
            }
        }
    }
}
