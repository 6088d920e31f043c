//! Every bound, and the answer that exceeding it gets.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Message, Origin, Proxy, eventually};

fn limited(origin: &Origin, limits: &Value) -> Proxy {
    Proxy::with(&[origin], json!({ "limits": limits }))
}

/// Sends the request, expects that answer and the connection's end, and that no backend saw anything.
#[track_caller]
fn refused(proxy: &Proxy, origin: &Origin, request: &str, status: u16) -> Message {
    let mut client = proxy.client();
    let answer = client.send(request).answer();
    assert_eq!(answer.status(), status, "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=http_request_error"), "{answer:?}");
    client.wait_for_end();
    assert_eq!(origin.count(), 0, "{:?}", origin.requests());
    answer
}

#[test]
fn a_head_that_is_too_large_gets_431() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "head_bytes": 2048 }));
    let fitting = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1900));
    assert_eq!(proxy.client().send(fitting).answer().status(), 200);
    let proxy = limited(&origin, &json!({ "head_bytes": 2048 }));
    let before = origin.count();
    for request in [
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2048)),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(100_000)),
    ] {
        let mut client = proxy.client();
        let answer = client.send(request).answer();
        assert_eq!(answer.status(), 431, "{answer:?}");
        client.rest();
    }
    assert_eq!(origin.count(), before);
}

#[test]
fn too_many_fields_get_431() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "headers": 10 }));
    let fields = |count: usize| (1..count).map(|n| format!("X-{n}: 1\r\n")).collect::<Vec<_>>().concat();
    refused(&proxy, &origin, &format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(11)), 431);
    let fitting = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(10));
    assert_eq!(proxy.client().send(fitting).answer().status(), 200);
}

#[test]
fn a_target_that_is_too_long_gets_414() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "uri_bytes": 1000 }));
    refused(&proxy, &origin, &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1000)), 414);
    assert_eq!(proxy.get(&format!("/{}", "x".repeat(999))).status(), 200);
}

#[test]
fn a_body_announced_too_large_gets_413_before_any_of_it_is_sent() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "body_bytes": 1000 }));
    refused(&proxy, &origin, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413);
}

#[test]
fn a_chunked_body_that_grows_too_large_gets_413() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "body_bytes": 1000 }));
    let request = |size: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n",
            "x".repeat(size)
        )
    };
    assert_eq!(proxy.client().send(request(1000)).answer().status(), 200);
    assert_eq!(proxy.client().send(request(1001)).answer().status(), 413);
    assert!(origin.requests().iter().all(|seen| !seen.complete || seen.body.len() <= 1000));
}

#[test]
fn the_answer_outlives_what_its_client_still_sends() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "body_bytes": 1000 }));
    // More than the proxy reads on: a plain close would answer these bytes with a reset that eats the 413.
    for _ in 0..20 {
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000)));
        assert_eq!(client.answer().status(), 413, "RFC 9112 §9.6");
    }
}

#[test]
fn half_a_head_gets_408_in_time_however_it_trickles() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"head": "600ms"} }));
    let began = Instant::now();
    refused(&proxy, &origin, "GET / HTTP/1.1\r\nHost: a", 408);
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());

    let mut client = proxy.client();
    let mut writer = client.writer();
    let began = Instant::now();
    let trickle = std::thread::spawn(move || {
        // Ends when the proxy closes, or well after it should have.
        let _ = std::io::Write::write_all(&mut writer, b"GET / HTTP/1.1\r\n");
        for n in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            if std::io::Write::write_all(&mut writer, format!("X-{n}: 1\r\n").as_bytes()).is_err() {
                break;
            }
        }
    });
    let answer = client.answer();
    assert_eq!(answer.status(), 408);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    trickle.join().expect("no panic");
}

#[test]
fn half_a_body_then_silence_gets_408_in_time() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"body_idle": "400ms"} }));
    let mut client = proxy.client();
    let began = Instant::now();
    let answer = client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").answer();
    assert_eq!(answer.status(), 408, "{answer:?}");
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
    client.wait_for_end();
    assert!(origin.requests().iter().all(|seen| !seen.complete));
}

#[test]
fn silence_from_the_start_ends_quietly() {
    let origin = Origin::answering("ok");
    let quick = json!({ "timeouts": {"head": "300ms", "keep_alive": "300ms"} });
    let proxy = Proxy::with(&[&origin], quick);
    let rest = proxy.client().rest();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&rest));
}

#[test]
fn a_connection_over_the_limit_gets_503_and_the_others_live_on() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "connections": 4 }));
    let mut within = Vec::new();
    // The harness's own first connection may still count for a moment.
    eventually("four fit", || {
        let mut client = proxy.client();
        let served = client.get("/").status() == 200;
        if served {
            within.push(client);
        }
        within.len() == 4
    });
    let mut over = proxy.client();
    let answer = over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!(answer.status(), 503);
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=connection_limit_reached"), "{answer:?}");
    over.wait_for_end();
    for client in &mut within {
        assert_eq!(client.get("/").status(), 200);
    }
    within.pop();
    eventually("one who left makes room", || proxy.get("/").status() == 200);
}

#[test]
fn an_answer_whose_head_is_too_large_is_a_502() {
    let origin = Origin::start(|exchange| {
        exchange.answer_with(200, &[&format!("X: {}", "x".repeat(100_000))], "ok");
    });
    let proxy = Proxy::over(&[&origin]);
    assert_eq!(proxy.get("/").status(), 502);
}

#[test]
fn a_client_that_does_not_read_is_let_go_in_time() {
    let (told, ended) = std::sync::mpsc::channel();
    let origin = Origin::start(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n");
        let piece = vec![7; 64 * 1024];
        while exchange.send(&piece) {}
        let _ = told.send(());
    });
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"write": "400ms"} }));
    let mut client = Client::with_small_window(proxy.port).expect("the proxy listens");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    ended.recv_timeout(support::PATIENCE).expect("the proxy gives it up");
    eventually("nothing is in flight", || proxy.in_flight(&origin) == 0);
}

#[test]
fn what_can_not_be_served_gets_501() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    refused(&proxy, &origin, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 501);
}
