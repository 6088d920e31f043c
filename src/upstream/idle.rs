//! Each worker's idle connections to backends, and leases of them.
//!
//! A connection is in exactly one place: idle, or in one lease. A lease that is dropped closes it; only
//! [`Lease::give_back`] returns it, so that no error path can put a spoilt connection back.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::endpoints::{EndpointId, Endpoints};
use super::{ConnectError, connect};
use crate::balance::{Backend, InFlight, Place, Seen, Thresholds, Transition};
use crate::runtime::world::{Instant, Stream, World};

/// So many backends are swept between two looks at the network: closing a connection takes some microseconds, and freeing a
/// backend that was removed one, so that a piece of which each has both stays far below a millisecond.
const SWEPT_AT_A_TIME: usize = 64;

/// One worker's, for each backend that it has sent a request to.
pub struct IdleConnections<W: World> {
    world: W,
    /// By the backend's slot.
    table: RefCell<Vec<Option<Rc<ToBackend<W>>>>>,
    /// Where the sweep goes on; at the beginning where it is through.
    swept: Cell<usize>,
}

/// One worker's idle connections to one backend.
struct ToBackend<W: World> {
    backend: Arc<Backend>,
    endpoints: RefCell<Endpoints<W::Stream>>,
}

/// A request that is on its way to a backend: counted in flight there until it is dropped.
pub struct Visit<W: World> {
    in_flight: InFlight<CountedOn<W>>,
}

struct CountedOn<W: World>(Rc<ToBackend<W>>);

impl<W: World> Deref for CountedOn<W> {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.0.backend
    }
}

/// A connection to a backend that belongs to one request, or to one client.
pub struct Lease<W: World> {
    /// The connection.
    pub stream: W::Stream,
    /// It has served a request before, so its server may have closed it just now.
    pub reused: bool,
    /// Other addresses of the backend were asked for it, and took no connection.
    pub missed: bool,
    to_backend: Rc<ToBackend<W>>,
    endpoint: EndpointId,
}

impl<W: World> IdleConnections<W> {
    /// None yet.
    pub fn new(world: W) -> Self {
        Self { world, table: RefCell::default(), swept: Cell::new(0) }
    }

    /// Counts a request in flight to `backend`; None when there are as many as may be. To be called in the same turn as
    /// the pick.
    #[inline]
    pub fn visit(&self, backend: &Arc<Backend>) -> Option<Visit<W>> {
        InFlight::begin(self.connections_to(backend)).map(|in_flight| Visit { in_flight })
    }

    /// The visit of a request that has waited for its place.
    pub fn visit_at(&self, place: Place) -> Visit<W> {
        let to_backend = self.connections_to(place.backend());
        Visit { in_flight: place.begin(to_backend) }
    }

    #[inline]
    fn connections_to(&self, backend: &Arc<Backend>) -> CountedOn<W> {
        let mut table = self.table.borrow_mut();
        if table.len() <= backend.slot {
            table.resize_with(backend.slot + 1, || None);
        }
        let entry = &mut table[backend.slot];
        CountedOn(match entry {
            Some(to_backend) if to_backend.backend.id == backend.id => Rc::clone(to_backend),
            _ => {
                let backend = Arc::clone(backend);
                let endpoints = RefCell::new(Endpoints::new(self.world.encryption_generation()));
                let to_backend = Rc::new(ToBackend { backend, endpoints });
                *entry = Some(Rc::clone(&to_backend));
                to_backend
            }
        })
    }

    /// Sees whether `backend` takes a connection, and keeps that for the next request.
    ///
    /// # Errors
    /// See [`connect`].
    pub fn try_out(&self, backend: &Arc<Backend>, client: &W::Stream, deadline: Instant) -> Result<(), ConnectError> {
        let to_backend = self.connections_to(backend).0;
        let lease = to_backend.connect(&self.world, client, deadline)?;
        lease.give_back(self.world.now(), Instant::NEVER);
        Ok(())
    }

    /// Closes what has been idle for `keep_alive`, what its server has closed, what leads to an address that its backend's
    /// name has left or that is ill, what is encrypted by something else than what connections are now, and every idle connection
    /// to a backend that was removed: a piece of it. Whether there is more to sweep, for which it is to be called again once
    /// others have had a turn.
    pub fn sweep(&self, keep_alive: Duration) -> bool {
        let (now, encryption) = (self.world.now(), self.world.encryption_generation());
        let mut table = self.table.borrow_mut();
        let begin = self.swept.take();
        for entry in table.iter_mut().skip(begin).take(SWEPT_AT_A_TIME) {
            let Some(to_backend) = entry else { continue };
            let mut endpoints = to_backend.endpoints.borrow_mut();
            if to_backend.backend.is_encrypted {
                endpoints.encrypt_by(encryption);
            }
            endpoints.sweep(&to_backend.backend.addresses, now, keep_alive, |stream| stream.is_quiet(false));
            drop(endpoints);
            if to_backend.backend.is_retired() {
                *entry = None;
            }
        }
        let is_more = begin + SWEPT_AT_A_TIME < table.len();
        if is_more {
            self.swept.set(begin + SWEPT_AT_A_TIME);
        }
        is_more
    }

    /// Closes the connection that has been idle for longest, to whichever backend, so that its descriptor is free. False
    /// when none is idle.
    pub fn close_oldest_idle(&self) -> bool {
        let table = self.table.borrow();
        let since = |to_backend: &ToBackend<W>| to_backend.endpoints.borrow().oldest().unwrap_or(Instant::NEVER);
        let oldest = table.iter().flatten().min_by_key(|to_backend| since(to_backend));
        oldest.is_some_and(|to_backend| to_backend.endpoints.borrow_mut().take_oldest().is_some())
    }

    /// How many are idle, to whichever backend.
    pub fn idle(&self) -> usize {
        self.table.borrow().iter().flatten().map(|to_backend| to_backend.endpoints.borrow().idle()).sum()
    }
}

impl<W: World> ToBackend<W> {
    fn connect(self: &Rc<Self>, world: &W, client: &W::Stream, deadline: Instant) -> Result<Lease<W>, ConnectError> {
        let candidates = self.endpoints.borrow_mut().candidates(&self.backend.addresses);
        let host = self.backend.is_encrypted.then_some(&*self.backend.host);
        let (stream, number) = connect(world, candidates.iter().map(|(_, at)| *at), host, client, deadline)?;
        let missed = number > 0;
        if missed {
            self.endpoints.borrow_mut().avoid(&candidates[..number], world.now());
        }
        Ok(Lease { stream, reused: false, missed, to_backend: Rc::clone(self), endpoint: candidates[number].0 })
    }
}

impl<W: World> Visit<W> {
    /// Where it goes.
    pub fn backend(&self) -> &Backend {
        self.in_flight.backend()
    }

    /// The same, to be kept beyond the visit.
    pub fn shared_backend(&self) -> Arc<Backend> {
        Arc::clone(&self.to_backend().backend)
    }

    /// As [`InFlight::observe`].
    pub fn observe(
        &self,
        thresholds: &Thresholds,
        worker: usize,
        seen: Seen,
        now_ns: u64,
        tell: impl FnOnce(Transition) -> bool,
    ) {
        self.in_flight.observe(thresholds, worker, seen, now_ns, tell);
    }

    /// The most recently used idle connection, to the address whose turn it is, whose server has not closed it as far as can
    /// be seen, nor is about to; a look at the socket itself only when `thorough`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub fn lease_idle(&self, world: &W, thorough: bool) -> Option<Lease<W>> {
        let to_backend = self.to_backend();
        loop {
            let (stream, endpoint) = to_backend.endpoints.borrow_mut().take_idle(|| world.now())?;
            if stream.is_quiet(thorough) {
                return Some(Lease {
                    stream,
                    reused: true,
                    missed: false,
                    to_backend: Rc::clone(to_backend),
                    endpoint,
                });
            }
        }
    }

    /// A new connection, by `deadline`, unless `client` resets its own meanwhile. Of several addresses that one is asked first
    /// whose turn it is.
    ///
    /// # Errors
    /// See [`connect`].
    pub fn lease_new(&self, world: &W, client: &W::Stream, deadline: Instant) -> Result<Lease<W>, ConnectError> {
        self.to_backend().connect(world, client, deadline)
    }

    fn to_backend(&self) -> &Rc<ToBackend<W>> {
        &self.in_flight.backend().0
    }
}

impl<W: World> Lease<W> {
    /// The id of the backend that it leads to.
    pub fn backend_id(&self) -> u64 {
        self.to_backend.backend.id
    }

    /// It is to serve no other request: the backend that it leads to was removed, or it is encrypted by something else than what
    /// connections are now.
    pub fn is_retired(&self) -> bool {
        self.to_backend.backend.is_retired() || self.to_backend.endpoints.borrow().is_outdated(self.endpoint)
    }

    /// Makes the connection idle: its last exchange was whole and left nothing behind. It is closed where its address
    /// has left the backend's name, or is ill, or where connections are encrypted by something else now. From `until` on it is
    /// used no more.
    pub fn give_back(self, since: Instant, until: Instant) {
        self.to_backend.endpoints.borrow_mut().keep(self.stream, self.endpoint, since, until);
    }
}
