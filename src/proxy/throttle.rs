//! Rate limits as requests meet them: whose a request is, who is let pass, and what answers say of it.

use super::client::Parked;
use super::occasion::{Occasion, address_key};
use crate::config::{RateKey, RateLimit};
use crate::http1::Request;
use crate::policy::{Charge, Networks, Quota, Rate};
use crate::runtime::world::World;

/// What `rate_limit` says, ready for use.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Rate,
    key: RateKey,
    allow: Networks,
    /// The lines that tell of it, up to the number that differs.
    lines: Vec<u8>,
}

/// What an answer says of a client's quota: the fields `RateLimit-Policy` and `RateLimit`
/// (draft-ietf-httpapi-ratelimit-headers-10 §3, §4).
#[derive(Clone, Copy, Debug)]
pub struct Allowance<'a> {
    lines: &'a [u8],
    quota: Quota,
}

impl Throttle {
    pub(super) fn new(limit: &RateLimit) -> Self {
        Self {
            rate: Rate::new(limit.requests, limit.per, limit.burst),
            key: limit.key.clone(),
            allow: Networks::new(&limit.allow),
            lines: lines(limit),
        }
    }

    /// Charges the client for this request. None when its rate isn't limited. Out of line and off the
    /// straight way, so that those without limits don't carry it.
    #[cold]
    pub(super) fn charge<W: World<Parked = Parked>>(&self, occasion: &Occasion<'_, '_, '_, W>) -> Option<Charge> {
        let tables = &occasion.proxy.shared.tables;
        let client = occasion.client().to_canonical();
        if self.allow.contains(client) {
            return None;
        }
        let field = match &self.key {
            RateKey::ClientIp => None,
            RateKey::Header(name) => only_value(occasion.request, name),
        };
        // Who leaves the field out, or says it twice, is known by the address, and not free of the limit.
        let key = field.map_or_else(|| address_key(tables, client), |value| tables.key(value));
        Some(tables.rates.as_ref()?.charge(&self.rate, key, occasion.proxy.world.now().0))
    }

    /// What an answer to a request says that left its client with this quota.
    pub(super) fn allowance(&self, quota: Quota) -> Allowance<'_> {
        Allowance { lines: &self.lines, quota }
    }
}

impl Allowance<'_> {
    /// Appends its lines.
    #[cold]
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        out.extend_from_slice(self.lines);
        out.extend_from_slice(number.format(self.quota.remaining).as_bytes());
        out.extend_from_slice(b";t=");
        out.extend_from_slice(number.format(self.quota.more_seconds.get()).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The value of a field, if all its lines say the same. Of several values a backend may take any for the client's: each
/// would be a way around the limit of another.
fn only_value<'b>(request: &Request<'_, 'b>, name: &str) -> Option<&'b [u8]> {
    let mut values = request.values(name);
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
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
    use std::num::NonZero;
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
            let throttle = Throttle::new(&limit);
            let mut out = Vec::new();
            let more_seconds = NonZero::new(3).unwrap();
            throttle.allowance(Quota { remaining: 7, more_seconds }).write(&mut out);
            let want = format!("RateLimit-Policy: \"maypole\";{want}\r\nRateLimit: \"maypole\";r=7;t=3\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }
}
