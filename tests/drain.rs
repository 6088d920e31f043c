//! Stopping: nothing in flight is lost, nothing idle delays the end.

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::{Client, Gate, Origin, Proxy, eventually};

fn held_origin() -> (Origin, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |exchange| {
        held.wait();
        exchange.answer(200, "finished");
    });
    (origin, gate)
}

/// A client whose request has reached the origin and waits there.
fn in_flight(proxy: &Proxy, origin: &Origin) -> Client {
    let before = origin.count();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request reaches the origin", || origin.count() > before);
    client
}

#[test]
fn what_is_in_flight_finishes_and_the_rest_ends_at_once() {
    for signal in ["TERM", "INT", "QUIT"] {
        let (origin, gate) = held_origin();
        let mut proxy = Proxy::over(&[&origin]);
        let mut fresh = proxy.client();
        let mut busy = in_flight(&proxy, &origin);
        proxy.program.signal(signal);
        let idle = fresh.wait_for_end();
        assert!(idle < Duration::from_secs(2), "an idle connection lived on for {idle:?}");
        eventually("nobody listens any more", || Client::try_connect(proxy.port).is_err());
        assert!(proxy.program.is_running());
        gate.open();
        let answer = busy.answer();
        assert_eq!(answer.text(), "finished");
        assert_eq!(answer.list("connection"), "close");
        busy.wait_for_end();
        let status = proxy.program.wait_for_exit(Duration::from_secs(3));
        assert_eq!(status.code(), Some(0), "SIG{signal}: {}", proxy.program.stderr());
    }
}

#[test]
fn a_connection_between_two_requests_ends_at_once() {
    let origin = Origin::answering("ok");
    let mut proxy = Proxy::over(&[&origin]);
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status(), 200);
    }
    proxy.program.signal("TERM");
    for client in &mut clients {
        client.wait_for_end();
    }
    assert_eq!(proxy.program.wait_for_exit(Duration::from_secs(3)).code(), Some(0));
}

#[test]
fn readiness_says_no_while_draining() {
    let (origin, gate) = held_origin();
    let mut proxy = Proxy::over(&[&origin]);
    let mut busy = in_flight(&proxy, &origin);
    assert_eq!(proxy.admin("GET", "/readyz", "").status(), 200);
    proxy.program.signal("TERM");
    eventually("it says no", || proxy.admin("GET", "/readyz", "").status() == 503);
    gate.open();
    assert_eq!(busy.answer().text(), "finished");
    assert_eq!(proxy.program.wait_for_exit(Duration::from_secs(3)).code(), Some(0));
}

#[test]
fn what_takes_too_long_is_cut_when_the_time_is_over() {
    let (origin, _gate) = held_origin();
    let mut proxy = Proxy::with(&[&origin], json!({ "timeouts": {"drain": "500ms"} }));
    let mut busy = in_flight(&proxy, &origin);
    proxy.program.signal("TERM");
    let status = proxy.program.wait_for_exit(Duration::from_secs(4));
    assert_eq!(status.code(), Some(0), "{}", proxy.program.stderr());
    assert!(busy.rest().is_empty() || !proxy.program.is_running());
}

#[test]
fn an_idle_proxy_stops_without_delay() {
    let origin = Origin::answering("ok");
    let mut proxy = Proxy::over(&[&origin]);
    assert_eq!(proxy.get("/").status(), 200);
    proxy.program.signal("TERM");
    assert_eq!(proxy.program.wait_for_exit(Duration::from_secs(2)).code(), Some(0));
}
