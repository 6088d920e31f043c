//! What lives here: the data plane. Connections of clients, and the exchange: one request from its head to the last
//! byte of its answer. It sees sockets, time, chance, coroutines and waking only through the traits of
//! `runtime::world`, and never blocks its thread.
//!
//! Read `exchange.rs` first.

mod answer;
mod aside;
mod attempt;
mod bound;
mod client;
mod closing;
mod connection;
mod defect;
pub mod error;
mod error_answer;
mod exchange;
pub mod forward;
mod forwarded;
mod half_head;
mod occasion;
mod pace;
mod patience;
mod pump;
mod queue;
mod request_id;
mod respond;
mod seats;
mod shared;
mod sticky;
mod stillness;
mod throttle;
mod transfer;
mod tries;
mod tunnel;
mod via;
mod witness;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

pub use client::Parked;
use client::{Client, Stage};
use seats::Seat;
pub use shared::Shared;
pub use sticky::SessionCookie;
pub use throttle::Allowance;
pub use via::Via;

use crate::http1::{FieldNames, HeadLimits};
use crate::observe::Reason;
use crate::runtime::buffer::{Buffer, Buffers};
use crate::runtime::world::{Service, Wake, World};
use crate::upstream::Pools;

/// Room in a head buffer beyond the largest head: what comes right behind a head often fits.
const BEHIND_HEAD_BYTES: usize = 4096;
/// The buffer for a long body.
const BODY_BUFFER_BYTES: usize = 64 * 1024;
/// Head buffers and body buffers that a worker keeps however long they are unused: 5 MiB and 2 MiB.
const HEAD_BUFFERS_KEPT: usize = 256;
const BODY_BUFFERS_KEPT: usize = 32;

/// One worker's proxy.
pub struct Proxy<W: World<Parked = Parked>> {
    world: W,
    shared: std::sync::Arc<Shared>,
    limits: HeadLimits,
    untrusted_fields: Rc<FieldNames>,
    pools: Pools<W>,
    buffers: Buffers,
    body_buffers: Buffers,
    scratches: Rc<RefCell<Vec<Vec<u8>>>>,
    date: RefCell<Date>,
    /// Connections over the limit that are being ended.
    turned_away: Rc<Cell<usize>>,
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// A worker's proxy over what all workers share.
    pub fn new(world: W, shared: std::sync::Arc<Shared>) -> Self {
        let limits = &shared.config.limits;
        let limits = HeadLimits { head_bytes: limits.head_bytes, headers: limits.headers, uri_bytes: limits.uri_bytes };
        Self {
            pools: Pools::new(world.clone()),
            buffers: Buffers::new(limits.head_bytes + BEHIND_HEAD_BYTES, HEAD_BUFFERS_KEPT),
            body_buffers: Buffers::new(BODY_BUFFER_BYTES, BODY_BUFFERS_KEPT),
            scratches: Rc::default(),
            date: RefCell::new(Date { unix_seconds: u64::MAX, text: [0; 29] }),
            turned_away: Rc::default(),
            untrusted_fields: Rc::new(FieldNames::new(shared.config.untrusted_fields.iter().map(String::as_str))),
            world,
            shared,
            limits,
        }
    }

    /// Idle connections to backends that this worker keeps.
    pub fn idle_upstream_connections(&self) -> usize {
        self.pools.idle()
    }

    /// Buffers and scratches that something of this worker holds now.
    pub fn buffers_in_use(&self) -> usize {
        // One count of the scratches' home is the proxy's own.
        self.buffers.in_use() + self.body_buffers.in_use() + Rc::strong_count(&self.scratches) - 1
    }

    /// Counts a failure, once for each exchange that ends by it.
    fn count(&self, reason: Reason) {
        self.shared.failures.count(self.world.worker(), reason);
    }

    /// Now, as an IMF-fixdate (RFC 9110 §5.6.7).
    fn date(&self) -> [u8; 29] {
        let mut date = self.date.borrow_mut();
        let now = self.world.unix_seconds();
        if date.unix_seconds != now {
            date.unix_seconds = now;
            let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now);
            let text = httpdate::fmt_http_date(moment);
            if let Ok(text) = text.as_bytes().try_into() {
                date.text = text;
            }
        }
        date.text
    }

    /// Swaps an empty head buffer for a body buffer.
    fn larger(&self, small: Buffer) -> Buffer {
        if small.capacity() < BODY_BUFFER_BYTES { self.body_buffers.take() } else { small }
    }

    fn scratch(&self) -> Scratch {
        let mut bytes = self.scratches.borrow_mut().pop().unwrap_or_default();
        bytes.clear();
        Scratch { bytes, home: Rc::clone(&self.scratches) }
    }
}

impl<W: World<Parked = Parked>> Service<W> for Proxy<W> {
    fn accepted(&self, stream: W::Stream, peer: SocketAddr) {
        match Seat::take(&self.shared, peer.ip()) {
            Ok(seat) => self.serve(Client::new(stream, seat)),
            Err(failure) => self.turn_away(stream, &failure),
        }
    }

    fn resumed(&self, stream: W::Stream, parked: Parked, wake: Wake) {
        match parked.0 {
            Stage::Waiting(waiting) => self.unpark(stream, waiting, None, wake),
            Stage::Bound(bound) => self.resume_bound(stream, *bound, wake),
            Stage::Closing(closing) => self.resume_closing(stream, closing, wake),
            Stage::Aside(aside) => self.take_up(stream, aside),
        }
    }

    fn spare_descriptor(&self) -> bool {
        self.pools.close_oldest_idle()
    }

    fn tick(&self) {
        self.welcome_back(&self.shared.fleet.snapshot.load());
        self.pools.sweep(self.shared.config.timeouts.upstream_keep_alive);
        self.buffers.trim();
        self.body_buffers.trim();
    }
}

struct Date {
    unix_seconds: u64,
    text: [u8; 29],
}

/// Room to write heads in, used again by the next exchange of the worker.
struct Scratch {
    bytes: Vec<u8>,
    home: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut home = self.home.borrow_mut();
        if home.len() < HEAD_BUFFERS_KEPT {
            home.push(std::mem::take(&mut self.bytes));
        }
    }
}
