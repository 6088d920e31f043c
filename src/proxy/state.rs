//! An exchange while it goes on, and what its phases say to each other. What they do is told in `exchange.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Connection};
use super::course::Course;
use super::error::Failure;
use super::facts::Facts;
use super::parked::{Parked, Unsent};
use super::pump::Pump;
use super::record::{Record, TRIES_MAX};
use super::stillness::Stillness;
use super::worker::{Proxy, Scratch};
use crate::balance::Ticket;
use crate::plan::Route;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, World};
use crate::upstream::{Lease, Visit};

/// How long a request waits for backends that refuse connections: a restart takes less.
const AWAY_MAX: Duration = Duration::from_secs(1);

/// One request with its answer, while a coroutine has it.
pub(super) struct Exchange<'x, W: World<Parked = Parked>> {
    pub(super) proxy: &'x Proxy<W>,
    pub(super) client: &'x mut Client<W::Stream>,
    pub(super) facts: Facts,
    /// The head that is written next: the request's to the backend that was picked, the answer's to its client.
    pub(super) head: Scratch,
    /// Where it stands.
    pub(super) stand: Stand,
    /// What it goes on with.
    pub(super) work: Work<W>,
}

/// What is kept of an exchange over all its tries.
pub(super) struct Stand {
    pub(super) record: Record,
    /// The length of the request's head in the client's buffer.
    pub(super) head_bytes: usize,
    /// When the answer's head must be there, whichever backend gives it; set once a try has sent the request.
    pub(super) head_deadline: Option<Instant>,
    pub(super) absence: Absence,
}

/// What an exchange goes on with.
pub(super) enum Work<W: World> {
    /// A try at the backend that was picked; its rewritten head is there.
    Try(Visit<W>),
    /// No backend was picked.
    Again(Again),
    /// A transfer that was laid aside.
    Transfer(Box<Course<W>>),
    Tunnel(Box<Tunnel<W>>),
}

/// How an exchange ended, as far as its client's connection has to know.
pub(super) enum Ended<W: World> {
    /// All of its answer is sent.
    Answered {
        /// It was the connection's last.
        last: bool,
        /// The client may still be sending: the rest of its request, or another one.
        unread: bool,
    },
    /// Its answer broke off, or never began.
    BrokenOff {
        /// The client sees that by the answer's framing.
        shown: bool,
    },
    /// By an answer of the proxy's own, which is made and remains to be sent.
    Refused {
        /// It is the connection's last.
        last: bool,
    },
    /// The same, of which its client has not taken everything yet.
    Unsent(Box<Unsent>),
    /// It hasn't: it needs no coroutine for a while.
    Aside(Box<Aside<W>>),
}

/// What becomes of a request that has no answer yet.
pub(super) enum Again {
    /// It is answered with this.
    No(Failure),
    /// It is answered with a redirection, of which the head's bytes hold the place.
    Redirect,
    /// It is sent again by the retry rule, within the budget, or else answered with this.
    WithinBudget(Failure),
    /// The same whatever the budget: a kept connection turned out to be closed, as they do, which says nothing of the backend.
    AtAnyRate(Failure),
    /// It is sent again, for which the budget has been charged: its answer was passed over.
    Granted,
    /// It isn't sent at all: an authority asks whether a name is ours, and is answered with this.
    Shown(Arc<str>),
    /// It waits until there is room for it; where it has waited before, in the same place.
    Wait(Option<Box<InLine>>),
}

/// One try's transfer, while a coroutine runs it.
pub(super) struct Transfer<'a, 'x, W: World<Parked = Parked>> {
    pub(super) exchange: &'a mut Exchange<'x, W>,
    pub(super) course: &'a mut Course<W>,
    /// When a wait has become a long one.
    pub(super) slow_at: Instant,
    /// Bytes that had moved when the backend was given some more time.
    pub(super) lingered_at: u64,
}

/// Where a transfer has come to a stop.
pub(super) enum Stop<W: World> {
    /// It is over.
    Over(Ended<W>),
    /// It waits until then for the client to do this, so long that it needs no coroutine.
    Aside(Need, Instant),
    /// The request's last byte is sent behind a 101: the rest is a tunnel.
    Tunnel,
}

/// What the head of a backend's answer begins.
pub(super) enum Answer {
    /// A body, whose head was sent on; the course has it.
    Body,
    /// A 101 to what was offered; its rewritten head is there.
    Tunnel,
    /// One of this status, instead of which another backend is to be asked.
    PassedOver(u16),
}

/// An exchange that has no coroutine.
pub(super) struct Aside<W: World> {
    /// Set with the stream parked.
    pub(super) connection: Option<Connection<()>>,
    /// Bytes read and not used up, of the client's side and of the backend's.
    pub(super) unread: [Option<Box<[u8]>>; 2],
    /// What the client has to do, and by when.
    pub(super) need: Need,
    pub(super) deadline: Instant,
    pub(super) facts: Facts,
    pub(super) stand: Stand,
    pub(super) work: Work<W>,
}

/// A request that waits for room.
pub(super) struct InLine {
    pub(super) ticket: Ticket,
    /// Until when, and what it means when that moment has come.
    pub(super) limit: (Instant, Failure),
    /// The same once its client has closed its sending side.
    pub(super) gone: Option<(Instant, Failure)>,
    /// When it has to be looked at again without a coroutine.
    pub(super) until: Instant,
}

/// Whether a request has met backends that are away, and how long it waits for them.
#[derive(Debug, Default)]
pub(super) struct Absence(Option<Instant>);

/// What is known of a tunnel, its client's connection apart.
pub(super) struct Tunnel<W: World> {
    pub(super) lease: Lease<W>,
    /// In flight until it ends.
    pub(super) _visit: Visit<W>,
    pub(super) up: Pump<W::Stream>,
    pub(super) down: Pump<W::Stream>,
    pub(super) client_ended: bool,
    pub(super) stillness: Stillness,
    /// Bytes of the backend's that are to go on.
    pub(super) held: Option<Buffer>,
}

impl<W: World> Ended<W> {
    /// Nothing more can be said to the client.
    pub(super) const CUT: Self = Self::BrokenOff { shown: false };
}

impl<W: World> Work<W> {
    /// Takes it out.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Again(Again::Wait(None)))
    }
}

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

impl<W: World<Parked = Parked>> Exchange<'_, W> {
    /// Tries of the request, at most.
    pub(super) fn tries_max(&self) -> usize {
        (self.facts.rules().retries.attempts as usize).min(TRIES_MAX)
    }

    /// Takes one retry out of the budget, if one is left.
    pub(super) fn withdraw_retry(&self) -> bool {
        let (world, Route { pool, rules, .. }) = (&self.proxy.world, self.facts.route());
        pool.retry_cells.withdraw(rules.retries.budget_percent, world.worker(), world.now().0)
    }

    /// What the retry rule says of a request that may be sent twice, and whose connection ended before its answer.
    pub(super) fn again_after_reset(&self, failure: Failure, reused: bool) -> Again {
        match self.facts.rules().retries.on_reset {
            true if reused => Again::AtAnyRate(failure),
            true => Again::WithinBudget(failure),
            false => Again::No(failure),
        }
    }

    /// Whether the client's connection ends with this request.
    pub(super) fn is_last(&self) -> bool {
        self.proxy.shared.is_draining() || self.facts.bound.connections.is_last(self.client.requests)
    }
}
