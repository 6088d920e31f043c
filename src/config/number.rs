//! Whole numbers as JSON may write them: `3`, `3.0` and `0.3e1` are one number (RFC 8259 §6), and many a program writes
//! whatever it holds as a fraction.

/// The whole number that a JSON number is; none if it has a fraction, is below 0, or doesn't fit. Exact: no digit is lost.
pub(super) fn whole(number: &str) -> Option<u64> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or((1, mantissa), |rest| (-1, rest));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = before.bytes().chain(behind.bytes());
    if digits.clone().all(|digit| digit == b'0') {
        return Some(0);
    }
    if sign < 0 {
        return None;
    }
    let trailing_zeros = digits.clone().rev().take_while(|digit| *digit == b'0').count();
    let significant = before.len() + behind.len() - trailing_zeros;
    let shift =
        exponent.parse::<isize>().ok()?.checked_sub_unsigned(behind.len())?.checked_add_unsigned(trailing_zeros)?;
    let scale = 10_u64.checked_pow(u32::try_from(shift).ok()?)?;
    let value = digits.take(significant).try_fold(0_u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?))
    });
    value?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::whole;

    #[test]
    fn a_number_without_a_fraction_is_whole_however_it_is_written() {
        for (text, want) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.0e5", Some(0)),
            ("0e999999999999999999999", Some(0)),
            ("3", Some(3)),
            ("3.0", Some(3)),
            ("3e0", Some(3)),
            ("0.3e1", Some(3)),
            ("300E-2", Some(3)),
            ("1e3", Some(1000)),
            ("1.5e+3", Some(1500)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551615.00", Some(u64::MAX)),
            ("1844674407370955161.5e1", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1e20", None),
            ("1e999999999999999999999", None),
            ("1e-999999999999999999999", None),
            ("0.5", None),
            ("3.01", None),
            ("3e-1", None),
            ("-3", None),
            ("-1e3", None),
        ] {
            assert_eq!(whole(text), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_digit_is_lost(number in any::<u64>(), zeros in 0_usize..30) {
            let padded = "0".repeat(zeros);
            assert_eq!(whole(&format!("{number}.{padded}")), Some(number));
            assert_eq!(whole(&format!("{number}{padded}e-{zeros}")), Some(number));
            assert_eq!(whole(&format!("{number}.{padded}1")), None);
        }
    }
}
