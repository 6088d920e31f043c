//! Backends that are restarted, the only one or all at once: requests wait for them, and none is lost or left waiting.

use std::cell::Cell;
use std::rc::Rc;

use maypole::config::Config;

use crate::chance::Chance;
use crate::exchanges::{Tells, WORLDS};
use crate::house::House;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Answering, Exchange, RequestFraming};
use crate::sim::{MILLISECOND, SECOND, Time};
use crate::temper::Temper;
use crate::verdict::is_own;

/// A world whose backends refuse connections until `back` (never: for good), and that takes them out for it as ever.
fn house(seed: u64, origins: usize, config: Config, back: Option<Time>) -> House {
    let temper = |chance: &Chance| if seed == 0 { Temper::calm() } else { Temper::any(chance) };
    let mut house = House::new(seed, temper, config, 2);
    let listens = Rc::new(Cell::new(false));
    for number in 0..origins {
        let listens = listens.clone();
        let outcome = move || if listens.get() { Connecting::Accepted(0) } else { Connecting::Refused(0) };
        house.add_origin(Origin::brisk(number), outcome);
    }
    if let Some(back) = back {
        house.sim.after(back, move |_| listens.set(true));
    }
    house.heed_reports();
    house
}

/// A GET or a POST, which may be sent once only.
fn any_request(chance: &Chance, id: u64) -> Exchange {
    if chance.percent(50) {
        return Exchange::get(id, Answering::plain("served"));
    }
    let framing = chance.pick(&[RequestFraming::Length, RequestFraming::Chunked]);
    Exchange::post(id, chance.bytes(300), framing, Answering::plain("served"))
}

#[test]
fn no_request_is_lost_while_the_only_backend_or_all_of_them_are_away_for_less_than_a_second() {
    for seed in 0..WORLDS * 4 {
        let _tells = Tells(seed);
        let chance = Chance::new(seed);
        let back = chance.below(700 * MILLISECOND);
        let mut config = Config::default();
        let origins = 1 + chance.index(2);
        // One try is enough where there is one backend; it may take one for each where there are more.
        config.retries.attempts = if origins == 1 { 1 } else { 3 };
        let house = house(seed, origins, config, Some(back));
        let play = |id| house.play(house.client(vec![any_request(&chance, id)]), chance.below(SECOND));
        let logs: Vec<_> = (0..20).map(play).collect();
        house.finish().expect_fine();
        for log in logs {
            let answers = log.answers.borrow();
            let answer = answers.first().expect("an answer");
            assert!(!is_own(answer), "{answer:?}");
        }
    }
}

#[test]
fn nothing_waits_for_a_backend_for_longer_than_a_second() {
    for seed in 0..WORLDS {
        let _tells = Tells(seed);
        let chance = Chance::new(seed);
        let mut config = Config::default();
        config.queue.size = chance.pick(&[0, 2, 1024]);
        let house = house(seed, 1, config, None);
        let play = |id| house.play(house.client(vec![any_request(&chance, id)]), chance.below(SECOND));
        let logs: Vec<_> = (0..10).map(play).collect();
        let slowest = *house.sim.temper.latency.end() + house.sim.temper.timer_slack;
        house.finish().expect_fine();
        for log in logs {
            let answers = log.answers.borrow();
            let answer = answers.first().expect("an answer");
            assert!(is_own(answer) && answer.status == 503, "{answer:?}");
            let took = answer.head_at - log.started.get();
            assert!(took < SECOND + 20 * slowest + 100 * MILLISECOND, "{took} ns, of which some {slowest} a way");
        }
    }
}
