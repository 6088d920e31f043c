use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::balance::{Policy, Sessions, Strategy};
use crate::config::{BackendUrl, Config};
use crate::control::entry::CHANGES_MAX;

struct Scene {
    pool: Arc<Pool>,
    registry: Registry,
    now: SystemTime,
}

fn scene() -> Scene {
    scene_of(&Config::default())
}

fn scene_of(config: &Config) -> Scene {
    scene_by(PoolRules::new(config, Arc::new(Policy::of(Strategy::RoundRobin))))
}

fn scene_by(rules: PoolRules) -> Scene {
    let pool = Arc::new(Pool::new(1, "pool", 2).0);
    let registry = Registry::new(Arc::clone(&pool), rules, 2);
    Scene { pool, registry, now: SystemTime::UNIX_EPOCH }
}

fn config(port: u16) -> BackendConfig {
    let url = BackendUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    BackendConfig::at(url)
}

impl Scene {
    fn add(&self, port: u16) -> Arc<Backend> {
        self.try_add(config(port)).unwrap()
    }

    fn try_add(&self, config: BackendConfig) -> Result<Arc<Backend>, AddError> {
        Ok(self.registry.add(config, Vec::new(), Source::Admin, self.now)?.backend)
    }

    fn remove(&self, port: u16) -> Option<Arc<Backend>> {
        self.registry.remove(Which::Name(&format!("127.0.0.1:{port}")))
    }

    fn eligible(&self) -> Vec<u16> {
        self.pool.snapshot.load().eligible().map(|backend| backend.port).collect()
    }

    fn probe(&self, id: u64, changed: Option<Health>) {
        let passed = changed != Some(Health::Down);
        let reason = if passed { "answered 200" } else { "answered 503, expected 200-399" };
        let probe =
            LastProbe { at: self.now, passed, reason: reason.into(), took: Duration::ZERO, late: Duration::ZERO };
        self.registry.probed(id, probe, changed);
    }
}

#[test]
fn every_mutation_publishes() {
    let scene = scene();
    scene.add(1);
    scene.add(2);
    assert_eq!(scene.eligible(), [1, 2]);
    assert_eq!(scene.pool.snapshot.load().version, 2);
    assert!(scene.remove(1).is_some());
    assert_eq!(scene.eligible(), [2]);
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let scene = scene();
    scene.add(1);
    let same_url = BackendConfig { name: "other".into(), ..config(1) };
    let taken = scene.try_add(same_url);
    assert_eq!(taken.unwrap_err(), AddError::UrlTaken("127.0.0.1:1".into()));
    let same_name = BackendConfig { name: "127.0.0.1:1".into(), ..config(2) };
    let taken = scene.try_add(same_name);
    assert_eq!(taken.unwrap_err(), AddError::NameTaken("http://127.0.0.1:1".into()));
    let batch = vec![(config(5), Vec::new()), (config(1), Vec::new())];
    assert!(scene.registry.add_all(batch, Source::Config, scene.now).is_err(), "all of them or none");
    assert!(scene.remove(9).is_none());
    assert_eq!(scene.pool.snapshot.load().version, 1);
    assert_eq!(scene.registry.read(<[Entry]>::len), 1);
}

#[test]
fn a_health_flip_publishes_and_an_unknown_backend_counts_as_alive() {
    let scene = scene();
    let (one, two) = (scene.add(1), scene.add(2));
    assert_eq!(scene.eligible(), [1, 2]);
    scene.probe(one.id, Some(Health::Down));
    assert_eq!(scene.eligible(), [2]);
    scene.registry.refused(two.id, scene.now);
    assert!(scene.eligible().is_empty());
    scene.probe(one.id, Some(Health::Up));
    assert_eq!(scene.eligible(), [1]);
    let version = scene.pool.snapshot.load().version;
    scene.probe(one.id, None);
    assert_eq!(scene.pool.snapshot.load().version, version, "no change, no snapshot");
    let entry = scene.registry.find(Which::Name("127.0.0.1:2")).unwrap();
    assert_eq!(entry.ineligible_because().unwrap(), "down: connection refused");
}

#[test]
fn what_was_seen_is_published_in_one_snapshot_and_what_an_operator_says_at_once_with_it() {
    let Scene { pool, registry, now } = scene();
    let (publish, changes) = crossbeam::channel::bounded(1);
    let scene = Scene { pool, registry: registry.published_by(publish), now };
    let backends: Vec<_> = (1..=4).map(|port| scene.add(port)).collect();
    let version = || scene.pool.snapshot.load().version;
    assert_eq!((version(), changes.len()), (4, 0));
    for backend in &backends[..2] {
        scene.probe(backend.id, Some(Health::Down));
    }
    assert_eq!((scene.eligible(), changes.len()), (vec![1, 2, 3, 4], 1), "one message for both");
    scene.registry.publish();
    assert_eq!(scene.eligible(), [3, 4]);
    let before = version();
    scene.registry.publish();
    assert_eq!(version(), before, "nothing is new");
    scene.registry.refused(backends[2].id, scene.now);
    scene.remove(4);
    assert!(scene.eligible().is_empty(), "a removal waits for nothing, and takes along what has been seen");
}

#[test]
fn of_each_address_it_is_known_since_when_it_is_as_it_is() {
    let scene = scene();
    let addresses = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], 1)));
    let added = scene.registry.add(config(1), addresses.to_vec(), Source::Admin, scene.now).unwrap();
    let probed = |nth: usize, seconds| {
        let at = scene.now + Duration::from_secs(seconds);
        let probe = LastProbe { at, passed: true, reason: String::new(), took: Duration::ZERO, late: Duration::ZERO };
        scene.registry.address_probed(added.backend.id, addresses[nth], Health::Up, &probe);
    };
    for (nth, seconds) in [(0, 1), (1, 2), (0, 60), (1, 60)] {
        probed(nth, seconds);
    }
    let entry = scene.registry.find(Which::Name("127.0.0.1:1")).unwrap();
    let since = |address| entry.addresses_seen.iter().find(|seen| seen.address == address).map(|seen| seen.since);
    let at = |seconds| Some(scene.now + Duration::from_secs(seconds));
    assert_eq!(addresses.map(since), [at(1), at(2)]);
}

#[test]
fn what_has_changed_is_known_to_be_published_or_not() {
    let Scene { pool, registry, now } = scene();
    let (publish, changes) = crossbeam::channel::bounded(1);
    let scene = Scene { pool, registry: registry.published_by(publish), now };
    let one = scene.add(1);
    let is_published = || scene.registry.wait_until_published(Duration::ZERO);
    assert!(is_published());
    scene.probe(one.id, Some(Health::Down));
    assert_eq!(changes.len(), 1);
    assert!(!is_published());
    scene.registry.publish();
    assert!(is_published());
}

#[test]
fn a_removed_backend_is_retired_and_one_at_the_same_url_is_not() {
    let scene = scene();
    let first = scene.add(1);
    assert!(!first.is_retired());
    scene.remove(1);
    assert!(first.is_retired());
    assert!(!scene.add(1).is_retired());
}

#[test]
fn a_flip_of_one_that_has_been_removed_is_ignored() {
    let scene = scene();
    let one = scene.add(1);
    scene.remove(1);
    scene.probe(one.id, Some(Health::Down));
    scene.registry.refused(one.id, scene.now);
    assert_eq!(scene.pool.snapshot.load().version, 2);
}

#[test]
fn a_drained_backend_is_alive_but_not_eligible() {
    let scene = scene();
    scene.add(1);
    let which = Which::Url("http://127.0.0.1:1");
    let set = |which, state| {
        let change = BackendChange { state: Some(state), ..BackendChange::default() };
        scene.registry.change(which, change, scene.now)
    };
    for state in [State::Drain, State::Down] {
        assert!(set(which, state).unwrap().is_alive());
        assert!(scene.eligible().is_empty());
        assert!(set(which, State::Ready).unwrap().is_eligible());
        assert_eq!(scene.eligible(), [1]);
    }
    let version = scene.pool.snapshot.load().version;
    set(which, State::Ready);
    assert_eq!(scene.pool.snapshot.load().version, version, "no change, no snapshot");
    assert!(set(Which::Name("nobody"), State::Drain).is_none());
}

#[test]
fn a_backend_serves_its_sessions_until_it_is_down() {
    let policy = Policy { sessions: Sessions::ById, ..Policy::of(Strategy::RoundRobin) };
    let scene = scene_by(PoolRules::new(&Config::default(), Arc::new(policy)));
    let one = scene.add(1);
    let serves = || scene.pool.snapshot.load().bound(one.mark(), &[]).is_some();
    let change = |change| scene.registry.change(Which::Name("127.0.0.1:1"), change, scene.now).unwrap();
    let set = |state| change(BackendChange { state: Some(state), ..BackendChange::default() });
    for (state, want) in [(State::Drain, true), (State::Down, false), (State::Ready, true)] {
        set(state);
        assert_eq!(serves(), want, "{state:?}");
    }
    change(BackendChange { weight: Some(0), ..BackendChange::default() });
    assert!(serves() && scene.eligible().is_empty());
    scene.probe(one.id, Some(Health::Down));
    assert!(!serves());
    scene.probe(one.id, Some(Health::Up));
    assert!(serves());
    scene.remove(1);
    assert!(!serves());
}

#[test]
fn one_that_comes_back_or_is_added_starts_slowly() {
    let scene = scene_of(&Config { slow_start: Duration::from_secs(10), ..Config::default() });
    let batch = vec![(config(1), Vec::new())];
    let one = scene.registry.add_all(batch, Source::Config, scene.now).unwrap().remove(0);
    let ramp = |port: u16| {
        let entry = scene.registry.find(Which::Name(&format!("127.0.0.1:{port}"))).unwrap();
        entry.ramp_percent
    };
    assert_eq!(ramp(1), 100, "what the proxy starts with is there at once");
    scene.probe(one.id, Some(Health::Up));
    assert_eq!(ramp(1), 100, "and its first probe changes nothing of that");

    scene.add(2);
    assert_eq!(ramp(2), 5);
    for _ in 1..20 {
        scene.registry.step_ramps();
    }
    assert_eq!((ramp(1), ramp(2)), (100, 100));
    let version = scene.pool.snapshot.load().version;
    scene.registry.step_ramps();
    assert_eq!(scene.pool.snapshot.load().version, version, "none starts, no snapshot");

    scene.probe(one.id, Some(Health::Down));
    scene.probe(one.id, Some(Health::Up));
    assert_eq!(ramp(1), 5);
    scene.registry.step_ramps();
    assert_eq!(ramp(1), 10);
    for state in [State::Drain, State::Ready] {
        let change = BackendChange { state: Some(state), ..BackendChange::default() };
        scene.registry.change(Which::Name("127.0.0.1:2"), change, scene.now).unwrap();
    }
    assert_eq!((ramp(1), ramp(2)), (10, 5));
    let heavier = BackendChange { weight: Some(7), ..BackendChange::default() };
    scene.registry.change(Which::Name("127.0.0.1:1"), heavier, scene.now).unwrap();
    assert_eq!(ramp(1), 10, "one that stays ready goes on as before");
}

#[test]
fn what_is_seen_of_a_backend_is_concluded_in_its_own_pool() {
    let scene = scene();
    let one = scene.add(1);
    scene.add(2);
    let other = Arc::new(Pool::new(2, "other", 2).0);
    let rules = PoolRules::new(&Config::default(), Arc::new(Policy::of(Strategy::RoundRobin)));
    scene.registry.inner.lock().pools.insert(0, Members::new(other, rules));
    scene.probe(one.id, Some(Health::Down));
    assert_eq!(scene.eligible(), [2]);
}

#[test]
fn ids_are_never_used_twice_and_slots_only_after_the_last_holder_has_gone() {
    let scene = scene();
    let first = scene.add(1);
    assert_eq!((first.id, first.slot), (1, 0));
    scene.remove(1);
    let held = scene.add(1);
    assert_eq!((held.id, held.slot), (2, 1), "slot 0 is still held");
    drop(first);
    let reused = scene.add(3);
    assert_eq!((reused.id, reused.slot), (3, 0));
}

#[test]
fn a_backends_counts_survive_changes_that_do_not_concern_it() {
    let scene = scene();
    let one = scene.add(1);
    let _in_flight = crate::balance::InFlight::begin(Arc::clone(&one)).unwrap();
    scene.add(2);
    scene.remove(2);
    let snapshot = scene.pool.snapshot.load();
    let first = snapshot.backends().next().unwrap();
    assert_eq!(first.in_flight(), 1);
    assert!(Arc::ptr_eq(first, &one));
}

#[test]
fn the_last_twenty_changes_are_remembered() {
    let scene = scene();
    let one = scene.add(1);
    for _ in 0..15 {
        scene.probe(one.id, Some(Health::Down));
        scene.probe(one.id, Some(Health::Up));
    }
    let entry = scene.registry.find(Which::Name("127.0.0.1:1")).unwrap();
    assert_eq!(entry.changes.len(), CHANGES_MAX);
    assert_eq!(entry.changes.back().unwrap().what, "up: answered 200");
}

#[test]
fn other_rules_pick_in_another_way_among_the_same_backends() {
    let scene = scene_of(&Config { slow_start: Duration::from_secs(10), ..Config::default() });
    let (one, two) = (scene.add(1), scene.add(2));
    let _in_flight = crate::balance::InFlight::begin(Arc::clone(&one)).unwrap();
    scene.probe(two.id, Some(Health::Down));
    let key = crate::balance::MarkKey::new([1, 2]);
    let policy =
        Policy { sessions: Sessions::ByName(key.clone()), in_flight_max: 1, ..Policy::of(Strategy::LeastConn) };
    scene.registry.go_by(PoolRules::new(&Config::default(), Arc::new(policy)), scene.now);
    let snapshot = scene.pool.snapshot.load();
    assert_eq!(snapshot.policy().strategy, Strategy::LeastConn);
    assert_eq!((scene.eligible(), one.in_flight()), (vec![1], 1), "what is known of them stays");
    assert_eq!(scene.registry.find(Which::Name("127.0.0.1:1")).unwrap().ramp_percent, 100, "no start is slow any more");
    let mark = crate::balance::Mark::of_name(&one.name, &key);
    assert_eq!(one.mark(), mark);
    assert!(snapshot.bound(mark, &[]).is_some());
    let _bounded = crate::balance::InFlight::begin(Arc::clone(&one)).unwrap();
    assert!(!one.has_room(), "its pool is bounded now");
}
