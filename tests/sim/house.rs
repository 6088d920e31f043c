//! The proxy in the simulated world: its workers, its pool of origins, its clients, and what must hold at the end.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use maypole::balance::Report;
use maypole::config::Config;
use maypole::control::registry::Registry;
use maypole::plan::{Kept, Plan, PoolRules, Room};
use maypole::proxy::{Proxy, Record, Shared};
use maypole::runtime::world::World;
use maypole::transport::LayeredService;

use crate::blame;
use crate::breakers;
use crate::chance::Chance;
use crate::client::{Client, Log};
use crate::control::{Control, Upset};
use crate::door::Door;
use crate::excuse::Circumstances;
use crate::flood;
use crate::logins;
use crate::mutant::{self, OwnAnswers};
use crate::net::{Connecting, Tap};
use crate::noting::{Beneath, Hearing, Noting, Served};
use crate::origin::Origin;
use crate::plan::{Book, Exchange};
use crate::promptness::Pauses;
use crate::quotas::Quotas;
use crate::records::{self, Records};
use crate::secrecy::{self, Ciphers, Secrecy};
use crate::sessions;
use crate::sim::{MILLISECOND, SECOND, Sim, Time};
use crate::story::Stories;
use crate::stranger::Stranger;
use crate::swaps::{self, Swaps};
use crate::tally::{Fault, Promise, Tally, Wrong};
use crate::temper::Temper;
use crate::trail::State;
use crate::verdict::{Judge, Played};
use crate::world::SimWorld;

/// Where clients connect.
pub const FRONT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);
/// No deadline of the default configuration is longer, but for a tunnel's.
const PATIENCE: Time = 150 * SECOND;
const RUN_ENDS: Time = 4_000 * SECOND;

pub struct House {
    pub sim: Sim,
    pub book: Book,
    pub config: Config,
    pub shared: Arc<Shared>,
    pub swaps: Swaps,
    pub control: Rc<Control>,
    pub worlds: Vec<Beneath>,
    proxies: Vec<Rc<Served>>,
    pub ciphers: Ciphers,
    records: Records,
    origins: u8,
    /// The longest that an origin rests between two pieces.
    origins_rest: Time,
    connections_max: usize,
    played: RefCell<Vec<Played>>,
    mutants: RefCell<Vec<OwnAnswers>>,
    next_client: Cell<u8>,
    origins_behave: Cell<bool>,
}

/// What a finished run leaves.
pub struct Finished {
    pub wrongs: Vec<Wrong>,
    pub tally: Tally,
    pub trace: u64,
    pub events: u64,
    pub taps: Vec<Tap>,
    pub reports: Vec<Report>,
}

impl House {
    /// A proxy with `workers` workers, and no backend yet.
    pub fn new(seed: u64, temper: impl FnOnce(&Chance) -> Temper, config: Config, workers: usize) -> Self {
        Self::with_limit(seed, temper, config, workers, 10_000)
    }

    /// The same, with a limit of client connections.
    pub fn with_limit(
        seed: u64,
        temper: impl FnOnce(&Chance) -> Temper,
        config: Config,
        workers: usize,
        connections_max: usize,
    ) -> Self {
        let ciphers = Ciphers::new(Secrecy::default(), seed, workers);
        Self::build(Sim::new(seed, temper), config, workers, connections_max, ciphers)
    }

    /// One with a worker, to whom and from whom all is sent by TLS.
    pub fn over_tls(seed: u64, temper: impl FnOnce(&Chance) -> Temper, config: Config) -> Self {
        let ciphers = Ciphers::new(Secrecy { clients: true, backends: true }, seed, 1);
        Self::build(Sim::new(seed, temper), config, 1, 10_000, ciphers)
    }

    /// The same, where TLS is spoken by these.
    pub fn build(sim: Sim, config: Config, workers: usize, connections_max: usize, ciphers: Ciphers) -> Self {
        let config = Config { workers, ..config };
        let (kept, reports) = Kept::new(Room::of(workers, connections_max));
        let plan = Plan::build(&config, &kept);
        let rules = PoolRules::new(&config, Arc::clone(&plan.route.policy));
        let control = Control::new(Registry::new(Arc::clone(&kept.pool), rules, workers), reports);
        let shared = Shared::new(plan, kept);
        let worlds: Vec<_> = (0..workers).map(|number| SimWorld::new(&sim, number)).collect();
        for world in &worlds {
            world.runners().bound_waits();
        }
        let records = Records::default();
        let serve = |world: &Beneath| {
            let into = records.clone();
            let reader = move |record: &Record| into.borrow_mut().push(record.clone());
            let proxy = |world| Proxy::new(world, Arc::clone(&shared)).read_by(reader);
            let hearing = |layered| Hearing::new(proxy(Noting::new(layered, &sim)), &sim);
            Rc::new(ciphers.arm(LayeredService::over(world.clone(), hearing)))
        };
        let proxies: Vec<_> = worlds.iter().map(serve).collect();
        for (world, proxy) in worlds.iter().zip(&proxies) {
            world.serve(proxy.clone());
        }
        let book = Book::default();
        let all_max = config.limits.max_in_flight;
        book.places.bound_all(all_max);
        let (control, of_all) = (Rc::new(control), Arc::clone(&shared));
        let (looked_at, counted) = (Rc::downgrade(&control), Rc::downgrade(&control));
        sim.trail.count_with(move || counted.upgrade().map_or_else(Vec::new, |control| control.new_failures()));
        sim.trail.look_with(move || {
            looked_at.upgrade().map_or_else(State::default, |control| control.state(&of_all, all_max))
        });
        let house = Self {
            origins_rest: 0,
            connections_max,
            sim,
            book,
            config,
            shared,
            swaps: Swaps::default(),
            control,
            worlds,
            proxies,
            ciphers,
            records,
            origins: 0,
            played: RefCell::default(),
            mutants: RefCell::default(),
            next_client: Cell::new(0),
            origins_behave: Cell::new(false),
        };
        house.ciphers.note(&house.sim);
        house.open_front();
        house
    }

    /// Each connection goes to any of the workers.
    fn open_front(&self) {
        let listeners: Vec<_> = self.worlds.iter().map(|world| world.listener(|| Connecting::Accepted(0))).collect();
        let mut front = listeners[0].clone();
        let sim = self.sim.clone();
        front.accept = Rc::new(move |id, peer| {
            let worker = sim.chance.index(listeners.len());
            (listeners[worker].accept)(id, peer);
        });
        self.sim.listen(FRONT, front);
    }

    /// Adds a backend with one address, where `origin` listens as `outcome` says.
    #[expect(clippy::needless_pass_by_value, reason = "each caller makes one for this call")]
    pub fn add_origin(&mut self, origin: Origin, outcome: impl Fn() -> Connecting + 'static) {
        self.add_origin_at(&origin, vec![Rc::new(outcome)]);
    }

    /// Adds a backend with several addresses, at each of which `origin` listens as its outcome says.
    pub fn add_origin_at(&mut self, origin: &Origin, outcomes: Vec<Rc<dyn Fn() -> Connecting>>) {
        self.origins += 1;
        self.origins_rest = self.origins_rest.max(origin.rest).max(origin.pace.rest);
        let mut addresses = Vec::new();
        for (number, outcome) in (1..).zip(outcomes) {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, number, self.origins)), 8_000);
            let origin = Origin { tls: self.ciphers.origin(), ..origin.clone() };
            self.sim.listen(address, origin.listener(&self.sim, &self.book, move || outcome()));
            addresses.push(address);
        }
        self.control.add(&self.sim, self.ciphers.secrecy.backends, addresses, &origin.site);
    }

    /// A client's connection with these exchanges, all plain until the caller says otherwise.
    pub fn client(&self, exchanges: Vec<Exchange>) -> Client {
        let exchanges = exchanges.into_iter().map(|exchange| self.book.add(exchange)).collect();
        Client::brisk(self.next_address(), self.door(), exchanges)
    }

    fn door(&self) -> Door {
        Door { address: FRONT, tls: self.ciphers.client() }
    }

    fn next_address(&self) -> IpAddr {
        self.next_client.set(self.next_client.get().wrapping_add(1));
        IpAddr::V4(Ipv4Addr::new(10, 9, 0, self.next_client.get()))
    }

    /// Starts a client after `delay` that sends a request with bytes changed.
    pub fn play_mutant(&self, bytes: Vec<u8>, delay: Time) {
        self.book.mutants.set(true);
        let from = self.next_address();
        let own = OwnAnswers::default();
        let (door, counted) = (self.door(), own.clone());
        self.sim.after(delay, move |sim| mutant::start(sim, from, door, bytes, counted));
        self.mutants.borrow_mut().push(own);
    }

    /// Starts a client after `delay` that pipelines requests without end.
    pub fn play_flood(&self, delay: Time) {
        self.book.mutants.set(true);
        let from = self.next_address();
        let own = OwnAnswers::default();
        let (door, counted) = (self.door(), own.clone());
        self.sim.after(delay, move |sim| flood::start(sim, from, door, counted));
        self.mutants.borrow_mut().push(own);
    }

    /// Starts a client after `delay` that never gets through its handshake.
    pub fn play_stranger(&self, stranger: Stranger, delay: Time) {
        let (from, door) = (self.next_address(), self.door());
        self.sim.after(delay, move |sim| stranger.start(sim, from, &door));
    }

    /// Starts a client after `delay`.
    pub fn play(&self, client: Client, delay: Time) -> Rc<Log> {
        let (from, exchanges, log) = (client.from, client.exchanges.clone(), Rc::new(Log::default()));
        let rests = client.rest.max(client.pace.rest);
        let into = log.clone();
        self.sim.after(delay, move |sim| client.start(sim, &into));
        self.played.borrow_mut().push(Played { from, exchanges, rests, log: log.clone() });
        log
    }

    /// After `delay`, backend `number` is no more.
    pub fn remove_after(&self, delay: Time, number: usize) {
        self.upset_after(delay, Upset::Remove(number));
    }

    pub fn upset_after(&self, delay: Time, upset: Upset) {
        let control = self.control.clone();
        self.sim.after(delay, move |sim| control.upset(sim, upset));
    }

    /// Has the control plane act on what workers report, for the next seconds.
    pub fn heed_reports(&self) {
        for beat in 1..40 {
            let control = self.control.clone();
            self.sim.after(beat * 150 * MILLISECOND, move |sim| control.heed_reports(sim, true));
        }
    }

    /// Has the control plane follow circuit breakers for as long as the run lasts, and act on refused connections too if it
    /// is to.
    pub fn follow_breakers(&self, refusals: bool) {
        breakers::follow(&self.sim, &self.control, &self.shared, refusals);
    }

    /// What `look` sees after `delay`.
    pub fn sample<T: 'static>(&self, delay: Time, look: impl FnOnce(&Sim) -> T + 'static) -> Rc<RefCell<Option<T>>> {
        let seen = Rc::new(RefCell::new(None));
        let into = seen.clone();
        self.sim.after(delay, move |sim| *into.borrow_mut() = Some(look(sim)));
        seen
    }

    /// How many connections are parked after `delay`, and which tasks wait then.
    pub fn count_parked(&self, delay: Time) -> Rc<RefCell<Option<(usize, Vec<&'static str>)>>> {
        let worlds = self.worlds.clone();
        self.sample(delay, move |sim| (worlds.iter().map(SimWorld::parked).sum(), sim.unfinished_tasks()))
    }

    /// Does after `delay` what a signal to stop does.
    pub fn drain_after(&self, delay: Time) {
        let (shared, worlds) = (self.shared.clone(), self.worlds.clone());
        self.sim.after(delay, move |sim| {
            sim.struck(Fault::ProxyDrains);
            sim.trail.drained(sim.now());
            shared.drain();
            worlds.iter().for_each(World::resume_parked);
        });
    }

    /// Origins and the ways to them do nothing wrong in this run, so that nothing may be held against one but the failing
    /// statuses that it was to answer with.
    pub fn origins_behave(&self) {
        self.origins_behave.set(true);
    }

    /// Runs to the end and judges.
    pub fn finish(self) -> Finished {
        self.sim.run(RUN_ENDS, PATIENCE);
        let taps = self.sim.net.take_taps();
        let mut tally = self.sim.take_tally();
        let are_bounded = self.control.are_bounded() || self.config.limits.max_in_flight > 0;
        let stories = Stories::new(&self.sim.trail, &self.sim.temper);
        let limit = self.config.rate_limit.as_ref();
        let circumstances = Circumstances {
            config: &self.config,
            connections_max: self.connections_max,
            secrecy: self.ciphers.secrecy,
            quotas: limit.map(|limit| Quotas::of(limit, &stories, &self.played.borrow())),
            stories,
            pauses: Pauses::new(&self.sim.temper, self.origins_rest, are_bounded),
            retries_denied: self.shared.kept.pool.retry_cells.totals().1,
        };
        let mut judge = Judge::new(&self.book, &taps, &circumstances, &mut tally);
        judge.judge(&self.played.borrow());
        let absences = self.control.absences();
        sessions::judge(&mut judge, &circumstances, are_bounded, &self.book, &self.played.borrow(), absences);
        logins::judge(&mut judge, &circumstances, are_bounded, &self.book, &self.played.borrow());
        swaps::judge(&mut judge, &self.config, &self.swaps, &self.book, &self.played.borrow());
        // A panic may come in the layer, which has no request at hand, while it sends the rest of an answer.
        let unrecorded = if self.ciphers.secrecy.clients { self.sim.trail.panics() } else { 0 };
        let records = (&self.records.borrow()[..], unrecorded);
        records::judge(&mut judge, records, &self.shared.failures, &self.book, &self.played.borrow());
        secrecy::judge(&mut judge, &self.ciphers, &self.sim.trail);
        self.judge_what_is_left(&mut judge);
        let reports = self.control.take_reports();
        blame::judge_failures(&mut judge, &circumstances, &self.played.borrow());
        blame::judge_reports(&mut judge, &circumstances.stories, &self.book, &reports);
        if self.origins_behave.get() {
            let lacking = self.sim.temper.coroutines < usize::MAX && self.ciphers.secrecy.backends;
            blame::judge_of_the_blameless(&mut judge, &self.control, self.sim.now(), lacking);
        }
        let mut wrongs = self.sim.take_wrongs();
        wrongs.extend(judge.wrongs);
        for wrong in &wrongs {
            tally.broke(wrong.promise);
        }
        tally.runs = 1;
        tally.failed(&self.shared.failures.all());
        let (trace, events) = (self.sim.trace.hash(), self.sim.trace.events());
        self.worlds.iter().for_each(SimWorld::end);
        self.sim.end();
        Finished { wrongs, tally, trace, events, taps, reports }
    }

    /// After a run nothing may be left of it.
    fn judge_what_is_left(&self, judge: &mut Judge<'_>) {
        let waiting = self.sim.unfinished_tasks();
        judge.expect(Promise::Coroutines, waiting.is_empty(), || format!("'{}' still waits", waiting.join("', '")));
        let of_proxies = |count: fn(&Proxy<_>) -> usize| -> usize {
            self.proxies.iter().map(|proxy| count(proxy.service().proxy())).sum()
        };
        let (layers_buffers, handshakes) =
            self.proxies.iter().map(|proxy| proxy.in_use()).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        for (promise, left) in [
            (Promise::Parked, self.worlds.iter().map(SimWorld::parked).sum()),
            (Promise::TakenUp, self.worlds.iter().map(|world| world.runners().waiting()).sum()),
            (Promise::Streams, self.sim.net.service_streams()),
            (Promise::Seats, self.shared.connections()),
            (Promise::InFlight, self.control.in_flight()),
            (Promise::Queued, self.shared.kept.pool.line.waiting()),
            (Promise::Timers, self.sim.timers()),
            (Promise::Pools, of_proxies(Proxy::idle_upstream_connections)),
            (Promise::Buffers, of_proxies(Proxy::buffers_in_use) + layers_buffers),
            (Promise::Handshakes, handshakes),
            (Promise::Pipes, self.sim.pipes.get()),
        ] {
            judge.expect(promise, left == 0, || format!("{left} are left"));
        }
        let mutants: u64 = self.mutants.borrow().iter().map(|own| own.get()).sum();
        let answered = judge.own_answers + mutants;
        let counted = self.shared.failures.all().iter().map(|(_, times)| times).sum::<u64>();
        judge.expect(Promise::Counted, answered <= counted, || format!("{answered} answers, {counted} failures"));
    }
}

impl Finished {
    /// What was wrong, in words.
    pub fn complaints(&self) -> String {
        self.wrongs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
    }

    /// Nothing was wrong.
    #[track_caller]
    pub fn expect_fine(&self) {
        assert!(self.wrongs.is_empty(), "{}", self.complaints());
    }
}
