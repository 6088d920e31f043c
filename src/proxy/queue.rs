//! Waiting for room where limits of concurrency are reached, `max_connections` of backends and `limits.max_in_flight`, and for
//! the last backend where it refuses connections, since it may be being restarted. One of those that wait looks after it.

use std::time::Duration;

use super::client::{Client, Parked};
use super::error::Failure;
use super::exchange::Facts;
use super::occasion::Occasion;
use super::patience::SLOW_AFTER;
use super::{Proxy, Scratch};
use crate::balance::{Call, Place, QueueFull, Snapshot, Ticket};
use crate::runtime::world::{Instant, PeerState, Stream, Wake, World};
use crate::upstream::{ConnectError, Visit};

/// How long a request waits for backends that refuse connections: a restart takes less.
const AWAY_MAX: Duration = Duration::from_secs(1);
/// How often one of those that wait tries whether they take connections again.
const SCOUT_INTERVAL: Duration = Duration::from_millis(20);
/// How long such a try may take, and how many backends it asks.
const SCOUT_PATIENCE: Duration = Duration::from_millis(250);
const SCOUTED_MAX: usize = 8;

/// A request that waits for its turn.
pub(super) struct InLine {
    ticket: Ticket,
    /// Until when, and what it means when that moment has come.
    limit: (Instant, Failure),
    /// The same once its client has closed its sending side.
    gone: Option<(Instant, Failure)>,
    /// When it has to be looked at again without a coroutine.
    until: Instant,
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
        self.until
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
        (tried, head_deadline, absence): (&[u64], Option<Instant>, &mut Absence),
        line: Option<InLine>,
        scratch: &mut Scratch,
    ) -> Room<W> {
        let waited = line.is_some();
        let joined = line.map_or_else(|| self.join_queue(client, tried, head_deadline), Ok);
        let placed = joined.and_then(|line| self.wait_in_line(client, tried, line, waited, absence));
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
        let full = |QueueFull| if self.all_away() { Failure::BackendAway } else { Failure::QueueFull };
        self.shared.fleet.queue.join(tried, home, waker).map_err(full)
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
        Ok(InLine { ticket, limit, gone: None, until: limit.0 })
    }

    /// Waits until there is room, `queue.timeout` has passed, the answer would be late (where an earlier try has set its
    /// deadline), or the client has gone. Gives `line` back when the wait has become a long one; it is one from the start
    /// where it has been `resumed`. Where all backends are away, waits until one takes connections again, or for a second.
    fn wait_in_line(
        &self,
        client: &mut Client<W::Stream>,
        tried: &[u64],
        mut line: InLine,
        resumed: bool,
        absence: &mut Absence,
    ) -> Result<Result<Place, InLine>, Failure> {
        let began = self.world.now();
        let slow_at = began + SLOW_AFTER;
        let mut is_slow = resumed;
        let mut scouts_at = began;
        let mut waited_until = None;
        loop {
            match line.ticket.take_call() {
                Some(Call::Place(place)) => return Ok(Ok(place)),
                Some(Call::Nobody) => return Err(Failure::NoBackend),
                None => {}
            }
            let now = self.world.now();
            match client.stream.peer_state() {
                PeerState::Reset => return Err(Failure::ClientGone),
                PeerState::HalfClosed => {
                    let patience = now + self.shared.config.timeouts.half_closed;
                    line.gone.get_or_insert((patience, Failure::ClientGone));
                }
                PeerState::Open => {}
            }
            let is_away = self.all_away();
            let in_vain = match line.limit {
                (_, Failure::QueueTimeout) if is_away => (absence.ends(now), Failure::BackendAway),
                limit if is_away && absence.ends(now) < limit.0 => (absence.ends(now), Failure::BackendAway),
                limit => limit,
            };
            let limit = line.gone.filter(|gone| gone.0 < in_vain.0).unwrap_or(in_vain);
            if now >= limit.0 || waited_until == Some(limit.0) {
                // Nor does it wait there for longer than others do.
                if limit.1 == Failure::QueueTimeout && client.bound.take().is_some() {
                    drop(line.ticket);
                    line.ticket = self.join(client, tried, None)?;
                    continue;
                }
                return Err(limit.1);
            }
            let scouts = is_away && line.ticket.is_scout();
            if is_slow && !scouts {
                line.until = limit.0;
                return Ok(Err(line));
            }
            if scouts && now >= scouts_at {
                self.scout(client, limit.0)?;
                scouts_at = self.world.now() + SCOUT_INTERVAL;
                continue;
            }
            let until = if scouts { scouts_at.min(limit.0) } else { limit.0 };
            let slow_at = if scouts { until } else { slow_at };
            let held = &mut [&mut client.buffer, &mut None];
            match self.wait_for_backend_until_slow(held, &client.stream, None, until, slow_at) {
                Some(wake) => waited_until = (wake == Wake::Deadline).then_some(until),
                // Its turn may have come at the same moment.
                None => is_slow = true,
            }
        }
    }

    fn all_away(&self) -> bool {
        self.shared.fleet.snapshot.load().is_away()
    }

    /// Whether the backend that has just refused a connection is the last one that could take the request: from now on it is
    /// away, for whoever comes.
    pub(super) fn is_away(&self, visit: &Visit<W>, tried: &[u64]) -> bool {
        if self.shared.fleet.snapshot.load().offers_other_than(tried) {
            return false;
        }
        visit.backend().went_away();
        self.note_absence(visit);
        true
    }

    /// Looks whether backends that are away have come back, for all that wait. Where anything else than a refusal comes of
    /// it, requests had better see for themselves.
    fn scout(&self, client: &Client<W::Stream>, limit: Instant) -> Result<(), Failure> {
        let snapshot = self.shared.fleet.snapshot.load_full();
        let away: Vec<_> = snapshot.eligible().filter(|backend| backend.is_away()).collect();
        let first = self.world.random() as usize % away.len().max(1);
        for backend in away.iter().cycle().skip(first).take(away.len().min(SCOUTED_MAX)) {
            let deadline = limit.min(self.world.now() + SCOUT_PATIENCE);
            match self.pools.try_out(backend, &client.stream, deadline) {
                Err(ConnectError::Refused) => {}
                Err(ConnectError::ClientGone) => return Err(Failure::ClientGone),
                _ => backend.came_back(),
            }
        }
        Ok(())
    }

    /// Has backends that are away tried again where nobody waits for them, and so nobody looks after them. To be called once
    /// a second.
    pub(super) fn welcome_back(&self, snapshot: &Snapshot) {
        if self.shared.fleet.queue.waiting() == 0 {
            snapshot.backends().filter(|backend| backend.is_away()).for_each(|backend| backend.came_back());
        }
    }
}

/// Whether a request has met backends that are away, and how long it waits for them.
#[derive(Debug, Default)]
pub(super) struct Absence(Option<Instant>);

impl Absence {
    /// Whether it has.
    pub(super) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// When it has waited for long enough, at however many refusals.
    pub(super) fn ends(&mut self, now: Instant) -> Instant {
        *self.0.get_or_insert(now + AWAY_MAX)
    }
}
