//! Connections to backends that belong to a client's connection. NTLM and Negotiate authenticate a connection, not a request
//! (RFC 4559 §6): whoever is served on it from then on is taken for the one who logged in, and who is served on another
//! one has to log in again. So once either side names such a scheme, the two connections stay together to their end: the
//! backend's goes to no pool, and the client's requests go over it alone, whatever the strategy.

use std::any::Any;
use std::fmt;

use super::Proxy;
use super::client::{Client, Parked, Stage, Waiting};
use crate::runtime::world::{Instant, Stream, Wake, World};
use crate::upstream::{Lease, Visit};

/// A connection to a backend that waits for its client's next request.
pub(super) struct Bound {
    /// Where it leads.
    pub(super) backend_id: u64,
    /// When its backend is about to close it.
    kept_until: Instant,
    /// A [`Lease`], whose type knows the world.
    lease: Box<dyn Any>,
}

/// A parked client with its backend's connection, which has no request either.
#[derive(Debug)]
pub(super) struct BoundWaiting {
    waiting: Waiting,
    bound: Bound,
    deadline: Instant,
}

impl Bound {
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
        (self.backend_id == visit.backend().id && lease.stream.is_quiet(thorough)).then_some(*lease)
    }

    fn stream<W: World>(&self) -> Option<&W::Stream> {
        self.lease.downcast_ref::<Lease<W>>().map(|lease| &lease.stream)
    }

    fn is_quiet<W: World>(&self) -> bool {
        self.stream::<W>().is_some_and(|stream| stream.is_quiet(false))
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("backend_id", &self.backend_id).finish_non_exhaustive()
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Parks a client's connection with the one that belongs to it, whose end brings it back.
    #[cold]
    pub(super) fn park_bound(&self, client: Client<W::Stream>, bound: Bound, since: Instant) {
        let (deadline, half_head) = (client.deadline.instant(), client.awaits_rest_of_head());
        let watched = loop {
            if !bound.is_quiet::<W>() {
                break None;
            }
            let stream = bound.stream::<W>();
            if stream.is_none_or(|stream| self.world.tie(&client.stream, stream)) {
                break Some(bound);
            }
        };
        let (stream, Parked(stage)) = client.park(since);
        let stage = match (watched, stage) {
            (Some(bound), Stage::Waiting(waiting)) => Stage::Bound(Box::new(BoundWaiting { waiting, bound, deadline })),
            (_, stage) => stage,
        };
        self.park(half_head, stream, Parked(stage), deadline);
    }

    /// Takes them up again.
    #[cold]
    pub(super) fn resume_bound(&self, stream: W::Stream, parked: BoundWaiting, wake: Wake) {
        let BoundWaiting { waiting, bound, deadline } = parked;
        // Where the kernel can't watch the backend's, it is looked at now and then.
        let early = wake == Wake::Deadline && self.world.now() < deadline;
        let wake = if early { Wake::Event } else { wake };
        self.unpark(stream, waiting, Some(bound).filter(Bound::is_quiet::<W>), wake);
    }
}
