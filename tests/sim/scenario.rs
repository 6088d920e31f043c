//! Whole runs that a seed makes up: networks, origins, clients, and what they do to one another.

use std::time::Duration;

use maypole::config::Config;

use crate::chance::Chance;
use crate::house::{Finished, House};
use crate::net::Connecting;
use crate::origin::Origin;
use crate::plan::{Afterwards, AnswerFraming, Answering, ClientMisdeed, Exchange, OriginMisdeed, RequestFraming};
use crate::sim::{MILLISECOND, SECOND};
use crate::temper::Temper;
use crate::verdict::Excuses;
use crate::wire::Pace;

/// Seeds that the random test goes through, unless `MAYPOLE_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 2_000;

/// Runs what `seed` makes up.
pub fn run(seed: u64) -> Finished {
    let chance = Chance::new(seed ^ 0x5eed_5eed);
    let mut config = Config::default();
    config.retries.attempts = 1 + chance.below(3) as u32;
    let rough = Roughness::any(&chance);
    // Where every answer must come in time, the slowest reader's time is allowed for.
    config.request_timeout = Duration::from_secs(if rough.stalling { chance.pick(&[2, 10]) } else { 100 });
    config.timeouts.tunnel_idle = Duration::from_secs(50);
    let tries_max = config.retries.attempts as usize;
    let workers = chance.pick(&[1, 1, 2]);
    let mut house = House::new(seed, Temper::any, config, workers);
    for number in 0..chance.pick(&[1, 2, 3]) {
        let (origin, outcomes) = any_origin(&chance, number, &house.sim.temper, rough);
        let draw = house.sim.chance.fork();
        house.add_origin(origin, move || draw.pick(&outcomes));
    }
    // A byte costs as many events as it takes segments: the same patience for all tempers.
    let budget_at_start = house.sim.temper.body_bytes_max();
    let mut budget = budget_at_start;
    let mut id = 0;
    for _ in 0..=chance.below(5) {
        let mut exchanges = Vec::new();
        for _ in 0..=chance.below(5) {
            id += 1;
            let exchange = any_exchange(&chance, id, &mut budget, rough);
            let last = exchange.misdeed != ClientMisdeed::Nothing
                || exchange.closes
                || exchange.framing == RequestFraming::Upgrade;
            exchanges.push(exchange);
            if last {
                break;
            }
        }
        let mut client = house.client(exchanges);
        client.pipelines = chance.percent(30);
        client.piece = chance.pick(&[20, 300, 2_000, 16_384]).max(budget_at_start / 200);
        client.rest = chance.pick(&[0, 0, MILLISECOND, 10 * MILLISECOND]);
        client.think = chance.pick(&[0, 0, 20 * MILLISECOND, 5 * SECOND]);
        client.pace.piece = chance.pick(&[50, 1_000, 16_384]).max(budget_at_start / 200);
        client.pace.rest = chance.pick(&[0, 0, 10 * MILLISECOND]);
        client.lingers = chance.pick(&[0, 0, SECOND, 100 * SECOND]);
        house.play(client, chance.pick(&[0, 0, MILLISECOND, SECOND]));
    }
    let drains = chance.percent(10);
    if drains {
        house.drain_after(chance.below(3 * SECOND));
    }
    let excuses = Excuses {
        origins_leave: rough.leaving,
        origins_stall: rough.stalling,
        drained: drains,
        turns_away: false,
        tries_max,
    };
    house.finish(excuses)
}

/// Which kinds of trouble a run has; where there is none, every exchange must succeed.
#[derive(Clone, Copy, Debug)]
struct Roughness {
    leaving: bool,
    stalling: bool,
    clients: bool,
}

impl Roughness {
    fn any(chance: &Chance) -> Self {
        let rough = chance.percent(60);
        Self {
            leaving: rough && chance.percent(70),
            stalling: rough && chance.percent(30),
            clients: rough && chance.percent(50),
        }
    }
}

fn any_origin(chance: &Chance, number: usize, temper: &Temper, rough: Roughness) -> (Origin, Vec<Connecting>) {
    let mut origin = Origin::brisk(number);
    let piece = |chance: &Chance| chance.pick(&[40, 1_000, 16_384]).max(temper.body_bytes_max() / 200);
    origin.pace = Pace { piece: piece(chance), rest: chance.pick(&[0, 0, 10 * MILLISECOND]), patience: 300 * SECOND };
    origin.piece = piece(chance);
    origin.rest = chance.pick(&[0, 0, 5 * MILLISECOND]);
    if rough.leaving {
        origin.keeps_idle = chance.pick(&[*temper.latency.end(), 100 * MILLISECOND, 3 * SECOND, 300 * SECOND]);
    }
    let mut outcomes = vec![Connecting::Accepted(0), Connecting::Accepted(0), Connecting::Accepted(100 * MILLISECOND)];
    if rough.leaving && chance.percent(30) {
        outcomes.push(Connecting::Refused(0));
        outcomes.push(Connecting::Impossible(std::io::ErrorKind::HostUnreachable));
    }
    if rough.stalling && chance.percent(30) {
        outcomes.push(Connecting::BlackHole);
    }
    (origin, outcomes)
}

fn any_exchange(chance: &Chance, id: u64, budget: &mut usize, rough: Roughness) -> Exchange {
    let method = chance.pick(&["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]);
    let mut framing = match method {
        "POST" | "PUT" | "PATCH" => chance.pick(&[RequestFraming::Length, RequestFraming::Chunked]),
        "GET" if chance.percent(6) => RequestFraming::Upgrade,
        "GET" | "DELETE" if chance.percent(10) => RequestFraming::Length,
        _ => RequestFraming::NoBody,
    };
    let old = chance.percent(8) && framing != RequestFraming::Upgrade;
    if old && framing == RequestFraming::Chunked {
        framing = RequestFraming::Length;
    }
    let body = match framing {
        RequestFraming::NoBody => Vec::new(),
        _ => any_body(chance, budget),
    };
    let tries = 1 + chance.index(3);
    let answers = (0..tries).map(|_| any_answering(chance, method, framing, old, budget, rough)).collect();
    let mut exchange = Exchange {
        id,
        method,
        old,
        expects: !old
            && matches!(framing, RequestFraming::Length | RequestFraming::Chunked)
            && !body.is_empty()
            && chance.percent(10),
        body,
        framing,
        closes: chance.percent(10),
        misdeed: ClientMisdeed::Nothing,
        answers,
    };
    if exchange.expects {
        // Its origin would wait for a body that nobody sends once the answer has come.
        for answering in exchange.answers.iter_mut().filter(|answering| answering.framing == AnswerFraming::UntilClose)
        {
            answering.early = false;
        }
    }
    if rough.clients && chance.percent(25) {
        let bytes = exchange.head_bytes().len() + exchange.body.len();
        let after = 1 + chance.index(bytes + 10);
        exchange.misdeed = chance.pick(&[
            ClientMisdeed::StallsAfter(after),
            ClientMisdeed::FinishesAfter(after),
            ClientMisdeed::LeavesAfter(after),
            ClientMisdeed::ResetsAfter(after),
        ]);
    }
    exchange
}

fn any_body(chance: &Chance, budget: &mut usize) -> Vec<u8> {
    let most = (*budget).max(10);
    let length = match chance.below(4) {
        0 => chance.index(3),
        1 => chance.index(200),
        _ => chance.index(most / 2),
    };
    let length = length.min(most);
    *budget = budget.saturating_sub(length);
    chance.bytes(length)
}

fn any_answering(
    chance: &Chance,
    method: &str,
    request: RequestFraming,
    old: bool,
    budget: &mut usize,
    rough: Roughness,
) -> Answering {
    if request == RequestFraming::Upgrade && chance.percent(80) {
        return Answering { status: 101, ..Answering::plain("") };
    }
    let framing = chance.pick(&[
        AnswerFraming::Length,
        AnswerFraming::Length,
        AnswerFraming::Chunked,
        AnswerFraming::Chunked,
        AnswerFraming::UntilClose,
        AnswerFraming::NoBody,
    ]);
    let status = match framing {
        AnswerFraming::NoBody => chance.pick(&[204, 304]),
        _ => chance.pick(&[200, 200, 201, 302, 404, 500]),
    };
    let mut answering = Answering {
        status,
        framing,
        informational: if chance.percent(10) { vec![103] } else { Vec::new() },
        body: if method == "HEAD" { Vec::new() } else { any_body(chance, budget) },
        early: chance.percent(10) && request != RequestFraming::Upgrade,
        delay: chance.pick(&[0, 0, MILLISECOND, 300 * MILLISECOND]),
        misdeed: OriginMisdeed::Nothing,
        then: Afterwards::Stays,
    };
    if chance.percent(10) && framing != AnswerFraming::UntilClose {
        answering.then = Afterwards::ClosesAsSaid;
    }
    if rough.leaving && chance.percent(30) {
        misbehave(chance, &mut answering, old);
    }
    if rough.stalling && chance.percent(20) {
        let after = chance.index(answering.body.len() + 1);
        answering.misdeed = match chance.below(2) {
            0 => OriginMisdeed::StallsBeforeAnswer,
            _ => OriginMisdeed::StallsInBody { after },
        };
    }
    answering
}

fn misbehave(chance: &Chance, answering: &mut Answering, _old: bool) {
    let rudely = chance.percent(50);
    // Only a reset tells a body that lasts until the close from one that was cut.
    let rudely_in_body = rudely || answering.framing == AnswerFraming::UntilClose;
    let after = chance.index(answering.body.len() + 1);
    match chance.below(5) {
        0 => answering.misdeed = OriginMisdeed::LeavesBeforeAnswer { rudely },
        1 => answering.misdeed = OriginMisdeed::LeavesInHead { after: chance.index(80), rudely },
        2 => answering.misdeed = OriginMisdeed::LeavesInBody { after, rudely: rudely_in_body },
        3 => answering.misdeed = OriginMisdeed::Babbles,
        _ => answering.then = Afterwards::ClosesSilently(chance.below(50 * MILLISECOND)),
    }
}

fn command(seed: u64) -> String {
    format!("MAYPOLE_SIM_SEED={seed} MAYPOLE_SIM_TRACE=1 cargo test --test sim any_seed -- --nocapture")
}

#[test]
fn any_seed_keeps_every_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seeds, keeps_going) = match number("MAYPOLE_SIM_SEED") {
        Some(seed) => (seed..seed + 1, false),
        None => (0..number("MAYPOLE_SIM_SEEDS").unwrap_or(SEEDS), number("MAYPOLE_SIM_KEEP_GOING").is_some()),
    };
    let mut failures = 0;
    for seed in seeds {
        let finished = run(seed);
        if finished.wrongs.is_empty() {
            continue;
        }
        failures += 1;
        eprintln!("seed {seed}:\n  {}\nto replay: {}", finished.wrongs.join("\n  "), command(seed));
        assert!(keeps_going, "seed {seed} broke a promise");
    }
    assert_eq!(failures, 0);
}

#[test]
fn a_seed_replays_a_whole_run_of_the_proxy() {
    for seed in 0..40 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!((first.trace, first.events), (second.trace, second.events), "seed {seed}: {}", command(seed));
    }
}
