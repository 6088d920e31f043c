//! A layered service, as the world beneath calls it: handshakes come first, and streams come back with what is their own.

use std::time::Duration;

use super::handshake::Handshake;
use super::hello::Guest;
use super::layer::Layer;
use super::layered::LayeredService;
use super::tls::Tls;
use super::world::{Layered, Parking, Respite, Stored, StoredTls, Why};
use crate::runtime::world::{Arrival, Need, PeerState, Service, Wake, World};

/// How long a client may take nothing of the last that is to be sent to it, when its connection's time is over.
const RESPITE: Duration = Duration::from_secs(5);
/// How often it is waited for again.
const RESPITES_MAX: u32 = 12;

impl<P, W, S> LayeredService<W, S>
where
    P: 'static,
    W: World<Parked = Stored<P>>,
    S: Service<Layered<W>>,
{
    #[cold]
    fn resume_tls(&self, socket: W::Stream, stored: StoredTls<P>, wake: Wake) {
        let tls = Tls::join(socket, stored.kept);
        let had_outbound = tls.has_outbound();
        tls.settle();
        match stored.why {
            Why::Handshake(handshake) => self.resume_handshake(Guest::Heard(tls), *handshake, wake),
            Why::Service(parking) => self.resume_parked(tls, parking, wake, had_outbound),
        }
    }

    #[cold]
    fn resume_handshake(&self, guest: Guest<W::Stream>, handshake: Handshake, wake: Wake) {
        match (&self.handshakes, wake) {
            (Some(handshakes), Wake::Event) => self.shake(handshakes, guest, handshake),
            (Some(handshakes), Wake::Deadline) => self.time_out(handshakes, &handshake),
            (None, _) | (_, Wake::Recalled) => {}
        }
    }

    fn resume_parked(&self, tls: Tls<W::Stream>, mut parking: Parking<P>, wake: Wake, had_outbound: bool) {
        let unread = matches!(parking.need, None | Some(Need::Read));
        match wake {
            // Only more of what was written before has gone: it goes on waiting.
            Wake::Event if had_outbound && unread && !tls.is_readable() && tls.peer_state() == PeerState::Open => {
                self.world.keep(tls, parking);
            }
            Wake::Deadline if tls.is_ending() && parking.has_respite(tls.outbound_bytes()) => {
                parking.deadline = self.world.beneath.now() + RESPITE;
                self.world.keep(tls, parking);
            }
            _ => self.service.resumed(Layer::Tls(tls), *parking.parked, wake),
        }
    }
}

impl<P> Parking<P> {
    /// Whether a connection whose time is over is kept to send its last bytes: as long as its client takes some of them, and
    /// not forever.
    fn has_respite(&mut self, outbound_bytes: usize) -> bool {
        let times = self.respite.as_ref().map_or(0, |respite| respite.times);
        let moves = self.respite.as_ref().is_none_or(|respite| outbound_bytes < respite.outbound_bytes);
        self.respite = Some(Box::new(Respite { outbound_bytes, times: times + 1 }));
        moves && outbound_bytes > 0 && times < RESPITES_MAX
    }
}

impl<P, W, S> Service<W> for LayeredService<W, S>
where
    P: 'static,
    W: World<Parked = Stored<P>>,
    S: Service<Layered<W>>,
{
    #[inline]
    fn accepted(&self, socket: W::Stream, arrival: Arrival) {
        match &self.handshakes {
            Some(handshakes) if handshakes.rules.listeners.contains(&arrival.listener) => {
                self.begin_handshake(handshakes, socket, arrival);
            }
            _ => self.service.accepted(Layer::Plain(socket), arrival),
        }
    }

    #[inline]
    fn resumed(&self, socket: W::Stream, stored: Stored<P>, wake: Wake) {
        match stored {
            Stored::Plain(parked) => self.service.resumed(Layer::Plain(socket), parked, wake),
            Stored::Unheard(unheard) => {
                self.resume_handshake(Guest::Unheard(socket, unheard.bytes), unheard.handshake, wake);
            }
            Stored::Tls(stored) => self.resume_tls(socket, stored, wake),
        }
    }

    fn spare_descriptor(&self) -> bool {
        self.service.spare_descriptor()
    }

    fn tick(&self) {
        self.service.tick();
        self.shelves.trim();
    }

    fn sweep(&self) -> bool {
        self.service.sweep()
    }
}
