//! A world over a world, and what it asks of the one beneath: to keep a stream's own state where that is parked.

use std::cell::OnceCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::client::BackendTls;
use super::handshake::Handshake;
use super::hello::Unheard;
use super::layer::Layer;
use super::session::Shelves;
use super::tls::{Kept, Tls};
use super::turns::Turns;
use crate::runtime::world::{Instant, Need, Stream, Wake, Watch, World};

/// The world of `W`, with streams of any kind over its own.
#[derive(Clone, Debug)]
pub struct Layered<W> {
    pub(super) beneath: W,
    pub(super) outgoing: Rc<Outgoing>,
}

/// What a worker's connections to backends have in common.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// None: they are plain alone.
    pub(super) tls: OnceCell<Arc<BackendTls>>,
    pub(super) shelves: Rc<Shelves>,
    turns: Turns,
}

/// What the world beneath keeps of a parked stream: what the service wants kept, and what the stream itself does. A plain one
/// keeps nothing, and pays for nothing: it is no larger than what the service wants kept.
#[derive(Debug)]
pub enum Stored<P> {
    /// Of a plain stream.
    Plain(P),
    /// Of one whose handshake hasn't begun.
    Unheard(Box<Unheard>),
    /// Of a TLS stream.
    Tls(StoredTls<P>),
}

/// What is kept of a parked TLS stream.
#[derive(Debug)]
pub struct StoredTls<P> {
    pub(super) kept: Box<Kept>,
    pub(super) why: Why<P>,
}

/// What a TLS stream is parked for.
#[derive(Debug)]
pub(super) enum Why<P> {
    Handshake(Box<Handshake>),
    Service(Parking<P>),
}

/// How a service has a stream parked.
#[derive(Debug)]
pub(super) struct Parking<P> {
    pub(super) parked: Box<P>,
    /// None: as [`World::park`] does.
    pub(super) need: Option<Need>,
    pub(super) deadline: Instant,
    /// What was still to be sent when the stream had its last respite, which few have.
    pub(super) respite: Option<Box<Respite>>,
}

/// Time beyond the deadline, to send what the client takes.
#[derive(Debug)]
pub(super) struct Respite {
    pub(super) outbound_bytes: usize,
    pub(super) times: u32,
}

impl<P> Parking<P> {
    fn new(parked: P, need: Option<Need>, deadline: Instant) -> Self {
        Self { parked: Box::new(parked), need, deadline, respite: None }
    }
}

impl<P, W> Layered<W>
where
    P: 'static,
    W: World<Parked = Stored<P>>,
{
    /// Parks a TLS stream. What it still has to send brings it back too, and so does what it holds to be read.
    pub(super) fn keep(&self, tls: Tls<W::Stream>, parking: Parking<P>) {
        let Parking { need, deadline, .. } = parking;
        let reads = matches!(need, None | Some(Need::Read | Need::Either));
        let beneath = match need {
            need if !tls.has_outbound() => need,
            _ if reads => Some(Need::Either),
            _ => Some(Need::Write),
        };
        let news = (reads && tls.has_news()).then(|| self.beneath.waker(tls.socket()));
        let (socket, kept) = tls.part();
        let stored = Stored::Tls(StoredTls { kept, why: Why::Service(parking) });
        match beneath {
            None => self.beneath.park(socket, stored, deadline),
            Some(need) => self.beneath.park_for(need, socket, stored, deadline),
        }
        if let Some(waker) = news {
            waker.wake();
        }
    }

    /// Kept out of line, as all of TLS is.
    #[inline(never)]
    fn connect_further(&self, tls: &Tls<W::Stream>) {
        tls.connect(|| self.outgoing.turns.take(&self.beneath, tls.socket()));
    }

    /// Waits where one of the two is encrypted: out of line, since plain waits share the code around it.
    #[inline(never)]
    fn wait_encrypted(
        &self,
        on: &Layer<W::Stream>,
        also: Option<(&Layer<W::Stream>, Watch)>,
        deadline: Instant,
    ) -> Wake {
        let wake = self.beneath.wait(on.socket(), also.map(watched), deadline);
        self.settle(on, also);
        wake
    }

    /// Sends what streams have to send that were waited on, and goes on with a handshake.
    fn settle(&self, on: &Layer<W::Stream>, also: Option<(&Layer<W::Stream>, Watch)>) {
        if let Layer::Tls(tls) = on {
            tls.settle();
            if tls.is_connecting() {
                self.connect_further(tls);
            }
        }
        if let Some((Layer::Tls(tls), _)) = also {
            tls.settle();
        }
    }
}

/// A second stream as the world beneath watches it: one that has something to send needs to know when it can.
#[inline]
fn watched<S: Stream>((stream, watch): (&Layer<S>, Watch)) -> (&S, Watch) {
    match stream {
        Layer::Plain(socket) => (socket, watch),
        Layer::Tls(tls) => (tls.socket(), if tls.has_outbound() { Watch::Everything } else { watch }),
    }
}

impl<P, W> World for Layered<W>
where
    P: 'static,
    W: World<Parked = Stored<P>>,
{
    type Stream = Layer<W::Stream>;
    type Parked = P;

    #[inline]
    fn now(&self) -> Instant {
        self.beneath.now()
    }

    #[inline]
    fn unix_seconds(&self) -> u64 {
        self.beneath.unix_seconds()
    }

    #[inline]
    fn random(&self) -> u64 {
        self.beneath.random()
    }

    #[inline]
    fn worker(&self) -> usize {
        self.beneath.worker()
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        self.beneath.connect(address).map(Layer::Plain)
    }

    #[cold]
    fn connect_encrypted(&self, address: SocketAddr, host: &str) -> io::Result<Self::Stream> {
        let Outgoing { tls, shelves, .. } = &*self.outgoing;
        let session = tls.get().ok_or(io::ErrorKind::Unsupported)?.session(address, host, shelves)?;
        Ok(Layer::Tls(Tls::new(self.beneath.connect(address)?, session)))
    }

    #[cold]
    fn encryption_generation(&self) -> u32 {
        self.outgoing.tls.get().map_or(0, |tls| tls.generation())
    }

    #[inline]
    fn wait(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake {
        match (on, also) {
            (Layer::Plain(socket), None) => self.beneath.wait(socket, None, deadline),
            (Layer::Plain(socket), Some((Layer::Plain(also), watch))) => {
                self.beneath.wait(socket, Some((also, watch)), deadline)
            }
            _ => self.wait_encrypted(on, also, deadline),
        }
    }

    #[inline]
    fn yield_now(&self, on: &Self::Stream) {
        self.beneath.yield_now(on.socket());
    }

    #[inline]
    fn take_turns(&self, on: &Self::Stream) {
        self.beneath.take_turns(on.socket());
    }

    fn wait_long(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake {
        let wake = self.beneath.wait_long(on.socket(), also.map(watched), deadline);
        self.settle(on, also);
        wake
    }

    fn waker(&self, on: &Self::Stream) -> Waker {
        self.beneath.waker(on.socket())
    }

    #[inline]
    fn park(&self, stream: Self::Stream, parked: P, deadline: Instant) {
        match stream {
            Layer::Plain(socket) => self.beneath.park(socket, Stored::Plain(parked), deadline),
            Layer::Tls(tls) => self.keep(tls, Parking::new(parked, None, deadline)),
        }
    }

    #[inline]
    fn park_for(&self, need: Need, stream: Self::Stream, parked: P, deadline: Instant) {
        match stream {
            Layer::Plain(socket) => self.beneath.park_for(need, socket, Stored::Plain(parked), deadline),
            Layer::Tls(tls) => self.keep(tls, Parking::new(parked, Some(need), deadline)),
        }
    }

    fn tie(&self, stream: &Self::Stream, also: &Self::Stream) -> bool {
        if let Layer::Tls(tls) = also {
            tls.shrink();
        }
        self.beneath.tie(stream.socket(), also.socket())
    }

    fn resume_parked(&self) {
        self.beneath.resume_parked();
    }
}
