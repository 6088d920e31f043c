//! Virtual time: requests come, are picked for by the product's own code, wait, are worked on, and end.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use fastrand::Rng;
use maypole::balance::{
    Backend, InFlight, HashKey, Member, Occasion, Origin, Outcome, Policy, Snapshot, Strategy, hash,
};

use crate::Contender;
use crate::scenario::{CLIENTS, SECOND, Scenario, Server, Trouble, WORK};

const SEED: u64 = 7;
/// Slow starts go in steps of so many percent, as the control plane's do.
const RAMP_STEP_PERCENT: u32 = 5;

/// What came out.
pub struct Figures {
    /// Of each measured request, from its coming to its end, in ascending order; nanoseconds.
    latencies: Vec<u64>,
    /// Measured requests that each backend got.
    pub got: Vec<usize>,
}

impl Figures {
    /// The latency within which that part (0–1) of the requests ended, in milliseconds.
    pub fn quantile_ms(&self, of: f64) -> f64 {
        let rank = (self.latencies.len() as f64 * of).ceil() as usize;
        self.latencies[rank.clamp(1, self.latencies.len()) - 1] as f64 / 1e6
    }

    /// What the first backend, where the trouble is, got of all requests, in percent.
    pub fn first_percent(&self) -> f64 {
        self.got[0] as f64 * 100.0 / self.latencies.len() as f64
    }

    /// What the busiest backend got, as a multiple of the mean.
    pub fn busiest(&self) -> f64 {
        let most = self.got.iter().copied().max().unwrap_or(0);
        most as f64 * self.got.len() as f64 / self.latencies.len() as f64
    }
}

/// Something that happens at its time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request ends at a server; the place of its guard.
    Ends {
        server: usize,
        guard: usize,
        came: u64,
    },
    /// A server leaves or enters the rotation.
    Leaves(usize),
    Enters(usize),
    /// A server that starts slowly gets a step more.
    Ramps(usize),
}

struct World<'s> {
    scenario: &'s Scenario,
    policy: Arc<Policy>,
    members: Vec<Member>,
    snapshot: Snapshot,
    /// When each slot of each server is free.
    free_at: Vec<Vec<u64>>,
    /// Requests that each server has begun on since it came back last.
    begun: Vec<u64>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    guards: Vec<Option<InFlight>>,
    figures: Figures,
}

/// Runs a scenario; the same requests come whoever picks.
pub fn simulate(scenario: &Scenario, contender: &Contender) -> Figures {
    let policy = match contender {
        Contender::Ideal => Policy::of(Strategy::RoundRobin),
        Contender::Product(_, policy) => policy.clone(),
    };
    let mut world = World::new(scenario, Arc::new(policy));
    let (mut arrivals, cursor) = (Rng::with_seed(SEED), AtomicUsize::new(0));
    let clients = Clients::new(scenario.skew);
    let chance = RefCell::new(Rng::with_seed(SEED + 1));
    let mut now = 0;
    loop {
        now += (exponential(&mut arrivals) * SECOND as f64 / scenario.rate) as u64;
        let (client, work) = (clients.draw(&mut arrivals), exponential(&mut arrivals) * WORK);
        if now >= scenario.measured.end {
            break;
        }
        world.run_until(now);
        let server = match contender {
            Contender::Ideal => world.soonest(now, work),
            Contender::Product(..) => {
                let request = Request { now, client, chance: &chance };
                let backend = world.snapshot.pick(&cursor, &[], &request).expect("some are always there");
                backend.slot
            }
        };
        world.begin(server, now, work);
    }
    world.run_until(u64::MAX);
    world.figures.latencies.sort_unstable();
    world.figures
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario, policy: Arc<Policy>) -> Self {
        let members: Vec<_> = scenario.servers.iter().enumerate().map(member).collect();
        let mut world = Self {
            snapshot: Snapshot::new(0, members.clone(), Arc::clone(&policy)),
            scenario,
            policy,
            free_at: scenario.servers.iter().map(|server| vec![0; server.slots]).collect(),
            begun: vec![0; members.len()],
            figures: Figures { latencies: Vec::new(), got: vec![0; members.len()] },
            members,
            events: BinaryHeap::new(),
            guards: Vec::new(),
        };
        for (index, server) in scenario.servers.iter().enumerate() {
            match server.trouble {
                Trouble::None => {}
                Trouble::Stops { every, lasting, noticed } => {
                    for stop in (every..scenario.measured.end).step_by(every as usize) {
                        world.at(stop + noticed, Event::Leaves(index));
                        world.at(stop + lasting, Event::Enters(index));
                    }
                }
                Trouble::Returns { gone, back, .. } => {
                    world.at(gone, Event::Leaves(index));
                    world.at(back, Event::Enters(index));
                }
            }
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.events.push(Reverse((time, event)));
    }

    fn run_until(&mut self, now: u64) {
        while let Some(Reverse((time, event))) = self.events.peek().copied()
            && time <= now
        {
            self.events.pop();
            match event {
                Event::Ends { server, guard, came } => self.end(server, guard, came, time),
                Event::Leaves(server) => self.change(server, |member| member.eligible = false),
                Event::Enters(server) => {
                    let slowly = self.scenario.slow_start > 0;
                    self.begun[server] = 0;
                    self.change(server, |member| {
                        member.eligible = true;
                        member.ramp_percent = if slowly { RAMP_STEP_PERCENT } else { 100 };
                    });
                    self.ramp_on(server, time);
                }
                Event::Ramps(server) => {
                    self.change(server, |member| member.ramp_percent += RAMP_STEP_PERCENT);
                    self.ramp_on(server, time);
                }
            }
        }
    }

    fn change(&mut self, server: usize, how: impl FnOnce(&mut Member)) {
        how(&mut self.members[server]);
        self.snapshot = Snapshot::new(self.snapshot.version + 1, self.members.clone(), Arc::clone(&self.policy));
    }

    fn ramp_on(&mut self, server: usize, now: u64) {
        if self.members[server].ramp_percent < 100 {
            self.at(now + self.scenario.slow_start * u64::from(RAMP_STEP_PERCENT) / 100, Event::Ramps(server));
        }
    }

    fn begin(&mut self, server: usize, now: u64, work: f64) {
        let end = self.would_end(server, now, work);
        let slots = &mut self.free_at[server];
        let slot = (0..slots.len()).min_by_key(|slot| slots[*slot]).expect("there are slots");
        slots[slot] = end;
        self.begun[server] += 1;
        let guard = self.guards.len();
        self.guards.push(InFlight::begin(Arc::clone(&self.members[server].backend)));
        self.at(end, Event::Ends { server, guard, came: now });
    }

    fn end(&mut self, server: usize, guard: usize, came: u64, now: u64) {
        let outcome = Outcome::Answered(200, Some(Duration::from_nanos(now - came)));
        let backend = &self.members[server].backend;
        backend.record(0, outcome);
        backend.estimate_latency(outcome, now);
        self.guards[guard] = None;
        if self.scenario.measured.contains(&came) {
            self.figures.latencies.push(now - came);
            self.figures.got[server] += 1;
        }
    }

    /// The server where the request would end soonest.
    fn soonest(&self, now: u64, work: f64) -> usize {
        let there = (0..self.members.len()).filter(|server| self.members[*server].eligible);
        there.min_by_key(|server| self.would_end(*server, now, work)).expect("some are always there")
    }

    /// When a request would end that is sent to a server now.
    fn would_end(&self, server: usize, now: u64, work: f64) -> u64 {
        let first_free = self.free_at[server].iter().copied().min().expect("there are slots");
        let begin = first_free.max(now);
        let Server { speed, trouble, .. } = self.scenario.servers[server];
        match trouble {
            Trouble::None => begin + (work / speed) as u64,
            Trouble::Stops { every, lasting, .. } => {
                let into = begin % every;
                let stopped_now = begin >= every && into < lasting;
                let begin = if stopped_now { begin - into + lasting } else { begin };
                let end = begin + (work / speed) as u64;
                if end / every > begin / every { end + lasting } else { end }
            }
            Trouble::Returns { back, warm_after, .. } => {
                let cold = begin >= back;
                let warmth = (self.begun[server] as f64 / warm_after as f64).min(1.0);
                let speed = if cold { speed * (0.1 + 0.9 * warmth) } else { speed };
                begin + (work / speed) as u64
            }
        }
    }
}

fn member((index, server): (usize, &Server)) -> Member {
    let origin = Origin {
        name: format!("backend{index}"),
        url: String::new(),
        host: "127.0.0.1".into(),
        port: 1,
        base_path: String::new(),
    };
    let backend = Backend::new(index as u64, index, origin, 1);
    Member { weight: server.weight, ..Member::new(Arc::new(backend)) }
}

struct Request<'c> {
    now: u64,
    client: usize,
    chance: &'c RefCell<Rng>,
}

impl Occasion for Request<'_> {
    fn random(&self) -> u64 {
        self.chance.borrow_mut().u64(..)
    }

    fn now_ns(&self) -> u64 {
        self.now
    }

    fn key(&self, _: &HashKey) -> Option<u64> {
        Some(hash(&self.client.to_le_bytes()))
    }
}

/// Who sends how much.
struct Clients {
    /// The sum of the shares up to each client.
    sums: Vec<f64>,
}

impl Clients {
    fn new(skew: f64) -> Self {
        let shares = (1..=CLIENTS).map(|n| (n as f64).powf(-skew));
        let sums = shares.scan(0.0, |sum, share| {
            *sum += share;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let at = rng.f64() * self.sums[CLIENTS - 1];
        self.sums.partition_point(|sum| *sum <= at)
    }
}

/// Exponentially distributed with a mean of 1.
fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}
