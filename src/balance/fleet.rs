//! What the workers share: the current snapshot, the rotation's cursor, and the way to report what they saw.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::utils::CachePadded;

use super::{Backend, Policy, Queue, Snapshot, Turn};

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
    /// Its breaker has turned.
    Turned(Arc<Backend>, Turn),
}

/// Shared by all workers and the control plane.
#[derive(Debug)]
pub struct Fleet {
    /// How backends are picked, in every snapshot.
    pub policy: Arc<Policy>,
    /// The bound on all requests in flight, and those that wait for room; its backends are made with it.
    pub queue: Arc<Queue>,
    /// Swapped by the control plane, see [`Self::publish`], read by the workers.
    pub snapshot: ArcSwap<Snapshot>,
    /// The rotation's cursor; by p2c, whom it remembers.
    pub cursor: CachePadded<AtomicUsize>,
    /// Bounded; workers only ever `try_send`.
    pub reports: Sender<Report>,
}

impl Fleet {
    /// A fleet without a backend, and the end at which the control plane receives what workers report.
    pub fn new(policy: Policy) -> (Self, Receiver<Report>) {
        Self::with_queue(Queue::default(), policy)
    }

    /// The same, with limits of concurrency.
    pub fn with_queue(queue: Queue, policy: Policy) -> (Self, Receiver<Report>) {
        let (reports, receiver) = bounded(REPORTS_MAX);
        let policy = Arc::new(policy);
        let fleet = Self {
            snapshot: ArcSwap::from_pointee(Snapshot::empty(Arc::clone(&policy))),
            policy,
            queue: Arc::new(queue),
            cursor: CachePadded::new(AtomicUsize::new(0)),
            reports,
        };
        (fleet, receiver)
    }

    /// From now on backends are picked from this snapshot. Requests that wait for room get what is new of it.
    pub fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Arc::clone(&snapshot));
        self.queue.serve_from(&snapshot);
    }
}
