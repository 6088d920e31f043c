//! Plans that are swapped under load, on real workers: no request fails of it, and each ends under the plan that it began
//! under. The door is `Shared::swap`, since nothing that a user could do swaps one yet.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use maypole::balance::{Backend, Member, Origin as Place, Policy, Snapshot, Strategy};
use maypole::config::{Config, RateKey, RateLimit};
use maypole::plan::{Kept, Plan, Room};
use maypole::proxy::{Proxy, Shared};
use maypole::runtime::listen::listen;
use maypole::runtime::{Counters, Options, start};
use support::{Client, Gate, Message, Origin, eventually};

const WORKERS: usize = 2;
const CLIENTS: usize = 8;
const SWAPS: usize = 1_000;
/// A burst that no client here comes up to: what is above it tells which plan it is.
const BURST: u32 = 50_000;

struct Scene {
    shared: Arc<Shared>,
    counters: Arc<[Arc<Counters>]>,
    port: u16,
}

impl Scene {
    fn new(origin: &Origin) -> Self {
        let place = Place {
            name: "origin".into(),
            url: origin.url(),
            host: "127.0.0.1".into(),
            port: origin.port(),
            base_path: String::new(),
        };
        let config = nth_config(0);
        let (kept, _reports) = Kept::new(Room::of(WORKERS, 10_000));
        let members = vec![Member::new(Arc::new(Backend::new(1, 0, place, WORKERS)))];
        let policy = Arc::new(Policy::of(Strategy::RoundRobin));
        kept.pool.snapshot.store(Arc::new(Snapshot::new(1, members, policy)));
        let shared = Shared::new(Plan::build(&config, &kept), kept);
        let listeners = listen(SocketAddr::from(([127, 0, 0, 1], 0)), WORKERS).expect("a port");
        let port = listeners.address.port();
        let serve = {
            let shared = Arc::clone(&shared);
            move |world| Proxy::new(world, Arc::clone(&shared))
        };
        let options = Options {
            workers: WORKERS,
            listeners: vec![listeners],
            sockets_below: i32::MAX,
            pipes_max: 0,
            coroutines_max: 1_000,
        };
        let (_mailboxes, counters) = start(options, serve).expect("started");
        Self { shared, counters, port }
    }

    fn swap(&self, nth: usize) {
        self.swap_to(&nth_config(nth));
    }

    fn swap_to(&self, config: &Config) {
        self.shared.swap(Plan::build(config, &self.shared.kept));
    }
}

/// Each names the proxy otherwise, tells of another burst, and has buffers of another size than the one before.
fn nth_config(nth: usize) -> Config {
    let limit = RateLimit {
        requests: 1_000_000,
        per: Duration::from_secs(1),
        burst: BURST + nth as u32,
        key: RateKey::ClientIp,
        max_keys: 100,
        allow: Vec::new(),
    };
    let mut config =
        Config { workers: WORKERS, via: Some(format!("plan-{nth}")), rate_limit: Some(limit), ..Config::default() };
    config.limits.head_bytes += 1_024 * (nth % 5);
    config
}

/// The plan that a request began under, as its backend was told and as it answers; checks that it ended under the same.
#[track_caller]
fn plan_of(answer: &Message) -> usize {
    assert_eq!(answer.status(), 200, "{answer:?}");
    let began = answer.text().strip_prefix("1.1 plan-").and_then(|nth| nth.parse().ok()).expect("a plan's name");
    let ended = answer.field("ratelimit-policy").expect("what is left");
    let want = format!("\"maypole\";q={}", BURST as usize + began);
    assert!(ended.starts_with(&want), "it began under plan {began}, and its answer tells of {ended}");
    began
}

/// Sends a request, and says which plan it was served by.
#[track_caller]
fn ask(client: &mut Client) -> usize {
    plan_of(&client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer())
}

/// One test, since a process has one set of workers.
#[test]
fn plans_are_swapped_under_load_and_each_request_ends_under_the_one_that_it_began_under() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |exchange| {
        if exchange.request.target() == "/hold" {
            held.wait();
        }
        let via = exchange.request.field("via").unwrap_or_default().to_owned();
        exchange.answer(200, &via);
    });
    let scene = Scene::new(&origin);
    a_request_that_is_under_way_keeps_its_plan(&scene, &origin, &gate);
    a_head_in_pieces_goes_by_the_plan_that_is_in_force_at_its_end(&scene);
    a_thousand_swaps_fail_no_request(&scene);
    eventually("no connection is left", || scene.shared.connections() == 0);
    let panics: u64 = scene.counters.iter().map(|worker| worker.panics.value()).sum();
    let failures: u64 = scene.shared.failures.all().iter().map(|(_, count)| count).sum();
    assert_eq!((panics, failures), (0, 1), "the head that was too large");
}

fn a_request_that_is_under_way_keeps_its_plan(scene: &Scene, origin: &Origin, gate: &Gate) {
    let mut kept = Client::connect(scene.port);
    assert_eq!(ask(&mut kept), 0);
    let mut waiting = Client::connect(scene.port);
    waiting.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is at its backend", || origin.count() == 2);
    let mut half = Client::connect(scene.port);
    half.send("GET / HTTP/1.1\r\nHo");
    scene.swap(1);
    // A connection that was there before, one with half a head, and one that comes after.
    assert_eq!(ask(&mut kept), 1);
    assert_eq!(plan_of(&half.send("st: a\r\n\r\n").answer()), 1);
    assert_eq!(ask(&mut Client::connect(scene.port)), 1);
    gate.open();
    assert_eq!(plan_of(&waiting.answer()), 0);
    assert_eq!(ask(&mut waiting), 1);
}

fn a_head_in_pieces_goes_by_the_plan_that_is_in_force_at_its_end(scene: &Scene) {
    let allowing = |head_bytes| {
        let mut config = nth_config(1);
        config.limits.head_bytes = head_bytes;
        scene.swap_to(&config);
    };
    let piece = |name: &str| format!("{name}: {}\r\n", "a".repeat(6_000));
    // Begun where 8 KiB are allowed, and ended where 64 are.
    allowing(8 * 1024);
    let mut client = Client::connect(scene.port);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}", piece("A")));
    assert_eq!(ask(&mut Client::connect(scene.port)), 1);
    allowing(64 * 1024);
    for name in ["B", "C", "D", "E"] {
        client.send(piece(name));
    }
    assert_eq!(plan_of(&client.send("\r\n").answer()), 1);
    // The other way round.
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}{}{}", piece("A"), piece("B"), piece("C")));
    assert_eq!(ask(&mut Client::connect(scene.port)), 1);
    allowing(8 * 1024);
    assert_eq!(client.send("\r\n").answer().status(), 431);
}

fn a_thousand_swaps_fail_no_request(scene: &Scene) {
    let (answered, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let go_on_asking = |number: usize| {
        let mut client = Client::connect(scene.port);
        let mut newest = 0;
        while !over.load(Ordering::SeqCst) {
            let plan = ask(&mut client);
            assert!(plan >= newest, "plan {plan} after plan {newest}");
            newest = plan;
            let so_far = answered.fetch_add(1, Ordering::SeqCst);
            if so_far % (7 + number) == 0 {
                client = Client::connect(scene.port);
            }
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || go_on_asking(number))).collect();
        for nth in 2..SWAPS + 2 {
            let before = answered.load(Ordering::SeqCst);
            scene.swap(nth);
            // Each plan is in force for some requests.
            eventually("requests are answered", || {
                answered.load(Ordering::SeqCst) > before || clients.iter().any(thread::ScopedJoinHandle::is_finished)
            });
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(answered.load(Ordering::SeqCst) >= SWAPS);
}
