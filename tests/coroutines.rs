//! More to do than there are coroutines for: what has none waits for one, and nothing is dropped. The proxy is the real
//! one, on a real worker that may have a few coroutines only.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use maypole::balance::{Backend, Fleet, Member, Origin as Place, Policy, Snapshot, Strategy};
use maypole::config::Config;
use maypole::proxy::{Proxy, Shared};
use maypole::runtime::listen::listen;
use maypole::runtime::{Counters, Options, start};
use support::{Client, Gate, Origin, eventually};

const COROUTINES: usize = 3;
const CLIENTS: usize = 40;

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
        let (fleet, _reports) = Fleet::new(Policy::of(Strategy::RoundRobin));
        let members = vec![Member::new(Arc::new(Backend::new(1, 0, place, 1)))];
        fleet.snapshot.store(Arc::new(Snapshot::new(1, members, Arc::clone(&fleet.policy))));
        let shared = Shared::new(Config { workers: 1, ..Config::default() }, Arc::new(fleet), 10_000);
        let listeners = listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("a port");
        let port = listeners.address.port();
        let serve = {
            let shared = Arc::clone(&shared);
            move |world| Proxy::new(world, Arc::clone(&shared))
        };
        let options = Options {
            workers: 1,
            listeners: vec![listeners],
            sockets_below: i32::MAX,
            pipes_max: 0,
            coroutines_max: COROUTINES,
        };
        let (_mailboxes, counters) = start(options, serve).expect("started");
        Self { shared, counters, port }
    }

    fn clients(&self) -> Vec<Client> {
        (0..CLIENTS).map(|_| Client::connect(self.port)).collect()
    }
}

/// One test, since a process has one set of workers.
#[test]
fn who_finds_no_coroutine_waits_for_one_and_nobody_is_dropped() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let scene = Scene::new(&origin);

    // Ten times as many as there are coroutines, kept and fresh ones; each has to be taken up by one.
    let mut kept = scene.clients();
    for client in &mut kept {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut kept {
        assert_eq!(client.answer().status(), 200);
    }
    let mut fresh = scene.clients();
    for client in kept.iter_mut().chain(&mut fresh) {
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("every coroutine is busy", || origin.count() >= CLIENTS + COROUTINES);
    gate.open();
    for client in kept.iter_mut().chain(&mut fresh) {
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(origin.count(), 3 * CLIENTS);
    let failed: u64 = scene.counters.iter().map(|worker| worker.accept_errors.value()).sum();
    assert_eq!(failed, 0);
    drop((kept, fresh));
    eventually("no connection is left", || scene.shared.connections() == 0);
}
