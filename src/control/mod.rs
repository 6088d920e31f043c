//! What lives here: the control plane. The registry of backends, their health and their addresses, and the admin API,
//! all on OS threads of their own. It may block; it reaches the workers only by swapping snapshots in and by the
//! barrier that it is handed, and it never makes a worker wait.

pub mod acme;
pub mod admin;
pub mod certificates;
pub mod circuit;
pub mod entry;
pub mod health;
pub mod own;
mod publisher;
mod ramp;
pub mod random;
pub mod registry;
mod resolver;
pub mod server;
mod thread_pool;
mod timestamp;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, unbounded};
use parking_lot::Mutex;

use self::certificates::{CertificateKeeper, CertificateList, backends};
use self::circuit::Moment;
use self::entry::{Entry, Source, Which};
use self::health::{Checker, Health, LastProbe, Lateness, Observer};
use self::own::OwnListeners;
use self::publisher::Publisher;
use self::ramp::Ramp;
use self::random::Random;
use self::registry::{AddError, Registry};
use self::resolver::Resolver;
use crate::balance::{Backend, Report, Transition};
use crate::config::{BackendChange, BackendConfig, Config};
use crate::plan::{PoolRules, Route, head_limits};
use crate::transport::client::BackendTls;

/// How long a start waits for the names of all backends, and how long an admin call waits for the one it adds. What
/// takes longer goes on in the background.
const NAMES_WAIT: Duration = Duration::from_secs(2);
/// How long a call that reads the set waits for what has changed to be in force. Publishing never takes as long.
const PUBLISHED_WAIT: Duration = Duration::from_secs(1);
/// From one look whether a backend has drained to the next.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How long an admin call waits for a worker to pass its mailbox unless it is told; one that takes longer is stuck.
const BARRIER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Blocks until every worker has passed its mailbox: what a worker does from then on, it does with the newest
/// snapshot, and what it did before can be seen. Gives up after the time that it is given; how many have not passed theirs.
pub type Barrier = Box<dyn Fn(Duration) -> usize + Send + Sync>;

/// What a change has made, and whether all workers know of it.
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
    resolver: Resolver,
    checker: Checker,
    publisher: Publisher,
    /// None without `slow_start`.
    ramp: Mutex<Option<Ramp>>,
    barrier: Barrier,
    tls: Arc<BackendTls>,
    /// Held while the registry, the resolver and the checker are told of a change, so that all hear of changes in the same
    /// order. Not held over a wait.
    changing: Mutex<()>,
    phase: Mutex<Phase>,
    started: Instant,
    own: OnceLock<OwnListeners>,
    /// None: clients are shown no certificates.
    certificates: OnceLock<CertificateKeeper>,
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
    /// Puts the configured backends into the snapshot of the route's pool, and starts the threads that look after them. Waits up
    /// to 2 s for their names in all; those that take longer are resolved in the background.
    ///
    /// To be called before the workers run: `barrier` isn't called here, but at each later change. `reports` is what
    /// came with the pool; `workers` is their number.
    ///
    /// # Errors
    /// When the system has no thread to give, the configuration names a backend twice, or a file for TLS can't be used.
    pub fn start(
        config: &Config,
        route: &Route,
        reports: Receiver<Report>,
        workers: usize,
        barrier: Barrier,
    ) -> io::Result<Self> {
        let tls = backends::read(&config.upstream_tls).map(Arc::new).map_err(|wrong| {
            let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
            io::Error::other(lines.join("; "))
        })?;
        if !tls.verifies() {
            log::warn!("upstream_tls.verify is false: backends that are reached by TLS may be anyone");
        }
        if config.backends.iter().any(|backend| backend.url.is_https) {
            make_ready(&tls);
        }
        let (moved, followed) = unbounded();
        let resolver = Resolver::start(Resolver::system(), moved)?;
        let (publish, changes) = publisher::channel();
        let rules = PoolRules::new(config, Arc::clone(&route.policy));
        let registry = Arc::new(Registry::new(Arc::clone(&route.pool), rules, workers).published_by(publish));
        let publisher = Publisher::start(Arc::clone(&registry), changes)?;
        let hosts: Vec<_> = config.backends.iter().map(|backend| (&*backend.url.host, backend.url.port)).collect();
        let addresses = resolver.resolve(&hosts, NAMES_WAIT);
        let backends: Vec<_> = config.backends.iter().cloned().zip(addresses).collect();
        let added = registry.add_all(backends, Source::Config, SystemTime::now()).map_err(io::Error::other)?;
        registry.tell();
        let findings = Findings { registry: Arc::clone(&registry), refresh: Box::new(resolver.refresher()) };
        let findings = Arc::new(findings);
        let settings = health::Settings::new(&config.health_check, head_limits(&config.limits), Some(&tls));
        let random = Random::from_system();
        let checker = Checker::start(settings, reports, followed, findings, random)?;
        for backend in &added {
            resolver.watch(Arc::clone(backend));
        }
        checker.add_all(added);
        let phase = Mutex::new(Phase::Starting);
        let ramp = Mutex::new(ramp(&registry, config.slow_start)?);
        let changing = Mutex::new(());
        Ok(Self {
            registry,
            resolver,
            checker,
            publisher,
            ramp,
            barrier,
            tls,
            changing,
            phase,
            started: Instant::now(),
            own: OnceLock::new(),
            certificates: OnceLock::new(),
        })
    }

    /// Has the backends that there are looked after as another configuration says, whose plan's route this is, to the same
    /// pool. When it returns, every worker's next pick goes by the route's policy; but see [`Made`].
    ///
    /// # Errors
    /// When the system has no thread to give: nothing has changed then.
    pub fn go_by(&self, config: &Config, route: &Route) -> io::Result<Made<()>> {
        let changing = self.changing.lock();
        let ramp = ramp(&self.registry, config.slow_start)?;
        if let Some(before) = std::mem::replace(&mut *self.ramp.lock(), ramp) {
            before.stop();
        }
        self.registry.go_by(PoolRules::new(config, Arc::clone(&route.policy)), SystemTime::now());
        let limits = head_limits(&config.limits);
        self.checker.go_by(health::Settings::new(&config.health_check, limits, Some(&self.tls)));
        drop(changing);
        self.registry.tell();
        Ok(self.made(()))
    }

    /// Adds a backend, as an operator asked. When it returns, every worker's next pick knows it (but see [`Made`]), and it is
    /// being probed. Waits up to 2 s for its name to resolve; one that doesn't is added all the same.
    pub fn add(&self, config: BackendConfig) -> Result<Made<Entry>, AddError> {
        self.registry.check_free(&config)?; // before its name is waited for
        if config.url.is_https {
            make_ready(&self.tls);
        }
        let host = (&*config.url.host, config.url.port);
        let addresses = self.resolver.resolve(&[host], NAMES_WAIT).pop().unwrap_or_default();
        let changing = self.changing.lock();
        let entry = self.registry.add(config, addresses, Source::Admin, SystemTime::now())?;
        self.resolver.watch(Arc::clone(&entry.backend));
        self.checker.add(Arc::clone(&entry.backend));
        drop(changing);
        log::info!("backend {} added through the admin API", entry.config.name);
        self.warn_if_own(&entry.config.name, &entry.backend.addresses.list());
        self.registry.tell();
        Ok(self.made(entry))
    }

    /// What connections to backends that are reached by TLS go by.
    pub fn backend_tls(&self) -> Arc<BackendTls> {
        Arc::clone(&self.tls)
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

    /// Says who keeps what TLS goes by up to date with its files; it is stopped with the control plane.
    pub fn keeps_certificates(&self, keeper: CertificateKeeper) {
        let _ = self.certificates.set(keeper);
    }

    /// The certificates that clients are shown.
    pub fn certificates(&self) -> CertificateList {
        self.certificates.get().map(CertificateKeeper::list).unwrap_or_default()
    }

    /// Has the certificates' files looked at now. False when there are none.
    pub fn look_at_certificates(&self) -> bool {
        self.certificates.get().map(CertificateKeeper::look).is_some()
    }

    /// Removes a backend, as an operator asked; None if it isn't there. When it returns, no worker picks it any more,
    /// and what is still in flight to it is all in its count, see [`Self::wait_for_drain`]; but see [`Made`].
    pub fn remove(&self, which: Which<'_>) -> Option<Made<Arc<Backend>>> {
        let changing = self.changing.lock();
        let backend = self.registry.remove(which)?;
        self.resolver.forget(backend.id);
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
        let workers_behind = (self.barrier)(BARRIER_WAIT_MAX);
        if workers_behind > 0 {
            log::error!("{workers_behind} of the workers have not passed their mailboxes for {BARRIER_WAIT_MAX:?}");
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
        loop {
            let left = backend.in_flight();
            let time = deadline.saturating_duration_since(Instant::now());
            if left == 0 || time.is_zero() {
                return left;
            }
            thread::sleep(DRAIN_POLL.min(time));
        }
    }

    /// The set of backends, to look at: what it says is in force at the workers.
    pub fn registry(&self) -> &Registry {
        self.registry.wait_until_published(PUBLISHED_WAIT);
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
        self.resolver.stop();
        self.publisher.stop();
        if let Some(keeper) = self.certificates.get() {
            keeper.stop();
        }
        if let Some(ramp) = &*self.ramp.lock() {
            ramp.stop();
        }
    }
}

/// Reads the authorities of the system where they are trusted, once.
fn make_ready(tls: &BackendTls) {
    if !tls.make_ready() {
        log::error!(
            "this system has no certificates of authorities, so no backend that is reached by TLS is accepted: name a file of \
             them in upstream_tls.ca"
        );
    }
}

/// The thread that slow starts need, if there are any.
fn ramp(registry: &Arc<Registry>, slow_start: Duration) -> io::Result<Option<Ramp>> {
    (!slow_start.is_zero()).then(|| Ramp::start(Arc::clone(registry), slow_start)).transpose()
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

impl Observer for Findings {
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

    fn turned(&self, backend: &Backend, transition: Transition, chance: f64) -> Option<Instant> {
        let due = self.registry.turned(backend, transition, Moment::now(), chance);
        self.registry.tell();
        due
    }

    fn elapse(&self) -> Option<Instant> {
        let due = self.registry.elapse(Moment::now());
        self.registry.tell();
        due
    }
}
