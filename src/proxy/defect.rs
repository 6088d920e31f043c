//! What becomes of a panic: it is a defect of the proxy, and ends one connection.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::Proxy;
use super::client::{Client, Parked};
use super::exchange::Turn;
use super::request_id::RequestId;
use crate::runtime::world::{Stream, World};

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Runs `exchange`, or a part of it. If it panics, the request's id is logged and the client's connection is cut:
    /// closed in good order it could make what was sent of an answer look whole. What the exchange held goes back as the
    /// panic passes, on its way to the runtime, which counts it.
    pub(super) fn or_cut(
        client: &mut Client<W::Stream>,
        id: RequestId,
        exchange: impl FnOnce(&mut Client<W::Stream>) -> Turn<W>,
    ) -> Turn<W> {
        catch_unwind(AssertUnwindSafe(|| exchange(client))).unwrap_or_else(|panic| {
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
