//! The set of backends as the control plane knows it. Every change goes through here, one after the other. What an operator
//! changes is published to the workers before the call returns; what was seen of backends may be published a little later,
//! many changes at once. It logs nothing under its lock: see [`Registry::tell`].

mod circuits;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use crossbeam::channel::Sender;
use log::Level;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::circuit::Circuit;
use super::entry::{Entry, RAMP_STEP_PERCENT, Source, State, Which};
use super::health::{Health, LastProbe};
use crate::balance::{Backend, Fleet, Mark, Member, Origin, Queue, Sessions, Snapshot, Strategy, Thresholds};
use crate::config::{BackendChange, BackendConfig, CircuitBreaker, Config, WhenAllDown};

/// How many backends there may be, however they come: as many as a configuration may hold.
const BACKENDS_MAX: usize = crate::config::BACKENDS_MAX;

/// How many lines for the log are kept until they are told, at once after each change.
const UNTOLD_MAX: usize = 1024;

/// How long one who looks at the set waits for what has changed to be in force. Publishing never takes as long.
const PUBLISHED_WAIT: Duration = Duration::from_secs(1);

/// The set, and where it is published. Its changes return without waiting for the workers.
#[derive(Debug)]
pub struct Registry {
    fleet: Arc<Fleet>,
    /// The proxy's own; empty: none.
    zone: String,
    /// Backends that come back or are added at run time start slowly.
    slow_start: bool,
    when_all_down: WhenAllDown,
    /// None: backends have none.
    circuit_breaker: Option<CircuitBreaker>,
    workers: usize,
    inner: Mutex<Inner>,
    /// The version of the set that was published last. Held while a snapshot is made, which takes long for some thousand
    /// backends; `inner` isn't meanwhile.
    published: Mutex<u64>,
    /// Notified after each snapshot.
    publishes: Condvar,
    /// Who publishes what was seen of backends; None: whoever takes it in.
    publisher: Option<Sender<()>>,
}

/// What every backend of this proxy is made with.
struct Maker<'p> {
    workers: usize,
    estimates_latency: bool,
    slow_start: bool,
    /// None: no circuit breaker.
    thresholds: Option<Arc<Thresholds>>,
    sessions: &'p Sessions,
    queue: &'p Arc<Queue>,
}

#[derive(Debug, Default)]
struct Inner {
    /// In the order of their ids too.
    entries: Vec<Entry>,
    last_id: u64,
    /// Counts up with every change that workers have to know of.
    version: u64,
    /// Too many breakers have tripped: none of them counts.
    panic_mode: bool,
    /// Lines for the log, the oldest first.
    untold: VecDeque<(Level, String)>,
    /// Who had each slot last. It is free again when nobody holds that backend any more: not a worker's pool, not a
    /// request in flight, not an old snapshot.
    slots: Vec<Weak<Backend>>,
}

/// Why a backend can't be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddError {
    /// There is one with an equal URL; its name.
    UrlTaken(String),
    /// There is one with this name; its URL.
    NameTaken(String),
    /// There are as many as there may be.
    Full,
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UrlTaken(name) => write!(f, "a backend with this URL is there already, by the name of {name}"),
            Self::NameTaken(url) => write!(f, "a backend with this name is there already, at {url}"),
            Self::Full => write!(f, "there are {BACKENDS_MAX} backends already, and more are not taken"),
        }
    }
}

impl std::error::Error for AddError {}

impl Registry {
    /// An empty set for a proxy of this configuration, whose backends don't count. Those that are added get cells for so
    /// many workers.
    pub fn new(fleet: Arc<Fleet>, config: &Config, workers: usize) -> Self {
        Self {
            fleet,
            zone: config.zone.clone(),
            slow_start: !config.slow_start.is_zero(),
            when_all_down: config.when_all_down,
            circuit_breaker: config.circuit_breaker.clone(),
            workers,
            inner: Mutex::default(),
            published: Mutex::default(),
            publishes: Condvar::new(),
            publisher: None,
        }
    }

    /// The same, but what was seen of backends is published by a thread that is told by this channel and calls
    /// [`Self::publish`]: one message stands for all changes before it.
    #[must_use]
    pub fn published_by(self, publisher: Sender<()>) -> Self {
        Self { publisher: Some(publisher), ..self }
    }

    /// Adds a backend behind those that are there, with what its name has resolved to so far (for an address literal
    /// that is of no account).
    pub fn add(
        &self,
        mut config: BackendConfig,
        addresses: Vec<SocketAddr>,
        source: Source,
        now: SystemTime,
    ) -> Result<Entry, AddError> {
        let mut inner = self.inner.lock();
        inner.make_room(&mut config)?;
        let entry = inner.insert(config, addresses, &self.maker(), source, now);
        self.note_change(&mut inner);
        drop(inner);
        self.publish();
        Ok(entry)
    }

    /// Adds many, as [`Self::add`] does one: all of them, or none.
    pub fn add_all(
        &self,
        backends: Vec<(BackendConfig, Vec<SocketAddr>)>,
        source: Source,
        now: SystemTime,
    ) -> Result<Vec<Arc<Backend>>, AddError> {
        let mut inner = self.inner.lock();
        let before = inner.entries.len();
        let maker = self.maker();
        let mut added = Vec::with_capacity(backends.len());
        for (mut config, addresses) in backends {
            if let Err(error) = inner.make_room(&mut config) {
                inner.entries.truncate(before);
                return Err(error);
            }
            added.push(inner.insert(config, addresses, &maker, source, now).backend);
        }
        self.note_change(&mut inner);
        drop(inner);
        self.publish();
        Ok(added)
    }

    /// Whether a backend could be added now.
    pub fn check_free(&self, config: &BackendConfig) -> Result<(), AddError> {
        self.inner.lock().make_room(&mut config.clone())
    }

    /// Takes a backend out; None if it isn't there.
    pub fn remove(&self, which: Which<'_>) -> Option<Arc<Backend>> {
        let mut inner = self.inner.lock();
        let index = inner.entries.iter().position(|entry| entry.is(which))?;
        let entry = inner.entries.remove(index);
        entry.backend.retire();
        self.note_change(&mut inner);
        drop(inner);
        self.publish();
        Some(entry.backend)
    }

    /// Changes a backend's weight, state or bound; what has become of it, or None if it isn't there.
    pub fn change(&self, which: Which<'_>, change: BackendChange, now: SystemTime) -> Option<Entry> {
        let mut inner = self.inner.lock();
        let entry = inner.entries.iter_mut().find(|entry| entry.is(which))?;
        let was_ready = entry.state == State::Ready;
        let lines = entry.change(change, now);
        if self.slow_start && !was_ready && entry.state == State::Ready {
            entry.start_slowly();
        }
        let id = entry.backend.id;
        if !lines.is_empty() {
            inner.note(Level::Info, lines);
            self.note_change(&mut inner);
        }
        drop(inner);
        self.publish();
        self.inner.lock().entry_mut(id).cloned()
    }

    /// Takes every backend that starts slowly a step further, to be called twenty times in the time that it takes.
    pub(super) fn step_ramps(&self) {
        let mut inner = self.inner.lock();
        let mut stepped = false;
        for entry in inner.entries.iter_mut().filter(|entry| entry.ramp_percent < 100) {
            entry.ramp_percent += RAMP_STEP_PERCENT;
            stepped = true;
        }
        if stepped {
            self.publish_soon(inner);
        }
    }

    /// Looks at the set under its lock: `look` should be quick, and must not call the registry.
    pub fn read<R>(&self, look: impl FnOnce(&[Entry]) -> R) -> R {
        look(&self.inner.lock().entries)
    }

    /// A copy of one backend's entry.
    pub fn find(&self, which: Which<'_>) -> Option<Entry> {
        self.read(|entries| entries.iter().find(|entry| entry.is(which)).cloned())
    }

    /// Takes in how a probe ended, and the change of health that it made.
    pub fn probed(&self, id: u64, probe: LastProbe, changed: Option<Health>) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entry_mut(id) else { return };
        if probe.passed {
            entry.backend.came_back();
        }
        if let Some(health) = changed {
            if self.slow_start && entry.health == Health::Down {
                entry.start_slowly();
            }
            let line = entry.turn(health, &probe.reason, probe.at);
            entry.last_probe = Some(probe);
            inner.note(Level::Info, [line]);
            self.publish_soon(inner);
        } else {
            entry.last_probe = Some(probe);
        }
    }

    /// Takes in how a probe of one of a backend's addresses ended, and what is to be thought of that one.
    pub fn address_probed(&self, id: u64, address: SocketAddr, health: Health, probe: &LastProbe) {
        if let Some(entry) = self.inner.lock().entry_mut(id) {
            entry.note_address(address, health, probe);
        }
    }

    /// Whether a backend gets traffic, and no other one does.
    pub fn is_last_resort(&self, id: u64) -> bool {
        self.read(|entries| {
            let mut eligible = entries.iter().filter(|entry| entry.is_eligible());
            eligible.next().is_some_and(|entry| entry.backend.id == id) && eligible.next().is_none()
        })
    }

    /// Takes in that a backend is down since it refused a worker's connection.
    pub fn refused(&self, id: u64, now: SystemTime) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entry_mut(id) else { return };
        let line = entry.turn(Health::Down, "connection refused", now);
        entry.note_refusal(now);
        inner.note(Level::Info, [line]);
        self.publish_soon(inner);
    }

    /// Logs what has happened since it was last called. To be called without a lock held that anybody waits for: who logs
    /// is at the mercy of what takes the log.
    pub fn tell(&self) {
        let lines = std::mem::take(&mut self.inner.lock().untold);
        for (level, line) in lines {
            log::log!(level, "{line}");
        }
    }

    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }

    /// Draws the conclusions of a change, which is to be published then.
    fn note_change(&self, inner: &mut Inner) {
        self.settle(inner);
        inner.version += 1;
    }

    /// The same, and has it published.
    fn publish_soon(&self, mut inner: MutexGuard<'_, Inner>) {
        self.note_change(&mut inner);
        drop(inner);
        match &self.publisher {
            // One that finds no room is one of those that another message stands for.
            Some(publisher) => drop(publisher.try_send(())),
            None => self.publish(),
        }
    }

    /// Publishes all changes so far in one snapshot. When it returns, that has been done, by whichever thread.
    pub fn publish(&self) {
        let mut published = self.published.lock();
        let (version, members) = {
            let inner = self.inner.lock();
            if inner.version == *published {
                return;
            }
            (inner.version, self.members(&inner.entries))
        };
        self.fleet.publish(Snapshot::new(version, members, Arc::clone(&self.fleet.policy)));
        *published = version;
        self.publishes.notify_all();
    }

    /// Waits until the workers have been told of all changes so far, for [`PUBLISHED_WAIT`] at most.
    pub(super) fn wait_until_published(&self) {
        let version = self.inner.lock().version;
        let is_behind = |published: &mut u64| *published < version;
        self.publishes.wait_while_for(&mut self.published.lock(), is_behind, PUBLISHED_WAIT);
    }

    fn members(&self, entries: &[Entry]) -> Vec<Member> {
        let member = |entry: &Entry| Member {
            backend: Arc::clone(&entry.backend),
            weight: entry.config.weight,
            ramp_percent: entry.ramp_percent,
            eligible: entry.is_eligible(),
            serves_sessions: entry.serves_sessions(),
            backup: entry.config.backup,
            local: !self.zone.is_empty() && entry.config.zone == self.zone,
        };
        entries.iter().map(member).collect()
    }

    fn maker(&self) -> Maker<'_> {
        Maker {
            workers: self.workers,
            estimates_latency: self.fleet.policy.strategy == Strategy::PeakEwma,
            slow_start: self.slow_start,
            thresholds: self.circuit_breaker.as_ref().map(|config| Arc::new(config.into())),
            sessions: &self.fleet.policy.sessions,
            queue: &self.fleet.queue,
        }
    }
}

impl From<&CircuitBreaker> for Thresholds {
    fn from(config: &CircuitBreaker) -> Self {
        Self {
            consecutive_failures: config.consecutive_failures,
            error_percent: config.error_percent,
            minimum_requests: config.minimum_requests,
            window: config.window,
            trials: config.half_open_requests,
            failing: config.on.clone(),
        }
    }
}

impl Inner {
    /// Sees whether a backend can be added, and calls it otherwise where its default name is taken.
    fn make_room(&self, config: &mut BackendConfig) -> Result<(), AddError> {
        if self.entries.len() >= BACKENDS_MAX {
            return Err(AddError::Full);
        }
        let same_url = self.entries.iter().find(|entry| entry.is(Which::Url(&config.url.normalized)));
        if let Some(entry) = same_url {
            return Err(AddError::UrlTaken(entry.config.name.clone()));
        }
        let holder = |name: &str| self.entries.iter().find(|entry| entry.is(Which::Name(name)));
        if holder(&config.name).is_some()
            && let Some(longer) = config.longer_name()
        {
            config.name = longer;
        }
        match holder(&config.name) {
            Some(entry) => Err(AddError::NameTaken(entry.config.url.written.clone())),
            None => Ok(()),
        }
    }

    fn insert(
        &mut self,
        config: BackendConfig,
        addresses: Vec<SocketAddr>,
        maker: &Maker<'_>,
        source: Source,
        now: SystemTime,
    ) -> Entry {
        let backend = self.create(&config, maker);
        if !addresses.is_empty() {
            backend.addresses.set(addresses);
        }
        let mut entry = Entry::new(backend, config, source, now);
        entry.circuit = maker.thresholds.as_ref().map(|_| Circuit::new(now));
        if maker.slow_start && source == Source::Admin {
            entry.start_slowly();
        }
        self.entries.push(entry.clone());
        entry
    }

    fn create(&mut self, config: &BackendConfig, maker: &Maker<'_>) -> Arc<Backend> {
        self.last_id += 1;
        let slot = self.slots.iter().position(|last| last.strong_count() == 0).unwrap_or(self.slots.len());
        let origin = Origin {
            name: config.name.clone(),
            url: config.url.written.clone(),
            host: config.url.host.clone(),
            port: config.url.port,
            base_path: config.url.base_path.clone(),
        };
        let queue = Arc::clone(maker.queue);
        let mut backend =
            Backend::new(self.last_id, slot, origin, maker.workers).with_limit(queue, config.max_connections);
        if maker.estimates_latency {
            backend = backend.with_latency_estimate();
        }
        if let Some(thresholds) = &maker.thresholds {
            backend = backend.with_breaker(Arc::clone(thresholds));
        }
        if let Sessions::ByName(key) = maker.sessions {
            backend = backend.with_mark(Mark::of_name(&config.name, key));
        }
        let backend = Arc::new(backend);
        let holder = Arc::downgrade(&backend);
        if slot == self.slots.len() {
            self.slots.push(holder);
        } else {
            self.slots[slot] = holder;
        }
        backend
    }

    /// Keeps lines until they can be told.
    fn note(&mut self, level: Level, lines: impl IntoIterator<Item = String>) {
        self.untold.extend(lines.into_iter().map(|line| (level, line)));
        let beyond = self.untold.len().saturating_sub(UNTOLD_MAX);
        self.untold.drain(..beyond);
    }

    fn entry_mut(&mut self, id: u64) -> Option<&mut Entry> {
        let index = self.entries.binary_search_by_key(&id, |entry| entry.backend.id).ok()?;
        Some(&mut self.entries[index])
    }
}

#[cfg(test)]
mod tests;
