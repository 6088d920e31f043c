//! One request, from its head to the last byte of its answer. To read this file is to know what maypole does.
//!
//! ```text
//! open   admit → route → pick → rewrite                 within the one parse of the head, without a wait
//! run    lease → send head → transfer ───→ end          the request is answered, refused, or cut
//!          ↑                    ├────────→ aside        it needs no coroutine for a while, and is run again then
//!          └─────── again ──────┘                       by the retry rule, or once there is room for it
//! ```
//!
//! `connection.rs` reads heads, and makes of how an exchange ended what becomes of the connection. What an exchange has at
//! hand is in `state.rs`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use super::bound::Bound;
use super::client::{Client, LINGER};
use super::course::Course;
use super::error::Failure;
use super::facts::Facts;
use super::forward;
use super::occasion::Occasion;
use super::parked::Parked;
use super::pinned::Pinned;
use super::record::{End, Record};
use super::request_id::RequestId;
use super::state::{Absence, Again, Ended, Exchange, Stand, Stop, Work};
use super::sticky::CookieDue;
use super::wait::SLOW_AFTER;
use super::worker::Proxy;
use crate::http1::{self, Framing, Method, Parsed, Request, RequestError, Target};
use crate::plan::{Challenges, RequestRules};
use crate::policy::Charge;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, Stream, World};
use crate::upstream::Visit;

impl<'x, W: World<Parked = Parked>> Exchange<'x, W> {
    /// One whose head's first bytes are there, since `begun` as far as is known.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn new(
        proxy: &'x Proxy<W>,
        client: &'x mut Client<W::Stream>,
        bound: Rc<Bound>,
        begun: Option<Instant>,
    ) -> Self {
        Self {
            proxy,
            client,
            facts: Facts::unknown(bound),
            head: proxy.scratch(),
            stand: Stand {
                record: Record::new(begun),
                head_bytes: 0,
                head_deadline: None,
                absence: Absence::default(),
            },
            work: Work::Again(Again::Wait(None)),
        }
    }

    /// Parses the head at the front of `bytes`, and if it is whole, admits its request, picks a backend for it, and rewrites
    /// the head for that one. False when more has to come. Never waits, so that once every worker has passed its mailbox, no pick of a
    /// snapshot from before is under way.
    ///
    /// # Errors
    /// Why the head is refused.
    #[inline]
    pub(super) fn open(&mut self, bytes: &[u8]) -> Result<bool, RequestError> {
        let limits = self.facts.bound.connections.head_limits;
        match http1::parse_request(bytes, &limits, |request| self.admit(request, true))? {
            Parsed::Complete { head_bytes, value: () } => {
                self.stand.head_bytes = head_bytes;
                Ok(true)
            }
            Parsed::Partial => Ok(false),
        }
    }

    /// Ends it with this before it has begun.
    pub(super) fn refuse(&mut self, failure: Failure) {
        self.work = Work::Again(Again::No(failure));
    }

    /// Its whole head is at the front of `buffer`.
    #[inline]
    pub(super) fn has_head(&mut self, buffer: Buffer) {
        let client = &mut *self.client;
        client.buffer = Some(buffer);
        client.requests += 1;
        client.whole_bytes = client.whole_request(self.stand.head_bytes, self.facts.framing);
    }

    /// Admits the request, picks a backend for it, and rewrites its head for that one. It is charged for and gets its id at
    /// the `first` time alone, however often it is tried.
    #[inline]
    fn admit(&mut self, request: &Request<'_, '_>, first: bool) {
        if first {
            self.facts.read(request);
        }
        let Self { proxy, client, facts, head, stand, work } = self;
        if let Some(challenges) = &facts.bound.route.challenges
            && let Some(shown) = shown(challenges, request)
        {
            *work = Work::Again(Again::Shown(shown));
            return;
        }
        let occasion = Occasion::new(proxy, &facts.bound, request, client);
        facts.cookie = CookieDue::No;
        let mut admitted = Ok(());
        if first {
            let charge = occasion.charge();
            facts.quota = charge.map(|charge| charge.quota);
            facts.id = identify(proxy, request, occasion.trusted);
            admitted = check(&occasion, charge);
        }
        let home = client.pinned.as_ref().map(|pinned| pinned.backend_id);
        let mut pick = || pick(home, stand.record.tried(), &occasion, &mut facts.cookie);
        *work = match admitted.and_then(|()| pick()) {
            Ok(visit) => {
                occasion.rewrite(&facts.id, visit.backend(), &mut head.bytes);
                Work::Try(visit)
            }
            Err(again) => {
                if matches!(again, Again::Redirect) {
                    occasion.write_place(&mut head.bytes);
                }
                Work::Again(again)
            }
        };
    }

    /// Runs it until it has ended or needs no coroutine for a while. If it panics, which is a defect, the request's id is
    /// logged and its client sees a cut: closed in good order the connection could make what was sent of an answer look
    /// whole. What the exchange held goes back as the panic passes, on its way to the runtime, which counts it.
    pub(super) fn run(&mut self) -> Ended<W> {
        let ran = catch_unwind(AssertUnwindSafe(|| self.go()));
        if let Err(panic) = &ran {
            log::error!("request {} was ended by a defect in maypole: {}", self.facts.id, message(&**panic));
            self.stand.record.end = End::Defect;
            self.client.stream.reset_on_close();
        }
        if !matches!(ran, Ok(Ended::Aside(_))) {
            self.end();
        }
        match ran {
            Ok(Ended::Refused { last }) => self.send_own(last),
            Ok(ended) => ended,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The only way out, for every request.
    fn end(&mut self) {
        self.proxy.enter(&self.stand.record);
    }

    /// Goes on with what there is to do.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is all of `run`")]
    fn go(&mut self) -> Ended<W> {
        loop {
            let again = match self.work.take() {
                Work::Try(visit) => match self.attempt(visit) {
                    Ok(ended) => return ended,
                    Err(again) => self.missed(again),
                },
                Work::Transfer(course) => match self.go_on_transferring(*course) {
                    Ok(ended) => return ended,
                    Err(again) => self.missed(again),
                },
                Work::Again(again) => again,
                Work::Tunnel(tunnel) => return self.go_on_tunnelling(tunnel, LINGER),
            };
            if let Some(ended) = self.again(again) {
                return ended;
            }
        }
    }

    /// One try: lease a connection, send the request, and bring its answer back.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    fn attempt(&mut self, visit: Visit<W>) -> Result<Ended<W>, Again> {
        self.stand.record.begin_try(visit.backend().id);
        let leased = self.lease(&visit);
        let began = self.proxy.world.now();
        self.has_leased(began);
        let (lease, pinned) = leased?;
        let mut course = Course::new(lease, visit, pinned || self.facts.binds, began);
        self.send(&mut course)?;
        match self.transfer(&mut course, began + SLOW_AFTER)? {
            // As nearly always: what the course has needn't be moved.
            Stop::Over(ended) if !course.pinned => {
                if let Some((since, until)) = course.idle {
                    course.lease.give_back(since, until);
                }
                Ok(ended)
            }
            stop => Ok(self.stopped(course, stop)),
        }
    }

    /// Goes on with a transfer that was laid aside. A client that was slow once doesn't get a coroutine to wait with again.
    #[cold]
    fn go_on_transferring(&mut self, mut course: Course<W>) -> Result<Ended<W>, Again> {
        let stop = self.transfer(&mut course, self.proxy.world.now())?;
        Ok(self.stopped(course, stop))
    }

    /// Goes on with what a transfer has come to when it stopped.
    #[cold]
    fn stopped(&mut self, course: Course<W>, stop: Stop<W>) -> Ended<W> {
        match stop {
            Stop::Over(ended) => {
                match course.idle {
                    Some((_, until)) if course.pinned => self.client.pinned = Some(Pinned::new(course.lease, until)),
                    Some((since, until)) => course.lease.give_back(since, until),
                    None => {}
                }
                ended
            }
            Stop::Aside(need, deadline) => self.lay_aside(Work::Transfer(Box::new(course)), need, deadline),
            Stop::Tunnel => self.open_tunnel(course),
        }
    }

    /// Notes why a try came to nothing.
    #[cold]
    fn missed(&mut self, again: Again) -> Again {
        let Stand { record, absence, .. } = &mut self.stand;
        match &again {
            Again::No(failure) | Again::WithinBudget(failure) | Again::AtAnyRate(failure) => {
                record.has_failed(*failure);
            }
            Again::Granted | Again::Redirect | Again::Shown(_) => {}
            // To wait for a backend that is away is no try.
            Again::Wait(_) => {
                absence.ends(self.proxy.world.now());
                record.take_back_try();
            }
        }
        again
    }

    /// What becomes of a request that has no answer yet. None: it goes on, as its work says.
    #[cold]
    fn again(&mut self, again: Again) -> Option<Ended<W>> {
        if let Again::Wait(line) = again {
            let waited = self.wait_for_room(line);
            return match waited {
                Ok(Ok(visit)) => {
                    self.work = Work::Try(visit);
                    None
                }
                Ok(Err(line)) => {
                    let (need, deadline) = (Need::of_waiting(&self.client.stream), line.until);
                    Some(self.lay_aside(Work::Again(Again::Wait(Some(line))), need, deadline))
                }
                Err(failure) => Some(self.answer_failure(failure)),
            };
        }
        match again {
            Again::Redirect => return Some(self.redirect()),
            Again::Shown(shown) => return Some(self.answer_challenge(&shown)),
            _ => {}
        }
        // A kept connection that was closed says nothing of its backend: a session stays there.
        let spares = matches!(again, Again::AtAnyRate(_)) && self.facts.route().stickiness.is_some();
        if let Some(failure) = self.gives_up(&again) {
            return Some(self.answer_failure(failure));
        }
        if spares {
            self.stand.record.spare_last();
        }
        self.proxy.world.take_turns(&self.client.stream);
        self.open_again();
        None
    }

    /// What the request is answered, unless it is sent again.
    fn gives_up(&self, again: &Again) -> Option<Failure> {
        let tries = self.stand.record.count();
        #[cfg(feature = "sabotage-give-up-early")] // Broken on purpose: ./x sabotage
        let tries = tries + 1;
        let (may, failure) = match again {
            Again::Granted | Again::Redirect | Again::Shown(_) | Again::Wait(_) => return None,
            Again::No(failure) => (false, failure),
            Again::WithinBudget(failure) => (tries < self.tries_max() && self.withdraw_retry(), failure),
            Again::AtAnyRate(failure) => (tries < self.tries_max(), failure),
        };
        (!may).then_some(*failure)
    }

    /// Picks another backend for the request, whose head is still in the client's buffer.
    fn open_again(&mut self) {
        let limits = self.facts.bound.connections.head_limits;
        let buffer = self.client.buffer.take();
        let bytes = buffer.as_ref().map_or(&[][..], |buffer| buffer.filled());
        let parsed = http1::parse_request(bytes, &limits, |request| self.admit(request, false));
        if !matches!(parsed, Ok(Parsed::Complete { .. })) {
            self.refuse(Failure::NoBackend);
        }
        self.client.buffer = buffer;
    }
}

/// What an authority that asks whether a name is ours is answered.
#[cold]
fn shown(challenges: &Challenges, request: &Request<'_, '_>) -> Option<Arc<str>> {
    match (request.method, request.target) {
        (Method::Get | Method::Head, Target::Origin(path)) => challenges.answer(path),
        _ => None,
    }
}

/// Whether the request goes on to a backend; else what becomes of it.
fn check<W: World<Parked = Parked>>(occasion: &Occasion<'_, '_, '_, W>, charge: Option<Charge>) -> Result<(), Again> {
    check_place(occasion)?;
    check_request(&occasion.route().rules, occasion.request, charge).map_err(Again::No)
}

/// Whether it came the right way.
fn check_place<W: World<Parked = Parked>>(occasion: &Occasion<'_, '_, '_, W>) -> Result<(), Again> {
    if occasion.encrypted {
        return if occasion.is_misdirected() { Err(Again::No(Failure::Misdirected)) } else { Ok(()) };
    }
    match occasion.route().rules.redirect_to {
        Some(_) => occasion.is_to_be_redirected(),
        None => Ok(()),
    }
}

fn check_request(rules: &RequestRules, request: &Request<'_, '_>, charge: Option<Charge>) -> Result<(), Failure> {
    if let Some(Charge { admits: false, quota }) = charge {
        return Err(Failure::RateLimited { retry_after_seconds: quota.more_seconds.get() });
    }
    // RFC 9110 §7.6.2: it must not be forwarded, but be answered here, which isn't done for these two methods.
    if request.max_forwards == Some(0) {
        return Err(Failure::BadRequest(RequestError::NotImplemented("Max-Forwards is used up")));
    }
    if request.has_via && has_come_by_too_often(rules, request) {
        return Err(Failure::LoopDetected);
    }
    let body_max = rules.body_bytes_max;
    match request.framing {
        Framing::Length(n) if body_max > 0 && n > body_max => Err(Failure::BodyTooLarge),
        _ => Ok(()),
    }
}

#[cold]
fn has_come_by_too_often(rules: &RequestRules, request: &Request<'_, '_>) -> bool {
    let hops_max = rules.hops_max;
    hops_max > 0 && rules.via.as_ref().is_some_and(|via| via.visits(request) >= hops_max)
}

/// `home` is where a connection leads that is the client's own.
fn pick<W: World<Parked = Parked>>(
    home: Option<u64>,
    tried: &[u64],
    occasion: &Occasion<'_, '_, '_, W>,
    cookie: &mut CookieDue,
) -> Result<Visit<W>, Again> {
    let pool = &occasion.route().pool;
    let snapshot = pool.snapshot.load();
    let session = occasion.session();
    // A request that comes while others wait, waits behind them.
    while pool.line.waiting() == 0 {
        let bound = match home.and_then(|id| snapshot.home(id)) {
            Some(home) if home.has_room() && home.admit() => Some(home),
            Some(_) => break,
            None => session.and_then(|session| snapshot.bound(session.mark, tried)),
        };
        let pick = || snapshot.pick(&pool.cursor, tried, occasion);
        let Some(backend) = bound.or_else(pick) else { break };
        // Where another request was quicker, another backend may have room.
        let Some(visit) = occasion.proxy.idle.visit(backend) else { continue };
        if let Some(session) = session {
            *cookie = occasion.bind_session(session, &snapshot, tried, backend);
        }
        return Ok(visit);
    }
    let may_wait = snapshot.may_have_room() || home.is_some_and(|id| snapshot.home(id).is_some());
    Err(if may_wait { Again::Wait(None) } else { Again::No(Failure::NoBackend) })
}

#[inline]
fn identify<W: World<Parked = Parked>>(proxy: &Proxy<W>, request: &Request<'_, '_>, trusted: bool) -> RequestId {
    let random = || {
        let [high, low] = [proxy.world.random(), proxy.world.random()];
        RequestId::random([low, high])
    };
    forward::kept_request_id(request, trusted).map_or_else(random, RequestId::sent)
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
