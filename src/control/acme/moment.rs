//! Moments as authorities write them (RFC 3339), in seconds since 1970: of any year from 0 to 9999, so that one may be negative.

/// Of `2026-03-01T12:00:00.25+01:00`; what is behind the point is left out.
pub(super) fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let separated = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    let separators = separated(4, b"-") && separated(7, b"-") && separated(10, b"Tt ") && separated(13, b":");
    if !(separators && separated(16, b":")) {
        return None;
    }
    let field = |from: usize, to: usize| number(bytes.get(from..to)?);
    let at = seconds([field(0, 4)?, field(5, 7)?, field(8, 10)?, field(11, 13)?, field(14, 16)?, field(17, 19)?])?;
    let mut rest = bytes.get(19..)?;
    if let Some((b'.', fraction)) = rest.split_first() {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        rest = &fraction[digits..];
    }
    Some(at - offset(rest)?)
}

fn offset(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let seconds = number(&[*h1, *h2])? * 3600 + number(&[*m1, *m2])? * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

fn seconds([year, month, day, hour, minute, second]: [i64; 6]) -> Option<i64> {
    // 60 is a leap second.
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    fits.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// From 1970-01-01 to a day.
fn days(year: i64, month: i64, day: i64) -> i64 {
    const ERA: i64 = 146_097; // days in 400 years
    // Years are counted from March on, so that the leap day is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::control::timestamp;

    proptest! {
        #[test]
        fn what_is_written_is_read(at in 0u64..253_402_300_800) {
            let text = timestamp::rfc3339(UNIX_EPOCH + Duration::from_secs(at));
            prop_assert_eq!(rfc3339(&text), i64::try_from(at).ok());
        }

        #[test]
        fn nothing_that_is_read_is_a_panic(text in "[0-9TtZz:+. é-]{0,40}") {
            rfc3339(&text);
        }
    }

    #[test]
    fn offsets_and_fractions_are_read_as_rfc_3339_has_them() {
        for (text, want) in [
            ("1985-04-12T23:20:50.52Z", Some(482_196_050)),
            ("1996-12-19T16:39:57-08:00", Some(851_042_397)),
            ("1990-12-31T23:59:60Z", Some(662_688_000)),
            ("1937-01-01T12:00:27.87+00:20", Some(-1_041_337_173)),
            ("2021-01-03t00:00:00z", Some(1_609_632_000)),
            ("2021-01-03T00:00:00", None),
            ("2021-01-03T00:00:00.Z", None),
            ("2021-13-03T00:00:00Z", None),
            ("2021-01-03T24:00:00Z", None),
            ("2021-01-03T00:00:00+1:00", None),
            ("", None),
        ] {
            assert_eq!(rfc3339(text), want, "{text}");
        }
    }
}
