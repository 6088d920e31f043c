//! `limits.min_body_rate` in virtual time: who is too slow, when, and who only seems so.

use maypole::config::Config;
use maypole::observe::Reason;

use crate::client::Client;
use crate::house::House;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Answering, ClientMisdeed, Exchange, RequestFraming};
use crate::sim::{SECOND, Time};
use crate::temper::Temper;

const FRAMINGS: [RequestFraming; 2] = [RequestFraming::Length, RequestFraming::Chunked];

/// A proxy with that rate in front of one origin; windows are small, so that either side soon feels the other.
fn house(bytes_per_second: u64, origin: Origin) -> House {
    let mut config = Config::default();
    config.limits.min_body_rate = bytes_per_second;
    let mut house = House::new(0, |_| Temper { window: 4_096, ..Temper::calm() }, config, 1);
    house.add_origin(origin, || Connecting::Accepted(0));
    house
}

/// What became of the client's only request, and how long that took.
fn outcome(house: House, client: Client) -> (u16, Time) {
    let shared = house.shared.clone();
    let log = house.play(client, 0);
    house.finish().expect_fine();
    let answers = log.answers.borrow();
    let answer = answers.last().expect("an answer");
    assert_eq!(shared.failures.of(Reason::BodyTooSlow), u64::from(answer.status == 408));
    (answer.status, answer.head_at - log.started.get())
}

fn post(body_bytes: usize, framing: RequestFraming) -> Exchange {
    Exchange::post(1, vec![7; body_bytes], framing, Answering::plain("thank you"))
}

/// Sends 500 bytes, rests for a second on average, and so on.
fn sends_500_a_second(house: &House, request: Exchange) -> Client {
    let mut client = house.client(vec![request]);
    client.piece = 500;
    client.rest = 2 * SECOND;
    client
}

#[test]
fn a_body_that_stops_coming_is_too_slow_after_one_window() {
    for framing in FRAMINGS {
        let house = house(1_000, Origin::brisk(0));
        let stalls = Exchange { misdeed: ClientMisdeed::StallsAfter(700), ..post(10_000, framing) };
        let client = house.client(vec![stalls]);
        let (status, after) = outcome(house, client);
        assert_eq!(status, 408);
        assert!((5 * SECOND..5 * SECOND + SECOND / 10).contains(&after), "{after}");
    }
}

#[test]
fn a_body_at_half_the_rate_is_too_slow_after_about_two_windows() {
    for framing in FRAMINGS {
        let house = house(1_000, Origin::brisk(0));
        // A misdeed that it has no time for: the judge lets nobody else get a 408.
        let slow = Exchange { misdeed: ClientMisdeed::StallsAfter(15_000), ..post(15_000, framing) };
        let client = sends_500_a_second(&house, slow);
        let (status, after) = outcome(house, client);
        assert_eq!(status, 408);
        assert!((7 * SECOND..14 * SECOND).contains(&after), "{after}");
    }
}

#[test]
fn a_body_at_twice_the_rate_is_not() {
    for framing in FRAMINGS {
        let house = house(250, Origin::brisk(0));
        let client = sends_500_a_second(&house, post(15_000, framing));
        let (status, after) = outcome(house, client);
        assert_eq!(status, 200);
        assert!(after > 20 * SECOND, "the body was too quick for this test: {after}");
    }
}
