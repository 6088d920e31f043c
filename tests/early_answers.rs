//! Answers that come before their request's end: the rest of the request goes on to a backend that goes on to read, and is cut
//! where the backend closes.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::thread;

use serde_json::json;
use support::{Gate, Origin, Proxy, eventually};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// The bytes of a body in chunks with a trailer.
fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(30_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\nX-Sum: 42\r\n\r\n");
    bytes
}

#[test]
fn an_upload_goes_on_behind_its_answer_and_both_connections_are_used_again() {
    for (status, answered) in [(200, "2\r\n\r\nok"), (413, "2\r\n\r\nno"), (404, "0\r\n\r\n")] {
        for (length, chunks) in [(100, false), (200_000, false), (3_000_000, false), (200_000, true)] {
            let (told, places) = std::sync::mpsc::channel();
            let origin = Origin::with_small_window(move |exchange| {
                let _ = told.send(exchange.on_connection);
                if exchange.request.method() == "GET" {
                    return exchange.answer(200, "next");
                }
                exchange.send(format!("HTTP/1.1 {status} Early\r\nContent-Length: {answered}"));
                exchange.read_body();
            });
            let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
            let mut client = proxy.client();
            let body = pattern(length);
            let (framing, bytes) = if chunks {
                ("Transfer-Encoding: chunked".to_owned(), chunked(&body))
            } else {
                (format!("Content-Length: {length}"), body.clone())
            };
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).send(&bytes[..50]);
            let answer = client.answer();
            assert_eq!((answer.status(), answer.list("connection").as_str()), (status, ""), "{length} bytes");
            // The rest, and the next request right behind it.
            let rest = [&bytes[50..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let mut writer = client.writer();
            let sending = thread::spawn(move || writer.write_all(&rest));
            assert_eq!(client.answer().text(), "next", "{length} bytes");
            sending.join().expect("no panic").expect("all is taken");
            let [first, second] = &origin.requests()[..] else { panic!("two requests") };
            assert!(first.complete && first.body == body, "{} of {length} bytes came", first.body.len());
            assert_eq!(first.trailers.len(), usize::from(chunks));
            assert_eq!(second.method(), "GET");
            let places: Vec<usize> = places.try_iter().collect();
            assert_eq!(places, [0, 1], "the backend's connection is used again");
            eventually("the exchanges are over", || proxy.in_flight(&origin) == 0);
        }
    }
}

#[test]
fn an_upload_whose_backend_closes_or_reads_no_more_ends_with_its_answer() {
    let rest_comes = Arc::new(Gate::default());
    for says_close in [true, false] {
        let gate = Arc::clone(&rest_comes);
        let origin = Origin::start(move |exchange| {
            let close = if says_close { "Connection: close\r\n" } else { "" };
            exchange.send(format!("HTTP/1.1 413 Early\r\n{close}Content-Length: 2\r\n\r\nno"));
            gate.wait();
            exchange.close();
        });
        let proxy = Proxy::over(&[&origin]);
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nhello");
        let answer = client.answer();
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.list("connection"), if says_close { "close" } else { "" });
        rest_comes.open();
        let mut writer = client.writer();
        thread::scope(|scope| {
            scope.spawn(move || while writer.write_all(&[b'x'; 10_000]).is_ok() {});
            client.wait_for_end();
            eventually("the exchange is over", || proxy.in_flight(&origin) == 0);
            client.reset();
        });
        assert!(!origin.only_request().complete, "half a body isn't passed off as whole");
    }
}

#[test]
fn an_upload_that_stalls_behind_its_answer_ends_in_time() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 Early\r\nContent-Length: 2\r\n\r\nok");
        exchange.read_body();
    });
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": { "body_idle": "400ms" } }));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    assert_eq!(client.answer().status(), 200);
    client.wait_for_end();
    eventually("the exchange is over", || proxy.in_flight(&origin) == 0);
    let shown = proxy.admin("GET", &format!("/backends/127.0.0.1:{}", origin.port()), "").json();
    assert_eq!((&shown["totals"]["answered"], &shown["totals"]["abandoned"]), (&json!(1), &json!(0)));
}

#[test]
fn who_waits_for_a_100_and_is_answered_sends_no_body() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 401 Early\r\nContent-Length: 2\r\n\r\nno");
        exchange.wait_for_end();
    });
    let proxy = Proxy::over(&[&origin]);
    let ask = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n";
    let answer = proxy.client().send(ask).answer();
    assert_eq!((answer.status(), answer.list("connection").as_str()), (401, "close"));
    eventually("the exchange is over", || proxy.in_flight(&origin) == 0);
}
