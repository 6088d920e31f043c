//! The worker: one thread's streams, deadlines and coroutines, and the [`World`] that the proxy sees of it.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use may::io::{CoIo, WaitIo, WaitIoWaker};
use may::net::TcpStream;
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::listen::Listeners;
use super::lot::{Lot, Mode};
use super::mailbox::{Controls, Mailbox, Mailboxes};
use super::runner::{Runners, spawn_here};
use super::stream::MayStream;
use super::wheel::Wheel;
use super::world::{Instant, Service, Wake, Watch, World};
use super::{clock, homing};

/// A coroutine's stack, in words of 8 bytes; only pages that were touched take memory.
const STACK_WORDS: usize = 0x2000;
/// Stacks that `may` makes at its start and keeps.
const STACKS_KEPT: usize = 64;
/// Each stack is two mappings, of which a process may have 65,530 by default.
const COROUTINES_MAX: usize = 24_000;
/// How long the first wait on a backend goes without watching the client: most answers come sooner, and watching
/// costs a system call.
const WATCH_AFTER: Duration = Duration::from_millis(5);
/// Connections accepted before others get a turn.
const ACCEPT_BATCH: usize = 64;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often failing accepts are logged.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// What [`start`] needs to know.
#[derive(Debug)]
pub struct Options {
    /// Worker threads.
    pub workers: usize,
    /// What to listen on; each with a socket for every worker.
    pub listeners: Vec<Listeners>,
}

/// One worker's counts, written by it alone.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Accepts that failed for want of descriptors or memory, or because too many connections were busy.
    pub accept_errors: AtomicU64,
    /// Panics caught; each ended one connection.
    pub panics: AtomicU64,
}

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
    workers: usize,
    slots: RefCell<Slab<Slot<P>>>,
    wheel: RefCell<Wheel>,
    timer: Timer,
    lot: Lot,
    mailbox: Arc<Mailbox>,
    runners: OnceCell<Runners<Job<P>>>,
    service: OnceCell<Box<dyn Service<MayWorld<P>>>>,
    yielded: RefCell<Vec<usize>>,
    accepting: Cell<bool>,
    acceptors: RefCell<Vec<usize>>,
    random: Cell<u64>,
    counters: Arc<Counters>,
}

/// A registered descriptor's place: its deadline, its lot, and who to wake.
struct Slot<P> {
    fd: RawFd,
    waker: WaitIoWaker,
    deadline: u64,
    expired: bool,
    lot_mode: Mode,
    lot_events: u32,
    /// The slot of the stream that is waited on when an event of the lot comes for this one.
    wakes: Option<usize>,
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

/// The one timerfd of a worker, and when it is set to.
struct Timer {
    fd: OwnedFd,
    set_to_ns: Cell<u64>,
}

/// Starts the workers; each calls `serve` on its own thread to make its service.
///
/// # Errors
/// No descriptor left for a worker's own.
pub fn start<P, S>(
    options: Options,
    serve: impl Fn(MayWorld<P>) -> S + Send + Sync + 'static,
) -> io::Result<(Mailboxes, Vec<Arc<Counters>>)>
where
    P: 'static,
    S: Service<MayWorld<P>>,
{
    let workers = options.workers;
    may::config().set_workers(workers).set_pool_capacity(STACKS_KEPT).set_stack_size(STACK_WORDS);
    may::config().set_worker_pin(false);
    let serve = Arc::new(serve);
    let mut sockets: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
    for listeners in options.listeners {
        for (worker, socket) in listeners.sockets.into_iter().enumerate() {
            sockets[worker].push(socket);
        }
    }
    let mut mailboxes = Vec::new();
    let mut counters = Vec::new();
    for (id, sockets) in sockets.into_iter().enumerate() {
        let mailbox = Arc::new(Mailbox::new()?.homed(id, workers)?);
        let lot = homing::home(Lot::new()?, id, workers)?;
        let timer = homing::home(Timer::open()?, id, workers)?;
        let (count, serve) = (Arc::new(Counters::default()), Arc::clone(&serve));
        mailboxes.push(Arc::clone(&mailbox));
        counters.push(Arc::clone(&count));
        let begin = move || {
            homing::enter(id);
            let worker = Worker::new(id, workers, mailbox, lot, timer, count);
            let service = serve(MayWorld(worker.clone()));
            worker.open(Box::new(service), sockets);
        };
        // SAFETY: the coroutine starts on worker `id`, which its descriptors are homed for, and never leaves it.
        unsafe { may::coroutine::Builder::new().id(id).spawn(begin)? };
    }
    Ok((Mailboxes(mailboxes.into()), counters))
}

impl<P: 'static> Worker<P> {
    fn new(
        id: usize,
        workers: usize,
        mailbox: Arc<Mailbox>,
        lot: OwnedFd,
        timer: OwnedFd,
        counters: Arc<Counters>,
    ) -> Handle<P> {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), id);
        Handle(Rc::new(Self {
            id,
            workers,
            slots: RefCell::new(Slab::new()),
            wheel: RefCell::new(Wheel::new(clock::now().0)),
            timer: Timer { fd: timer, set_to_ns: Cell::new(u64::MAX) },
            lot: Lot::over(lot),
            mailbox,
            runners: OnceCell::new(),
            service: OnceCell::new(),
            yielded: RefCell::new(Vec::new()),
            accepting: Cell::new(true),
            acceptors: RefCell::new(Vec::new()),
            random: Cell::new(seed | 1),
            counters,
        }))
    }
}

impl<P: 'static> Handle<P> {
    /// Starts the worker's own coroutines.
    fn open(self, service: Box<dyn Service<MayWorld<P>>>, sockets: Vec<OwnedFd>) {
        let worker = &self.0;
        let _ = worker.service.set(service);
        let (here, counters) = (Rc::downgrade(worker), Arc::clone(&worker.counters));
        let work = move |job| {
            let Some(service) = here.upgrade() else { return };
            let Some(service) = service.service.get() else { return };
            match job {
                Job::Accepted(stream, peer) => service.accepted(stream, peer),
                Job::Resumed(stream, what, wake) => service.resumed(stream, what, wake),
            }
        };
        let panicked = move || {
            counters.panics.fetch_add(1, Ordering::Relaxed);
        };
        let runners = Runners::new(COROUTINES_MAX / worker.workers, Box::new(work), Box::new(panicked));
        let _ = worker.runners.set(runners);
        let handle = self.clone();
        spawn_here(move || handle.keep_time());
        let handle = self.clone();
        spawn_here(move || handle.mind_the_lot());
        let handle = self.clone();
        spawn_here(move || handle.read_mail());
        for socket in sockets {
            let handle = self.clone();
            spawn_here(move || handle.accept_from(socket));
        }
    }

    // ---- the worker's own coroutines

    /// Fires deadlines and the service's tick.
    fn keep_time(&self) {
        const TICK: Duration = Duration::from_secs(1);
        let worker = &self.0;
        let Ok(timer) = CoIo::new(BorrowedFd(worker.timer.fd.as_raw_fd())) else {
            return log::error!("worker {}: its timer can't be registered", worker.id);
        };
        let mut next_tick = clock::now() + TICK;
        let mut due = Vec::new();
        loop {
            let now = clock::now();
            worker.wheel.borrow_mut().advance(now.0, &mut due);
            for key in due.drain(..) {
                self.expire(key, now);
            }
            if now >= next_tick {
                next_tick = now + TICK;
                if let Some(service) = worker.service.get() {
                    service.tick();
                }
            }
            let next = worker.wheel.borrow().next_ns().unwrap_or(u64::MAX).min(next_tick.0);
            worker.timer.set(next);
            timer.wait_io();
            homing::check(worker.id);
        }
    }

    fn expire(&self, key: usize, now: Instant) {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        if slot.deadline == u64::MAX {
            return;
        }
        if slot.deadline > now.0 {
            self.0.wheel.borrow_mut().schedule(key, slot.deadline);
            return;
        }
        slot.deadline = u64::MAX;
        if slot.parked.is_some() {
            drop(slots);
            return self.resume(key, Wake::Deadline);
        }
        slot.expired = true;
        slot.waker.wakeup();
    }

    /// Passes on the events of streams that no coroutine waits on directly.
    fn mind_the_lot(&self) {
        let worker = &self.0;
        let Ok(lot) = CoIo::new(BorrowedFd(worker.lot.fd())) else {
            return log::error!("worker {}: its parking lot can't be registered", worker.id);
        };
        loop {
            let (events, more) = worker.lot.look();
            for (key, flags) in events.iter() {
                self.lot_event(key, flags);
            }
            if !more {
                lot.wait_io();
                homing::check(worker.id);
            }
        }
    }

    fn lot_event(&self, key: usize, flags: u32) {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        if slot.lot_mode == Mode::Parked {
            slot.lot_mode = Mode::Disarmed;
        }
        if slot.parked.is_some() {
            drop(slots);
            return self.resume(key, Wake::Event);
        }
        slot.lot_events |= flags;
        match slot.wakes {
            Some(waiting) => {
                if let Some(waiting) = slots.get(waiting) {
                    waiting.waker.wakeup();
                }
            }
            // Nobody asks any more.
            None if slot.lot_mode == Mode::Everything => {
                if self.0.lot.arm(slot.fd, key, slot.lot_mode, Mode::Disarmed).is_ok() {
                    slot.lot_mode = Mode::Disarmed;
                }
            }
            None => {}
        }
    }

    fn read_mail(&self) {
        let worker = &self.0;
        let Ok(bell) = CoIo::new(worker.mailbox.bell()) else {
            return log::error!("worker {}: its mailbox can't be registered", worker.id);
        };
        loop {
            for message in worker.mailbox.collect() {
                message(self);
            }
            let yielded = std::mem::take(&mut *worker.yielded.borrow_mut());
            for key in yielded {
                if let Some(slot) = worker.slots.borrow().get(key) {
                    slot.waker.wakeup();
                }
            }
            bell.wait_io();
            homing::check(worker.id);
        }
    }

    fn accept_from(&self, socket: OwnedFd) {
        let worker = &self.0;
        // SAFETY: the descriptor is owned, and a listening TCP socket.
        let listener = unsafe { may::net::TcpListener::from_raw_fd(socket.into_raw_fd()) };
        let key = self.register(listener.inner().as_raw_fd(), listener.waker());
        worker.acceptors.borrow_mut().push(key);
        let (mut batch, mut next_complaint) = (0, Instant(0));
        loop {
            let failed = match accept(listener.inner().as_raw_fd()) {
                Ok((socket, peer)) => self.accepted(socket, peer).err(),
                Err(error) => Some(error),
            };
            batch += 1;
            let pause = match failed.as_ref().map(io::Error::kind) {
                None if batch < ACCEPT_BATCH => continue,
                None => Duration::ZERO,
                Some(io::ErrorKind::WouldBlock) if !worker.accepting.get() => break,
                Some(io::ErrorKind::WouldBlock) => Duration::MAX,
                // The client gave up before it was accepted (accept(2)): nothing is wrong here.
                Some(io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => continue,
                Some(_) => {
                    worker.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                    if clock::now_coarse() >= next_complaint {
                        next_complaint = clock::now_coarse() + COMPLAINT_EVERY;
                        log::warn!("worker {}: connections can't be accepted: {}", worker.id, text(failed.as_ref()));
                    }
                    ACCEPT_PAUSE
                }
            };
            batch = 0;
            if pause.is_zero() {
                worker.yielded.borrow_mut().push(key);
                worker.mailbox.ring();
            } else if pause < Duration::MAX {
                self.set_deadline(key, clock::now() + pause);
            }
            listener.wait_io();
            homing::check(worker.id);
            if let Some(slot) = worker.slots.borrow_mut().get_mut(key) {
                slot.expired = false;
            }
        }
        self.forget(key);
    }

    fn accepted(&self, socket: OwnedFd, peer: SocketAddr) -> io::Result<()> {
        let stream = self.adopt(socket, libc::EPOLLIN as u32 | libc::EPOLLOUT as u32)?;
        self.0.counters.accepted.fetch_add(1, Ordering::Relaxed);
        self.run(Job::Accepted(stream, peer));
        Ok(())
    }

    fn run(&self, job: Job<P>) {
        if !self.0.runners.get().is_some_and(|runners| runners.run(job)) {
            self.0.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn resume(&self, key: usize, wake: Wake) {
        let parked = self.0.slots.borrow_mut().get_mut(key).and_then(|slot| {
            slot.deadline = u64::MAX;
            slot.parked.take()
        });
        if let Some(parked) = parked {
            let Parked { io, ready, what } = parked;
            let stream = MayStream { worker: self.clone(), key, io: Some(io), ready: Cell::new(ready) };
            stream.pull();
            self.run(Job::Resumed(stream, what, wake));
        }
    }

    // ---- streams

    /// Homes and registers a socket, with what is supposed of its readiness.
    fn adopt(&self, socket: OwnedFd, ready: u32) -> io::Result<MayStream<P>> {
        let socket = homing::home(socket, self.0.id, self.0.workers)?;
        // SAFETY: the descriptor is owned, and a TCP socket. `may` panics where the kernel can't register it.
        let io = catch_unwind(AssertUnwindSafe(|| unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }));
        let io = io.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let key = self.register(io.inner().as_raw_fd(), io.waker());
        Ok(MayStream { worker: self.clone(), key, io: Some(io), ready: Cell::new(ready) })
    }

    fn register(&self, fd: RawFd, waker: WaitIoWaker) -> usize {
        self.0.slots.borrow_mut().insert(Slot {
            fd,
            waker,
            deadline: u64::MAX,
            expired: false,
            lot_mode: Mode::Absent,
            lot_events: 0,
            wakes: None,
            parked: None,
        })
    }

    /// Drops a stream's slot; its descriptor is about to be closed.
    pub(super) fn forget(&self, key: usize) {
        self.0.wheel.borrow_mut().remove(key);
        self.0.slots.borrow_mut().try_remove(key);
    }

    #[inline]
    pub(super) fn take_lot_events(&self, key: usize) -> u32 {
        let mut slots = self.0.slots.borrow_mut();
        slots.get_mut(key).map_or(0, |slot| std::mem::take(&mut slot.lot_events))
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

    fn arm_lot(&self, stream: &MayStream<P>, mode: Mode) {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(stream.key) else { return };
        if slot.lot_mode == mode && mode != Mode::Parked {
            return;
        }
        match self.0.lot.arm(stream.fd(), stream.key, slot.lot_mode, mode) {
            Ok(()) => slot.lot_mode = mode,
            // Out of kernel memory or watches: the stream is treated as ready, so that nothing waits for ever.
            Err(_) => slot.lot_events |= libc::EPOLLIN as u32,
        }
    }

    /// One stretch of waiting on `on`. True when the deadline ended it, and nothing else happened.
    fn wait_on(&self, on: &MayStream<P>, deadline: Instant) -> bool {
        self.set_deadline(on.key, deadline);
        let events = on.io().wait_io() as u32;
        homing::check(self.0.id);
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(on.key) else { return false };
        slot.deadline = u64::MAX;
        let events = events & !WOKEN | std::mem::take(&mut slot.lot_events);
        on.ready.set(on.ready.get() | events);
        std::mem::take(&mut slot.expired) && events == 0
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

impl<P: 'static> Controls for Handle<P> {
    fn stop_accepting(&self) {
        self.0.accepting.set(false);
        for key in self.0.acceptors.borrow_mut().drain(..) {
            if let Some(slot) = self.0.slots.borrow().get(key) {
                slot.waker.wakeup();
            }
        }
    }

    fn recall(&self) {
        let slots = self.0.slots.borrow();
        let parked: Vec<usize> = slots.iter().filter(|(_, slot)| slot.parked.is_some()).map(|(key, _)| key).collect();
        drop(slots);
        for key in parked {
            self.resume(key, Wake::Recalled);
        }
    }
}

impl<P: 'static> World for MayWorld<P> {
    type Stream = MayStream<P>;
    type Parked = P;

    #[inline]
    fn now(&self) -> Instant {
        clock::now()
    }

    fn unix_seconds(&self) -> u64 {
        clock::unix_seconds()
    }

    fn random(&self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let state = self.0.0.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.0.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn worker(&self) -> usize {
        self.0.0.id
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        let socket = homing::home(OwnedFd::from(socket), self.0.0.id, self.0.0.workers)?;
        match socket2::SockRef::from(&socket).connect(&SockAddr::from(address)) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        self.0.adopt(socket, 0)
    }

    fn wait(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake {
        let Some((second, watch)) = also else {
            return if self.0.wait_on(on, deadline) { Wake::Deadline } else { Wake::Event };
        };
        if second.pull() {
            return Wake::Event;
        }
        if watch == Watch::Hangup && !matches!(self.0.lot_mode(second.key), Mode::Hangup | Mode::Everything) {
            let first_look = clock::now_coarse() + WATCH_AFTER;
            if first_look < deadline {
                if !self.0.wait_on(on, first_look) {
                    return Wake::Event;
                }
                if second.pull() {
                    return Wake::Event;
                }
            }
        }
        self.0.set_wakes(second.key, Some(on.key));
        self.0.arm_lot(second, if watch == Watch::Everything { Mode::Everything } else { Mode::Hangup });
        let expired = !second.pull() && self.0.wait_on(on, deadline);
        self.0.set_wakes(second.key, None);
        if expired && !second.pull() { Wake::Deadline } else { Wake::Event }
    }

    fn yield_now(&self, on: &Self::Stream) {
        on.pull();
        self.0.0.yielded.borrow_mut().push(on.key);
        self.0.0.mailbox.ring();
        self.0.wait_on(on, Instant::NEVER);
    }

    fn park(&self, mut stream: Self::Stream, parked: P, deadline: Instant) {
        let (key, ready) = (stream.key, stream.ready.get());
        {
            let mut slots = self.0.0.slots.borrow_mut();
            let Some(slot) = slots.get_mut(key) else { return };
            if let Err(error) = self.0.0.lot.arm(slot.fd, key, slot.lot_mode, Mode::Parked) {
                // The kernel has no memory for it: the connection ends rather than wait unwatched.
                drop(slots);
                return log::warn!("worker {}: an idle connection was closed: {error}", self.0.0.id);
            }
            slot.lot_mode = Mode::Parked;
            slot.parked = stream.io.take().map(|io| Parked { io, ready, what: parked });
        }
        self.0.set_deadline(key, deadline);
    }

    fn resume_parked(&self) {
        self.0.recall();
    }
}

impl Timer {
    fn open() -> io::Result<OwnedFd> {
        // SAFETY: no pointers; the result is checked and owned by nobody else.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: timerfd_create just returned it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Has the timer fire at `at_ns` of the monotonic clock (at once when that has passed).
    fn set(&self, at_ns: u64) {
        self.set_to_ns.set(at_ns);
        let at_ns = at_ns.max(1);
        let seconds = libc::time_t::try_from(at_ns / 1_000_000_000).unwrap_or(libc::time_t::MAX);
        let at = libc::timespec { tv_sec: seconds, tv_nsec: (at_ns % 1_000_000_000) as libc::c_long };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        // SAFETY: `once` is a valid itimerspec, the descriptor is an open timerfd, and no old value is asked for.
        unsafe {
            libc::timerfd_settime(self.fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &raw const once, std::ptr::null_mut());
        }
    }
}

/// A descriptor that is lent, not owned.
struct BorrowedFd(i32);

impl AsRawFd for BorrowedFd {
    fn as_raw_fd(&self) -> i32 {
        self.0
    }
}

fn text(error: Option<&io::Error>) -> String {
    error.map_or_else(String::new, ToString::to_string)
}

fn accept(listener: i32) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: `listener` is an open listening socket for as long as its acceptor runs.
    let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(listener) };
    let (socket, peer) = socket2::SockRef::from(&listener).accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)?;
    let peer = peer.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((OwnedFd::from(socket), peer))
}
