//! What becomes of a panic: it is a defect of the proxy, and ends one connection.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::client::{Client, Parked};
use super::exchange::{After, Directions};
use super::{Proxy, Scratch};
use crate::runtime::world::{Stream, World};

impl<W: World<Parked = Parked>> Proxy<W> {
    /// An exchange. If it panics, the request's id is logged and the client's connection is cut: closed in good order it
    /// could make what was sent of an answer look whole. What the exchange held goes back as the panic passes, on its
    /// way to the runtime, which counts it.
    pub(super) fn exchange_or_cut(
        &self,
        client: &mut Client<W::Stream>,
        directions: Directions<W>,
        scratch: Scratch,
    ) -> After {
        let id = directions.id;
        catch_unwind(AssertUnwindSafe(|| self.exchange(client, directions, scratch))).unwrap_or_else(|panic| {
            log::error!("request {id} was ended by a defect in maypole: {}", message(&*panic));
            client.stream.reset_on_close();
            resume_unwind(panic)
        })
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
