//! From a backend's probe results to its health. Pure: results and time go in, changes come out.
//!
//! ```text
//!             first result                fall failures in a row, or one refused connection
//!   Unknown ───────────────▶ Up or Down;  Up ─────────────────────────────▶ Down
//!                                         Up ◀───────────────────────────── Down
//!                                            rise successes in a row
//! ```

use std::time::{Duration, Instant};

use crate::config::HealthCheck;

/// What was seen of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet: it counts as alive.
    Unknown,
    /// It answers as it should.
    Up,
    /// It gets no traffic.
    Down,
}

/// The numbers that decide, from the configuration's `health_check`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// From one probe's start to the next one's, while all is as it was.
    pub(super) interval: Duration,
    /// The same while a change is being confirmed.
    pub(super) fast_interval: Duration,
    /// How long a probe may take.
    pub(super) timeout: Duration,
    rise: u32,
    fall: u32,
    jitter: f64,
}

impl From<&HealthCheck> for Rules {
    fn from(check: &HealthCheck) -> Self {
        Self {
            interval: check.interval,
            timeout: check.timeout,
            // With a short interval a change isn't meant to be confirmed at a longer one.
            fast_interval: check.fast_interval.min(check.interval),
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            jitter: check.jitter.clamp(0.0, 1.0),
        }
    }
}

/// One backend's health, and the results that contradict it so far.
#[derive(Debug)]
pub(super) struct RiseFall {
    health: Health,
    /// Results in a row that contradict `health`.
    against: u32,
    down_since: Instant,
}

/// A backend that is down is looked at again after this part of the time that it has been down, so that a restart is
/// noticed soon and a backend that is gone for good costs no more than a healthy one.
const DOWN_GAP_PART: u32 = 4;

impl RiseFall {
    /// Nothing is known yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { health: Health::Unknown, against: 0, down_since: now }
    }

    /// The last result that counted was good.
    pub(super) fn is_up(&self) -> bool {
        self.health == Health::Up
    }

    /// Takes in a probe's result; the new health when it changes.
    pub(super) fn observe(&mut self, passed: bool, rules: &Rules, now: Instant) -> Option<Health> {
        let seen = if passed { Health::Up } else { Health::Down };
        if seen == self.health {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match (self.health, seen) {
            (Health::Unknown, _) => 1,
            (_, Health::Up) => rules.rise,
            _ => rules.fall,
        };
        (self.against >= needed).then(|| self.turn(seen, now))
    }

    /// Takes in that the backend refused a connection; true when that takes it down.
    pub(super) fn refuse(&mut self, now: Instant) -> bool {
        self.against = 0;
        let falls = self.health != Health::Down;
        if falls {
            self.turn(Health::Down, now);
        }
        falls
    }

    /// From one probe's start to the next one's: short while a change is being confirmed, and while a backend has not
    /// been down for long. `chance` (0–1) places it within the jitter.
    pub(super) fn gap(&self, rules: &Rules, now: Instant, chance: f64) -> Duration {
        let gap = if self.against > 0 {
            rules.fast_interval
        } else if self.health == Health::Down {
            let down_for = now.saturating_duration_since(self.down_since);
            (down_for / DOWN_GAP_PART).clamp(rules.fast_interval, rules.interval)
        } else {
            rules.interval
        };
        gap.mul_f64(1.0 + rules.jitter * (2.0 * chance - 1.0))
    }

    fn turn(&mut self, health: Health, now: Instant) -> Health {
        if health == Health::Down {
            self.down_since = now;
        }
        self.health = health;
        self.against = 0;
        health
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::control) const SECOND: Duration = Duration::from_secs(1);

    pub(in crate::control::health) fn rules(rise: u32, fall: u32) -> Rules {
        Rules { interval: 30 * SECOND, fast_interval: SECOND, timeout: 2 * SECOND, rise, fall, jitter: 0.0 }
    }

    /// Feeds `+` (passed) and `-` (failed), and writes each health change behind the result that made it.
    fn story(results: &str, rise: u32, fall: u32) -> String {
        let now = Instant::now();
        let mut rise_fall = RiseFall::new(now);
        let mut told = String::new();
        for result in results.chars() {
            told.push(result);
            match rise_fall.observe(result == '+', &rules(rise, fall), now) {
                Some(Health::Up) => told.push('U'),
                Some(Health::Down) => told.push('D'),
                Some(Health::Unknown) => panic!("nothing becomes unknown"),
                None => {}
            }
        }
        told
    }

    #[test]
    fn the_first_result_decides_and_after_it_rise_or_fall_results_in_a_row() {
        for (results, rise, fall, want) in [
            ("+", 2, 2, "+U"),
            ("-", 2, 2, "-D"),
            ("+--", 2, 2, "+U--D"),
            ("+-+-+--", 2, 2, "+U-+-+--D"),
            ("-+-++", 2, 2, "-D+-++U"),
            ("-++++", 3, 1, "-D+++U+"),
            ("+-+", 1, 1, "+U-D+U"),
            ("+----", 2, 4, "+U----D"),
        ] {
            assert_eq!(story(results, rise, fall), want);
        }
    }

    #[test]
    fn a_refused_connection_takes_it_down_whatever_fall_says_and_rise_brings_it_back() {
        let now = Instant::now();
        let rules = rules(2, 5);
        let mut rise_fall = RiseFall::new(now);
        assert_eq!(rise_fall.observe(true, &rules, now), Some(Health::Up));
        assert!(rise_fall.refuse(now));
        assert!(!rise_fall.refuse(now), "it is down already");
        assert_eq!(rise_fall.observe(true, &rules, now), None);
        assert!(!rise_fall.refuse(now), "a refusal between two successes breaks the row");
        assert_eq!(rise_fall.observe(true, &rules, now), None);
        assert_eq!(rise_fall.observe(true, &rules, now), Some(Health::Up));
    }

    #[test]
    fn a_refused_connection_takes_an_unknown_one_down() {
        let now = Instant::now();
        assert!(RiseFall::new(now).refuse(now));
    }

    #[test]
    fn a_change_is_confirmed_at_the_fast_interval() {
        let now = Instant::now();
        let rules = rules(2, 2);
        let mut rise_fall = RiseFall::new(now);
        rise_fall.observe(true, &rules, now);
        assert_eq!(rise_fall.gap(&rules, now, 0.5), 30 * SECOND);
        rise_fall.observe(false, &rules, now);
        assert_eq!(rise_fall.gap(&rules, now, 0.5), SECOND);
        rise_fall.observe(true, &rules, now);
        assert_eq!(rise_fall.gap(&rules, now, 0.5), 30 * SECOND);
    }

    #[test]
    fn a_backend_that_went_down_is_watched_closely_at_first() {
        let now = Instant::now();
        let rules = rules(2, 2);
        let mut rise_fall = RiseFall::new(now);
        rise_fall.observe(false, &rules, now);
        for (down_for_s, gap_s) in [(0, 1), (4, 1), (40, 10), (120, 30), (4000, 30)] {
            assert_eq!(rise_fall.gap(&rules, now + down_for_s * SECOND, 0.5), gap_s * SECOND);
        }
        rise_fall.observe(true, &rules, now + 4000 * SECOND);
        assert_eq!(rise_fall.gap(&rules, now + 4000 * SECOND, 0.5), SECOND, "rising is a change too");
    }

    #[test]
    fn jitter_varies_the_gap_either_way() {
        let now = Instant::now();
        let rules = Rules { jitter: 0.1, ..rules(1, 1) };
        let rise_fall = RiseFall::new(now);
        assert_eq!(rise_fall.gap(&rules, now, 0.0), 27 * SECOND);
        assert_eq!(rise_fall.gap(&rules, now, 0.5), 30 * SECOND);
        assert!(rise_fall.gap(&rules, now, 1.0) <= 33 * SECOND);
    }

    #[test]
    fn a_short_interval_bounds_the_fast_one() {
        let check = HealthCheck { interval: SECOND / 5, rise: 0, fall: 0, jitter: 7.0, ..HealthCheck::default() };
        let rules = Rules::from(&check);
        assert_eq!(rules.fast_interval, SECOND / 5);
        assert_eq!((rules.rise, rules.fall), (1, 1));
        assert!(rules.jitter <= 1.0);
    }
}
