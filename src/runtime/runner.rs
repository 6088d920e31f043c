//! Runners: coroutines that serve one connection after another, kept on a free list between two of them.
//!
//! A fresh coroutine costs six allocations; one that is reused costs none. Both run on the calling worker and never
//! leave it.

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use may::coroutine::{self, Builder, Coroutine};

use super::stack;

/// Runners kept when idle; each holds the pages of stack that it ever touched.
const KEPT_MAX: usize = 256;

/// A worker's coroutines for work items of type `J`.
pub(super) struct Runners<J: 'static> {
    shared: Rc<Shared<J>>,
}

struct Shared<J> {
    idle: RefCell<Vec<Rc<Runner<J>>>>,
    running: Cell<usize>,
    running_max: usize,
    work: Box<dyn Fn(J)>,
    panicked: Box<dyn Fn()>,
}

struct Runner<J> {
    job: Cell<Option<J>>,
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
        let idle = RefCell::new(Vec::with_capacity(KEPT_MAX));
        Self { shared: Rc::new(Shared { idle, running: Cell::new(0), running_max, work, panicked }) }
    }

    /// Has a coroutine of this worker run `job`, soon or at once. False (and the job is dropped) when too many run.
    pub(super) fn run(&self, job: J) -> bool {
        let shared = &self.shared;
        if shared.running.get() >= shared.running_max {
            return false;
        }
        shared.running.set(shared.running.get() + 1);
        let idle = shared.idle.borrow_mut().pop();
        if let Some(runner) = idle {
            runner.job.set(Some(job));
            if let Some(coroutine) = runner.coroutine.get() {
                coroutine.unpark();
            }
            return true;
        }
        let runner = Rc::new(Runner { job: Cell::new(Some(job)), coroutine: OnceCell::new() });
        let serving = Rc::clone(shared);
        let started = spawn_here(move || serving.serve(&runner));
        if !started {
            shared.running.set(shared.running.get() - 1);
        }
        started
    }
}

impl<J> Shared<J> {
    fn serve(&self, runner: &Rc<Runner<J>>) {
        stack::enter();
        let _ = runner.coroutine.set(coroutine::current());
        loop {
            while let Some(job) = runner.job.take() {
                if catch_unwind(AssertUnwindSafe(|| (self.work)(job))).is_err() {
                    (self.panicked)();
                }
                self.running.set(self.running.get() - 1);
                if self.idle.borrow().len() >= KEPT_MAX {
                    return;
                }
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
