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
    thresholds: Thresholds,
    told: RefCell<Vec<Transition>>,
}

impl Scene {
    fn of(thresholds: Thresholds) -> Self {
        let origin =
            Origin { name: "a".into(), url: String::new(), host: "a".into(), port: 1, base_path: String::new() };
        let backend = Backend::new(1, 0, origin, 2);
        Self { backend, thresholds, told: RefCell::default() }
    }

    fn begin(&self) -> InFlight<&Backend> {
        InFlight::begin(&self.backend).unwrap()
    }

    fn observe(&self, request: &InFlight<&Backend>, worker: usize, seen: Seen, now_ns: u64) {
        let tell = |turn| {
            self.told.borrow_mut().push(turn);
            true
        };
        request.observe(&self.thresholds, worker, seen, now_ns, tell);
    }

    fn request(&self, worker: usize, seen: Seen, now_ns: u64) {
        self.observe(&self.begin(), worker, seen, now_ns);
    }

    fn trip(&self) {
        (0..5).for_each(|_| self.request(0, Seen::Bad, 0));
    }

    fn told(&self) -> Vec<Transition> {
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
    assert_eq!(scene.told(), [Transition::TrippedInARow(5)]);
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
    assert_eq!(scene.told(), [Transition::TrippedByShare { failed: 11, of: 20 }]);
}

#[test]
fn what_is_older_than_the_window_counts_no_more() {
    let scene = Scene::of(thresholds());
    for n in 0..30 {
        scene.request(0, if n % 3 == 0 { Seen::Good } else { Seen::Nothing }, 0);
        scene.request(1, if n % 3 == 0 { Seen::Bad } else { Seen::Nothing }, 0);
    }
    assert_eq!(scene.told(), [Transition::TrippedByShare { failed: 10, of: 20 }]);

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
    assert_eq!(scene.told(), [Transition::TrippedByShare { failed: 10, of: 20 }]);
}

#[test]
fn a_turn_that_nobody_hears_of_is_made_by_the_next_failure() {
    let scene = Scene::of(thresholds());
    for _ in 0..9 {
        scene.begin().observe(&scene.thresholds, 0, Seen::Bad, 0, |_| false);
    }
    assert_eq!(scene.backend.standing(), Standing::Closed);
    scene.request(0, Seen::Bad, 0);
    assert_eq!(scene.told(), [Transition::TrippedInARow(10)]);
}

#[test]
fn a_trial_that_passes_brings_it_back_with_a_clean_slate() {
    let scene = Scene::of(thresholds());
    let before = scene.begin();
    scene.trip();
    scene.backend.decide(Decision::Try, scene.thresholds.trials);
    assert!(scene.backend.is_open() && scene.backend.admit());
    assert!(!scene.backend.is_open(), "one request alone is sent on trial");
    for seen in [Seen::Bad, Seen::Good, Seen::Cut, Seen::Nothing] {
        scene.observe(&before, 0, seen, 0);
    }
    assert!(!scene.backend.is_open(), "what began before says nothing of it now");
    scene.request(0, Seen::Nothing, 0);
    assert!(scene.backend.admit(), "an abandoned trial makes room for another");
    scene.request(1, Seen::Good, 0);
    assert_eq!(scene.told(), [Transition::TrippedInARow(5), Transition::Recovered]);
    for _ in 0..4 {
        scene.request(0, Seen::Bad, 0);
    }
    assert_eq!(scene.told(), [], "its earlier failures are forgotten");
    scene.request(1, Seen::Bad, 0);
    assert_eq!(scene.told(), [Transition::TrippedInARow(5)]);
}

#[test]
fn as_many_trials_must_pass_as_are_configured_and_one_that_fails_ends_them() {
    let scene = Scene::of(Thresholds { trials: 3, ..thresholds() });
    scene.trip();
    scene.backend.decide(Decision::Try, scene.thresholds.trials);
    let trials = [(); 3].map(|()| {
        assert!(scene.backend.admit());
        scene.begin()
    });
    assert!(!scene.backend.admit());
    scene.observe(&trials[0], 0, Seen::Good, 0);
    scene.observe(&trials[1], 1, Seen::Good, 0);
    scene.observe(&trials[2], 0, Seen::Bad, 0);
    assert_eq!(scene.told(), [Transition::TrippedInARow(5), Transition::Relapsed]);
    assert_eq!(scene.backend.standing(), Standing::Avoided);

    scene.backend.decide(Decision::Try, scene.thresholds.trials);
    for left in [2, 1, 0] {
        assert_eq!(scene.told(), []);
        scene.request(0, Seen::Good, 0);
        assert_eq!(scene.backend.standing() == Standing::Closed, left == 0);
    }
    assert_eq!(scene.told(), [Transition::Recovered]);
}

#[test]
fn nothing_is_held_against_one_that_is_tolerated() {
    let scene = Scene::of(thresholds());
    scene.trip();
    scene.backend.decide(Decision::Tolerate, 1);
    scene.told();
    for _ in 0..1000 {
        assert!(scene.backend.admit());
        scene.request(0, Seen::Bad, 0);
    }
    assert_eq!(scene.told(), []);
}

#[test]
fn one_that_was_never_judged_takes_what_comes() {
    let origin = Origin { name: "a".into(), url: String::new(), host: "a".into(), port: 1, base_path: String::new() };
    let backend = Backend::new(1, 0, origin, 1);
    let request = InFlight::begin(&backend).unwrap();
    drop(request);
    backend.decide(Decision::Avoid, 1);
    backend.refill_trials();
    assert!(backend.is_open() && backend.admit());
    assert_eq!(backend.consecutive_failures(), 0);
}

#[test]
fn other_thresholds_hold_from_the_next_outcome_on_and_a_trial_ends_under_those_it_began_with() {
    let mut scene = Scene::of(thresholds());
    (0..3).for_each(|_| scene.request(0, Seen::Bad, 0));
    scene.thresholds = Thresholds { consecutive_failures: 4, trials: 1, ..thresholds() };
    scene.request(0, Seen::Bad, 0);
    assert_eq!(scene.told(), [Transition::TrippedInARow(4)], "what was counted before counts");
    scene.backend.decide(Decision::Try, 2);
    for left in [1, 0] {
        assert!(scene.backend.admit());
        scene.request(0, Seen::Good, 0);
        assert_eq!(scene.backend.standing() == Standing::Closed, left == 0);
    }
    assert_eq!(scene.told(), [Transition::Recovered]);
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
                    Transition::TrippedInARow(in_a_row)
                } else {
                    Transition::TrippedByShare { failed: failed.into(), of: recent.len() as u64 }
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
