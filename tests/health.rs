//! Active health checks: who is in rotation, and since when.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::proxy::settings;
use support::{Origin, Proxy, eventually, free_port};

fn quick(rise: u32, fall: u32) -> Value {
    let check = json!({ "fast_interval": "50ms", "rise": rise, "fall": fall, "jitter": 0 });
    json!({ "health_check_frequency": "100ms", "health_check": check })
}

#[test]
fn a_backend_leaves_after_fall_failures_and_returns_after_rise_successes() {
    let origin = Origin::answering("a");
    let proxy = Proxy::with(&[&origin], quick(4, 3));
    eventually("it is probed", || origin.probes() > 0);
    assert!(proxy.is_alive(&origin));

    let before = origin.probes();
    origin.set_healthy(false);
    eventually("it is out", || !proxy.is_alive(&origin));
    assert!(origin.probes() - before >= 3, "out after {} failures", origin.probes() - before);

    let before = origin.probes();
    origin.set_healthy(true);
    eventually("it is back", || proxy.is_alive(&origin));
    assert!(origin.probes() - before >= 4, "back after {} successes", origin.probes() - before);
}

#[test]
fn one_failure_alone_changes_nothing() {
    let origin = Origin::answering("a");
    let proxy = Proxy::with(&[&origin], quick(2, 3));
    eventually("it is probed", || origin.probes() > 0);
    for _ in 0..5 {
        let before = origin.probes();
        origin.set_healthy(false);
        eventually("one more probe", || origin.probes() > before);
        origin.set_healthy(true);
        let before = origin.probes();
        eventually("two more probes", || origin.probes() > before + 1);
        assert!(proxy.is_alive(&origin));
    }
}

#[test]
fn the_very_first_result_decides_at_once() {
    let origin = Origin::answering("a");
    origin.set_healthy(false);
    let proxy = Proxy::with(&[&origin], quick(100, 100));
    eventually("it is out", || !proxy.is_alive(&origin));
    assert!(origin.probes() < 50, "it took {} probes", origin.probes());
    assert_eq!(proxy.get("/").status(), 503);
}

#[test]
fn before_its_first_probe_a_backend_gets_traffic() {
    let origin = Origin::answering("a");
    let proxy = Proxy::with(&[&origin], json!({ "health_check_frequency": "1h" }));
    assert!(proxy.is_alive(&origin));
    assert_eq!(proxy.get("/").text(), "a");
}

#[test]
fn an_unhealthy_backend_gets_nothing_and_with_none_left_the_answer_is_503_at_once() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::with(&[&a, &b], quick(2, 2));
    a.set_healthy(false);
    eventually("one is out", || !proxy.is_alive(&a));
    let before = a.count();
    for _ in 0..6 {
        assert_eq!(proxy.get("/").text(), "b");
    }
    assert_eq!(a.count(), before);

    b.set_healthy(false);
    eventually("both are out", || proxy.status()["active_backends"] == 0);
    let began = Instant::now();
    let answer = proxy.get("/");
    assert_eq!(answer.status(), 503);
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=destination_unavailable"), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(proxy.admin("GET", "/readyz", "").status(), 503);

    a.set_healthy(true);
    eventually("one is back", || proxy.is_alive(&a));
    assert_eq!(proxy.get("/").text(), "a");
    assert_eq!(proxy.admin("GET", "/readyz", "").status(), 200);
}

#[test]
fn a_change_is_logged_once() {
    let origin = Origin::answering("a");
    let proxy = Proxy::with(&[&origin], quick(2, 2));
    eventually("it is probed", || origin.probes() > 0);
    let name = format!("127.0.0.1:{}", origin.port());
    let lines = || proxy.program.stderr().lines().filter(|line| line.contains(&name) && line.contains("down")).count();
    assert_eq!(lines(), 0, "{}", proxy.program.stderr());
    origin.set_healthy(false);
    eventually("it is out", || !proxy.is_alive(&origin));
    let before = origin.probes();
    eventually("more failures", || origin.probes() > before + 5);
    eventually("the log says so", || lines() > 0);
    assert_eq!(lines(), 1, "{}", proxy.program.stderr());
}

#[test]
fn what_counts_as_healthy_is_the_operators_choice() {
    let (asked, questions) = std::sync::mpsc::channel();
    let origin = Origin::start(move |exchange| {
        if exchange.request.target() == "/alive?deep" {
            let _ = asked.send(exchange.request.clone());
            exchange.answer(418, "all is well");
        } else {
            exchange.answer(200, "ok");
        }
    });
    let check = json!({ "path": "/alive?deep", "host": "check.example", "expect": "200,418", "body_contains": "well" });
    let proxy = Proxy::with(&[&origin], json!({ "health_check": check, "health_check_frequency": "50ms" }));
    let question = questions.recv_timeout(support::PATIENCE).expect("a probe");
    assert_eq!(question.field("host"), Some("check.example"));
    questions.recv_timeout(support::PATIENCE).expect("another probe");
    assert!(proxy.is_alive(&origin));
    assert_eq!(proxy.get("/").text(), "ok");
}

#[test]
fn a_probe_asks_below_the_backends_base_path() {
    let (asked, questions) = std::sync::mpsc::channel();
    let origin = Origin::start(move |exchange| {
        let _ = asked.send(exchange.request.target().to_owned());
        exchange.answer(if exchange.request.target().starts_with("/app/v1/") { 200 } else { 404 }, "ok");
    });
    let (long_base, long_path) = (format!("/app/v1/{}", "b".repeat(2000)), format!("/{}", "p".repeat(1023)));
    let long = format!("{long_base}{long_path}");
    for (base, path, wanted) in [
        ("/app/v1", "/alive?deep", "/app/v1/alive?deep"),
        ("/app/v1/", "/", "/app/v1/"),
        ("", "/app/v1/", "/app/v1/"),
        (&long_base, &long_path, &long),
    ] {
        let on_top = json!({ "backends": [format!("{}{base}", origin.url())], "health_check": { "path": path } });
        let proxy = Proxy::with(&[], on_top);
        assert_eq!(questions.recv_timeout(support::PATIENCE).as_deref(), Ok(wanted));
        eventually("it is up", || proxy.admin("GET", "/backends", "").json()[0]["health"] == "up");
    }
}

#[test]
fn heads_that_the_limits_let_traffic_have_are_no_fault_to_a_probe() {
    let origin = Origin::start(|exchange| {
        let many = "X-Field: y\r\n".repeat(500);
        let long = "a".repeat(40_000);
        exchange.send(format!("HTTP/1.1 200 caf\u{e9}\r\n{many}X: {long}\r\nContent-Length: 2\r\n\r\nok"));
    });
    let limits = json!({ "head_bytes": 60_000, "headers": 600 });
    let check = json!({ "path": "/" });
    let proxy = Proxy::with(&[&origin], json!({ "limits": limits, "health_check": check }));
    assert_eq!(proxy.get("/").text(), "ok");
    eventually("it is up", || proxy.admin("GET", "/backends", "").json()[0]["health"] == "up");
}

#[test]
fn an_answer_that_does_not_end_in_time_is_a_failure() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
        exchange.wait_for_end();
    });
    let check = json!({ "path": "/", "timeout": "200ms" });
    let proxy = Proxy::with(&[&origin], json!({ "health_check": check }));
    let reason = || proxy.admin("GET", "/backends", "").json()[0]["health_reason"].clone();
    eventually("it is down", || reason() == "answered 200, but not to its end within 200ms");
}

/// A listener on every loopback address that plays many backends: it counts the probes of each, and never answers
/// those whose address `hangs`.
fn crowd(hangs: fn(IpAddr) -> bool) -> (u16, Arc<Mutex<Vec<IpAddr>>>) {
    let port = free_port();
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    let probed: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let record = Arc::clone(&probed);
    thread::spawn(move || {
        let mut hanging = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let Ok(address) = stream.local_addr() else { continue };
            if hangs(address.ip()) {
                hanging.push(stream);
                continue;
            }
            record.lock().expect("not poisoned").push(address.ip());
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            });
        }
    });
    (port, probed)
}

#[test]
fn fifty_hanging_backends_of_two_hundred_do_not_delay_the_others() {
    let hangs = |address: IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[3] <= 50);
    let (port, probed) = crowd(hangs);
    let backends: Vec<_> = (1..=200).map(|last| format!("http://127.0.0.{last}:{port}")).collect();
    let mut config = settings(&backends);
    config["health_check_frequency"] = json!("2s");
    config["health_check"] = json!({ "path": "/", "timeout": "1500ms", "jitter": 0 });
    let _proxy = Proxy::start(&config);
    let began = Instant::now();
    let least = || {
        let probed = probed.lock().expect("not poisoned");
        (51..=200).map(|last| probed.iter().filter(|ip| **ip == IpAddr::from([127, 0, 0, last])).count()).min()
    };
    // First probes are spread over the first 2 s; the third of each is due by 6 s.
    eventually("each of the others was probed three times", || least() >= Some(3));
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
}
