use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::balance::{InFlight, Policy, Pool, Seen, Standing, Strategy};
use crate::config::{BackendChange, BackendConfig, BackendState, BackendUrl, CircuitBreaker, Config, WhenAllDown};
use crate::control::entry::{Entry, Source, Which};
use crate::control::health::{Health, LastProbe};
use crate::plan::{PoolRules, thresholds};

const SECOND: Duration = Duration::from_secs(1);

struct Scene {
    pool: Arc<Pool>,
    registry: Registry,
    backends: Vec<Arc<Backend>>,
    now: Moment,
}

/// Backends with a breaker each, on ports from 0 on.
fn scene(count: u16, max_ejected_percent: u32) -> Scene {
    let breaker = CircuitBreaker { max_ejected_percent, ..CircuitBreaker::default() };
    scene_of(count, &Config { circuit_breaker: Some(breaker), ..Config::default() })
}

fn scene_of(count: u16, config: &Config) -> Scene {
    let pool = Arc::new(Pool::new(1, "pool", 1).0);
    let rules = PoolRules::new(config, Arc::new(Policy::of(Strategy::RoundRobin)));
    let registry = Registry::new(Arc::clone(&pool), rules, 1);
    let now = Moment { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH };
    let add = |port: u16| {
        let url = BackendUrl::parse(&format!("http://127.0.0.1:{}", port + 1)).unwrap();
        let config = BackendConfig { name: port.to_string(), ..BackendConfig::at(url) };
        registry.add(config, Vec::new(), Source::Config, now.wall).unwrap().backend
    };
    let backends = (0..count).map(add).collect();
    Scene { pool, registry, backends, now }
}

impl Scene {
    /// A request to that backend, and what came of it.
    fn request(&self, index: usize, seen: Seen) -> Option<Transition> {
        let mut told = None;
        let request = InFlight::begin(&*self.backends[index]).unwrap();
        let thresholds = thresholds(&CircuitBreaker::default());
        request.observe(&thresholds, 0, seen, 0, |turn| told.replace(turn).is_none());
        told
    }

    fn turn(&self, index: usize, seen: Seen) -> Option<Instant> {
        let turn = (0..5).find_map(|_| self.request(index, seen)).expect("a turn");
        self.registry.turned(&self.backends[index], turn, self.now, 0.0)
    }

    fn trip(&self, index: usize) {
        self.turn(index, Seen::Bad);
    }

    fn pass(&mut self, time: Duration) -> Option<Instant> {
        self.now = Moment { instant: self.now.instant + time, wall: self.now.wall + time };
        self.registry.elapse(self.now)
    }

    fn eligible(&self) -> Vec<u64> {
        self.pool.snapshot.load().eligible().map(|backend| backend.id - 1).collect()
    }

    fn standings(&self) -> Vec<Standing> {
        self.backends.iter().map(|backend| backend.standing()).collect()
    }

    fn entry(&self, index: usize) -> Entry {
        self.registry.find(Which::Name(&index.to_string())).unwrap()
    }

    fn state(&self, index: usize) -> CircuitState {
        self.entry(index).circuit.unwrap().state()
    }

    fn set_health(&self, index: usize, health: Health) {
        let probe = LastProbe {
            at: self.now.wall,
            passed: health == Health::Up,
            reason: "answered 404".into(),
            took: Duration::ZERO,
            late: Duration::ZERO,
        };
        self.registry.probed(self.backends[index].id, probe, Some(health));
    }

    fn set_state(&self, index: usize, state: BackendState) -> Entry {
        let change = BackendChange { state: Some(state), ..BackendChange::default() };
        self.registry.change(Which::Name(&index.to_string()), change, self.now.wall).unwrap()
    }
}

#[test]
fn one_that_trips_is_ejected_for_its_stay_and_comes_back_by_a_trial() {
    let mut scene = scene(3, 50);
    let due = scene.turn(1, Seen::Bad);
    assert_eq!(due, Some(scene.now.instant + 10 * SECOND));
    assert_eq!(scene.eligible(), [0, 2]);
    let why = scene.entry(1).ineligible_because().unwrap();
    assert_eq!(why, "ejected: 5 failures in a row, until 1970-01-01T00:00:10.000Z");

    assert_eq!(scene.pass(10 * SECOND), Some(scene.now.instant + SECOND));
    assert_eq!(scene.eligible(), [0, 1, 2]);
    assert!(scene.backends[1].admit() && !scene.backends[1].admit());
    scene.pass(SECOND);
    assert!(scene.backends[1].admit(), "a lost trial is made up for");
    assert_eq!(scene.turn(1, Seen::Bad), Some(scene.now.instant + 20 * SECOND));
    assert_eq!(scene.eligible(), [0, 2]);
    scene.pass(20 * SECOND);
    assert_eq!(scene.turn(1, Seen::Good), None);
    assert_eq!((scene.eligible(), scene.state(1)), (vec![0, 1, 2], CircuitState::Closed));
    let changes: Vec<_> = scene.entry(1).changes.into_iter().skip(1).map(|change| change.what).collect();
    assert_eq!(
        changes,
        [
            "breaker open for 10.0s: 5 failures in a row",
            "breaker half-open: its stay outside is over",
            "breaker open for 20.0s: a trial failed",
            "breaker half-open: its stay outside is over",
            "breaker closed: its trials passed",
        ]
    );
}

#[test]
fn when_too_many_have_tripped_all_get_traffic_and_are_tried_with_all_of_it() {
    let mut scene = scene(4, 50);
    scene.trip(0);
    scene.trip(1);
    assert_eq!((scene.eligible(), scene.registry.is_in_panic_mode()), (vec![2, 3], false));
    scene.pass(5 * SECOND);
    scene.trip(2);
    assert_eq!((scene.eligible(), scene.registry.is_in_panic_mode()), (vec![0, 1, 2, 3], true));
    assert_eq!(scene.standings()[..3], [Standing::Tolerated; 3]);
    assert!(scene.entry(0).is_eligible());

    scene.pass(5 * SECOND);
    assert_eq!(scene.standings()[..3], [Standing::Trial, Standing::Trial, Standing::Tolerated]);
    assert!((0..1000).all(|_| scene.backends[0].admit()), "the others can't bear what it doesn't take");
    assert!(scene.registry.is_in_panic_mode(), "one that is tried hasn't recovered");
    scene.turn(0, Seen::Bad);
    assert_eq!(scene.standings()[0], Standing::Tolerated);
    scene.turn(1, Seen::Good);
    assert!(!scene.registry.is_in_panic_mode());
    assert_eq!(scene.eligible(), [1, 3]);
    assert_eq!(scene.standings(), [Standing::Avoided, Standing::Closed, Standing::Avoided, Standing::Closed]);
}

#[test]
fn a_trial_of_all_becomes_one_of_few_when_panic_is_over() {
    let mut scene = scene(2, 50);
    scene.trip(0);
    scene.pass(SECOND);
    scene.trip(1);
    scene.pass(9 * SECOND);
    assert!((0..9).all(|_| scene.backends[0].admit()));
    scene.registry.remove(Which::Name("1"));
    assert!(scene.registry.is_in_panic_mode(), "the only one there is");
    let url = BackendUrl::parse("http://127.0.0.1:9").unwrap();
    scene.registry.add(BackendConfig::at(url), Vec::new(), Source::Admin, scene.now.wall).unwrap();
    assert!(!scene.registry.is_in_panic_mode());
    assert!(scene.backends[0].admit() && !scene.backends[0].admit());
}

#[test]
fn without_a_bound_all_can_be_ejected_and_with_a_bound_of_nothing_none_is() {
    for (percent, eligible) in [(100, vec![]), (0, vec![0, 1]), (50, vec![0, 1])] {
        let scene = scene(2, percent);
        scene.trip(0);
        scene.trip(1);
        assert_eq!(scene.eligible(), eligible, "at {percent}%");
    }
}

#[test]
fn what_could_not_serve_anyway_does_not_count() {
    let scene = scene(3, 50);
    scene.trip(0);
    assert_eq!(scene.eligible(), [1, 2]);
    scene.set_health(0, Health::Down);
    scene.trip(1);
    assert_eq!((scene.eligible(), scene.registry.is_in_panic_mode()), (vec![2], false), "one of two");
    scene.set_health(0, Health::Up);
    assert_eq!((scene.eligible(), scene.registry.is_in_panic_mode()), (vec![0, 1, 2], true), "two of three");
    scene.set_state(0, BackendState::Drain);
    assert_eq!((scene.eligible(), scene.registry.is_in_panic_mode()), (vec![2], false));
}

#[test]
fn an_operator_is_heard_in_every_state() {
    let mut scene = scene(3, 50);
    let heard = |scene: &Scene, comes_back: bool| {
        for state in [BackendState::Drain, BackendState::Down] {
            assert!(scene.set_state(0, state).ineligible_because().unwrap().contains("by an operator"));
            assert_eq!(scene.eligible(), [1, 2]);
            assert_eq!(scene.set_state(0, BackendState::Ready).is_eligible(), comes_back);
        }
    };
    heard(&scene, true);
    scene.trip(0);
    heard(&scene, false);
    scene.set_state(0, BackendState::Down);
    scene.pass(10 * SECOND);
    assert_eq!(scene.state(0), CircuitState::HalfOpen, "its stay goes on meanwhile");
    scene.set_state(0, BackendState::Ready);
    heard(&scene, true);
    scene.registry.remove(Which::Name("0"));
    assert_eq!(scene.turn(0, Seen::Good), None, "it isn't known any more");
    assert_eq!(scene.eligible(), [1, 2]);
}

#[test]
fn one_that_recovers_starts_slowly_if_that_is_wanted() {
    let breaker = Some(CircuitBreaker::default());
    let mut scene = scene_of(2, &Config { circuit_breaker: breaker, slow_start: 10 * SECOND, ..Config::default() });
    scene.trip(0);
    scene.pass(10 * SECOND);
    assert_eq!(scene.entry(0).ramp_percent, 100, "its trials aren't many anyway");
    scene.turn(0, Seen::Good);
    assert_eq!(scene.entry(0).ramp_percent, 5);
}

#[test]
fn when_all_are_down_by_their_checks_they_are_tried_if_that_is_wanted() {
    for (when_all_down, tried) in [(WhenAllDown::Refuse, vec![]), (WhenAllDown::Try, vec![0, 1])] {
        let scene = scene_of(3, &Config { when_all_down, ..Config::default() });
        scene.set_state(2, BackendState::Down);
        scene.set_health(0, Health::Down);
        assert_eq!(scene.eligible(), [1]);
        scene.set_health(1, Health::Down);
        assert_eq!(scene.eligible(), tried);
        assert!(!scene.entry(0).is_alive());
        scene.set_state(2, BackendState::Ready);
        assert_eq!(scene.eligible(), [2]);
    }
}

#[test]
fn those_that_are_tried_although_they_are_down_can_be_ejected_but_not_too_many() {
    let breaker = Some(CircuitBreaker::default());
    let when_all_down = WhenAllDown::Try;
    let scene = scene_of(2, &Config { circuit_breaker: breaker, when_all_down, ..Config::default() });
    scene.set_health(0, Health::Down);
    scene.set_health(1, Health::Down);
    scene.trip(0);
    assert_eq!(scene.eligible(), [1]);
    scene.trip(1);
    assert_eq!(scene.eligible(), [0, 1]);
}

#[test]
fn without_breakers_from_now_on_nothing_is_held_against_a_backend_and_with_them_again_it_begins_anew() {
    let mut scene = scene(2, 100);
    scene.trip(0);
    assert_eq!((scene.eligible(), scene.standings()[0]), (vec![1], Standing::Avoided));
    let go_by = |scene: &Scene, circuit_breaker| {
        let config = Config { circuit_breaker, ..Config::default() };
        let rules = PoolRules::new(&config, Arc::new(Policy::of(Strategy::RoundRobin)));
        scene.registry.go_by(rules, scene.now.wall);
    };
    go_by(&scene, None);
    assert_eq!((scene.eligible(), scene.standings()[0]), (vec![0, 1], Standing::Closed));
    assert!(scene.entry(0).circuit.is_none() && scene.pass(3600 * SECOND).is_none());
    // One that began under the old rules fails under them.
    let turn = (0..5).find_map(|_| scene.request(0, Seen::Bad)).unwrap();
    assert_eq!(scene.registry.turned(&scene.backends[0], turn, scene.now, 0.0), None);
    assert_eq!(scene.standings()[0], Standing::Closed);
    go_by(&scene, Some(CircuitBreaker::default()));
    assert_eq!(scene.state(0), CircuitState::Closed);
    scene.trip(0);
    assert_eq!(scene.state(0), CircuitState::Open);
}
