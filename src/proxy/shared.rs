//! What all workers' proxies share: the configuration, the fleet, the clients' seats, rates and sessions, and what is
//! counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::seats::Seats;
use super::sticky::Stickiness;
use super::throttle::Throttle;
use super::via::Via;
use crate::balance::{Fleet, RetryBudget};
use crate::config::Config;
use crate::observe::FailureCounts;
use crate::policy::Networks;

/// Made once, read by all.
#[derive(Debug)]
pub struct Shared {
    /// As checked.
    pub config: Config,
    /// The backends.
    pub fleet: Arc<Fleet>,
    /// Exchanges that failed, by reason.
    pub failures: FailureCounts,
    /// How many requests may be sent again.
    pub retry_budget: RetryBudget,
    pub(super) seats: Seats,
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
        let retry_budget = RetryBudget::new(config.retries.budget_percent, config.workers);
        let seats = Seats::new(&config, connections_max);
        let throttle = config.rate_limit.as_ref().map(Throttle::new);
        let stickiness = config.sticky.as_ref().map(Stickiness::new);
        let trusted_proxies = Networks::new(&config.trusted_proxies);
        let via = config.via.as_deref().map(Via::new);
        let draining = AtomicBool::new(false);
        Arc::new(Self {
            config,
            fleet,
            failures,
            retry_budget,
            seats,
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
        self.seats.connections_max()
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
