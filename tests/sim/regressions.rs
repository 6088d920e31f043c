//! What random runs have found, each as a small scenario of its own.

use maypole::config::Config;
use maypole::observe::Reason;

use crate::chance::Chance;
use crate::exchanges::Tells;
use crate::house::House;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{AnswerFraming, Answering, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming};
use crate::sim::{MILLISECOND, SECOND};
use crate::temper::Temper;

const WORLDS: u64 = 60;

fn house(seed: u64, temper: impl FnOnce(&Chance) -> Temper, origin: Origin) -> House {
    let mut house = House::new(seed, temper, Config::default(), 1);
    house.add_origin(origin, || Connecting::Accepted(0));
    house
}

fn until_close(body: Vec<u8>) -> Answering {
    Answering { framing: AnswerFraming::UntilClose, ..Answering::plain(body) }
}

/// Dropped by a panic, a connection used to end like any other.
#[test]
fn a_panic_never_makes_an_answer_without_framing_look_whole() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house(seed, |_| Temper { panics: 300, window: 1_460, ..Temper::calm() }, Origin::brisk(0));
        let body = house.sim.chance.bytes(20_000);
        let old = Exchange { old: true, closes: true, ..Exchange::get(1, until_close(body.clone())) };
        house.play(house.client(vec![old]), 0);
        let tunnel = Answering { status: 101, ..Answering::plain("") };
        let tunnel = Exchange { framing: RequestFraming::Upgrade, body, ..Exchange::get(2, tunnel) };
        house.play(house.client(vec![tunnel]), 0);
        house.finish().expect_fine();
    }
}

/// What didn't fit in one write was never sent.
#[test]
fn a_connection_over_the_limit_gets_its_whole_answer_through_a_narrow_window() {
    let mut house = House::with_limit(1, |_| Temper { window: 61, ..Temper::calm() }, Config::default(), 1, 1);
    house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
    let slow = |id| Exchange::get(id, Answering { delay: 5 * SECOND, ..Answering::plain("slow") });
    house.play(house.client(vec![slow(1)]), 0);
    let turned_away = house.play(house.client(vec![slow(2)]), SECOND);
    house.finish().expect_fine();
    let answers = turned_away.answers.borrow();
    assert_eq!((answers[0].status, &answers[0].end), (503, &Ok(())));
}

/// The reset that met a request on its way took the unread answer along (RFC 9112 §9.6).
#[test]
fn an_answer_that_ends_a_connection_survives_the_request_that_was_already_on_its_way() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house(seed, |_| Temper { resets_discard: true, ..Temper::calm() }, Origin::brisk(0));
        let old = |id| Exchange { old: true, ..Exchange::get(id, until_close(vec![7; 400])) };
        let mut client = house.client(vec![old(1), old(2)]);
        client.pipelines = true;
        // The second request leaves when the first one's answer has come, and before it is read.
        client.think = MILLISECOND;
        client.pace.piece = 40;
        client.pace.rest = MILLISECOND;
        let log = house.play(client, 0);
        house.finish().expect_fine();
        assert_eq!(log.answers.borrow()[0].body.len(), 400);
    }
}

/// A failed write takes the error that the next read would have returned; what is left looks like a plain end.
#[test]
fn a_body_that_lasts_until_the_close_is_cut_where_a_failed_write_took_the_reset() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house(
            seed,
            |chance| Temper { errors_once: true, partial_writes: 0, ..Temper::any(chance) },
            Origin { piece: 60, rest: 5 * MILLISECOND, ..Origin::brisk(0) },
        );
        let answer = Answering {
            early: true,
            misdeed: OriginMisdeed::LeavesInBody { after: 150, rudely: true },
            ..until_close(vec![7; 400])
        };
        for (id, framing) in [(1, RequestFraming::Length), (2, RequestFraming::Chunked)] {
            let mut client = house.client(vec![Exchange::post(id, vec![7; 3_000], framing, answer.clone())]);
            client.piece = 40;
            client.rest = MILLISECOND;
            house.play(client, 0);
        }
        house.finish().expect_fine();
    }
}

/// Its client's silence ended the upload, and a moment later the answer, which waited for the rest of it, was held against
/// the backend.
#[test]
fn an_answer_that_waits_for_a_request_that_never_comes_is_no_failure_of_its_backend() {
    let slow = Origin { piece: 40, rest: 20 * MILLISECOND, ..Origin::brisk(0) };
    let house = house(1, |_| Temper::calm(), slow);
    let answer = Answering { early: true, ..until_close(vec![7; 400]) };
    let post = Exchange::post(1, vec![7; 1_000], RequestFraming::Chunked, answer);
    let misdeed = ClientMisdeed::StallsAfter(post.head_bytes().len() + 100);
    house.play(house.client(vec![Exchange { misdeed, ..post }]), 0);
    house.origins_behave();
    let shared = house.shared.clone();
    house.finish().expect_fine();
    assert_eq!(shared.failures.of(Reason::ResponseBodyTimeout), 1);
}

/// A house whose streams are all encrypted, and whose network is narrow.
fn house_over_tls(seed: u64, window: usize) -> House {
    let mut house = House::over_tls(seed, |_| Temper { window, ..Temper::calm() }, Config::default());
    house.add_origin(Origin::brisk(0), || Connecting::Accepted(0));
    house
}

fn tunnel(id: u64, bytes: usize) -> Exchange {
    let answer = Answering { status: 101, ..Answering::plain("") };
    Exchange { framing: RequestFraming::Upgrade, body: vec![7; bytes], ..Exchange::get(id, answer) }
}

/// Its backend was told that this was all.
#[test]
fn a_tunnel_that_its_client_cuts_does_not_look_whole_to_its_backend() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house_over_tls(seed, 65_536);
        house.play(house.client(vec![Exchange { misdeed: ClientMisdeed::CutsTunnel, ..tunnel(1, 500) }]), 0);
        let seen = house.book.seen.clone();
        house.finish().expect_fine();
        assert!(!seen.borrow()[0].said_end);
    }
}

/// What the layer held back was lost with the connection, since its client had said its last.
#[test]
fn a_slow_reader_that_has_said_its_last_gets_all_of_an_encrypted_tunnel() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house_over_tls(seed, 1_460);
        let mut client = house.client(vec![tunnel(1, 30_000)]);
        client.pace.piece = 2_000;
        client.pace.rest = 20 * MILLISECOND;
        let log = house.play(client, 0);
        house.finish().expect_fine();
        let answers = log.answers.borrow();
        assert_eq!((answers[0].body.len(), &answers[0].end), (30_000, &Ok(())));
    }
}

/// The stream waited for what its session would never have taken in.
#[test]
fn a_record_that_cannot_be_opened_ends_its_connection_at_once() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let house = house_over_tls(seed, 65_536);
        let post = Exchange::post(1, vec![7; 2_000], RequestFraming::Length, Answering::plain("never"));
        let misdeed = ClientMisdeed::CorruptsAfter(post.head_bytes().len() + 1_000);
        let log = house.play(house.client(vec![Exchange { misdeed, ..post }]), 0);
        house.finish().expect_fine();
        let (_, at) = log.end.take().expect("an end");
        assert!(at < log.started.get() + 5 * SECOND, "{at}");
    }
}

/// A part of the record that says that nothing follows was lost.
#[test]
fn an_answer_that_ends_with_its_encrypted_connection_ends_in_good_order_through_a_narrow_window() {
    for window in 61..160 {
        let house = house_over_tls(window as u64, window);
        let old = Exchange { old: true, closes: true, ..Exchange::get(1, until_close(vec![7; 400])) };
        let log = house.play(house.client(vec![old]), 0);
        house.finish().expect_fine();
        let answers = log.answers.borrow();
        assert_eq!((answers[0].body.len(), &answers[0].end), (400, &Ok(())), "{window}");
    }
}
