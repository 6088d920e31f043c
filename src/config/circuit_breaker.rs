//! The object `circuit_breaker`: when a backend is left out for how its requests end; and what to do when all are down.

use std::time::Duration;

use super::checked::{CircuitBreaker, WhenAllDown};
use super::expect;
use super::fields::Fields;
use super::schema::{CIRCUIT_BREAKER, home_of};

/// The window is counted in tenths, and stays are ended by a thread: shorter ones than these mean nothing.
const WINDOW_MIN: Duration = Duration::from_millis(100);
const OPEN_MIN: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const COUNT_MAX: u64 = 1_000_000;

/// Reads `circuit_breaker`; null, and what is missing, is no breaker.
pub(super) fn read(root: &mut Fields, into: &mut Option<CircuitBreaker>) {
    let Some(field) = root.find_set("circuit_breaker") else { return };
    let Some(mut fields) = field.open(CIRCUIT_BREAKER, home_of, root.problems) else { return };
    let mut breaker = CircuitBreaker::default();
    fields.whole("consecutive_failures", 1..=COUNT_MAX, &mut breaker.consecutive_failures);
    fields.whole("error_percent", 1..=100, &mut breaker.error_percent);
    fields.whole("minimum_requests", 1..=COUNT_MAX, &mut breaker.minimum_requests);
    fields.duration("window", WINDOW_MIN..=LONGEST, &mut breaker.window);
    fields.duration("open", OPEN_MIN..=LONGEST, &mut breaker.open);
    // The longest stay's default follows a longer first one up.
    breaker.max_open = breaker.max_open.max(breaker.open);
    fields.duration("max_open", OPEN_MIN..=LONGEST, &mut breaker.max_open);
    fields.whole("half_open_requests", 1..=100, &mut breaker.half_open_requests);
    fields.whole("max_ejected_percent", 0..=100, &mut breaker.max_ejected_percent);
    fields.parsed("on", "status codes such as \"500-599\"", expect::parse, &mut breaker.on);

    if breaker.max_open < breaker.open
        && let Some(field) = fields.find("max_open")
    {
        field.unfit(fields.problems, "at least circuit_breaker.open");
    }
    *into = Some(breaker);
}

/// Reads `when_all_down`.
pub(super) fn read_when_all_down(root: &mut Fields, into: &mut WhenAllDown) {
    const WORDS: [(&str, WhenAllDown); 2] = [("refuse", WhenAllDown::Refuse), ("try", WhenAllDown::Try)];
    if let Some(nth) = root.word("when_all_down", &WORDS.map(|(word, _)| word)) {
        *into = WORDS[nth].1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    #[test]
    fn what_is_wrong_with_a_breaker_is_told() {
        let cases: &[(&str, &[&str])] = &[
            (
                r#"{"circuit_breaker": {"consecutive_failures": 0, "error_percent": 101, "minimum_requests": 0}}"#,
                &[
                    "circuit_breaker.consecutive_failures: found 0, wanted a whole number from 1 to 1000000",
                    "circuit_breaker.error_percent: found 101, wanted a whole number from 1 to 100",
                    "circuit_breaker.minimum_requests: found 0, wanted a whole number from 1 to 1000000",
                ],
            ),
            (
                r#"{"circuit_breaker": {"window": "99ms", "open": "25h", "half_open_requests": 0, "max_ejected_percent": -1}}"#,
                &[
                    "circuit_breaker.window: found \"99ms\", wanted a duration from 100ms to 24h",
                    "circuit_breaker.open: found \"25h\", wanted a duration from 10ms to 24h",
                    "circuit_breaker.half_open_requests: found 0, wanted a whole number from 1 to 100",
                    "circuit_breaker.max_ejected_percent: found -1, wanted a whole number from 0 to 100",
                ],
            ),
            (
                r#"{"circuit_breaker": {"open": "2m", "max_open": "1m", "on": "5xx"}}"#,
                &[
                    "circuit_breaker.max_open: found \"1m\", wanted at least circuit_breaker.open",
                    "circuit_breaker.on: found \"5xx\", wanted status codes such as \"500-599\"",
                ],
            ),
            (r#"{"circuit_breaker": true}"#, &["circuit_breaker: found true, wanted an object"]),
            (r#"{"max_open": "5m"}"#, &["max_open: unknown field here, it belongs to \"circuit_breaker\""]),
            (
                r#"{"when_all_down": "tri"}"#,
                &["when_all_down: found \"tri\", wanted \"refuse\" or \"try\"; did you mean \"try\"?"],
            ),
        ];
        for (text, wanted) in cases {
            let errors = parse(text).expect_err(text);
            let told: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, *wanted, "{text}");
        }
    }

    #[test]
    fn a_breaker_needs_no_more_than_an_empty_object() {
        let read = |text: &str| parse(text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(read("{}").circuit_breaker, None);
        assert_eq!(read(r#"{"circuit_breaker": null}"#), Config::default());
        assert_eq!(read(r#"{"circuit_breaker": {}}"#).circuit_breaker, Some(CircuitBreaker::default()));
        let longer = read(r#"{"circuit_breaker": {"open": "10m", "on": "502-504,500"}, "when_all_down": "try"}"#);
        assert_eq!(longer.when_all_down, WhenAllDown::Try);
        let breaker = longer.circuit_breaker.unwrap();
        assert_eq!(breaker.max_open, Duration::from_secs(600));
        assert_eq!(breaker.on, [502..=504, 500..=500]);
    }
}
