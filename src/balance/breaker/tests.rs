use std::cell::RefCell;

use proptest::prelude::{Strategy, prop, prop_oneof, proptest};

use super::*;
use crate::balance::{Backend, Decision, InFlight, Origin};

const SECOND: u64 = 1_000_000_000;

fn thresholds() -> Thresholds {
    Thresholds {
        consecutive_failures: 5,
        error_percent: 50,
        minimum_requests: 20,
        window: Duration::from_secs(10),
        trials: 1,
        failing: vec![500..=599],
    }
}

/// One backend over two workers, and what was told of it.
struct Scene {
    backend: Backend,
    told: RefCell<Vec<Turn>>,
}

impl Scene {
    fn of(thresholds: Thresholds) -> Self {
        let origin =
            Origin { name: "a".into(), url: String::new(), host: "a".into(), port: 1, base_path: String::new() };
        let backend = Backend::new(1, 0, origin, 2).with_breaker(Arc::new(thresholds));
        Self { backend, told: RefCell::default() }
    }

    fn begin(&self) -> InFlight<&Backend> {
        InFlight::begin(&self.backend).unwrap()
    }

    fn observe(&self, request: &InFlight<&Backend>, worker: usize, seen: Seen, now_ns: u64) {
        let tell = |turn| {
            self.told.borrow_mut().push(turn);
            true
        };
        request.observe(worker, seen, || now_ns, tell);
    }

    fn request(&self, worker: usize, seen: Seen, now_ns: u64) {
        self.observe(&self.begin(), worker, seen, now_ns);
    }

    fn trip(&self) {
        (0..5).for_each(|_| self.request(0, Seen::Bad, 0));
    }

    fn told(&self) -> Vec<Turn> {
        self.told.take()
    }
}

#[test]
fn failures_in_a_row_over_all_workers_trip_it() {
    let scene = Scene::of(thresholds());
    for n in 0..4 {
        scene.request(n % 2, Seen::Bad, 0);
    }
    scene.request(1, Seen::Good, 0);
    for n in 0..4 {
        scene.request(n % 2, Seen::Bad, 0);
    }
    scene.request(0, Seen::Nothing, 0);
    assert_eq!((scene.told(), scene.backend.consecutive_failures()), (vec![], 4));
    assert!(scene.backend.is_open());
    scene.request(1, Seen::Bad, 0);
    assert_eq!(scene.told(), [Turn::TrippedInARow(5)]);
    assert_eq!(scene.backend.standing(), Standing::Avoided);
    assert!(!scene.backend.is_open());
    scene.trip();
    assert_eq!(scene.told(), [], "it is out already");
}

#[test]
fn too_large_a_share_of_enough_requests_trips_it() {
    let scene = Scene::of(thresholds());
    for n in 0..19 {
        scene.request(n % 2, if n % 2 == 0 { Seen::Bad } else { Seen::Good }, n as u64 * SECOND / 2);
    }
    assert_eq!(scene.told(), [], "19 are not enough");
    scene.request(0, Seen::Bad, 19 * SECOND / 2);
    assert_eq!(scene.told(), [Turn::TrippedByShare { failed: 11, of: 20 }]);
}

#[test]
fn what_is_older_than_the_window_counts_no_more() {
    let scene = Scene::of(thresholds());
    for n in 0..30 {
        scene.request(0, if n % 3 == 0 { Seen::Good } else { Seen::Nothing }, 0);
        scene.request(1, if n % 3 == 0 { Seen::Bad } else { Seen::Nothing }, 0);
    }
    assert_eq!(scene.told(), [Turn::TrippedByShare { failed: 10, of: 20 }]);

    let scene = Scene::of(thresholds());
    for n in 0..19 {
        scene.request(0, if n % 2 == 0 { Seen::Bad } else { Seen::Good }, 0);
    }
    for n in 0..30 {
        scene.request(0, if n % 3 == 0 { Seen::Bad } else { Seen::Good }, 10 * SECOND);
    }
    assert_eq!(scene.told(), []);
}

#[test]
fn an_answer_that_is_cut_is_one_request_that_failed() {
    let scene = Scene::of(thresholds());
    for n in 0..20 {
        let request = scene.begin();
        scene.observe(&request, 0, Seen::Good, 0);
        if n % 2 == 1 {
            scene.observe(&request, 0, Seen::Cut, 0);
        }
    }
    assert_eq!(scene.told(), [Turn::TrippedByShare { failed: 10, of: 20 }]);
}

#[test]
fn a_turn_that_nobody_hears_of_is_made_by_the_next_failure() {
    let scene = Scene::of(thresholds());
    for _ in 0..9 {
        scene.begin().observe(0, Seen::Bad, || 0, |_| false);
    }
    assert_eq!(scene.backend.standing(), Standing::Closed);
    scene.request(0, Seen::Bad, 0);
    assert_eq!(scene.told(), [Turn::TrippedInARow(10)]);
}

#[test]
fn a_trial_that_passes_brings_it_back_with_a_clean_slate() {
    let scene = Scene::of(thresholds());
    let before = scene.begin();
    scene.trip();
    scene.backend.decide(Decision::Try);
    assert!(scene.backend.is_open() && scene.backend.admit());
    assert!(!scene.backend.is_open(), "one request alone is sent on trial");
    for seen in [Seen::Bad, Seen::Good, Seen::Cut, Seen::Nothing] {
        scene.observe(&before, 0, seen, 0);
    }
    assert!(!scene.backend.is_open(), "what began before says nothing of it now");
    scene.request(0, Seen::Nothing, 0);
    assert!(scene.backend.admit(), "an abandoned trial makes room for another");
    scene.request(1, Seen::Good, 0);
    assert_eq!(scene.told(), [Turn::TrippedInARow(5), Turn::Recovered]);
    for _ in 0..4 {
        scene.request(0, Seen::Bad, 0);
    }
    assert_eq!(scene.told(), [], "its earlier failures are forgotten");
    scene.request(1, Seen::Bad, 0);
    assert_eq!(scene.told(), [Turn::TrippedInARow(5)]);
}

#[test]
fn as_many_trials_must_pass_as_are_configured_and_one_that_fails_ends_them() {
    let scene = Scene::of(Thresholds { trials: 3, ..thresholds() });
    scene.trip();
    scene.backend.decide(Decision::Try);
    let trials = [(); 3].map(|()| {
        assert!(scene.backend.admit());
        scene.begin()
    });
    assert!(!scene.backend.admit());
    scene.observe(&trials[0], 0, Seen::Good, 0);
    scene.observe(&trials[1], 1, Seen::Good, 0);
    scene.observe(&trials[2], 0, Seen::Bad, 0);
    assert_eq!(scene.told(), [Turn::TrippedInARow(5), Turn::Relapsed]);
    assert_eq!(scene.backend.standing(), Standing::Avoided);

    scene.backend.decide(Decision::Try);
    for left in [2, 1, 0] {
        assert_eq!(scene.told(), []);
        scene.request(0, Seen::Good, 0);
        assert_eq!(scene.backend.standing() == Standing::Closed, left == 0);
    }
    assert_eq!(scene.told(), [Turn::Recovered]);
}

#[test]
fn nothing_is_held_against_one_that_is_tolerated() {
    let scene = Scene::of(thresholds());
    scene.trip();
    scene.backend.decide(Decision::Tolerate);
    scene.told();
    for _ in 0..1000 {
        assert!(scene.backend.admit());
        scene.request(0, Seen::Bad, 0);
    }
    assert_eq!(scene.told(), []);
}

#[test]
fn without_a_breaker_nothing_is_asked_and_nothing_changes() {
    let origin = Origin { name: "a".into(), url: String::new(), host: "a".into(), port: 1, base_path: String::new() };
    let backend = Backend::new(1, 0, origin, 1);
    let request = InFlight::begin(&backend).unwrap();
    assert!(!request.has_breaker());
    assert_eq!(request.judge(500), Seen::Nothing);
    for _ in 0..100 {
        request.observe(0, Seen::Bad, || unreachable!("no clock is asked"), |_| unreachable!("nothing turns"));
    }
    backend.decide(Decision::Avoid);
    assert!(backend.is_open() && backend.admit());
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        proptest::prelude::Just(Seen::Good),
        proptest::prelude::Just(Seen::Bad),
        proptest::prelude::Just(Seen::Nothing)
    ]
}

proptest! {
    /// A plain list of what was seen says the same as the counters do.
    #[test]
    fn it_trips_exactly_when_a_list_of_all_that_was_seen_says_so(
        consecutive in 1_u32..8,
        error_percent in 1_u32..=100,
        minimum in 1_u32..12,
        story in prop::collection::vec((seen(), 0_usize..2, 0_u64..4), 1..120),
    ) {
        let thresholds = Thresholds {
            consecutive_failures: consecutive,
            error_percent,
            minimum_requests: minimum,
            ..thresholds()
        };
        let scene = Scene::of(thresholds);
        let (mut list, mut now) = (Vec::new(), 0);
        for (seen, worker, seconds) in story {
            now += seconds;
            scene.request(worker, seen, now * SECOND);
            if seen == Seen::Nothing {
                continue;
            }
            list.push((now, seen));
            let in_a_row = list.iter().rev().take_while(|(_, seen)| *seen == Seen::Bad).count() as u32;
            let recent: Vec<_> = list.iter().filter(|(at, _)| at + 10 > now).collect();
            let failed = recent.iter().filter(|(_, seen)| *seen == Seen::Bad).count() as u32;
            let share = recent.len() as u32 >= minimum && failed * 100 >= recent.len() as u32 * error_percent;
            if seen == Seen::Bad && (in_a_row >= consecutive || share) {
                let turn = if in_a_row >= consecutive {
                    Turn::TrippedInARow(in_a_row)
                } else {
                    Turn::TrippedByShare { failed: failed.into(), of: recent.len() as u64 }
                };
                assert_eq!(scene.told(), [turn]);
                assert!(!scene.backend.is_open());
                return Ok(());
            }
            assert_eq!(scene.told(), []);
            assert!(scene.backend.is_open());
        }
    }
}
