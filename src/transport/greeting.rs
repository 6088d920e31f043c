//! Handshakes with clients, from a connection's first byte to the moment at which the service gets it. One that fails is told
//! why, and counted.

use std::io;
use std::time::Duration;

use super::handshake::{Handshake, Handshakes};
use super::layer::Layer;
use super::layered::LayeredService;
use super::server::{Greeter, Pick};
use super::session::Session;
use super::tls::{Facts, Tls};
use super::world::{Layered, Stored, StoredTls, Why};
use crate::observe::HandshakeEnd;
use crate::runtime::world::{Arrival, Instant, Need, Service, Stream, World};

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
        let handshake = handshakes.begin(arrival, self.world.beneath.now());
        if let Ok(session) = Session::new(handshakes.greeter.config(), &self.shelves) {
            self.shake(handshakes, Tls::new(socket, session), handshake);
        }
    }

    /// Goes on with a handshake, and parks when its client lets it wait.
    pub(super) fn shake(&self, handshakes: &Handshakes, tls: Tls<W::Stream>, mut handshake: Handshake) {
        let beneath = &self.world.beneath;
        let mut lingers_until = None;
        loop {
            if handshake.has_lost_place() {
                return self.count(handshakes, &handshake, HandshakeEnd::CrowdedOut);
            }
            match self.step(handshakes, &tls, &mut handshake) {
                Step::Done(end) => {
                    self.count(handshakes, &handshake, end);
                    let arrival = handshake.arrival;
                    drop(handshake);
                    return self.service.accepted(Layer::Tls(tls), arrival);
                }
                Step::Over => return,
                Step::More => {
                    lingers_until = None;
                    continue;
                }
                Step::Waits => {}
            }
            let now = beneath.now();
            let linger = if handshake.has_failed { Duration::ZERO } else { LINGER };
            let until = (*lingers_until.get_or_insert(now + linger)).min(handshake.until);
            if now < until {
                beneath.wait(tls.socket(), None, until);
                tls.settle();
                continue;
            }
            if now >= handshake.until {
                return self.time_out(handshakes, &handshake);
            }
            return self.park_handshake(tls, handshake);
        }
    }

    fn step(&self, handshakes: &Handshakes, tls: &Tls<W::Stream>, handshake: &mut Handshake) -> Step {
        if handshake.has_failed {
            if self.world.beneath.now() >= handshake.until {
                return Step::Over;
            }
            self.world.beneath.take_turns(tls.socket());
            return tls.pour_away().map_or_else(|error| Step::unless_blocked(&error), |()| Step::More);
        }
        if let Err(error) = tls.receive() {
            let step = Step::unless_blocked(&error);
            if matches!(step, Step::Over) {
                self.count(handshakes, handshake, HandshakeEnd::Left);
            }
            return step;
        }
        if tls.is_fresh() {
            if tls.speaks_in_clear() {
                tls.say_in_clear(&(handshakes.rules.in_clear)(self.world.beneath.unix_seconds()));
                return self.fail(handshakes, tls, handshake, HandshakeEnd::InClear);
            }
            handshakes.take_turn(&self.world.beneath, tls.socket());
        }
        if let Err(end) = greet(&handshakes.greeter, tls) {
            // The alert that says why is sent as far as it goes.
            return self.fail(handshakes, tls, handshake, end);
        }
        if tls.is_handshaking() {
            return Step::More;
        }
        if tls.ends_with_handshake() {
            self.count(handshakes, handshake, HandshakeEnd::Done);
            tls.shutdown_write();
            handshake.has_failed = true;
            return Step::More;
        }
        Step::Done(if tls.has_met() { HandshakeEnd::Resumed } else { HandshakeEnd::Done })
    }

    /// Closes it in words: what has been said goes before the end of it.
    fn fail(
        &self,
        handshakes: &Handshakes,
        tls: &Tls<W::Stream>,
        handshake: &mut Handshake,
        end: HandshakeEnd,
    ) -> Step {
        self.count(handshakes, handshake, end);
        tls.shutdown_write();
        handshake.has_failed = true;
        handshake.until = handshake.until.min(self.world.beneath.now() + REFUSAL);
        Step::More
    }

    pub(super) fn time_out(&self, handshakes: &Handshakes, handshake: &Handshake) {
        if !handshake.has_failed {
            self.count(handshakes, handshake, HandshakeEnd::TimedOut);
        }
    }

    fn park_handshake(&self, tls: Tls<W::Stream>, handshake: Handshake) {
        let need = if tls.has_outbound() { Need::Either } else { Need::Read };
        handshake.parks(|| self.world.beneath.waker(tls.socket()));
        let until: Instant = handshake.until;
        let (socket, kept) = tls.part();
        let stored = StoredTls { kept, why: Why::Handshake(handshake) };
        self.world.beneath.park_for(need, socket, Stored::Tls(Box::new(stored)), until);
    }

    fn count(&self, handshakes: &Handshakes, handshake: &Handshake, end: HandshakeEnd) {
        handshakes.rules.counts.count(self.world.beneath.worker(), end);
        if !matches!(end, HandshakeEnd::Done | HandshakeEnd::Resumed) {
            log::debug!("the TLS handshake of {} ended: {end}", handshake.arrival.peer);
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
enum Step {
    /// It is over, and its client is to be served.
    Done(HandshakeEnd),
    /// It is over.
    Over,
    /// At once.
    More,
    /// When more has come.
    Waits,
}

impl Step {
    fn unless_blocked(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::Waits } else { Self::Over }
    }
}
