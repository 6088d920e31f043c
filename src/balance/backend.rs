//! One backend: an identity that outlives snapshots, and the counters that belong to it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::utils::CachePadded;

/// A server that requests are sent to. Shared by all workers through `Arc`; its counters survive every snapshot swap
/// that doesn't concern it.
#[derive(Debug)]
pub struct Backend {
    /// Never used twice in a process.
    pub id: u64,
    /// A small dense number for per-worker tables; reused after the backend is gone, so compare `id` too.
    pub slot: usize,
    /// Unique; `host:port` unless the config says otherwise.
    pub name: String,
    /// As the operator wrote it.
    pub url: String,
    /// Host name or address literal (without brackets), lower case.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Put before every request's path; empty, or `/…` without a trailing slash.
    pub base_path: String,
    /// What the name resolved to last; empty when it never did.
    pub addresses: ArcSwap<Vec<SocketAddr>>,
    in_flight: CachePadded<AtomicUsize>,
    cells: Box<[CachePadded<Cell>]>,
}

/// How a request to a backend ended, for its totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the status code and the time from the request's first byte sent to the answer's head.
    Answered(u16, Duration),
    /// It failed before it answered, or in the middle of its answer.
    Failed,
    /// The client left, or the request was at fault: says nothing of the backend.
    Abandoned,
}

/// One worker's counters of one backend: written by that worker alone (plain load and store), read by anyone.
#[derive(Debug, Default)]
struct Cell {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Backend {
    /// Requests in flight now, over all workers, tunnels included.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Notes how a request ended. Only `worker`'s own thread may call it with its number.
    pub fn record(&self, worker: usize, outcome: Outcome) {
        let _ = (worker, outcome, &self.cells);
    }
}

/// A request in flight to a backend: counted from [`InFlight::begin`] until it is dropped.
#[derive(Debug)]
pub struct InFlight<B: Deref<Target = Backend>>(B);

impl<B: Deref<Target = Backend>> InFlight<B> {
    /// Counts one more.
    pub fn begin(backend: B) -> Self {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(backend)
    }
}

impl<B: Deref<Target = Backend>> Drop for InFlight<B> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}
