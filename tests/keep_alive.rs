//! Connections that carry more than one request, on both sides of the proxy.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Origin, Proxy};

/// Answers with the request's target.
fn parrot() -> Origin {
    Origin::start(|exchange| {
        let target = exchange.request.target().to_owned();
        exchange.answer(200, target);
    })
}

#[test]
fn one_connection_serves_many_requests_over_few_backend_connections() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    let before = origin.connections();
    let mut client = proxy.client();
    for i in 0..50 {
        assert_eq!(client.get(&format!("/{i}")).text(), format!("/{i}"));
    }
    // One from the worker's pool; a probe may have made another.
    assert!(origin.connections() - before <= 2, "{} connections for 50 requests", origin.connections() - before);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    let requests: Vec<_> = (0..30).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests.concat());
    for i in 0..30 {
        assert_eq!(client.answer().text(), format!("/{i}"));
    }
}

#[test]
fn a_request_right_behind_a_body_is_served_next() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send(
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
         POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let answers: Vec<_> = (0..3).map(|_| client.answer().text()).collect();
    assert_eq!(answers, ["/1", "/2", "/3"]);
    let bodies: Vec<_> = origin.requests().iter().map(support::Message::text).collect();
    assert_eq!(bodies, ["hello", "world", ""]);
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    for _ in 0..2 {
        for byte in b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" {
            client.send([*byte]);
        }
        assert_eq!(client.answer().text(), "/slow");
    }
}

#[test]
fn close_is_obeyed_and_said() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    let answer = client.send("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").answer();
    assert_eq!(answer.text(), "/a");
    assert_eq!(answer.list("connection"), "close");
    client.wait_for_end();
}

#[test]
fn nothing_behind_a_close_is_served() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "/1");
    client.wait_for_end();
    assert_eq!(origin.only_request().target(), "/1");
}

#[test]
fn http_1_0_closes_unless_it_asks_to_stay() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    assert_eq!(client.send("GET /a HTTP/1.0\r\nHost: a\r\n\r\n").answer().text(), "/a");
    client.wait_for_end();

    let mut client = proxy.client();
    for target in ["/1", "/2"] {
        let answer =
            client.send(format!("GET {target} HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: a\r\n\r\n")).answer();
        assert_eq!(answer.text(), target);
        assert_eq!(answer.list("connection").to_ascii_lowercase(), "keep-alive");
        assert!(answer.field("content-length").is_some(), "a body of no known length could not stay: {answer:?}");
    }
}

#[test]
fn http_1_0_gets_no_chunks() {
    let origin = Origin::start(|exchange| {
        exchange.read_body();
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    let answer = client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").answer();
    assert_eq!(answer.field("transfer-encoding"), None);
    assert_eq!(answer.text(), "hello world");
}

#[test]
fn a_backend_that_closes_does_not_close_the_client() {
    let origin = Origin::start(|exchange| {
        exchange.answer_with(200, &["Connection: close"], "ok");
        exchange.close();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    for _ in 0..5 {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        assert_ne!(answer.list("connection"), "close");
    }
}

#[test]
fn a_backend_that_speaks_http_1_0_is_understood() {
    let origin = Origin::start(|exchange| {
        exchange.read_body();
        exchange.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
        exchange.close();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert!(answer.start.starts_with("HTTP/1.1 200"), "{answer:?}");
        assert_eq!(answer.text(), "until the end");
        assert!(answer.complete);
    }
}

#[test]
fn an_idle_client_connection_is_closed_in_time() {
    let origin = parrot();
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"keep_alive": "300ms"} }));
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    let idle = client.wait_for_end();
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&idle), "closed after {idle:?}");
}

#[test]
fn an_idle_backend_connection_is_closed_in_time_and_not_used_again() {
    let (ended, when_ended) = std::sync::mpsc::channel();
    let origin = Origin::start(move |exchange| {
        exchange.answer(200, "ok");
        if exchange.nth == 0 {
            let began = std::time::Instant::now();
            exchange.wait_for_end();
            let _ = ended.send(began.elapsed());
        }
    });
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"upstream_keep_alive": "300ms"} }));
    let mut client = proxy.client();
    assert_eq!(client.get("/1").status(), 200);
    let idle = when_ended.recv_timeout(support::PATIENCE).expect("the proxy closes it");
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&idle), "closed after {idle:?}");
    assert_eq!(client.get("/2").status(), 200);
}

#[test]
fn a_backend_that_says_when_it_closes_gets_no_request_in_its_last_second() {
    // What it says, and whether its connection serves a second request right away, and one 1.2 s later.
    for (says, soon, later) in [
        ("Keep-Alive: timeout=2", true, false),
        ("keep-alive: max=7, Timeout=2\r\nConnection: keep-alive", true, false),
        ("Keep-Alive: timeout=60", true, true),
        ("Keep-Alive: timeout=2x", true, true),
        ("Keep-Alive: timeout=1", false, false),
        ("Keep-Alive: timeout=0", false, false),
        ("Keep-Alive: timeout=60, max=0", false, false),
    ] {
        let origin = Origin::start(move |exchange| {
            let count = exchange.on_connection.to_string();
            exchange.answer_with(200, &[says], count);
        });
        let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
        let mut client = proxy.client();
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(client.send(post).answer().text(), "0");
        let answer = client.send(post).answer();
        assert_eq!(answer.text() == "1", soon, "{says}: {answer:?}");
        assert!(answer.field("keep-alive").is_none(), "it is the backend's own: {answer:?}");
        // Time itself is what is waited for.
        std::thread::sleep(Duration::from_millis(1_200));
        assert_eq!(client.send(post).answer().text() == "2", later, "{says}");
    }
}

#[test]
fn the_kernel_asks_silent_peers_on_both_sides_whether_they_are_still_there() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
        exchange.echo();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.answer_head().status(), 101);
    // The timer of an idle connection that the kernel keeps alive, by the proxy's port as the remote one's.
    let is_asked = |local: Option<u16>, remote: Option<u16>| {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("readable");
        let ends_with =
            |column: &str, port: Option<u16>| port.is_none_or(|port| column.ends_with(&format!(":{port:04X}")));
        sockets.lines().skip(1).any(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            ends_with(columns[1], local)
                && ends_with(columns[2], remote)
                && columns[3] == "01"
                && columns[5].starts_with("02:")
        })
    };
    support::eventually("its client is asked", || is_asked(Some(proxy.port), None));
    support::eventually("its backend is asked", || is_asked(None, Some(origin.port())));
}

#[test]
fn a_connection_may_carry_only_so_many_requests() {
    let origin = parrot();
    let proxy = Proxy::with(&[&origin], json!({ "limits": {"requests_per_connection": 3} }));
    let mut client = proxy.client();
    assert_ne!(client.get("/1").list("connection"), "close");
    assert_ne!(client.get("/2").list("connection"), "close");
    assert_eq!(client.get("/3").list("connection"), "close");
    client.wait_for_end();
    // The proxy's own answers count as well.
    assert_eq!(proxy.mutate("DELETE", &origin).status(), 204);
    let mut client = proxy.client();
    for last in [false, false, true] {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.list("connection") == "close"), (503, last), "{answer:?}");
    }
    client.wait_for_end();
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    let origin = parrot();
    let proxy = Proxy::over(&[&origin]);
    assert_eq!(
        proxy.client().send("\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n").answer().text(),
        "/a",
        "RFC 9112 §2.2"
    );
}
