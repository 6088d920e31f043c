mod shut_out;

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::balance::{HashKey, InFlight, Origin, Outcome, Sessions, Strategy, hash};

const EVERY_STRATEGY: [Strategy; 6] = [
    Strategy::RoundRobin,
    Strategy::LeastConn,
    Strategy::P2c,
    Strategy::PeakEwma,
    Strategy::Random,
    Strategy::Hash(HashKey::ClientIp),
];

/// Chance from a counter, a clock that stands still, and a key.
struct Request {
    chance: Cell<u64>,
    key: Option<u64>,
}

impl Request {
    fn any() -> Self {
        Self { chance: Cell::new(1), key: None }
    }

    fn with_key(key: u64) -> Self {
        Self { key: Some(hash(&key.to_le_bytes())), ..Self::any() }
    }
}

impl Occasion for Request {
    fn random(&self) -> u64 {
        self.chance.set(self.chance.get() + 1);
        hash(&self.chance.get().to_le_bytes())
    }

    fn now_ns(&self) -> u64 {
        1_000_000_000
    }

    fn key(&self, _: &HashKey) -> Option<u64> {
        self.key
    }
}

fn backend(id: u64) -> Backend {
    let origin = Origin {
        name: format!("b{id}"),
        url: String::new(),
        host: "127.0.0.1".into(),
        port: 1,
        base_path: String::new(),
    };
    Backend::new(id, 0, origin, 1)
}

fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(id, weight): (u64, &u32)| Member { weight: *weight, ..Member::new(Arc::new(backend(id))) };
    (0..).zip(weights).map(member).collect()
}

fn of(strategy: Strategy, members: Vec<Member>) -> Snapshot {
    Snapshot::new(1, members, Arc::new(Policy::of(strategy)))
}

fn snapshot(strategy: Strategy, count: usize) -> Snapshot {
    of(strategy, members(&vec![1; count]))
}

fn picks(snapshot: &Snapshot, cursor: &AtomicUsize, tried: &[u64], count: usize) -> Vec<u64> {
    let request = Request::any();
    (0..count).map(|_| snapshot.pick(cursor, tried, &request).unwrap().id).collect()
}

fn shares(picks: &[u64], count: usize) -> Vec<usize> {
    let mut shares = vec![0; count];
    for id in picks {
        shares[*id as usize] += 1;
    }
    shares
}

#[test]
fn an_empty_set_picks_none() {
    for strategy in EVERY_STRATEGY {
        let none = snapshot(strategy.clone(), 0);
        assert!(none.pick(&AtomicUsize::new(0), &[], &Request::any()).is_none(), "{strategy:?}");
        let weightless = of(strategy, members(&[0, 0]));
        assert!(weightless.pick(&AtomicUsize::new(0), &[], &Request::any()).is_none());
    }
}

#[test]
fn a_single_backend_is_picked_even_if_it_has_failed() {
    for strategy in EVERY_STRATEGY {
        let snapshot = snapshot(strategy, 1);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(5), &[], 2), [0, 0]);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(5), &[0], 2), [0, 0]);
    }
}

#[test]
fn no_strategy_takes_one_that_has_failed_while_another_is_there() {
    for strategy in EVERY_STRATEGY {
        let snapshot = of(strategy.clone(), members(&[1, 200, 0, 3]));
        let picked = picks(&snapshot, &AtomicUsize::new(0), &[0, 1], 50);
        assert!(picked.iter().all(|id| *id == 3), "{strategy:?}: {picked:?}");
        for key in 0..50 {
            let picked = snapshot.pick(&AtomicUsize::new(0), &[1], &Request::with_key(key)).unwrap();
            assert!([0, 3].contains(&picked.id), "{strategy:?}");
        }
    }
}

#[test]
fn when_all_have_failed_one_is_tried_again() {
    for strategy in EVERY_STRATEGY {
        assert_eq!(picks(&snapshot(strategy, 2), &AtomicUsize::new(1), &[0, 1], 9).len(), 9);
    }
    for strategy in [Strategy::RoundRobin, Strategy::LeastConn] {
        assert_eq!(picks(&snapshot(strategy, 2), &AtomicUsize::new(1), &[0, 1], 2), [1, 0], "the one in turn");
    }
}

#[test]
fn a_weight_of_nothing_gets_nothing() {
    for strategy in EVERY_STRATEGY {
        let picked = picks(&of(strategy, members(&[1, 0, 1])), &AtomicUsize::new(0), &[], 200);
        assert_eq!(shares(&picked, 3)[1], 0);
    }
}

mod round_robin {
    use super::*;

    #[test]
    fn nine_picks_over_three_are_three_each_in_turn() {
        let snapshot = snapshot(Strategy::RoundRobin, 3);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 9), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn weights_are_exact_over_any_round_and_spread_within_it() {
        let snapshot = of(Strategy::RoundRobin, members(&[5, 1, 1]));
        for start in 0..7 {
            let picked = picks(&snapshot, &AtomicUsize::new(start), &[], 7);
            assert_eq!(shares(&picked, 3), [5, 1, 1]);
            let longest = picked.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
            assert!(longest <= Some(3), "bunched: {picked:?}");
        }
    }

    #[test]
    fn a_cursor_that_wraps_still_picks() {
        let snapshot = snapshot(Strategy::RoundRobin, 4);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(usize::MAX), &[], 3), [3, 0, 1]);
    }

    #[test]
    fn a_try_after_a_failure_takes_the_next_in_rotation() {
        let snapshot = snapshot(Strategy::RoundRobin, 3);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[0], 1), [1]);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(2), &[2, 0], 1), [1]);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(1), &[0], 1), [1]);
    }

    #[test]
    fn one_that_starts_slowly_has_less_than_its_weight() {
        let mut members = members(&[4, 4]);
        members[1].ramp_percent = 25;
        let picked = picks(&of(Strategy::RoundRobin, members), &AtomicUsize::new(0), &[], 5);
        assert_eq!(shares(&picked, 2), [4, 1]);
    }
}

mod least_conn {
    use super::*;

    #[test]
    fn it_takes_the_least_loaded() {
        let members = members(&[1, 1, 1]);
        let _busy = [0, 0, 1, 2, 2].map(|index: usize| InFlight::begin(Arc::clone(&members[index].backend)).unwrap());
        let snapshot = of(Strategy::LeastConn, members);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 3), [1, 1, 1]);
        let cursor = AtomicUsize::new(0);
        assert_eq!(picks(&snapshot, &cursor, &[1], 4), [0, 2, 0, 2], "the untried ones tie");
    }

    #[test]
    fn it_breaks_ties_in_turn() {
        let members = members(&[1, 1, 1]);
        let second = Arc::clone(&members[1].backend);
        let snapshot = of(Strategy::LeastConn, members);
        let cursor = AtomicUsize::new(0);
        assert_eq!(picks(&snapshot, &cursor, &[], 6), [0, 1, 2, 0, 1, 2]);
        let _busy = InFlight::begin(second).unwrap();
        assert_eq!(picks(&snapshot, &cursor, &[], 4), [0, 2, 0, 2]);
    }

    #[test]
    fn requests_in_flight_settle_in_the_proportion_of_the_weights() {
        let snapshot = of(Strategy::LeastConn, members(&[5, 1, 2]));
        let cursor = AtomicUsize::new(0);
        let pick = || InFlight::begin(Arc::clone(snapshot.pick(&cursor, &[], &Request::any()).unwrap())).unwrap();
        let _held: Vec<_> = (0..80).map(|_| pick()).collect();
        assert_eq!(snapshot.backends().map(|backend| backend.in_flight()).collect::<Vec<_>>(), [50, 10, 20]);
    }
}

mod by_chance {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let snapshot = of(Strategy::Random, members(&[5, 1, 2]));
        let shares = shares(&picks(&snapshot, &AtomicUsize::new(0), &[], 8_000), 3);
        for (got, want) in shares.iter().zip([5_000_usize, 1_000, 2_000]) {
            assert!(got.abs_diff(want) < 150, "{shares:?}");
        }
    }

    #[test]
    fn of_two_backends_the_less_loaded_is_always_taken() {
        let members = members(&[1, 1]);
        let _busy = InFlight::begin(Arc::clone(&members[0].backend)).unwrap();
        assert_eq!(shares(&picks(&of(Strategy::P2c, members), &AtomicUsize::new(0), &[], 100), 2), [0, 100]);
    }

    #[test]
    fn who_was_lightest_is_remembered_and_compared_with_the_next_two() {
        let members = members(&[1; 20]);
        let begin = |member: &Member| InFlight::begin(Arc::clone(&member.backend)).unwrap();
        // Also with the request that it gets the last one is the lightest.
        let _busy: Vec<_> = members[..19].iter().flat_map(|member| [begin(member), begin(member)]).collect();
        let (snapshot, cursor, request) = (of(Strategy::P2c, members), AtomicUsize::new(0), Request::any());
        let picked = || snapshot.pick(&cursor, &[], &request).unwrap().id;
        let idle = snapshot.backends().last().unwrap().id;
        let first = (0..1000).position(|_| picked() == idle).expect("it is drawn some time");
        assert!((0..20).all(|_| picked() == idle), "found by pick {first}, and forgotten");
    }

    #[test]
    fn two_choices_keep_the_load_level_by_weight() {
        let snapshot = of(Strategy::P2c, members(&[4, 1, 1, 2]));
        let (cursor, request) = (AtomicUsize::new(0), Request::any());
        let pick = || InFlight::begin(Arc::clone(snapshot.pick(&cursor, &[], &request).unwrap())).unwrap();
        let _held: Vec<_> = (0..800).map(|_| pick()).collect();
        let loads: Vec<_> = snapshot.backends().map(|backend| backend.in_flight()).collect();
        for (load, want) in loads.iter().zip([400_usize, 100, 100, 200]) {
            assert!(load.abs_diff(want) <= want / 10, "{loads:?}");
        }
    }

    #[test]
    fn chance_takes_no_turn() {
        for strategy in [Strategy::Random, Strategy::PeakEwma] {
            let cursor = AtomicUsize::new(7);
            picks(&snapshot(strategy, 3), &cursor, &[], 10);
            assert_eq!(cursor.into_inner(), 7);
        }
    }

    #[test]
    fn the_quicker_one_is_preferred_until_it_has_more_to_do() {
        let members = members(&[1, 1]);
        for (member, took_ms) in members.iter().zip([10, 35]) {
            let outcome = Outcome::Answered(200, Some(Duration::from_millis(took_ms)));
            member.backend.estimate_latency(outcome, 1_000_000_000);
        }
        let quick = Arc::clone(&members[0].backend);
        let snapshot = of(Strategy::PeakEwma, members);
        let _three = [(); 3].map(|()| {
            assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 5), [0; 5]);
            InFlight::begin(Arc::clone(&quick)).unwrap()
        });
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 5), [1; 5], "40 ms there, 35 here");
    }

    #[test]
    fn one_of_which_nothing_is_known_gets_one_request_to_learn_from() {
        let members = members(&[1, 1]);
        let answered = Outcome::Answered(200, Some(Duration::from_millis(1)));
        members[0].backend.estimate_latency(answered, 1_000_000_000);
        let unknown = Arc::clone(&members[1].backend);
        let snapshot = of(Strategy::PeakEwma, members);
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 1), [1]);
        let _asked = InFlight::begin(unknown).unwrap();
        assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[], 5), [0; 5]);
    }
}

mod by_hash {
    use super::*;

    const BY_CLIENT: Strategy = Strategy::Hash(HashKey::ClientIp);

    fn places(snapshot: &Snapshot, keys: u64) -> HashMap<u64, u64> {
        let place = |key| snapshot.pick(&AtomicUsize::new(0), &[], &Request::with_key(key)).unwrap().id;
        (0..keys).map(|key| (key, place(key))).collect()
    }

    #[test]
    fn a_key_stays_where_it_is_and_one_that_goes_moves_few_others() {
        let all = members(&[1; 10]);
        let before = places(&of(BY_CLIENT, all.clone()), 10_000);
        assert_eq!(before, places(&of(BY_CLIENT, all.clone()), 10_000));
        let after = places(&of(BY_CLIENT, all[..9].to_vec()), 10_000);
        let moved = before.iter().filter(|(key, place)| after[key] != **place).count();
        assert!(moved <= 10_000 * 2 / 10, "{moved} of 10,000 keys moved");
        let busiest = shares(&before.into_values().collect::<Vec<_>>(), 10).into_iter().max().unwrap();
        assert!(busiest <= 1_250, "{busiest} keys of 10,000 on one of ten");
    }

    #[test]
    fn a_request_without_the_key_takes_its_turn() {
        let snapshot = snapshot(BY_CLIENT, 3);
        let cursor = AtomicUsize::new(0);
        let shares = shares(&picks(&snapshot, &cursor, &[], 65_537), 3);
        assert!(shares.iter().all(|share| share.abs_diff(65_537 / 3) <= 1), "{shares:?}");
    }

    #[test]
    fn with_the_bound_no_backend_gets_more_than_its_share_and_a_quarter() {
        let policy = Policy { balance_factor: Some(1.25), ..Policy::of(BY_CLIENT) };
        for weights in [&[1, 1, 1, 1][..], &[6, 1, 1]] {
            let snapshot = Snapshot::new(1, members(weights), Arc::new(policy.clone()));
            let cursor = AtomicUsize::new(0);
            let weights = weights.iter().map(|weight| *weight as usize).collect::<Vec<_>>();
            let sum: usize = weights.iter().sum();
            let mut held = Vec::new();
            for round in 1..=1000_usize {
                // All of them by the same key: it would go to one backend alone.
                let backend = snapshot.pick(&cursor, &[], &Request::with_key(1)).unwrap();
                held.push(InFlight::begin(Arc::clone(backend)).unwrap());
                for (backend, weight) in snapshot.backends().zip(&weights) {
                    let bound = (round * weight * 5).div_ceil(sum * 4).max(8);
                    assert!(backend.in_flight() <= bound, "{} over {bound}", backend.in_flight());
                }
            }
        }
    }

    #[test]
    fn without_load_the_bound_moves_no_key() {
        let all = members(&[1; 5]);
        let bounded = Policy { balance_factor: Some(1.0), ..Policy::of(BY_CLIENT) };
        let bounded = Snapshot::new(1, all.clone(), Arc::new(bounded));
        assert_eq!(places(&bounded, 1_000), places(&of(BY_CLIENT, all), 1_000));
    }
}

mod tiers {
    use super::*;

    fn with_backup() -> Vec<Member> {
        let mut members = members(&[1, 1, 1]);
        members[2].backup = true;
        members
    }

    #[test]
    fn a_backup_serves_only_when_no_primary_can() {
        for strategy in EVERY_STRATEGY {
            let mut members = with_backup();
            let picked = picks(&of(strategy.clone(), members.clone()), &AtomicUsize::new(0), &[], 60);
            assert!(!picked.contains(&2), "{strategy:?}");
            members[0].eligible = false;
            members[1].weight = 0;
            let picked = picks(&of(strategy, members), &AtomicUsize::new(0), &[], 3);
            assert_eq!(picked, [2, 2, 2]);
        }
    }

    #[test]
    fn a_backup_takes_a_request_that_every_primary_has_failed() {
        for strategy in EVERY_STRATEGY {
            let snapshot = of(strategy.clone(), with_backup());
            assert_eq!(picks(&snapshot, &AtomicUsize::new(0), &[1, 0], 1), [2], "{strategy:?}");
            let again = picks(&snapshot, &AtomicUsize::new(0), &[1, 0, 2], 20);
            assert!(!again.contains(&2), "{strategy:?}: when all have failed it, primaries come first again");
        }
    }

    /// Four backends in the proxy's own zone and two elsewhere.
    fn zoned() -> Vec<Member> {
        let mut members = members(&[1; 6]);
        for member in &mut members[..4] {
            member.local = true;
        }
        members
    }

    fn picked_ids(members: Vec<Member>) -> Vec<u64> {
        let mut ids = picks(&of(Strategy::RoundRobin, members), &AtomicUsize::new(0), &[], 60);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn the_own_zone_serves_alone_while_enough_of_it_can() {
        let mut members = zoned();
        assert_eq!(picked_ids(members.clone()), [0, 1, 2, 3]);
        members[0].eligible = false;
        assert_eq!(picked_ids(members.clone()), [1, 2, 3], "three quarters are enough");
        members[1].eligible = false;
        assert_eq!(picked_ids(members.clone()), [2, 3, 4, 5], "half is not");
        members[1].eligible = true;
        members[1].ramp_percent = 10;
        assert_eq!(picked_ids(members.clone()), [1, 2, 3, 4, 5], "one that starts slowly counts for little");
        for member in &mut members {
            member.eligible &= !member.local;
        }
        assert_eq!(picked_ids(members), [4, 5]);
    }

    #[test]
    fn a_request_that_the_own_zone_has_failed_goes_elsewhere() {
        let snapshot = of(Strategy::RoundRobin, zoned());
        let picked = picks(&snapshot, &AtomicUsize::new(0), &[0, 1, 2, 3], 10);
        assert!(picked.iter().all(|id| *id >= 4), "{picked:?}");
    }
}

#[test]
fn a_session_finds_its_backend_whether_it_is_eligible_or_not_unless_it_may_not_serve_or_was_tried() {
    let mut members = members(&[1, 0, 1, 1]);
    members[2].eligible = false;
    members[3].serves_sessions = false;
    let policy = Arc::new(Policy { sessions: Sessions::ById, ..Policy::of(Strategy::RoundRobin) });
    let snapshot = Snapshot::new(1, members, policy);
    let bound = |id, tried: &[u64]| snapshot.bound(Mark::of_id(id), tried).map(|backend| backend.id);
    assert_eq!([0, 1, 2, 3, 4].map(|id| bound(id, &[])), [Some(0), Some(1), Some(2), None, None]);
    assert_eq!([bound(1, &[0, 2]), bound(2, &[0, 2])], [Some(1), None]);
}

#[test]
fn without_sessions_nobody_is_bound() {
    let snapshot = Snapshot::new(1, members(&[1, 1]), Arc::new(Policy::of(Strategy::RoundRobin)));
    assert!(snapshot.bound(Mark::of_id(1), &[]).is_none());
}
