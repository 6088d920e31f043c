//! A pool of backends: what the workers share of it, and the way to report what they saw.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::utils::CachePadded;

use super::backend::{Backend, Line, Place};
use super::breaker::Transition;
use super::budget::RetryCells;
use super::line::Places;
use super::snapshot::Snapshot;
use super::strategy::{Policy, Strategy};

/// The pool that backends are in where the configuration names none.
pub const DEFAULT_POOL: &str = "default";

/// How many reports may wait for the control plane. One that finds no room is dropped: the next refused connection
/// makes another, and a breaker that can't tell of a turn doesn't make it.
const REPORTS_MAX: usize = 1024;

/// What a worker saw of a backend that the control plane should act on at once.
#[derive(Clone, Debug)]
pub enum Report {
    /// It refused a connection: out of rotation now, probed now.
    Refused(Arc<Backend>),
    /// Its name has no address, or none of them could be reached: resolve it again.
    Unreachable(Arc<Backend>),
    /// One of its addresses took no connection, and another one did: probed now.
    Missed(Arc<Backend>),
    /// It isn't known to be the one that it should be, or its handshake failed in another way: probed soon, which tells why.
    Untrusted(Arc<Backend>),
    /// Its breaker has turned.
    Turned(Arc<Backend>, Transition),
}

/// A set of backends that requests are sent to, by identity: all that is known of it, and nothing that a configuration
/// decides. How its backends are picked comes with each snapshot. Shared by all workers and the control plane.
#[derive(Debug)]
pub struct Pool {
    /// Never used twice in a process.
    pub id: u64,
    /// What the configuration calls it.
    pub name: String,
    /// Swapped by the control plane, see [`Self::publish`], read by the workers.
    pub snapshot: ArcSwap<Snapshot>,
    /// The rotation's cursor; by p2c, the backend that it remembers.
    pub cursor: CachePadded<AtomicUsize>,
    /// Requests that wait for room; its backends are made with it.
    pub line: Arc<Line>,
    /// Requests that were sent, and sent again.
    pub retry_cells: RetryCells,
    /// Bounded; workers only ever `try_send`.
    pub reports: Sender<Report>,
}

impl Pool {
    /// A pool without a backend, for workers `0..workers`, and the end at which the control plane receives what workers
    /// report. `id` is at least 1.
    pub fn new(id: u64, name: &str, workers: usize) -> (Self, Receiver<Report>) {
        let (reports, receiver) = bounded(REPORTS_MAX);
        // How none is picked makes no difference.
        let policy = Arc::new(Policy::of(Strategy::RoundRobin));
        let pool = Self {
            id,
            name: name.into(),
            snapshot: ArcSwap::from_pointee(Snapshot::new(0, Vec::new(), policy)),
            cursor: CachePadded::new(AtomicUsize::new(0)),
            line: Arc::default(),
            retry_cells: RetryCells::new(workers),
            reports,
        };
        (pool, receiver)
    }

    /// From now on backends are picked from this snapshot. Requests that wait for room get what is new of it. To be called by
    /// one thread at a time.
    pub fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        let Policy { in_flight_max, waiting_max, .. } = *snapshot.policy();
        self.line.publish_bounds(in_flight_max, waiting_max);
        snapshot.publish_to_backends();
        self.snapshot.store(Arc::clone(&snapshot));
        let places: Arc<dyn Places<Place = Place>> = snapshot;
        self.line.serve_from(&places);
    }

    /// Has backends that are away tried again where no request waits for them, and so none looks after them. To be called once
    /// a second.
    pub fn welcome_back(&self) {
        if self.line.waiting() == 0 {
            self.snapshot.load().backends().filter(|backend| backend.is_away()).for_each(|backend| backend.came_back());
        }
    }
}
