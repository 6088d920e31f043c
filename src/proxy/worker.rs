//! One worker's proxy: what its connections and exchanges have in common.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::bound::{BODY_BUFFER_BYTES, Bound, HEAD_BUFFERS_KEPT};
use super::parked::Parked;
use super::pinned::PinnedConnections;
use super::record::{Book, Record};
use super::shared::Shared;
use crate::observe::Reason;
use crate::runtime::buffer::{Buffer, Buffers};
use crate::runtime::world::World;
use crate::upstream::IdleConnections;

/// Body buffers that a worker keeps however long they are unused: 2 MiB.
const BODY_BUFFERS_KEPT: usize = 32;

/// One worker's proxy.
pub struct Proxy<W: World<Parked = Parked>> {
    pub(super) world: W,
    pub(super) shared: Arc<Shared>,
    /// What the next head goes by, unless the plan has been swapped meanwhile.
    bound: RefCell<Rc<Bound>>,
    pub(super) idle: IdleConnections<W>,
    pub(super) pinned: PinnedConnections,
    /// A list for each size that a plan has asked for and that is still in use.
    head_buffers: RefCell<Vec<Buffers>>,
    pub(super) body_buffers: Buffers,
    scratches: Rc<RefCell<Vec<Vec<u8>>>>,
    date: RefCell<Date>,
    /// Connections over the limit that are being ended.
    pub(super) turned_away: Rc<Cell<usize>>,
    book: Book,
}

struct Date {
    unix_seconds: u64,
    text: [u8; 29],
}

/// Room to write heads in, used again by the next exchange of the worker.
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    home: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl<W: World<Parked = Parked>> Proxy<W> {
    /// A worker's proxy over what all workers share.
    pub fn new(world: W, shared: Arc<Shared>) -> Self {
        let mut head_buffers = Vec::new();
        Self {
            bound: RefCell::new(Bound::new(shared.plan(), &mut head_buffers)),
            idle: IdleConnections::new(world.clone()),
            pinned: PinnedConnections::default(),
            head_buffers: RefCell::new(head_buffers),
            body_buffers: Buffers::new(BODY_BUFFER_BYTES, BODY_BUFFERS_KEPT),
            scratches: Rc::default(),
            date: RefCell::new(Date { unix_seconds: u64::MAX, text: [0; 29] }),
            turned_away: Rc::default(),
            book: Book::default(),
            world,
            shared,
        }
    }

    /// The same, with `reader` shown the record of each request that has ended.
    #[must_use]
    pub fn read_by(self, reader: impl Fn(&Record) + 'static) -> Self {
        Self { book: Book::read_by(reader), ..self }
    }

    /// Idle connections to backends that this worker keeps, for anyone or for a parked client that logged in.
    pub fn idle_upstream_connections(&self) -> usize {
        self.idle.idle() + self.pinned.len()
    }

    /// Buffers and scratches that something of this worker holds now.
    pub fn buffers_in_use(&self) -> usize {
        let lists = self.head_buffers.borrow();
        let buffers: usize = lists.iter().chain([&self.body_buffers]).map(Buffers::in_use).sum();
        // One count of the scratches' home is the proxy's own.
        buffers + Rc::strong_count(&self.scratches) - 1
    }

    /// Takes in what has become of a request, once for each.
    #[inline]
    pub(super) fn enter(&self, record: &Record) {
        self.book.enter(record, |reason| self.count(reason));
    }

    /// Counts a failure.
    pub(super) fn count(&self, reason: Reason) {
        self.shared.failures.count(self.world.worker(), reason);
    }

    /// Now, as an IMF-fixdate (RFC 9110 §5.6.7).
    pub(super) fn date(&self) -> [u8; 29] {
        let mut date = self.date.borrow_mut();
        let now = self.world.unix_seconds();
        if date.unix_seconds != now {
            date.unix_seconds = now;
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
            if let Ok(text) = text.as_bytes().try_into() {
                date.text = text;
            }
        }
        date.text
    }

    /// The view of the newest plan.
    #[inline]
    pub(super) fn bound(&self) -> Rc<Bound> {
        let bound = self.bound.borrow();
        if bound.generation == self.shared.generation() {
            return Rc::clone(&bound);
        }
        drop(bound);
        self.bind_anew()
    }

    /// Makes `bound` that one, if it isn't.
    #[inline]
    pub(super) fn renew(&self, bound: &mut Rc<Bound>) {
        if bound.generation != self.shared.generation() {
            *bound = self.bound();
        }
    }

    #[cold]
    fn bind_anew(&self) -> Rc<Bound> {
        let plan = self.shared.plan();
        if self.bound.borrow().generation != plan.generation {
            self.bound.replace(Bound::new(plan, &mut self.head_buffers.borrow_mut()));
        }
        Rc::clone(&self.bound.borrow())
    }

    /// A buffer that begins with these bytes, and has room for a head where they leave it. They may be more than this plan's
    /// buffers hold: the client sent them while another one was in force.
    pub(super) fn buffer_with(&self, bound: &Bound, bytes: &[u8]) -> Buffer {
        let lists = [&bound.buffers, &self.body_buffers];
        let Some(list) = lists.into_iter().find(|list| bytes.len() <= list.buffer_bytes()) else {
            return Buffer::holding(bytes);
        };
        let mut buffer = list.take();
        buffer.append(bytes);
        buffer
    }

    /// Swaps an empty head buffer for a body buffer.
    pub(super) fn enlarge(&self, small: &mut Buffer) {
        if small.capacity() < BODY_BUFFER_BYTES {
            *small = self.body_buffers.take();
        }
    }

    pub(super) fn scratch(&self) -> Scratch {
        let mut bytes = self.scratches.borrow_mut().pop().unwrap_or_default();
        bytes.clear();
        Scratch { bytes, home: Rc::clone(&self.scratches) }
    }

    /// Lets buffers go that are needed no more, and lists of plans that are.
    pub(super) fn trim_buffers(&self) {
        let mut lists = self.head_buffers.borrow_mut();
        lists.retain(|list| !list.is_done_with());
        lists.iter().chain([&self.body_buffers]).for_each(Buffers::trim);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut home = self.home.borrow_mut();
        if home.len() < HEAD_BUFFERS_KEPT {
            home.push(std::mem::take(&mut self.bytes));
        }
    }
}
