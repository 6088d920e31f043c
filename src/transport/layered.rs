//! A service of a layered world, and what it is made of.

use std::rc::Rc;
use std::sync::Arc;

use super::client::BackendTls;
use super::handshake::{Handshakes, TlsRules};
use super::session::Shelves;
use super::world::{Layered, Outgoing};

/// A service of a layered world, as the world beneath calls it.
#[derive(Debug)]
pub struct LayeredService<W, S> {
    pub(super) world: Layered<W>,
    pub(super) service: S,
    /// None: all connections are plain.
    pub(super) handshakes: Option<Handshakes>,
    pub(super) shelves: Rc<Shelves>,
}

impl<W: Clone, S> LayeredService<W, S> {
    /// The service that `serve` makes of a layer over `beneath`.
    pub fn over(beneath: W, serve: impl FnOnce(Layered<W>) -> S) -> Self {
        let outgoing = Rc::new(Outgoing::default());
        let shelves = Rc::clone(&outgoing.shelves);
        let world = Layered { beneath, outgoing };
        let service = serve(world.clone());
        Self { world, service, handshakes: None, shelves }
    }

    /// The same, for backends that are reached by TLS too.
    #[must_use]
    pub fn with_backends(self, tls: Arc<BackendTls>) -> Self {
        // It is told once.
        let _ = self.world.outgoing.tls.set(tls);
        self
    }

    /// The same, where connections of some listeners begin with a handshake.
    #[must_use]
    pub fn with_tls(self, rules: TlsRules) -> Self {
        Self { handshakes: Some(Handshakes::new(rules)), ..self }
    }

    /// The service itself.
    pub const fn service(&self) -> &S {
        &self.service
    }

    /// Buffers that TLS streams hold now, and handshakes in progress.
    pub fn in_use(&self) -> (usize, usize) {
        (self.shelves.in_use(), self.handshakes.as_ref().map_or(0, Handshakes::in_progress))
    }
}
