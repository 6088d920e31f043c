//! The worker: one thread's streams, their deadlines, and which coroutine is woken by what.

mod accept;
mod counters;
mod lifetimes;
mod loops;
mod may_world;
mod start;
mod time_slice;
mod timer;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use may::io::{WaitIo, WaitIoWaker};
use may::net::TcpStream;
use slab::Slab;

pub use self::counters::{Counter, Counters};
use self::lifetimes::Lifetimes;
pub use self::start::{Options, start};
use self::time_slice::TimeSlice;
use self::timer::Timer;
use super::fd_numbers::FdNumbers;
use super::lot::{Lot, Mode};
use super::mailbox::{Mailbox, Mailboxes};
use super::pipe::{KernelPipe, Pipes};
use super::runner::Runners;
use super::stack_count::StackCount;
use super::stream::{MayStream, Owner};
use super::wheel::Wheel;
use super::world::{Arrival, Instant, Service, Wake};
use super::{clock, homing};

/// A handle to the worker's surroundings; see [`World`].
pub struct MayWorld<P: 'static>(Handle<P>);

impl<P> Clone for MayWorld<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What the runtime passes around of a worker.
pub struct Handle<P: 'static>(Rc<Worker<P>>);

impl<P> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// A stream of the worker.
type Stream<P> = MayStream<Handle<P>>;

struct Worker<P: 'static> {
    id: usize,
    numbers: RefCell<FdNumbers>,
    slots: RefCell<Slab<Slot<P>>>,
    wheel: RefCell<Wheel>,
    timer: Timer,
    lot: Lot,
    mailbox: Arc<Mailbox>,
    runners: OnceCell<Runners<Job<P>>>,
    service: OnceCell<Box<dyn Service<MayWorld<P>>>>,
    slice: TimeSlice,
    /// Slots whose coroutines have yielded, and go on when the worker has looked at the network.
    yielded: RefCell<Vec<usize>>,
    /// The same, but their slice began within a look that may not be over: they go on a look later.
    yielded_early: RefCell<Vec<usize>>,
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
    stacks: Arc<StackCount>,
}

/// What is kept of a registered descriptor: its deadline, how the lot watches it, and which coroutine to wake.
struct Slot<P> {
    fd: RawFd,
    waker: WaitIoWaker,
    /// Never, unless its connection was accepted.
    accepted_at: Instant,
    deadline: u64,
    expired: bool,
    /// Its coroutine has yielded.
    yields: bool,
    lot_mode: Mode,
    lot_events: u32,
    /// The slot of the stream that is waited on when an event of the lot comes for this one.
    wakes: Option<u32>,
    /// The slot of the stream whose events bring this one back.
    tied: Option<u32>,
    parked: Option<Parked<P>>,
}

struct Parked<P> {
    io: TcpStream,
    ready: u32,
    what: P,
}

enum Job<P: 'static> {
    Accepted(Stream<P>, Arrival),
    Resumed(Stream<P>, P, Wake),
}

impl<P: 'static> Handle<P> {
    /// Homes and registers a socket, with what is supposed of its readiness.
    fn adopt(&self, socket: OwnedFd, ready: u32) -> io::Result<Stream<P>> {
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
            accepted_at: Instant::NEVER,
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
    fn arm_lot(&self, stream: &Stream<P>, mode: Mode) -> bool {
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
    fn wait_on(&self, on: &Stream<P>, deadline: Instant) -> bool {
        self.set_deadline(on.key, deadline);
        let events = on.io().wait_io() as u32;
        homing::check(self.0.id);
        self.0.slice.begin(events & WOKEN == 0);
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(on.key) else { return false };
        slot.deadline = u64::MAX;
        let events = events & !WOKEN | std::mem::take(&mut slot.lot_events);
        on.ready.set(on.ready.get() | events);
        std::mem::take(&mut slot.expired) && events == 0
    }

    /// Ends this coroutine's slice: the network and all others go first, whatever comes meanwhile. `wait` is a wait of this slot's own. `early`: the
    /// present look at the network may not have told of all yet.
    fn yield_slice(&self, key: usize, early: bool, wait: impl Fn()) {
        if let Some(slot) = self.0.slots.borrow_mut().get_mut(key) {
            slot.yields = true;
        }
        let yielded = if early { &self.0.yielded_early } else { &self.0.yielded };
        yielded.borrow_mut().push(key);
        self.0.mailbox.ring();
        while self.0.slots.borrow().get(key).is_some_and(|slot| slot.yields) {
            wait();
            homing::check(self.0.id);
        }
    }

    /// Has a coroutine of this worker do a job.
    fn run(&self, job: Job<P>) {
        if let Some(runners) = self.0.runners.get() {
            runners.run(job);
        }
    }

    /// Ends a stream's parking.
    fn resume(&self, key: usize, wake: Wake) {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        slot.deadline = u64::MAX;
        let parked = slot.parked.take();
        let tied = slot.tied.take().and_then(|tied| slots.get_mut(tied as usize));
        // It may have been closed meanwhile, and its slot be another's.
        if let Some(tied) = tied.filter(|tied| tied.wakes == Some(key as u32)) {
            tied.wakes = None;
        }
        drop(slots);
        if let Some(parked) = parked {
            let Parked { io, ready, what } = parked;
            let stream = MayStream { worker: self.clone(), key, io: Some(io), ready: Cell::new(ready) };
            self.run(Job::Resumed(stream, what, wake));
        }
    }

    fn set_wakes(&self, key: usize, wakes: Option<usize>) {
        if let Some(slot) = self.0.slots.borrow_mut().get_mut(key) {
            slot.wakes = wakes.map(|key| key as u32);
        }
    }

    fn lot_mode(&self, key: usize) -> Mode {
        self.0.slots.borrow().get(key).map_or(Mode::Absent, |slot| slot.lot_mode)
    }
}

impl<P: 'static> Owner for Handle<P> {
    fn forget(&self, key: usize) {
        self.0.wheel.borrow_mut().remove(key);
        let slot = self.0.slots.borrow_mut().try_remove(key);
        if let Some(slot) = &slot {
            self.0.numbers.borrow_mut().give_back(slot.fd);
        }
        if let Some(accepted_at) = slot.map(|slot| slot.accepted_at).filter(|at| *at != Instant::NEVER) {
            self.0.counters.ended.bump();
            self.0.lifetimes.add(clock::now_coarse().since(accepted_at));
        }
    }

    #[inline]
    fn take_lot_events(&self, key: usize) -> u32 {
        let mut slots = self.0.slots.borrow_mut();
        slots.get_mut(key).map_or(0, |slot| std::mem::take(&mut slot.lot_events))
    }

    fn pipe(&self, body_bytes: u64) -> Option<KernelPipe> {
        self.0.pipes.take(body_bytes)
    }
}

/// The bit by which `may` says that a waker, not an event, ended a wait.
const WOKEN: u32 = 0x8000_0000;
