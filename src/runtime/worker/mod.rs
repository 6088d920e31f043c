//! The worker: one thread's streams, their deadlines, and who is woken by what.

mod accept;
mod counters;
mod duties;
mod start;
mod surroundings;
mod timer;
mod turn;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use may::io::{WaitIo, WaitIoWaker};
use may::net::TcpStream;
use slab::Slab;

use self::accept::Lifetimes;
pub use self::counters::{Counter, Counters};
pub use self::start::{Options, start};
use self::timer::Timer;
use self::turn::Turn;
use super::lot::{Lot, Mode};
use super::mailbox::{Mailbox, Mailboxes};
use super::numbers::Numbers;
use super::pipe::{KernelPipe, Pipes};
use super::runner::Runners;
use super::stacks::Stacks;
use super::stream::MayStream;
use super::wheel::Wheel;
use super::world::{Instant, Service, Wake};
use super::{clock, homing};

/// A handle to the worker's surroundings; see [`World`].
pub struct MayWorld<P: 'static>(Handle<P>);

impl<P> Clone for MayWorld<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What the runtime passes around of a worker.
pub(super) struct Handle<P: 'static>(Rc<Worker<P>>);

impl<P> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Worker<P: 'static> {
    id: usize,
    numbers: RefCell<Numbers>,
    slots: RefCell<Slab<Slot<P>>>,
    wheel: RefCell<Wheel>,
    timer: Timer,
    lot: Lot,
    mailbox: Arc<Mailbox>,
    runners: OnceCell<Runners<Job<P>>>,
    service: OnceCell<Box<dyn Service<MayWorld<P>>>>,
    turn: Turn,
    /// Those that gave their turn away, and get the next one when the worker has looked at the network.
    yielded: RefCell<Vec<usize>>,
    /// Parked streams that are to come back, some in each round.
    recalled: RefCell<Vec<usize>>,
    accepting: Cell<bool>,
    acceptors: RefCell<Vec<usize>>,
    lifetimes: Lifetimes,
    random: Cell<u64>,
    pipes: Pipes,
    counters: Arc<Counters>,
    team: Team,
}

/// What each worker can reach of all of them.
#[derive(Clone)]
struct Team {
    mailboxes: Mailboxes,
    counters: Arc<[Arc<Counters>]>,
    /// The numbers of the workers' sockets and pipes are below this.
    sockets_below: RawFd,
    /// Pipes that each may have.
    pipes_max: usize,
    stacks: Arc<Stacks>,
}

/// A registered descriptor's place: its deadline, its lot, and who to wake.
struct Slot<P> {
    fd: RawFd,
    waker: WaitIoWaker,
    /// Of a connection that was accepted.
    accepted_at: Option<Instant>,
    deadline: u64,
    expired: bool,
    /// It stands among those that gave their turn away.
    yields: bool,
    lot_mode: Mode,
    lot_events: u32,
    /// The slot of the stream that is waited on when an event of the lot comes for this one.
    wakes: Option<usize>,
    /// The slot of the stream whose events bring this one back.
    tied: Option<usize>,
    parked: Option<Parked<P>>,
}

struct Parked<P> {
    io: TcpStream,
    ready: u32,
    what: P,
}

enum Job<P: 'static> {
    Accepted(MayStream<P>, SocketAddr),
    Resumed(MayStream<P>, P, Wake),
}

impl<P: 'static> Handle<P> {
    /// Homes and registers a socket, with what is supposed of its readiness.
    fn adopt(&self, socket: OwnedFd, ready: u32) -> io::Result<MayStream<P>> {
        let socket = self.home(socket).map_err(|(error, _)| error)?;
        // SAFETY: the descriptor is owned, and a TCP socket. `may` panics where the kernel can't register it.
        let io = catch_unwind(AssertUnwindSafe(|| unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }));
        let io = io.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let key = self.register(io.inner().as_raw_fd(), io.waker());
        Ok(MayStream { worker: self.clone(), key, io: Some(io), ready: Cell::new(ready) })
    }

    /// Homes a socket of the data plane, which leaves the control plane's reserve alone.
    fn home(&self, socket: OwnedFd) -> Result<OwnedFd, (io::Error, OwnedFd)> {
        self.0.numbers.borrow_mut().home(socket, self.0.team.sockets_below)
    }

    fn register(&self, fd: RawFd, waker: WaitIoWaker) -> usize {
        self.0.slots.borrow_mut().insert(Slot {
            fd,
            waker,
            accepted_at: None,
            deadline: u64::MAX,
            expired: false,
            yields: false,
            lot_mode: Mode::Absent,
            lot_events: 0,
            wakes: None,
            tied: None,
            parked: None,
        })
    }

    /// Drops a stream's slot; its descriptor is about to be closed.
    pub(super) fn forget(&self, key: usize) {
        self.0.wheel.borrow_mut().remove(key);
        let slot = self.0.slots.borrow_mut().try_remove(key);
        if let Some(slot) = &slot {
            self.0.numbers.borrow_mut().give_back(slot.fd);
        }
        if let Some(accepted_at) = slot.and_then(|slot| slot.accepted_at) {
            self.0.counters.ended.bump();
            self.0.lifetimes.add(clock::now_coarse().since(accepted_at));
        }
    }

    #[inline]
    pub(super) fn take_lot_events(&self, key: usize) -> u32 {
        let mut slots = self.0.slots.borrow_mut();
        slots.get_mut(key).map_or(0, |slot| std::mem::take(&mut slot.lot_events))
    }

    pub(super) fn pipe(&self, body_bytes: u64) -> Option<KernelPipe> {
        self.0.pipes.take(body_bytes)
    }

    fn set_deadline(&self, key: usize, deadline: Instant) {
        if let Some(slot) = self.0.slots.borrow_mut().get_mut(key) {
            slot.deadline = deadline.0;
        }
        if deadline != Instant::NEVER {
            let due = self.0.wheel.borrow_mut().schedule(key, deadline.0);
            if let Some(due) = due.filter(|&due| due < self.0.timer.set_to_ns.get()) {
                self.0.timer.set(due);
            }
        }
    }

    /// Has the lot watch a stream. False when it can't: the kernel has no memory for it, or counts no more watches.
    fn arm_lot(&self, stream: &MayStream<P>, mode: Mode) -> bool {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(stream.key) else { return false };
        if slot.lot_mode == mode || (slot.lot_mode.sees_hangups() && mode == Mode::Hangup) {
            return true;
        }
        let armed = self.0.lot.arm(stream.fd(), stream.key, slot.lot_mode, mode).is_ok();
        if armed {
            slot.lot_mode = mode;
        }
        armed
    }

    /// One stretch of waiting on `on`. True when the deadline ended it, and nothing else happened.
    fn wait_on(&self, on: &MayStream<P>, deadline: Instant) -> bool {
        self.set_deadline(on.key, deadline);
        let events = on.io().wait_io() as u32;
        homing::check(self.0.id);
        self.0.turn.begin();
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(on.key) else { return false };
        slot.deadline = u64::MAX;
        let events = events & !WOKEN | std::mem::take(&mut slot.lot_events);
        on.ready.set(on.ready.get() | events);
        std::mem::take(&mut slot.expired) && events == 0
    }

    /// Lets the network and all others go first, whatever comes meanwhile. `wait` is a wait of this slot's own.
    fn give_turn_away(&self, key: usize, wait: impl Fn()) {
        if let Some(slot) = self.0.slots.borrow_mut().get_mut(key) {
            slot.yields = true;
        }
        self.0.yielded.borrow_mut().push(key);
        self.0.mailbox.ring();
        while self.0.slots.borrow().get(key).is_some_and(|slot| slot.yields) {
            wait();
            homing::check(self.0.id);
        }
    }

    fn set_wakes(&self, key: usize, wakes: Option<usize>) {
        if let Some(slot) = self.0.slots.borrow_mut().get_mut(key) {
            slot.wakes = wakes;
        }
    }

    fn lot_mode(&self, key: usize) -> Mode {
        self.0.slots.borrow().get(key).map_or(Mode::Absent, |slot| slot.lot_mode)
    }
}

/// The bit by which `may` says that a waker, not an event, ended a wait.
const WOKEN: u32 = 0x8000_0000;
