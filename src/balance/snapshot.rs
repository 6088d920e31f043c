//! An immutable picture of the backends; a pick reads it without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// A snapshot without a backend, of version 0.
    pub const fn empty(strategy: Strategy) -> Self {
        Self { version: 0, backends: Vec::new(), eligible: Vec::new(), strategy }
    }

    /// Picks a backend for one request: O(1) for round-robin. `tried` holds the ids of backends that failed this
    /// request already: another one is preferred, and one of them is taken only when there is no other.
    /// None when no backend is eligible.
    pub fn pick(&self, cursor: &AtomicUsize, tried: &[u64]) -> Option<&Arc<Backend>> {
        if self.eligible.is_empty() {
            return None;
        }
        let turn = cursor.fetch_add(1, Ordering::Relaxed);
        match self.strategy {
            Strategy::RoundRobin => Some(self.next_in_turn(turn, tried)),
            Strategy::LeastConn => self.least_loaded(turn, tried).or_else(|| self.least_loaded(turn, &[])),
        }
    }

    /// The backend whose turn it is, or the next that hasn't been tried. Each step but the last meets one of the
    /// few that `tried` holds, so the walk is no longer than `tried`.
    fn next_in_turn(&self, turn: usize, tried: &[u64]) -> &Arc<Backend> {
        let count = self.eligible.len();
        let first = turn % count;
        let (before, from) = self.eligible.split_at(first);
        from.iter().chain(before).find(|backend| !tried.contains(&backend.id)).unwrap_or(&self.eligible[first])
    }

    /// The backend with the fewest requests in flight that hasn't been tried, by turns among those that have equally
    /// few; None when all have been tried.
    fn least_loaded(&self, turn: usize, tried: &[u64]) -> Option<&Arc<Backend>> {
        let untried = || self.eligible.iter().filter(|backend| !tried.contains(&backend.id));
        let (mut fewest, mut ties) = (usize::MAX, 0);
        for backend in untried() {
            let load = backend.in_flight();
            if load < fewest {
                (fewest, ties) = (load, 1);
            } else if load == fewest {
                ties += 1;
            }
        }
        // Counts move while this looks at them: when fewer ties are left than were seen, any of them is as good.
        let mut left = turn.checked_rem(ties)?;
        let mut last = None;
        for backend in untried().filter(|backend| backend.in_flight() <= fewest) {
            last = Some(backend);
            if left == 0 {
                break;
            }
            left -= 1;
        }
        last.or_else(|| untried().next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{InFlight, Origin};

    fn snapshot(strategy: Strategy, count: u64) -> Snapshot {
        let eligible: Vec<_> = (0..count)
            .map(|id| {
                let origin = Origin {
                    name: format!("b{id}"),
                    url: String::new(),
                    host: "127.0.0.1".into(),
                    port: 1,
                    base_path: String::new(),
                };
                Arc::new(Backend::new(id, 0, origin, 1))
            })
            .collect();
        Snapshot { version: 1, backends: eligible.clone(), eligible, strategy }
    }

    fn picks(snapshot: &Snapshot, cursor: &AtomicUsize, tried: &[u64], count: usize) -> Vec<u64> {
        (0..count).map(|_| snapshot.pick(cursor, tried).unwrap().id).collect()
    }

    #[test]
    fn an_empty_set_picks_none() {
        let cursor = AtomicUsize::new(0);
        assert!(snapshot(Strategy::RoundRobin, 0).pick(&cursor, &[]).is_none());
        assert!(snapshot(Strategy::LeastConn, 0).pick(&cursor, &[]).is_none());
    }

    #[test]
    fn nine_picks_over_three_are_three_each_in_turn() {
        let cursor = AtomicUsize::new(0);
        let snapshot = snapshot(Strategy::RoundRobin, 3);
        assert_eq!(picks(&snapshot, &cursor, &[], 9), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_cursor_that_wraps_still_picks() {
        let cursor = AtomicUsize::new(usize::MAX);
        let snapshot = snapshot(Strategy::RoundRobin, 4);
        assert_eq!(picks(&snapshot, &cursor, &[], 3), [3, 0, 1]);
    }

    #[test]
    fn a_try_after_a_failure_takes_the_next_in_rotation() {
        let snapshot = snapshot(Strategy::RoundRobin, 3);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[0], 1), [1]);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(2), &[2, 0], 1), [1]);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(1), &[0], 1), [1]);
    }

    #[test]
    fn when_all_have_failed_the_one_in_turn_is_tried_again() {
        for strategy in [Strategy::RoundRobin, Strategy::LeastConn] {
            let snapshot = snapshot(strategy, 2);
            assert_eq!(picks(&snapshot, &AtomicUsize::new(1), &[0, 1], 2), [1, 0]);
        }
    }

    #[test]
    fn least_conn_takes_the_least_loaded() {
        let snapshot = snapshot(Strategy::LeastConn, 3);
        let _busy = [0, 0, 1, 2, 2].map(|index: usize| InFlight::begin(Arc::clone(&snapshot.eligible[index])));
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 3), [1, 1, 1]);
        let cursor = AtomicUsize::new(0);
        assert_eq!(picks(&snapshot, &cursor, &[1], 4), [0, 2, 0, 2], "the untried ones tie");
    }

    #[test]
    fn least_conn_breaks_ties_in_turn() {
        let snapshot = snapshot(Strategy::LeastConn, 3);
        let cursor = AtomicUsize::new(0);
        assert_eq!(picks(&snapshot, &cursor, &[], 6), [0, 1, 2, 0, 1, 2]);
        let _busy = InFlight::begin(Arc::clone(&snapshot.eligible[1]));
        assert_eq!(picks(&snapshot, &cursor, &[], 4), [0, 2, 0, 2]);
    }
}
