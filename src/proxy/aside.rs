//! Exchanges that are laid aside. One that waits long for its client needs no coroutine meanwhile: what it has come to is
//! kept in memory of just that size, its stack and its buffers serve others, and an event of either side brings it back.
//! Thousands of slow clients cost little so.

use std::any::Any;

use super::Proxy;
use super::client::{Client, Parked, Stage};
use super::exchange::{After, Facts, Turn};
use super::patience::bytes_alone;
use super::transfer::{Course, Cut, Interrupted, Transfer};
use crate::runtime::world::{Instant, Need, World};

/// An exchange without a coroutine. It will not be tried again: a part of its request is gone, or of its answer.
pub(super) struct Aside<W: World> {
    /// Set with the stream parked.
    client: Option<Client<()>>,
    facts: Facts,
    course: Course<W>,
    /// Bytes read and not used up, of the request and of the answer.
    unread: [Option<Box<[u8]>>; 2],
    need: Need,
    deadline: Instant,
}

impl<W: World<Parked = Parked>> Aside<W> {
    /// Puts together what has to be kept of an exchange that waits until `deadline` for what its client has to do.
    pub(super) fn new(transfer: Transfer<'_, W>, need: Need, deadline: Instant) -> Box<Self> {
        let Transfer { client, facts, mut course, .. } = transfer;
        let buffers = [client.buffer.take(), course.held.take()];
        let unread = buffers.map(|buffer| buffer.filter(|buffer| !buffer.is_empty()).as_ref().map(bytes_alone));
        Box::new(Self { client: None, facts: *facts, course, unread, need, deadline })
    }
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Parks a client's connection with the exchange that it is in.
    pub(super) fn lay_aside(&self, client: Client<W::Stream>, mut aside: Box<Aside<W>>) {
        let (stream, client) = client.part();
        let (need, deadline) = (aside.need, aside.deadline);
        aside.client = Some(client);
        self.world.park_for(need, stream, Parked(Stage::Aside(aside)), deadline);
    }

    /// Goes on with an exchange that was laid aside.
    pub(super) fn take_up(&self, stream: W::Stream, aside: Box<dyn Any>) {
        // It is this world's: the proxy that laid it aside takes it up.
        let Ok(aside) = aside.downcast::<Aside<W>>() else { return };
        let Aside { client, facts, mut course, unread, .. } = *aside;
        let Some(client) = client else { return };
        let mut client = client.join(stream);
        [client.buffer, course.held] = unread.map(|bytes| bytes.map(|bytes| self.buffer_with(&bytes)));
        let turn = Self::or_cut(&mut client, facts.id, |client| {
            let mut scratch = self.scratch();
            // Who was slow once doesn't get a coroutine to wait with again.
            match Transfer::new(self, client, &facts, course, self.world.now(), &[]).run(&mut scratch.bytes) {
                Ok(turn) => turn,
                Err(Interrupted { cut: Cut::Failed { failure, .. }, .. }) => {
                    Turn::Over(self.answer_failure(client, &facts, failure, &mut scratch))
                }
                Err(Interrupted { cut: Cut::PassedOver, .. }) => Turn::Over(After::Cut),
            }
        });
        self.go_on(client, Some(turn));
    }
}
