//! Bodies of any size, both ways, never passed off as whole when they aren't.

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;

use serde_json::json;
use support::{Client, Gate, Origin, Proxy, ScriptFn, curl, eventually};

/// So many bytes that are different at every position that matters.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn chunked(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in bytes.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Sends back each piece of the body as it comes.
fn body_echo() -> Origin {
    Origin::with_small_window(|exchange| {
        let length: usize = exchange.request.field("content-length").expect("a length").parse().expect("a number");
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
        let (mut left, mut buffer) = (length, vec![0; 16 * 1024]);
        while left > 0 {
            let count = exchange.read(&mut buffer);
            if count == 0 || !exchange.send(&buffer[..count]) {
                return;
            }
            left -= count;
        }
        exchange.close();
    })
}

#[test]
fn a_big_body_streams_both_ways_at_once_through_small_windows() {
    let origin = body_echo();
    let proxy = Proxy::over(&[&origin]);
    let sent = pattern(4_000_000);
    let mut client = Client::with_small_window(proxy.port).expect("the proxy listens");
    let mut writer = client.writer();
    let body = sent.clone();
    let sending = thread::spawn(move || {
        write!(writer, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())?;
        writer.write_all(&body)
    });
    let answer = client.answer();
    sending.join().expect("no panic").expect("the proxy takes it all");
    assert!(answer.complete, "{} of {} bytes", answer.body.len(), sent.len());
    assert!(answer.body == sent, "other bytes came back than were sent");
}

#[test]
fn a_chunked_body_arrives_whole_whatever_the_size_of_its_chunks() {
    let origin = Origin::start(|exchange| {
        let body = exchange.read_body().to_vec();
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        exchange.send(chunked(&body, 7777));
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    for (length, size) in [(0, 1), (1, 1), (5000, 1), (300_000, 65_536), (1_000_000, 12_345)] {
        let body = pattern(length);
        let mut writer = client.writer();
        let bytes = chunked(&body, size);
        let sending = thread::spawn(move || {
            writer.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            writer.write_all(&bytes)
        });
        let answer = client.answer();
        sending.join().expect("no panic").expect("the proxy takes it all");
        assert!(
            answer.complete && answer.body == body,
            "{length} bytes in chunks of {size}: {} came",
            answer.body.len()
        );
    }
}

#[test]
fn curl_moves_megabytes_up_and_down() {
    let origin = Origin::start(|exchange| {
        let body = exchange.read_body().to_vec();
        exchange.answer(200, body);
    });
    let proxy = Proxy::over(&[&origin]);
    let folder = support::proxy::empty_folder();
    let (up, down) = (folder.join("up"), folder.join("down"));
    std::fs::write(&up, pattern(20_000_000)).expect("writable");
    for way in [&["-H", "Transfer-Encoding: chunked"][..], &[][..]] {
        let body = format!("@{}", up.display());
        let fixed = ["--fail", "--data-binary", &body, "--output", down.to_str().expect("UTF-8"), &proxy.url("/")];
        let output = curl(&[way, &fixed[..]].concat());
        assert!(output.status.success(), "{output:?}");
        assert!(std::fs::read(&up).expect("there") == std::fs::read(&down).expect("there"), "other bytes came back");
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::start(|exchange| {
        exchange.read_body();
        exchange.send(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 99\r\n\r\n",
        );
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Check: 42\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "99".to_owned())]);
    assert_eq!(origin.only_request().trailers, [("X-Check".to_owned(), "42".to_owned())]);
}

#[test]
fn the_first_piece_of_an_answer_does_not_wait_for_the_next() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        held.wait();
        exchange.send("6\r\nsecond\r\n0\r\n\r\n");
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer_head();
    assert_eq!(client.read_bytes(10), b"5\r\nfirst\r\n");
    gate.open();
    assert_eq!(client.read_bytes(16), b"6\r\nsecond\r\n0\r\n\r\n"[..16]);
}

#[test]
fn the_first_piece_of_a_request_does_not_wait_for_the_next() {
    let origin = Origin::start(|exchange| {
        let mut piece = [0; 5];
        let count = exchange.read(&mut piece);
        exchange.send(format!("HTTP/1.1 103 Early Hints\r\nX-Got: {count}\r\n\r\n"));
        exchange.read(&mut piece);
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        exchange.close();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst");
    assert_eq!(client.next_head().field("x-got"), Some("5"));
    assert_eq!(client.send("other").answer().status(), 200);
}

#[test]
fn a_body_cut_by_its_backend_never_looks_whole() {
    let scripts: [(&str, ScriptFn); 4] = [
        ("length, close", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            exchange.close();
        }),
        ("length, reset", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            exchange.reset();
        }),
        ("chunked, close", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            exchange.close();
        }),
        ("chunked, reset", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            exchange.reset();
        }),
    ];
    for (name, script) in scripts {
        let origin = Origin::start(script);
        let proxy = Proxy::over(&[&origin]);
        let mut client = proxy.client();
        let rest = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest();
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.ends_with("0\r\n\r\n"), "{name}: it ends as if complete: {text:?}");
        assert!(!text.contains("Content-Length: 5\r\n"), "{name}: {text:?}");
        assert_eq!(origin.count(), 1, "{name}: an answer that has begun is not asked for again");
    }
}

#[test]
fn a_body_that_lasts_until_the_close_looks_cut_after_a_reset() {
    let origin = Origin::start(|exchange| {
        exchange.read_body();
        exchange.send("HTTP/1.0 200 OK\r\n\r\nhalf");
        exchange.reset();
    });
    let proxy = Proxy::over(&[&origin]);
    let rest = proxy.client().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
}

#[test]
fn a_request_cut_by_its_client_never_looks_whole_to_the_backend() {
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let (told, outcome) = std::sync::mpsc::channel();
        let origin = Origin::start(move |exchange| {
            exchange.read_body();
            let _ = told.send(exchange.request.complete);
        });
        let proxy = Proxy::over(&[&origin]);
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}"));
        eventually("the request reaches the origin", || origin.count() == 1);
        client.reset();
        assert_eq!(outcome.recv_timeout(support::PATIENCE), Ok(false), "{framing:?}");
    }
}

#[test]
fn no_more_of_a_body_is_taken_than_its_reader_takes() {
    let (told, progress) = std::sync::mpsc::channel();
    let origin = Origin::start(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n");
        let piece = vec![7; 64 * 1024];
        while exchange.send(&piece) {
            let _ = told.send(piece.len());
        }
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = Client::with_small_window(proxy.port).expect("the proxy listens");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer_head();
    // Nobody reads on: the origin must come to a stop within what buffers and windows hold.
    let mut taken = 0;
    while let Ok(count) = progress.recv_timeout(std::time::Duration::from_millis(500)) {
        taken += count;
        assert!(taken < 20_000_000, "the proxy hoards the body");
    }
}

#[test]
fn expect_100_continue_is_between_client_and_backend() {
    let origin = Origin::start(|exchange| {
        assert_eq!(exchange.request.field("expect"), Some("100-continue"));
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
        exchange.answer(200, "thanks");
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.next_head().status(), 100);
    assert_eq!(client.send("hello").answer().text(), "thanks");
    assert_eq!(origin.only_request().text(), "hello");
}

#[test]
fn a_backend_may_refuse_instead_of_saying_continue() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        exchange.close();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    let answer =
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").answer();
    assert_eq!((answer.status(), answer.text()), (403, "no".to_owned()));
    assert!(answer.interim.is_empty(), "the proxy made up a 100: {answer:?}");
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 4\r\n\r\nstop");
        exchange.wait_for_end();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbeginning");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text()), (413, "stop".to_owned()));
}

#[test]
fn interim_answers_pass_to_those_who_know_them() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        exchange.answer(200, "ok");
    });
    let proxy = Proxy::over(&[&origin]);
    let answer = proxy.get("/");
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.interim.len(), 1);
    assert_eq!(answer.interim[0].field("link"), Some("</a.css>"));
    let answer = proxy.client().send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").answer();
    assert!(answer.interim.is_empty(), "HTTP/1.0 knows no 1xx (RFC 9110 §15.2): {answer:?}");
}

#[test]
fn answers_without_a_body_keep_the_connection_in_step() {
    let origin = Origin::start(|exchange| match exchange.request.target() {
        "/204" => drop(exchange.send("HTTP/1.1 204 No Content\r\n\r\n")),
        "/304" => drop(exchange.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"a\"\r\n\r\n")),
        "/head" => drop(exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")),
        _ => exchange.answer(200, "ok"),
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    assert_eq!(client.get("/204").status(), 204);
    assert_eq!(client.get("/304").field("etag"), Some("\"a\""));
    let answer = client.send("HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n").answer_to("HEAD");
    assert_eq!(answer.field("content-length"), Some("12345"));
    assert_eq!(client.get("/").text(), "ok");
}

#[test]
fn a_backend_that_hangs_is_given_up_in_time() {
    let origin = Origin::start(support::Exchange::wait_for_end);
    let proxy = Proxy::with(&[&origin], json!({ "request_timeout": "300ms" }));
    let answer = proxy.get("/");
    assert_eq!(answer.status(), 504);
    assert!(answer.list("proxy-status").contains("error=http_response_timeout"), "{answer:?}");
    assert_eq!(origin.count(), 1, "a request that timed out is not sent again");
}

#[test]
fn a_backend_that_closes_or_babbles_gets_a_502() {
    let scripts: [(&str, ScriptFn); 3] = [
        ("connection_terminated", support::Exchange::close),
        ("connection_terminated", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Le");
            exchange.close();
        }),
        ("http_protocol_error", |exchange| {
            exchange.send("SSH-2.0-OpenSSH_9.2\r\n\r\n");
            exchange.wait_for_end();
        }),
    ];
    for (error, script) in scripts {
        let origin = Origin::start(script);
        let proxy = Proxy::over(&[&origin]);
        let answer = proxy.client().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
        assert_eq!(answer.status(), 502);
        assert!(answer.list("proxy-status").contains(&format!("error={error}")), "wanted {error}: {answer:?}");
    }
}

#[test]
fn a_client_that_leaves_ends_its_request_at_the_backend() {
    let (told, ended) = std::sync::mpsc::channel();
    let origin = Origin::start(move |exchange| {
        exchange.wait_for_end();
        let _ = told.send(());
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request reaches the origin", || origin.count() == 1);
    client.reset();
    // Well before request_timeout, 10 s, would end it.
    ended.recv_timeout(std::time::Duration::from_secs(5)).expect("the proxy gives the request up");
    eventually("nothing is in flight", || proxy.in_flight(&origin) == 0);
}

#[test]
fn a_client_that_only_stops_sending_still_gets_its_answer() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |exchange| {
        held.wait();
        exchange.answer(200, "still here");
    });
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"half_closed": "5s"} }));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").finish();
    eventually("the request reaches the origin", || origin.count() == 1);
    gate.open();
    assert_eq!(client.answer().text(), "still here");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("a close in good order");
}
