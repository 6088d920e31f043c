//! The system's clocks, read through the vDSO.

use super::world::Instant;

/// Monotonic time, exact.
pub fn now() -> Instant {
    Instant(read(libc::CLOCK_MONOTONIC))
}

/// Monotonic time on the same scale as [`now`], up to one kernel tick (1–10 ms) late, for a quarter of the cost.
pub fn now_coarse() -> Instant {
    Instant(read(libc::CLOCK_MONOTONIC_COARSE))
}

/// Whole seconds since the Unix epoch.
pub fn unix_seconds() -> u64 {
    read(libc::CLOCK_REALTIME_COARSE) / 1_000_000_000
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to, and the clocks named above exist on every Linux since 2.6.32.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_follows_the_exact_one() {
        let before = now();
        let coarse = now_coarse();
        let behind = before.since(coarse);
        assert!(behind.as_millis() <= 20, "coarse clock is {behind:?} behind");
    }
}
