//! Real threads begin, wait, lose patience and end at once, while backends come and go: no bound is ever exceeded, no place
//! is lost, and nobody who waits is forgotten.

#[path = "support/pick.rs"]
mod pick;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use maypole::balance::{Backend, Call, InFlight, Member, Occasion, Origin, Policy, Pool, Snapshot, Strategy};
use pick::Request;

const THREADS: usize = 6;
const REQUESTS_PER_THREAD: usize = 5_000;
/// Of the backends, and of all together: fewer than there are threads, so that some always wait.
const BOUNDS: [usize; 3] = [1, 2, 1];
const BOUND_OF_ALL: usize = 3;
/// Nobody has to wait as long as this for a place.
const FORGOTTEN: Duration = Duration::from_secs(20);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A pool, and what its backends themselves see.
struct Scene {
    pool: Pool,
    policy: Arc<Policy>,
    backends: Vec<Arc<Backend>>,
    seen: [AtomicUsize; BOUNDS.len()],
    seen_of_all: AtomicUsize,
    /// Backends come and go, and some requests lose patience. Else the threads begin each request together, so that nobody but
    /// who ends one calls those that wait.
    restless: bool,
    begun: AtomicUsize,
}

/// How a thread's requests ended.
#[derive(Default)]
struct Ends {
    served: usize,
    waited: usize,
    gave_up: usize,
}

fn scene(in_flight_max: usize, restless: bool) -> Scene {
    let (pool, _reports) = Pool::new(1, "pool", 1);
    let policy = Policy { in_flight_max, waiting_max: THREADS, ..Policy::of(Strategy::P2c) };
    let origin = |id| Origin {
        name: format!("b{id}"),
        url: String::new(),
        host: "127.0.0.1".into(),
        port: 1,
        base_path: String::new(),
    };
    let backend = |id| Arc::new(Backend::new(id, id as usize, origin(id), 1).in_line(Arc::clone(&pool.line)));
    let backends = (0..BOUNDS.len() as u64).map(backend).collect();
    let scene = Scene {
        backends,
        pool,
        policy: Arc::new(policy),
        seen: Default::default(),
        seen_of_all: AtomicUsize::new(0),
        restless,
        begun: AtomicUsize::new(0),
    };
    scene.publish(None);
    scene
}

impl Scene {
    fn publish(&self, left_out: Option<u64>) {
        let all = self.backends.iter().zip(BOUNDS).filter(|(backend, _)| Some(backend.id) != left_out);
        let member = |(backend, max_connections)| Member { max_connections, ..Member::new(Arc::clone(backend)) };
        self.pool.publish(Snapshot::new(1, all.map(member).collect(), Arc::clone(&self.policy)));
    }

    /// A request as the proxy has it: a pick, or else a wait.
    fn begin(&self, number: usize, ends: &mut Ends) -> Option<InFlight> {
        let (pool, request) = (&self.pool, Request(number));
        let snapshot = pool.snapshot.load();
        while pool.line.waiting() == 0 {
            let Some(picked) = snapshot.pick(&pool.cursor, &[], &request) else { break };
            if let Some(in_flight) = InFlight::begin(Arc::clone(picked)) {
                return Some(in_flight);
            }
        }
        assert!(snapshot.may_have_room(), "there is always a backend");
        drop(snapshot);
        // Every sixth hasn't much patience, and every ninth none.
        let patience = match number {
            _ if !self.restless => FORGOTTEN,
            n if n % 9 == 0 => Duration::ZERO,
            n if n % 6 == 0 => Duration::from_micros(20),
            _ => FORGOTTEN,
        };
        let tried = [request.random() % 3];
        let tried = if number.is_multiple_of(4) { &tried[..] } else { &[] };
        let ticket =
            pool.line.join(tried, None, Waker::from(Arc::new(Unpark(thread::current())))).expect("all find room");
        let deadline = Instant::now() + patience;
        ends.waited += 1;
        loop {
            match ticket.take_call() {
                Some(Call::Place(place)) => {
                    let backend = Arc::clone(place.backend());
                    return Some(place.begin(backend));
                }
                Some(Call::NoBackend) => panic!("there is always a backend"),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                assert!(patience < FORGOTTEN, "request {number} was forgotten");
                ends.gave_up += 1;
                return None;
            }
            thread::park_timeout(left);
        }
    }

    /// Waits until all threads have come this far.
    fn meet(&self, round: usize) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let deadline = Instant::now() + FORGOTTEN;
        while self.begun.load(Ordering::SeqCst) < THREADS * (round + 1) {
            assert!(Instant::now() < deadline, "a thread doesn't come");
            thread::yield_now();
        }
    }

    fn serve(&self, in_flight: InFlight, in_flight_max: usize) {
        let id = in_flight.backend().id as usize;
        let now = self.seen[id].fetch_add(1, Ordering::SeqCst) + 1;
        let now_of_all = self.seen_of_all.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(now <= BOUNDS[id], "backend {id} has {now} at once");
        assert!(in_flight_max == 0 || now_of_all <= in_flight_max, "{now_of_all} in all at once");
        // Lets the others find it there, also on a single core.
        thread::yield_now();
        self.seen_of_all.fetch_sub(1, Ordering::SeqCst);
        self.seen[id].fetch_sub(1, Ordering::SeqCst);
        drop(in_flight);
    }
}

fn storm(in_flight_max: usize, restless: bool) {
    let scene = scene(in_flight_max, restless);
    let over = AtomicBool::new(false);
    let start = Barrier::new(THREADS + 1);
    let ends = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (scene, start) = (&scene, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut ends = Ends::default();
                    for (round, number) in (thread..).step_by(THREADS).take(REQUESTS_PER_THREAD).enumerate() {
                        if !restless {
                            scene.meet(round);
                        }
                        if let Some(in_flight) = scene.begin(number, &mut ends) {
                            scene.serve(in_flight, in_flight_max);
                            ends.served += 1;
                        }
                    }
                    ends
                })
            })
            .collect();
        let swapper = scope.spawn(|| {
            start.wait();
            for version in (0..).take_while(|_| restless && !over.load(Ordering::Relaxed)) {
                // Never two backends are out, so that there is always one.
                scene.publish(Some(version % (BOUNDS.len() as u64 + 1)));
                thread::yield_now();
            }
        });
        // The swapper is told first: it would go on for ever beside a thread that panicked.
        let ended: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        swapper.join().expect("the swapper panicked");
        ended.into_iter().map(|ends| ends.expect("a thread panicked")).collect::<Vec<_>>()
    });
    let sum = |count: fn(&Ends) -> usize| ends.iter().map(count).sum::<usize>();
    assert_eq!(sum(|ends| ends.served) + sum(|ends| ends.gave_up), THREADS * REQUESTS_PER_THREAD);
    assert!(sum(|ends| ends.waited) > 1_000, "only {} waited: that was no storm", sum(|ends| ends.waited));
    assert_eq!(sum(|ends| ends.gave_up) > 0, restless, "who lost patience");

    assert_eq!(scene.pool.line.waiting(), 0);
    scene.publish(None);
    // All places are there again, and no more.
    let all: Vec<_> = scene.backends.iter().zip(BOUNDS).collect();
    for (backend, bound) in all {
        assert_eq!(backend.in_flight(), 0);
        let room = if in_flight_max == 0 { bound } else { bound.min(in_flight_max) };
        let held: Vec<_> = (0..room).map(|_| InFlight::begin(Arc::clone(backend)).expect("a place was lost")).collect();
        assert!(InFlight::begin(Arc::clone(backend)).is_none(), "a place too many");
        drop(held);
    }
}

#[test]
fn no_place_is_lost_and_nobody_forgotten_where_backends_are_bounded() {
    storm(0, false);
    storm(0, true);
}

#[test]
fn no_place_is_lost_and_nobody_forgotten_where_all_together_are_bounded_too() {
    storm(BOUND_OF_ALL, false);
    storm(BOUND_OF_ALL, true);
}
