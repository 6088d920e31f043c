//! Handshakes: they have a deadline and a bound ([`Places`]), and others get their turns between them ([`Turns`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::places::{Place, Places};
use super::server::{Greeter, TlsServer};
use super::turns::{Flight, Turns};
use crate::observe::HandshakeCounts;
use crate::runtime::world::{Arrival, Instant, World};

/// How a worker takes connections that begin with a handshake.
#[derive(Clone)]
pub struct TlsRules {
    /// The numbers of the listeners that they come by; what comes by others is plain.
    pub listeners: Vec<usize>,
    /// Who they find here.
    pub server: Arc<TlsServer>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many may be in progress on a worker, at least one; beyond that one is closed ([`Places`]).
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
    places: Places,
    turns: Turns,
}

/// One that is in progress.
pub(super) struct Handshake {
    pub(super) arrival: Arrival,
    pub(super) until: Instant,
    /// It has failed, and its client is given the time to read why.
    pub(super) has_failed: bool,
    pub(super) place: Place,
}

impl Handshakes {
    pub(super) fn new(rules: TlsRules) -> Self {
        let greeter = Greeter::new(Arc::clone(&rules.server));
        let places = Places::new(rules.handshakes_max);
        Self { rules, greeter, places, turns: Turns::default() }
    }

    /// How many are in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.places.taken()
    }

    /// Begins one. None: there is no place for it.
    pub(super) fn begin(&self, arrival: Arrival, now: Instant) -> Option<Handshake> {
        let place = self.places.take(arrival.peer.ip())?;
        Some(Handshake { arrival, until: now + self.rules.handshake_timeout, has_failed: false, place })
    }

    /// Waits for a turn that has room for the first flight of one that was called.
    #[must_use]
    pub(super) fn take_turn<'t, W: World>(&'t self, world: &'t W, on: &W::Stream, place: &Place) -> Flight<'t, W> {
        let flight = self.turns.take(world, on);
        place.is_answered();
        flight
    }

    /// What is answered of one whose first flight was.
    #[must_use]
    pub(super) fn flight<'t, W: World>(&'t self, world: &'t W) -> Flight<'t, W> {
        self.turns.flight(world)
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
