//! What a worker's world calls the proxy for.

use super::client::Connection;
use super::parked::{Parked, Stage};
use super::worker::Proxy;
use crate::policy::Seat;
use crate::runtime::world::{Arrival, Service, Wake, World};

impl<W: World<Parked = Parked>> Service<W> for Proxy<W> {
    fn accepted(&self, stream: W::Stream, arrival: Arrival) {
        let kept = &self.shared.kept;
        match Seat::take(&kept.seats, arrival.peer.ip(), &self.bound().connections.seats) {
            Ok(seat) => self.serve(Connection::new(stream, seat)),
            Err(no_seat) => self.turn_away(stream, &no_seat.into()),
        }
    }

    fn resumed(&self, stream: W::Stream, parked: Parked, wake: Wake) {
        match parked.0 {
            Stage::Waiting(waiting) => self.unpark(stream, waiting, None, wake),
            Stage::Pinned(pinned) => self.unpark_pinned(stream, *pinned, wake),
            Stage::Answering(answering) => self.go_on_answering(stream, *answering),
            Stage::Closing(closing) => self.resume_closing(stream, closing, wake),
            Stage::Aside(aside) => self.take_up(stream, aside),
        }
    }

    fn spare_descriptor(&self) -> bool {
        self.idle.close_oldest_idle()
    }

    fn tick(&self) {
        self.shared.kept.pool.welcome_back();
        self.pinned.close_retired::<W>();
        self.trim_buffers();
    }

    fn sweep(&self) -> bool {
        // A worker without a request takes a new plan up here, so that it keeps none for long that is out of force.
        self.idle.sweep(self.bound().connections.upstream_keep_alive)
    }
}
