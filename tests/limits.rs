//! Every bound, and the answer that exceeding it gets.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Message, Origin, Proxy, eventually};

fn limited(origin: &Origin, limits: &Value) -> Proxy {
    Proxy::with(&[origin], json!({ "limits": limits }))
}

/// Sends the request, expects that answer and the connection's end, and that no backend saw anything; it has to be the
/// first to be counted under its reason.
#[track_caller]
fn refused(proxy: &Proxy, origin: &Origin, request: &str, status: u16, reason: &str) -> Message {
    let mut client = proxy.client();
    let answer = client.send(request).answer();
    assert_eq!(answer.status(), status, "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=http_request_error"), "{answer:?}");
    client.wait_for_end();
    assert_eq!(origin.count(), 0, "{:?}", origin.requests());
    assert_eq!(proxy.status()["failures"][reason], 1);
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
    assert_eq!(proxy.status()["failures"]["head_too_large"], 2);
}

#[test]
fn too_many_fields_get_431() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "headers": 10 }));
    let fields = |count: usize| (1..count).map(|n| format!("X-{n}: 1\r\n")).collect::<Vec<_>>().concat();
    refused(&proxy, &origin, &format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(11)), 431, "too_many_fields");
    let fitting = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(10));
    assert_eq!(proxy.client().send(fitting).answer().status(), 200);
}

#[test]
fn a_target_that_is_too_long_gets_414() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "uri_bytes": 1000 }));
    refused(&proxy, &origin, &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1000)), 414, "uri_too_long");
    assert_eq!(proxy.get(&format!("/{}", "x".repeat(999))).status(), 200);
}

#[test]
fn a_body_announced_too_large_gets_413_before_any_of_it_is_sent() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "body_bytes": 1000 }));
    refused(&proxy, &origin, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413, "body_too_large");
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
    assert_eq!(proxy.status()["failures"]["body_too_large"], 1);
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
    refused(&proxy, &origin, "GET / HTTP/1.1\r\nHost: a", 408, "head_timeout");
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());

    let mut client = proxy.client();
    let mut writer = client.writer();
    let began = Instant::now();
    let trickle = std::thread::spawn(move || {
        // Ends when the proxy closes, or well after it should have.
        let _ = writer.write_all(b"GET / HTTP/1.1\r\n");
        for n in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            if writer.write_all(format!("X-{n}: 1\r\n").as_bytes()).is_err() {
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
fn half_a_head_gets_408_in_time_behind_a_long_rest_too() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"head": "300ms", "keep_alive": "1h"} }));
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    eventually("it rests", || proxy.parked() == 1);
    assert_eq!(client.send("GET / HTTP/1.1\r\n").answer().status(), 408);
}

#[test]
fn half_a_body_then_silence_gets_408_in_time() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"body_idle": "400ms"} }));
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut client = proxy.client();
        let began = Instant::now();
        let answer = client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")).answer();
        let took = began.elapsed();
        assert_eq!(answer.status(), 408, "{answer:?}");
        assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&took), "{took:?}");
        client.wait_for_end();
    }
    assert_eq!(proxy.status()["failures"]["body_timeout"], 2);
    assert!(origin.requests().iter().all(|seen| !seen.complete));
}

#[test]
fn a_body_below_the_minimum_rate_gets_408_although_it_never_stalls() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "min_body_rate": 1000 }));
    // 200 bytes of payload a second; as chunks with extensions more than 1000 with their framing, which doesn't count.
    let pieces = [
        ("Content-Length: 100000", "x".repeat(10)),
        ("Transfer-Encoding: chunked", format!("a;{}\r\n{}\r\n", "e".repeat(40), "x".repeat(10))),
    ];
    let trickle = |(framing, piece): (&str, String)| {
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        let mut writer = client.writer();
        let began = Instant::now();
        let trickle = std::thread::spawn(move || {
            // Ends with the connection, or well after the answer should have come.
            while began.elapsed() < support::PATIENCE && writer.write_all(piece.as_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        (client, began, trickle)
    };
    for (mut client, began, trickle) in pieces.map(trickle) {
        let answer = client.answer();
        assert_eq!(answer.status(), 408, "{answer:?}");
        assert!(answer.list("proxy-status").contains("error=http_request_error"), "{answer:?}");
        assert!((Duration::from_secs(5)..Duration::from_secs(9)).contains(&began.elapsed()), "{:?}", began.elapsed());
        client.wait_for_end();
        // Until then the proxy would read on.
        client.finish();
        trickle.join().expect("no panic");
    }
    assert_eq!(proxy.status()["failures"]["body_too_slow"], 2);
    assert!(origin.requests().iter().all(|seen| !seen.complete));
}

#[test]
fn a_client_that_waits_for_100_is_not_slow() {
    let origin = Origin::start(|exchange| {
        // Longer than a client may fall behind.
        std::thread::sleep(Duration::from_secs(6));
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
        exchange.answer(200, "thank you");
    });
    let proxy = limited(&origin, &json!({ "min_body_rate": 1000 }));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.next_head().status(), 100);
    assert_eq!(client.send("hello").answer().status(), 200);
    assert_eq!(origin.only_request().text(), "hello");
}

#[test]
fn a_client_is_not_slow_because_the_backend_was() {
    const AT_ONCE: usize = 4_000_000;
    let (told, has_come) = std::sync::mpsc::channel();
    let origin = Origin::with_small_window(move |exchange| {
        // Takes nothing for longer than a client may fall behind, then all.
        std::thread::sleep(Duration::from_secs(6));
        let mut buffer = vec![0; 64 * 1024];
        let mut come = 0;
        while come < AT_ONCE + 1 {
            match exchange.read(&mut buffer) {
                0 => return,
                count => come += count,
            }
            if come == AT_ONCE {
                let _ = told.send(());
            }
        }
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        exchange.close();
    });
    // At this rate what comes after the backend's pause earns less than half a second.
    let proxy = limited(&origin, &json!({ "min_body_rate": 10_000_000 }));
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", AT_ONCE + 1));
    client.send(vec![7; AT_ONCE]);
    has_come.recv_timeout(support::PATIENCE * 2).expect("all of it comes");
    // Only one whose account wasn't charged for the backend's pause can afford this one.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(client.send("7").answer().status(), 200);
}

#[test]
fn silence_from_the_start_ends_quietly() {
    let origin = Origin::answering("ok");
    let quick = json!({ "timeouts": {"head": "300ms", "keep_alive": "300ms"} });
    let proxy = Proxy::with(&[&origin], quick);
    let silent = proxy.client().wait_for_end();
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&silent), "closed after {silent:?}");
    assert_eq!(proxy.status()["failures"]["head_timeout"], 0, "nobody waited for an answer");
}

#[test]
fn a_connection_over_the_limit_gets_503_and_the_others_live_on() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "connections": 4 }));
    let mut within = Vec::new();
    for _ in 0..4 {
        let mut client = proxy.client();
        assert_eq!(client.get("/").status(), 200);
        within.push(client);
    }
    let mut over = proxy.client();
    let answer = over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!(answer.status(), 503);
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=connection_limit_reached"), "{answer:?}");
    over.wait_for_end();
    assert_eq!(proxy.status()["failures"]["connection_limit"], 1);
    for client in &mut within {
        assert_eq!(client.get("/").status(), 200);
    }
    within.pop();
    eventually("one who left makes room", || proxy.get("/").status() == 200);
}

#[test]
fn hundreds_over_the_limit_get_503_and_an_end_though_they_speak_late() {
    const OVER: usize = 300;
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "connections": 1 }));
    let mut within = proxy.client();
    assert_eq!(within.get("/").status(), 200);
    let mut ends = Vec::new();
    let mut stay = Vec::new();
    for _ in 0..OVER {
        let mut over = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).expect("it listens");
        over.set_read_timeout(Some(support::PATIENCE)).expect("a socket");
        let (mut answer, mut rest) = ([0; 4096], Vec::new());
        let n = over.read(&mut answer).expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 503 "));
        // A connection that is closed by now answers with a reset.
        ends.push(
            over.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").and_then(|()| over.read_to_end(&mut rest)).is_ok(),
        );
        stay.push(over);
    }
    // Who took longer than half a second, on a busy machine, may be late.
    let clean = ends.iter().filter(|&&clean| clean).count();
    assert!(clean >= OVER * 9 / 10, "{clean} of {OVER}");
    assert_eq!(within.get("/").status(), 200);
}

#[test]
fn a_client_over_its_own_limit_gets_503_and_others_are_served() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, &json!({ "connections_per_client": 2 }));
    let from = |address: [u8; 4]| Client::connect_from(address.into(), proxy.port);
    // Two workers: whoever of them accepts, the client's connections are counted together.
    for _ in 0..5 {
        let mut within = [from([127, 0, 0, 2]), from([127, 0, 0, 2])];
        for client in &mut within {
            assert_eq!(client.get("/").status(), 200);
        }
        let mut over = from([127, 0, 0, 2]);
        let answer = over.answer();
        assert_eq!(answer.status(), 503);
        assert!(answer.field("retry-after").is_some(), "{answer:?}");
        assert!(answer.list("proxy-status").contains("error=connection_limit_reached"), "{answer:?}");
        over.wait_for_end();
        let mut other = from([127, 0, 0, 3]);
        for client in within.iter_mut().chain([&mut other]) {
            assert_eq!(client.get("/").status(), 200);
        }
        drop((within, over, other));
        eventually("all have left", || proxy.status()["connections"]["open"] == 0);
    }
    assert_eq!(proxy.status()["failures"]["client_connection_limit"], 5);
    assert_eq!(proxy.status()["failures"]["connection_limit"], 0);
}

#[test]
fn an_answer_whose_head_is_too_large_is_a_502() {
    let origin = Origin::start(|exchange| match exchange.request.target() {
        "/large" => exchange.answer_with(200, &[&format!("X: {}", "x".repeat(100_000))], "ok"),
        _ => exchange.answer_with(200, &["X: 1"; 100], "ok"),
    });
    let proxy = Proxy::over(&[&origin]);
    for (target, reason) in [("/large", "response_head_too_large"), ("/many", "response_too_many_fields")] {
        let answer = proxy.get(target);
        assert_eq!(answer.status(), 502, "{target}");
        assert!(answer.list("proxy-status").contains("error=http_response_header_section_size"), "{answer:?}");
        assert_eq!(proxy.status()["failures"][reason], 1);
    }
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
    assert_eq!(proxy.status()["failures"]["client_write_stalled"], 1);
}

#[test]
fn what_can_not_be_served_gets_501() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    refused(&proxy, &origin, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 501, "not_implemented");
}
