//! One backend: an identity that outlives snapshots, and the counters that belong to it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::utils::CachePadded;

use super::breaker::{Breaker, Counts};
use super::cells::Cell;
use super::gate::Gate;
use super::line::{self, count_within};
use super::{Addresses, Decision, Mark, Outcome, PeakEwma, Seen, Standing, Thresholds, Totals, Transition};
use crate::config::authority;

/// A pool's waiting line, in which requests wait for places at its backends.
pub type Line = line::Line<Place>;
/// See [`line::Ticket`].
pub type Ticket = line::Ticket<Place>;

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
    /// `host:port`, an IPv6 literal in brackets: what a request without a `Host` is sent with.
    pub authority: String,
    /// Put before every request's path; empty, or `/…` without a trailing slash.
    pub base_path: String,
    /// It is reached by TLS.
    pub is_encrypted: bool,
    /// What the name resolved to last; empty when it never did.
    pub addresses: Addresses,
    /// Looked at by every pick; turned by the breaker, if there is one.
    gate: Gate,
    /// What its breaker counts: made by the first request that is held against thresholds, since it is large.
    counts: OnceLock<Box<Counts>>,
    /// As it was published last.
    mark: PublishedMark,
    load: CachePadded<Load>,
    line: Arc<Line>,
    cells: Box<[CachePadded<Cell>]>,
    retired: AtomicBool,
}

/// Together on a cache line of their own: what writes the one reads the others.
#[derive(Debug, Default)]
struct Load {
    in_flight: AtomicUsize,
    /// As it was published last. 0: no bound, neither of its own nor on its whole pool; [`BOUND_OF_POOL`]: the latter alone;
    /// with [`AWAY`] in it: it takes none at all for now.
    in_flight_max: AtomicUsize,
    /// Kept up only where the strategy goes by it.
    latency_estimate: PeakEwma,
}

/// The bit that says that nothing is sent to it. Beside the bound, so that a pick has one number to look at.
const AWAY: usize = 1 << (usize::BITS - 1);
const BOUND_OF_POOL: usize = AWAY - 1;

/// Where a backend is and what it is called: the part of a [`Backend`] that comes from its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// See [`Backend::name`].
    pub name: String,
    /// See [`Backend::url`].
    pub url: String,
    /// See [`Backend::host`].
    pub host: String,
    /// See [`Backend::port`].
    pub port: u16,
    /// See [`Backend::base_path`].
    pub base_path: String,
}

impl Backend {
    /// A backend that nothing has been sent to, with cells for workers `0..workers`. A host that is an address
    /// literal has its address at once; any other has none until what it resolved to is stored.
    pub fn new(id: u64, slot: usize, origin: Origin, workers: usize) -> Self {
        let literal = origin.host.parse().map(|ip| SocketAddr::new(ip, origin.port));
        Self {
            id,
            slot,
            mark: PublishedMark::new(Mark::of_id(id)),
            authority: authority(&origin.host, origin.port),
            name: origin.name,
            url: origin.url,
            host: origin.host,
            port: origin.port,
            base_path: origin.base_path,
            is_encrypted: false,
            addresses: literal.into_iter().collect(),
            gate: Gate::default(),
            counts: OnceLock::new(),
            load: CachePadded::default(),
            line: Arc::default(),
            cells: (0..workers).map(|_| CachePadded::default()).collect(),
            retired: AtomicBool::new(false),
        }
    }

    /// The same, in the pool whose waiting line this is.
    #[must_use]
    pub fn in_line(self, line: Arc<Line>) -> Self {
        Self { line, ..self }
    }

    /// The same, reached by TLS where `is_encrypted`.
    #[must_use]
    pub fn encrypted(self, is_encrypted: bool) -> Self {
        Self { is_encrypted, ..self }
    }

    /// By what sessions name it: its id, until a snapshot with another mark is published.
    pub fn mark(&self) -> Mark {
        self.mark.load()
    }

    /// Publishes what the snapshot to come says of it, since it isn't looked up there: the mark by what sessions name it, and
    /// the bound that is compared in one step with what is in flight (of its own, 0: none; or of its pool). What is in flight
    /// beyond a lower one goes on.
    pub(super) fn publish(&self, mark: Mark, max_connections: usize, pool_is_bounded: bool) {
        self.mark.store(mark);
        let max = if max_connections == 0 && pool_is_bounded { BOUND_OF_POOL } else { max_connections };
        let with_bound = |now: usize| (now & !AWAY != max).then_some((now & AWAY) | max);
        let _ = self.load.in_flight_max.fetch_update(Ordering::SeqCst, Ordering::Relaxed, with_bound);
    }

    /// It refuses connections, and no other one is there: nothing is sent to it until it has [come back](Self::came_back),
    /// and those that wait look after it.
    pub fn went_away(&self) {
        if self.load.in_flight_max.fetch_or(AWAY, Ordering::SeqCst) & AWAY == 0 {
            self.line.rouse();
        }
    }

    /// It takes connections again, or that is to be tried: those that wait for it get their places.
    pub fn came_back(&self) {
        if self.load.in_flight_max.fetch_and(!AWAY, Ordering::SeqCst) & AWAY != 0 {
            self.line.room_made();
        }
    }

    /// Whether nothing is sent to it, since it refused a connection.
    pub fn is_away(&self) -> bool {
        self.load.in_flight_max.load(Ordering::Relaxed) & AWAY != 0
    }

    /// How long it takes to answer, where that is [kept up](Self::estimate_latency).
    pub fn latency_estimate(&self) -> &PeakEwma {
        &self.load.latency_estimate
    }

    /// Says that it was removed: no snapshot to come has it.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Whether it was removed.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Requests in flight now, over all workers, tunnels included. Zero also says that what the last of them did
    /// (its record, say) can be seen.
    pub fn in_flight(&self) -> usize {
        self.load.in_flight.load(Ordering::Acquire)
    }

    /// Whether a request more could be sent to it now.
    #[inline]
    pub fn has_room(&self) -> bool {
        let max = self.load.in_flight_max.load(Ordering::Relaxed);
        max == 0 || (max & AWAY == 0 && self.in_flight() < max && self.line.has_room())
    }

    /// Counts a request more in flight; None, and nothing is counted, where there is no room.
    #[inline]
    fn enter(&self) -> Option<Counted> {
        let max = self.load.in_flight_max.load(Ordering::Relaxed);
        if max > 0 {
            return self.enter_within(max);
        }
        self.load.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Counted { in_pool: false })
    }

    #[cold]
    fn enter_within(&self, max: usize) -> Option<Counted> {
        if max & AWAY != 0 {
            return None;
        }
        let in_pool = self.line.enter()?;
        if count_within(&self.load.in_flight, max) {
            return Some(Counted { in_pool });
        }
        if in_pool {
            self.line.leave();
        }
        None
    }

    /// Counts one less.
    #[inline]
    fn leave(&self, counted: Counted) {
        self.load.in_flight.fetch_sub(1, Ordering::SeqCst);
        if counted.in_pool {
            self.line.leave();
        }
    }

    /// Whether its breaker would let a request through now: one that it can't is picked only where there is no other.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    /// Lets one request through, if its breaker does; to be called once for each pick that it gets.
    #[inline]
    pub fn admit(&self) -> bool {
        self.gate.admit()
    }

    /// How much its breaker trusts it; always closed without one.
    pub fn standing(&self) -> Standing {
        self.gate.word().standing
    }

    /// Failures in a row until now, or until its breaker tripped; 0 without one.
    pub fn consecutive_failures(&self) -> u32 {
        self.counts.get().map_or(0, |counts| counts.consecutive_failures())
    }

    /// Does what the control plane has decided after a [`Transition`]; a trial that this begins is one of `trials` requests, 1–100.
    /// Without effect where workers have turned it since: they have told of that.
    pub fn decide(&self, decision: Decision, trials: u8) {
        self.gate.obey(decision, trials);
        self.line.room_made();
    }

    /// While it is on trial: lets as many requests through as at its beginning, since those may have been lost.
    pub fn refill_trials(&self) {
        self.gate.refill();
        self.line.room_made();
    }

    /// A request that its breaker has let through isn't sent after all. For a moment it may have been counted in flight, so
    /// that others found no room.
    #[cold]
    fn stay_out(&self, epoch: u32) {
        self.gate.give_token_back(epoch);
        self.line.room_made();
    }

    /// Notes how a request ended. Only `worker`'s own thread may call it with its number: another one's updates
    /// could be lost. A number beyond the workers that the backend was made for is ignored.
    pub fn record(&self, worker: usize, outcome: Outcome) {
        if let Some(cell) = self.cells.get(worker) {
            cell.record(outcome);
        }
    }

    /// Has the estimate of its latency take in how a request ended, see [`super::Policy::estimates_latency`]. `now_ns` is
    /// the clock of [`super::Occasion::now_ns`].
    pub fn estimate_latency(&self, outcome: Outcome, now_ns: u64) {
        match outcome {
            Outcome::Answered(_, Some(took)) => self.load.latency_estimate.observe(took, now_ns),
            Outcome::Failed => self.load.latency_estimate.observe_failure(now_ns),
            Outcome::Answered(_, None) | Outcome::Abandoned => {}
        }
    }

    /// What all workers have recorded, added up. Each number is exact; a request that ends meanwhile may be in one
    /// of them and not yet in another.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cell in &self.cells {
            cell.add_to(&mut totals);
        }
        totals
    }
}

/// Where a request in flight is counted besides its backend: it leaves the counts that it entered, whatever bounds there are
/// by then.
#[derive(Clone, Copy, Debug)]
struct Counted {
    in_pool: bool,
}

/// A mark in two halves. A reader may find one of each while it changes: no backend's mark, and a session that is bound
/// to that is bound anew at its next request.
#[derive(Debug)]
struct PublishedMark([AtomicU64; 2]);

impl PublishedMark {
    fn new(mark: Mark) -> Self {
        Self(mark.halves().map(AtomicU64::new))
    }

    fn load(&self) -> Mark {
        Mark::from_halves(self.0.each_ref().map(|half| half.load(Ordering::Relaxed)))
    }

    fn store(&self, mark: Mark) {
        for (half, bits) in self.0.iter().zip(mark.halves()) {
            half.store(bits, Ordering::Relaxed);
        }
    }
}

/// A request in flight to a backend: counted from [`InFlight::begin`] until it is dropped.
///
/// A worker begins it in the same turn in which it picked: with no wait between the two, every request to a
/// backend is counted once every worker has passed its mailbox after the backend left the snapshot.
#[derive(Debug)]
pub struct InFlight<B: Deref<Target = Backend> = Arc<Backend>> {
    backend: B,
    /// That of the backend's gate when it began.
    epoch: u32,
    counted: Counted,
}

impl<B: Deref<Target = Backend>> InFlight<B> {
    /// Counts one more; None when there are as many as may be, at this backend or in all.
    #[inline]
    pub fn begin(backend: B) -> Option<Self> {
        let epoch = backend.gate.epoch();
        let Some(counted) = backend.enter() else {
            backend.stay_out(epoch);
            return None;
        };
        Some(Self { backend, epoch, counted })
    }

    /// The backend that the request goes to.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Has the backend's breaker, which has these thresholds, take in what was seen of the request, and `tell` of the turn
    /// that this makes, if any: it is taken back when that says that it wasn't heard. `worker` as in [`Backend::record`];
    /// `now_ns` is any clock that all workers share and that doesn't go back, in nanoseconds.
    pub fn observe(
        &self,
        thresholds: &Thresholds,
        worker: usize,
        seen: Seen,
        now_ns: u64,
        tell: impl FnOnce(Transition) -> bool,
    ) {
        let Backend { gate, counts, cells, line, .. } = &*self.backend;
        let counts = counts.get_or_init(|| Box::new(Counts::new(cells.len())));
        Breaker { gate, counts, thresholds, epoch: self.epoch, worker, now_ns }.observe(seen, tell);
        // It may be trusted again.
        line.room_made();
    }
}

impl<B: Deref<Target = Backend>> Drop for InFlight<B> {
    fn drop(&mut self) {
        #[cfg(not(feature = "sabotage-forget-decrement"))] // Broken on purpose: ./x sabotage
        self.backend.leave(self.counted);
        self.backend.line.room_made();
    }
}

/// A place at a backend, for a request that has waited for it: counted in flight there, and given to the next when it is
/// dropped instead.
#[derive(Debug)]
pub struct Place {
    backend: Arc<Backend>,
    epoch: u32,
    counted: Counted,
    begun: bool,
}

impl Place {
    /// None when there are as many as may be, or the backend's breaker lets none through. Where it is to be `trusted`, the
    /// breaker isn't asked.
    pub(super) fn take(backend: &Arc<Backend>, trusted: bool) -> Option<Self> {
        let epoch = backend.gate.epoch();
        let counted = backend.enter()?;
        if !trusted && !backend.admit() {
            backend.leave(counted);
            return None;
        }
        Some(Self { backend: Arc::clone(backend), epoch, counted, begun: false })
    }

    /// Where it is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The request takes its place; `backend` is the same one.
    pub fn begin<B: Deref<Target = Backend>>(mut self, backend: B) -> InFlight<B> {
        debug_assert_eq!(backend.id, self.backend.id);
        self.begun = true;
        InFlight { backend, epoch: self.epoch, counted: self.counted }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.begun {
            self.backend.leave(self.counted);
            self.backend.stay_out(self.epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn backend(host: &str) -> Backend {
        let origin = Origin {
            name: "a".into(),
            url: format!("http://{host}:81"),
            host: host.into(),
            port: 81,
            base_path: String::new(),
        };
        Backend::new(7, 0, origin, 2)
    }

    #[test]
    fn a_literal_host_has_its_address_at_once_and_a_name_has_none() {
        assert_eq!(backend("127.0.0.1").addresses.list(), ["127.0.0.1:81".parse().unwrap()]);
        assert_eq!(backend("::1").addresses.list(), ["[::1]:81".parse().unwrap()]);
        assert!(backend("localhost").addresses.is_empty());
    }

    #[test]
    fn in_flight_counts_guards_that_live() {
        let backend = Arc::new(backend("127.0.0.1"));
        let first = InFlight::begin(Arc::clone(&backend)).unwrap();
        let second = InFlight::begin(&*backend).unwrap();
        assert_eq!(backend.in_flight(), 2);
        drop(first);
        assert_eq!(backend.in_flight(), 1);
        assert_eq!(second.backend().id, 7);
        drop(second);
        assert_eq!(backend.in_flight(), 0);
    }

    #[test]
    fn totals_add_up_every_workers_records() {
        let backend = backend("127.0.0.1");
        backend.record(0, Outcome::Answered(200, Some(Duration::from_millis(1))));
        backend.record(1, Outcome::Answered(503, Some(Duration::from_millis(1))));
        backend.record(1, Outcome::Answered(408, None));
        backend.record(1, Outcome::Failed);
        backend.record(0, Outcome::Abandoned);
        backend.record(2, Outcome::Failed);
        let totals = backend.totals();
        assert_eq!((totals.answered, totals.failed, totals.abandoned), (3, 1, 1));
        assert_eq!(totals.classes, [0, 1, 0, 1, 1]);
        assert_eq!(totals.latency.count(), 2);
    }
}
