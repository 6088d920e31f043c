//! One backend: an identity that outlives snapshots, and the counters that belong to it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

use super::breaker::Breaker;
use super::cells::Cell;
use super::gate::Gate;
use super::queue::{Queue, count_within};
use super::{Addresses, Decision, Mark, Outcome, PeakEwma, Seen, Standing, Thresholds, Totals, Turn};

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
    /// What the name resolved to last; empty when it never did.
    pub addresses: Addresses,
    /// Looked at by every pick; turned by the breaker, if there is one.
    gate: Gate,
    /// Only where one is configured.
    breaker: Option<Box<Breaker>>,
    /// By what sessions name it.
    mark: Mark,
    load: CachePadded<Load>,
    queue: Arc<Queue>,
    /// Only where the strategy asks for it.
    latency_estimate: Option<Box<PeakEwma>>,
    cells: Box<[CachePadded<Cell>]>,
    retired: AtomicBool,
}

/// Together on a cache line of their own: who writes the one reads the other.
#[derive(Debug)]
struct Load {
    in_flight: AtomicUsize,
    /// 0: no bound, neither of its own nor on all together; [`BOUND_OF_ALL`]: the latter alone; with [`AWAY`] in it: it takes
    /// none at all for now.
    in_flight_max: AtomicUsize,
}

/// The bit that says that nothing is sent to it. Beside the bound, so that a pick has one number to look at.
const AWAY: usize = 1 << (usize::BITS - 1);
const BOUND_OF_ALL: usize = AWAY - 1;

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
    /// literal has its address at once; any other has none until somebody stores what it resolved to.
    pub fn new(id: u64, slot: usize, origin: Origin, workers: usize) -> Self {
        let literal = origin.host.parse().map(|ip| SocketAddr::new(ip, origin.port));
        Self {
            id,
            slot,
            mark: Mark::of_id(id),
            authority: if origin.host.contains(':') {
                format!("[{}]:{}", origin.host, origin.port)
            } else {
                format!("{}:{}", origin.host, origin.port)
            },
            name: origin.name,
            url: origin.url,
            host: origin.host,
            port: origin.port,
            base_path: origin.base_path,
            addresses: literal.into_iter().collect(),
            gate: Gate::default(),
            breaker: None,
            load: CachePadded::new(Load { in_flight: AtomicUsize::new(0), in_flight_max: AtomicUsize::new(0) }),
            queue: Arc::default(),
            latency_estimate: None,
            cells: (0..workers).map(|_| CachePadded::default()).collect(),
            retired: AtomicBool::new(false),
        }
    }

    /// The same, with an estimate of its latency that every outcome goes into.
    #[must_use]
    pub fn with_latency_estimate(self) -> Self {
        Self { latency_estimate: Some(Box::default()), ..self }
    }

    /// The same, with a circuit breaker.
    #[must_use]
    pub fn with_breaker(self, thresholds: Arc<Thresholds>) -> Self {
        let breaker = Breaker::new(thresholds, self.cells.len());
        Self { breaker: Some(Box::new(breaker)), ..self }
    }

    /// The same, known to sessions by this mark instead of that of its id.
    #[must_use]
    pub fn with_mark(self, mark: Mark) -> Self {
        Self { mark, ..self }
    }

    /// By what sessions name it.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The same, with its fleet's queue and at most `max_connections` requests in flight (0: any number).
    #[must_use]
    pub fn with_limit(self, queue: Arc<Queue>, max_connections: usize) -> Self {
        let limited = Self { queue, ..self };
        limited.set_max_connections(max_connections);
        limited
    }

    /// Bounds the requests in flight: to be called before a snapshot is published, which serves those that wait. What is in
    /// flight beyond a lower bound goes on.
    pub fn set_max_connections(&self, max_connections: usize) {
        let max = if max_connections == 0 && self.queue.is_bounded() { BOUND_OF_ALL } else { max_connections };
        let with_bound = |now: usize| Some((now & AWAY) | max);
        let _ = self.load.in_flight_max.fetch_update(Ordering::SeqCst, Ordering::Relaxed, with_bound);
    }

    /// It refuses connections, and no other one is there: nothing is sent to it until it has [come back](Self::came_back),
    /// and those that wait look after it.
    pub fn went_away(&self) {
        if self.load.in_flight_max.fetch_or(AWAY, Ordering::SeqCst) & AWAY == 0 {
            self.queue.rouse();
        }
    }

    /// It takes connections again, or that is to be tried: those that wait for it get their places.
    pub fn came_back(&self) {
        if self.load.in_flight_max.fetch_and(!AWAY, Ordering::SeqCst) & AWAY != 0 {
            self.queue.room_made();
        }
    }

    /// Whether nothing is sent to it, since it refused a connection.
    pub fn is_away(&self) -> bool {
        self.load.in_flight_max.load(Ordering::Relaxed) & AWAY != 0
    }

    /// How long it takes to answer, if that is kept.
    pub fn latency_estimate(&self) -> Option<&PeakEwma> {
        self.latency_estimate.as_deref()
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
        max == 0 || (max & AWAY == 0 && self.in_flight() < max && self.queue.has_room())
    }

    /// Counts a request more in flight; false, and nothing is counted, where there is no room.
    #[inline]
    fn enter(&self) -> bool {
        let max = self.load.in_flight_max.load(Ordering::Relaxed);
        if max > 0 {
            return self.enter_within(max);
        }
        self.load.in_flight.fetch_add(1, Ordering::Relaxed);
        true
    }

    #[cold]
    fn enter_within(&self, max: usize) -> bool {
        if max & AWAY != 0 {
            return false;
        }
        let enters = self.queue.enter();
        if enters && !count_within(&self.load.in_flight, max) {
            self.queue.leave();
            return false;
        }
        enters
    }

    /// Counts one less.
    #[inline]
    fn leave(&self) {
        self.load.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.queue.leave();
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
        self.breaker.as_ref().map_or(0, |breaker| breaker.consecutive_failures())
    }

    /// Does what the control plane has decided after a [`Turn`]. Without effect where workers have turned it since: they
    /// have told of that.
    pub fn decide(&self, decision: Decision) {
        if let Some(breaker) = &self.breaker {
            self.gate.obey(decision, breaker.thresholds().trials);
            self.queue.room_made();
        }
    }

    /// While it is on trial: lets as many requests through as at its beginning, since those may have been lost.
    pub fn refill_trials(&self) {
        if let Some(breaker) = &self.breaker {
            self.gate.refill(breaker.thresholds().trials);
            self.queue.room_made();
        }
    }

    /// A request that its breaker has let through isn't sent after all. For a moment it may have been counted in flight, so
    /// that others found no room.
    #[cold]
    fn stay_out(&self, epoch: u32) {
        if let Some(breaker) = &self.breaker {
            self.gate.give_token_back(epoch, breaker.thresholds().trials);
        }
        self.queue.room_made();
    }

    /// Notes how a request ended. Only `worker`'s own thread may call it with its number: another one's updates
    /// could be lost. A number beyond the workers that the backend was made for is ignored. `now_ns` is the clock of
    /// [`super::Occasion::now_ns`], which is looked at only where the latency is estimated.
    pub fn record(&self, worker: usize, outcome: Outcome, now_ns: impl FnOnce() -> u64) {
        if let Some(cell) = self.cells.get(worker) {
            cell.record(outcome);
        }
        if let Some(estimate) = &self.latency_estimate {
            match outcome {
                Outcome::Answered(_, Some(took)) => estimate.observe(took, now_ns()),
                Outcome::Failed => estimate.observe_failure(now_ns()),
                Outcome::Answered(_, None) | Outcome::Abandoned => {}
            }
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

/// A request in flight to a backend: counted from [`InFlight::begin`] until it is dropped.
///
/// A worker begins it in the same turn in which it picked: with no wait between the two, whoever has seen every
/// worker pass its mailbox after a backend left the snapshot has also seen every request to it counted.
#[derive(Debug)]
pub struct InFlight<B: Deref<Target = Backend> = Arc<Backend>> {
    backend: B,
    /// That of the backend's gate when it began.
    epoch: u32,
}

impl<B: Deref<Target = Backend>> InFlight<B> {
    /// Counts one more; None when there are as many as may be, at this backend or in all.
    #[inline]
    pub fn begin(backend: B) -> Option<Self> {
        let epoch = backend.gate.epoch();
        if backend.enter() {
            return Some(Self { backend, epoch });
        }
        backend.stay_out(epoch);
        None
    }

    /// The backend that the request goes to.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Whether the backend has a breaker, which wants to hear what is seen of the request.
    #[inline]
    pub fn has_breaker(&self) -> bool {
        self.backend.breaker.is_some()
    }

    /// What an answer of this status says of the backend.
    pub fn judge(&self, status: u16) -> Seen {
        self.backend.breaker.as_ref().map_or(Seen::Nothing, |breaker| breaker.judge(status))
    }

    /// Has the backend's breaker take in what was seen of the request, and `tell` of the turn that this makes, if any: it is
    /// taken back when that says that nobody heard. `worker` as in [`Backend::record`]; `now_ns` is any clock that all
    /// workers share and that doesn't go back, in nanoseconds, and is looked at only if there is a breaker.
    #[inline]
    pub fn observe(&self, worker: usize, seen: Seen, now_ns: impl FnOnce() -> u64, tell: impl FnOnce(Turn) -> bool) {
        if let Some(breaker) = &self.backend.breaker {
            breaker.observe(&self.backend.gate, self.epoch, worker, seen, now_ns(), tell);
            // It may be trusted again.
            self.backend.queue.room_made();
        }
    }
}

impl<B: Deref<Target = Backend>> Drop for InFlight<B> {
    fn drop(&mut self) {
        #[cfg(not(feature = "sabotage-forget-decrement"))] // Broken on purpose: ./x sabotage
        self.backend.leave();
        self.backend.queue.room_made();
    }
}

/// A place at a backend, for a request that has waited for it: counted in flight there, and given to the next when it is
/// dropped instead.
#[derive(Debug)]
pub struct Place {
    backend: Arc<Backend>,
    epoch: u32,
    begun: bool,
}

impl Place {
    /// None when there are as many as may be, or the backend's breaker lets none through. Where it is to be `trusted`, the
    /// breaker isn't asked.
    pub(super) fn take(backend: &Arc<Backend>, trusted: bool) -> Option<Self> {
        let epoch = backend.gate.epoch();
        if !backend.enter() {
            return None;
        }
        if !trusted && !backend.admit() {
            backend.leave();
            return None;
        }
        Some(Self { backend: Arc::clone(backend), epoch, begun: false })
    }

    /// Where it is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The request takes its place; `backend` is the same one.
    pub fn begin<B: Deref<Target = Backend>>(mut self, backend: B) -> InFlight<B> {
        debug_assert_eq!(backend.id, self.backend.id);
        self.begun = true;
        InFlight { backend, epoch: self.epoch }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.begun {
            self.backend.leave();
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
        backend.record(0, Outcome::Answered(200, Some(Duration::from_millis(1))), || 0);
        backend.record(1, Outcome::Answered(503, Some(Duration::from_millis(1))), || 0);
        backend.record(1, Outcome::Answered(408, None), || 0);
        backend.record(1, Outcome::Failed, || 0);
        backend.record(0, Outcome::Abandoned, || 0);
        backend.record(2, Outcome::Failed, || 0);
        let totals = backend.totals();
        assert_eq!((totals.answered, totals.failed, totals.abandoned), (3, 1, 1));
        assert_eq!(totals.classes, [0, 1, 0, 1, 1]);
        assert_eq!(totals.latency.count(), 2);
    }
}
