//! Starting the workers.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use slab::Slab;

use super::lifetimes::Lifetimes;
use super::time_slice::TimeSlice;
use super::timer::Timer;
use super::{Counters, Handle, Job, MayWorld, Team, Worker};
use crate::runtime::fd_numbers::FdNumbers;
use crate::runtime::listen::Listeners;
use crate::runtime::lot::Lot;
use crate::runtime::mailbox::{Mailbox, Mailboxes};
use crate::runtime::pipe::Pipes;
use crate::runtime::runner::{Runners, Tasks, spawn_here};
use crate::runtime::stack_count::StackCount;
use crate::runtime::wheel::Wheel;
use crate::runtime::world::Service;
use crate::runtime::{clock, homing, stack};

/// Stacks that `may` makes at its start and keeps.
const STACKS_KEPT: usize = 64;

/// What [`start`] needs to know.
#[derive(Debug)]
pub struct Options {
    /// Worker threads.
    pub workers: usize,
    /// What to listen on; each with a socket for every worker.
    pub listeners: Vec<Listeners>,
    /// Sockets of connections get descriptors below this number; see `descriptors::Shares`.
    pub sockets_below: RawFd,
    /// Pipes for large bodies that each worker may have.
    pub pipes_max: usize,
    /// Coroutines of all workers; what needs one beyond waits until one is free. See [`coroutines_max`].
    ///
    /// [`coroutines_max`]: crate::runtime::coroutines_max
    pub coroutines_max: usize,
}

/// Starts the workers; each calls `serve` on its own thread to make its service.
///
/// # Errors
/// No descriptor left for a worker's own.
pub fn start<P, S>(
    options: Options,
    serve: impl Fn(MayWorld<P>) -> S + Send + Sync + 'static,
) -> io::Result<(Mailboxes, Arc<[Arc<Counters>]>)>
where
    P: 'static,
    S: Service<MayWorld<P>>,
{
    let workers = options.workers;
    may::config().set_workers(workers).set_pool_capacity(STACKS_KEPT).set_stack_size(stack::WORDS);
    may::config().set_worker_pin(false);
    let serve = Arc::new(serve);
    let mut sockets: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
    for listeners in options.listeners {
        for (worker, socket) in listeners.sockets.into_iter().enumerate() {
            sockets[worker].push(socket);
        }
    }
    let mailboxes = (0..workers).map(|id| Mailbox::new()?.homed(id, workers).map(Arc::new));
    let team = Team {
        mailboxes: Mailboxes(mailboxes.collect::<io::Result<_>>()?),
        counters: (0..workers).map(|_| Arc::default()).collect(),
        sockets_below: options.sockets_below,
        pipes_max: options.pipes_max,
        stacks: Arc::new(StackCount::new(options.coroutines_max)),
    };
    for (id, sockets) in sockets.into_iter().enumerate() {
        let lot = homing::home(Lot::open()?, id, workers)?;
        let timer = homing::home(Timer::open()?, id, workers)?;
        let (team, serve) = (team.clone(), Arc::clone(&serve));
        let begin = move || {
            homing::enter(id);
            let worker = Worker::begin(id, team, lot, timer);
            let service = serve(MayWorld(worker.clone()));
            worker.open(Box::new(service), sockets);
        };
        // SAFETY: the coroutine starts on worker `id`, which its descriptors are homed for, and never leaves it.
        unsafe { may::coroutine::Builder::new().id(id).spawn(begin)? };
    }
    Ok((team.mailboxes, team.counters))
}

impl<P: 'static> Worker<P> {
    fn begin(id: usize, team: Team, lot: OwnedFd, timer: OwnedFd) -> Handle<P> {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), id);
        Handle(Rc::new(Self {
            id,
            numbers: RefCell::new(FdNumbers::new(id, team.counters.len())),
            slots: RefCell::new(Slab::new()),
            wheel: RefCell::new(Wheel::new(clock::now().0)),
            timer: Timer { fd: timer, set_to_ns: Cell::new(u64::MAX) },
            lot: Lot::over(lot),
            mailbox: Arc::clone(&team.mailboxes.0[id]),
            runners: OnceCell::new(),
            service: OnceCell::new(),
            slice: TimeSlice::new(),
            yielded: RefCell::default(),
            yielded_early: RefCell::default(),
            recalled: RefCell::default(),
            accepting: Cell::new(true),
            acceptors: RefCell::new(Vec::new()),
            lifetimes: Lifetimes::new(),
            random: Cell::new(seed | 1),
            pipes: Pipes::new(team.pipes_max, team.sockets_below),
            counters: Arc::clone(&team.counters[id]),
            team,
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
            let Some(worker) = here.upgrade() else { return };
            let Some(service) = worker.service.get() else { return };
            worker.slice.begin(true);
            match job {
                Job::Accepted(stream, arrival) => service.accepted(stream, arrival),
                Job::Resumed(stream, what, wake) => {
                    // By now the worker's own epoll has told what the lot told too: it must not look like news later.
                    stream.pull();
                    service.resumed(stream, what, wake);
                }
            }
        };
        let panicked = move || counters.panics.bump();
        // The mailbox's coroutine looks for jobs that wait, each time that it is called.
        let mailbox = Arc::clone(&worker.mailbox);
        let call_soon = move || mailbox.ring();
        let tasks = Tasks { work: Box::new(work), panicked: Box::new(panicked), call_soon: Box::new(call_soon) };
        let runners = Runners::new(Arc::clone(&worker.team.stacks), tasks);
        let _ = worker.runners.set(runners);
        let handle = self.clone();
        spawn_here(move || handle.run_timers());
        let handle = self.clone();
        spawn_here(move || handle.run_lot());
        let handle = self.clone();
        spawn_here(move || handle.run_mailbox());
        for (listener, socket) in sockets.into_iter().enumerate() {
            let handle = self.clone();
            spawn_here(move || handle.run_acceptor(listener, socket));
        }
    }
}
