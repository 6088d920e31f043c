//! A worker's coroutines: how many it may have, and for how long one of them may be kept by a wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::coroutine::Job;
use crate::net::SocketId;
use crate::sim::{MILLISECOND, Sim, Time};
use crate::tally::{Fault, Promise};

/// After a quarter of a second what waits is laid aside; a backend has some time more. The rest is for deadlines that fire
/// late.
const KEPT_MAX: Time = 300 * MILLISECOND;

/// Jobs, and coroutines for them. Handles are to those of the same worker.
#[derive(Clone)]
pub struct Runners {
    sim: Sim,
    free: Rc<Cell<usize>>,
    waiting: Rc<RefCell<VecDeque<Waiting>>>,
    /// What they run is held to the bound on waits.
    bounded: Rc<Cell<bool>>,
}

struct Waiting {
    name: &'static str,
    socket: SocketId,
    job: Job,
}

/// A coroutine that a job has: the next one's when this is dropped.
struct Place(Runners);

impl Runners {
    pub fn new(sim: &Sim) -> Self {
        let free = Rc::new(Cell::new(sim.temper.coroutines));
        Self { sim: sim.clone(), free, waiting: Rc::default(), bounded: Rc::default() }
    }

    /// From now on no wait may keep a coroutine for long.
    pub fn bound_waits(&self) {
        self.bounded.set(true);
    }

    /// Runs a connection's job, as soon as there is a coroutine for it.
    pub fn run(&self, name: &'static str, socket: SocketId, job: impl FnOnce() + 'static) {
        let job = Waiting { name, socket, job: Box::new(job) };
        if self.free.get() == 0 {
            self.sim.struck(Fault::CoroutinesLack);
            return self.waiting.borrow_mut().push_back(job);
        }
        self.free.set(self.free.get() - 1);
        self.start(Place(self.clone()), job);
    }

    fn start(&self, place: Place, waiting: Waiting) {
        let Waiting { name, socket, job } = waiting;
        self.sim.checked(Promise::TakenUp);
        let task = self.sim.spawn(name, move || {
            let _place = place;
            job();
        });
        self.sim.trail.serves(task, socket);
    }

    /// Jobs that have no coroutine.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Lets go of them.
    pub fn end(&self) {
        let waiting = self.waiting.take();
        drop(waiting);
    }

    /// The running job begins to wait, or has waited: since it has read or written anything, it may have done so for a while
    /// only.
    pub fn waits(&self) {
        if !self.bounded.get() {
            return;
        }
        self.sim.checked(Promise::WaitsAside);
        let kept = self.sim.now() - self.sim.waits_since();
        if kept > KEPT_MAX + 4 * self.sim.temper.timer_slack {
            let what = format!("a wait kept a coroutine for {} ms", kept / MILLISECOND);
            self.sim.violation(Promise::WaitsAside, what);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self(runners) = self;
        let next = runners.waiting.borrow_mut().pop_front();
        match next {
            Some(job) => runners.start(Place(runners.clone()), job),
            None => runners.free.set(runners.free.get() + 1),
        }
    }
}
