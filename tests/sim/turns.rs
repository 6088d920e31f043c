//! Work that never waits: it is cut into turns, so that others are served meanwhile.

use std::time::Duration;

use maypole::config::{Config, RateKey, RateLimit};

use crate::exchanges::{Tells, WORLDS, house_with};
use crate::house::House;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Answering, Exchange, RequestFraming};
use crate::sim::MILLISECOND;
use crate::temper::Temper;

const WIDE: usize = 4 << 20;

/// Everything fits at once, so that nobody has to wait for anybody.
fn wide_house(config: Config) -> House {
    let temper = |_: &_| Temper { window: WIDE, segment: WIDE, ..Temper::calm() };
    let mut house = House::new(0, temper, config, 1);
    house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
    house
}

#[test]
fn requests_that_are_answered_here_are_answered_in_turns() {
    let rate_limit = RateLimit {
        requests: 1,
        per: Duration::from_secs(3600),
        burst: 1,
        key: RateKey::ClientIp,
        max_keys: 100,
        allow: Vec::new(),
    };
    for seed in 0..WORLDS / 5 {
        let _tells = Tells(seed);
        let config = Config { rate_limit: Some(rate_limit.clone()), ..Config::default() };
        let house = if seed == 0 { wide_house(config) } else { house_with(seed, 1, config) };
        house.play_flood(0);
        house.play(house.client(vec![Exchange::get(1, Answering::plain("hello"))]), MILLISECOND);
        house.finish().expect_fine();
    }
}

#[test]
fn a_body_that_never_has_to_wait_is_moved_in_turns() {
    let house = wide_house(Config::default());
    let body = vec![7; 3 << 20];
    let post = Exchange::post(1, body.clone(), RequestFraming::Length, Answering::plain(body));
    house.play(house.client(vec![post]), 0);
    house.finish().expect_fine();
}

#[test]
fn what_is_sent_after_an_early_answer_is_read_in_turns_to_its_end_and_the_answer_arrives() {
    let mut config = Config::default();
    config.limits.body_bytes = 1000;
    let house = wide_house(config);
    let post = Exchange::post(1, vec![7; 3 << 20], RequestFraming::Length, Answering::plain("never"));
    let mut client = house.client(vec![Exchange { too_large: true, ..post }]);
    client.piece = WIDE;
    let log = house.play(client, 0);
    house.finish().expect_fine();
    let answers = log.answers.borrow();
    assert_eq!((answers.len(), answers[0].status), (1, 413));
    assert_eq!(log.sent_whole.get(), 1, "all of it could be sent");
}
