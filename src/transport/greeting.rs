//! Handshakes with clients, from a connection's first byte to the moment at which the service gets it. One that fails is told
//! why, and counted.

use std::io;
use std::time::Duration;

use super::handshake::{Handshake, Handshakes};
use super::hello::{Guest, Unheard, hear};
use super::layer::Layer;
use super::layered::LayeredService;
use super::places::State;
use super::server::{Greeter, Pick};
use super::session::Session;
use super::tls::{Facts, Tls};
use super::world::{Layered, Stored, StoredTls, Why};
use crate::observe::HandshakeEnd;
use crate::runtime::world::{Arrival, Need, Service, Stream, World};

/// How long a handshake keeps its coroutine for the client's next flight.
const LINGER: Duration = Duration::from_millis(5);
/// How long one that has failed is kept, so that what its client still sends doesn't reset the connection before it has read
/// why.
const REFUSAL: Duration = Duration::from_secs(2);

impl<P, W, S> LayeredService<W, S>
where
    P: 'static,
    W: World<Parked = Stored<P>>,
    S: Service<Layered<W>>,
{
    #[cold]
    pub(super) fn begin_handshake(&self, handshakes: &Handshakes, socket: W::Stream, arrival: Arrival) {
        match handshakes.begin(arrival, self.world.beneath.now()) {
            Some(handshake) => self.shake(handshakes, Guest::Unheard(socket, None), handshake),
            None => self.count(handshakes, arrival, HandshakeEnd::CrowdedOut),
        }
    }

    /// Goes on with a handshake, and parks when its client lets it wait.
    pub(super) fn shake(&self, handshakes: &Handshakes, mut guest: Guest<W::Stream>, mut handshake: Handshake) {
        let beneath = &self.world.beneath;
        let mut lingers_until = None;
        loop {
            if handshake.place.state() == State::Lost {
                return self.ends(handshakes, &handshake, HandshakeEnd::CrowdedOut);
            }
            guest = match self.step(handshakes, guest, &mut handshake) {
                Step::Done(tls, end) => {
                    self.ends(handshakes, &handshake, end);
                    let arrival = handshake.arrival;
                    drop(handshake);
                    return self.service.accepted(Layer::Tls(tls), arrival);
                }
                Step::Over => return,
                Step::Queued(guest) => return self.park_in_queue(guest, handshake),
                Step::More(guest) => {
                    lingers_until = None;
                    guest
                }
                Step::Waits(guest) => {
                    let now = beneath.now();
                    let linger = if handshake.has_failed { Duration::ZERO } else { LINGER };
                    let until = (*lingers_until.get_or_insert(now + linger)).min(handshake.until);
                    if now >= handshake.until {
                        return self.time_out(handshakes, &handshake);
                    }
                    if now >= until {
                        return self.park_handshake(guest, handshake);
                    }
                    beneath.wait(guest.socket(), None, until);
                    guest.settle();
                    guest
                }
            }
        }
    }

    fn step(&self, handshakes: &Handshakes, guest: Guest<W::Stream>, handshake: &mut Handshake) -> Step<W::Stream> {
        let beneath = &self.world.beneath;
        if handshake.has_failed && beneath.now() >= handshake.until {
            return Step::Over;
        }
        match handshake.place.state() {
            State::Called => return self.answer_first(handshakes, guest, handshake),
            State::Queued(_) if guest.is_gone() => return self.leave(handshakes, handshake),
            State::Queued(_) => return Step::Queued(guest),
            State::Waiting | State::Lost => {}
        }
        if !guest.socket().is_readable() {
            return Step::Waits(guest);
        }
        let (guest, came) = match guest {
            Guest::Unheard(socket, mut bytes) => {
                let heard = hear(&socket, &mut bytes, &self.shelves);
                let guest = Guest::Unheard(socket, bytes);
                if let Ok(true) = heard {
                    return self.answer_first(handshakes, guest, handshake);
                }
                (guest, heard.map(drop))
            }
            Guest::Heard(tls) if handshake.has_failed => {
                beneath.take_turns(tls.socket());
                let poured = tls.pour_away();
                (Guest::Heard(tls), poured)
            }
            Guest::Heard(tls) => match tls.receive() {
                Ok(()) if tls.is_fresh() => {
                    tls.shrink();
                    return self.answer_first(handshakes, Guest::Heard(tls), handshake);
                }
                Ok(()) => {
                    let _flight = handshakes.flight(beneath);
                    return self.answer(handshakes, tls, handshake);
                }
                received => (Guest::Heard(tls), received),
            },
        };
        match came {
            Ok(()) => Step::More(guest),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Waits(guest),
            Err(_) => self.leave(handshakes, handshake),
        }
    }

    /// Its client has gone.
    fn leave(&self, handshakes: &Handshakes, handshake: &Handshake) -> Step<W::Stream> {
        self.ends(handshakes, handshake, HandshakeEnd::Left);
        Step::Over
    }

    /// Answers a client's hello, once it is its turn.
    fn answer_first(
        &self,
        handshakes: &Handshakes,
        guest: Guest<W::Stream>,
        handshake: &mut Handshake,
    ) -> Step<W::Stream> {
        if !handshake.place.is_next() {
            return Step::Queued(guest);
        }
        let _flight = handshakes.take_turn(&self.world.beneath, guest.socket(), &handshake.place);
        // It may have waited long.
        if self.world.beneath.now() >= handshake.until {
            self.time_out(handshakes, handshake);
            return Step::Over;
        }
        if guest.is_gone() {
            return self.leave(handshakes, handshake);
        }
        match guest {
            Guest::Unheard(socket, bytes) => {
                match Session::with_hello(handshakes.greeter.config(), bytes, &self.shelves) {
                    Ok(session) => self.answer(handshakes, Tls::new(socket, session), handshake),
                    Err(_) => Step::Over,
                }
            }
            Guest::Heard(tls) => self.answer(handshakes, tls, handshake),
        }
    }

    /// Answers what a session has got.
    fn answer(&self, handshakes: &Handshakes, tls: Tls<W::Stream>, handshake: &mut Handshake) -> Step<W::Stream> {
        if tls.is_fresh() && tls.speaks_in_clear() {
            tls.say_in_clear(&(handshakes.rules.in_clear)(self.world.beneath.unix_seconds()));
            return self.fail(handshakes, tls, handshake, HandshakeEnd::InClear);
        }
        if let Err(end) = greet(&handshakes.greeter, &tls) {
            // The alert that says why is sent as far as it goes.
            return self.fail(handshakes, tls, handshake, end);
        }
        if tls.is_handshaking() {
            return Step::More(Guest::Heard(tls));
        }
        if tls.ends_with_handshake() {
            self.ends(handshakes, handshake, HandshakeEnd::Done);
            tls.shutdown_write();
            handshake.has_failed = true;
            return Step::More(Guest::Heard(tls));
        }
        let end = if tls.has_met() { HandshakeEnd::Resumed } else { HandshakeEnd::Done };
        Step::Done(tls, end)
    }

    /// Closes it in words: what has been said goes before the end of it.
    fn fail(
        &self,
        handshakes: &Handshakes,
        tls: Tls<W::Stream>,
        handshake: &mut Handshake,
        end: HandshakeEnd,
    ) -> Step<W::Stream> {
        self.ends(handshakes, handshake, end);
        tls.shutdown_write();
        handshake.has_failed = true;
        handshake.until = handshake.until.min(self.world.beneath.now() + REFUSAL);
        Step::More(Guest::Heard(tls))
    }

    pub(super) fn time_out(&self, handshakes: &Handshakes, handshake: &Handshake) {
        self.ends(handshakes, handshake, HandshakeEnd::TimedOut);
    }

    /// Until its client goes on.
    fn park_handshake(&self, guest: Guest<W::Stream>, handshake: Handshake) {
        let need = if guest.has_outbound() { Need::Either } else { Need::Read };
        self.park_until(need, guest, handshake);
    }

    /// Until it is called, or its client goes.
    fn park_in_queue(&self, guest: Guest<W::Stream>, handshake: Handshake) {
        self.park_until(Need::of_waiting(guest.socket()), guest, handshake);
    }

    fn park_until(&self, need: Need, guest: Guest<W::Stream>, handshake: Handshake) {
        handshake.place.parks(|| self.world.beneath.waker(guest.socket()));
        let until = handshake.until;
        let (socket, stored) = match guest {
            Guest::Unheard(socket, bytes) => (socket, Stored::Unheard(Box::new(Unheard::new(handshake, bytes)))),
            Guest::Heard(tls) => {
                let (socket, kept) = tls.part();
                (socket, Stored::Tls(StoredTls { kept, why: Why::Handshake(Box::new(handshake)) }))
            }
        };
        self.world.beneath.park_for(need, socket, stored, until);
    }

    /// Counts how it ended: once, whatever becomes of its connection while its client reads why it has failed.
    fn ends(&self, handshakes: &Handshakes, handshake: &Handshake, end: HandshakeEnd) {
        if !handshake.has_failed {
            self.count(handshakes, handshake.arrival, end);
        }
    }

    fn count(&self, handshakes: &Handshakes, arrival: Arrival, end: HandshakeEnd) {
        handshakes.rules.counts.count(self.world.beneath.worker(), end);
        if !matches!(end, HandshakeEnd::Done | HandshakeEnd::Resumed) {
            log::debug!("the TLS handshake of {} ended: {end}", arrival.peer);
        }
    }
}

/// Answers what has come of a client's handshake.
pub(super) fn greet<S: Stream>(greeter: &Greeter, tls: &Tls<S>) -> Result<(), HandshakeEnd> {
    let shaken = tls.shake();
    let pick = greeter.take_pick();
    if shaken.is_err() {
        if matches!(pick, Some(Pick::NoneFits)) {
            tls.blame_name();
        }
        return Err(tls.refusal());
    }
    if let Some(Pick::Shown(certificate)) = pick {
        tls.has_shown(Facts::new(certificate, greeter.server()));
    }
    Ok(())
}

/// How a handshake goes on.
enum Step<S: Stream> {
    /// It is over, and its client is to be served.
    Done(Tls<S>, HandshakeEnd),
    /// It is over.
    Over,
    /// At once.
    More(Guest<S>),
    /// When more has come.
    Waits(Guest<S>),
    /// When it is called.
    Queued(Guest<S>),
}
