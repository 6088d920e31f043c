//! Durations as Go writes them: `"30s"`, `"1m30s"`, `"250ms"`, `"1.5h"`.
//!
//! An own parser of fifty lines, since no crate reads just this: `humantime` knows no fractions and takes words and
//! spaces that Go refuses, `duration-str` takes sums and products, and `go-parse-duration` 0.1.1 panics on its own `µs`
//! and never returns from a long fraction.

use std::fmt;
use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurationError {
    /// Nothing there, or a sign alone.
    Empty,
    /// It begins with a minus sign.
    Negative,
    /// A unit without a number before it.
    NoNumber,
    /// A number without a unit after it.
    NoUnit,
    /// A unit that isn't one of `ns`, `us`, `ms`, `s`, `m`, `h`.
    UnknownUnit,
    /// More nanoseconds than fit into 63 bits (about 292 years), as in Go.
    TooLong,
}

/// Parses a duration by the grammar of Go's `time.ParseDuration`: `([0-9]*(\.[0-9]*)?[a-zµμ]+)+`, a sign before it, or `0`.
/// What is smaller than a nanosecond is cut off. Negative ones are errors: a proxy has no use for them.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned.starts_with('-') {
        return Err(DurationError::Negative);
    }
    match unsigned {
        "" => return Err(DurationError::Empty),
        "0" => return Ok(Duration::ZERO),
        _ => {}
    }
    let mut rest = unsigned;
    let mut nanos_in_all: u64 = 0;
    while !rest.is_empty() {
        let (nanos, after) = leading_term(rest)?;
        nanos_in_all = nanos_in_all.checked_add(nanos).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    if i64::try_from(nanos_in_all).is_err() {
        return Err(DurationError::TooLong);
    }
    Ok(Duration::from_nanos(nanos_in_all))
}

/// One number with its unit, in nanoseconds, and what follows it.
fn leading_term(text: &str) -> Result<(u64, &str), DurationError> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::NoNumber);
    }
    let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit_nanos: u64 = match unit {
        "" => return Err(DurationError::NoUnit),
        "ns" => 1,
        // The micro sign U+00B5 and the Greek letter U+03BC, as in Go.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(DurationError::UnknownUnit),
    };
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| DurationError::TooLong)?,
    };
    let nanos = whole
        .checked_mul(unit_nanos)
        .and_then(|nanos| nanos.checked_add(fraction_nanos(fraction, unit_nanos)))
        .ok_or(DurationError::TooLong)?;
    Ok((nanos, rest))
}

/// `0.FRACTION` of a unit. Digits past the fifteenth are below a nanosecond of an hour and don't count.
fn fraction_nanos(digits: &str, unit_nanos: u64) -> u64 {
    let mut scale: u128 = 1;
    let mut value: u128 = 0;
    for digit in digits.bytes().take(15) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    // Less than a unit, so it fits.
    (value * u128::from(unit_nanos) / scale) as u64
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Negative => "it is negative",
            Self::NoNumber => "a unit needs a number before it",
            Self::NoUnit => "a number needs a unit after it (ns, us, ms, s, m, h)",
            Self::UnknownUnit => "its unit isn't one of ns, us, ms, s, m, h",
            Self::TooLong => "it is longer than 292 years",
        })
    }
}

impl std::error::Error for DurationError {}

#[cfg(test)]
mod tests {
    use super::DurationError::{Empty, Negative, NoNumber, NoUnit, TooLong, UnknownUnit};
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        let cases: &[(&str, u64)] = &[
            ("0", 0),
            ("0s", 0),
            ("+5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("250ms", 250_000_000),
            ("1.5h", 5_400_000_000_000),
            ("2us", 2_000),
            ("2µs", 2_000),
            ("2μs", 2_000),
            ("7ns", 7),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h1m1s1ms1us1ns", 3_661_001_001_001),
            ("3s4s", 7_000_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("0.0000000001s", 0),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(*nanos)), "{text:?}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        let cases: &[(&str, DurationError)] = &[
            ("", Empty),
            ("+", Empty),
            ("-5s", Negative),
            ("-0", Negative),
            ("s", NoNumber),
            (".s", NoNumber),
            (".", NoNumber),
            (" 5s", NoNumber),
            ("+-5s", Negative),
            ("++5s", NoNumber),
            ("5", NoUnit),
            ("1.5", NoUnit),
            ("1..5s", NoUnit),
            ("1m30", NoUnit),
            ("00", NoUnit),
            ("5 s", UnknownUnit),
            ("5S", UnknownUnit),
            ("5sec", UnknownUnit),
            ("1d", UnknownUnit),
            ("1m 30s", UnknownUnit),
            ("5é", UnknownUnit),
            ("1e3s", UnknownUnit),
            ("9223372036854775808ns", TooLong),
            ("99999999999999999999s", TooLong),
            ("3000000h", TooLong),
            ("2562047h2562047h", TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(parse_duration(text), Err(*error), "{text:?}");
        }
    }
}
