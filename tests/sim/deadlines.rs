//! Everything that waits has an end, at the right moment of virtual time.

use std::rc::Rc;
use std::time::Duration;

use maypole::config::Config;

use crate::client::Log;
use crate::exchanges::{house, house_with};
use crate::house::House;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{AnswerFraming, Answering, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming};
use crate::sim::{MILLISECOND, SECOND, Time};
use crate::temper::Temper;
use crate::wire::{Cut, Pace};

/// The status and Proxy-Status error of a connection's last answer, and when it came.
fn last_answer(log: &Log) -> (u16, String, Time) {
    let answers = log.answers.borrow();
    let answer = answers.last().expect("an answer");
    let reason = answer.head.field("Proxy-Status").unwrap_or_default();
    let error = reason.split("error=").nth(1).unwrap_or_default();
    (answer.status, error.split(';').next().unwrap_or_default().to_owned(), answer.head_at)
}

#[track_caller]
fn expect_at(at: Time, expected: Time) {
    let late = at.checked_sub(expected);
    let seconds = |time: Time| Duration::from_nanos(time).as_secs_f64();
    // A round trip, a linger, the wheel's grain.
    assert!(late.is_some_and(|late| late < 50 * MILLISECOND), "at {} s, expected {} s", seconds(at), seconds(expected));
}

fn stalls(after: usize, exchange: Exchange) -> Exchange {
    Exchange { misdeed: ClientMisdeed::StallsAfter(after), ..exchange }
}

#[test]
fn half_a_head_costs_no_coroutine_and_gets_a_408_when_its_time_is_over() {
    let house = house(0, 1);
    let log = house.play(house.client(vec![stalls(30, Exchange::get(1, Answering::plain("never")))]), 0);
    let parked = house.count_parked(5 * SECOND);
    house.finish().expect_fine();
    assert_eq!(parked.take(), Some((1, vec!["client"])));
    let (status, error, at) = last_answer(&log);
    assert_eq!((status, error.as_str()), (408, "http_request_error"));
    expect_at(at, log.started.get() + 10 * SECOND);
}

#[test]
fn a_connection_without_a_word_ends_without_one() {
    let house = house(0, 1);
    let log = house.play(house.client(vec![stalls(0, Exchange::get(1, Answering::plain("never")))]), 0);
    house.finish().expect_fine();
    let (end, at) = log.end.take().expect("an end");
    assert_eq!((end, log.answers.borrow().len()), (Cut::End, 0));
    expect_at(at, log.started.get() + 10 * SECOND);
}

#[test]
fn an_idle_connection_ends_without_a_word_after_keep_alive() {
    let house = house(0, 1);
    let mut client = house.client(vec![Exchange::get(1, Answering::plain("hello"))]);
    client.lingers = 200 * SECOND;
    let log = house.play(client, 0);
    let parked = house.count_parked(30 * SECOND);
    house.finish().expect_fine();
    assert_eq!(parked.take(), Some((1, vec!["client", "origin"])));
    let (end, at) = log.end.take().expect("an end");
    assert_eq!((end, log.stray.take()), (Cut::End, Vec::new()));
    expect_at(at, last_answer(&log).2 + 60 * SECOND);
}

#[test]
fn a_body_that_stops_coming_gets_a_408_after_body_idle() {
    for framing in [RequestFraming::Length, RequestFraming::Chunked] {
        let house = house(0, 1);
        let post = Exchange::post(1, vec![7; 2_000], framing, Answering::plain("never"));
        let mut client = house.client(vec![stalls(1_000, post)]);
        client.piece = 500;
        client.rest = 5 * SECOND;
        let log = house.play(client, 0);
        house.finish().expect_fine();
        let (status, error, at) = last_answer(&log);
        assert_eq!((status, error.as_str()), (408, "http_request_error"));
        // The last piece left one rest before the client noticed that it stalls.
        let since = at - log.started.get();
        assert!((30 * SECOND..45 * SECOND).contains(&since), "{since}");
    }
}

#[test]
fn a_backend_that_does_not_answer_gives_a_504_one_request_timeout_after_the_last_byte() {
    let house = house(0, 1);
    let stalls = Answering { misdeed: OriginMisdeed::StallsBeforeAnswer, ..Answering::plain("") };
    // A slow upload is no fault of the backend's.
    let mut client = house.client(vec![Exchange::post(1, vec![7; 3_000], RequestFraming::Chunked, stalls.clone())]);
    client.piece = 500;
    client.rest = 10 * SECOND;
    let upload = house.play(client, 0);
    let get = house.play(house.client(vec![Exchange::get(2, stalls)]), 0);
    house.finish().expect_fine();
    for log in [upload, get] {
        let (status, error, at) = last_answer(&log);
        assert_eq!((status, error.as_str()), (504, "http_response_timeout"));
        let sent_at = log.sent_at.borrow()[0];
        let since = (at + SECOND / 20).saturating_sub(sent_at);
        // The client notes the moment after its last rest.
        assert!(since <= 10 * SECOND + SECOND / 5, "{since}");
        assert!(at >= log.started.get() + 10 * SECOND);
    }
}

#[test]
fn a_backend_that_takes_no_connection_gives_a_504_after_each_try_had_its_time() {
    let mut config = Config::default();
    config.retries.attempts = 1;
    let mut house = house_with(0, 0, config);
    house.add_origin(Origin::brisk(0), || Connecting::BlackHole);
    let log = house.play(house.client(vec![Exchange::get(1, Answering::plain("never"))]), 0);
    house.finish().expect_fine();
    let (status, error, at) = last_answer(&log);
    assert_eq!((status, error.as_str()), (504, "connection_timeout"));
    expect_at(at, log.started.get() + 2 * SECOND);
}

#[test]
fn an_answer_that_stops_coming_is_cut_after_body_idle() {
    for framing in [AnswerFraming::Length, AnswerFraming::Chunked, AnswerFraming::UntilClose] {
        for old in [false, true] {
            let house = house(0, 1);
            let misdeed = OriginMisdeed::StallsInBody { after: 50 };
            let answer = Answering { framing, misdeed, ..Answering::plain(vec![7; 100]) };
            let log = house.play(house.client(vec![Exchange { old, ..Exchange::get(1, answer) }]), 0);
            house.finish().expect_fine();
            let (_, at) = log.end.take().expect("an end");
            expect_at(at, log.started.get() + 30 * SECOND);
        }
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_after_the_write_timeout() {
    let temper = |_: &_| Temper { window: 4_096, ..Temper::calm() };
    let mut house = House::new(0, temper, Config::default(), 1);
    house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
    let mut client = house.client(vec![Exchange::get(1, Answering::plain(vec![7; 50_000]))]);
    client.pace.piece = 1;
    client.pace.rest = 2_000_000 * SECOND;
    let log = house.play(client, 0);
    let before = house.sample(29 * SECOND, |sim| sim.net.service_streams());
    let after = house.sample(31 * SECOND, |sim| sim.net.service_streams());
    let streams = (before, after);
    let finished = house.finish();
    assert_eq!((streams.0.take(), streams.1.take()), (Some(2), Some(0)), "{:?}", finished.wrongs);
    assert!(log.answers.borrow().iter().all(|answer| answer.end.is_err()));
}

#[test]
fn a_client_that_closed_its_sending_side_is_served_for_half_closed_and_then_no_more() {
    for (delay, served) in [(SECOND / 2, true), (5 * SECOND, false)] {
        let house = house(0, 1);
        let get = Exchange::get(1, Answering { delay, ..Answering::plain("in time") });
        let length = get.head_bytes().len();
        let exchange = Exchange { misdeed: ClientMisdeed::FinishesAfter(length), ..get };
        let log = house.play(house.client(vec![exchange]), 0);
        let streams = house.sample(1_100 * MILLISECOND, |sim| sim.net.service_streams());
        house.finish().expect_fine();
        assert_eq!(log.answers.borrow().len(), usize::from(served));
        if !served {
            assert_eq!(streams.take(), Some(0), "the request to the backend isn't cancelled");
        }
    }
}

#[test]
fn a_client_that_resets_cancels_its_request_at_the_backend_at_once() {
    let house = house(0, 1);
    let get = Exchange::get(1, Answering { delay: 8 * SECOND, ..Answering::plain("too late") });
    let length = get.head_bytes().len();
    let exchange = Exchange { misdeed: ClientMisdeed::ResetsAfter(length), ..get };
    let mut client = house.client(vec![exchange]);
    // The last piece is followed by a rest: the reset comes while the backend works.
    client.rest = 100 * MILLISECOND;
    house.play(client, 0);
    let streams = house.sample(150 * MILLISECOND, |sim| sim.net.service_streams());
    house.finish().expect_fine();
    assert_eq!(streams.take(), Some(0));
}

/// The time that a client takes after its 100 is its own: neither the backend's nor a fixed one.
#[test]
fn after_a_100_a_slow_body_has_body_idle_and_the_answer_its_whole_request_timeout() {
    let house = house(0, 1);
    let answer = Answering { delay: 3 * SECOND, ..Answering::plain("thank you") };
    let post = Exchange { expects: true, ..Exchange::post(1, vec![7; 3_000], RequestFraming::Length, answer) };
    let mut client = house.client(vec![post]);
    client.piece = 200;
    client.rest = 4 * SECOND;
    let log = house.play(client, 0);
    house.finish().expect_fine();
    assert_eq!(last_answer(&log).0, 200);
    assert!(log.sent_at.borrow()[0] > log.started.get() + 12 * SECOND, "the body was too quick for this test");

    // Nor does a single pause longer than the request timeout matter.
    let house = self::house(0, 1);
    let post = Exchange::post(1, vec![7; 100], RequestFraming::Length, Answering::plain("never"));
    let head = post.head_bytes().len() + "Expect: 100-continue\r\n".len();
    let log = house.play(house.client(vec![stalls(head, Exchange { expects: true, ..post })]), 0);
    house.finish().expect_fine();
    let (status, _, at) = last_answer(&log);
    assert_eq!(status, 408);
    assert!(at >= log.started.get() + 30 * SECOND, "{at}");
}

#[test]
fn an_early_answer_is_not_cut_because_its_client_sends_no_more() {
    for expects in [false, true] {
        let mut house = House::new(0, |_| Temper::calm(), Config::default(), 1);
        let slow = Origin { piece: 100, rest: 4 * SECOND, ..Origin::brisk(0) };
        house.add_origin(slow, || Connecting::Accepted(0));
        let answer = Answering { early: true, ..Answering::plain(vec![7; 3_000]) };
        let post = Exchange::post(1, vec![7; 2_000], RequestFraming::Length, answer);
        let log = house.play(house.client(vec![Exchange { expects, ..stalls(1_000, post) }]), 0);
        house.finish().expect_fine();
        let answers = log.answers.borrow();
        assert_eq!((answers[0].status, answers[0].body.len(), &answers[0].end), (200, 3_000, &Ok(())));
        assert!(answers[0].at > log.started.get() + 35 * SECOND, "the answer was too quick for this test");
    }
}

#[test]
fn an_idle_backend_connection_is_closed_after_upstream_keep_alive() {
    let house = house(0, 1);
    house.play(house.client(vec![Exchange::get(1, Answering::plain("hello"))]), 0);
    let before = house.sample(29 * SECOND, |sim| sim.net.service_streams());
    let after = house.sample(32 * SECOND, |sim| sim.net.service_streams());
    house.finish().expect_fine();
    assert_eq!((before.take(), after.take()), (Some(1), Some(0)));
}

fn tunnel(id: u64, bytes: Vec<u8>) -> Exchange {
    let answer = Answering { status: 101, ..Answering::plain("") };
    Exchange { framing: RequestFraming::Upgrade, body: bytes, ..Exchange::get(id, answer) }
}

#[test]
fn a_tunnel_in_which_nothing_moves_ends_after_tunnel_idle() {
    let mut config = Config::default();
    config.timeouts.tunnel_idle = Duration::from_secs(7);
    let house = house_with(0, 1, config);
    let log = house.play(house.client(vec![stalls(usize::MAX, tunnel(1, vec![7; 500]))]), 0);
    house.finish().expect_fine();
    expect_at(log.end.take().expect("an end").1, log.started.get() + 7 * SECOND);
    assert_eq!(log.answers.borrow()[0].body.len(), 500);
}

#[test]
fn a_tunnel_delivers_all_to_a_client_that_reads_slowly_after_its_own_end() {
    let temper = |_: &_| Temper { window: 4_096, ..Temper::calm() };
    let mut house = House::new(0, temper, Config::default(), 1);
    house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
    let mut client = house.client(vec![tunnel(1, vec![7; 30_000])]);
    client.pace.piece = 2_000;
    client.pace.rest = 4 * SECOND;
    let log = house.play(client, 0);
    house.finish().expect_fine();
    let answers = log.answers.borrow();
    assert_eq!((answers[0].body.len(), &answers[0].end), (30_000, &Ok(())));
}

#[test]
fn a_connection_between_requests_holds_no_coroutine_and_takes_the_next_one_up() {
    let house = house(0, 1);
    let mut client = house.client((1..=5).map(|id| Exchange::get(id, Answering::plain("again"))).collect());
    client.think = 40 * SECOND;
    let log = house.play(client, 0);
    let parked: Vec<_> = (1..60).map(|second| house.count_parked(second * SECOND)).collect();
    house.finish().expect_fine();
    assert_eq!(log.answers.borrow().len(), 5);
    let coroutines = parked.iter().filter_map(|sample| sample.take());
    assert!(coroutines.filter(|(parked, tasks)| *parked == 1 && !tasks.contains(&"resumed")).count() > 25);
}

#[test]
fn a_head_that_trickles_in_is_parked_between_its_pieces_and_served_when_it_is_whole() {
    let house = house(0, 1);
    let mut client = house
        .client(vec![Exchange::get(1, Answering::plain("at last")), Exchange::get(2, Answering::plain("and again"))]);
    client.piece = 6;
    client.rest = SECOND / 2;
    let log = house.play(client, 0);
    let parked: Vec<_> = (1..20).map(|n| house.count_parked(n * SECOND / 5)).collect();
    house.finish().expect_fine();
    assert_eq!(log.answers.borrow().len(), 2);
    assert!(parked.iter().filter_map(|sample| sample.take()).filter(|(parked, _)| *parked == 1).count() > 10);
}

/// Logs of a drain: what was in flight, what was idle, what had sent half a head.
fn drained(house: &House) -> [Rc<Log>; 3] {
    let slow = Answering { delay: 4 * SECOND, ..Answering::plain("done all the same") };
    let busy = house.play(house.client(vec![Exchange::get(1, slow), Exchange::get(2, Answering::plain("never"))]), 0);
    let mut idle =
        house.client(vec![Exchange::get(3, Answering::plain("before")), Exchange::get(4, Answering::plain("never"))]);
    idle.think = 0;
    idle.lingers = 100 * SECOND;
    idle.exchanges.truncate(1);
    let idle = house.play(idle, 0);
    let mut half = house.client(vec![Exchange::get(5, Answering::plain("completed"))]);
    half.piece = 40;
    half.rest = 4 * SECOND;
    let half = house.play(half, 0);
    [busy, idle, half]
}

#[test]
fn draining_finishes_what_is_in_flight_and_ends_the_idle_at_once() {
    let house = house(0, 1);
    let [busy, idle, half] = drained(&house);
    house.drain_after(SECOND / 10);
    let finished = house.finish();
    finished.expect_fine();
    let answers = busy.answers.borrow();
    assert_eq!((answers.len(), answers[0].status), (1, 200));
    assert!(answers[0].head.lists("Connection", "close"));
    let (end, at) = idle.end.take().expect("an end");
    assert_eq!(end, Cut::End);
    expect_at(at, idle.started.get() + SECOND / 10);
    let answers = half.answers.borrow();
    assert!(answers.len() == 1 && answers[0].head.lists("Connection", "close"));
}

/// Its receiver's window is full all the time, and tells of room when a third of it is free.
#[test]
fn who_reads_slowly_but_steadily_is_not_cut() {
    let slowly = Pace { piece: 600, rest: 2 * SECOND, patience: 200 * SECOND };
    for of_client in [true, false] {
        let body = vec![7; 150_000];
        let mut house = House::new(0, |_| Temper::calm(), Config::default(), 1);
        let origin = Origin::brisk(0);
        let pace = if of_client { origin.pace } else { slowly };
        house.add_origin(Origin { pace, ..origin }, || Connecting::Accepted(0));
        let exchange = if of_client {
            Exchange::get(1, Answering::plain(body))
        } else {
            Exchange::post(1, body, RequestFraming::Length, Answering::plain("got it"))
        };
        let mut client = house.client(vec![exchange]);
        if of_client {
            client.pace = slowly;
        } else {
            client.pace.patience = 1_000 * SECOND;
        }
        let log = house.play(client, 0);
        house.finish().expect_fine();
        let answers = log.answers.borrow();
        assert_eq!((answers.len(), answers[0].status, &answers[0].end), (1, 200, &Ok(())));
        assert!(answers[0].at > log.started.get() + 100 * SECOND, "too quick for this test: {}", answers[0].at);
    }
}

#[test]
fn a_backend_that_takes_a_request_late_has_its_whole_time_to_answer_from_then_on() {
    for delay in [5 * SECOND, 9 * SECOND] {
        let mut house = House::new(0, |_| Temper::calm(), Config::default(), 1);
        let pace = Pace { piece: 2_000, rest: SECOND, patience: 200 * SECOND };
        house.add_origin(Origin { pace, ..Origin::brisk(0) }, || Connecting::Accepted(0));
        let answering = Answering { delay, ..Answering::plain("got it") };
        let exchange = Exchange::post(1, vec![7; 150_000], RequestFraming::Length, answering);
        let mut client = house.client(vec![exchange]);
        client.pace.patience = 1_000 * SECOND;
        let log = house.play(client, 0);
        house.finish().expect_fine();
        let answers = log.answers.borrow();
        assert_eq!((answers.len(), answers[0].status), (1, 200), "{delay}");
    }
}

#[test]
fn an_answer_that_comes_in_quick_succession_is_not_laid_aside_between_its_pieces() {
    let mut house = House::new(0, |_| Temper::calm(), Config::default(), 1);
    house.add_origin(Origin { piece: 50, rest: MILLISECOND, ..Origin::brisk(0) }, || Connecting::Accepted(0));
    let log = house.play(house.client(vec![Exchange::get(1, Answering::plain(vec![7; 50_000]))]), 0);
    // Until then it would be waited for in any case.
    let slow_at = 260 * MILLISECOND;
    let parked: Vec<_> = (0..1000).map(|nth| house.count_parked(slow_at + nth * MILLISECOND / 5)).collect();
    house.finish().expect_fine();
    let answers = log.answers.borrow();
    let took = answers[0].at - log.started.get();
    assert!(took > 460 * MILLISECOND, "too quick for this test: {took}");
    let parked: Vec<_> = parked.iter().map(|sample| sample.take().expect("a sample").0).collect();
    assert!(parked.iter().all(|count| *count == 0), "{parked:?}");
}
