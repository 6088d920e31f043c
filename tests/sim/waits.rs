//! Requests that wait for room, in virtual time: in which order they are served, and for how long they wait.

use std::time::Duration;

use maypole::config::Config;
use maypole::observe::Reason;

use crate::control::Upset;
use crate::exchanges::{Tells, WORLDS};
use crate::house::House;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Answering, ClientMisdeed, Exchange};
use crate::sim::{MILLISECOND, SECOND, Time};
use crate::temper::Temper;
use crate::verdict::is_own;

/// A proxy with two workers in front of one origin that may have this many requests at once.
fn house(seed: u64, bound: usize, size: usize, timeout: Duration) -> House {
    let mut config = Config::default();
    (config.queue.size, config.queue.timeout) = (size, timeout);
    config.request_timeout = Duration::from_secs(100);
    let temper = |chance: &_| if seed == 0 { Temper::calm() } else { Temper::any(chance) };
    let mut house = House::new(seed, temper, config, 2);
    let origin = Origin::brisk(0);
    origin.site.set_bound(bound);
    house.add_origin(origin, || Connecting::Accepted(0));
    house
}

/// A GET whose answer takes so long.
fn get(id: u64, delay: Time) -> Exchange {
    Exchange::get(id, Answering { delay, ..Answering::plain("at last") })
}

#[test]
fn who_came_first_is_served_first_whichever_worker_it_is_on() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house(seed, 1, 100, Duration::from_secs(100));
        // They come a second apart, so that no network turns them round, and all while the first one is served.
        let logs: Vec<_> = (0..12)
            .map(|id| house.play(house.client(vec![get(id, if id == 0 { 20 * SECOND } else { 0 })]), id * SECOND))
            .collect();
        let seen = house.book.seen.clone();
        let shared = house.shared.clone();
        house.finish().expect_fine();
        assert!(logs.iter().all(|log| log.answers.borrow()[0].status == 200));
        let order: Vec<u64> = seen.borrow().iter().map(|seen| seen.id).collect();
        assert_eq!(order, (0..12).collect::<Vec<_>>());
        assert_eq!((shared.kept.pool.line.queued(), shared.kept.pool.line.waiting()), (11, 0));
    }
}

#[test]
fn who_waits_for_long_keeps_no_coroutine_and_one_is_enough_for_all() {
    let mut config = Config::default();
    config.queue.timeout = Duration::from_secs(100);
    config.request_timeout = Duration::from_secs(100);
    let temper = |_: &_| Temper { coroutines: 1, ..Temper::calm() };
    let mut house = House::new(0, temper, config, 1);
    let origin = Origin::brisk(0);
    origin.site.set_bound(2);
    house.add_origin(origin, || Connecting::Accepted(0));
    let logs: Vec<_> = (0..8).map(|id| house.play(house.client(vec![get(id, 3 * SECOND)]), 0)).collect();
    let parked = house.count_parked(5 * SECOND / 2);
    let shared = house.shared.clone();
    house.finish().expect_fine();
    assert!(logs.iter().all(|log| log.answers.borrow()[0].status == 200));
    assert_eq!(shared.kept.pool.line.queued(), 6);
    let (parked, tasks) = parked.take().expect("a sample");
    assert_eq!(parked, 8);
    assert!(!tasks.iter().any(|task| ["accepted", "resumed"].contains(task)), "{tasks:?}");
}

#[test]
fn who_waits_in_vain_is_told_when_the_timeout_has_passed() {
    let house = house(0, 1, 100, Duration::from_millis(700));
    house.play(house.client(vec![get(1, 5 * SECOND)]), 0);
    let late = house.play(house.client(vec![get(2, 0)]), SECOND);
    let shared = house.shared.clone();
    house.finish().expect_fine();
    let answers = late.answers.borrow();
    assert_eq!((answers[0].status, is_own(&answers[0])), (503, true));
    let waited = answers[0].head_at - late.started.get();
    assert!((700 * MILLISECOND..702 * MILLISECOND).contains(&waited), "{waited}");
    assert_eq!(shared.failures.of(Reason::QueueTimeout), 1);
}

#[test]
fn who_finds_the_queue_full_is_told_at_once() {
    let house = house(0, 1, 1, Duration::from_secs(100));
    let served: Vec<_> = (1..=2).map(|id| house.play(house.client(vec![get(id, 5 * SECOND)]), 0)).collect();
    let late = house.play(house.client(vec![get(3, 0)]), SECOND);
    let shared = house.shared.clone();
    house.finish().expect_fine();
    assert!(served.iter().all(|log| log.answers.borrow()[0].status == 200));
    assert_eq!(late.answers.borrow()[0].status, 503);
    assert!(late.answers.borrow()[0].head_at - late.started.get() < 2 * MILLISECOND);
    assert_eq!(shared.failures.of(Reason::QueueFull), 1);
}

#[test]
fn a_client_that_leaves_lets_the_next_go_and_its_request_reaches_nobody() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house(seed, 1, 100, Duration::from_secs(100));
        house.play(house.client(vec![get(0, 10 * SECOND)]), 0);
        let whole = get(1, 0).head_bytes().len();
        for (id, misdeed) in [
            (1, ClientMisdeed::ResetsAfter(whole)),
            (2, ClientMisdeed::LeavesAfter(whole)),
            (3, ClientMisdeed::FinishesAfter(whole)),
        ] {
            house.play(house.client(vec![Exchange { misdeed, ..get(id, 0) }]), SECOND + id * 100 * MILLISECOND);
        }
        let stays = house.play(house.client(vec![get(4, 0)]), 2 * SECOND);
        let seen = house.book.seen.clone();
        let shared = house.shared.clone();
        house.finish().expect_fine();
        assert_eq!(stays.answers.borrow()[0].status, 200);
        let order: Vec<u64> = seen.borrow().iter().map(|seen| seen.id).collect();
        assert_eq!(order, [0, 4]);
        // The reset may overtake its request.
        assert!((2..=3).contains(&shared.failures.of(Reason::ClientGone)));
    }
}

#[test]
fn more_room_is_given_to_those_that_wait() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house(seed, 1, 100, Duration::from_secs(100));
        let slow = house.play(house.client(vec![get(1, 60 * SECOND)]), 0);
        let waits = house.play(house.client(vec![get(2, 0)]), SECOND);
        house.upset_after(5 * SECOND, Upset::Widen(0));
        house.finish().expect_fine();
        assert!(waits.answers.borrow()[0].at < slow.answers.borrow()[0].at);
    }
}
