//! Waiting for room where limits of concurrency are reached, `max_connections` of backends and `limits.max_in_flight`, and for
//! the last backend where it refuses connections, since it may be being restarted. One of those that wait looks after it.

use std::rc::Rc;
use std::time::Duration;

use super::error::Failure;
use super::occasion::Occasion;
use super::parked::Parked;
use super::state::{Exchange, InLine};
use super::wait::{Held, SLOW_AFTER};
use crate::balance::{Call, Place, Pool, QueueFull, Ticket};
use crate::runtime::world::{Instant, PeerState, Stream, Wake, World};
use crate::upstream::{ConnectError, Visit};

/// How often one of those that wait tries whether they take connections again.
const SCOUT_INTERVAL: Duration = Duration::from_millis(20);
/// How long such a try may take, and how many backends it asks.
const SCOUT_CONNECT_MAX: Duration = Duration::from_millis(250);
const SCOUTED_MAX: usize = 8;

impl<W: World<Parked = Parked>> Exchange<'_, W> {
    /// Has the request wait for its turn, `line` where it has waited before, and rewrites its head for the backend that it
    /// gets. Gives `line` back when it goes on waiting, and needs no coroutine.
    #[cold]
    pub(super) fn wait_for_room(
        &mut self,
        line: Option<Box<InLine>>,
    ) -> Result<Result<Visit<W>, Box<InLine>>, Failure> {
        let waited = line.is_some();
        let line = line.map_or_else(|| self.join_queue().map(Box::new), Ok)?;
        let visit = match self.wait_in_line(line, waited)? {
            Ok(place) => self.proxy.idle.visit_at(place),
            Err(line) => return Ok(Err(line)),
        };
        let bound = Rc::clone(&self.facts.bound);
        let redirected = self.client.look_again(&bound.connections.head_limits, |request| {
            let occasion = Occasion::new(self.proxy, &bound, request, self.client);
            if let Some(session) = occasion.session() {
                let snapshot = bound.route.pool.snapshot.load();
                let tried = self.stand.record.tried();
                self.facts.cookie = occasion.bind_session(session, &snapshot, tried, visit.backend());
            }
            occasion.rewrite(&self.facts.id, visit.backend(), &mut self.head.bytes);
        });
        // It was whole when it was picked for.
        redirected.map(|()| Ok(visit)).ok_or(Failure::NoBackend)
    }

    fn join(&self, home: Option<u64>) -> Result<Ticket, Failure> {
        let pool = &self.facts.route().pool;
        let waker = self.proxy.world.waker(&self.client.stream);
        let full = |QueueFull| if all_away(pool) { Failure::BackendAway } else { Failure::QueueFull };
        pool.line.join(self.stand.record.tried(), home, waker).map_err(full)
    }

    fn join_queue(&mut self) -> Result<InLine, Failure> {
        let home = self.client.pinned.as_ref().map(|pinned| pinned.backend_id);
        // One that can't even wait for the backend that it logged in at begins anew where there is room; where there is none
        // either it keeps its connection.
        let ticket = match self.join(home) {
            Err(_) if home.is_some() => self.join(None)?,
            joined => joined?,
        };
        let timeout = (self.proxy.world.now() + self.facts.rules().timeouts.queue, Failure::QueueTimeout);
        let late = self.stand.head_deadline.map(|at| (at, Failure::ResponseTimeout));
        let limit = late.filter(|late| late.0 < timeout.0).unwrap_or(timeout);
        Ok(InLine { ticket, limit, gone: None, until: limit.0 })
    }

    /// Waits until there is room, `queue.timeout` has passed, the answer would be late (where an earlier try has set its
    /// deadline), or the client has gone. Gives `line` back when the wait has become a long one; it is one from the start
    /// where it has been `resumed`. Where all backends are away, waits until one takes connections again, or for a second.
    fn wait_in_line(&mut self, mut line: Box<InLine>, resumed: bool) -> Result<Result<Place, Box<InLine>>, Failure> {
        let world = &self.proxy.world;
        let began = world.now();
        let slow_at = began + SLOW_AFTER;
        let mut is_slow = resumed;
        let mut scouts_at = began;
        let mut waited_until = None;
        loop {
            match line.ticket.take_call() {
                Some(Call::Place(place)) => return Ok(Ok(place)),
                Some(Call::NoBackend) => return Err(Failure::NoBackend),
                None => {}
            }
            let now = world.now();
            match self.client.stream.peer_state() {
                PeerState::Reset => return Err(Failure::ClientGone),
                PeerState::HalfClosed => {
                    let until = now + self.facts.rules().timeouts.half_closed;
                    line.gone.get_or_insert((until, Failure::ClientGone));
                }
                PeerState::Open => {}
            }
            let is_away = all_away(&self.facts.route().pool);
            let absence = &mut self.stand.absence;
            let in_vain = match line.limit {
                (_, Failure::QueueTimeout) if is_away => (absence.ends(now), Failure::BackendAway),
                limit if is_away && absence.ends(now) < limit.0 => (absence.ends(now), Failure::BackendAway),
                limit => limit,
            };
            let limit = line.gone.filter(|gone| gone.0 < in_vain.0).unwrap_or(in_vain);
            if now >= limit.0 || waited_until == Some(limit.0) {
                // Nor does it wait there for longer than others do.
                if limit.1 == Failure::QueueTimeout && self.client.pinned.take().is_some() {
                    drop(line.ticket);
                    line.ticket = self.join(None)?;
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
                self.scout(limit.0)?;
                scouts_at = world.now() + SCOUT_INTERVAL;
                continue;
            }
            let until = if scouts { scouts_at.min(limit.0) } else { limit.0 };
            let slow_at = if scouts { until } else { slow_at };
            let held = Held { buffers: [&mut self.client.buffer, &mut None], bound: &self.facts.bound };
            match self.proxy.wait_for_backend_until_slow(held, &self.client.stream, None, until, slow_at) {
                Some(wake) => waited_until = (wake == Wake::Deadline).then_some(until),
                // Its turn may have come at the same moment.
                None => is_slow = true,
            }
        }
    }

    /// Looks whether backends that are away have come back, for all that wait. Where anything else than a refusal comes of
    /// it, requests had better see for themselves.
    fn scout(&self, limit: Instant) -> Result<(), Failure> {
        let (proxy, world) = (self.proxy, &self.proxy.world);
        let snapshot = self.facts.route().pool.snapshot.load_full();
        let away: Vec<_> = snapshot.eligible().filter(|backend| backend.is_away()).collect();
        let first = world.random() as usize % away.len().max(1);
        for backend in away.iter().cycle().skip(first).take(away.len().min(SCOUTED_MAX)) {
            let deadline = limit.min(world.now() + SCOUT_CONNECT_MAX);
            match proxy.idle.try_out(backend, &self.client.stream, deadline) {
                Err(ConnectError::Refused) => {}
                Err(ConnectError::ClientGone) => return Err(Failure::ClientGone),
                _ => backend.came_back(),
            }
        }
        Ok(())
    }
}

fn all_away(pool: &Pool) -> bool {
    pool.snapshot.load().is_away()
}
