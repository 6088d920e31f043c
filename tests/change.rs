//! `PATCH /backends`: weights and states that are changed while requests run.

mod support;

use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};
use support::{Gate, Message, Origin, Proxy, Tracer, eventually};

fn patch(proxy: &Proxy, origin: &Origin, query: &str, mut change: Value) -> Message {
    change["url"] = origin.url().into();
    proxy.admin("PATCH", &format!("/backends{query}"), &change.to_string())
}

fn counts(origins: &[&Origin]) -> Vec<usize> {
    origins.iter().map(|origin| origin.count()).collect()
}

#[test]
fn a_new_weight_counts_from_the_next_pick_on() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::over(&[&a, &b]);
    for (weight, want) in [(4, [2, 8]), (0, [10, 0]), (1, [5, 5])] {
        let answer = patch(&proxy, &b, "", json!({ "weight": weight }));
        assert_eq!((answer.status(), &answer.json()["weight"]), (200, &weight.into()));
        let before = counts(&[&a, &b]);
        for _ in 0..10 {
            assert_eq!(proxy.get("/").status(), 200);
        }
        let got: Vec<_> = counts(&[&a, &b]).iter().zip(before).map(|(now, before)| now - before).collect();
        assert_eq!(got, want, "weight {weight}");
    }
}

#[test]
fn a_backend_that_is_drained_or_down_gets_no_new_request_and_loses_none() {
    for state in ["drain", "down"] {
        let gate = Arc::new(Gate::default());
        let (a, b) = (Origin::holding("a", &gate), Origin::answering("b"));
        let proxy = Proxy::over(&[&a, &b]);
        let mut held = proxy.client();
        while a.count() == 0 {
            held = proxy.client();
            held.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
            eventually("it has arrived", || a.count() + b.count() > 0);
        }
        let name = format!("/backends/127.0.0.1:{}", a.port());
        let answer = proxy.admin("PATCH", &name, &json!({ "state": state }).to_string());
        assert_eq!((answer.status(), &answer.json()["state"]), (200, &state.into()));
        assert_eq!(answer.json()["eligible"], false);
        for _ in 0..6 {
            assert_eq!(proxy.get("/").text(), "b");
        }
        gate.open();
        assert_eq!(held.answer().text(), "a");

        assert_eq!(patch(&proxy, &a, "", json!({ "state": "ready" })).json()["eligible"], true);
        let texts: Vec<_> = (0..2).map(|_| proxy.get("/").text()).collect();
        assert!(texts.contains(&"a".to_owned()), "{texts:?}");
        let shown = proxy.admin("GET", &name, "").json();
        let said = shown["changes"].as_array().expect("a list").iter().map(|change| change["what"].clone());
        let said: Vec<_> = said.filter(|what| what.as_str().is_some_and(|what| what.contains("operator"))).collect();
        let taken = if state == "drain" { "drained by an operator" } else { "taken down by an operator" };
        assert_eq!(said, ["made ready by an operator", taken]);
    }
}

#[test]
fn a_drain_may_be_waited_for() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("a", &gate);
    let proxy = Proxy::over(&[&origin]);
    let mut held = proxy.client();
    held.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it has arrived", || origin.count() == 1);

    let answer = patch(&proxy, &origin, "?wait=50ms", json!({ "state": "drain" }));
    assert_eq!((answer.status(), &answer.json()["in_flight"]), (202, &1.into()));
    assert_eq!(proxy.get("/").status(), 503);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| patch(&proxy, &origin, "?wait=30s", json!({ "weight": 0 })));
        eventually("the second call is under way", || {
            let shown = proxy.admin("GET", "/backends", "").json();
            shown[0]["weight"] == 0
        });
        assert!(!waiting.is_finished(), "it was answered with a request in flight");
        gate.open();
        let answer = waiting.join().expect("no panic");
        assert_eq!((answer.status(), &answer.json()["in_flight"]), (200, &0.into()));
    });
    assert_eq!(held.answer().status(), 200);
    let answer = patch(&proxy, &origin, "?wait=30s", json!({ "state": "ready", "weight": 1 }));
    assert_eq!(answer.status(), 200, "there is nothing to wait for");
}

#[test]
fn what_cannot_be_changed_is_told_and_changes_nothing() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    let before = proxy.status();
    for (body, wanted) in [
        (json!({}), "missing, wanted what is to change: \"weight\", \"state\" or \"max_connections\""),
        (json!({ "weight": 257 }), "weight: found 257, wanted a whole number from 0 to 256"),
        (json!({ "weight": 1, "state": "dead" }), "state: found \"dead\", wanted \"ready\" or \"drain\" or \"down\""),
        (
            json!({ "state": "drain", "name": "x" }),
            "name: unknown field, known here: url, weight, state, max_connections",
        ),
    ] {
        let answer = patch(&proxy, &origin, "", body);
        assert_eq!((answer.status(), answer.json()["detail"].as_str()), (400, Some(wanted)));
    }
    let name = format!("/backends/127.0.0.1:{}", origin.port());
    for (path, body, status) in [
        ("/backends", r#"{"url": "http://127.0.0.1:1", "weight": 1}"#, 404),
        ("/backends/nobody", r#"{"weight": 1}"#, 404),
        ("/backends", r#"{"weight": 1}"#, 400),
        (&name, r#"{"url": "http://127.0.0.1:1", "weight": 1}"#, 400),
        (&name, "", 400),
        (&format!("{name}?wait=2h"), r#"{"state": "drain"}"#, 400),
    ] {
        assert_eq!(proxy.admin("PATCH", path, body).status(), status, "{path} {body}");
    }
    assert_eq!(proxy.status()["backends"], before["backends"]);
}

#[test]
fn a_change_that_a_stuck_worker_does_not_know_of_is_a_202_and_a_call_that_waits_comes_when_it_does() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::over(&[&a]);
    // Each look of a worker at its descriptors, and so at its mailbox, takes 8 s to begin.
    let calls = "epoll_wait,epoll_pwait";
    let Some(_tracer) = Tracer::attach(&proxy, calls, Some(&format!("{calls}:delay_enter=8000000"))) else { return };
    let mut last = None;
    // The first ones may find the workers at a look that began before.
    for method in ["POST", "DELETE", "POST", "DELETE"] {
        let answer = proxy.mutate(method, &b);
        if answer.status() == 202 {
            last = Some((method, answer));
            break;
        }
        assert_eq!(answer.status(), if method == "POST" { 201 } else { 204 }, "{answer:?}");
    }
    let (method, answer) = last.expect("a worker is stuck");
    let known = answer.json();
    assert_eq!((&known["url"], &known["in_flight"]), (&json!(b.url()), &json!(0)));
    assert!((1..=2).contains(&known["workers_behind"].as_u64().expect("how many")), "{known}");
    let total = if method == "POST" { 2 } else { 1 };
    assert_eq!(proxy.status()["total_backends"], total, "it was made all the same");

    let answer = patch(&proxy, &a, "?wait=1m", json!({ "state": "drain" }));
    assert_eq!((answer.status(), &answer.json()["state"]), (200, &json!("drain")), "{answer:?}");
}
