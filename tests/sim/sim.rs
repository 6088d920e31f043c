//! The simulator's clock and scheduler: events in the order of (virtual time, sequence), tasks as coroutines, one
//! running at a time, and nothing that the seed doesn't decide.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::chance::Chance;
use crate::coroutine::{Job, Runner, give_way};
use crate::net::{Net, SocketId};
use crate::tally::{Fault, Promise, Tally, Wrong};
use crate::temper::Temper;
use crate::trace::Trace;
use crate::trail::Trail;

/// Nanoseconds of virtual time.
pub type Time = u64;

pub const MICROSECOND: Time = 1_000;
pub const MILLISECOND: Time = 1_000_000;
pub const SECOND: Time = 1_000_000_000;

/// A task that waits this often without any time passing would spin on a real worker too.
const TURNS_WITHOUT_TIME: u32 = 5_000;

/// Pieces of work that a task of the service does in a turn when it asks whether others want one.
const PIECES_OF_A_TURN: u32 = 4;
/// Bytes that a task may move between two waits. A piece of work moves up to 128 KiB of a body and what a head's buffer holds
/// beyond them, each read and written.
pub const BYTES_OF_A_TURN: usize = PIECES_OF_A_TURN as usize * 2 * (152 << 10);
/// The same in calls: through a head's buffer, which is the smallest, a piece takes up to ten reads and ten writes. A request
/// that is answered at once takes two.
pub const OPERATIONS_OF_A_TURN: u32 = PIECES_OF_A_TURN * 20;

/// One run of the simulated world. Clones are handles to the same run.
#[derive(Clone)]
pub struct Sim(Rc<Inner>);

pub struct Inner {
    pub temper: Temper,
    pub chance: Chance,
    pub trace: Trace,
    pub trail: Trail,
    pub net: Net,
    now: Cell<Time>,
    sequence: Cell<u64>,
    events: RefCell<BinaryHeap<Event>>,
    /// Events that something other than the passing of seconds waits for.
    events_that_matter: Cell<usize>,
    tasks: RefCell<Vec<Task>>,
    unfinished: Cell<usize>,
    ready: RefCell<Vec<TaskId>>,
    pub running: Cell<Option<TaskId>>,
    /// What the running task has done since it got its turn.
    effort: Cell<Effort>,
    idle_runners: RefCell<Vec<Runner>>,
    ending: Cell<bool>,
    wrongs: RefCell<Vec<Wrong>>,
    tally: RefCell<Tally>,
    /// Sockets whose waiters are to be woken, which other workers may have asked for.
    pub mail: Arc<Mutex<Vec<SocketId>>>,
    /// Deadlines that a stream of the service waits for now.
    timers: Cell<usize>,
    /// Pipes that the service has now.
    pub pipes: Cell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId(usize);

/// What a task of the service did: calls on its sockets, the bytes they moved, and pieces of work that it has come to the
/// end of.
#[derive(Clone, Copy, Debug, Default)]
struct Effort {
    operations: u32,
    bytes: usize,
    pieces: u32,
}

/// Names one pause of one task, so that a wake meant for an earlier one is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    task: TaskId,
    number: u64,
}

/// What ended a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    Event,
    Deadline,
}

struct Task {
    name: &'static str,
    runner: Option<Runner>,
    job: Option<Job>,
    state: TaskState,
    pauses: u64,
    /// Why the last pause ended.
    woken: Woken,
    /// A housekeeping task: it may not wait.
    hurried: bool,
    turns_without_time: u32,
    last_turn: Time,
    /// Since when it has waited without reading or writing anything.
    waits_since: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskState {
    Ready,
    Paused,
    Finished,
}

type Action = Box<dyn FnOnce(&Sim)>;

struct Event {
    at: Time,
    sequence: u64,
    matters: bool,
    action: Action,
}

impl Ord for Event {
    /// The heap's greatest is the event that comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

/// Unwinds the tasks that are left when a run is over.
struct RunIsOver;

/// Unwinds a task of the service in the middle of its work.
struct InjectedPanic;

/// Lets one actor wait for what another one does.
#[derive(Default)]
pub struct Signal(Cell<Option<Pause>>);

impl Signal {
    /// Stops the running task until the signal is raised, or `deadline`.
    pub fn wait(&self, sim: &Sim, deadline: Time) {
        let pause = sim.next_pause();
        self.0.set(Some(pause));
        sim.after_idly(deadline.saturating_sub(sim.now()), move |sim| {
            sim.wake(pause, Woken::Deadline);
        });
        sim.pause();
    }

    pub fn raise(&self, sim: &Sim) {
        if let Some(pause) = self.0.take() {
            sim.wake(pause, Woken::Event);
        }
    }
}

impl std::ops::Deref for Sim {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Sim {
    pub fn new(seed: u64, temper: impl FnOnce(&Chance) -> Temper) -> Self {
        let chance = Chance::new(seed);
        let temper = temper(&chance);
        Self(Rc::new(Inner {
            temper,
            chance,
            trace: Trace::new(),
            trail: Trail::default(),
            net: Net::default(),
            now: Cell::new(SECOND),
            sequence: Cell::new(0),
            events: RefCell::default(),
            events_that_matter: Cell::new(0),
            tasks: RefCell::default(),
            unfinished: Cell::new(0),
            ready: RefCell::default(),
            running: Cell::new(None),
            effort: Cell::default(),
            idle_runners: RefCell::default(),
            ending: Cell::new(false),
            wrongs: RefCell::default(),
            tally: RefCell::new(Tally::new()),
            mail: Arc::default(),
            timers: Cell::new(0),
            pipes: Cell::new(0),
        }))
    }

    pub fn now(&self) -> Time {
        self.now.get()
    }

    /// Has `action` done once `delay` has passed.
    pub fn after(&self, delay: Time, action: impl FnOnce(&Self) + 'static) {
        self.schedule(self.now() + delay, true, Box::new(action));
    }

    /// The same for what keeps no run from ending: what goes on forever, and deadlines, which matter only as long as
    /// a task or a stream waits for them.
    pub fn after_idly(&self, delay: Time, action: impl FnOnce(&Self) + 'static) {
        self.schedule(self.now() + delay, false, Box::new(action));
    }

    fn schedule(&self, at: Time, matters: bool, action: Action) {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        if matters {
            self.events_that_matter.set(self.events_that_matter.get() + 1);
        }
        self.events.borrow_mut().push(Event { at, sequence, matters, action });
    }

    /// Starts a task; it runs when its turn comes.
    pub fn spawn(&self, name: &'static str, job: impl FnOnce() + 'static) -> TaskId {
        self.spawn_task(name, Box::new(job), false)
    }

    /// Starts a task that may not wait.
    pub fn spawn_hurried(&self, name: &'static str, job: impl FnOnce() + 'static) -> TaskId {
        self.spawn_task(name, Box::new(job), true)
    }

    fn spawn_task(&self, name: &'static str, job: Job, hurried: bool) -> TaskId {
        let mut tasks = self.tasks.borrow_mut();
        let id = TaskId(tasks.len());
        tasks.push(Task {
            name,
            runner: None,
            job: Some(job),
            state: TaskState::Ready,
            pauses: 0,
            woken: Woken::Event,
            hurried,
            turns_without_time: 0,
            last_turn: 0,
            waits_since: None,
        });
        self.unfinished.set(self.unfinished.get() + 1);
        self.ready.borrow_mut().push(id);
        self.trace.note(self.now(), "spawn", &[id.0 as u64], || name.to_owned());
        id
    }

    /// The pause that the running task is about to make: hand it to whatever shall end it, then call [`Self::pause`].
    pub fn next_pause(&self) -> Pause {
        let Some(task) = self.running.get() else {
            panic!("waited outside a coroutine");
        };
        Pause { task, number: self.tasks.borrow()[task.0].pauses + 1 }
    }

    /// Stops the running task until something wakes the pause that [`Self::next_pause`] named.
    pub fn pause(&self) -> Woken {
        if std::thread::panicking() {
            // Unwinding already: a coroutine can't be left half unwound.
            return Woken::Deadline;
        }
        self.leave_when_over();
        let Pause { task: id, number } = self.next_pause();
        {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks[id.0];
            if task.hurried {
                let name = task.name;
                drop(tasks);
                self.violation(Promise::Turns, format!("{name} waited, and it must not"));
            }
            task.pauses = number;
            task.state = TaskState::Paused;
        }
        give_way();
        self.leave_when_over();
        self.tasks.borrow()[id.0].woken
    }

    /// Keeps a task from spinning: called where it may have waited without time passing.
    pub fn count_turn(&self) {
        let Some(id) = self.running.get() else { return };
        let mut tasks = self.tasks.borrow_mut();
        let task = &mut tasks[id.0];
        self.checked(Promise::Turns);
        if task.last_turn != self.now() {
            task.last_turn = self.now();
            task.turns_without_time = 0;
        }
        task.turns_without_time += 1;
        let (name, spins) = (task.name, task.turns_without_time > TURNS_WITHOUT_TIME);
        drop(tasks);
        if spins {
            self.violation(Promise::Turns, format!("{name} spins: {TURNS_WITHOUT_TIME} turns and no time passed"));
        }
    }

    /// Counts a call on a socket of the service's. Whoever makes many keeps a real worker from all others.
    pub fn toil(&self, bytes: usize) {
        let mut effort = self.effort.get();
        effort.operations += 1;
        effort.bytes += bytes;
        self.effort.set(effort);
        self.checked(Promise::GivesWay);
        if !std::thread::panicking() && (effort.operations > OPERATIONS_OF_A_TURN || effort.bytes > BYTES_OF_A_TURN) {
            let Some(id) = self.running.get() else { return };
            let name = self.tasks.borrow()[id.0].name;
            self.violation(Promise::GivesWay, format!("{name} keeps its worker: {effort:?}"));
        }
    }

    /// The running task does housekeeping.
    pub fn is_hurried(&self) -> bool {
        self.running.get().is_some_and(|id| self.tasks.borrow()[id.0].hurried)
    }

    /// Counts a piece of work; true when others should get a turn.
    pub fn has_had_its_turn(&self) -> bool {
        let mut effort = self.effort.get();
        effort.pieces += 1;
        self.effort.set(effort);
        effort.pieces >= PIECES_OF_A_TURN
    }

    /// Since when the running task waits, without having read or written anything meanwhile.
    pub fn waits_since(&self) -> Time {
        let Some(id) = self.running.get() else { return self.now() };
        *self.tasks.borrow_mut()[id.0].waits_since.get_or_insert(self.now())
    }

    /// The running task has read or written something.
    pub fn moves(&self) {
        if let Some(id) = self.running.get() {
            self.tasks.borrow_mut()[id.0].waits_since = None;
        }
    }

    fn leave_when_over(&self) {
        if self.ending.get() {
            resume_unwind(Box::new(RunIsOver));
        }
    }

    /// Ends `pause` if it still lasts; says whether it did.
    pub fn wake(&self, pause: Pause, woken: Woken) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        let task = &mut tasks[pause.task.0];
        if task.state != TaskState::Paused || task.pauses != pause.number {
            return false;
        }
        task.state = TaskState::Ready;
        task.woken = woken;
        self.ready.borrow_mut().push(pause.task);
        true
    }

    /// Stops the running task for a while.
    pub fn sleep(&self, time: Time) {
        let pause = self.next_pause();
        self.after_idly(time, move |sim| {
            sim.wake(pause, Woken::Deadline);
        });
        self.pause();
    }

    /// Notes what must not be; a run with wrongs has failed.
    pub fn wrong(&self, promise: Promise, what: impl Into<String>) {
        let what = what.into();
        self.trace.note(self.now(), "WRONG", &[], || what.clone());
        let seconds = Duration::from_nanos(self.now()).as_secs_f64();
        self.wrongs.borrow_mut().push(Wrong::new(promise, format!("at {seconds:.6} s: {what}")));
    }

    /// The code under test broke a rule of the world: noted even where it catches panics, and its task ends.
    pub fn violation(&self, promise: Promise, what: impl Into<String>) -> ! {
        self.wrong(promise, what);
        resume_unwind(Box::new(RunIsOver))
    }

    pub fn take_wrongs(&self) -> Vec<Wrong> {
        self.wrongs.take()
    }

    /// Counts a fault that strikes now.
    pub fn struck(&self, fault: Fault) {
        self.trace.note(self.now(), "strike", &[fault as u64], || fault.words().to_owned());
        self.tally.borrow_mut().struck(fault);
    }

    pub fn checked(&self, promise: Promise) {
        self.tally.borrow_mut().checked(promise, 1);
    }

    pub fn take_tally(&self) -> Tally {
        self.tally.replace(Tally::new())
    }

    /// A stream of the service waits for a deadline from now on, or no longer.
    pub fn timer_begins(&self) {
        self.timers.set(self.timers.get() + 1);
    }

    pub fn timer_ends(&self) {
        self.timers.set(self.timers.get() - 1);
    }

    pub fn timers(&self) -> usize {
        self.timers.get()
    }

    /// Unwinds the running coroutine as a defect in the code under test would, without a word on stderr.
    pub fn inject_panic(&self) -> ! {
        self.struck(Fault::CoroutinePanics);
        self.trail.panicked(self.now(), self.running.get());
        resume_unwind(Box::new(InjectedPanic))
    }

    /// Runs until nothing is left to do, or nothing but the seconds passed for `patience`, or `until` is there.
    pub fn run(&self, until: Time, patience: Time) {
        let mut last_matter = self.now();
        loop {
            self.collect_mail();
            if let Some(id) = self.next_ready() {
                if !self.tasks.borrow()[id.0].hurried {
                    last_matter = self.now();
                }
                self.turn(id);
                continue;
            }
            if self.unfinished.get() == 0 && self.events_that_matter.get() == 0 && self.net.service_streams() == 0 {
                return;
            }
            let Some(event) = self.events.borrow_mut().pop() else {
                return;
            };
            if event.at > until || (self.events_that_matter.get() == 0 && event.at > last_matter + patience) {
                return;
            }
            if event.matters {
                self.events_that_matter.set(self.events_that_matter.get() - 1);
                last_matter = event.at;
            }
            self.now.set(event.at);
            (event.action)(self);
        }
    }

    /// Mail takes as long as an event does.
    fn collect_mail(&self) {
        let mail = std::mem::take(&mut *self.mail.lock().expect("nothing panics under the lock"));
        for socket in mail {
            let delay = self.chance.within(&self.temper.event_delay);
            self.after(delay, move |sim| sim.ring(socket));
        }
    }

    fn next_ready(&self) -> Option<TaskId> {
        let mut ready = self.ready.borrow_mut();
        if ready.is_empty() {
            return None;
        }
        let at = if self.temper.shuffled { self.chance.index(ready.len()) } else { 0 };
        Some(ready.remove(at))
    }

    fn turn(&self, id: TaskId) {
        let (mut runner, job) = {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks[id.0];
            (task.runner.take(), task.job.take())
        };
        self.trace.note(self.now(), "turn", &[id.0 as u64], String::new);
        self.running.set(Some(id));
        self.effort.take();
        if let Some(job) = job {
            let idle = self.idle_runners.borrow_mut().pop();
            let runner = runner.insert(idle.unwrap_or_else(Runner::new));
            let sim = self.clone();
            runner.start(Box::new(move || sim.run_job(id, job)));
        } else if let Some(runner) = runner.as_mut() {
            runner.resume();
        }
        self.running.set(None);
        self.trail.count_failures(self.now(), Some(id));
        let mut tasks = self.tasks.borrow_mut();
        if tasks[id.0].state == TaskState::Finished {
            drop(tasks);
            self.idle_runners.borrow_mut().extend(runner);
            self.unfinished.set(self.unfinished.get() - 1);
        } else {
            tasks[id.0].runner = runner;
        }
    }

    fn run_job(&self, id: TaskId, job: Job) {
        let outcome = catch_unwind(AssertUnwindSafe(job));
        self.checked(Promise::NoPanics);
        if let Err(cause) = outcome
            && !cause.is::<RunIsOver>()
            && !cause.is::<InjectedPanic>()
        {
            let name = self.tasks.borrow()[id.0].name;
            self.wrong(Promise::NoPanics, format!("{name} panicked: {}", message_of(cause.as_ref())));
        }
        self.tasks.borrow_mut()[id.0].state = TaskState::Finished;
    }

    /// The names of the tasks that haven't ended.
    pub fn unfinished_tasks(&self) -> Vec<&'static str> {
        let tasks = self.tasks.borrow();
        tasks.iter().filter(|task| task.state != TaskState::Finished).map(|task| task.name).collect()
    }

    /// Unwinds what is left, and lets go of everything that refers back to this run.
    pub fn end(&self) {
        self.ending.set(true);
        let mut next = 0;
        while next < self.tasks.borrow().len() {
            let (started, job) = {
                let mut tasks = self.tasks.borrow_mut();
                (tasks[next].runner.is_some(), tasks[next].job.take())
            };
            drop(job);
            if started {
                self.turn(TaskId(next));
            }
            next += 1;
        }
        self.events.borrow_mut().clear();
        self.net.clear();
        for runner in self.idle_runners.take() {
            runner.retire();
        }
    }
}

fn message_of(cause: &(dyn Any + Send)) -> &str {
    cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
