//! Per-worker pools of idle connections to backends, and leases of them.
//!
//! A connection is in exactly one place: idle in its pool, or in one lease. A lease that is dropped closes it; only
//! [`Lease::give_back`] returns it, so that no error path can put a spoilt connection back.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::sites::{SiteId, Sites};
use super::{ConnectError, connect};
use crate::balance::{Backend, InFlight, Place, Seen, Turn};
use crate::runtime::world::{Instant, Stream, World};

/// One worker's pools, one for each backend that it has sent a request to.
pub struct Pools<W: World> {
    world: W,
    /// By the backend's slot.
    table: RefCell<Vec<Option<Rc<Pool<W>>>>>,
}

/// One worker's idle connections to one backend.
struct Pool<W: World> {
    backend: Arc<Backend>,
    sites: RefCell<Sites<W::Stream>>,
}

/// A request that is on its way to a backend: counted in flight there until it is dropped.
pub struct Visit<W: World> {
    in_flight: InFlight<PoolOf<W>>,
}

struct PoolOf<W: World>(Rc<Pool<W>>);

impl<W: World> Deref for PoolOf<W> {
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
    pool: Rc<Pool<W>>,
    site: SiteId,
}

impl<W: World> Pools<W> {
    /// No pool yet.
    pub fn new(world: W) -> Self {
        Self { world, table: RefCell::new(Vec::new()) }
    }

    /// Counts a request in flight to `backend`; None when there are as many as may be. To be called in the same turn as
    /// the pick.
    #[inline]
    pub fn visit(&self, backend: &Arc<Backend>) -> Option<Visit<W>> {
        InFlight::begin(self.pool_of(backend)).map(|in_flight| Visit { in_flight })
    }

    /// The visit of a request that has waited for its place.
    pub fn visit_at(&self, place: Place) -> Visit<W> {
        let pool = self.pool_of(place.backend());
        Visit { in_flight: place.begin(pool) }
    }

    #[inline]
    fn pool_of(&self, backend: &Arc<Backend>) -> PoolOf<W> {
        let mut table = self.table.borrow_mut();
        if table.len() <= backend.slot {
            table.resize_with(backend.slot + 1, || None);
        }
        let entry = &mut table[backend.slot];
        PoolOf(match entry {
            Some(pool) if pool.backend.id == backend.id => Rc::clone(pool),
            _ => {
                let backend = Arc::clone(backend);
                let pool = Rc::new(Pool { backend, sites: RefCell::new(Sites::new()) });
                *entry = Some(Rc::clone(&pool));
                pool
            }
        })
    }

    /// Sees whether `backend` takes a connection, and keeps that for the next request.
    ///
    /// # Errors
    /// See [`connect`].
    pub fn try_out(&self, backend: &Arc<Backend>, client: &W::Stream, deadline: Instant) -> Result<(), ConnectError> {
        let pool = self.pool_of(backend).0;
        let lease = pool.connect(&self.world, client, deadline)?;
        lease.give_back(self.world.now(), Instant::NEVER);
        Ok(())
    }

    /// Closes what has been idle for `keep_alive`, what its server has closed, what leads to an address that its backend's
    /// name has left or that is ill, and every idle connection to a backend that was removed.
    pub fn sweep(&self, keep_alive: Duration) {
        let now = self.world.now();
        for entry in self.table.borrow_mut().iter_mut() {
            let Some(pool) = entry else { continue };
            pool.sites.borrow_mut().sweep(&pool.backend.addresses, now, keep_alive, |stream| stream.is_quiet(false));
            if pool.backend.is_retired() {
                *entry = None;
            }
        }
    }

    /// Closes the connection that has been idle for longest, to whichever backend, so that its descriptor is free. False
    /// when none is idle.
    pub fn close_oldest_idle(&self) -> bool {
        let table = self.table.borrow();
        let since = |pool: &Pool<W>| pool.sites.borrow().oldest().unwrap_or(Instant::NEVER);
        let oldest = table.iter().flatten().min_by_key(|pool| since(pool));
        oldest.is_some_and(|pool| pool.sites.borrow_mut().take_oldest().is_some())
    }

    /// Idle connections over all pools.
    pub fn idle(&self) -> usize {
        self.table.borrow().iter().flatten().map(|pool| pool.sites.borrow().idle()).sum()
    }
}

impl<W: World> Pool<W> {
    fn connect(self: &Rc<Self>, world: &W, client: &W::Stream, deadline: Instant) -> Result<Lease<W>, ConnectError> {
        let candidates = self.sites.borrow_mut().candidates(&self.backend.addresses);
        let (stream, number) = connect(world, candidates.iter().map(|(_, at)| *at), client, deadline)?;
        let missed = number > 0;
        if missed {
            self.sites.borrow_mut().avoid(&candidates[..number], world.now());
        }
        Ok(Lease { stream, reused: false, missed, pool: Rc::clone(self), site: candidates[number].0 })
    }
}

impl<W: World> Visit<W> {
    /// Where it goes.
    pub fn backend(&self) -> &Backend {
        self.in_flight.backend()
    }

    /// The same, to be kept beyond the visit.
    pub fn shared_backend(&self) -> Arc<Backend> {
        Arc::clone(&self.pool().backend)
    }

    /// As [`InFlight::has_breaker`].
    #[inline]
    pub fn has_breaker(&self) -> bool {
        self.in_flight.has_breaker()
    }

    /// As [`InFlight::judge`].
    pub fn judge(&self, status: u16) -> Seen {
        self.in_flight.judge(status)
    }

    /// As [`InFlight::observe`].
    #[inline]
    pub fn observe(&self, worker: usize, seen: Seen, now_ns: impl FnOnce() -> u64, tell: impl FnOnce(Turn) -> bool) {
        self.in_flight.observe(worker, seen, now_ns, tell);
    }

    /// The most recently used idle connection, to the address whose turn it is, whose server has not closed it as far as can
    /// be seen, nor is about to; a look at the socket itself only when `thorough`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub fn lease_idle(&self, world: &W, thorough: bool) -> Option<Lease<W>> {
        let pool = self.pool();
        loop {
            let (stream, site) = pool.sites.borrow_mut().take_idle(|| world.now())?;
            if stream.is_quiet(thorough) {
                return Some(Lease { stream, reused: true, missed: false, pool: Rc::clone(pool), site });
            }
        }
    }

    /// A new connection, by `deadline`, unless `client` resets its own meanwhile. Of several addresses that one is asked first
    /// whose turn it is.
    ///
    /// # Errors
    /// See [`connect`].
    pub fn lease_new(&self, world: &W, client: &W::Stream, deadline: Instant) -> Result<Lease<W>, ConnectError> {
        self.pool().connect(world, client, deadline)
    }

    fn pool(&self) -> &Rc<Pool<W>> {
        &self.in_flight.backend().0
    }
}

impl<W: World> Lease<W> {
    /// The id of the backend that it leads to.
    pub fn backend_id(&self) -> u64 {
        self.pool.backend.id
    }

    /// Returns the connection to its pool: its last exchange was whole and left nothing behind. It is closed where its address
    /// has left the backend's name, or is ill. From `until` on it is used no more.
    pub fn give_back(self, since: Instant, until: Instant) {
        self.pool.sites.borrow_mut().keep(self.stream, self.site, since, until);
    }
}
