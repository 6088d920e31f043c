//! What the workers share: the current snapshot, the rotation's cursor, and the way to report what they saw.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::utils::CachePadded;

use super::{Backend, Policy, Snapshot, Turn};

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
    /// Its breaker has turned.
    Turned(Arc<Backend>, Turn),
}

/// Shared by all workers and the control plane.
#[derive(Debug)]
pub struct Fleet {
    /// How backends are picked, in every snapshot.
    pub policy: Arc<Policy>,
    /// Swapped by the control plane, read by the workers.
    pub snapshot: ArcSwap<Snapshot>,
    /// The rotation's cursor.
    pub cursor: CachePadded<AtomicUsize>,
    /// Bounded; workers only ever `try_send`.
    pub reports: Sender<Report>,
}

impl Fleet {
    /// A fleet without a backend, and the end at which the control plane receives what workers report.
    pub fn new(policy: Policy) -> (Self, Receiver<Report>) {
        let (reports, receiver) = bounded(REPORTS_MAX);
        let policy = Arc::new(policy);
        let fleet = Self {
            snapshot: ArcSwap::from_pointee(Snapshot::empty(Arc::clone(&policy))),
            policy,
            cursor: CachePadded::new(AtomicUsize::new(0)),
            reports,
        };
        (fleet, receiver)
    }
}
