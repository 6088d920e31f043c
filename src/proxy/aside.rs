//! What is laid aside. An exchange that waits long, for its client, for its backend, or for room in the queue, needs no
//! coroutine meanwhile: what it has come to is kept in memory of just that size, its stack and its buffers serve others, and
//! an event brings it back, of the client, or of the backend's connection that is tied to it. Thousands of slow clients cost
//! little so.

use super::client::{Client, bytes_alone};
use super::parked::Parked;
use super::record::Record;
use super::state::{Absence, Aside, Ended, Exchange, Stand, Work};
use super::worker::Proxy;
use crate::runtime::world::{Instant, Need, World};

impl<'x, W: World<Parked = Parked>> Exchange<'x, W> {
    /// Lays it aside until the client does what it `need`s to, or until `deadline`.
    #[cold]
    pub(super) fn lay_aside(&mut self, mut work: Work<W>, need: Need, deadline: Instant) -> Ended<W> {
        let held = match &mut work {
            Work::Transfer(course) => course.held.take(),
            Work::Tunnel(tunnel) => tunnel.held.take(),
            Work::Try(_) | Work::Again(_) => None,
        };
        let buffers = [self.client.buffer.take(), held];
        let unread = buffers.map(|buffer| buffer.filter(|buffer| !buffer.is_empty()).as_ref().map(bytes_alone));
        let fresh =
            Stand { record: Record::new(None), head_bytes: 0, head_deadline: None, absence: Absence::default() };
        let stand = std::mem::replace(&mut self.stand, fresh);
        let facts = self.facts.clone();
        Ended::Aside(Box::new(Aside { connection: None, unread, need, deadline, facts, stand, work }))
    }

    /// Takes one up that was laid aside.
    pub(super) fn taken_up(proxy: &'x Proxy<W>, client: &'x mut Client<W::Stream>, aside: Aside<W>) -> Self {
        let Aside { unread, facts, stand, mut work, .. } = aside;
        let [unread, read] = unread.map(|bytes| bytes.map(|bytes| proxy.buffer_with(&facts.bound, &bytes)));
        client.buffer = unread;
        match &mut work {
            Work::Transfer(course) => course.held = read,
            Work::Tunnel(tunnel) => tunnel.held = read,
            Work::Try(_) | Work::Again(_) => {}
        }
        Self { proxy, client, facts, head: proxy.scratch(), stand, work }
    }
}
