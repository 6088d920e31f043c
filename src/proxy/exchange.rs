//! One request, from its head to the last byte of its answer.
//!
//! The phases, in order: read head → parse → frame → route → admit → pick → lease → write head → pump request body ‖
//! read response head → rewrite → write head → pump response body → return the upstream connection → next.
//! `connection.rs` reads the head and parses; [`Proxy::direct`] takes the whole head from there to a rewritten one;
//! [`Proxy::exchange`] does the rest, try by try (`attempt.rs`). Both directions are moved by one loop ([`Transfer::run`])
//! that waits only when neither can go on.

use std::net::IpAddr;
use std::rc::Rc;

use super::aside::{Aside, Work};
use super::attempt::{Again, Miss};
use super::client::{Client, Parked};
use super::error::{Failure, Representation};
use super::forward::{self, RequestForwarding};
use super::occasion::Occasion;
use super::queue::{InLine, Room};
use super::request_id::RequestId;
use super::sticky::CookieDue;
use super::transfer::Transfer;
use super::tries::{Exchange, Queued, Tries};
use super::{Proxy, Scratch};
use crate::balance::Backend;
use crate::http1::{self, Framing, HopTrailers, Method, Parsed, Request, RequestError, Version};
use crate::policy::{Charge, Quota};
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Need, World};
use crate::upstream::Visit;

/// Tries of one request, at most; the configuration allows no more.
pub const TRIES_MAX: usize = 16;
/// No backend's id.
const NOBODY: u64 = 0;

/// What becomes of the client's connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It serves the next request.
    Next,
    /// It ends.
    Close,
    /// It ends, and more of the request may come: it is drained for a while first.
    Linger,
    /// It is cut, so that nobody takes what was sent for whole.
    Cut,
}

/// What a part of an exchange came to.
pub(super) enum Turn<W: World> {
    /// The exchange is over.
    Over(After),
    /// It needs no coroutine for a while.
    Aside(Box<Aside<W>>),
}

/// What an exchange has to remember of a request once its head is rewritten.
#[derive(Clone)]
pub(super) struct Facts {
    /// The same at each try.
    pub(super) id: RequestId,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) framing: Framing,
    /// What `Connection` keeps from going further behind its body.
    pub(super) hop_trailers: Option<HopTrailers>,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    /// The protocols that it offers to switch to.
    pub(super) offers: Option<Rc<[u8]>>,
    /// It logs in by a scheme that authenticates the connection to the backend.
    pub(super) binds: bool,
    /// What an error answer should look like; None: the head, which stays in the buffer, tells.
    pub(super) representation: Option<Representation>,
    /// What the client has left of its rate, if that is limited.
    pub(super) quota: Option<Quota>,
    /// What its answer has to tell of its session; another try may go elsewhere, and change it.
    pub(super) cookie: CookieDue,
}

/// What a request's head led to.
pub(super) struct Directions<W: World> {
    /// Its length in the client's buffer.
    pub(super) head_bytes: usize,
    pub(super) facts: Facts,
    /// Where it goes; its rewritten head is in the scratch then.
    pub(super) visit: Result<Visit<W>, Halt>,
}

/// Why a request isn't on its way to a backend.
pub(super) enum Halt {
    /// It never will be.
    Failed(Failure),
    /// There is no room for it now.
    Full,
}

/// What an exchange goes on with.
enum Next<W: World> {
    Visit(Result<Visit<W>, Halt>),
    /// It has waited in the queue without a coroutine.
    Line(InLine),
    After(Miss),
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Admits a request, picks a backend for it, and rewrites its head into `head` for that one. `again` has the id that
    /// it got at its first try. Never waits, so that whoever swaps the snapshot knows when its last reader has gone.
    pub(super) fn direct(
        &self,
        client: &Client<W::Stream>,
        request: &Request<'_, '_>,
        head: &mut Vec<u8>,
        tried: &[u64],
        again: Option<RequestId>,
    ) -> Directions<W> {
        let peer = client.seat.peer();
        let trusted = self.trusts(peer);
        let occasion = Occasion { proxy: self, request, peer, trusted };
        // A request is charged for once, however often it is tried.
        let charge = if again.is_none() { self.charge(&occasion) } else { None };
        let id = again.unwrap_or_else(|| self.identify(request, trusted));
        let mut facts = Facts::of(request, id, charge.map(|charge| charge.quota));
        let admitted = self.admit(request, charge).map_err(Halt::Failed);
        let home = client.bound.as_ref().map(|bound| bound.backend_id);
        let visit = admitted.and_then(|()| self.pick(home, tried, &occasion, &mut facts.cookie));
        if let Ok(visit) = &visit {
            self.rewrite(request, peer, trusted, id, visit.backend(), head);
        }
        Directions { head_bytes: 0, facts, visit }
    }

    /// Writes a request's head into `head` as it goes to `backend`.
    #[inline]
    pub(super) fn rewrite(
        &self,
        request: &Request<'_, '_>,
        peer: IpAddr,
        trusted: bool,
        id: RequestId,
        backend: &Backend,
        head: &mut Vec<u8>,
    ) {
        let how = RequestForwarding {
            base_path: backend.base_path.as_bytes(),
            default_host: backend.authority.as_bytes(),
            peer,
            trusted,
            untrusted_fields: &self.untrusted_fields,
            scheme: "http",
            request_id: id.as_bytes(),
            via: self.shared.via.as_ref(),
            upgrade: request.upgrade.is_some(),
        };
        head.clear();
        forward::write_request_head(head, request, &how);
    }

    fn charge(&self, occasion: &Occasion<'_, '_, '_, W>) -> Option<Charge> {
        self.shared.throttle.as_ref()?.charge(occasion)
    }

    fn admit(&self, request: &Request<'_, '_>, charge: Option<Charge>) -> Result<(), Failure> {
        if let Some(Charge { admits: false, quota }) = charge {
            return Err(Failure::RateLimited { retry_after_seconds: quota.more_seconds.get() });
        }
        // RFC 9110 §7.6.2: it must not be forwarded, but be answered here, which isn't done for these two methods.
        if request.max_forwards == Some(0) {
            return Err(Failure::BadRequest(RequestError::NotImplemented("Max-Forwards is used up")));
        }
        if request.has_via && self.has_come_by_too_often(request) {
            return Err(Failure::LoopDetected);
        }
        let body_max = self.shared.config.limits.body_bytes;
        match request.framing {
            Framing::Length(n) if body_max > 0 && n > body_max => Err(Failure::BodyTooLarge),
            _ => Ok(()),
        }
    }

    #[cold]
    fn has_come_by_too_often(&self, request: &Request<'_, '_>) -> bool {
        let hops_max = self.shared.config.limits.hops;
        hops_max > 0 && self.shared.via.as_ref().is_some_and(|via| via.visits(request) >= hops_max)
    }

    /// `home` is where a connection leads that is the client's own.
    fn pick(
        &self,
        home: Option<u64>,
        tried: &[u64],
        occasion: &Occasion<'_, '_, '_, W>,
        cookie: &mut CookieDue,
    ) -> Result<Visit<W>, Halt> {
        let fleet = &self.shared.fleet;
        let snapshot = fleet.snapshot.load();
        let session = self.session(occasion);
        // Who comes while others wait, waits behind them.
        while fleet.queue.waiting() == 0 {
            let bound = match home.and_then(|id| snapshot.home(id)) {
                Some(home) if home.has_room() && home.admit() => Some(home),
                Some(_) => break,
                None => session.and_then(|session| snapshot.bound(session.mark, tried)),
            };
            let pick = || snapshot.pick(&fleet.cursor, tried, occasion);
            let Some(backend) = bound.or_else(pick) else { break };
            // Where another request was quicker, somebody else may have room.
            let Some(visit) = self.pools.visit(backend) else { continue };
            if let Some(session) = session {
                *cookie = self.settle(session, &snapshot, tried, backend, occasion);
            }
            return Ok(visit);
        }
        let may_wait = snapshot.may_have_room() || home.is_some_and(|id| snapshot.home(id).is_some());
        Err(if may_wait { Halt::Full } else { Halt::Failed(Failure::NoBackend) })
    }

    /// Is what this peer says of the client before it believed?
    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        let trusted = &self.shared.trusted_proxies;
        !trusted.is_empty() && trusted.contains(peer)
    }

    fn identify(&self, request: &Request<'_, '_>, trusted: bool) -> RequestId {
        let random = || {
            let bits = (u128::from(self.world.random()) << 64) | u128::from(self.world.random());
            RequestId::random(bits)
        };
        forward::kept_request_id(request, trusted).map_or_else(random, RequestId::sent)
    }

    /// Sends the request on, tries again where the retry rule allows it, and answers.
    pub(super) fn exchange(
        &self,
        client: &mut Client<W::Stream>,
        directions: &mut Directions<W>,
        mut scratch: Scratch,
    ) -> Turn<W> {
        let Directions { head_bytes, facts, visit } = directions;
        client.whole_bytes = client.whole_request(*head_bytes, facts.framing);
        let mut tries = Tries::new(*head_bytes);
        let next = match std::mem::replace(visit, Err(Halt::Full)) {
            Ok(visit) => match self.attempt(client, facts, visit, &mut tries, &mut scratch) {
                Ok(turn) => return turn,
                Err(miss) => Next::After(miss),
            },
            Err(halt) => Next::Visit(Err(halt)),
        };
        self.go_through(client, facts, &mut tries, next, &mut scratch)
    }

    /// Goes on with an exchange that was laid aside while its client or its backend was waited for.
    pub(super) fn resume_exchange(
        &self,
        client: &mut Client<W::Stream>,
        exchange: Exchange<W>,
        held: Option<Buffer>,
    ) -> Turn<W> {
        let Exchange { mut facts, tried, mut course } = exchange;
        course.held = held;
        let mut scratch = self.scratch();
        let mut tries = Tries::new(0);
        tried.iter().for_each(|&id| tries.add(id));
        // Who was slow once doesn't get a coroutine to wait with again.
        let reused = course.lease.reused;
        let ran =
            Transfer::new(self, client, &facts, &mut course, self.world.now(), tries.tried()).run(&mut scratch.bytes);
        match ran {
            Ok(stop) => self.stopped(client, &facts, course, tries.tried(), stop),
            Err(interrupted) => {
                let miss = self.missed(&interrupted, &facts, reused, &mut tries);
                self.go_through(client, &mut facts, &mut tries, Next::After(miss), &mut scratch)
            }
        }
    }

    /// Try after try, until one has come to something. Out of line: mostly the first one does.
    #[cold]
    fn go_through(
        &self,
        client: &mut Client<W::Stream>,
        facts: &mut Facts,
        tries: &mut Tries,
        mut next: Next<W>,
        scratch: &mut Scratch,
    ) -> Turn<W> {
        loop {
            let room = match next {
                Next::Visit(Ok(visit)) => Ok(Room::Found(visit)),
                Next::Visit(Err(Halt::Failed(failure))) => Ok(Room::None(failure)),
                Next::Visit(Err(Halt::Full)) => Ok(self.wait_for_room(client, facts, tries.asked(), None, scratch)),
                Next::Line(line) => Ok(self.wait_for_room(client, facts, tries.asked(), Some(line), scratch)),
                Next::After(miss) => Err(miss),
            };
            let result = match room {
                Ok(Room::Found(visit)) => self.attempt(client, facts, visit, tries, scratch),
                Ok(Room::None(failure)) => Err(Miss::Failed { failure, again: Again::No }),
                Ok(Room::Later(line)) => return Self::stay_in_line(client, facts.clone(), tries, line),
                Err(miss) => Err(miss),
            };
            let miss = match result {
                Ok(turn) => return turn,
                Err(miss) => miss,
            };
            if matches!(miss, Miss::Away) {
                tries.absence.ends(self.world.now());
                tries.count -= 1;
                next = Next::Visit(Err(Halt::Full));
                continue;
            }
            if let Miss::Failed { failure, again } = miss {
                if !self.may_try_again(again, tries.count) {
                    return self.answer_failure(client, facts, failure, scratch);
                }
                // A kept connection that was closed says nothing of its backend: a session stays there.
                if again == Again::AtAnyRate && self.shared.stickiness.is_some() {
                    tries.ids[tries.count - 1] = NOBODY;
                }
            }
            self.world.take_turns(&client.stream);
            next = Next::Visit(self.direct_again(client, scratch, tries, facts));
        }
    }

    #[cold]
    fn stay_in_line(client: &mut Client<W::Stream>, facts: Facts, tries: &mut Tries, line: InLine) -> Turn<W> {
        let (need, deadline) = (Need::of_waiting(&client.stream), line.deadline());
        let tries = std::mem::replace(tries, Tries::new(0));
        let queued = Box::new(Queued { facts, tries, line });
        Turn::Aside(Aside::new(client, None, Work::Queued(queued), need, deadline))
    }

    /// Goes on with a request that has waited in the queue without a coroutine.
    pub(super) fn resume_in_line(&self, client: &mut Client<W::Stream>, queued: Queued) -> Turn<W> {
        let Queued { mut facts, mut tries, line } = queued;
        let mut scratch = self.scratch();
        self.go_through(client, &mut facts, &mut tries, Next::Line(line), &mut scratch)
    }

    fn may_try_again(&self, again: Again, tries: usize) -> bool {
        #[cfg(feature = "sabotage-give-up-early")] // Broken on purpose: ./x sabotage
        let tries = tries + 1;
        tries < self.tries_max()
            && match again {
                Again::No => false,
                Again::WithinBudget => self.withdraw_retry(),
                Again::AtAnyRate => true,
            }
    }

    pub(super) fn tries_max(&self) -> usize {
        (self.shared.config.retries.attempts as usize).min(TRIES_MAX)
    }

    /// Takes one retry out of the budget, if one is left.
    pub(super) fn withdraw_retry(&self) -> bool {
        self.shared.retries.withdraw(self.shared.config.retries.budget_percent, self.world.worker(), self.world.now().0)
    }

    /// The same request, whose head is still in the client's buffer, for another backend.
    fn direct_again(
        &self,
        client: &Client<W::Stream>,
        scratch: &mut Scratch,
        tries: &mut Tries,
        facts: &mut Facts,
    ) -> Result<Visit<W>, Halt> {
        let bytes = client.buffer.as_ref().map_or(&[][..], |buffer| buffer.filled());
        let parsed = http1::parse_request(bytes, &self.limits, |request| {
            self.direct(client, request, &mut scratch.bytes, tries.tried(), Some(facts.id))
        });
        let Ok(Parsed::Complete { head_bytes, value: directions }) = parsed else {
            return Err(Halt::Failed(Failure::NoBackend));
        };
        tries.head_bytes = head_bytes;
        facts.cookie = directions.facts.cookie;
        directions.visit
    }

    /// Parses the request at the front of the client's buffer again.
    pub(super) fn look_again<R>(
        &self,
        client: &Client<W::Stream>,
        look: impl FnOnce(&Request<'_, '_>) -> R,
    ) -> Option<R> {
        let bytes = client.buffer.as_ref().map_or(&[][..], |buffer| buffer.filled());
        match http1::parse_request(bytes, &self.limits, look) {
            Ok(Parsed::Complete { value, .. }) => Some(value),
            _ => None,
        }
    }
}

impl Facts {
    fn of(request: &Request<'_, '_>, id: RequestId, quota: Option<Quota>) -> Self {
        Self {
            id,
            method: request.method,
            version: request.version,
            framing: request.framing,
            hop_trailers: request.hop_trailers(),
            keep_alive: request.keep_alive,
            expects_continue: request.expect_continue,
            offers: request.upgrade.map(Rc::from),
            binds: request.binds_connection,
            representation: request.framing.has_body().then(|| Representation::of(request.values("accept"))),
            quota,
            cookie: CookieDue::No,
        }
    }
}
