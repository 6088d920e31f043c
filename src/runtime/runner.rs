//! Runners: coroutines that serve one connection after another, kept on a free list between two of them.
//!
//! A fresh coroutine costs six allocations; one that is reused costs none. Both run on the calling worker and never
//! leave it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use may::coroutine::{self, Builder, Coroutine};

use super::stack;
use super::stack_count::StackCount;

/// Runners kept however long they are idle; each holds the pages of stack that it ever touched.
const KEPT_MIN: usize = 64;

/// How many coroutines are started again, of those that were idle, between two looks at the network.
const TOGETHER_MAX: usize = 128;

/// A worker's coroutines for work items of type `J`. A job for which there is none waits, and the first to become free takes
/// the one that has waited for longest.
pub(super) struct Runners<J: 'static> {
    shared: Rc<Shared<J>>,
}

struct Shared<J> {
    /// The last to come are the first to go: those in front have been idle for longest.
    idle: RefCell<Vec<Rc<Runner<J>>>>,
    /// The fewest that were idle since the last [`Runners::trim`].
    idle_min: Cell<usize>,
    /// Jobs without a coroutine. A connection has one job at most, so that there are no more of them than connections.
    waiting: RefCell<VecDeque<J>>,
    /// No stack could be had since the last [`Runners::trim`]: trying again costs system calls, and a line on stderr.
    short: Cell<bool>,
    stacks: Arc<StackCount>,
    tasks: Tasks<J>,
}

/// What runners need of their worker.
pub(super) struct Tasks<J> {
    /// Runs a job.
    pub(super) work: Box<dyn Fn(J)>,
    /// Called when a job panicked; its runner lives on.
    pub(super) panicked: Box<dyn Fn()>,
    /// Has [`Runners::start_waiting`] called soon, after a look at the network.
    pub(super) call_soon: Box<dyn Fn()>,
}

struct Runner<J> {
    job: Cell<Option<J>>,
    /// It isn't needed any more.
    ending: Cell<bool>,
    coroutine: OnceCell<Coroutine>,
}

/// Lets a value into a closure that `may` wants to be `Send`.
struct StaysHere<T>(T);

// SAFETY: a runner is started with `spawn_local`, which runs it on the calling thread, and all it waits for is homed
// there (see `homing`), so the value never leaves the thread that made it.
unsafe impl<T> Send for StaysHere<T> {}

impl<T> StaysHere<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

impl<J: 'static> Runners<J> {
    /// None yet. Those of all workers together have no more than `stacks`.
    pub(super) fn new(stacks: Arc<StackCount>, tasks: Tasks<J>) -> Self {
        let idle = RefCell::new(Vec::with_capacity(KEPT_MIN));
        let (idle_min, waiting, short) = (Cell::new(0), RefCell::default(), Cell::new(false));
        Self { shared: Rc::new(Shared { idle, idle_min, waiting, short, stacks, tasks }) }
    }

    /// Lets half of those go that were idle all the time since the last call, but for a few; all of these where stacks are
    /// short. To be called now and then: a crowd that comes again finds its coroutines, and one that has left gives their
    /// memory back. Jobs that wait for a stack try again.
    pub(super) fn trim(&self) {
        self.shared.trim();
        self.shared.short.set(false);
        self.start_waiting();
    }

    /// Has a coroutine of this worker run `job`: at once, soon, or when one is free.
    pub(super) fn run(&self, job: J) {
        // One that has waited for longer goes first.
        let waits = !self.shared.waiting.borrow().is_empty();
        let left = if waits { Some(job) } else { self.start(job) };
        if let Some(job) = left {
            self.shared.waiting.borrow_mut().push_back(job);
        }
    }

    /// Jobs that wait for a coroutine.
    pub(super) fn waiting(&self) -> usize {
        self.shared.waiting.borrow().len()
    }

    /// Gives jobs that wait to coroutines that are free by now.
    pub(super) fn start_waiting(&self) {
        for _ in 0..TOGETHER_MAX {
            let Some(job) = self.shared.waiting.borrow_mut().pop_front() else { return };
            if let Some(job) = self.start(job) {
                return self.shared.waiting.borrow_mut().push_front(job);
            }
        }
        (self.shared.tasks.call_soon)();
    }

    /// Gives the job back where there is no coroutine for it now.
    fn start(&self, job: J) -> Option<J> {
        let shared = &self.shared;
        let idle = shared.idle.borrow_mut().pop();
        shared.idle_min.set(shared.idle_min.get().min(shared.idle.borrow().len()));
        let Some(runner) = idle else { return self.start_anew(job) };
        runner.job.set(Some(job));
        if let Some(coroutine) = runner.coroutine.get() {
            coroutine.unpark();
        }
        None
    }

    fn start_anew(&self, job: J) -> Option<J> {
        let shared = &self.shared;
        if shared.short.get() || !shared.stacks.take() {
            return Some(job);
        }
        let runner =
            Rc::new(Runner { job: Cell::new(Some(job)), ending: Cell::new(false), coroutine: OnceCell::new() });
        let (serving, served) = (Rc::clone(shared), Rc::clone(&runner));
        if spawn_here(move || serving.serve(&served)) {
            return None;
        }
        shared.stacks.give_back();
        shared.short.set(true);
        runner.job.take()
    }
}

impl<J> Shared<J> {
    /// See [`Runners::trim`].
    fn trim(&self) {
        let mut idle = self.idle.borrow_mut();
        let unused = self.idle_min.get().saturating_sub(KEPT_MIN);
        let leaving = if self.stacks.are_short() { unused } else { unused.div_ceil(2) };
        let ending: Vec<_> = idle.drain(..leaving).collect();
        self.idle_min.set(idle.len());
        drop(idle);
        for runner in ending {
            runner.ending.set(true);
            if let Some(coroutine) = runner.coroutine.get() {
                coroutine.unpark();
            }
        }
    }

    fn serve(&self, runner: &Rc<Runner<J>>) {
        stack::enter();
        let _ = runner.coroutine.set(coroutine::current());
        while !runner.ending.get() {
            while let Some(job) = runner.job.take() {
                if catch_unwind(AssertUnwindSafe(|| (self.tasks.work)(job))).is_err() {
                    (self.tasks.panicked)();
                }
                self.idle.borrow_mut().push(Rc::clone(runner));
                if !self.waiting.borrow().is_empty() {
                    (self.tasks.call_soon)();
                }
            }
            coroutine::park();
        }
        self.stacks.give_back();
    }
}

/// Starts a coroutine on this worker; it runs until its first wait before this returns. False when it can't be made: the
/// system has no memory for its stack.
pub(super) fn spawn_here(work: impl FnOnce() + 'static) -> bool {
    let work = StaysHere(work);
    // SAFETY: the coroutine stays on this thread (see StaysHere) and has no more thread-local state across a wait than
    // this thread itself; its stack is guarded by `generator`, and nothing here cancels coroutines.
    let start = || unsafe { Builder::new().spawn_local(move || (work.into_inner())()) };
    // `generator` panics where it can't map a stack. What the new coroutine itself panics with stays in it.
    catch_unwind(AssertUnwindSafe(start)).is_ok_and(|started| started.is_ok())
}
