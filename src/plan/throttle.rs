//! What `rate_limit` says, ready for use.

use std::sync::Arc;

use crate::config::{RateKey, RateLimit};
use crate::policy::{Networks, Rate, RateTable, Tables};

/// How many requests each client may send.
#[derive(Debug)]
pub struct Throttle {
    /// So many.
    pub rate: Rate,
    /// What tells clients apart.
    pub key: RateKey,
    /// Clients without a limit.
    pub allow: Networks,
    /// The lines that tell of it in answers, up to the number that differs.
    pub lines: Vec<u8>,
    /// What they have used of it.
    pub table: Arc<RateTable>,
}

impl Throttle {
    /// Of clients that `tables` know.
    pub fn new(limit: &RateLimit, tables: &Tables) -> Self {
        Self {
            rate: Rate::new(limit.requests, limit.per, limit.burst),
            key: limit.key.clone(),
            allow: Networks::new(&limit.allow),
            lines: lines(limit),
            table: tables.rates(limit.max_keys),
        }
    }
}

/// The quota is the burst, since so many may come at once; the window is the time in which all of it comes back, in whole
/// seconds as the draft has it. The two say the rate, unless that time is no whole number of seconds.
fn lines(limit: &RateLimit) -> Vec<u8> {
    let window = limit.per * limit.burst;
    let seconds = window.as_nanos() / u128::from(limit.requests) / 1_000_000_000;
    let even = seconds > 0 && window.as_nanos() == seconds * 1_000_000_000 * u128::from(limit.requests);
    let window = if even { format!(";w={seconds}") } else { String::new() };
    format!("RateLimit-Policy: \"maypole\";q={}{window}\r\nRateLimit: \"maypole\";r=", limit.burst).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_policy_is_told_as_a_quota_and_the_time_in_which_it_comes_back() {
        for (requests, per_ms, burst, want) in [
            (100, 1_000, 100, "q=100;w=1"),
            (100, 1_000, 200, "q=200;w=2"),
            (1, 60_000, 5, "q=5;w=300"),
            // 50 ms; 1.5 s: the draft knows whole seconds alone.
            (100, 1_000, 5, "q=5"),
            (2, 1_000, 3, "q=3"),
        ] {
            let per = Duration::from_millis(per_ms);
            let limit = RateLimit { requests, per, burst, key: RateKey::ClientIp, max_keys: 1, allow: Vec::new() };
            let lines = Throttle::new(&limit, &Tables::default()).lines;
            let want = format!("RateLimit-Policy: \"maypole\";{want}\r\nRateLimit: \"maypole\";r=");
            assert_eq!(String::from_utf8(lines).unwrap(), want);
        }
    }
}
