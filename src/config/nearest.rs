//! 'Did you mean …?': the known name that a mistyped one is closest to.

/// The name among `known` that `found` was probably meant to be, none when nothing is close: at most one edit (a letter
/// more, less, other, or two swapped) in three letters. Case, `-` and `_` don't count.
pub fn nearest<'k>(found: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let found = plain(found);
    let close = |(distance, longest): (usize, usize)| distance * 3 <= longest;
    known
        .into_iter()
        .filter_map(|name| {
            let candidate = plain(name);
            let longest = found.len().max(candidate.len());
            // There are at least as many edits as letters more: a stranger's endless name is compared with nothing.
            let letters_more = found.chars().count().abs_diff(candidate.chars().count());
            let distance = close((letters_more, longest)).then(|| strsim::osa_distance(&found, &candidate))?;
            close((distance, longest)).then_some((distance, longest, name))
        })
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_that_was_meant_and_noise_finds_none() {
        let known = ["port", "bind", "admin_port", "strategy", "health_check", "health_check_frequency"];
        let cases = [
            ("prot", Some("port")),
            ("Port", Some("port")),
            ("adminPort", Some("admin_port")),
            ("admin-port", Some("admin_port")),
            ("stratgy", Some("strategy")),
            ("healthcheck", Some("health_check")),
            ("health_check_freqency", Some("health_check_frequency")),
            ("zone", None),
            ("", None),
            ("x", None),
        ];
        for (found, wanted) in cases {
            assert_eq!(nearest(found, known), wanted, "{found:?}");
        }
    }
}
