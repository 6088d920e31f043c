//! The set of backends as the control plane knows it. Every change goes through here, one after the other. What an operator
//! changes is published to the workers before the call returns; what was seen of backends may be published a little later,
//! many changes at once. It logs nothing under its lock: see [`Registry::tell`].

mod circuits;
mod members;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use crossbeam::channel::Sender;
use log::Level;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::members::{Line, Members};
use super::circuit::Circuit;
use super::entry::{Entry, Source, State, Which};
use super::health::{Health, LastProbe};
use crate::balance::{self, Backend, Origin, Pool};
use crate::config::{BackendChange, BackendConfig};
use crate::plan::PoolRules;

/// How many backends there may be, however they come: as many as a configuration may hold.
const BACKENDS_MAX: usize = crate::config::BACKENDS_MAX;

/// The place of the pool `default`, which all backends are in until there are routes to others.
const DEFAULT: usize = 0;

/// How many lines for the log are kept until they are told, at once after each change.
const UNTOLD_MAX: usize = 1024;

/// The set, pool by pool, and where it is published. Its changes return without waiting for the workers.
#[derive(Debug)]
pub struct Registry {
    /// So many write to the counts of a backend, from the start of the process to its end.
    workers: usize,
    inner: Mutex<Inner>,
    /// The version that was published last, by the pool's id. Held while a snapshot is made, which takes long for some
    /// thousand backends; `inner` isn't meanwhile.
    published: Mutex<BTreeMap<u64, u64>>,
    /// Notified after each snapshot.
    publishes: Condvar,
    /// The thread that publishes what was seen of backends; None: the one that takes it in.
    publisher: Option<Sender<()>>,
}

#[derive(Debug)]
struct Inner {
    /// There is one, `default`.
    pools: Vec<Members>,
    ids: Ids,
    /// Lines for the log, the oldest first.
    untold: VecDeque<Line>,
}

/// What the ids and slots of all pools' backends are taken from: a worker's tables know backends by them alone.
#[derive(Debug, Default)]
struct Ids {
    last: u64,
    /// The backend that had each slot last. The slot is free again when nothing holds that backend any more: no worker, no
    /// request in flight, no old snapshot.
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
    /// An empty set: one pool, and the rules that it goes by. Backends that are added get cells for so many workers.
    pub fn new(pool: Arc<Pool>, rules: PoolRules, workers: usize) -> Self {
        let inner = Inner { pools: vec![Members::new(pool, rules)], ids: Ids::default(), untold: VecDeque::new() };
        Self {
            workers,
            inner: Mutex::new(inner),
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

    /// Has the pool go by other rules from now on: its backends, their counts and what is known of them stay.
    pub fn go_by(&self, rules: PoolRules, now: SystemTime) {
        let mut inner = self.inner.lock();
        let line = inner.pools[DEFAULT].go_by(rules, now);
        inner.note(line);
        drop(inner);
        self.publish();
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
        let entry = inner.insert(config, addresses, self.workers, source, now);
        inner.conclude(DEFAULT);
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
        let before = inner.pools[DEFAULT].entries.len();
        let mut added = Vec::with_capacity(backends.len());
        for (mut config, addresses) in backends {
            if let Err(error) = inner.make_room(&mut config) {
                inner.pools[DEFAULT].entries.truncate(before);
                return Err(error);
            }
            added.push(inner.insert(config, addresses, self.workers, source, now).backend);
        }
        inner.conclude(DEFAULT);
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
        let (pool, index) = inner.position(|entry| entry.is(which))?;
        let entry = inner.pools[pool].entries.remove(index);
        entry.backend.retire();
        inner.conclude(pool);
        drop(inner);
        self.publish();
        Some(entry.backend)
    }

    /// Changes a backend's weight, state or bound; what has become of it, or None if it isn't there.
    pub fn change(&self, which: Which<'_>, change: BackendChange, now: SystemTime) -> Option<Entry> {
        let mut inner = self.inner.lock();
        let (pool, index) = inner.position(|entry| entry.is(which))?;
        let members = &mut inner.pools[pool];
        let entry = &mut members.entries[index];
        let was_ready = entry.state == State::Ready;
        let lines = entry.change(change, now);
        if members.rules.slow_start && !was_ready && entry.state == State::Ready {
            entry.start_slowly();
        }
        let id = entry.backend.id;
        if !lines.is_empty() {
            inner.note(lines.into_iter().map(|line| (Level::Info, line)));
            inner.conclude(pool);
        }
        drop(inner);
        self.publish();
        self.inner.lock().entry_mut(id).cloned()
    }

    /// Takes every backend that starts slowly a step further, to be called twenty times in the time that it takes.
    pub(super) fn step_ramps(&self) {
        let mut inner = self.inner.lock();
        let mut any = false;
        for pool in 0..inner.pools.len() {
            if inner.pools[pool].step_ramps() {
                inner.conclude(pool);
                any = true;
            }
        }
        if any {
            self.publish_soon(inner);
        }
    }

    /// Looks at the pool's backends under the set's lock: `look` should be quick, and must not call the registry.
    pub fn read<R>(&self, look: impl FnOnce(&[Entry]) -> R) -> R {
        look(&self.inner.lock().pools[DEFAULT].entries)
    }

    /// A copy of one backend's entry.
    pub fn find(&self, which: Which<'_>) -> Option<Entry> {
        let inner = self.inner.lock();
        let (pool, index) = inner.position(|entry| entry.is(which))?;
        Some(inner.pools[pool].entries[index].clone())
    }

    /// Takes in how a probe ended, and the change of health that it made.
    pub fn probed(&self, id: u64, probe: LastProbe, changed: Option<Health>) {
        let mut inner = self.inner.lock();
        let Some(pool) = inner.pool_of(id) else { return };
        let members = &mut inner.pools[pool];
        let slow_start = members.rules.slow_start;
        let Some(entry) = members.entry_mut(id) else { return };
        if probe.passed {
            entry.backend.came_back();
        }
        if let Some(health) = changed {
            if slow_start && entry.health == Health::Down {
                entry.start_slowly();
            }
            let line = entry.turn(health, &probe.reason, probe.at);
            entry.last_probe = Some(probe);
            inner.note([(Level::Info, line)]);
            inner.conclude(pool);
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

    /// Whether a backend gets traffic, and no other one of its pool does.
    pub fn is_last_resort(&self, id: u64) -> bool {
        let inner = self.inner.lock();
        let Some(pool) = inner.pool_of(id) else { return false };
        let mut eligible = inner.pools[pool].entries.iter().filter(|entry| entry.is_eligible());
        eligible.next().is_some_and(|entry| entry.backend.id == id) && eligible.next().is_none()
    }

    /// Takes in that a backend is down since it refused a worker's connection.
    pub fn refused(&self, id: u64, now: SystemTime) {
        let mut inner = self.inner.lock();
        let Some(pool) = inner.pool_of(id) else { return };
        let Some(entry) = inner.pools[pool].entry_mut(id) else { return };
        let line = entry.turn(Health::Down, "connection refused", now);
        entry.note_refusal(now);
        inner.note([(Level::Info, line)]);
        inner.conclude(pool);
        self.publish_soon(inner);
    }

    /// Logs what has happened since it was last called. To be called without a lock held that a thread may wait for:
    /// logging may take as long as the log's reader does.
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

    /// Has published what was concluded.
    fn publish_soon(&self, inner: MutexGuard<'_, Inner>) {
        drop(inner);
        match &self.publisher {
            // One that finds no room is one of those that another message stands for.
            Some(publisher) => drop(publisher.try_send(())),
            None => self.publish(),
        }
    }

    /// Publishes all changes so far, those of a pool in one snapshot. When it returns, that has been done, by whichever
    /// thread.
    pub fn publish(&self) {
        let mut published = self.published.lock();
        let is_new =
            |members: &&Members| published.get(&members.pool.id).copied().unwrap_or_default() < members.version;
        let new: Vec<_> = self.inner.lock().pools.iter().filter(is_new).map(Members::to_publish).collect();
        for each in new {
            published.insert(each.pool.id, each.version);
            each.publish();
        }
        self.publishes.notify_all();
    }

    /// Waits until the workers have been told of all changes so far; false where they haven't in this time.
    pub(super) fn wait_until_published(&self, for_at_most: Duration) -> bool {
        let made = |members: &Members| (members.pool.id, members.version);
        let versions: Vec<_> = self.inner.lock().pools.iter().map(made).collect();
        let is_behind = |published: &mut BTreeMap<u64, u64>| {
            versions.iter().any(|(id, version)| published.get(id).copied().unwrap_or_default() < *version)
        };
        !self.publishes.wait_while_for(&mut self.published.lock(), is_behind, for_at_most).timed_out()
    }
}

impl Inner {
    /// Where a backend is, if it is there: in which pool, and at which place of that.
    fn position(&self, is_it: impl Fn(&Entry) -> bool) -> Option<(usize, usize)> {
        let mut all = (0..).zip(&self.pools);
        all.find_map(|(pool, members)| Some((pool, members.entries.iter().position(&is_it)?)))
    }

    /// The pool of the backend with this id.
    fn pool_of(&self, id: u64) -> Option<usize> {
        let has_it = |members: &Members| members.entries.binary_search_by_key(&id, |entry| entry.backend.id).is_ok();
        self.pools.iter().position(has_it)
    }

    fn entry_mut(&mut self, id: u64) -> Option<&mut Entry> {
        self.pools.iter_mut().find_map(|members| members.entry_mut(id))
    }

    /// Draws the conclusions of a change in a pool, which is to be published then.
    fn conclude(&mut self, pool: usize) {
        let line = self.pools[pool].conclude();
        self.note(line);
    }

    /// Sees whether a backend can be added, and calls it otherwise where its default name is taken.
    fn make_room(&self, config: &mut BackendConfig) -> Result<(), AddError> {
        if self.pools.iter().map(|members| members.entries.len()).sum::<usize>() >= BACKENDS_MAX {
            return Err(AddError::Full);
        }
        let entries = &self.pools[DEFAULT].entries;
        let same_url = entries.iter().find(|entry| entry.is(Which::Url(&config.url.normalized)));
        if let Some(entry) = same_url {
            return Err(AddError::UrlTaken(entry.config.name.clone()));
        }
        let holder = |name: &str| entries.iter().find(|entry| entry.is(Which::Name(name)));
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
        workers: usize,
        source: Source,
        now: SystemTime,
    ) -> Entry {
        let members = &mut self.pools[DEFAULT];
        let backend = self.ids.create(&config, Arc::clone(&members.pool.line), workers);
        if !addresses.is_empty() {
            backend.addresses.set(addresses);
        }
        let mut entry = Entry::new(backend, config, source, now);
        entry.verified = entry.config.url.is_https.then_some(members.rules.verifies_backends);
        entry.circuit = members.rules.circuit_breaker.as_ref().map(|_| Circuit::new(now));
        if members.rules.slow_start && source == Source::Admin {
            entry.start_slowly();
        }
        members.entries.push(entry.clone());
        entry
    }

    /// Keeps lines until they can be told.
    fn note(&mut self, lines: impl IntoIterator<Item = Line>) {
        self.untold.extend(lines);
        let beyond = self.untold.len().saturating_sub(UNTOLD_MAX);
        self.untold.drain(..beyond);
    }
}

impl Ids {
    fn create(&mut self, config: &BackendConfig, line: Arc<balance::Line>, workers: usize) -> Arc<Backend> {
        self.last += 1;
        let slot = self.slots.iter().position(|last| last.strong_count() == 0).unwrap_or(self.slots.len());
        let origin = Origin {
            name: config.name.clone(),
            url: config.url.written.clone(),
            host: config.url.host.clone(),
            port: config.url.port,
            base_path: config.url.base_path.clone(),
        };
        let backend =
            Arc::new(Backend::new(self.last, slot, origin, workers).in_line(line).encrypted(config.url.is_https));
        let holder = Arc::downgrade(&backend);
        if slot == self.slots.len() {
            self.slots.push(holder);
        } else {
            self.slots[slot] = holder;
        }
        backend
    }
}

#[cfg(test)]
mod tests;
