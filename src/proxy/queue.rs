//! Waiting for room where limits of concurrency are reached: `max_connections` of backends, `limits.max_in_flight`.

use super::client::{Client, Parked};
use super::error::Failure;
use super::exchange::Facts;
use super::occasion::Occasion;
use super::patience::SLOW_AFTER;
use super::{Proxy, Scratch};
use crate::balance::{Call, Place, QueueFull, Ticket};
use crate::runtime::world::{Instant, PeerState, Stream, Wake, World};
use crate::upstream::Visit;

/// A request that waits for its turn.
pub(super) struct InLine {
    ticket: Ticket,
    /// Until when, and what it means when that moment has come.
    limit: (Instant, Failure),
    half_closed_at: Option<Instant>,
}

/// What has become of one.
pub(super) enum Room<W: World> {
    Found(Visit<W>),
    None(Failure),
    /// It goes on waiting, and needs no coroutine.
    Later(InLine),
}

impl InLine {
    /// When it has waited for long enough.
    pub(super) fn deadline(&self) -> Instant {
        self.limit.0
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Has a request wait for its turn, `line` where it has waited before, and rewrites its head for the backend that it
    /// gets.
    #[cold]
    pub(super) fn wait_for_room(
        &self,
        client: &mut Client<W::Stream>,
        facts: &mut Facts,
        (tried, head_deadline): (&[u64], Option<Instant>),
        line: Option<InLine>,
        scratch: &mut Scratch,
    ) -> Room<W> {
        let waited = line.is_some();
        let joined = line.map_or_else(|| self.join_queue(client, tried, head_deadline), Ok);
        let placed = joined.and_then(|line| self.wait_in_line(client, tried, line, waited));
        let visit = match placed {
            Ok(Ok(place)) => self.pools.visit_at(place),
            Ok(Err(line)) => return Room::Later(line),
            Err(failure) => return Room::None(failure),
        };
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
        redirected.map_or(Room::None(Failure::NoBackend), |()| Room::Found(visit))
    }

    fn join(&self, client: &Client<W::Stream>, tried: &[u64], home: Option<u64>) -> Result<Ticket, Failure> {
        let waker = self.world.waker(&client.stream);
        self.shared.fleet.queue.join(tried, home, waker).map_err(|QueueFull| Failure::QueueFull)
    }

    fn join_queue(
        &self,
        client: &mut Client<W::Stream>,
        tried: &[u64],
        head_deadline: Option<Instant>,
    ) -> Result<InLine, Failure> {
        let home = client.bound.as_ref().map(|bound| bound.backend_id);
        // One that can't even wait for the backend that it logged in at begins anew where there is room.
        let ticket = match self.join(client, tried, home) {
            Err(_) if client.bound.take().is_some() => self.join(client, tried, None)?,
            joined => joined?,
        };
        let timeout = (self.world.now() + self.shared.config.queue.timeout, Failure::QueueTimeout);
        let late = head_deadline.map(|at| (at, Failure::ResponseTimeout));
        let limit = late.filter(|late| late.0 < timeout.0).unwrap_or(timeout);
        Ok(InLine { ticket, limit, half_closed_at: None })
    }

    /// Waits until there is room, `queue.timeout` has passed, the answer would be late (where an earlier try has set its
    /// deadline), or the client has gone. Gives `line` back when the wait has become a long one; it is one from the start
    /// where it has been `resumed`.
    fn wait_in_line(
        &self,
        client: &mut Client<W::Stream>,
        tried: &[u64],
        mut line: InLine,
        resumed: bool,
    ) -> Result<Result<Place, InLine>, Failure> {
        let now = self.world.now();
        let slow_at = now + SLOW_AFTER;
        let mut is_slow = resumed;
        let mut wake = if now >= line.limit.0 { Wake::Deadline } else { Wake::Event };
        loop {
            match line.ticket.take_call() {
                Some(Call::Place(place)) => return Ok(Ok(place)),
                Some(Call::Nobody) => return Err(Failure::NoBackend),
                // Nor does it wait there for longer than others do.
                None if wake == Wake::Deadline
                    && line.limit.1 == Failure::QueueTimeout
                    && client.bound.take().is_some() =>
                {
                    drop(line.ticket);
                    line.ticket = self.join(client, tried, None)?;
                    continue;
                }
                None if wake == Wake::Deadline => return Err(line.limit.1),
                None => {}
            }
            match client.stream.peer_state() {
                PeerState::Reset => return Err(Failure::ClientGone),
                PeerState::HalfClosed => {
                    let since = *line.half_closed_at.get_or_insert_with(|| self.world.now());
                    let patience = since + self.shared.config.timeouts.half_closed;
                    if patience < line.limit.0 {
                        line.limit = (patience, Failure::ClientGone);
                    }
                }
                PeerState::Open => {}
            }
            if is_slow {
                return Ok(Err(line));
            }
            let held = &mut [&mut client.buffer, &mut None];
            match self.wait_for_backend_until_slow(held, &client.stream, None, line.limit.0, slow_at) {
                Some(end) => wake = end,
                // Its turn may have come at the same moment.
                None => is_slow = true,
            }
        }
    }
}
