//! A panic in the proxy ends one connection and nothing else. The proxy is the real one, on real workers and sockets;
//! only its world is wrapped in one that panics when a test says so, at a place where the proxy can't know of it.

#[path = "support/inside.rs"]
mod inside;
mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::task::Waker;
use std::time::Duration;

use inside::{Inside, start_inside};
use log::{Level, LevelFilter, Log, Metadata, Record};
use maypole::config::Config;
use maypole::proxy::{Parked, Proxy};
use maypole::runtime::MayWorld;
use maypole::runtime::world::{Arrival, Instant, Need, Service, Wake, Watch, World};
use support::{Client, Gate, Origin, eventually};

/// Panics that are due, each once.
#[derive(Default)]
struct Faults {
    /// When an answer without a `Date` gets one: its head is being rewritten.
    head: AtomicBool,
    /// When a coroutine waits next.
    wait: AtomicBool,
    tick: AtomicBool,
}

fn panic_if(due: &AtomicBool) {
    assert!(!due.swap(false, Ordering::SeqCst), "as the test wants it");
}

/// A worker's world, with faults.
#[derive(Clone)]
struct Faulty {
    world: MayWorld<Parked>,
    faults: Arc<Faults>,
}

impl World for Faulty {
    type Stream = <MayWorld<Parked> as World>::Stream;
    type Parked = Parked;

    fn now(&self) -> Instant {
        self.world.now()
    }

    fn unix_seconds(&self) -> u64 {
        panic_if(&self.faults.head);
        self.world.unix_seconds()
    }

    fn random(&self) -> u64 {
        self.world.random()
    }

    fn worker(&self) -> usize {
        self.world.worker()
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        self.world.connect(address)
    }

    fn wait(&self, on: &Self::Stream, also: Option<(&Self::Stream, Watch)>, deadline: Instant) -> Wake {
        panic_if(&self.faults.wait);
        self.world.wait(on, also, deadline)
    }

    fn yield_now(&self, on: &Self::Stream) {
        self.world.yield_now(on);
    }

    fn take_turns(&self, on: &Self::Stream) {
        self.world.take_turns(on);
    }

    fn waker(&self, on: &Self::Stream) -> Waker {
        self.world.waker(on)
    }

    fn park(&self, stream: Self::Stream, parked: Parked, deadline: Instant) {
        self.world.park(stream, parked, deadline);
    }

    fn park_for(&self, need: Need, stream: Self::Stream, parked: Parked, deadline: Instant) {
        self.world.park_for(need, stream, parked, deadline);
    }

    fn tie(&self, stream: &Self::Stream, also: &Self::Stream) -> bool {
        self.world.tie(stream, also)
    }

    fn resume_parked(&self) {
        self.world.resume_parked();
    }
}

/// The proxy of a faulty world, served by a sound one.
struct Served {
    proxy: Proxy<Faulty>,
    faults: Arc<Faults>,
}

impl Service<MayWorld<Parked>> for Served {
    fn accepted(&self, stream: <Faulty as World>::Stream, arrival: Arrival) {
        self.proxy.accepted(stream, arrival);
    }

    fn resumed(&self, stream: <Faulty as World>::Stream, parked: Parked, wake: Wake) {
        self.proxy.resumed(stream, parked, wake);
    }

    fn tick(&self) {
        panic_if(&self.faults.tick);
        self.proxy.tick();
    }

    fn sweep(&self) -> bool {
        self.proxy.sweep()
    }
}

/// What was logged as an error in this process.
struct Errors(Mutex<Vec<String>>);

static ERRORS: Errors = Errors(Mutex::new(Vec::new()));

impl Log for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().expect("not poisoned").push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn errors_with(text: &str) -> Vec<String> {
    ERRORS.0.lock().expect("not poisoned").iter().filter(|error| error.contains(text)).cloned().collect()
}

/// One worker, whose death would show, in front of one backend.
struct Scene {
    faults: Arc<Faults>,
    proxy: Inside,
}

impl Scene {
    fn new(origin: &Origin) -> Self {
        let mut config = Config::default();
        config.timeouts.keep_alive = Duration::from_millis(200);
        let faults = Arc::<Faults>::default();
        let serve = {
            let faults = Arc::clone(&faults);
            move |world, shared| {
                let world = Faulty { world, faults: Arc::clone(&faults) };
                Served { faults: Arc::clone(&faults), proxy: Proxy::new(world, shared) }
            }
        };
        Self { faults, proxy: start_inside(origin, config, (100, 1000), serve) }
    }

    fn panics(&self) -> u64 {
        self.proxy.counters.iter().map(|worker| worker.panics.value()).sum()
    }

    /// A client may see its connection end a moment before the panic that ended it is counted.
    #[track_caller]
    fn has_counted(&self, panics: u64) {
        eventually("the panics are counted", || self.panics() >= panics);
        assert_eq!(self.panics(), panics);
    }

    /// Nothing is left of any exchange, and the worker serves the next.
    fn is_whole(&self) {
        eventually("no connection is left", || self.proxy.shared.connections() == 0);
        assert_eq!(self.proxy.backend.in_flight(), 0);
        assert_eq!(Client::connect(self.proxy.ports[0]).get("/").text(), "ok");
        eventually("no connection is left", || self.proxy.shared.connections() == 0);
    }
}

/// One test, since a process has one set of workers and one log.
#[test]
fn a_panic_ends_one_connection_and_nothing_else() {
    static LOG: Once = Once::new();
    LOG.call_once(|| log::set_logger(&ERRORS).map(|()| log::set_max_level(LevelFilter::Error)).expect("the first"));
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |exchange| {
        if exchange.request.target() == "/endless" {
            exchange.send("HTTP/1.0 200 OK\r\n\r\nbegun");
            held.wait();
            exchange.send(" and more");
            return exchange.wait_for_end();
        }
        exchange.answer(200, "ok");
    });
    let scene = Scene::new(&origin);
    scene.is_whole();
    assert_eq!(scene.panics(), 0);

    panics_before_an_answer(&scene, &origin);
    a_panic_within_an_answer_makes_it_look_cut(&scene, &gate);
    a_panic_in_housekeeping_stops_no_clock(&scene);
}

fn panics_before_an_answer(scene: &Scene, origin: &Origin) {
    // More often than buffers, coroutines or seats could be lost without its being seen.
    const TIMES: u64 = 300;
    let mut bystander = Client::connect(scene.proxy.ports[0]);
    assert_eq!(bystander.get("/").status(), 200);
    for _ in 0..TIMES {
        scene.faults.head.store(true, Ordering::SeqCst);
        let mut client = Client::connect(scene.proxy.ports[0]);
        assert_eq!(client.send("GET /hit HTTP/1.1\r\nHost: a\r\n\r\n").rest(), b"");
    }
    scene.has_counted(TIMES);
    drop(bystander);
    scene.is_whole();

    let requests = origin.requests();
    let ids: Vec<_> = requests.iter().filter(|request| request.target() == "/hit").collect();
    assert_eq!(ids.len() as u64, TIMES, "a request whose connection a panic ended isn't sent again");
    for request in ids {
        let id = request.field("x-request-id").expect("an id");
        let told = errors_with(id);
        assert!(matches!(&told[..], [line] if line.contains("as the test wants it")), "{id}: {told:?}");
    }
}

fn a_panic_within_an_answer_makes_it_look_cut(scene: &Scene, gate: &Gate) {
    let before = scene.panics();
    let mut client = Client::connect(scene.proxy.ports[0]);
    // To this client only the end of the connection says where the body ends.
    client.send("GET /endless HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer_head().status(), 200);
    assert_eq!(client.read_bytes(5), b"begun");
    scene.faults.wait.store(true, Ordering::SeqCst);
    gate.open();
    let end = io::copy(&mut client, &mut io::sink()).expect_err("a cut, not an end in good order");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    scene.has_counted(before + 1);
    scene.is_whole();
}

fn a_panic_in_housekeeping_stops_no_clock(scene: &Scene) {
    let before = scene.panics();
    scene.faults.tick.store(true, Ordering::SeqCst);
    scene.has_counted(before + 1);
    // The idle connection ends by its deadline: the clock still runs.
    let mut client = Client::connect(scene.proxy.ports[0]);
    assert_eq!(client.get("/").status(), 200);
    client.wait_for_end();
    scene.is_whole();
}
