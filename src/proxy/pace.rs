//! Whether a client sends its request's body fast enough: `limits.min_body_rate`.

use std::num::NonZero;
use std::time::Duration;

use crate::runtime::world::Instant;

/// How far a client may fall behind its rate: enough for a lost packet or two to be sent again.
const WINDOW: Duration = Duration::from_secs(5);

/// One body's account of time, never more than [`WINDOW`], which it begins with. While the client is waited for, time goes
/// off it; each byte of payload pays its share of a second in. So over every stretch of waiting the client sends its
/// rate times the stretch, less one window. Time in which the client isn't waited for, because the backend takes no
/// more, costs it nothing. Why so: `docs/decisions/004-body-rate.md`.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: NonZero<u64>,
    account: Duration,
    paid_bytes: u64,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// For a body of at least so many bytes of payload a second; None when that is zero, which is no bound.
    pub(super) fn new(bytes_per_second: u64) -> Option<Self> {
        let bytes_per_second = NonZero::new(bytes_per_second)?;
        Some(Self { bytes_per_second, account: WINDOW, paid_bytes: 0, waiting_since: None })
    }

    /// From now on the client is waited for; `payload_bytes` have come so far. Returns when the account will be empty
    /// if nothing more comes.
    pub(super) fn wait(&mut self, payload_bytes: u64, now: Instant) -> Instant {
        self.pause(now);
        let bytes = payload_bytes - self.paid_bytes;
        self.paid_bytes = payload_bytes;
        let worth_ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let worth = Duration::from_nanos(u64::try_from(worth_ns).unwrap_or(u64::MAX));
        self.account = self.account.saturating_add(worth).min(WINDOW);
        self.waiting_since = Some(now);
        now + self.account
    }

    /// The client isn't waited for any more.
    pub(super) fn pause(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.account = self.account.saturating_sub(now.since(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Instant {
        Instant(milliseconds * 1_000_000)
    }

    #[test]
    fn no_rate_is_no_account() {
        assert!(Pace::new(0).is_none());
    }

    #[test]
    fn silence_ends_after_one_window() {
        let mut pace = Pace::new(1000).unwrap();
        assert_eq!(pace.wait(0, at(100)), at(5100));
        assert_eq!(pace.wait(0, at(3000)), at(5100), "being looked at changes nothing");
    }

    #[test]
    fn at_its_rate_a_client_goes_on_for_ever_and_below_it_falls_behind() {
        let mut pace = Pace::new(1000).unwrap();
        for second in 0..1000 {
            assert_eq!(pace.wait(second * 1000, at(second * 1000)), at(second * 1000 + 5000));
        }
        let mut pace = Pace::new(1000).unwrap();
        for second in 0..9 {
            // At half the rate each second costs half a second.
            assert_eq!(pace.wait(second * 500, at(second * 1000)), at(second * 500 + 5000));
        }
    }

    #[test]
    fn a_fast_start_buys_no_more_than_the_window() {
        let mut pace = Pace::new(1).unwrap();
        assert_eq!(pace.wait(u64::MAX, at(1000)), at(6000));
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_costs_nothing() {
        let mut pace = Pace::new(1000).unwrap();
        pace.wait(0, at(0));
        pace.pause(at(2000));
        assert_eq!(pace.wait(1000, at(60_000)), at(64_000), "two of five seconds spent, one paid in");
    }
}
