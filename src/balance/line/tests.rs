use std::cell::RefCell;
use std::sync::atomic::AtomicU32;
use std::task::Wake;

use super::*;
use crate::balance::{Backend, InFlight, Member, Origin, Place, Policy, Pool, Snapshot, Strategy};

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicU32);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A pool whose backends have these bounds; their ids are 0, 1, ….
struct Scene {
    pool: Pool,
    policy: Arc<Policy>,
    backends: Vec<Arc<Backend>>,
    bounds: RefCell<Vec<usize>>,
}

/// One that waits.
struct Waiting {
    ticket: Ticket<Place>,
    bell: Arc<Bell>,
}

fn scene(in_flight_max: usize, queue_max: usize, bounds: &[usize]) -> Scene {
    let (pool, _reports) = Pool::new(1, "pool", 1);
    let policy = Policy { in_flight_max, waiting_max: queue_max, ..Policy::of(Strategy::RoundRobin) };
    let origin =
        Origin { name: "b".into(), url: String::new(), host: "127.0.0.1".into(), port: 1, base_path: String::new() };
    let backend = |id| Arc::new(Backend::new(id, 0, origin.clone(), 1).in_line(Arc::clone(&pool.line)));
    let backends = (0..bounds.len() as u64).map(backend).collect();
    let scene = Scene { backends, pool, policy: Arc::new(policy), bounds: RefCell::new(bounds.to_vec()) };
    scene.publish(scene.members());
    scene
}

impl Scene {
    fn members(&self) -> Vec<Member> {
        let member = |(backend, bound): (&Arc<Backend>, &usize)| Member {
            max_connections: *bound,
            ..Member::new(Arc::clone(backend))
        };
        self.backends.iter().zip(&*self.bounds.borrow()).map(member).collect()
    }

    fn publish(&self, members: Vec<Member>) {
        self.pool.publish(Snapshot::new(1, members, Arc::clone(&self.policy)));
    }

    /// Gives a backend another bound.
    fn bound(&self, nth: usize, bound: usize) {
        self.bounds.borrow_mut()[nth] = bound;
        self.publish(self.members());
    }

    /// Gives the pool other bounds.
    fn bound_all(&mut self, in_flight_max: usize, waiting_max: usize) {
        self.policy = Arc::new(Policy { in_flight_max, waiting_max, ..Policy::of(Strategy::RoundRobin) });
        self.publish(self.members());
    }

    fn begin(&self, nth: usize) -> Option<InFlight> {
        InFlight::begin(Arc::clone(&self.backends[nth]))
    }

    fn join(&self, tried: &[u64]) -> Result<Waiting, QueueFull> {
        self.join_for(tried, None)
    }

    fn join_for(&self, tried: &[u64], home: Option<u64>) -> Result<Waiting, QueueFull> {
        let bell = Arc::new(Bell::default());
        let ticket = self.pool.line.join(tried, home, Waker::from(Arc::clone(&bell)))?;
        Ok(Waiting { ticket, bell })
    }

    fn in_flight(&self) -> Vec<usize> {
        self.backends.iter().map(|backend| backend.in_flight()).collect()
    }
}

impl Waiting {
    /// The backend whose place it has got, with the place. It was woken just once for that.
    #[track_caller]
    fn place(&self) -> (u64, Place) {
        assert_eq!(self.bell.0.load(Ordering::SeqCst), 1);
        match self.ticket.take_call() {
            Some(Call::Place(place)) => (place.backend().id, place),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn still_waits(&self) {
        assert!(self.ticket.take_call().is_none() && self.bell.0.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn a_bound_is_exact_and_what_ends_makes_room_for_one() {
    let scene = scene(0, 10, &[2, 0]);
    let first = scene.begin(0).unwrap();
    let _second = scene.begin(0).unwrap();
    assert!(scene.begin(0).is_none());
    let _unbounded = [(); 5].map(|()| scene.begin(1).unwrap());
    drop(first);
    assert!(scene.begin(0).is_some());
    assert_eq!(scene.in_flight(), [1, 5]);
}

#[test]
fn all_backends_together_have_a_bound_of_their_own() {
    let scene = scene(3, 10, &[0, 1]);
    let _held = [scene.begin(0).unwrap(), scene.begin(1).unwrap()];
    assert!(scene.begin(1).is_none(), "by its own bound");
    let last = scene.begin(0).unwrap();
    assert!(scene.begin(0).is_none(), "by that of all");
    let waiting = scene.join(&[]).unwrap();
    waiting.still_waits();
    drop(last);
    assert_eq!(waiting.place().0, 0);
}

#[test]
fn other_bounds_hold_from_the_snapshot_on_that_brings_them_and_every_request_leaves_the_counts_it_entered() {
    let mut scene = scene(0, 10, &[0, 2]);
    let before = [scene.begin(0).unwrap(), scene.begin(1).unwrap()];
    scene.bound_all(1, 1);
    let bounded = scene.begin(0).expect("those from before the bound don't count");
    assert!(scene.begin(0).is_none() && scene.begin(1).is_none());
    let waiting = scene.join(&[]).unwrap();
    assert!(scene.join(&[]).is_err(), "one may wait");
    drop(before);
    waiting.still_waits();
    assert!(scene.begin(0).is_none(), "nor do they make room under it");
    scene.bound_all(2, 1);
    let (_, place) = waiting.place();
    let backend = Arc::clone(place.backend());
    let waited = place.begin(backend);
    scene.bound_all(0, 1);
    let unbounded = [scene.begin(0).unwrap(), scene.begin(0).unwrap()];
    drop((bounded, waited));
    scene.bound_all(1, 1);
    drop(unbounded);
    let last = scene.begin(0).expect("all have left");
    assert!(scene.begin(0).is_none());
    drop(last);
    assert_eq!(scene.in_flight(), [0, 0]);
}

#[test]
fn who_came_first_is_served_first() {
    let scene = scene(0, 10, &[1]);
    let running = scene.begin(0).unwrap();
    let line = [(); 3].map(|()| scene.join(&[]).unwrap());
    assert_eq!(scene.pool.line.waiting(), 3);
    drop(running);
    for (nth, waiting) in line.iter().enumerate() {
        line[nth + 1..].iter().for_each(Waiting::still_waits);
        assert_eq!(scene.in_flight(), [1], "never more than one");
        drop(waiting.place());
    }
    assert_eq!((scene.in_flight(), scene.pool.line.waiting(), scene.pool.line.queued()), (vec![0], 0, 3));
}

#[test]
fn who_joins_when_there_is_room_after_all_is_called_at_once_and_counts_for_nothing() {
    let scene = scene(0, 0, &[1]);
    let waiting = scene.join(&[]).unwrap();
    assert_eq!(waiting.place().0, 0);
    assert_eq!(scene.pool.line.queued(), 0);
}

#[test]
fn a_queue_takes_as_many_as_it_may() {
    let scene = scene(0, 2, &[1]);
    let _running = scene.begin(0).unwrap();
    let first = scene.join(&[]).unwrap();
    let _second = scene.join(&[]).unwrap();
    assert!(scene.join(&[]).is_err());
    drop(first);
    assert!(scene.join(&[]).is_ok());
}

#[test]
fn who_leaves_lets_the_next_go() {
    let scene = scene(0, 10, &[1]);
    let running = scene.begin(0).unwrap();
    let [leaves, called, last] = [(); 3].map(|()| scene.join(&[]).unwrap());
    drop(leaves);
    drop(running);
    last.still_waits();
    // It was called, and leaves before it takes notice.
    drop(called);
    assert_eq!(last.place().0, 0);
    assert_eq!(scene.in_flight(), [0]);
}

#[test]
fn who_has_failed_at_a_backend_lets_others_go_there_first() {
    let scene = scene(0, 10, &[1, 1]);
    let [at_0, at_1] = [scene.begin(0).unwrap(), scene.begin(1).unwrap()];
    let again = scene.join(&[0]).unwrap();
    let fresh = scene.join(&[]).unwrap();
    drop(at_0);
    again.still_waits();
    let (id, _held) = fresh.place();
    assert_eq!(id, 0);
    drop(at_1);
    assert_eq!(again.place().0, 1);
}

#[test]
fn who_has_failed_at_the_only_one_with_room_goes_there_when_nobody_else_waits() {
    let scene = scene(0, 10, &[1, 1]);
    let [at_0, _at_1] = [scene.begin(0).unwrap(), scene.begin(1).unwrap()];
    let again = scene.join(&[0]).unwrap();
    drop(at_0);
    assert_eq!(again.place().0, 0);
}

#[test]
fn one_with_a_home_waits_for_room_there_alone_and_keeps_nobody_else_waiting() {
    let scene = scene(0, 10, &[1, 1]);
    let [at_0, at_1] = [scene.begin(0).unwrap(), scene.begin(1).unwrap()];
    let homely = scene.join_for(&[], Some(0)).unwrap();
    let other = scene.join(&[]).unwrap();
    drop(at_1);
    homely.still_waits();
    assert_eq!(other.place().0, 1);
    drop(at_0);
    let (id, _place) = homely.place();
    assert_eq!(id, 0);
    let homeless = scene.join_for(&[], Some(0)).unwrap();
    homeless.still_waits();
    // Its home leaves: any other will do.
    scene.publish(scene.members()[1..].to_vec());
    assert_eq!(homeless.place().0, 1);
}

#[test]
fn new_room_of_a_snapshot_goes_to_those_that_wait() {
    let scene = scene(0, 10, &[1, 1, 2]);
    scene.publish(scene.members()[..1].to_vec());
    let _running = scene.begin(0).unwrap();
    let line = [(); 5].map(|()| scene.join(&[]).unwrap());
    scene.publish(scene.members());
    let _held: Vec<_> = line[..3].iter().map(Waiting::place).collect();
    assert_eq!(scene.in_flight(), [1, 1, 2]);
    line[3].still_waits();
    scene.bound(1, 2);
    let (id, _held) = line[3].place();
    assert_eq!(id, 1);
    line[4].still_waits();
}

#[test]
fn what_is_in_flight_beyond_a_lowered_bound_hands_no_place_on() {
    let scene = scene(0, 10, &[2]);
    let [first, second] = [scene.begin(0).unwrap(), scene.begin(0).unwrap()];
    let waiting = scene.join(&[]).unwrap();
    scene.bound(0, 1);
    drop(first);
    waiting.still_waits();
    drop(second);
    assert_eq!(waiting.place().0, 0);
}

#[test]
fn a_backend_that_is_out_hands_no_place_on() {
    let scene = scene(0, 10, &[1, 1]);
    let [at_0, at_1] = [scene.begin(0).unwrap(), scene.begin(1).unwrap()];
    let waiting = scene.join(&[]).unwrap();
    scene.publish(scene.members()[1..].to_vec());
    drop(at_0);
    waiting.still_waits();
    drop(at_1);
    assert_eq!(waiting.place().0, 1);
}

#[test]
fn nobody_waits_for_backends_that_have_gone() {
    let scene = scene(0, 10, &[1]);
    let _running = scene.begin(0).unwrap();
    let waiting = scene.join(&[]).unwrap();
    scene.publish(Vec::new());
    assert_eq!(waiting.bell.0.load(Ordering::SeqCst), 1);
    assert!(matches!(waiting.ticket.take_call(), Some(Call::NoBackend)));
    assert_eq!(scene.pool.line.waiting(), 0);
}

#[test]
fn a_pick_passes_full_ones_over_whatever_the_strategy() {
    struct Fixed(u64);
    impl crate::balance::Occasion for Fixed {
        fn random(&self) -> u64 {
            self.0
        }
        fn now_ns(&self) -> u64 {
            0
        }
        fn key(&self, _: &crate::balance::HashKey) -> Option<u64> {
            Some(self.0)
        }
    }
    let hash = Strategy::Hash(crate::balance::HashKey::Path);
    for strategy in [Strategy::RoundRobin, Strategy::LeastConn, Strategy::P2c, Strategy::Random, hash] {
        let scene = scene(0, 10, &[1, 1, 1]);
        let policy = Arc::new(Policy::of(strategy.clone()));
        let snapshot = Snapshot::new(1, scene.members(), policy);
        let _full = [scene.begin(0).unwrap(), scene.begin(2).unwrap()];
        let pick = |tried: &[u64], random| snapshot.pick(&scene.pool.cursor, tried, &Fixed(random));
        for random in 0..100_u64 {
            let random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            assert_eq!(pick(&[], random).map(|backend| backend.id), Some(1), "{strategy:?}");
            assert_eq!(pick(&[1], random).map(|backend| backend.id), Some(1), "{strategy:?}, though it has failed");
        }
        let _all = scene.begin(1).unwrap();
        assert!(pick(&[], 0).is_none(), "{strategy:?}");
    }
}

#[test]
fn who_waits_for_a_backend_that_is_away_gets_its_place_when_it_has_come_back_within_its_bound() {
    for bound in [0, 1] {
        let scene = scene(0, 10, &[bound]);
        let backend = &scene.backends[0];
        backend.went_away();
        assert!(scene.begin(0).is_none());
        assert!(scene.pool.snapshot.load().is_away());
        let waiting = [scene.join(&[]).unwrap(), scene.join(&[]).unwrap()];
        waiting.iter().for_each(Waiting::still_waits);
        scene.publish(scene.members());
        waiting.iter().for_each(Waiting::still_waits);
        backend.came_back();
        assert!(!scene.pool.snapshot.load().is_away());
        let _first = waiting[0].place();
        if bound == 1 {
            waiting[1].still_waits();
        } else {
            assert_eq!(waiting[1].place().0, 0);
        }
    }
}

#[test]
fn a_pool_is_away_only_when_all_of_its_backends_are() {
    let scene = scene(0, 10, &[0, 1]);
    assert!(!scene.pool.snapshot.load().is_away());
    scene.backends[0].went_away();
    let _full = scene.begin(1).unwrap();
    assert!(!scene.pool.snapshot.load().is_away(), "one is merely full");
    scene.backends[1].went_away();
    assert!(scene.pool.snapshot.load().is_away());
    scene.publish(Vec::new());
    assert!(!scene.pool.snapshot.load().is_away(), "no backend is waited for");
}

#[test]
fn backends_that_are_away_and_that_no_request_looks_after_are_welcomed_back() {
    let scene = scene(0, 10, &[0, 0]);
    scene.backends.iter().for_each(|backend| backend.went_away());
    let waiting = scene.join(&[]).unwrap();
    scene.pool.welcome_back();
    assert!(scene.pool.snapshot.load().is_away(), "the one that waits looks after them");
    drop(waiting);
    scene.pool.welcome_back();
    assert!(scene.backends.iter().all(|backend| !backend.is_away()));
}

#[test]
fn one_of_those_that_wait_looks_after_those_that_are_away_and_the_next_one_when_it_leaves() {
    let scene = scene(0, 10, &[1]);
    let _running = scene.begin(0).unwrap();
    let [first, second, third] = [(); 3].map(|()| scene.join(&[]).unwrap());
    scene.backends[0].went_away();
    let woken = |waiting: &Waiting| waiting.bell.0.swap(0, Ordering::SeqCst);
    assert_eq!([&first, &second, &third].map(woken), [1, 1, 1], "they have to look around");
    scene.backends[0].went_away();
    assert_eq!([&first, &second, &third].map(woken), [0, 0, 0], "it is no news");
    assert!(second.ticket.is_scout() && second.ticket.is_scout());
    assert!(!first.ticket.is_scout() && !third.ticket.is_scout());
    drop(second);
    assert_eq!([&first, &third].map(woken), [1, 0], "the first is told");
    assert!(first.ticket.is_scout() && !third.ticket.is_scout());
    drop(first);
    assert_eq!(woken(&third), 1);
    drop(third);
    assert!(scene.join(&[]).unwrap().ticket.is_scout());
}

#[test]
fn a_request_that_has_failed_everywhere_is_served_in_its_turn() {
    for (bounds, tried) in [(&[1][..], &[0][..]), (&[1, 1], &[0, 1])] {
        let scene = scene(0, 10, bounds);
        let mut held: Vec<_> = (0..bounds.len()).map(|nth| scene.begin(nth).unwrap()).collect();
        let failed = scene.join(tried).unwrap();
        let newcomers = [(); 3].map(|()| scene.join(&[]).unwrap());
        held.pop();
        let _place = failed.place();
        newcomers.iter().for_each(Waiting::still_waits);
    }
}

#[test]
fn a_request_that_prefers_a_backend_which_stays_full_lets_others_go_first_for_a_while_only() {
    let scene = scene(0, 100, &[1, 1]);
    let _stuck = scene.begin(1).unwrap();
    let mut held = scene.begin(0);
    let failed = scene.join(&[0]).unwrap();
    let went_first = (0..100).position(|_| {
        let newcomer = scene.join(&[]).unwrap();
        held = None;
        if failed.bell.0.load(Ordering::SeqCst) > 0 {
            return true;
        }
        held = Some(newcomer.place().1.begin(Arc::clone(&scene.backends[0])));
        false
    });
    let went_first = went_first.expect("it isn't passed over for ever");
    assert!((1..=YIELDS_MAX as usize).contains(&went_first), "{went_first}");
    assert_eq!(failed.place().0, 0);
}
