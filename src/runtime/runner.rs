//! Runners: coroutines that serve one connection after another, kept on a free list between two of them.
//!
//! A fresh coroutine costs six allocations; one that is reused costs none. Both run on the calling worker and never
//! leave it.

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use may::coroutine::{self, Builder, Coroutine};

use super::stack;

/// Runners kept however long they are idle; each holds the pages of stack that it ever touched.
const KEPT_MIN: usize = 64;

/// A worker's coroutines for work items of type `J`.
pub(super) struct Runners<J: 'static> {
    shared: Rc<Shared<J>>,
}

struct Shared<J> {
    /// The last to come are the first to go: those in front have been idle for longest.
    idle: RefCell<Vec<Rc<Runner<J>>>>,
    /// The fewest that were idle since the last [`Runners::trim`].
    idle_min: Cell<usize>,
    running: Cell<usize>,
    running_max: usize,
    work: Box<dyn Fn(J)>,
    panicked: Box<dyn Fn()>,
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
    /// `work` runs each job; `panicked` is called when it panicked (the runner lives on). At most `running_max` at once.
    pub(super) fn new(running_max: usize, work: Box<dyn Fn(J)>, panicked: Box<dyn Fn()>) -> Self {
        let idle = RefCell::new(Vec::with_capacity(KEPT_MIN));
        let (idle_min, running) = (Cell::new(0), Cell::new(0));
        Self { shared: Rc::new(Shared { idle, idle_min, running, running_max, work, panicked }) }
    }

    /// Lets half of those go that were idle all the time since the last call, but for a few. To be called now and then: a
    /// crowd that comes again finds its coroutines, and one that has left gives their memory back.
    pub(super) fn trim(&self) {
        self.shared.trim();
    }

    /// Has a coroutine of this worker run `job`, soon or at once. False (and the job is dropped) when too many run.
    pub(super) fn run(&self, job: J) -> bool {
        let shared = &self.shared;
        if shared.running.get() >= shared.running_max {
            return false;
        }
        shared.running.set(shared.running.get() + 1);
        let idle = shared.idle.borrow_mut().pop();
        shared.idle_min.set(shared.idle_min.get().min(shared.idle.borrow().len()));
        if let Some(runner) = idle {
            runner.job.set(Some(job));
            if let Some(coroutine) = runner.coroutine.get() {
                coroutine.unpark();
            }
            return true;
        }
        let runner =
            Rc::new(Runner { job: Cell::new(Some(job)), ending: Cell::new(false), coroutine: OnceCell::new() });
        let serving = Rc::clone(shared);
        let started = spawn_here(move || serving.serve(&runner));
        if !started {
            shared.running.set(shared.running.get() - 1);
        }
        started
    }
}

impl<J> Shared<J> {
    /// See [`Runners::trim`].
    fn trim(&self) {
        let mut idle = self.idle.borrow_mut();
        let unused = self.idle_min.get();
        let ending: Vec<_> = idle.drain(..unused.saturating_sub(KEPT_MIN).div_ceil(2)).collect();
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
                if catch_unwind(AssertUnwindSafe(|| (self.work)(job))).is_err() {
                    (self.panicked)();
                }
                self.running.set(self.running.get() - 1);
                self.idle.borrow_mut().push(Rc::clone(runner));
            }
            coroutine::park();
        }
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
