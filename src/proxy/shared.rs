//! What all workers' proxies share: the configuration, the fleet, and what is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::balance::Fleet;
use crate::config::Config;
use crate::observe::FailureCounts;

/// Made once, read by all.
#[derive(Debug)]
pub struct Shared {
    /// As checked.
    pub config: Config,
    /// The backends.
    pub fleet: Arc<Fleet>,
    /// Exchanges that failed, by reason.
    pub failures: FailureCounts,
    connections: AtomicUsize,
    connections_max: usize,
    draining: AtomicBool,
}

/// One client connection's place among all that are allowed.
#[derive(Debug)]
pub(super) struct Seat(Arc<Shared>);

impl Shared {
    /// `connections_max` bounds client connections over all workers.
    pub fn new(config: Config, fleet: Arc<Fleet>, connections_max: usize) -> Arc<Self> {
        let failures = FailureCounts::new(config.workers);
        let (connections, draining) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { config, fleet, failures, connections, connections_max, draining })
    }

    /// Client connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// From now on each answer ends its connection, and idle connections end as they are found.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(super) fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        if self.connections.fetch_add(1, Ordering::AcqRel) < self.connections_max {
            return Some(Seat(Arc::clone(self)));
        }
        self.connections.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Strategy;

    #[test]
    fn seats_are_bounded_and_come_back() {
        let (fleet, _reports) = Fleet::new(Strategy::RoundRobin);
        let shared = Shared::new(Config::default(), Arc::new(fleet), 2);
        let first = shared.take_seat();
        let second = shared.take_seat();
        assert!(first.is_some() && second.is_some() && shared.take_seat().is_none());
        drop(first);
        assert_eq!(shared.connections(), 1);
        assert!(shared.take_seat().is_some());
    }
}
