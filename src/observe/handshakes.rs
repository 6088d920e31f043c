//! How handshakes with clients ended. Their failures are told by alert: a name of ours, whatever a client sends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use serde::Serialize;

/// The alerts that there are (RFC 8446 §6, and those of TLS 1.2), in order.
const ALERTS: &[(u8, &str)] = &[
    (0, "close_notify"),
    (10, "unexpected_message"),
    (20, "bad_record_mac"),
    (22, "record_overflow"),
    (40, "handshake_failure"),
    (42, "bad_certificate"),
    (43, "unsupported_certificate"),
    (44, "certificate_revoked"),
    (45, "certificate_expired"),
    (46, "certificate_unknown"),
    (47, "illegal_parameter"),
    (48, "unknown_ca"),
    (49, "access_denied"),
    (50, "decode_error"),
    (51, "decrypt_error"),
    (70, "protocol_version"),
    (71, "insufficient_security"),
    (80, "internal_error"),
    (86, "inappropriate_fallback"),
    (90, "user_canceled"),
    (100, "no_renegotiation"),
    (109, "missing_extension"),
    (110, "unsupported_extension"),
    (112, "unrecognized_name"),
    (113, "bad_certificate_status_response"),
    (115, "unknown_psk_identity"),
    (116, "certificate_required"),
    (120, "no_application_protocol"),
];

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeEnd {
    /// Well, and in full.
    Done,
    /// Well, by going on with a session of before.
    Resumed,
    /// By an alert that the client was told.
    Refused(u8),
    /// By an alert that the client told.
    Declined(u8),
    /// The client closed the connection before.
    Left,
    /// It took longer than `tls.handshake_timeout`.
    TimedOut,
    /// There were too many at once.
    CrowdedOut,
    /// There was none: the client speaks HTTP in clear.
    InClear,
}

/// Of an alert that has no name here.
const OTHER_ALERT: usize = ALERTS.len();
/// Before those of alerts.
const OTHERS: usize = 6;
const PLACES: usize = OTHERS + 2 * (ALERTS.len() + 1);

/// Ends of handshakes, in a cell for each worker: written by that worker alone, on cache lines of its own.
#[derive(Debug)]
pub struct HandshakeCounts(Box<[CachePadded<Cell>]>);

#[derive(Debug)]
struct Cell([AtomicU64; PLACES]);

/// How handshakes have ended since the start, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HandshakeTotals {
    /// See [`HandshakeEnd::Done`].
    pub full: u64,
    /// See [`HandshakeEnd::Resumed`].
    pub resumed: u64,
    /// See [`HandshakeEnd::Left`].
    pub left: u64,
    /// See [`HandshakeEnd::TimedOut`].
    pub timed_out: u64,
    /// See [`HandshakeEnd::CrowdedOut`].
    pub crowded_out: u64,
    /// See [`HandshakeEnd::InClear`].
    pub in_clear: u64,
    /// Those with [`HandshakeEnd::Refused`] by the names of their alerts; none that there were none of.
    pub refused: BTreeMap<&'static str, u64>,
    /// The same with [`HandshakeEnd::Declined`].
    pub declined: BTreeMap<&'static str, u64>,
}

impl HandshakeEnd {
    /// The name of the alert of this number.
    pub fn alert_name(alert: u8) -> &'static str {
        ALERTS.get(place_of(alert)).map_or("an unknown alert", |(_, name)| name)
    }

    fn place(self) -> usize {
        match self {
            Self::Done => 0,
            Self::Resumed => 1,
            Self::Left => 2,
            Self::TimedOut => 3,
            Self::CrowdedOut => 4,
            Self::InClear => 5,
            Self::Refused(alert) => OTHERS + place_of(alert),
            Self::Declined(alert) => OTHERS + ALERTS.len() + 1 + place_of(alert),
        }
    }
}

impl fmt::Display for HandshakeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Resumed => f.write_str("resumed"),
            Self::Refused(alert) => write!(f, "refused by {}", Self::alert_name(*alert)),
            Self::Declined(alert) => write!(f, "the client declined by {}", Self::alert_name(*alert)),
            Self::Left => f.write_str("the client closed the connection"),
            Self::TimedOut => f.write_str("it took longer than tls.handshake_timeout"),
            Self::CrowdedOut => f.write_str("there were too many at once"),
            Self::InClear => f.write_str("the client doesn't speak TLS"),
        }
    }
}

fn place_of(alert: u8) -> usize {
    ALERTS.binary_search_by_key(&alert, |(number, _)| *number).unwrap_or(OTHER_ALERT)
}

impl HandshakeCounts {
    /// Cells for workers `0..workers`, all zero.
    pub fn new(workers: usize) -> Self {
        let cell = || CachePadded::new(Cell([const { AtomicU64::new(0) }; PLACES]));
        Self((0..workers).map(|_| cell()).collect())
    }

    /// Counts one more. Only `worker`'s own thread may call it with its number: another one's updates could be lost. A
    /// number beyond the workers that this was made for is ignored.
    pub fn count(&self, worker: usize, end: HandshakeEnd) {
        if let Some(Cell(counts)) = self.0.get(worker).map(|cell| &**cell) {
            let count = &counts[end.place()];
            // With one writer no locked increment is needed.
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// How often each, over all workers.
    pub fn totals(&self) -> HandshakeTotals {
        let by_alert = |end: fn(u8) -> HandshakeEnd| {
            // Every alert without a name is counted in one place: 255 is one.
            let named = ALERTS.iter().copied().chain([(u8::MAX, "other")]);
            named.map(|(alert, name)| (name, self.of(end(alert)))).filter(|(_, count)| *count > 0).collect()
        };
        HandshakeTotals {
            full: self.of(HandshakeEnd::Done),
            resumed: self.of(HandshakeEnd::Resumed),
            left: self.of(HandshakeEnd::Left),
            timed_out: self.of(HandshakeEnd::TimedOut),
            crowded_out: self.of(HandshakeEnd::CrowdedOut),
            in_clear: self.of(HandshakeEnd::InClear),
            refused: by_alert(HandshakeEnd::Refused),
            declined: by_alert(HandshakeEnd::Declined),
        }
    }

    /// How often, over all workers.
    pub fn of(&self, end: HandshakeEnd) -> u64 {
        self.0.iter().map(|cell| cell.0[end.place()].load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_summed_over_workers_and_alerts_kept_apart_by_who_told_them() {
        let counts = HandshakeCounts::new(2);
        for (worker, end) in [
            (0, HandshakeEnd::Done),
            (1, HandshakeEnd::Done),
            (1, HandshakeEnd::Resumed),
            (0, HandshakeEnd::Refused(40)),
            (0, HandshakeEnd::Declined(40)),
            (1, HandshakeEnd::Declined(40)),
            (2, HandshakeEnd::Left),
        ] {
            counts.count(worker, end);
        }
        let of = |end| counts.of(end);
        assert_eq!((of(HandshakeEnd::Done), of(HandshakeEnd::Resumed), of(HandshakeEnd::Left)), (2, 1, 0));
        assert_eq!((of(HandshakeEnd::Refused(40)), of(HandshakeEnd::Declined(40))), (1, 2));
        counts.count(0, HandshakeEnd::Declined(1));
        counts.count(0, HandshakeEnd::Declined(254));
        let totals = serde_json::to_string(&counts.totals()).expect("JSON");
        let want = "{\"full\":2,\"resumed\":1,\"left\":0,\"timed_out\":0,\"crowded_out\":0,\"in_clear\":0,\
                    \"refused\":{\"handshake_failure\":1},\"declined\":{\"handshake_failure\":2,\"other\":2}}";
        assert_eq!(totals, want);
    }

    #[test]
    fn every_alert_has_a_place_of_its_own_and_those_without_a_name_share_one() {
        let kinds = [HandshakeEnd::Refused, HandshakeEnd::Declined];
        let places = kinds.iter().flat_map(|kind| ALERTS.iter().map(|(alert, _)| kind(*alert).place()));
        let others = [
            HandshakeEnd::Done,
            HandshakeEnd::Resumed,
            HandshakeEnd::Left,
            HandshakeEnd::TimedOut,
            HandshakeEnd::CrowdedOut,
            HandshakeEnd::InClear,
            HandshakeEnd::Refused(1),
            HandshakeEnd::Declined(255),
        ];
        let places: std::collections::BTreeSet<_> = places.chain(others.map(HandshakeEnd::place)).collect();
        assert_eq!((places.len(), places.last()), (PLACES, Some(&(PLACES - 1))));
        assert_eq!(HandshakeEnd::Refused(2).place(), HandshakeEnd::Refused(1).place());
        assert!(ALERTS.is_sorted());
        assert_eq!(
            (HandshakeEnd::alert_name(112), HandshakeEnd::alert_name(113 + 1)),
            ("unrecognized_name", "an unknown alert")
        );
    }
}
