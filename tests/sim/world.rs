//! The world's traits over the simulator: what a service under test sees.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use maypole::runtime::world::{Arrival, Instant, Need, PeerState, Service, Stream, Wake, Watch, World};

use crate::chance::Chance;
use crate::net::{Connecting, Holder, Listener, Mask, SocketId, Watcher};
use crate::pipe::SimPipe;
use crate::runners::Runners;
use crate::sim::{MICROSECOND, SECOND, Sim, Woken};
use crate::tally::{Fault, Promise};

/// 2023-11-14 22:13:20 UTC, when every run begins.
const UNIX_START: u64 = 1_700_000_000;

/// A worker of the simulated world; clones are handles to the same one. `P` is what the service parks.
pub struct SimWorld<P: 'static> {
    sim: Sim,
    worker: Rc<Worker<P>>,
}

struct Worker<P: 'static> {
    number: usize,
    chance: Chance,
    service: RefCell<Option<Rc<dyn Service<SimWorld<P>>>>>,
    parked: RefCell<BTreeMap<u64, ParkedStream<P>>>,
    next_parked: Cell<u64>,
    /// A stream that is parked next, and the one whose events bring it back too.
    tie: Cell<Option<(SocketId, SocketId)>>,
    runners: Runners,
}

struct ParkedStream<P> {
    stream: SimStream,
    also: Option<SocketId>,
    parked: P,
}

/// A socket that the service holds.
pub struct SimStream {
    sim: Sim,
    id: SocketId,
}

impl<P: 'static> Clone for SimWorld<P> {
    fn clone(&self) -> Self {
        Self { sim: self.sim.clone(), worker: self.worker.clone() }
    }
}

impl<P: 'static> SimWorld<P> {
    pub fn new(sim: &Sim, number: usize) -> Self {
        let worker = Worker {
            number,
            chance: sim.chance.fork(),
            service: RefCell::new(None),
            parked: RefCell::default(),
            next_parked: Cell::new(0),
            tie: Cell::new(None),
            runners: Runners::new(sim),
        };
        Self { sim: sim.clone(), worker: Rc::new(worker) }
    }

    /// Puts `service` to work: from now on its tick comes every second.
    pub fn serve(&self, service: Rc<dyn Service<Self>>) {
        *self.worker.service.borrow_mut() = Some(service);
        self.tick_in(SECOND);
    }

    fn service(&self) -> Option<Rc<dyn Service<Self>>> {
        self.worker.service.borrow().clone()
    }

    fn tick_in(&self, time: u64) {
        let world = self.clone();
        self.sim.after_idly(time, move |sim| {
            let Some(service) = world.service() else { return };
            sim.spawn_hurried("tick", move || {
                service.tick();
                while service.sweep() {}
            });
            world.tick_in(SECOND);
        });
    }

    /// Where the service takes connections.
    pub fn listener(&self, outcome: impl Fn() -> Connecting + 'static) -> Listener {
        let world = self.clone();
        let accept = move |id: SocketId, peer: SocketAddr| {
            let stream = SimStream { sim: world.sim.clone(), id };
            if let Some(service) = world.service() {
                world
                    .worker
                    .runners
                    .run("accepted", id, move || service.accepted(stream, Arrival { peer, listener: 0 }));
            }
        };
        Listener { outcome: Rc::new(outcome), accept: Rc::new(accept), holder: Holder::Service }
    }

    /// Connections that wait without a coroutine.
    pub fn parked(&self) -> usize {
        self.worker.parked.borrow().len()
    }

    /// Its coroutines.
    pub fn runners(&self) -> &Runners {
        &self.worker.runners
    }

    /// Lets go of the service and of what it parked.
    pub fn end(&self) {
        self.worker.runners.end();
        let service = self.worker.service.borrow_mut().take();
        let parked = self.worker.parked.take();
        drop(parked);
        drop(service);
    }

    /// Resumes a parked stream; false when it isn't parked any more.
    fn resume(&self, number: u64, wake: Wake) -> bool {
        let resumed = self.worker.parked.borrow_mut().remove(&number);
        let (Some(ParkedStream { stream, also, parked }), Some(service)) = (resumed, self.service()) else {
            return false;
        };
        self.sim.timer_ends();
        self.sim.unwatch(stream.id);
        if let Some(also) = also {
            self.sim.unwatch(also);
        }
        self.sim.trace.note(self.sim.now(), "resume", &[stream.id.number()], || format!("{wake:?}"));
        let id = stream.id;
        self.worker.runners.run("resumed", id, move || service.resumed(stream, parked, wake));
        true
    }

    /// Parks a stream.
    fn keep(&self, need: Need, stream: SimStream, parked: P, deadline: Instant) {
        self.sim.checked(Promise::Deadlines);
        if deadline == Instant::NEVER {
            self.sim.violation(Promise::Deadlines, "parked without a deadline");
        }
        let number = self.worker.next_parked.get();
        self.worker.next_parked.set(number + 1);
        let id = stream.id;
        let also = self.worker.tie.take().map(|(tied, also)| {
            assert_eq!(tied, id, "a stream was tied, and another one parked");
            also
        });
        self.sim.trace.note(self.sim.now(), "park", &[id.number()], || format!("{need:?}"));
        let mut wanted = match need {
            Need::Read => Mask::READABLE,
            Need::Write => Mask::WRITABLE,
            Need::Either => Mask::ANYTHING,
            Need::End | Need::Nothing => Mask::default(),
        };
        wanted |= if matches!(need, Need::Write | Need::Nothing) { Mask::RESET } else { Mask::HANGUP };
        for (id, wanted) in [(Some(id), wanted), (also, Mask::ANYTHING)] {
            let world = self.clone();
            let resume = move |_: &Sim| {
                let _ = world.resume(number, Wake::Event);
            };
            if let Some(id) = id {
                self.watch(id, Watcher::Parked(wanted, Box::new(resume)));
            }
        }
        self.worker.parked.borrow_mut().insert(number, ParkedStream { stream, also, parked });
        self.sim.timer_begins();
        let (late, early) = (self.clone(), self.clone());
        self.sim.after_idly(self.deadline_in(deadline), move |_| {
            let _ = late.resume(number, Wake::Deadline);
        });
        self.spuriously(move |_| early.resume(number, Wake::Event));
        // A freshly registered socket tells at once of what is there.
        self.sim.tell_again(id, wanted);
    }

    /// Nobody may wait on a stream that someone waits on already.
    fn watch(&self, id: SocketId, watcher: Watcher) {
        self.sim.checked(Promise::OneWaiter);
        if !self.sim.watch(id, watcher) {
            let what = format!("socket {} is waited on twice", id.number());
            self.sim.violation(Promise::OneWaiter, what);
        }
    }

    /// Sometimes wakes soon for no reason; `wake` says whether it did.
    fn spuriously(&self, wake: impl FnOnce(&Sim) -> bool + 'static) {
        if self.sim.chance.percent(self.sim.temper.spurious_wakes) {
            let delay = self.sim.chance.below(self.sim.temper.latency.end() * 2) + MICROSECOND;
            self.sim.after_idly(delay, move |sim| {
                if wake(sim) {
                    sim.struck(Fault::WakesForNothing);
                }
            });
        }
    }

    /// Waits; who connects has a deadline of its own for it, and has the stack given back.
    fn wait_for(&self, on: &SimStream, also: Option<(&SimStream, Watch)>, deadline: Instant, connecting: bool) -> Wake {
        self.sim.checked(Promise::Deadlines);
        if deadline == Instant::NEVER {
            self.sim.violation(Promise::Deadlines, "a wait without a deadline");
        }
        if connecting {
            self.sim.moves();
        }
        self.worker.runners.waits();
        self.sim.count_turn();
        let also = also.map(|(stream, watch)| match watch {
            Watch::Hangup => (stream, Mask::HANGUP),
            Watch::Everything => (stream, Mask::ANYTHING),
        });
        if self.sim.temper.latched_events {
            let on_had = self.sim.take_latched(on.id, Mask::ANYTHING);
            let also_had = also.is_some_and(|(stream, mask)| self.sim.take_latched(stream.id, mask));
            if on_had || also_had {
                return Wake::Event;
            }
        }
        let pause = self.sim.next_pause();
        self.watch(on.id, Watcher::Waits(pause, Mask::ANYTHING));
        if let Some((stream, mask)) = also {
            self.watch(stream.id, Watcher::Waits(pause, mask));
        }
        self.sim.after_idly(self.deadline_in(deadline), move |sim| {
            sim.wake(pause, Woken::Deadline);
        });
        self.spuriously(move |sim| sim.wake(pause, Woken::Event));
        self.sim.timer_begins();
        let unwatch = Unwatch(self, on, also.map(|(stream, _)| stream));
        let woken = self.sim.pause();
        drop(unwatch);
        if connecting {
            self.sim.moves();
        } else {
            self.worker.runners.waits();
        }
        // Its turn in the queue has come, and the next wait is for something else.
        if self.sim.take_ring(on.id) {
            self.sim.moves();
        }
        match woken {
            Woken::Event => Wake::Event,
            Woken::Deadline => Wake::Deadline,
        }
    }

    fn deadline_in(&self, deadline: Instant) -> u64 {
        let slack = self.sim.chance.below(self.sim.temper.timer_slack + 1);
        deadline.0.max(self.sim.now()).saturating_add(slack) - self.sim.now()
    }
}

impl<P: 'static> World for SimWorld<P> {
    type Stream = SimStream;
    type Parked = P;

    fn now(&self) -> Instant {
        Instant(self.sim.now())
    }

    fn unix_seconds(&self) -> u64 {
        UNIX_START + self.sim.now() / SECOND
    }

    fn random(&self) -> u64 {
        self.worker.chance.bits()
    }

    fn worker(&self) -> usize {
        self.worker.number
    }

    fn connect(&self, address: SocketAddr) -> io::Result<SimStream> {
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.sim.toil(0);
        // Who had to wait for its turn has had it, whatever comes of it.
        self.sim.moves();
        let id = self.sim.dial(from, address, Holder::Service)?;
        Ok(SimStream { sim: self.sim.clone(), id })
    }

    fn wait(&self, on: &SimStream, also: Option<(&SimStream, Watch)>, deadline: Instant) -> Wake {
        self.wait_for(on, also, deadline, !self.sim.is_connected(on.id))
    }

    /// As a handshake does.
    fn wait_long(&self, on: &SimStream, also: Option<(&SimStream, Watch)>, deadline: Instant) -> Wake {
        self.wait_for(on, also, deadline, true)
    }

    fn yield_now(&self, _on: &SimStream) {
        let moment = 1 + self.sim.chance.below(10 * MICROSECOND);
        self.sim.sleep(moment);
    }

    fn take_turns(&self, on: &SimStream) {
        if self.sim.has_had_its_turn() {
            self.yield_now(on);
        }
    }

    fn waker(&self, on: &SimStream) -> Waker {
        Waker::from(Arc::new(Bell { mail: Arc::clone(&self.sim.mail), socket: on.id }))
    }

    fn park(&self, stream: SimStream, parked: P, deadline: Instant) {
        self.keep(Need::Read, stream, parked, deadline);
    }

    fn park_for(&self, need: Need, stream: SimStream, parked: P, deadline: Instant) {
        self.sim.struck(Fault::ClientTarries);
        self.keep(need, stream, parked, deadline);
    }

    fn tie(&self, stream: &SimStream, also: &SimStream) -> bool {
        let news = self.sim.take_latched(also.id, Mask::ANYTHING);
        self.worker.tie.set((!news).then_some((stream.id, also.id)));
        !news
    }

    fn resume_parked(&self) {
        let numbers: Vec<u64> = self.worker.parked.borrow().keys().copied().collect();
        for number in numbers {
            self.resume(number, Wake::Recalled);
        }
    }
}

/// Wakes who waits on a socket.
struct Bell {
    mail: Arc<Mutex<Vec<SocketId>>>,
    socket: SocketId,
}

impl std::task::Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.mail.lock().expect("nothing panics under the lock").push(self.socket);
    }
}

/// Ends what a wait has registered, also when the coroutine unwinds.
struct Unwatch<'w, P: 'static>(&'w SimWorld<P>, &'w SimStream, Option<&'w SimStream>);

impl<P: 'static> Drop for Unwatch<'_, P> {
    fn drop(&mut self) {
        self.0.sim.timer_ends();
        self.0.sim.unwatch(self.1.id);
        if let Some(also) = self.2 {
            self.0.sim.unwatch(also.id);
        }
    }
}

impl SimStream {
    /// Counts a call that came to this.
    fn toil(&self, outcome: io::Result<usize>) -> io::Result<usize> {
        self.sim.toil(*outcome.as_ref().unwrap_or(&0));
        // A connection's end moves its exchange on too.
        if !outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.sim.moves();
        }
        outcome
    }

    /// Where the code under test touches a socket a defect of its own may strike as well.
    fn may_panic(&self) {
        let panics = self.sim.temper.panics;
        if panics > 0 && !self.sim.is_hurried() && self.sim.chance.below(10_000) < panics {
            self.sim.inject_panic();
        }
    }
}

impl Stream for SimStream {
    type Pipe = SimPipe;

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.may_panic();
        self.toil(self.sim.read(self.id, into))
    }

    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.may_panic();
        self.toil(self.sim.write(self.id, from))
    }

    fn is_readable(&self) -> bool {
        self.sim.is_readable(self.id)
    }

    fn is_writable(&self) -> bool {
        self.sim.is_writable(self.id)
    }

    fn peer_state(&self) -> PeerState {
        self.sim.peer_state(self.id)
    }

    fn is_quiet(&self, thorough: bool) -> bool {
        // Where an event told of bytes, only a look says whether they have been read since.
        let told = !self.sim.looks_quiet(self.id);
        self.sim.peer_state(self.id) == PeerState::Open && !((thorough || told) && self.sim.has_something(self.id))
    }

    fn take_connect_error(&self) -> io::Result<()> {
        self.sim.take_connect_error(self.id)
    }

    fn unsent(&self) -> usize {
        self.sim.unread_by_peer(self.id)
    }

    fn pipe(&self, _body_bytes: u64) -> Option<SimPipe> {
        SimPipe::take(&self.sim)
    }

    fn try_fill(&self, pipe: &mut SimPipe, bytes_max: usize) -> io::Result<usize> {
        self.may_panic();
        self.toil(pipe.fill(self.id, bytes_max))
    }

    fn try_drain(&self, pipe: &mut SimPipe) -> io::Result<usize> {
        self.may_panic();
        self.toil(pipe.drain(self.id))
    }

    fn shutdown_write(&self) {
        self.sim.finish(self.id);
    }

    fn reset_on_close(&self) {
        self.sim.reset_on_close(self.id);
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.sim.close(self.id);
    }
}
