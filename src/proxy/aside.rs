//! What is laid aside. Who waits for a client needs no coroutine meanwhile: what it has come to is kept in memory of just that
//! size, its stack and its buffers serve others, and an event brings it back, of the client, or of the backend's connection
//! that is tied to it. So is a request that waits long for its backend, or for room in the queue. Thousands of slow clients cost little so.

use std::any::Any;

use super::Proxy;
use super::client::{Client, Parked, Stage};
use super::patience::bytes_alone;
use super::respond::Unsent;
use super::tries::{Exchange, Queued};
use super::tunnel::Tunnel;
use crate::runtime::buffer::Buffer;
use crate::runtime::world::{Instant, Need, World};

/// A connection without a coroutine, in the middle of something.
pub(super) struct Aside<W: World> {
    /// Set with the stream parked.
    client: Option<Client<()>>,
    /// Bytes read and not used up, of the client's side and of the backend's.
    unread: [Option<Box<[u8]>>; 2],
    need: Need,
    deadline: Instant,
    work: Work<W>,
}

/// What is gone on with when what was waited for is there.
pub(super) enum Work<W: World> {
    Exchange(Box<Exchange<W>>),
    /// A request that waits for room.
    Queued(Box<Queued>),
    Tunnel(Box<Tunnel<W>>),
    /// An answer of the proxy's own.
    Answer(Unsent),
}

impl<W: World> Aside<W> {
    /// Puts together what has to be kept of work that waits until `deadline` for what the client has to do. `held` is what
    /// was read of the backend's side.
    pub(super) fn new(
        client: &mut Client<W::Stream>,
        held: Option<Buffer>,
        work: Work<W>,
        need: Need,
        deadline: Instant,
    ) -> Box<Self> {
        let buffers = [client.buffer.take(), held];
        let unread = buffers.map(|buffer| buffer.filter(|buffer| !buffer.is_empty()).as_ref().map(bytes_alone));
        Box::new(Self { client: None, unread, need, deadline, work })
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Parks a client's connection with what it is in.
    pub(super) fn lay_aside(&self, client: Client<W::Stream>, mut aside: Box<Aside<W>>) {
        let (stream, client) = client.part();
        let (need, deadline) = (aside.need, aside.deadline);
        aside.client = Some(client);
        self.world.park_for(need, stream, Parked(Stage::Aside(aside)), deadline);
    }

    /// Goes on with what was laid aside.
    pub(super) fn take_up(&self, stream: W::Stream, aside: Box<dyn Any>) {
        // It is this world's: the proxy that laid it aside takes it up.
        let Ok(aside) = aside.downcast::<Aside<W>>() else { return };
        let Aside { client, unread, work, .. } = *aside;
        let Some(client) = client else { return };
        let mut client = client.join(stream);
        let [unread, held] = unread.map(|bytes| bytes.map(|bytes| self.buffer_with(&bytes)));
        client.buffer = unread;
        let turn = match work {
            Work::Exchange(exchange) => {
                Self::or_cut(&mut client, exchange.facts.id, |client| self.resume_exchange(client, *exchange, held))
            }
            Work::Queued(queued) => {
                Self::or_cut(&mut client, queued.facts.id, |client| self.resume_in_line(client, *queued))
            }
            Work::Tunnel(tunnel) => {
                Self::or_cut(&mut client, tunnel.id(), |client| self.resume_tunnel(client, tunnel, held))
            }
            Work::Answer(unsent) => self.send_rest(&mut client, unsent),
        };
        self.go_on(client, Some(turn));
    }
}
