//! What all workers' proxies share: the configuration, the fleet, the clients' seats, rates and sessions, and what is
//! counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::seats::{SeatRules, Seats};
use super::sticky::Stickiness;
use super::throttle::Throttle;
use super::via::Via;
use crate::balance::{Fleet, RetryCells};
use crate::config::{Config, Sticky};
use crate::observe::FailureCounts;
use crate::policy::{Networks, Tables};

/// Made once, read by all.
#[derive(Debug)]
pub struct Shared {
    /// As checked.
    pub config: Config,
    /// The backends.
    pub fleet: Arc<Fleet>,
    /// Exchanges that failed, by reason.
    pub failures: FailureCounts,
    /// Requests that were sent, and sent again.
    pub retries: RetryCells,
    pub(super) seats: Seats,
    pub(super) seat_rules: SeatRules,
    /// What is kept of clients.
    pub(super) tables: Tables,
    /// None without `rate_limit`: then nobody is looked up.
    pub(super) throttle: Option<Throttle>,
    /// None without `sticky`: then no request is looked at for a session.
    pub(super) stickiness: Option<Stickiness>,
    pub(super) trusted_proxies: Networks,
    /// None without `via`: then the proxy isn't told of, and can't be found either.
    pub(super) via: Option<Via>,
    draining: AtomicBool,
}

impl Shared {
    /// `connections_max` bounds client connections over all workers.
    pub fn new(config: Config, fleet: Arc<Fleet>, connections_max: usize) -> Arc<Self> {
        let failures = FailureCounts::new(config.workers);
        let retries = RetryCells::new(config.workers);
        let (seats, seat_rules) = (Seats::new(), SeatRules::new(&config, connections_max));
        let rates_max = config.rate_limit.as_ref().map(|limit| limit.max_keys);
        let ties_max = match &config.sticky {
            Some(Sticky::Ip { max_keys, .. }) => Some(*max_keys),
            _ => None,
        };
        let tables = Tables::new(rates_max, ties_max);
        let throttle = config.rate_limit.as_ref().map(Throttle::new);
        let stickiness = config.sticky.as_ref().map(Stickiness::new);
        let trusted_proxies = Networks::new(&config.trusted_proxies);
        let via = config.via.as_deref().map(Via::new);
        let draining = AtomicBool::new(false);
        Arc::new(Self {
            config,
            fleet,
            failures,
            retries,
            seats,
            seat_rules,
            tables,
            throttle,
            stickiness,
            trusted_proxies,
            via,
            draining,
        })
    }

    /// Client connections now.
    pub fn connections(&self) -> usize {
        self.seats.taken()
    }

    pub(super) fn connections_max(&self) -> usize {
        self.seat_rules.connections_max
    }

    /// From now on each answer ends its connection, and idle connections end as they are found.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether a client's connection ends with the answer to this request of it, counted from 1.
    pub(super) fn is_last(&self, request: u64) -> bool {
        let requests_max = self.config.limits.requests_per_connection;
        self.is_draining() || (requests_max > 0 && request >= requests_max)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
