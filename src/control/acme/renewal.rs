//! When a certificate is renewed, and how long is waited after a failure. Pure: time and chance come in.
//!
//! Without advice a certificate is renewed at two thirds of its life, some sooner, so that those of one day don't all come
//! at once. An authority that gives advice (RFC 9773) says within which window.

use super::moment;
use super::wire::RenewalInfo;

/// No wait is longer; what says otherwise was written by another clock.
pub(super) const WAIT_MAX: i64 = 8 * 24 * 3600;
/// Between two renewals, whatever an authority advises, unless the certificate's life is short.
const PAUSE: i64 = 3600;

/// Of a certificate's life, the part by which its renewal may come sooner.
const EARLY: f64 = 1.0 / 30.0;
/// From one question for advice to the next: what is waited where the authority doesn't say, and the least and the most that
/// it can ask for (RFC 9773 §4.3.2).
pub(super) const ADVICE_SECONDS: i64 = 6 * 3600;
const ADVICE_SECONDS_MIN: i64 = 60;
const ADVICE_SECONDS_MAX: i64 = 24 * 3600;

/// A wait after a failure of one name's order: at first, what it is multiplied by each time, at last. An authority as Let's
/// Encrypt takes five failed validations of a name in an hour.
const OF_DOMAIN: Waits = Waits { first: 60, factor: 4, last: 12 * 3600 };
/// The same after one that has nothing to do with a name: the authority is down, say.
const OF_AUTHORITY: Waits = Waits { first: 5, factor: 2, last: 3600 };
/// By how much a wait may be longer than it has to be, so that those who failed together don't come back together.
const JITTER: f64 = 0.25;
/// What an authority may have one name wait for.
const OF_DOMAIN_MAX: i64 = 7 * 24 * 3600;
/// What it may have all names wait for.
const OF_AUTHORITY_MAX: i64 = 24 * 3600;
/// The same where it has a limit for one name, and may have one for all of the account.
const OF_LIMIT_MAX: i64 = 3600;
/// What is waited where it has a limit, and doesn't say for how long.
const OF_LIMIT: i64 = 3600;

/// Orders that an account may send at once, and how long it takes until it may send one more: well below the 300 of three
/// hours that Let's Encrypt takes.
const ORDERS_AT_ONCE: i64 = 100;
const ORDER_SECONDS: i64 = 60;

/// When a certificate is good, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Validity {
    pub(super) fn contains(self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

struct Waits {
    first: i64,
    factor: i64,
    last: i64,
}

/// What a failure has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concerns {
    /// This name's order alone.
    Domain,
    /// A limit that the authority has, for the name or for the account.
    Limit,
    /// All orders: the authority, the account, or what this machine lacks.
    All,
}

/// How long is waited after a failure, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setback {
    /// Until the same name is ordered again.
    pub(super) of_domain: i64,
    /// Until any is.
    pub(super) of_all: i64,
}

/// Failures in a row, this one included where it concerns them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failures {
    pub(super) of_domain: u32,
    pub(super) of_all: u32,
}

/// When a certificate is renewed that the authority gives no advice for. `chance` is from 0 up to 1, and the same each time
/// for one certificate.
pub(super) fn due(validity: Validity, chance: f64) -> i64 {
    let life = validity.not_after.saturating_sub(validity.not_before).max(0);
    validity.not_before.saturating_add(life / 3 * 2).saturating_sub(part(life, EARLY * chance))
}

/// When it is renewed by this advice; None where the window makes no sense. The same for the same `chance`, so that asking
/// again doesn't move it. However late the advice is, a twentieth of its life is left for tries that fail.
pub(super) fn advised(advice: &RenewalInfo, validity: Validity, chance: f64) -> Option<i64> {
    let start = moment::rfc3339(&advice.suggested_window.start)?;
    let end = moment::rfc3339(&advice.suggested_window.end)?;
    let life = validity.not_after.saturating_sub(validity.not_before).max(0);
    let latest = validity.not_after.saturating_sub(life / 20);
    (end > start).then(|| start.saturating_add(part(end - start, chance)).min(latest))
}

/// How long a certificate isn't renewed at all after it was got.
pub(super) fn pause(validity: Validity) -> i64 {
    (validity.not_after.saturating_sub(validity.not_before) / 4).clamp(0, PAUSE)
}

/// How long after an answer the next advice is asked for.
pub(super) fn advice_again(retry_after: Option<i64>) -> i64 {
    retry_after.unwrap_or(ADVICE_SECONDS).clamp(ADVICE_SECONDS_MIN, ADVICE_SECONDS_MAX)
}

/// How long is waited after a failure, of which the authority may have said how long that takes.
pub(super) fn setback(concerns: Concerns, failures: Failures, retry_after: Option<i64>, chance: f64) -> Setback {
    let asked = retry_after.unwrap_or(0).max(0);
    let of_domain = OF_DOMAIN.after(failures.of_domain, chance);
    let of_all = OF_AUTHORITY.after(failures.of_all, chance);
    match concerns {
        Concerns::Domain => Setback { of_domain: of_domain.max(asked.min(OF_DOMAIN_MAX)), of_all: 0 },
        Concerns::Limit => {
            let asked = retry_after.map_or(OF_LIMIT, |_| asked);
            Setback { of_domain: of_domain.max(asked.min(OF_DOMAIN_MAX)), of_all: of_all.max(asked.min(OF_LIMIT_MAX)) }
        }
        Concerns::All => Setback { of_domain: 0, of_all: of_all.max(asked.min(OF_AUTHORITY_MAX)) },
    }
}

/// Counts an order against what the account may send: `spent_until` is the moment at which all that it has sent is forgotten.
///
/// # Errors
/// The moment at which it may send the next one.
pub(super) fn charge(spent_until: i64, now: i64) -> Result<i64, i64> {
    let spent_until = spent_until.clamp(now, now.saturating_add(ORDERS_AT_ONCE * ORDER_SECONDS));
    let next = spent_until + ORDER_SECONDS;
    let allowed = next - ORDERS_AT_ONCE * ORDER_SECONDS;
    if allowed <= now { Ok(next) } else { Err(allowed) }
}

impl Waits {
    fn after(&self, failures: u32, chance: f64) -> i64 {
        let wait = self.first.saturating_mul(self.factor.saturating_pow(failures.saturating_sub(1)));
        let wait = wait.min(self.last);
        wait + part(wait, JITTER * chance)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a part of some seconds more or less is as good")]
fn part(seconds: i64, fraction: f64) -> i64 {
    (seconds as f64 * fraction) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::acme::wire::SuggestedWindow;

    const DAY: i64 = 86_400;

    fn advice(start: &str, end: &str) -> RenewalInfo {
        let suggested_window = SuggestedWindow { start: start.into(), end: end.into() };
        RenewalInfo { suggested_window, explanation_url: None }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_or_a_little_sooner() {
        let validity = Validity { not_before: 1000 * DAY, not_after: 1090 * DAY };
        assert_eq!(due(validity, 0.0), 1060 * DAY);
        assert_eq!(due(validity, 0.999_999_99), 1057 * DAY + 1);
        let backwards = Validity { not_before: 10, not_after: 0 };
        assert_eq!(due(backwards, 0.5), 10);
        let endless = Validity { not_before: i64::MIN, not_after: i64::MAX };
        due(endless, 0.5);
    }

    #[test]
    fn advice_names_a_moment_within_its_window() {
        let window = advice("2025-01-02T04:00:00Z", "2025-01-03T04:00:00Z");
        let start = 1_735_790_400;
        let until = |not_after| Validity { not_before: start - 100 * DAY, not_after };
        assert_eq!(advised(&window, until(i64::MAX), 0.0), Some(start));
        assert_eq!(advised(&window, until(i64::MAX), 0.5), Some(start + DAY / 2));
        assert_eq!(advised(&window, until(start), 0.5), Some(start - 5 * DAY), "never beyond its end");
        for (start, end) in [("2025-01-02T04:00:00Z", "2025-01-02T04:00:00Z"), ("tomorrow", "2025-01-02T04:00:00Z")] {
            assert_eq!(advised(&advice(start, end), until(i64::MAX), 0.5), None);
        }
        assert_eq!([None, Some(0), Some(21_600), Some(DAY * 9)].map(advice_again), [21_600, 60, 21_600, DAY]);
    }

    #[test]
    fn failures_of_a_name_keep_below_what_authorities_take_and_concern_no_other() {
        let waits: Vec<_> = (1..=7)
            .map(|of_domain| setback(Concerns::Domain, Failures { of_domain, of_all: 0 }, None, 0.0))
            .map(|setback| (setback.of_domain, setback.of_all))
            .collect();
        let want = [60, 240, 960, 3840, 15_360, 43_200, 43_200].map(|wait| (wait, 0));
        assert_eq!(waits, want);
    }

    #[test]
    fn an_authority_that_is_down_is_asked_more_and_more_seldom() {
        let wait = |of_all| setback(Concerns::All, Failures { of_domain: 0, of_all }, None, 0.0).of_all;
        assert_eq!([1, 2, 3, 10, 11, 40].map(wait), [5, 10, 20, 2560, 3600, 3600]);
    }

    #[test]
    fn a_limit_is_waited_for_as_long_as_is_asked_and_other_names_do_not_wait_for_days() {
        let failures = Failures { of_domain: 1, of_all: 1 };
        assert_eq!(
            setback(Concerns::Limit, failures, Some(2 * DAY), 0.0),
            Setback { of_domain: 2 * DAY, of_all: 3600 }
        );
        assert_eq!(setback(Concerns::Limit, failures, None, 0.0), Setback { of_domain: 3600, of_all: 3600 });
        assert_eq!(setback(Concerns::All, failures, Some(600), 0.0), Setback { of_domain: 0, of_all: 600 });
    }

    proptest! {
        #[test]
        fn a_wait_is_as_long_as_is_asked_and_bounded(
            concerns in prop_oneof![Just(Concerns::Domain), Just(Concerns::Limit), Just(Concerns::All)],
            of_domain in 1u32..100,
            of_all in 1u32..100,
            retry_after in proptest::option::of(-10i64..10_000_000),
            chance in 0.0f64..1.0,
        ) {
            let setback = setback(concerns, Failures { of_domain, of_all }, retry_after, chance);
            let asked = retry_after.unwrap_or(0);
            prop_assert!(setback.of_domain.max(setback.of_all) >= 5);
            prop_assert!(setback.of_domain >= asked.min(OF_DOMAIN_MAX) || concerns == Concerns::All);
            prop_assert!(setback.of_all >= asked.min(OF_LIMIT_MAX) || concerns == Concerns::Domain);
            prop_assert!(setback.of_domain <= OF_DOMAIN_MAX && setback.of_all <= OF_AUTHORITY_MAX);
        }

        /// However often it is tried.
        #[test]
        fn an_account_sends_no_more_orders_than_it_may(gaps in proptest::collection::vec(0i64..120, 1..600), jump in -5000i64..5000) {
            let (mut now, mut spent_until, mut sent) = (1_000_000, 1_000_000 + jump, Vec::new());
            for gap in gaps {
                now += gap;
                match charge(spent_until, now) {
                    Ok(next) => {
                        spent_until = next;
                        sent.push(now);
                    }
                    Err(allowed) => {
                        prop_assert!(allowed > now && allowed <= now + ORDER_SECONDS);
                        prop_assert!(charge(spent_until, allowed).is_ok(), "it is as it was said");
                    }
                }
            }
            let of_three_hours = |from: &i64| sent.iter().filter(|at| (*from..*from + 3 * 3600).contains(at)).count();
            prop_assert!(sent.iter().map(of_three_hours).max().unwrap_or(0) <= 280);
        }
    }
}
