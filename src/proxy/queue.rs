//! Waiting for room where limits of concurrency are reached: `max_connections` of backends, `limits.max_in_flight`.

use super::client::{Client, Parked};
use super::error::Failure;
use super::exchange::Facts;
use super::occasion::Occasion;
use super::patience::SLOW_AFTER;
use super::{Proxy, Scratch};
use crate::balance::{Call, Place, QueueFull};
use crate::runtime::world::{Instant, PeerState, Stream, Wake, World};
use crate::upstream::Visit;

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Has a request wait for its turn, and rewrites its head for the backend that it gets.
    #[cold]
    pub(super) fn wait_for_room(
        &self,
        client: &mut Client<W::Stream>,
        facts: &mut Facts,
        tried: &[u64],
        head_deadline: Option<Instant>,
        scratch: &mut Scratch,
    ) -> Result<Visit<W>, Failure> {
        let visit = self.pools.visit_at(self.wait_for_place(client, tried, head_deadline)?);
        let peer = client.seat.peer();
        let trusted = self.trusts(peer);
        let redirected = self.look_again(client, |request| {
            let occasion = Occasion { proxy: self, request, peer, trusted };
            if let Some(session) = self.session(&occasion) {
                let snapshot = self.shared.fleet.snapshot.load();
                facts.cookie = self.settle(session, &snapshot, tried, visit.backend(), &occasion);
            }
            self.rewrite(request, peer, trusted, facts.id, visit.backend(), &mut scratch.bytes);
        });
        // It was whole when it was picked for.
        redirected.map(|()| visit).ok_or(Failure::NoBackend)
    }

    /// Waits until there is room, `queue.timeout` has passed, the answer would be late (where an earlier try has set its
    /// deadline), or the client has gone.
    fn wait_for_place(
        &self,
        client: &mut Client<W::Stream>,
        tried: &[u64],
        head_deadline: Option<Instant>,
    ) -> Result<Place, Failure> {
        let waker = self.world.waker(&client.stream);
        let join = |home| {
            let queue = &self.shared.fleet.queue;
            queue.join(tried, home, waker.clone()).map_err(|QueueFull| Failure::QueueFull)
        };
        let home = client.bound.as_ref().map(|bound| bound.backend_id);
        // One that can't even wait for the backend that it logged in at begins anew where there is room.
        let mut ticket = join(home).or_else(|full| client.bound.take().map_or(Err(full), |_| join(None)))?;
        let now = self.world.now();
        let timeout = (now + self.shared.config.queue.timeout, Failure::QueueTimeout);
        let late = head_deadline.map(|at| (at, Failure::ResponseTimeout));
        let mut limit = late.filter(|late| late.0 < timeout.0).unwrap_or(timeout);
        let mut slow_at = now + SLOW_AFTER;
        let mut half_closed_at = None;
        let mut wake = Wake::Event;
        loop {
            match ticket.take_call() {
                Some(Call::Place(place)) => return Ok(place),
                Some(Call::Nobody) => return Err(Failure::NoBackend),
                // Nor does it wait there for longer than others do.
                None if wake == Wake::Deadline && limit.1 == Failure::QueueTimeout && client.bound.take().is_some() => {
                    drop(ticket);
                    ticket = join(None)?;
                    continue;
                }
                None if wake == Wake::Deadline => return Err(limit.1),
                None => {}
            }
            match client.stream.peer_state() {
                PeerState::Reset => return Err(Failure::ClientGone),
                PeerState::HalfClosed => {
                    let since = *half_closed_at.get_or_insert_with(|| self.world.now());
                    let patience = since + self.shared.config.timeouts.half_closed;
                    if patience < limit.0 {
                        limit = (patience, Failure::ClientGone);
                    }
                }
                PeerState::Open => {}
            }
            let held = &mut [&mut client.buffer, &mut None];
            wake = self.wait_for_backend(held, &client.stream, None, limit.0, &mut slow_at);
        }
    }
}
