//! Whole exchanges of the real proxy, one behaviour each, in a calm world and in many that aren't.

use maypole::config::Config;

use crate::chance::Chance;
use crate::house::{Finished, House};
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Afterwards, AnswerFraming, Answering, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming};
use crate::sim::{MILLISECOND, SECOND};
use crate::temper::Temper;
use crate::verdict::is_own;

/// Worlds that each behaviour is tried in: number 0 is calm.
pub const WORLDS: u64 = 40;

pub fn house(seed: u64, origins: usize) -> House {
    house_with(seed, origins, Config::default())
}

pub fn house_with(seed: u64, origins: usize, config: Config) -> House {
    let temper = |chance: &Chance| if seed == 0 { Temper::calm() } else { Temper::any(chance) };
    let mut house = House::new(seed, temper, config, 1);
    for number in 0..origins {
        house.add_origin(Origin::brisk(number), || Connecting::Accepted(0));
    }
    house
}

fn in_every_world(mut play: impl FnMut(House) -> Finished, origins: usize) {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let finished = play(house(seed, origins));
        assert!(finished.wrongs.is_empty(), "world {seed}: {}", finished.complaints());
    }
}

/// Tells which world it was when a test fails in it.
pub struct Tells(pub u64);

impl Drop for Tells {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was in world {}", self.0);
        }
    }
}

fn answering(framing: AnswerFraming, body: &[u8]) -> Answering {
    Answering { framing, ..Answering::plain(body) }
}

#[test]
fn requests_and_answers_of_every_framing_share_one_connection_on_either_hop() {
    let play = |house: House| {
        let body = house.sim.chance.bytes(900);
        let log = house.play(
            house.client(vec![
                Exchange::get(1, answering(AnswerFraming::Length, &body)),
                Exchange::post(2, &body[..700], RequestFraming::Length, answering(AnswerFraming::Chunked, &body)),
                Exchange::post(3, &body[..800], RequestFraming::Chunked, answering(AnswerFraming::Length, b"")),
                Exchange { method: "HEAD", ..Exchange::get(4, Answering::plain("")) },
                Exchange::get(5, Answering { status: 204, ..answering(AnswerFraming::NoBody, b"") }),
                Exchange::get(6, answering(AnswerFraming::Chunked, b"")),
                Exchange::post(7, "", RequestFraming::Chunked, Answering::plain("last")),
            ]),
            0,
        );
        let finished = house.finish();
        assert_eq!(log.answers.borrow().len(), 7);
        assert_eq!(finished.taps.len(), 1, "connections to the backend");
        finished
    };
    in_every_world(play, 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let play = |house: House| {
        let exchanges = (1..=8).map(|id| {
            let body = house.sim.chance.bytes(100 * id as usize);
            match id % 3 {
                0 => Exchange::get(id, answering(AnswerFraming::Chunked, &body)),
                1 => Exchange::post(id, body, RequestFraming::Chunked, Answering::plain("posted")),
                _ => Exchange::post(id, body, RequestFraming::Length, Answering::plain("posted")),
            }
        });
        let mut client = house.client(exchanges.collect());
        client.pipelines = true;
        let log = house.play(client, 0);
        let finished = house.finish();
        assert_eq!(log.answers.borrow().len(), 8);
        finished
    };
    in_every_world(play, 2);
}

#[test]
fn an_http10_client_gets_what_it_understands() {
    let play = |house: House| {
        let body = house.sim.chance.bytes(800);
        let old = |exchange| Exchange { old: true, ..exchange };
        let early = Answering { informational: vec![103], ..answering(AnswerFraming::Length, &body) };
        let kept = house.play(
            house.client(vec![
                old(Exchange::get(1, early)),
                old(Exchange::post(2, &body[..], RequestFraming::Length, Answering::plain("kept"))),
                old(Exchange::get(3, answering(AnswerFraming::Chunked, &body))),
            ]),
            0,
        );
        let closed = house.play(
            house.client(vec![Exchange {
                closes: true,
                ..old(Exchange::get(4, answering(AnswerFraming::UntilClose, &body)))
            }]),
            0,
        );
        let finished = house.finish();
        assert_eq!((kept.answers.borrow().len(), closed.answers.borrow().len()), (3, 1));
        for answer in kept.answers.borrow().iter().chain(closed.answers.borrow().iter()) {
            assert!(answer.head.field("Transfer-Encoding").is_none(), "{:?}", answer.head);
        }
        finished
    };
    in_every_world(play, 1);
}

#[test]
fn interim_answers_come_before_the_final_one_and_a_100_releases_the_body() {
    let play = |house: House| {
        let body = house.sim.chance.bytes(600);
        let interim = Answering { informational: vec![103, 103], ..Answering::plain("final") };
        let log = house.play(
            house.client(vec![
                Exchange::get(1, interim.clone()),
                Exchange {
                    expects: true,
                    ..Exchange::post(2, &body[..], RequestFraming::Length, Answering::plain("got it"))
                },
                Exchange { expects: true, ..Exchange::post(3, &body[..], RequestFraming::Chunked, interim) },
            ]),
            0,
        );
        let finished = house.finish();
        let answers = log.answers.borrow();
        let interim: Vec<_> = answers.iter().map(|answer| answer.informational.clone()).collect();
        assert_eq!(interim, [vec![103, 103], vec![100], vec![100, 103, 103]]);
        finished
    };
    in_every_world(play, 1);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let play = |house: House| {
        let body = house.sim.chance.bytes(3_000);
        let early = Answering { early: true, ..answering(AnswerFraming::Chunked, &body) };
        let mut client = house.client(vec![Exchange::post(1, &body[..], RequestFraming::Chunked, early)]);
        client.piece = 300;
        client.rest = 10 * MILLISECOND;
        let log = house.play(client, 0);
        let finished = house.finish();
        assert_eq!(log.answers.borrow()[0].body, body);
        finished
    };
    in_every_world(play, 1);
}

#[test]
fn an_upgrade_becomes_a_tunnel_both_ways_and_a_refused_one_stays_http() {
    let play = |house: House| {
        let bytes = house.sim.chance.bytes(2_000);
        let tunnel = Exchange {
            framing: RequestFraming::Upgrade,
            body: bytes.clone(),
            ..Exchange::get(1, Answering { status: 101, ..Answering::plain("") })
        };
        let refused =
            Exchange { framing: RequestFraming::Upgrade, ..Exchange::get(2, Answering::plain("no tunnel here")) };
        let through = house.play(house.client(vec![tunnel]), 0);
        let plain = house.play(house.client(vec![refused, Exchange::get(3, Answering::plain("as ever"))]), 0);
        let finished = house.finish();
        assert_eq!(through.answers.borrow()[0].status, 101);
        assert_eq!(through.answers.borrow()[0].body, bytes);
        assert_eq!(plain.answers.borrow().len(), 2);
        finished
    };
    in_every_world(play, 1);
}

#[test]
fn a_body_that_its_backend_cuts_never_looks_whole() {
    for (framing, rudely) in [
        (AnswerFraming::Length, false),
        (AnswerFraming::Length, true),
        (AnswerFraming::Chunked, false),
        (AnswerFraming::Chunked, true),
        (AnswerFraming::UntilClose, true),
    ] {
        let play = |house: House| {
            let body = house.sim.chance.bytes(1_500);
            let cut = |after| Answering {
                misdeed: OriginMisdeed::LeavesInBody { after, rudely },
                ..answering(framing, &body)
            };
            for (id, after) in [0, 1, 700, 1_499].into_iter().enumerate() {
                let exchange = Exchange::get(2 * id as u64, cut(after));
                house.play(house.client(vec![exchange]), 0);
                let exchange = Exchange { old: true, ..Exchange::get(2 * id as u64 + 1, cut(after)) };
                house.play(house.client(vec![exchange]), 0);
            }
            house.finish()
        };
        in_every_world(play, 1);
    }
}

/// A failed write takes the error that the next read would have returned; what is left looks like a plain end.
#[test]
fn a_body_that_lasts_until_the_close_is_cut_when_the_request_could_not_be_sent_to_its_end() {
    for seed in 0..WORLDS {
        let temper = |_: &_| Temper { errors_once: true, ..Temper::calm() };
        let mut house = House::new(seed, temper, Config::default(), 1);
        house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
        let body = house.sim.chance.bytes(40_000);
        let answer = Answering {
            early: true,
            misdeed: OriginMisdeed::LeavesInBody { after: 100, rudely: true },
            ..answering(AnswerFraming::UntilClose, &body[..1_000])
        };
        let mut client = house.client(vec![Exchange::post(1, body, RequestFraming::Length, answer)]);
        client.piece = 100;
        client.rest = 60_000;
        house.play(client, 0);
        let finished = house.finish();
        assert!(finished.wrongs.is_empty(), "world {seed}: {}", finished.complaints());
    }
}

#[test]
fn a_request_that_its_client_cuts_never_looks_whole() {
    let play = |house: House| {
        let body = house.sim.chance.bytes(1_000);
        let mut id = 0;
        for framing in [RequestFraming::Length, RequestFraming::Chunked] {
            for misdeed in
                [ClientMisdeed::FinishesAfter(500), ClientMisdeed::LeavesAfter(500), ClientMisdeed::ResetsAfter(500)]
            {
                id += 1;
                let exchange =
                    Exchange { misdeed, ..Exchange::post(id, &body[..], framing, Answering::plain("never")) };
                house.play(house.client(vec![exchange]), 0);
            }
        }
        house.finish()
    };
    in_every_world(play, 1);
}

/// Requests that fit the backend's window: one whose first write stops short isn't whole in the buffer any more.
#[test]
fn a_dead_pooled_connection_costs_an_idempotent_request_nothing_and_no_other_is_sent_twice() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let temper = |chance: &Chance| Temper { window: 16_384, partial_writes: 0, ..Temper::any(chance) };
        let mut house = House::new(seed, temper, Config::default(), 1);
        house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
        let body = house.sim.chance.bytes(300);
        let closes = |after| Answering { then: Afterwards::ClosesSilently(after), ..Answering::plain("then gone") };
        let mut logs = Vec::new();
        for (client, after) in [0, MILLISECOND, 20 * MILLISECOND].into_iter().enumerate() {
            let id = |n: u64| client as u64 * 10 + n;
            let mut client = house.client(vec![
                Exchange::get(id(1), closes(after)),
                Exchange::get(id(2), closes(after)),
                Exchange { method: "DELETE", ..Exchange::get(id(3), closes(after)) },
                Exchange::get(id(4), Answering::plain("stays")),
                Exchange::post(id(5), &body[..], RequestFraming::Length, closes(after)),
            ]);
            client.think = 10 * MILLISECOND;
            logs.push(house.play(client, 0));
        }
        house.finish().expect_fine();
        for log in logs {
            let answers = log.answers.borrow();
            assert!(answers.iter().take(4).all(|answer| answer.status == 200), "{answers:?}");
        }
    }
}

#[test]
fn a_refused_connection_is_reported_and_any_method_goes_elsewhere() {
    for seed in 0..WORLDS {
        let mut house = house(seed, 0);
        house.add_origin(Origin::brisk(0), || Connecting::Refused(0));
        house.add_origin(Origin::brisk(1), || Connecting::Impossible(libc::EHOSTUNREACH));
        house.add_origin(Origin::brisk(2), || Connecting::Accepted(0));
        let post = |id| Exchange::post(id, "once", RequestFraming::Length, Answering::plain("done"));
        let log = house.play(house.client((1..=4).map(post).collect()), 0);
        let _tells = Tells(seed);
        let finished = house.finish();
        finished.expect_fine();
        assert!(log.answers.borrow().iter().all(|answer| answer.status == 200));
        assert!(!finished.reports.is_empty());
    }
}

#[test]
fn round_robin_is_exact_over_two_workers() {
    let mut house = House::new(5, |_| Temper::calm(), Config::default(), 2);
    for number in 0..3 {
        house.add_origin(Origin::brisk(number), || Connecting::Accepted(0));
    }
    for id in 0..9 {
        let exchange = Exchange { closes: true, ..Exchange::get(id, Answering::plain("hello")) };
        house.play(house.client(vec![exchange]), id * SECOND);
    }
    let seen = house.book.seen.clone();
    house.finish().expect_fine();
    let origins: Vec<usize> = seen.borrow().iter().map(|seen| seen.origin).collect();
    assert_eq!(origins, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn no_new_request_reaches_a_backend_that_was_swapped_out() {
    for seed in 0..WORLDS {
        let house = house(seed, 2);
        for client in 0..4 {
            let exchanges = (0..10).map(|n| Exchange::get(client * 100 + n, Answering::plain("here")));
            let mut client = house.client(exchanges.collect());
            client.think = 400 * MILLISECOND;
            house.play(client, 0);
        }
        let removed_at = house.sim.now() + SECOND;
        house.remove_after(SECOND, 0);
        let seen = house.book.seen.clone();
        // What was picked just before may still be on its way.
        let longest_trip = 2 * SECOND;
        let _tells = Tells(seed);
        house.finish().expect_fine();
        let late = seen.borrow().iter().filter(|seen| seen.origin == 0 && seen.at > removed_at + longest_trip).count();
        assert_eq!(late, 0, "world {seed}");
    }
}

#[test]
fn connections_over_the_limit_get_a_503_that_says_why() {
    let mut house = House::with_limit(1, |_| Temper::calm(), Config::default(), 1, 2);
    house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
    let slow = |id| Exchange::get(id, Answering { delay: SECOND, ..Answering::plain("slow") });
    let served: Vec<_> = (1..=2).map(|id| house.play(house.client(vec![slow(id)]), 0)).collect();
    let turned_away = house.play(house.client(vec![slow(3)]), SECOND / 2);
    let later = house.play(house.client(vec![slow(4)]), 5 * SECOND);
    house.finish().expect_fine();
    assert!(served.iter().all(|log| log.answers.borrow()[0].status == 200));
    let answers = turned_away.answers.borrow();
    assert_eq!((answers[0].status, is_own(&answers[0])), (503, true));
    assert_eq!(later.answers.borrow()[0].status, 200);
}

#[test]
fn a_switch_in_the_middle_of_an_upload_loses_and_doubles_no_byte_in_either_direction() {
    for seed in 0..200 {
        let house = house(seed, 1);
        let framing = if seed % 2 == 0 { RequestFraming::Length } else { RequestFraming::Chunked };
        let bytes = |count: usize| (0..count).map(|n| (n * 7 + n / 251) as u8).collect::<Vec<u8>>();
        let answer = Answering { status: 101, early: true, ..Answering::plain(bytes(500)) };
        let post = Exchange { tunnel: Some(bytes(700)), ..Exchange::post(1, bytes(4_000), framing, answer) };
        let mut client = house.client(vec![post]);
        client.piece = 300;
        client.rest = 100 * MILLISECOND;
        let log = house.play(client, 0);
        let seen = house.book.seen.clone();
        let _tells = Tells(seed);
        house.finish().expect_fine();
        let answers = log.answers.borrow();
        assert_eq!((answers[0].status, &answers[0].body), (101, &[bytes(500), bytes(700)].concat()));
        let sent_at = log.sent_at.borrow()[0];
        assert!(answers[0].head_at < sent_at, "the 101 came before the body had left");
        assert_eq!(seen.borrow()[0].body, [bytes(4_000), bytes(700)].concat());
    }
}
