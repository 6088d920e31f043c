//! More to do than there are coroutines for: what has none waits for one, and nothing is dropped. The proxy is the real
//! one, on a real worker that may have a few coroutines only.

#[path = "support/inside.rs"]
mod inside;
mod support;

use std::sync::Arc;

use inside::start_inside;
use maypole::config::Config;
use maypole::proxy::Proxy;
use support::{Client, Gate, Origin, eventually};

const COROUTINES: usize = 3;
const CLIENTS: usize = 40;

/// One test, since a process has one set of workers.
#[test]
fn who_finds_no_coroutine_waits_for_one_and_nobody_is_dropped() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let proxy = start_inside(&origin, Config::default(), (10_000, COROUTINES), Proxy::new);
    let clients = || -> Vec<_> { (0..CLIENTS).map(|_| Client::connect(proxy.ports[0])).collect() };

    // Ten times as many as there are coroutines, kept and fresh ones; each has to be taken up by one.
    let mut kept = clients();
    for client in &mut kept {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut kept {
        assert_eq!(client.answer().status(), 200);
    }
    let mut fresh = clients();
    for client in kept.iter_mut().chain(&mut fresh) {
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("every coroutine is busy", || origin.count() >= CLIENTS + COROUTINES);
    gate.open();
    for client in kept.iter_mut().chain(&mut fresh) {
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(origin.count(), 3 * CLIENTS);
    let failed: u64 = proxy.counters.iter().map(|worker| worker.accept_errors.value()).sum();
    assert_eq!(failed, 0);
    drop((kept, fresh));
    eventually("no connection is left", || proxy.shared.connections() == 0);
    assert_eq!(proxy.backend.in_flight(), 0);
}
