//! Which status codes count as healthy, or as a failure: `"200-399"`, `"200,204,300-399"`.

use std::ops::RangeInclusive;

/// Codes and ranges of them, separated by commas, blanks around each allowed; 1 to 64 of them, codes from 100 to 599
/// (RFC 9110 §15). None when it is anything else.
pub(super) fn parse(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let ranges: Vec<_> = text.split(',').map(range).collect::<Option<_>>()?;
    (ranges.len() <= 64).then_some(ranges)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let range = code(low)?..=code(high)?;
    (!range.is_empty()).then_some(range)
}

fn code(text: &str) -> Option<u16> {
    let digits = text.trim_matches(' ');
    let three = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|code| three && (100..=599).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_ranges_are_read_and_nothing_else() {
        let good: &[(&str, &[RangeInclusive<u16>])] = &[
            ("200-399", &[200..=399]),
            ("204", &[204..=204]),
            ("200,204, 300 - 399", &[200..=200, 204..=204, 300..=399]),
            ("100-599", &[100..=599]),
        ];
        for (text, ranges) in good {
            assert_eq!(parse(text).as_deref(), Some(*ranges), "{text:?}");
        }
        let many = "200,".repeat(64) + "200";
        let bad = [
            "",
            ",",
            "200,",
            "399-200",
            "200-",
            "-200",
            "99",
            "600",
            "2xx",
            "0200",
            "+20",
            "200-300-400",
            "20 0",
            &many,
        ];
        for text in bad {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
