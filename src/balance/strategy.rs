//! How a backend is picked, and what a strategy may ask of the request that one is picked for.

use super::breaker::Thresholds;
use super::sessions::Sessions;
pub use crate::config::{HashKey, Strategy};

/// What the operator chose for a pool: it decides, and remembers nothing. A snapshot is made with one, and picks by it.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How a backend is picked.
    pub strategy: Strategy,
    /// For hashing strategies: no backend gets more than this many times its fair share of what is in flight. None: no
    /// bound.
    pub balance_factor: Option<f64>,
    /// By what clients are bound to a backend, if they are.
    pub sessions: Sessions,
    /// When a backend's circuit breaker trips, and when it is trusted again; None: there are none.
    pub breaker: Option<Thresholds>,
    /// Requests in flight at all backends together, at most; 0: any number.
    pub in_flight_max: usize,
    /// Requests that wait for room, at most.
    pub waiting_max: usize,
}

/// What a pick may ask of the request and its surroundings. Each is asked for only by a strategy that uses it, so the
/// others pay nothing for it.
pub trait Occasion {
    /// 64 random bits.
    fn random(&self) -> u64;

    /// Nanoseconds on a clock that all workers share and that never goes back.
    fn now_ns(&self) -> u64;

    /// The hash of the request's key, see [`super::hash`]; None when the request has none.
    fn key(&self, source: &HashKey) -> Option<u64>;
}

impl Policy {
    /// A strategy, and nothing else: no sessions, no breakers, no bounds.
    pub const fn of(strategy: Strategy) -> Self {
        let sessions = Sessions::Off;
        Self { strategy, balance_factor: None, sessions, breaker: None, in_flight_max: 0, waiting_max: 0 }
    }

    /// Whether a pick goes by how long backends take to answer: then how each request ended goes into
    /// [`super::Backend::estimate_latency`].
    #[inline]
    pub const fn estimates_latency(&self) -> bool {
        matches!(self.strategy, Strategy::PeakEwma)
    }
}
