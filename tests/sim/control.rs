//! The control plane's part in a run: its real registry, whose mutations are published to the proxy at random moments,
//! and origins that crash and come back.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::{self, Arc};
use std::time::{Duration, SystemTime};

use crossbeam::channel::Receiver;
use maypole::balance::{Backend, Report};
use maypole::config::{BackendChange, BackendConfig, BackendUrl};
use maypole::control::entry::{Entry, Source, State, Which};
use maypole::control::health::{Health, LastProbe};
use maypole::control::registry::Registry;
use maypole::proxy::Shared;

use crate::breakers::Breakers;
use crate::peer::Peer;
use crate::sessions::Absences;
use crate::sim::{MILLISECOND, SECOND, Sim, Time};
use crate::tally::{Fault, Promise};
use crate::trail::{self, Roll};

/// When a removed backend's requests in flight are looked at.
const LOOKS: [Time; 5] = [0, MILLISECOND, 30 * MILLISECOND, SECOND, 4 * SECOND];

/// The registry, and all backends that ever were.
pub struct Control {
    registry: Registry,
    members: RefCell<Vec<Member>>,
    ever: RefCell<Vec<Known>>,
    reports: Receiver<Report>,
    heard: RefCell<Vec<Report>>,
    absences: Absences,
    breakers: Breakers,
}

/// A backend that is or was.
struct Known {
    backend: sync::Weak<Backend>,
    origin: usize,
    /// Failures that were counted of it when that was last looked at.
    failed: Cell<u64>,
}

struct Member {
    number: usize,
    config: BackendConfig,
    addresses: Vec<SocketAddr>,
    site: Rc<Site>,
}

/// Where an origin runs: what a crash takes down.
#[derive(Default)]
pub struct Site {
    down: Cell<bool>,
    /// How many requests it may have at once; 0: any number.
    bound: Cell<usize>,
    peers: RefCell<Vec<Weak<Peer>>>,
}

/// Something that happens to backend number `n`, counted in the order in which they were first added.
#[derive(Clone, Copy, Debug)]
pub enum Upset {
    Remove(usize),
    Add(usize),
    Drain(usize),
    Ready(usize),
    Down(usize),
    Up(usize),
    LoseAddresses(usize),
    FindAddresses(usize),
    Widen(usize),
    Crash(usize),
    Restart(usize),
}

impl Site {
    pub fn is_down(&self) -> bool {
        self.down.get()
    }

    pub fn bound(&self) -> usize {
        self.bound.get()
    }

    /// To be said before the backend is added.
    pub fn set_bound(&self, bound: usize) {
        self.bound.set(bound);
    }

    /// Takes note of a connection, so that a crash resets it.
    pub fn hold(&self, peer: &Rc<Peer>) {
        self.peers.borrow_mut().push(Rc::downgrade(peer));
    }

    fn crash(&self) {
        self.down.set(true);
        for peer in self.peers.take().iter().filter_map(Weak::upgrade) {
            peer.reset_on_close();
            peer.close();
        }
    }
}

impl Control {
    pub fn new(registry: Registry, reports: Receiver<Report>) -> Self {
        let (members, ever, heard, absences) = Default::default();
        Self { registry, members, ever, reports, heard, absences, breakers: Breakers::new() }
    }

    /// A backend by name, with the addresses that it resolves to.
    pub fn add(&self, sim: &Sim, encrypted: bool, addresses: Vec<SocketAddr>, site: &Rc<Site>) {
        let number = self.members.borrow().len();
        let name = format!("origin{number}");
        let scheme = if encrypted { "https" } else { "http" };
        let url = BackendUrl::parse(&format!("{scheme}://{name}.example:8000")).expect("a URL");
        let member = Member {
            number,
            config: BackendConfig { name, max_connections: site.bound(), ..BackendConfig::at(url) },
            addresses,
            site: site.clone(),
        };
        self.enter(&member);
        self.members.borrow_mut().push(member);
        self.call_roll(sim);
    }

    fn enter(&self, member: &Member) -> bool {
        let added =
            self.registry.add(member.config.clone(), member.addresses.clone(), Source::Admin, SystemTime::UNIX_EPOCH);
        let Ok(entry) = added else { return false };
        let backend = sync::Arc::downgrade(&entry.backend);
        self.ever.borrow_mut().push(Known { backend, origin: member.number, failed: Cell::new(0) });
        true
    }

    /// Requests in flight, over all backends that somebody still holds.
    pub fn in_flight(&self) -> usize {
        let ever = self.ever.borrow();
        ever.iter().filter_map(|known| known.backend.upgrade()).map(|backend| backend.in_flight()).sum()
    }

    /// Some backend may have only so many requests at once, or might.
    pub fn are_bounded(&self) -> bool {
        self.members.borrow().iter().any(|member| member.config.max_connections > 0)
    }

    /// What is the case in the proxy now.
    pub fn state(&self, shared: &Shared, all_max: usize) -> trail::State {
        let takes_one = |entry: &Entry| {
            let (bound, backend) = (entry.config.max_connections, &entry.backend);
            entry.is_eligible()
                && backend.is_open()
                && !backend.is_away()
                && (bound == 0 || backend.in_flight() < bound)
        };
        trail::State {
            seated: shared.connections(),
            waiting: shared.kept.pool.line.waiting(),
            has_room: (all_max == 0 || self.in_flight() < all_max)
                && self.registry.read(|entries| entries.iter().any(takes_one)),
            may_have_room: shared.kept.pool.snapshot.load().may_have_room(),
        }
    }

    /// Each backend that somebody still holds.
    pub fn each_backend(&self, look: impl FnMut(Arc<Backend>)) {
        self.ever.borrow().iter().filter_map(|known| known.backend.upgrade()).for_each(look);
    }

    /// Of which origins the proxy has counted failures since this was last asked, one for each.
    pub fn new_failures(&self) -> Vec<usize> {
        let mut origins = Vec::new();
        for known in self.ever.borrow().iter() {
            let Some(backend) = known.backend.upgrade() else { continue };
            let failed = backend.totals().failed;
            origins.extend((known.failed.replace(failed)..failed).map(|_| known.origin));
        }
        origins
    }

    /// What the workers have reported.
    pub fn take_reports(&self) -> Vec<Report> {
        self.heard.borrow_mut().extend(self.reports.try_iter());
        self.heard.take()
    }

    /// Acts on what the workers have reported, as the control plane does; on refused connections only if it is to.
    pub fn heed_reports(&self, sim: &Sim, refusals: bool) {
        for report in self.reports.try_iter() {
            if let Report::Refused(backend) = &report
                && refusals
                && !self.registry.is_last_resort(backend.id)
            {
                self.registry.refused(backend.id, SystemTime::UNIX_EPOCH);
            }
            self.breakers.turned(sim, &self.registry, &report);
            self.heard.borrow_mut().push(report);
        }
        self.call_roll(sim);
    }

    /// Notes who there is to be asked from now on.
    pub fn call_roll(&self, sim: &Sim) {
        let roll = self.registry.read(|entries| Roll {
            eligible: entries.iter().filter(|entry| entry.is_eligible()).map(|entry| entry.backend.id).collect(),
            unresolved: entries.iter().any(|entry| entry.backend.addresses.load().is_empty()),
        });
        sim.trail.called(sim.now(), roll);
    }

    /// When which backends could serve no session.
    pub fn absences(&self) -> &Absences {
        &self.absences
    }

    /// Has circuit breakers feel that time has passed, and looks where they are.
    pub fn look_at_breakers(&self, sim: &Sim, shared: &Shared) {
        self.breakers.look(sim, &self.registry, shared);
        self.call_roll(sim);
    }

    pub fn upset(&self, sim: &Sim, upset: Upset) {
        self.absences.note(upset, sim.now());
        let members = self.members.borrow();
        match upset {
            Upset::Remove(n) => {
                if let Some(backend) = self.registry.remove(Which::Name(&members[n].config.name)) {
                    sim.struck(Fault::BackendRemoved);
                    // Added again it is another one, whose requests come beside those that the old one still has.
                    members[n].site.set_bound(0);
                    watch_drain(sim, &backend);
                }
            }
            Upset::Add(n) => {
                if self.enter(&members[n]) {
                    sim.struck(Fault::BackendAdded);
                }
            }
            Upset::Drain(n) => self.set_state(sim, &members[n], State::Drain),
            Upset::Ready(n) => self.set_state(sim, &members[n], State::Ready),
            Upset::Widen(n) => self.widen(sim, &members[n]),
            Upset::Down(n) => self.turn(sim, &members[n], Health::Down, Fault::HealthDown),
            Upset::Up(n) => self.turn(sim, &members[n], Health::Up, Fault::HealthUp),
            Upset::LoseAddresses(n) => {
                sim.struck(Fault::NameHasNoAddress);
                self.resolve(&members[n], Vec::new());
            }
            Upset::FindAddresses(n) => self.resolve(&members[n], members[n].addresses.clone()),
            Upset::Crash(n) => {
                sim.struck(Fault::BackendCrashes);
                members[n].site.crash();
            }
            Upset::Restart(n) => {
                if members[n].site.down.replace(false) {
                    sim.struck(Fault::BackendRestarts);
                }
            }
        }
        self.call_roll(sim);
    }

    fn set_state(&self, sim: &Sim, member: &Member, state: State) {
        let change = BackendChange { state: Some(state), ..BackendChange::default() };
        if self.registry.change(Which::Name(&member.config.name), change, SystemTime::UNIX_EPOCH).is_some() {
            sim.struck(Fault::BackendDrained);
        }
    }

    fn widen(&self, sim: &Sim, member: &Member) {
        let bound = member.site.bound();
        let change = BackendChange { max_connections: Some(bound + 1), ..BackendChange::default() };
        if bound > 0 && self.registry.change(Which::Name(&member.config.name), change, SystemTime::UNIX_EPOCH).is_some()
        {
            member.site.set_bound(bound + 1);
            sim.struck(Fault::BackendWidened);
        }
    }

    fn turn(&self, sim: &Sim, member: &Member, health: Health, fault: Fault) {
        let Some(entry) = self.registry.find(Which::Name(&member.config.name)) else { return };
        let probe = LastProbe {
            at: SystemTime::UNIX_EPOCH,
            passed: health == Health::Up,
            reason: "simulated".to_owned(),
            took: Duration::ZERO,
            late: Duration::ZERO,
        };
        self.registry.probed(entry.backend.id, probe, Some(health));
        sim.struck(fault);
    }

    fn resolve(&self, member: &Member, addresses: Vec<SocketAddr>) {
        if let Some(entry) = self.registry.find(Which::Name(&member.config.name)) {
            entry.backend.addresses.set(addresses);
        }
    }
}

/// From its removal on, a backend's requests in flight only become fewer.
fn watch_drain(sim: &Sim, backend: &sync::Arc<Backend>) {
    let fewest = Rc::new(Cell::new(usize::MAX));
    for delay in LOOKS {
        let (backend, fewest) = (sync::Arc::downgrade(backend), fewest.clone());
        sim.after(delay, move |sim| {
            let Some(backend) = backend.upgrade() else { return };
            sim.checked(Promise::RemovedGetsNothing);
            let now = backend.in_flight();
            if now > fewest.replace(now) {
                sim.wrong(Promise::RemovedGetsNothing, format!("{} has {now} requests in flight again", backend.name));
            }
        });
    }
}
