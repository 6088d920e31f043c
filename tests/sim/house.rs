//! The proxy in the simulated world: its workers, its fleet of origins, its clients, and what must hold at the end.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use maypole::balance::{self, Backend, Fleet, Report, Snapshot};
use maypole::config::Config;
use maypole::proxy::{Parked, Proxy, Shared};
use maypole::runtime::world::World;

use crate::chance::Chance;
use crate::client::{Client, Log};
use crate::net::{Connecting, Tap};
use crate::origin::Origin;
use crate::plan::{Book, Exchange};
use crate::sim::{SECOND, Sim, Time};
use crate::temper::Temper;
use crate::verdict::{Excuses, Played, judge};
use crate::world::SimWorld;

/// Where clients connect.
pub const FRONT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);
/// No deadline of the default configuration is longer, but for a tunnel's.
const PATIENCE: Time = 150 * SECOND;
const RUN_ENDS: Time = 4_000 * SECOND;

pub struct House {
    pub sim: Sim,
    pub book: Book,
    pub shared: Arc<Shared>,
    pub backends: Vec<Arc<Backend>>,
    pub worlds: Vec<SimWorld<Parked>>,
    /// The services live as long as their worlds.
    _proxies: Vec<Rc<Proxy<SimWorld<Parked>>>>,
    reports: crossbeam::channel::Receiver<Report>,
    played: RefCell<Vec<Played>>,
    next_client: RefCell<u8>,
}

/// What a finished run leaves.
pub struct Finished {
    pub wrongs: Vec<String>,
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
        let sim = Sim::new(seed, temper);
        let (fleet, reports) = Fleet::new(balance::Strategy::RoundRobin);
        let shared = Shared::new(Config { workers, ..config }, Arc::new(fleet), connections_max);
        let worlds: Vec<_> = (0..workers).map(|number| SimWorld::new(&sim, number)).collect();
        let proxies: Vec<_> =
            worlds.iter().map(|world| Rc::new(Proxy::new(world.clone(), Arc::clone(&shared)))).collect();
        for (world, proxy) in worlds.iter().zip(&proxies) {
            world.serve(proxy.clone());
        }
        let house = Self {
            sim,
            book: Book::default(),
            shared,
            backends: Vec::new(),
            worlds,
            _proxies: proxies,
            reports,
            played: RefCell::default(),
            next_client: RefCell::new(0),
        };
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
    pub fn add_origin(&mut self, origin: Origin, outcome: impl Fn() -> Connecting + 'static) {
        let ip = Ipv4Addr::new(10, 0, 1, 1 + self.backends.len() as u8);
        let address = SocketAddr::new(IpAddr::V4(ip), 8_000);
        self.sim.listen(address, origin.listener(&self.sim, &self.book, outcome));
        let slot = self.backends.len();
        let origin = balance::Origin {
            name: format!("origin{slot}"),
            url: format!("http://{address}"),
            host: ip.to_string(),
            port: address.port(),
            base_path: String::new(),
        };
        self.backends.push(Arc::new(Backend::new(slot as u64 + 1, slot, origin, self.worlds.len())));
        publish(&self.shared.fleet, &self.backends);
    }

    /// A client's connection with these exchanges, all plain until the caller says otherwise.
    pub fn client(&self, exchanges: Vec<Exchange>) -> Client {
        let exchanges = exchanges.into_iter().map(|exchange| self.book.add(exchange)).collect();
        let mut next = self.next_client.borrow_mut();
        *next = next.wrapping_add(1);
        Client::brisk(IpAddr::V4(Ipv4Addr::new(10, 9, 0, *next)), FRONT, exchanges)
    }

    /// Starts a client after `delay`.
    pub fn play(&self, client: Client, delay: Time) -> Rc<Log> {
        let (exchanges, log) = (client.exchanges.clone(), Rc::new(Log::default()));
        let into = log.clone();
        self.sim.after(delay, move |sim| client.start(sim, &into));
        self.played.borrow_mut().push(Played { exchanges, log: log.clone() });
        log
    }

    /// After `delay`, backend `number` is no more.
    pub fn remove_after(&self, delay: Time, number: usize) {
        let (fleet, mut rest) = (Arc::clone(&self.shared.fleet), self.backends.clone());
        rest.remove(number);
        self.sim.after(delay, move |_| publish(&fleet, &rest));
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
        self.sim.after(delay, move |_| {
            shared.drain();
            worlds.iter().for_each(World::resume_parked);
        });
    }

    /// Runs to the end and judges.
    pub fn finish(self, excuses: Excuses) -> Finished {
        self.sim.run(RUN_ENDS, PATIENCE);
        let mut wrongs = self.sim.take_faults();
        let taps = self.sim.net.take_taps();
        wrongs.extend(judge(&self.played.borrow(), &self.book, &taps, excuses));
        wrongs.extend(self.sim.unfinished_tasks().into_iter().map(|name| format!("'{name}' still waits")));
        let parked: usize = self.worlds.iter().map(SimWorld::parked).sum();
        let counts = [
            (parked, "connections are still parked"),
            (self.sim.net.service_streams(), "streams are still open"),
            (self.shared.connections(), "client connections are still counted"),
            (self.backends.iter().map(|backend| backend.in_flight()).sum(), "requests are still counted in flight"),
        ];
        wrongs
            .extend(counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        let (trace, events) = (self.sim.trace.hash(), self.sim.trace.events());
        self.worlds.iter().for_each(SimWorld::end);
        self.sim.end();
        let reports = self.reports.try_iter().collect();
        Finished { wrongs, trace, events, taps, reports }
    }
}

impl Finished {
    /// Nothing was wrong.
    #[track_caller]
    pub fn expect_fine(&self) {
        assert!(self.wrongs.is_empty(), "{}", self.wrongs.join("\n"));
    }
}

/// Swaps a snapshot in, all of whose backends get traffic.
fn publish(fleet: &Fleet, backends: &[Arc<Backend>]) {
    let version = fleet.snapshot.load().version + 1;
    let (backends, eligible) = (backends.to_vec(), backends.to_vec());
    let strategy = balance::Strategy::RoundRobin;
    fleet.snapshot.store(Arc::new(Snapshot { version, backends, eligible, strategy }));
}
