//! Connections to backends that belong to a client's connection. NTLM and Negotiate authenticate a connection, not a request
//! (RFC 4559 §6): every request on it from then on is taken for one of the user that logged in, and a request on another
//! one has to log in again. So once either side names such a scheme, the two connections stay together to their end: the
//! backend's is never idle for others, and the client's requests go over it alone, whatever the strategy.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use slab::Slab;

use crate::runtime::world::{Instant, Stream, World};
use crate::upstream::{Lease, Visit};

/// A connection to a backend that waits for its client's next request.
pub(super) struct Pinned {
    /// Where it leads.
    pub(super) backend_id: u64,
    /// When its backend is about to close it.
    kept_until: Instant,
    /// A [`Lease`], whose type knows the world.
    lease: Box<dyn Any>,
}

/// The pinned connections of a worker's parked clients, in one place: no client comes back to close one whose backend was
/// removed.
#[derive(Default)]
pub(super) struct PinnedConnections(Rc<RefCell<Slots>>);

/// By the slot of each; None where the connection was closed and its client is still parked.
type Slots = Slab<Option<Pinned>>;

/// A parked client's slot among them, and its connection's end unless it is taken out.
pub(super) struct PinnedSlot {
    all: Rc<RefCell<Slots>>,
    key: usize,
}

impl Pinned {
    pub(super) fn new<W: World>(lease: Lease<W>, kept_until: Instant) -> Self {
        Self { backend_id: lease.backend_id(), kept_until, lease: Box::new(lease) }
    }

    /// The connection, for a request that goes where it leads, unless it is closed or about to be.
    pub(super) fn lease<W: World>(self, world: &W, visit: &Visit<W>, thorough: bool) -> Option<Lease<W>> {
        if self.kept_until <= world.now() {
            return None;
        }
        let mut lease = self.lease.downcast::<Lease<W>>().ok()?;
        lease.reused = true;
        let may_serve = self.backend_id == visit.backend().id && !lease.is_retired();
        (may_serve && lease.stream.is_quiet(thorough)).then_some(*lease)
    }

    fn leased<W: World>(&self) -> Option<&Lease<W>> {
        self.lease.downcast_ref()
    }

    pub(super) fn stream<W: World>(&self) -> Option<&W::Stream> {
        self.leased::<W>().map(|lease| &lease.stream)
    }

    /// Its server hasn't ended it, and it may serve another request.
    pub(super) fn is_usable<W: World>(&self) -> bool {
        self.leased::<W>().is_some_and(|lease| lease.stream.is_quiet(false) && !lease.is_retired())
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("backend_id", &self.backend_id).finish_non_exhaustive()
    }
}

impl PinnedConnections {
    /// Closes those that are to serve no other request. Their clients stay parked.
    pub(super) fn close_retired<W: World>(&self) {
        for (_, slot) in self.0.borrow_mut().iter_mut() {
            if slot.as_ref().and_then(Pinned::leased::<W>).is_some_and(Lease::is_retired) {
                *slot = None;
            }
        }
    }

    /// Slots that parked clients have.
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub(super) fn keep(&self, pinned: Pinned) -> PinnedSlot {
        let key = self.0.borrow_mut().insert(Some(pinned));
        PinnedSlot { all: Rc::clone(&self.0), key }
    }
}

impl PinnedSlot {
    /// The connection, unless it was closed.
    pub(super) fn take(&self) -> Option<Pinned> {
        self.all.borrow_mut()[self.key].take()
    }
}

impl Drop for PinnedSlot {
    fn drop(&mut self) {
        let pinned = self.all.borrow_mut().try_remove(self.key);
        drop(pinned);
    }
}

impl fmt::Debug for PinnedSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedSlot").field("key", &self.key).finish_non_exhaustive()
    }
}
