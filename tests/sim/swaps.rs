//! Plans that are swapped while requests are served: each request is served to its end by the plan that it began under. Which
//! one that is shows at both sides: in how the plan spells the proxy's name in `Via`, and in the burst that answers tell of.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use maypole::config::{Config, RateKey, RateLimit};
use maypole::plan::Plan;

use crate::chance::Chance;
use crate::house::House;
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Answering, Book, Exchange, RequestFraming};
use crate::sim::{MILLISECOND, SECOND, Time};
use crate::tally::{Fault, Promise};
use crate::temper::Temper;
use crate::verdict::{Judge, Played};

/// A rate that no client here comes up to.
const BURST: u32 = 90_000;

/// When which plan came into force. The first is there from the start, and has no number here.
#[derive(Clone, Default)]
pub struct Swaps(Rc<RefCell<Vec<Time>>>);

impl Swaps {
    /// How many swaps have been by that time; those of that very moment too if they are to be `included`.
    fn until(&self, at: Time, included: bool) -> usize {
        self.0.borrow().iter().filter(|&&swapped| swapped < at || (included && swapped == at)).count()
    }
}

impl House {
    /// After `delay`, another plan comes into force.
    pub fn swap_plans_after(&self, delay: Time) {
        let (shared, config, swaps) = (self.shared.clone(), self.config.clone(), self.swaps.clone());
        self.sim.after(delay, move |sim| {
            sim.struck(Fault::PlanSwapped);
            swaps.0.borrow_mut().push(sim.now());
            let nth = swaps.0.borrow().len();
            shared.swap(Plan::build(&nth_config(&config, nth), &shared.kept));
        });
    }
}

impl House {
    /// After `delay`, what is known of backends that speak TLS is replaced by the same: none of before is to be used then.
    pub fn hold_backends_anew_after(&self, delay: Time) {
        let Some(backends) = self.ciphers.backends.clone() else { return };
        self.sim.after(delay, move |sim| {
            sim.struck(Fault::BackendsHeldAnew);
            sim.trail.holds_anew(sim.now());
            backends.replace(backends.rules()).expect("the same rules");
        });
    }
}

/// The configuration of the plan after so many swaps. It serves as the first one does.
fn nth_config(first: &Config, nth: usize) -> Config {
    let mut config = first.clone();
    config.via = Some(pseudonym(nth));
    config.rate_limit = first.rate_limit.clone().or_else(|| Some(rate_limit(nth)));
    if first.limits.head_bytes == Config::default().limits.head_bytes {
        // Buffers of another size.
        config.limits.head_bytes += 1_024 * (nth % 3);
    }
    config
}

/// In these spellings it is the same name to those that look for loops.
fn pseudonym(nth: usize) -> String {
    let spelt = |(at, letter): (usize, char)| if nth >> at & 1 == 1 { letter.to_ascii_uppercase() } else { letter };
    "maypole".chars().enumerate().map(spelt).collect()
}

fn rate_limit(nth: usize) -> RateLimit {
    let burst = BURST + nth as u32;
    RateLimit {
        requests: 1_000_000,
        per: Duration::from_secs(1),
        burst,
        key: RateKey::ClientIp,
        max_keys: 100,
        allow: Vec::new(),
    }
}

/// Judges by which plans the requests of a run were served.
pub fn judge(judge: &mut Judge<'_>, first: &Config, swaps: &Swaps, book: &Book, played: &[Played]) {
    let seen = book.seen.borrow();
    for connection in played {
        let (answers, begun_at) = (connection.log.answers.borrow(), connection.log.begun_at.borrow());
        for (number, exchange) in connection.exchanges.iter().enumerate() {
            let mut tries = seen.iter().filter(|seen| seen.id == exchange.id);
            let Some(begun) = tries.next() else { continue };
            let name = |via: &str| via.split(' ').next_back().unwrap_or_default().to_owned();
            let told = begun.head.field("Via").map(name).unwrap_or_default();
            let earliest = swaps.until(begun_at[number], false);
            let plans = earliest..=swaps.until(begun.at, true);
            let plan = plans.clone().find(|&nth| told == pseudonym(nth));
            judge.expect(Promise::NewestPlan, plan.is_some(), || {
                format!("exchange {}: served as '{told}', not by any plan of {plans:?}", exchange.id)
            });
            let Some(plan) = plan else { continue };
            for again in tries {
                let told = again.head.field("Via").map(name).unwrap_or_default();
                judge.expect(Promise::OnePlan, told == pseudonym(plan), || {
                    format!("exchange {}: began as '{}', sent again as '{told}'", exchange.id, pseudonym(plan))
                });
            }
            let Some(answer) = answers.get(number) else { continue };
            if first.rate_limit.is_some() || answer.status == 101 || exchange.is_answered_mutated() {
                continue;
            }
            let told = answer.head.field("RateLimit-Policy");
            let want = (plan > 0).then(|| format!("\"maypole\";q={}", BURST as usize + plan));
            let same = match (told, &want) {
                (Some(told), Some(want)) => told.starts_with(want.as_str()),
                (told, want) => told.is_none() && want.is_none(),
            };
            judge.expect(Promise::OnePlan, same, || {
                format!("exchange {}: began under plan {plan}, and its answer tells of {told:?}", exchange.id)
            });
        }
    }
}

/// A share of all runs has them.
pub fn swap_now_and_then(chance: &Chance, house: &House, within: Time) {
    if chance.percent(25) {
        for _ in 0..=chance.below(6) {
            house.swap_plans_after(chance.below(within));
        }
    }
    // Decided by what concerns these runs alone, so that plain ones are what they were.
    let chance = &house.ciphers.chance;
    if house.ciphers.backends.is_some() && chance.percent(25) {
        for _ in 0..=chance.below(4) {
            house.hold_backends_anew_after(chance.below(within));
        }
    }
}

#[test]
fn a_thousand_swaps_fail_no_request() {
    let mut house = House::new(7, |_| Temper { window: 4_096, ..Temper::calm() }, Config::default(), 2);
    for number in 0..2 {
        house.add_origin(Origin::brisk(number), || Connecting::Accepted(0));
    }
    let mut logs = Vec::new();
    for client in 0..10_u64 {
        let exchange = |number| {
            let id = 100 * client + number;
            // Some of them wait for so long that they are laid aside.
            let answer =
                Answering { delay: [0, 30, 400][id as usize % 3] * MILLISECOND, ..Answering::plain(vec![7; 5_000]) };
            match id % 2 {
                0 => Exchange::get(id, answer),
                _ => Exchange::post(id, vec![9; 6_000], RequestFraming::Chunked, answer),
            }
        };
        let mut client = house.client((1..=20).map(exchange).collect());
        client.think = 20 * MILLISECOND;
        logs.push(house.play(client, client_begins(logs.len())));
    }
    for nth in 0..1_000 {
        house.swap_plans_after(nth * 3 * MILLISECOND);
    }
    let swaps = house.swaps.clone();
    let finished = house.finish();
    finished.expect_fine();
    let statuses: Vec<u16> =
        logs.iter().flat_map(|log| log.answers.borrow().iter().map(|a| a.status).collect::<Vec<_>>()).collect();
    assert_eq!(statuses, [200; 200]);
    assert_eq!(swaps.until(4 * SECOND, true), 1_000);
}

fn client_begins(number: usize) -> Time {
    number as Time * 10 * MILLISECOND
}
