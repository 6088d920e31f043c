//! Coroutines on `generator`, the crate beneath `may`: a runner that takes one job after the other.
//!
//! `generator`'s scoped face hands each coroutine a `Scope` whose lifetime forbids keeping it anywhere but on that
//! coroutine's own stack, and the world's `wait` is called far below it with no room for one more argument. Its older
//! face yields through the thread's current context and needs no `Scope`, thus no `unsafe` here; it wants a closure
//! that is `Send`, which this one is, since the job itself comes through a thread-local.

use std::cell::Cell;

use generator::{Generator, Gn};

/// What a coroutine does.
pub type Job = Box<dyn FnOnce()>;

/// Debug builds of the proxy are generous with their stacks; pages that are never touched cost nothing.
const STACK_WORDS: usize = 512 * 1024 / size_of::<usize>();

thread_local! {
    static NEXT_JOB: Cell<Option<Job>> = const { Cell::new(None) };
}

/// A stack that runs jobs, one at a time.
pub struct Runner(Generator<'static, (), ()>);

impl Runner {
    pub fn new() -> Self {
        Self(Gn::<()>::new_opt(STACK_WORDS, || {
            while let Some(job) = NEXT_JOB.take() {
                job();
                give_way();
            }
        }))
    }

    /// Runs `job` until it gives way or ends. The runner must be idle.
    pub fn start(&mut self, job: Job) {
        NEXT_JOB.set(Some(job));
        self.0.resume();
    }

    /// Goes on with the job that gave way.
    pub fn resume(&mut self) {
        self.0.resume();
    }

    /// Ends an idle runner without unwinding it: cancelling one swaps the process's panic hook, which tests that run
    /// beside this one would notice.
    pub fn retire(mut self) {
        NEXT_JOB.set(None);
        self.0.resume();
    }
}

/// Goes back to whoever started or resumed the current coroutine.
#[allow(deprecated)] // See the file's head: the scoped face would need `unsafe` here.
pub fn give_way() {
    generator::yield_with(());
}
