//! What maypole counts of itself, as `GET /status` shows it.

mod support;

use maypole::observe::Reason;
use serde_json::{Value, json};
use support::{Origin, Proxy, eventually, free_port};

fn failures(proxy: &Proxy) -> Value {
    proxy.status()["failures"].clone()
}

/// Waits until these are the only failures counted.
#[track_caller]
fn counted(proxy: &Proxy, want: &[(&str, u64)]) {
    let holds = || {
        let failures = failures(proxy);
        let failures = failures.as_object().expect("an object");
        failures.iter().all(|(label, count)| {
            let want = want.iter().find(|(wanted, _)| wanted == label).map_or(0, |(_, count)| *count);
            count == want
        })
    };
    eventually(&format!("{want:?} are counted; now it is {}", failures(proxy)), holds);
}

#[test]
fn every_reason_has_a_count_from_the_start() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let failures = failures(&proxy);
    let labels: Vec<_> = failures.as_object().expect("an object").keys().map(String::as_str).collect();
    let wanted: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels, wanted);
    counted(&proxy, &[]);
    assert_eq!(proxy.status()["panics"], 0);
}

#[test]
fn a_failure_is_counted_once_under_its_reason() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "limits": {"body_bytes": 10, "uri_bytes": 100} }));
    assert_eq!(proxy.get("/").status(), 200);
    counted(&proxy, &[]);
    for _ in 0..3 {
        let too_large = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n";
        assert_eq!(proxy.client().send(too_large).answer().status(), 413);
    }
    assert_eq!(proxy.get(&format!("/{}", "x".repeat(100))).status(), 414);
    assert_eq!(proxy.client().send("G E T / HTTP/1.1\r\n\r\n").answer().status(), 400);
    counted(&proxy, &[("body_too_large", 3), ("uri_too_long", 1), ("bad_request", 1)]);
}

#[test]
fn a_request_that_was_saved_by_a_second_try_has_not_failed() {
    let dead = format!("http://127.0.0.1:{}", free_port());
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "backends": [dead, origin.url()] }));
    for _ in 0..4 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    counted(&proxy, &[]);
}

#[test]
fn an_answer_that_breaks_off_is_counted_for_the_side_that_broke_it() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbegun");
        if exchange.request.target() == "/cut" {
            exchange.close();
        } else {
            exchange.wait_for_end();
        }
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").rest();
    counted(&proxy, &[("body_cut", 1)]);
    let mut client = proxy.client();
    client.send("GET /stay HTTP/1.1\r\nHost: a\r\n\r\n").answer_head();
    client.reset();
    counted(&proxy, &[("body_cut", 1), ("client_gone", 1)]);
}

#[test]
fn connections_are_counted_as_they_come_and_go() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let connections = || proxy.status()["connections"].clone();
    let accepted = connections()["accepted"].as_u64().expect("a number");
    let mut clients = [proxy.client(), proxy.client(), proxy.client()];
    for client in &mut clients {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(connections(), json!({ "open": 3, "accepted": accepted + 3, "accept_errors": 0 }));
    drop(clients);
    eventually("they have gone", || connections()["open"] == 0);
    assert_eq!(connections()["accepted"], accepted + 3);
}

#[test]
fn every_reason_is_explained_to_operators() {
    let paper = include_str!("../docs/admin-api.md");
    let missing: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| format!("| `{}` |", reason.label()))
        .filter(|row| !paper.contains(row))
        .collect();
    assert!(missing.is_empty(), "docs/admin-api.md has no row for {missing:?}");
}
