//! Real threads pick, count and swap at once: no in-flight count and no pick may get lost. The same harness runs over a
//! deliberately racy counter, and has to notice.

#[path = "support/pick.rs"]
mod pick;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use maypole::balance::{Backend, HashKey, InFlight, Member, Origin, Outcome, Policy, Pool, Snapshot, Strategy};
use pick::Request;

const WORKERS: usize = 4;
const PICKS_PER_WORKER: usize = 50_000;
const BACKENDS: u64 = 5;
/// Requests that a worker has in flight at once.
const DEPTH: usize = 8;

fn backends() -> Vec<Arc<Backend>> {
    let origin = |id| Origin {
        name: format!("b{id}"),
        url: format!("http://127.0.0.1:{}", id + 1),
        host: "127.0.0.1".into(),
        port: id as u16 + 1,
        base_path: String::new(),
    };
    (0..BACKENDS).map(|id| Arc::new(Backend::new(id, id as usize, origin(id), WORKERS))).collect()
}

/// Workers pick from the pool, and have a few requests in flight each, while a fifth thread swaps snapshots without
/// pause. `begin` is called with each pick and makes the guard that ends with the request; `swaps` says how often the
/// set changed.
fn storm<G>(all: &[Arc<Backend>], strategy: Strategy, begin: impl Fn(&Arc<Backend>, usize) -> G + Sync) -> usize {
    let takes_turns = matches!(strategy, Strategy::RoundRobin | Strategy::LeastConn);
    let policy = Arc::new(Policy { balance_factor: Some(1.25), ..Policy::of(strategy) });
    let (pool, _reports) = Pool::new(1, "pool", WORKERS);
    let snapshot = |version: u64| {
        // Never the same set twice in a row, and never an empty one.
        let left_out = version % (BACKENDS + 1);
        let member = |backend: &Arc<Backend>| Member {
            eligible: backend.id != left_out,
            weight: 1 + (version % 3) as u32 * backend.id as u32,
            ..Member::new(Arc::clone(backend))
        };
        Arc::new(Snapshot::new(version, all.iter().map(member).collect(), Arc::clone(&policy)))
    };
    // Made beforehand: a hash table takes its time, and swaps are what makes the storm.
    let snapshots: Vec<_> = (0..=BACKENDS).map(snapshot).collect();
    pool.snapshot.store(Arc::clone(&snapshots[0]));
    let over = AtomicBool::new(false);
    let start = Barrier::new(WORKERS + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (pool, begin, start) = (&pool, &begin, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut in_flight: [Option<G>; DEPTH] = [const { None }; DEPTH];
                    for turn in 0..PICKS_PER_WORKER {
                        let now = pool.snapshot.load();
                        let backend = now.pick(&pool.cursor, &[], &Request(turn)).expect("the set is never empty");
                        in_flight[turn % DEPTH] = Some(begin(backend, worker));
                    }
                })
            })
            .collect();
        let swapper = scope.spawn(|| {
            start.wait();
            let mut swaps = 0;
            while !over.load(Ordering::Relaxed) {
                swaps += 1;
                pool.snapshot.store(Arc::clone(&snapshots[swaps % snapshots.len()]));
            }
            swaps
        });
        // The swapper is told first: it would go on for ever beside a worker that panicked.
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a worker panicked");
        if takes_turns {
            assert_eq!(pool.cursor.load(Ordering::Relaxed), WORKERS * PICKS_PER_WORKER, "a pick took no turn");
        }
        swapper.join().expect("the swapper panicked")
    })
}

/// Records its request when it ends, as a worker does, and only then lets the in-flight count go.
struct Running {
    worker: usize,
    in_flight: InFlight,
}

impl Drop for Running {
    fn drop(&mut self) {
        let took = Duration::from_micros(self.worker as u64 * 100);
        let outcome = Outcome::Answered(200, Some(took));
        self.in_flight.backend().record(self.worker, outcome);
        self.in_flight.backend().estimate_latency(outcome, 1);
    }
}

#[test]
fn no_in_flight_count_and_no_pick_gets_lost() {
    let strategies =
        [Strategy::RoundRobin, Strategy::LeastConn, Strategy::P2c, Strategy::PeakEwma, Strategy::Hash(HashKey::Path)];
    for strategy in strategies {
        let all = backends();
        let swaps = storm(&all, strategy.clone(), |backend, worker| Running {
            worker,
            in_flight: InFlight::begin(Arc::clone(backend)).expect("there is no bound"),
        });
        assert!(swaps > 100, "only {swaps} swaps: that was no storm");
        for backend in &all {
            assert_eq!(backend.in_flight(), 0, "{} under {strategy:?}", backend.name);
        }
        let answered: u64 = all.iter().map(|backend| backend.totals().answered).sum();
        assert_eq!(answered as usize, WORKERS * PICKS_PER_WORKER);
        let timed: u64 = all.iter().map(|backend| backend.totals().latency.count()).sum();
        assert_eq!(timed, answered);
        let holders: Vec<_> = all.iter().map(Arc::strong_count).collect();
        assert!(holders.iter().all(|count| *count == 1), "somebody still holds a backend: {holders:?}");
    }
}

/// An in-flight count as it must not be: read, then written.
struct Racy<'a>(&'a AtomicUsize);

impl<'a> Racy<'a> {
    fn begin(counter: &'a AtomicUsize) -> Self {
        let seen = counter.load(Ordering::Relaxed);
        thread::yield_now(); // so that it is lost on a single core too
        counter.store(seen.wrapping_add(1), Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Racy<'_> {
    fn drop(&mut self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }
}

#[test]
fn the_harness_notices_a_count_that_gets_lost() {
    let counters: Vec<_> = (0..BACKENDS).map(|_| AtomicUsize::new(0)).collect();
    storm(&backends(), Strategy::RoundRobin, |backend, _| Racy::begin(&counters[backend.id as usize]));
    let left: Vec<_> = counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect();
    assert!(left.iter().any(|count| *count != 0), "a racy counter came out right: the harness proves nothing");
}

#[test]
fn the_rotation_is_exact_over_all_threads_together() {
    let (pool, _reports) = Pool::new(1, "pool", WORKERS);
    let policy = Arc::new(Policy::of(Strategy::RoundRobin));
    let all = backends();
    // 40,000 picks are 4,000 rounds of ten turns.
    let weights = [5, 1, 1, 2, 1];
    let weighted = |(backend, weight)| Member { weight, ..Member::new(Arc::clone(backend)) };
    let members = all.iter().zip(weights).map(weighted).collect();
    pool.snapshot.store(Arc::new(Snapshot::new(1, members, policy)));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..10_000 {
                    let now = pool.snapshot.load();
                    let backend = now.pick(&pool.cursor, &[], &Request(0)).expect("the set isn't empty");
                    backend.record(worker, Outcome::Failed);
                }
            });
        }
    });
    for (backend, weight) in all.iter().zip(weights) {
        assert_eq!(backend.totals().failed, WORKERS as u64 * 1_000 * u64::from(weight), "{}", backend.name);
    }
}
