//! Rate limits as requests meet them: which client a request is charged to, and what answers say of it.

use super::occasion::{Occasion, address_key};
use super::parked::Parked;
use crate::config::RateKey;
use crate::http1::Request;
use crate::plan::Throttle;
use crate::policy::{Charge, Quota};
use crate::runtime::world::World;

/// What an answer says of a client's quota: the fields `RateLimit-Policy` and `RateLimit`
/// (draft-ietf-httpapi-ratelimit-headers-10 §3, §4).
#[derive(Clone, Copy, Debug)]
pub struct Allowance<'a> {
    lines: &'a [u8],
    quota: Quota,
}

impl<W: World<Parked = Parked>> Occasion<'_, '_, '_, W> {
    /// Charges the client for this request. None when its rate isn't limited.
    #[inline]
    pub(super) fn charge(&self) -> Option<Charge> {
        self.charge_by(self.route().throttle.as_ref()?)
    }

    /// Out of line and off the straight way, so that those without limits don't carry it.
    #[cold]
    fn charge_by(&self, throttle: &Throttle) -> Option<Charge> {
        let tables = &self.proxy.shared.kept.tables;
        let client = self.client().to_canonical();
        if throttle.allow.contains(client) {
            return None;
        }
        let field = match &throttle.key {
            RateKey::ClientIp => None,
            RateKey::Header(name) => only_value(self.request, name),
        };
        // A client that leaves the field out, or says it twice, is known by its address, and not free of the limit.
        let key = field.map_or_else(|| address_key(tables, client), |value| tables.key(value));
        #[cfg(feature = "sabotage-share-rate")] // Broken on purpose: ./x sabotage
        let key = key.min(0);
        Some(throttle.table.charge(&throttle.rate, key, self.proxy.world.now().0))
    }
}

impl<'a> Allowance<'a> {
    /// What an answer to a request says that left its client with this quota.
    pub(super) fn new(throttle: &'a Throttle, quota: Quota) -> Self {
        Self { lines: &throttle.lines, quota }
    }

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

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::*;

    #[test]
    fn an_allowance_tells_what_remains_and_when_there_is_more() {
        let mut out = Vec::new();
        let quota = Quota { remaining: 7, more_seconds: NonZero::new(3).unwrap() };
        Allowance { lines: b"RateLimit: \"maypole\";r=", quota }.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "RateLimit: \"maypole\";r=7;t=3\r\n");
    }
}
