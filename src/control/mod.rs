//! What lives here: the control plane. The registry of backends, their health and their addresses, and the admin API,
//! all on OS threads of their own. It may block; it reaches the workers only by swapping snapshots in and by the
//! barrier that it is handed, and it never makes a worker wait.

pub mod admin;
pub mod circuit;
mod crew;
pub mod entry;
pub mod health;
mod names;
pub mod own;
mod publisher;
mod ramp;
pub mod random;
pub mod registry;
pub mod server;
mod timestamp;

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, unbounded};
use parking_lot::Mutex;

use self::circuit::Moment;
use self::entry::{Entry, Source, Which};
use self::health::{Audience, Checker, Health, LastProbe, Lateness};
use self::names::Names;
use self::own::OwnListeners;
use self::publisher::Publisher;
use self::ramp::Ramp;
use self::random::Random;
use self::registry::{AddError, Registry};
use crate::balance::{self, Backend, Fleet, MarkKey, Report, Sessions, Turn};
use crate::config::{BackendChange, BackendConfig, Config, Sticky, StickyCookie};
use crate::http1::HeadLimits;

/// How long a start waits for the names of all backends, and how long an admin call waits for the one it adds. What
/// takes longer goes on in the background.
const NAMES_WAIT: Duration = Duration::from_secs(2);
/// How often one who waits for a drain looks, at first and at last.
const DRAIN_LOOK_MIN: Duration = Duration::from_millis(1);
const DRAIN_LOOK_MAX: Duration = Duration::from_millis(20);

/// How long an admin call waits for a worker to pass its mailbox unless it is told; one that takes longer is stuck.
const BARRIER_PATIENCE: Duration = Duration::from_secs(5);

/// Blocks until every worker has passed its mailbox: what a worker does from then on, it does with the newest
/// snapshot, and what it did before can be seen. Gives up after the time that it is given; how many have not passed theirs.
pub type Barrier = Box<dyn Fn(Duration) -> usize + Send + Sync>;

/// What a change has made, and who knows of it.
#[derive(Debug)]
pub struct Made<T> {
    /// What it has made.
    pub of: T,
    /// Workers that have not been seen to take it in: none, unless one is stuck. Until they do, they go by what was before.
    pub workers_behind: usize,
}

/// The control plane of one running proxy. Its threads end when it is stopped or dropped.
pub struct ControlPlane {
    registry: Arc<Registry>,
    names: Names,
    checker: Checker,
    publisher: Publisher,
    /// None without `slow_start`.
    ramp: Option<Ramp>,
    barrier: Barrier,
    /// Held while the registry and those who follow it are told of a change, so that all hear of changes in the same
    /// order. Not while anybody is waited for.
    changing: Mutex<()>,
    phase: Mutex<Phase>,
    started: Instant,
    own: OnceLock<OwnListeners>,
}

/// Where the proxy is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Draining,
}

/// Why the proxy should get no traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// It doesn't accept connections yet.
    Starting,
    /// It is about to end.
    Draining,
    /// There is no backend that it could send a request to.
    NoBackend,
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::NoBackend => "no healthy backend",
        })
    }
}

impl ControlPlane {
    /// Puts the configured backends into the fleet's snapshot, and starts the threads that look after them. Waits up
    /// to 2 s for their names in all; those that take longer are resolved in the background.
    ///
    /// To be called before the workers run: `barrier` isn't called here, but at each later change. `reports` is what
    /// came with the fleet; `workers` is their number.
    ///
    /// # Errors
    /// When the system has no thread to give, or the configuration names a backend twice.
    pub fn start(
        config: &Config,
        fleet: Arc<Fleet>,
        reports: Receiver<Report>,
        workers: usize,
        barrier: Barrier,
    ) -> io::Result<Self> {
        let (moved, followed) = unbounded();
        let names = Names::start(Names::system(), moved)?;
        let (publish, changes) = publisher::channel();
        let registry = Arc::new(Registry::new(fleet, config, workers).published_by(publish));
        let publisher = Publisher::start(Arc::clone(&registry), changes)?;
        let hosts: Vec<_> = config.backends.iter().map(|backend| (&*backend.url.host, backend.url.port)).collect();
        let addresses = names.resolve(&hosts, NAMES_WAIT);
        let backends: Vec<_> = config.backends.iter().cloned().zip(addresses).collect();
        let added = registry.add_all(backends, Source::Config, SystemTime::now()).map_err(io::Error::other)?;
        registry.tell();
        let findings = Findings { registry: Arc::clone(&registry), refresh: Box::new(names.refresher()) };
        let limits = &config.limits;
        let limits = HeadLimits { head_bytes: limits.head_bytes, headers: limits.headers, uri_bytes: limits.uri_bytes };
        let findings = Arc::new(findings);
        let random = Random::from_system();
        let checker = Checker::start(&config.health_check, limits, reports, followed, findings, random)?;
        for backend in &added {
            names.watch(Arc::clone(backend));
        }
        checker.add_all(added);
        let phase = Mutex::new(Phase::Starting);
        let slow_start = Some(config.slow_start).filter(|slow_start| !slow_start.is_zero());
        let ramp = slow_start.map(|slow_start| Ramp::start(Arc::clone(&registry), slow_start)).transpose()?;
        let changing = Mutex::new(());
        Ok(Self {
            registry,
            names,
            checker,
            publisher,
            ramp,
            barrier,
            changing,
            phase,
            started: Instant::now(),
            own: OnceLock::new(),
        })
    }

    /// Adds a backend, as an operator asked. When it returns, every worker's next pick knows it (but see [`Made`]), and it is
    /// being probed. Waits up to 2 s for its name to resolve; one that doesn't is added all the same.
    pub fn add(&self, config: BackendConfig) -> Result<Made<Entry>, AddError> {
        self.registry.check_free(&config)?; // before its name is waited for
        let host = (&*config.url.host, config.url.port);
        let addresses = self.names.resolve(&[host], NAMES_WAIT).pop().unwrap_or_default();
        let changing = self.changing.lock();
        let entry = self.registry.add(config, addresses, Source::Admin, SystemTime::now())?;
        self.names.watch(Arc::clone(&entry.backend));
        self.checker.add(Arc::clone(&entry.backend));
        drop(changing);
        log::info!("backend {} added through the admin API", entry.config.name);
        self.warn_if_own(&entry.config.name, &entry.backend.addresses.list());
        self.registry.tell();
        Ok(self.made(entry))
    }

    /// Says where the proxy listens: from now on backends that are there themselves are warned of, those that there are at once.
    pub fn listens_on(&self, own: OwnListeners) {
        let _ = self.own.set(own);
        let list = |entry: &Entry| (entry.config.name.clone(), entry.backend.addresses.list());
        let backends: Vec<_> = self.registry.read(|entries| entries.iter().map(list).collect());
        for (name, addresses) in backends {
            self.warn_if_own(&name, &addresses);
        }
    }

    fn warn_if_own(&self, name: &str, addresses: &[SocketAddr]) {
        let reached = |address: &SocketAddr| self.own.get()?.reached_by(*address);
        if let Some((listener, field)) = addresses.iter().find_map(reached) {
            log::warn!(
                "backend {name} is maypole itself, which listens on {listener} ({field}): requests would go round"
            );
        }
    }

    /// Removes a backend, as an operator asked; None if it isn't there. When it returns, no worker picks it any more,
    /// and what is still in flight to it is all in its count, see [`Self::wait_for_drain`]; but see [`Made`].
    pub fn remove(&self, which: Which<'_>) -> Option<Made<Arc<Backend>>> {
        let changing = self.changing.lock();
        let backend = self.registry.remove(which)?;
        self.names.forget(backend.id);
        self.checker.remove(backend.id);
        drop(changing);
        log::info!("backend {} removed through the admin API", backend.name);
        self.registry.tell();
        Some(self.made(backend))
    }

    /// Changes a backend's weight or state, as an operator asked; None if it isn't there. When it returns, every worker's
    /// next pick knows it; but see [`Made`].
    pub fn change(&self, which: Which<'_>, change: BackendChange) -> Option<Made<Entry>> {
        let changing = self.changing.lock();
        let entry = self.registry.change(which, change, SystemTime::now())?;
        drop(changing);
        self.registry.tell();
        Some(self.made(entry))
    }

    fn made<T>(&self, of: T) -> Made<T> {
        let workers_behind = (self.barrier)(BARRIER_PATIENCE);
        if workers_behind > 0 {
            log::error!("{workers_behind} of the workers have not passed their mailboxes for {BARRIER_PATIENCE:?}");
        }
        Made { of, workers_behind }
    }

    /// Waits until every worker has taken in what was changed before, at most for `wait`; how many have not.
    pub fn wait_for_workers(&self, wait: Duration) -> usize {
        (self.barrier)(wait)
    }

    /// Waits until nothing is in flight to a backend that gets no new requests, at most for `wait`; what is left.
    pub fn wait_for_drain(backend: &Backend, wait: Duration) -> usize {
        let deadline = Instant::now() + wait;
        let mut pause = DRAIN_LOOK_MIN;
        loop {
            let left = backend.in_flight();
            let time = deadline.saturating_duration_since(Instant::now());
            if left == 0 || time.is_zero() {
                return left;
            }
            thread::sleep(pause.min(time));
            pause = (pause * 2).min(DRAIN_LOOK_MAX);
        }
    }

    /// The set of backends, to look at: what it says is in force at the workers.
    pub fn registry(&self) -> &Registry {
        self.registry.wait_until_published();
        &self.registry
    }

    /// How late health checks start.
    pub fn lateness(&self) -> Lateness {
        self.checker.lateness()
    }

    /// How long ago it was started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// From now on connections are accepted.
    pub fn set_serving(&self) {
        let mut phase = self.phase.lock();
        if *phase == Phase::Starting {
            *phase = Phase::Serving;
        }
    }

    /// From now on no new connection is accepted.
    pub fn set_draining(&self) {
        *self.phase.lock() = Phase::Draining;
    }

    /// Whether the proxy should get traffic.
    pub fn readiness(&self) -> Result<(), NotReady> {
        match *self.phase.lock() {
            Phase::Starting => return Err(NotReady::Starting),
            Phase::Draining => return Err(NotReady::Draining),
            Phase::Serving => {}
        }
        let serves = |entry: &Entry| entry.is_alive() && entry.is_eligible();
        let any = self.registry().read(|entries| entries.iter().any(serves));
        if any { Ok(()) } else { Err(NotReady::NoBackend) }
    }

    /// Ends the threads that look after backends; probes that are on their way are forgotten. The set stays as it is.
    pub fn stop(&self) {
        self.checker.stop();
        self.names.stop();
        self.publisher.stop();
        if let Some(ramp) = &self.ramp {
            ramp.stop();
        }
    }
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane")
            .field("registry", &self.registry)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

/// Takes what the health thread finds to where it belongs.
struct Findings {
    registry: Arc<Registry>,
    refresh: Box<dyn Fn(u64) + Send + Sync>,
}

impl Audience for Findings {
    fn probed(&self, id: u64, probe: LastProbe, changed: Option<Health>) {
        self.registry.probed(id, probe, changed);
        self.registry.tell();
    }

    fn address_probed(&self, id: u64, address: SocketAddr, health: Health, probe: &LastProbe) {
        self.registry.address_probed(id, address, health, probe);
    }

    fn refused(&self, id: u64) {
        self.registry.refused(id, SystemTime::now());
        self.registry.tell();
    }

    fn is_last_resort(&self, id: u64) -> bool {
        self.registry.is_last_resort(id)
    }

    fn unreachable(&self, id: u64) {
        (self.refresh)(id);
    }

    fn turned(&self, backend: &Backend, turn: Turn, chance: f64) -> Option<Instant> {
        let due = self.registry.turned(backend, turn, Moment::now(), chance);
        self.registry.tell();
        due
    }

    fn elapse(&self) -> Option<Instant> {
        let due = self.registry.elapse(Moment::now());
        self.registry.tell();
        due
    }
}

impl From<&Config> for balance::Policy {
    fn from(config: &Config) -> Self {
        Self {
            strategy: config.strategy.clone(),
            balance_factor: config.hash_balance_factor,
            sessions: sessions(config),
        }
    }
}

fn sessions(config: &Config) -> Sessions {
    match &config.sticky {
        None => Sessions::Off,
        Some(Sticky::Ip { .. }) => Sessions::ById,
        Some(Sticky::Cookie(StickyCookie { secret: Some(secret), .. })) => {
            Sessions::ByName(MarkKey::of_secret(secret.reveal().as_bytes()))
        }
        // The keys of the process's hashes are secret, and new at each start.
        Some(Sticky::Cookie(StickyCookie { secret: None, .. })) => {
            let chance = RandomState::new();
            Sessions::ByName(MarkKey::new([chance.hash_one(0), chance.hash_one(1)]))
        }
    }
}

impl From<&Config> for balance::Queue {
    fn from(config: &Config) -> Self {
        Self::new(config.limits.max_in_flight, config.queue.size)
    }
}
