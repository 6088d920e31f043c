//! Which backend a request goes to.

mod support;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Gate, Origin, Proxy, eventually};

fn three() -> [Origin; 3] {
    [Origin::answering("a"), Origin::answering("b"), Origin::answering("c")]
}

fn borrowed(origins: &[Origin]) -> Vec<&Origin> {
    origins.iter().collect()
}

#[test]
fn nine_requests_over_three_backends_go_to_each_in_turn_whichever_worker_they_meet() {
    let origins = three();
    let proxy = Proxy::with(&borrowed(&origins), json!({ "workers": 4 }));
    let order: String = (0..9).map(|_| proxy.get("/").text()).collect();
    assert!("abcabcabcabc".contains(&order), "not in turn: {order}");
    assert_eq!(origins.each_ref().map(Origin::count), [3, 3, 3]);
}

#[test]
fn the_turns_hold_over_one_connection_and_with_bodies() {
    let origins = three();
    let proxy = Proxy::over(&borrowed(&origins));
    let mut client = proxy.client();
    let order: String = (0..9)
        .map(|_| client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer().text())
        .collect();
    assert!("abcabcabcabc".contains(&order), "not in turn: {order}");
}

#[test]
fn requests_that_come_at_once_are_shared_out_evenly() {
    let origins = three();
    let proxy = Proxy::over(&borrowed(&origins));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = proxy.client();
                (0..50).for_each(|_| assert_eq!(client.get("/").status(), 200));
            });
        }
    });
    assert_eq!(origins.each_ref().map(Origin::count), [100, 100, 100]);
}

#[test]
fn health_checks_take_no_turn() {
    let origins = three();
    let frequent = json!({ "health_check_frequency": "20ms", "health_check": {"fast_interval": "20ms"} });
    let proxy = Proxy::with(&borrowed(&origins), frequent);
    let mut order = String::new();
    for round in 1..=9 {
        eventually("another probe", || origins[0].probes() >= round);
        order += &proxy.get("/").text();
    }
    assert!("abcabcabcabc".contains(&order), "not in turn: {order}");
}

#[test]
fn least_conn_avoids_the_busy_one() {
    let gate = Arc::new(Gate::default());
    let origins: Vec<Origin> = (0..2)
        .map(|_| {
            let gate = Arc::clone(&gate);
            Origin::start(move |exchange| {
                if exchange.request.target() == "/hold" {
                    gate.wait();
                }
                exchange.answer(200, "ok");
            })
        })
        .collect();
    let proxy = Proxy::with(&borrowed(&origins), json!({ "strategy": "least-conn" }));
    let mut held = proxy.client();
    held.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("one is busy", || origins.iter().any(|origin| origin.count() == 1));
    let busy = usize::from(origins[1].count() == 1);
    // One connection: its worker takes an answered request off the count before it reads the next.
    let mut client = proxy.client();
    for _ in 0..6 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(origins[busy].count(), 1, "the busy one got more");
    assert_eq!(origins[1 - busy].count(), 6);
    gate.open();
    assert_eq!(held.answer().status(), 200);
}

#[test]
fn least_conn_takes_turns_among_equals() {
    let origins = three();
    let proxy = Proxy::with(&borrowed(&origins), json!({ "strategy": "least-conn" }));
    // One after the other: an answer that was read is no longer in flight, give or take the moment of counting it.
    for _ in 0..9 {
        eventually("nothing is in flight", || origins.iter().all(|origin| proxy.in_flight(origin) == 0));
        assert_eq!(proxy.get("/").status(), 200);
    }
    assert_eq!(origins.each_ref().map(Origin::count), [3, 3, 3]);
}

#[test]
fn without_a_backend_the_answer_is_503_at_once() {
    let proxy = Proxy::over(&[]);
    let began = Instant::now();
    let answer = proxy.get("/");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(answer.status(), 503);
    assert!(answer.field("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{answer:?}");
    let why = answer.list("proxy-status");
    assert!(why.starts_with("maypole;") && why.contains("error=destination_unavailable"), "{answer:?}");
    assert_eq!(answer.field("server"), Some("maypole"));
}
