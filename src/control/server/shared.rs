//! What the threads of one server share.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use slab::Slab;
use socket2::SockRef;

use super::message::{Answer, Call};

/// The bounds that a server keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; one more gets 503 and is closed.
    pub connections: usize,
    /// For a request's head, from its first byte (the first one's from the connection's start).
    pub head: Duration,
    /// For a request's body.
    pub body: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For an answer to be taken by the client.
    pub write: Duration,
    /// A request's body; a larger one gets 413.
    pub body_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(30),
            body_bytes: 1024 * 1024,
        }
    }
}

/// What answers requests, on the thread of the connection that they came by. A panic in it becomes a 500.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, call: &Call) -> Answer;
}

impl<F: Fn(&Call) -> Answer + Send + Sync + 'static> Handler for F {
    fn answer(&self, call: &Call) -> Answer {
        self(call)
    }
}

/// What the threads of one server share.
pub(super) struct Shared {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) handler: Box<dyn Handler>,
    pub(super) bounds: Bounds,
    pub(super) stopping: AtomicBool,
    pub(super) connections: Mutex<Slab<Arc<Open>>>,
    /// Signalled when a connection has gone.
    pub(super) left: Condvar,
}

/// A connection, as seen from outside its thread.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) stream: TcpStream,
    /// No byte of a request has come since the last answer.
    pub(super) idle: AtomicBool,
}

impl Shared {
    /// Stops accepting, and ends connections that are idle.
    pub(super) fn close(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // On Linux this wakes the thread that accepts.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for (_, open) in &*self.connections.lock() {
            if open.idle.load(Ordering::SeqCst) {
                let _ = open.stream.shutdown(Shutdown::Both);
            }
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("address", &self.address).field("bounds", &self.bounds).finish_non_exhaustive()
    }
}
