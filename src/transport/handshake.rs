//! Handshakes: they have a deadline and a bound, and others get their turns between them, since each takes as long as many
//! requests. Where there are too many, the oldest gives its place up: a client takes moments for its handshake, so that the
//! oldest of a flood are those that will never end theirs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::server::{Greeter, TlsServer};
use crate::observe::HandshakeCounts;
use crate::runtime::world::{Arrival, Instant, World};

/// First flights that are answered before the network and all others get a turn.
const FLIGHTS_MAX: u32 = 8;
/// How long a turn's flights take together, but for the last: each takes 0.1 to 4 ms, by its key.
const TIME_MAX: Duration = Duration::from_micros(500);

/// How a worker takes connections that begin with a handshake.
#[derive(Clone)]
pub struct TlsRules {
    /// The numbers of the listeners that they come by; what comes by others is plain.
    pub listeners: Vec<usize>,
    /// Who they find here.
    pub server: Arc<TlsServer>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many may be in progress on a worker, at least one; beyond that the oldest is closed.
    pub handshakes_max: usize,
    /// Where they are counted.
    pub counts: Arc<HandshakeCounts>,
    /// What a client is answered that speaks another protocol in clear, in its own words, at so many seconds since the Unix
    /// epoch.
    pub in_clear: fn(u64) -> Vec<u8>,
}

/// What a worker's handshakes have in common.
pub(super) struct Handshakes {
    pub(super) rules: TlsRules,
    pub(super) greeter: Greeter,
    in_progress: Rc<RefCell<InProgress>>,
    turns: Turns,
}

/// Handshakes' share of a worker's turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// In the turn that lasts.
    answered: Cell<u32>,
    /// What that took.
    spent: Cell<Duration>,
    /// Turns that have ended.
    ended: Cell<u64>,
}

/// The place of a flight that is being answered.
pub(super) struct Flight<'t, W: World> {
    turns: &'t Turns,
    world: &'t W,
    began: Instant,
}

/// In the order in which they began.
#[derive(Default)]
struct InProgress {
    begun: u64,
    places: BTreeMap<u64, Rc<Place>>,
}

#[derive(Default)]
struct Place {
    is_lost: Cell<bool>,
    /// Brings the connection back, once it is parked.
    waker: RefCell<Option<Waker>>,
}

/// One that is in progress.
pub(super) struct Handshake {
    pub(super) arrival: Arrival,
    pub(super) until: Instant,
    /// It has failed, and its client is given the time to read why.
    pub(super) has_failed: bool,
    place: Rc<Place>,
    number: u64,
    among: Rc<RefCell<InProgress>>,
}

impl Handshakes {
    pub(super) fn new(rules: TlsRules) -> Self {
        let greeter = Greeter::new(Arc::clone(&rules.server));
        Self { rules, greeter, in_progress: Rc::default(), turns: Turns::default() }
    }

    /// How many are in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.in_progress.borrow().places.len()
    }

    /// Begins one. Where there are too many, the oldest loses its place.
    pub(super) fn begin(&self, arrival: Arrival, now: Instant) -> Handshake {
        if self.in_progress() >= self.rules.handshakes_max {
            let oldest = self.in_progress.borrow_mut().places.pop_first();
            if let Some((_, oldest)) = oldest {
                oldest.lose();
            }
        }
        let mut in_progress = self.in_progress.borrow_mut();
        let (number, place) = (in_progress.begun, Rc::<Place>::default());
        in_progress.begun += 1;
        in_progress.places.insert(number, Rc::clone(&place));
        let until = now + self.rules.handshake_timeout;
        Handshake { arrival, until, has_failed: false, place, number, among: Rc::clone(&self.in_progress) }
    }

    /// To be called before a first flight is answered: waits for a turn that has a place for it, and keeps that until it is dropped.
    #[must_use]
    pub(super) fn take_turn<'t, W: World>(&'t self, world: &'t W, on: &W::Stream) -> Flight<'t, W> {
        self.turns.take(world, on)
    }
}

impl Turns {
    /// Waits for a turn that has a place for one more flight.
    #[must_use]
    pub(super) fn take<'t, W: World>(&'t self, world: &'t W, on: &W::Stream) -> Flight<'t, W> {
        while self.answered.get() >= FLIGHTS_MAX || self.spent.get() >= TIME_MAX {
            let turn = self.ended.get();
            world.yield_now(on);
            // The first that comes back begins the next one.
            if self.ended.get() == turn {
                self.ended.set(turn + 1);
                self.answered.set(0);
                self.spent.set(Duration::ZERO);
            }
        }
        self.answered.set(self.answered.get() + 1);
        Flight { turns: self, world, began: world.now() }
    }
}

impl<W: World> Drop for Flight<'_, W> {
    fn drop(&mut self) {
        let Self { turns, world, began } = self;
        turns.spent.set(turns.spent.get() + world.now().since(*began));
    }
}

impl Handshake {
    /// Another has its place.
    pub(super) fn has_lost_place(&self) -> bool {
        self.place.is_lost.get()
    }

    /// It is to be parked, and `waker` brings it back.
    pub(super) fn parks(&self, waker: impl FnOnce() -> Waker) {
        self.place.waker.borrow_mut().get_or_insert_with(waker);
    }
}

impl Place {
    fn lose(&self) {
        self.is_lost.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.among.borrow_mut().places.remove(&self.number);
    }
}

impl fmt::Debug for TlsRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsRules").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").field("in_progress", &self.in_progress()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("arrival", &self.arrival).finish_non_exhaustive()
    }
}
