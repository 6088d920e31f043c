//! The object `rate_limit`: how many requests each client may send.

use std::time::Duration;

use super::checked::{HashKey, RateKey, RateLimit};
use super::error::Problem;
use super::fields::Fields;
use super::hash_key::hash_key;
use super::schema::{RATE_LIMIT, home_of};
use super::values::{SHORTEST, networks};

/// A rate is kept in whole nanoseconds for each request.
const REQUESTS_PER_SECOND_MAX: u32 = 1_000_000;
const BURST_MAX: u32 = 100_000;
/// Longer ones are quotas, which want to outlast a restart.
const RATE_PERIOD_MAX: Duration = Duration::from_secs(24 * 3600);

/// Reads `rate_limit`; null, and what is missing, is no limit.
pub(super) fn read(root: &mut Fields, into: &mut Option<RateLimit>) {
    let Some(field) = root.find_set("rate_limit") else { return };
    let Some(mut fields) = field.open(RATE_LIMIT, home_of, root.problems) else { return };
    if fields.find("requests").is_none() {
        let wanted = "how many requests a client may send";
        fields.problems.note(&field.path_of("requests"), field.node.at, Problem::Missing { wanted });
    }
    let (mut requests, mut per) = (1, Duration::from_secs(1));
    fields.whole("requests", 1..=1_000_000, &mut requests);
    fields.duration("per", SHORTEST..=RATE_PERIOD_MAX, &mut per);
    let mut limit = RateLimit {
        requests,
        per,
        burst: requests.min(BURST_MAX),
        key: RateKey::ClientIp,
        max_keys: 100_000,
        allow: Vec::new(),
    };
    fields.whole("burst", 1..=BURST_MAX.into(), &mut limit.burst);
    fields.parsed("key", "\"client-ip\" or \"header:NAME\"", rate_key, &mut limit.key);
    fields.whole("max_keys", 1..=10_000_000, &mut limit.max_keys);
    networks(&mut fields, "allow", &mut limit.allow);

    if Duration::from_secs(1) * requests > per * REQUESTS_PER_SECOND_MAX
        && let Some(field) = fields.find("requests")
    {
        field.unfit(fields.problems, format!("at most {REQUESTS_PER_SECOND_MAX} a second"));
    }
    *into = Some(limit);
}

fn rate_key(text: &str) -> Option<RateKey> {
    match hash_key(text)? {
        HashKey::ClientIp => Some(RateKey::ClientIp),
        HashKey::Header(name) => Some(RateKey::Header(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn what_is_wrong_with_a_limit_is_told() {
        let cases: &[(&str, &[&str])] = &[
            (r#"{"rate_limit": {}}"#, &["rate_limit.requests: missing, wanted how many requests a client may send"]),
            (
                r#"{"rate_limit": {"requests": 0}}"#,
                &["rate_limit.requests: found 0, wanted a whole number from 1 to 1000000"],
            ),
            (
                r#"{"rate_limit": {"requests": 1001, "per": "1ms"}}"#,
                &["rate_limit.requests: found 1001, wanted at most 1000000 a second"],
            ),
            (
                r#"{"rate_limit": {"requests": 1, "per": "25h", "burst": 100001, "max_keys": 0}}"#,
                &[
                    "rate_limit.per: found \"25h\", wanted a duration from 1ms to 24h",
                    "rate_limit.burst: found 100001, wanted a whole number from 1 to 100000",
                    "rate_limit.max_keys: found 0, wanted a whole number from 1 to 10000000",
                ],
            ),
            (
                r#"{"rate_limit": {"requests": 1, "key": "cookie:a"}}"#,
                &["rate_limit.key: found \"cookie:a\", wanted \"client-ip\" or \"header:NAME\""],
            ),
            (
                r#"{"rate_limit": {"requests": 1, "allow": ["10.0.0.0/33"]}}"#,
                &[
                    "rate_limit.allow[0]: found \"10.0.0.0/33\", wanted a network such as \"10.0.0.0/8\" or an IP address",
                ],
            ),
            (r#"{"rate_limit": 100}"#, &["rate_limit: found 100, wanted an object"]),
            (r#"{"burst": 5}"#, &["burst: unknown field here, it belongs to \"rate_limit\""]),
        ];
        for (text, wanted) in cases {
            let errors = parse(text).expect_err(text);
            let told: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, *wanted, "{text}");
        }
    }

    #[test]
    fn a_rate_limit_needs_a_number_of_requests_and_no_more() {
        let read = |text: &str| parse(text).unwrap_or_else(|errors| panic!("{errors}")).rate_limit;
        assert_eq!(read(r#"{"rate_limit": null}"#), None);
        let mut want = RateLimit {
            requests: 100,
            per: Duration::from_secs(1),
            burst: 100,
            key: RateKey::ClientIp,
            max_keys: 100_000,
            allow: Vec::new(),
        };
        assert_eq!(read(r#"{"rate_limit": {"requests": 100}}"#).as_ref(), Some(&want));
        want.burst = 200;
        want.key = RateKey::Header("X-Key".to_owned());
        want.allow = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let full =
            r#"{"rate_limit": {"requests": 100, "burst": 200, "key": "header:X-Key", "allow": ["10.1.2.3/8", "::1"]}}"#;
        assert_eq!(read(full), Some(want));
    }
}
