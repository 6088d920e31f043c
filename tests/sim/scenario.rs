//! Whole runs that a seed makes up: networks, origins, clients, and what they and the control plane do to one another.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use maypole::config::{CircuitBreaker, Config, HashKey, RateKey, RateLimit, Strategy};

use crate::chance::Chance;
use crate::control::Upset;
use crate::draw::{any_exchange, any_origin, encrypt};
use crate::house::{Finished, House};
use crate::mutant;
use crate::net::Connecting;
use crate::plan::{ClientMisdeed, RequestFraming};
use crate::secrecy::{Ciphers, Secrecy};
use crate::sessions::{any_claim, any_sticky};
use crate::sim::{MILLISECOND, SECOND, Sim};
use crate::stranger::Stranger;
use crate::swaps::swap_now_and_then;
use crate::temper::Temper;

/// All there are; that of `hash` differs from `ip-hash` in nothing but what it looks at.
const STRATEGIES: &[Strategy] = &[
    Strategy::RoundRobin,
    Strategy::LeastConn,
    Strategy::P2c,
    Strategy::PeakEwma,
    Strategy::Random,
    Strategy::Hash(HashKey::ClientIp),
];
/// Where those come from that come together.
const CROWD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 1, 1));
/// Client connections that are allowed in a run where too many come.
const FEW_CONNECTIONS: usize = 2;
/// Bytes a second that even the slowest of networks here carries many times over.
const SLOWEST_BODY: u64 = 20;
/// Longer than a handshake with a backend takes, by the slowest of networks.
const HANDSHAKES_TAKE: Duration = Duration::from_secs(20);
/// Upsets of backends happen within this time.
const UPSETS_END: u64 = 4 * SECOND;

/// Which kinds of trouble a run has; where there is none, every exchange must succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Origins leave in the middle of things, or send what they must not.
    pub leaving: bool,
    /// Origins, or the way to them, fall silent.
    pub stalling: bool,
    /// Clients misbehave.
    pub clients: bool,
    /// Clients send requests with bytes changed.
    pub mutants: bool,
    /// A client sends requests without end, over its rate.
    pub flood: bool,
    /// Limits are low, and clients and origins exceed them.
    pub limits: bool,
    /// More clients come than may be served at once.
    pub crowd: bool,
    /// More requests come than backends take at once, and few may wait, or not for long.
    pub rush: bool,
    /// The system lacks ports and descriptors.
    pub lacking: bool,
    /// Admin calls and health checks change the set of backends.
    pub control: bool,
    /// Origins crash and come back.
    pub crashes: bool,
    /// Circuit breakers leave backends out that answer with a failure now and then.
    pub breakers: bool,
    /// The proxy's own coroutines panic.
    pub panics: bool,
    /// The proxy is told to stop.
    pub drains: bool,
}

impl Trouble {
    fn any(chance: &Chance) -> Self {
        if !chance.percent(75) {
            return Self::default();
        }
        Self {
            leaving: chance.percent(50),
            stalling: chance.percent(20),
            clients: chance.percent(40),
            mutants: chance.percent(15),
            flood: chance.percent(4),
            limits: chance.percent(20),
            crowd: chance.percent(5),
            rush: chance.percent(20),
            lacking: chance.percent(8),
            control: chance.percent(20),
            crashes: chance.percent(12),
            breakers: chance.percent(20),
            panics: chance.percent(5),
            drains: chance.percent(10),
        }
    }

    /// Requests may fail at backends for what those do, or what the world does to them.
    fn of_origins(self) -> bool {
        self.leaving || self.stalling || self.lacking || self.control || self.crashes || self.panics
    }

    fn temper(self, chance: &Chance) -> Temper {
        let panics = if self.panics { chance.pick(&[20, 200, 1_000]) } else { 0 };
        // Where connecting takes its whole time, the others would wait for it.
        let coroutines = if self.stalling { usize::MAX } else { chance.pick(&[usize::MAX, usize::MAX, 1, 2, 4]) };
        Temper { panics, coroutines, ..Temper::any(chance) }
    }
}

/// Runs what `seed` makes up.
pub fn run(seed: u64) -> Finished {
    let chance = Chance::new(seed ^ 0x5eed_5eed);
    let trouble = Trouble::any(&chance);
    // Requests wait now and then even where every one of them must succeed.
    let patient = trouble == Trouble::default() && chance.percent(30);
    let mut config = any_config(&chance, trouble, patient);
    let workers = chance.pick(&[1, 1, 2]);
    let by_client = config.limits.connections_per_client > 0;
    let connections_max = if trouble.crowd && !by_client { FEW_CONNECTIONS } else { 10_000 };
    let secrecy = Secrecy::any(seed);
    if secrecy.backends {
        config.timeouts.connect = HANDSHAKES_TAKE;
    }
    let sim = Sim::new(seed, |chance| trouble.temper(chance));
    let mut house = House::build(sim, config, workers, connections_max, Ciphers::new(secrecy, seed, workers));
    let origins = chance.pick(&[1, 2, 3]);
    for number in 0..origins {
        let (origin, outcomes) = any_origin(&chance, number, &house.sim.temper, trouble);
        if trouble.rush || patient {
            origin.site.set_bound(chance.pick(&[0, 1, 1, 2]));
        }
        let outcomes = outcomes.into_iter().map(|outcomes| {
            let draw = house.sim.chance.fork();
            Rc::new(move || draw.pick(&outcomes)) as Rc<dyn Fn() -> Connecting>
        });
        let outcomes = outcomes.collect();
        house.add_origin_at(&origin, outcomes);
    }
    play_clients(&chance, &house, trouble, origins);
    play_strangers(&house, trouble);
    if trouble.rush && chance.percent(50) {
        house.upset_after(chance.below(UPSETS_END), Upset::Widen(chance.index(origins)));
    }
    upset_backends(&chance, &house, trouble, origins);
    if trouble.breakers {
        // Where nothing brings a backend back that refused a connection, none is taken out for it.
        house.follow_breakers(trouble.control || trouble.crashes);
    }
    if !trouble.of_origins() {
        house.origins_behave();
    }
    if trouble.drains {
        house.drain_after(chance.below(3 * SECOND));
    }
    swap_now_and_then(&chance, &house, UPSETS_END);
    house.finish()
}

fn any_config(chance: &Chance, trouble: Trouble, patient: bool) -> Config {
    let mut config = Config { strategy: STRATEGIES[chance.index(STRATEGIES.len())].clone(), ..Config::default() };
    config.retries.attempts = 1 + chance.below(3) as u32;
    // Where every answer must come in time, the slowest reader's time is allowed for.
    config.request_timeout = Duration::from_secs(if trouble.stalling { chance.pick(&[2, 10]) } else { 100 });
    config.timeouts.tunnel_idle = Duration::from_secs(50);
    if trouble.limits {
        config.limits.head_bytes = 1_024;
        config.limits.headers = 16;
        config.limits.uri_bytes = 100;
        config.limits.body_bytes = chance.pick(&[0, 500, 2_000]);
        config.limits.requests_per_connection = chance.pick(&[0, 1, 3]);
        config.limits.min_body_rate = chance.pick(&[0, SLOWEST_BODY]);
    }
    if trouble.flood || (trouble.limits && chance.percent(30)) {
        config.rate_limit = Some(RateLimit {
            requests: 1,
            per: Duration::from_secs(1),
            burst: 1 + chance.below(3) as u32,
            key: RateKey::ClientIp,
            max_keys: chance.pick(&[1, 2, 100]),
            allow: Vec::new(),
        });
    }
    if trouble.breakers {
        config.circuit_breaker = Some(any_breaker(chance));
    }
    if patient || trouble.rush {
        config.limits.max_in_flight = chance.pick(&[0, 0, 1, 3]);
    }
    if patient {
        config.queue.timeout = Duration::from_secs(3600);
    } else if trouble.rush {
        config.queue.size = chance.pick(&[0, 1, 3, 1024]);
        config.queue.timeout = Duration::from_millis(chance.pick(&[1, 50, 1_000, 100_000]));
    }
    if trouble.crowd && chance.percent(50) {
        config.limits.connections_per_client = FEW_CONNECTIONS;
    }
    config.sticky = any_sticky(chance);
    config
}

/// One that trips often, and not for long.
fn any_breaker(chance: &Chance) -> CircuitBreaker {
    CircuitBreaker {
        consecutive_failures: 1 + chance.below(4) as u32,
        error_percent: chance.pick(&[30, 50, 100]),
        minimum_requests: 1 + chance.below(5) as u32,
        window: Duration::from_secs(chance.pick(&[1, 10])),
        open: Duration::from_millis(chance.pick(&[10, 100, 1_000])),
        max_open: Duration::from_secs(2),
        half_open_requests: 1 + chance.below(2) as u8,
        max_ejected_percent: chance.pick(&[0, 50, 100]),
        on: vec![500..=599],
    }
}

fn play_clients(chance: &Chance, house: &House, trouble: Trouble, origins: usize) {
    // A byte costs as many events as it takes segments: the same patience for all tempers.
    let budget_at_start = house.sim.temper.body_bytes_max();
    let mut budget = budget_at_start;
    let limits = house.config.limits.clone();
    let mut id = 0;
    let clients = chance.below(5) + if trouble.crowd { 3 } else { 0 };
    for _ in 0..=clients {
        let mut exchanges = Vec::new();
        for _ in 0..=chance.below(5) {
            id += 1;
            let mut exchange = any_exchange(chance, id, &mut budget, trouble, &limits);
            exchange.claim = any_claim(chance, &house.config, origins);
            encrypt(&house.ciphers.chance, &mut exchange, house.ciphers.secrecy, trouble);
            let last = exchange.misdeed != ClientMisdeed::Nothing
                || exchange.closes
                || exchange.too_large
                || exchange.tunnel.is_some()
                || exchange.framing == RequestFraming::Upgrade;
            exchanges.push(exchange);
            if last {
                break;
            }
        }
        let mut client = house.client(exchanges);
        if trouble.crowd {
            client.from = CROWD;
        }
        client.pipelines = chance.percent(30);
        client.piece = chance.pick(&[20, 300, 2_000, 16_384]).max(budget_at_start / 200);
        client.rest = chance.pick(&[0, 0, MILLISECOND, 10 * MILLISECOND]);
        client.think = chance.pick(&[0, 0, 20 * MILLISECOND, 5 * SECOND]);
        client.pace.piece = chance.pick(&[50, 1_000, 16_384]).max(budget_at_start / 200);
        client.pace.rest = chance.pick(&[0, 0, 10 * MILLISECOND]);
        client.lingers = chance.pick(&[0, 0, SECOND, 100 * SECOND]);
        house.play(client, chance.pick(&[0, 0, MILLISECOND, SECOND]));
    }
    if trouble.flood {
        house.play_flood(chance.pick(&[0, MILLISECOND, SECOND]));
    }
    if trouble.mutants {
        for _ in 0..=chance.below(3) {
            house.play_mutant(mutant::mutate(chance), chance.pick(&[0, MILLISECOND, SECOND]));
        }
    }
}

/// Has clients come that never get through their handshake.
fn play_strangers(house: &House, trouble: Trouble) {
    let Ciphers { chance, secrecy, .. } = &house.ciphers;
    if secrecy.clients && (trouble.mutants || trouble.clients) {
        for _ in 0..=chance.below(2) {
            house.play_stranger(Stranger::any(chance), chance.pick(&[0, MILLISECOND, SECOND]));
        }
    }
}

/// Has backends come, go, turn and crash at random moments, each of them in an order that makes sense.
fn upset_backends(chance: &Chance, house: &House, trouble: Trouble, origins: usize) {
    if !(trouble.control || trouble.crashes) {
        return;
    }
    house.heed_reports();
    let mut pairs: Vec<fn(usize) -> (Upset, Upset)> = Vec::new();
    if trouble.control {
        pairs.extend([
            (|n| (Upset::Remove(n), Upset::Add(n))) as fn(usize) -> (Upset, Upset),
            |n| (Upset::Drain(n), Upset::Ready(n)),
            |n| (Upset::Down(n), Upset::Up(n)),
        ]);
    }
    if trouble.crashes {
        pairs.extend([(|n| (Upset::Crash(n), Upset::Restart(n))) as fn(usize) -> (Upset, Upset)]);
        pairs.extend([(|n| (Upset::LoseAddresses(n), Upset::FindAddresses(n))) as fn(usize) -> (Upset, Upset)]);
    }
    for _ in 0..=chance.below(5) {
        let (upset, mended) = chance.pick(&pairs)(chance.index(origins));
        let at = chance.below(UPSETS_END / 2);
        house.upset_after(at, upset);
        if chance.percent(80) {
            house.upset_after(at + chance.pick(&[0, MILLISECOND, SECOND / 2, UPSETS_END / 2]), mended);
        }
    }
    // What a refused connection took out comes back as a health check finds it.
    for n in 0..origins {
        house.upset_after(UPSETS_END, Upset::Up(n));
    }
}
