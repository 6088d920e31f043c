//! First proofs of the simulated world, with two toys for a service: an echo, and a pump to an upstream. They show that
//! the traits suffice, that a seed decides a run, and that what must not be is noticed.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use maypole::runtime::world::{Arrival, Instant, Service, Stream, Wake, Watch, World};

use crate::net::{Connecting, Holder, Listener};
use crate::peer::{Got, Peer};
use crate::sim::{SECOND, Sim};
use crate::temper::Temper;
use crate::world::{SimStream, SimWorld};

const FRONT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);
const BACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1)), 80);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const IDLE: Duration = Duration::from_secs(5);

/// What a toy parks: how many bytes it has echoed.
type Echoed = usize;

/// Sends back what comes; parks while nothing does.
struct Echo {
    world: SimWorld<Echoed>,
    ticks: Cell<u32>,
    wakes: RefCell<Vec<Wake>>,
}

impl Echo {
    fn serve(&self, stream: SimStream, mut echoed: Echoed) {
        let mut buffer = [0; 100];
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    let deadline = self.world.now() + IDLE;
                    if !write_all(&self.world, &stream, &buffer[..length], deadline) {
                        return;
                    }
                    echoed += length;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        self.world.park(stream, echoed, self.world.now() + IDLE);
    }
}

impl Service<SimWorld<Echoed>> for Echo {
    fn accepted(&self, stream: SimStream, _: Arrival) {
        self.serve(stream, 0);
    }

    fn resumed(&self, stream: SimStream, parked: Echoed, wake: Wake) {
        self.wakes.borrow_mut().push(wake);
        if wake == Wake::Event {
            self.serve(stream, parked);
        }
    }

    fn tick(&self) {
        self.ticks.set(self.ticks.get() + 1);
    }
}

fn write_all<W: World>(world: &W, stream: &W::Stream, mut bytes: &[u8], deadline: Instant) -> bool {
    while !bytes.is_empty() {
        match stream.try_write(&[IoSlice::new(bytes)]) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if world.wait(stream, None, deadline) == Wake::Deadline {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// Pumps bytes both ways between a client and the upstream until both have ended.
struct Pump(SimWorld<()>);

impl Service<SimWorld<()>> for Pump {
    fn accepted(&self, client: SimStream, _: Arrival) {
        let Ok(upstream) = self.0.connect(BACK) else { return };
        let deadline = self.0.now() + IDLE;
        while !upstream.is_writable() {
            if self.0.wait(&upstream, Some((&client, Watch::Hangup)), deadline) == Wake::Deadline {
                return;
            }
        }
        if upstream.take_connect_error().is_err() {
            client.reset_on_close();
            return;
        }
        let (mut to, mut fro) = (Direction::default(), Direction::default());
        while !(to.ended && fro.ended) {
            let moved = to.step(&client, &upstream) | fro.step(&upstream, &client);
            let deadline = self.0.now() + IDLE;
            if moved {
                self.0.yield_now(&client);
            } else if self.0.wait(&client, Some((&upstream, Watch::Everything)), deadline) == Wake::Deadline {
                return;
            }
        }
    }

    fn resumed(&self, _: SimStream, (): (), _: Wake) {}

    fn tick(&self) {}
}

#[derive(Default)]
struct Direction {
    held: Vec<u8>,
    over: bool,
    ended: bool,
}

impl Direction {
    /// True when anything moved.
    fn step(&mut self, from: &SimStream, to: &SimStream) -> bool {
        if self.ended {
            return false;
        }
        let mut moved = false;
        if self.held.is_empty() && !self.over && from.is_readable() {
            let mut buffer = [0; 64];
            match from.try_read(&mut buffer) {
                Ok(0) => self.over = true,
                Ok(length) => self.held.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => (self.over, self.ended) = (true, true),
            }
            moved = self.over || !self.held.is_empty();
        }
        if !self.held.is_empty() && to.is_writable() {
            match to.try_write(&[IoSlice::new(&self.held)]) {
                Ok(length) => {
                    self.held.drain(..length);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => (self.over, self.ended) = (true, true),
            }
        }
        if self.over && self.held.is_empty() && !self.ended {
            to.shutdown_write();
            self.ended = true;
            moved = true;
        }
        moved
    }
}

/// A run's outcome: what the client got back, how that ended, and the trace's hash.
struct Outcome {
    received: Vec<u8>,
    end: Option<Got>,
    trace: u64,
    faults: Vec<String>,
}

/// Sends `length` bytes of the seed to the front and collects what comes back.
fn send_and_collect(sim: &Sim, length: usize) -> (Vec<u8>, Rc<RefCell<(Vec<u8>, Option<Got>)>>) {
    let collected = Rc::new(RefCell::new((Vec::new(), None)));
    let bytes = sim.chance.bytes(length);
    let (own, sent, into) = (sim.clone(), bytes.clone(), collected.clone());
    sim.spawn("client", move || {
        let Ok(peer) = Peer::dial(&own, CLIENT, FRONT, None) else { return };
        let peer = Rc::new(peer);
        let writer = peer.clone();
        own.spawn("client's writer", move || {
            for piece in sent.chunks(700) {
                if writer.send(piece, writer.sim.now() + 60 * SECOND).is_err() {
                    return;
                }
                writer.sim.sleep(writer.sim.chance.below(1_000_000));
            }
            writer.finish();
        });
        let mut received = Vec::new();
        loop {
            let got = peer.receive(&mut received, 333, own.now() + 60 * SECOND);
            if !matches!(got, Got::Bytes(_)) {
                *into.borrow_mut() = (received, Some(got));
                return;
            }
        }
    });
    (bytes, collected)
}

/// What the run noted as wrong, in words.
fn faults_of(sim: &Sim) -> Vec<String> {
    sim.take_wrongs().iter().map(ToString::to_string).collect()
}

fn run_pump(seed: u64) -> (Vec<u8>, Outcome) {
    let sim = Sim::new(seed, Temper::any);
    let world = SimWorld::new(&sim, 0);
    world.serve(Rc::new(Pump(world.clone())));
    sim.listen(FRONT, world.listener(|| Connecting::Accepted(0)));
    let upstream = sim.clone();
    let accept = move |id, _| {
        let peer = Peer::new(&upstream, id, None);
        upstream.spawn("upstream", move || {
            let mut bytes = Vec::new();
            while let Got::Bytes(_) = peer.receive(&mut bytes, 500, peer.sim.now() + 60 * SECOND) {
                if peer.send(&bytes, peer.sim.now() + 60 * SECOND).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
    };
    let listener =
        Listener { outcome: Rc::new(|| Connecting::Accepted(0)), accept: Rc::new(accept), holder: Holder::Actor };
    sim.listen(BACK, listener);
    let (sent, collected) = send_and_collect(&sim, 1_000);
    sim.run(600 * SECOND, 100 * SECOND);
    let mut faults = faults_of(&sim);
    faults.extend(sim.unfinished_tasks().into_iter().map(|name| format!("{name} hasn't ended")));
    if sim.net.service_streams() != 0 {
        faults.push("streams leaked".to_owned());
    }
    let trace = sim.trace.hash();
    world.end();
    sim.end();
    let (received, end) = collected.take();
    (sent, Outcome { received, end, trace, faults })
}

#[test]
fn an_echo_returns_every_byte_parks_between_them_and_leaves_nothing_behind() {
    let sim = Sim::new(1, |_| Temper::calm());
    let world = SimWorld::new(&sim, 0);
    let echo = Rc::new(Echo { world: world.clone(), ticks: Cell::new(0), wakes: RefCell::default() });
    world.serve(echo.clone());
    sim.listen(FRONT, world.listener(|| Connecting::Accepted(0)));
    let (sent, collected) = send_and_collect(&sim, 5_000);
    sim.run(600 * SECOND, 100 * SECOND);
    assert_eq!(faults_of(&sim), Vec::<String>::new());
    assert_eq!(sim.unfinished_tasks(), Vec::<&str>::new());
    let (received, end) = collected.take();
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    assert_eq!(end, Some(Got::End));
    assert!(echo.wakes.borrow().contains(&Wake::Event), "it never parked");
    assert_eq!((world.parked(), sim.net.service_streams()), (0, 0));
    world.end();
    sim.end();
}

#[test]
fn a_parked_stream_comes_back_at_its_deadline_or_when_recalled() {
    for recalled in [false, true] {
        let sim = Sim::new(2, |_| Temper::calm());
        let world = SimWorld::new(&sim, 0);
        let echo = Rc::new(Echo { world: world.clone(), ticks: Cell::new(0), wakes: RefCell::default() });
        world.serve(echo.clone());
        sim.listen(FRONT, world.listener(|| Connecting::Accepted(0)));
        let (own, ended) = (sim.clone(), Rc::new(Cell::new(0)));
        let at = ended.clone();
        sim.spawn("client", move || {
            let start = own.now();
            let peer = Peer::dial(&own, CLIENT, FRONT, None).expect("the simulated system never runs out of ports");
            assert_eq!(peer.receive(&mut Vec::new(), 10, start + 60 * SECOND), Got::End);
            at.set((own.now() - start) / SECOND);
        });
        if recalled {
            let world = world.clone();
            sim.after(2 * SECOND, move |_| world.resume_parked());
        }
        sim.run(600 * SECOND, 100 * SECOND);
        assert_eq!(faults_of(&sim), Vec::<String>::new());
        assert_eq!(*echo.wakes.borrow(), [if recalled { Wake::Recalled } else { Wake::Deadline }]);
        assert_eq!(ended.get(), if recalled { 2 } else { 5 });
        assert!(echo.ticks.get() >= if recalled { 1 } else { 4 });
        world.end();
        sim.end();
    }
}

#[test]
fn a_pump_to_an_upstream_loses_and_reorders_nothing_under_any_temper() {
    for seed in 0..150 {
        let (sent, outcome) = run_pump(seed);
        assert_eq!(outcome.faults, Vec::<String>::new(), "seed {seed}");
        assert!(outcome.received == sent, "seed {seed}: {} of {} bytes", outcome.received.len(), sent.len());
        assert_eq!(outcome.end, Some(Got::End), "seed {seed}");
    }
}

#[test]
fn a_seed_decides_a_run_and_another_seed_another_run() {
    let hashes: Vec<u64> = (0..20).map(|seed| run_pump(seed).1.trace).collect();
    let again: Vec<u64> = (0..20).map(|seed| run_pump(seed).1.trace).collect();
    assert_eq!(hashes, again);
    let distinct: std::collections::BTreeSet<u64> = hashes.into_iter().collect();
    assert_eq!(distinct.len(), 20);
}

/// Breaks one rule of the world.
struct Rogue(SimWorld<()>, fn(&SimWorld<()>, SimStream));

impl Service<SimWorld<()>> for Rogue {
    fn accepted(&self, stream: SimStream, _: Arrival) {
        (self.1)(&self.0, stream);
    }

    fn resumed(&self, _: SimStream, (): (), _: Wake) {}

    fn tick(&self) {}
}

#[test]
fn what_must_not_be_is_noticed() {
    let cases: [(fn(&SimWorld<()>, SimStream), &str); 4] = [
        (
            |world, stream| assert_eq!(world.wait(&stream, None, Instant::NEVER), Wake::Event),
            "a wait without a deadline",
        ),
        (|world, stream| while world.wait(&stream, None, Instant(0)) == Wake::Deadline {}, "spins"),
        (|_, stream| std::mem::forget(stream), "streams leaked"),
        (|_, _| panic!("as asked"), "accepted panicked: as asked"),
    ];
    for (rogue, expected) in cases {
        let sim = Sim::new(3, |_| Temper::calm());
        let world = SimWorld::new(&sim, 0);
        world.serve(Rc::new(Rogue(world.clone(), rogue)));
        sim.listen(FRONT, world.listener(|| Connecting::Accepted(0)));
        send_and_collect(&sim, 10);
        sim.run(600 * SECOND, 100 * SECOND);
        let mut faults = faults_of(&sim);
        if sim.net.service_streams() != 0 {
            faults.push("streams leaked".to_owned());
        }
        world.end();
        sim.end();
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
    }
}
