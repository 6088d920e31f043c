//! Upgrades: after a 101 the connection is a tunnel of bytes.

mod support;

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::{Client, Exchange, Origin, Proxy, eventually};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn switch_and_echo(exchange: &mut Exchange) {
    exchange.send(SWITCH);
    exchange.echo();
}

#[track_caller]
fn upgraded(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    let answer = client.send(ASK).answer_head();
    assert_eq!(answer.status(), 101, "{answer:?}");
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert_eq!(answer.list("connection").to_ascii_lowercase(), "upgrade");
    client
}

#[test]
fn bytes_pass_both_ways_and_in_turn() {
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::over(&[&origin]);
    let mut client = upgraded(&proxy);
    for message in ["ping", "\0\u{1}\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(client.send(message).read_bytes(message.len()), message.as_bytes());
    }
    let seen = origin.only_request();
    assert_eq!(seen.field("upgrade"), Some("websocket"));
    assert_eq!(seen.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
}

#[test]
fn megabytes_pass_both_ways_at_once() {
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::over(&[&origin]);
    let mut client = upgraded(&proxy);
    let sent: Vec<u8> = (0..4_000_000_u32).map(|i| (i.wrapping_mul(40_503) >> 9) as u8).collect();
    let (mut writer, bytes) = (client.writer(), sent.clone());
    let sending = thread::spawn(move || writer.write_all(&bytes));
    assert!(client.read_bytes(sent.len()) == sent, "other bytes came back than were sent");
    sending.join().expect("no panic").expect("the tunnel takes it all");
}

#[test]
fn bytes_right_behind_the_request_and_the_101_arrive() {
    let origin = Origin::start(|exchange| {
        exchange.send(format!("{SWITCH}first"));
        exchange.echo();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    client.send(format!("{ASK}eager"));
    assert_eq!(client.answer_head().status(), 101);
    assert_eq!(client.read_bytes(10), b"firsteager");
}

#[test]
fn a_tunnel_counts_as_in_flight_until_it_ends() {
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::over(&[&origin]);
    let client = upgraded(&proxy);
    assert_eq!(proxy.in_flight(&origin), 1);
    drop(client);
    eventually("the tunnel's end is noticed", || proxy.in_flight(&origin) == 0);
}

#[test]
fn the_tunnel_ends_when_the_backend_ends_it() {
    let origin = Origin::start(|exchange| {
        exchange.send(format!("{SWITCH}bye"));
        exchange.close();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = upgraded(&proxy);
    assert_eq!(client.rest(), b"bye");
}

#[test]
fn a_client_that_stops_sending_still_hears_the_rest() {
    let origin = Origin::start(|exchange| {
        exchange.send(SWITCH);
        exchange.echo();
        exchange.close();
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = upgraded(&proxy);
    client.send("last words").finish();
    assert_eq!(client.rest(), b"last words");
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Origin::start(|exchange| exchange.answer(426, "no"));
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    assert_eq!(client.send(ASK).answer().status(), 426);
    assert_eq!(client.get("/").status(), 426);
}

#[test]
fn a_101_that_nobody_asked_for_is_an_error() {
    let origin = Origin::start(|exchange| {
        exchange.send(SWITCH);
        exchange.wait_for_end();
    });
    let proxy = Proxy::over(&[&origin]);
    assert_eq!(proxy.get("/").status(), 502);
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_closed_in_time() {
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"tunnel_idle": "400ms"} }));
    let mut client = upgraded(&proxy);
    assert_eq!(client.send("a").read_bytes(1), b"a");
    let idle = client.wait_for_end();
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&idle), "closed after {idle:?}");
    assert_eq!(proxy.status()["failures"]["tunnel_idle"], 1);
}

#[test]
fn h2c_is_not_passed_on() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    assert_eq!(proxy.client().send(ask).answer().status(), 200);
    assert_eq!(origin.only_request().field("upgrade"), None);
    assert_eq!(origin.only_request().field("http2-settings"), None);
}

/// Says 101 as soon as it has a request's head, then takes the request's body, and echoes what comes behind it.
fn switch_at_once(exchange: &mut Exchange) {
    exchange.send(format!("{SWITCH}first"));
    exchange.read_body();
    exchange.echo();
}

#[test]
fn a_101_in_the_middle_of_a_body_begins_a_tunnel_behind_its_end() {
    let ask = ASK.strip_suffix("\r\n").expect("a head").replace("GET", "POST");
    let long: Vec<u8> = (0..12_000_000_u32).map(|i| (i.wrapping_mul(40_503) >> 9) as u8).collect();
    let of_length = |body: &[u8]| (format!("{ask}Content-Length: {}\r\n\r\n", body.len()), body.to_vec());
    let in_chunks = |body: &[u8]| {
        let mut bytes: Vec<u8> = Vec::new();
        for chunk in body.chunks(50_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        (format!("{ask}Transfer-Encoding: chunked\r\n\r\n"), bytes)
    };
    for body in [&long[..10], &long[..60_000], &long] {
        for (head, bytes) in [of_length(body), in_chunks(body)] {
            let origin = Origin::with_small_window(switch_at_once);
            let proxy = Proxy::over(&[&origin]);
            let mut client = proxy.client();
            // The switch comes within the body, and within a chunk.
            let (half, rest) = bytes.split_at(5);
            assert_eq!(client.send(&head).send(half).answer_head().status(), 101);
            assert_eq!(client.read_bytes(5), b"first");
            let (mut writer, rest) = (client.writer(), [rest, b"TUNNEL"].concat());
            let sending = thread::spawn(move || writer.write_all(&rest));
            assert_eq!(client.read_bytes(6), b"TUNNEL", "{} bytes", body.len());
            sending.join().expect("no panic").expect("all is taken");
            assert!(origin.only_request().body == body, "another body came than {} bytes", body.len());
        }
    }
}

#[test]
fn no_tunnel_begins_behind_half_a_body() {
    let ask = ASK.strip_suffix("\r\n").expect("a head").replace("GET", "POST");
    for (framing, rest) in [
        ("Content-Length: 10\r\n\r\nhello", ""),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ""),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "no chunk at all\r\n"),
    ] {
        let (told, outcome) = std::sync::mpsc::channel();
        let origin = Origin::start(move |exchange| {
            exchange.send(SWITCH);
            exchange.read_body();
            let _ = told.send(exchange.request.complete);
        });
        let proxy = Proxy::over(&[&origin]);
        let mut client = proxy.client();
        assert_eq!(client.send(format!("{ask}{framing}")).answer_head().status(), 101);
        client.send(rest);
        if rest.is_empty() {
            client.finish();
        }
        assert_eq!(outcome.recv_timeout(support::PATIENCE), Ok(false), "{framing:?}");
        eventually("the exchange is over", || proxy.in_flight(&origin) == 0);
    }
}

#[test]
fn a_switch_is_passed_on_only_to_a_protocol_that_was_offered() {
    let ask = |offers: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {offers}\r\n\r\n");
    for (offers, fields, status) in [
        ("websocket", "Connection: Upgrade\r\nUpgrade: websocket\r\n", 101),
        ("websocket", "Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n", 101),
        ("a/1, a/2", "Connection: Upgrade\r\nUpgrade: a/2\r\n", 101),
        ("a/1, a/2", "Connection: Upgrade\r\nUpgrade: a\r\n", 101),
        ("tls/1.2", "Connection: Upgrade\r\nUpgrade: TLS/1.2, HTTP/1.1\r\n", 101),
        ("websocket", "", 502),
        ("websocket", "Upgrade: websocket\r\n", 502),
        ("websocket", "Connection: Upgrade\r\n", 502),
        ("websocket", "Connection: Upgrade\r\nUpgrade: \r\n", 502),
        ("websocket", "Connection: Upgrade\r\nUpgrade: foo\r\n", 502),
        ("websocket", "Connection: Upgrade\r\nUpgrade: web\r\n", 502),
        ("websocket", "Connection: Upgrade\r\nUpgrade: websocket, foo\r\n", 502),
        ("websocket", "Connection: Upgrade\r\nUpgrade: h2c\r\n", 502),
        ("websocket", "Connection: Upgrade\r\nUpgrade: HTTP/1.1\r\n", 502),
        ("a/1, a/2", "Connection: Upgrade\r\nUpgrade: a/3\r\n", 502),
    ] {
        let origin = Origin::start(move |exchange| {
            exchange.send(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n"));
            exchange.wait_for_end();
        });
        let proxy = Proxy::over(&[&origin]);
        let answer = proxy.client().send(ask(offers)).answer_head();
        assert_eq!(answer.status(), status, "{fields:?} to one that offers {offers}");
    }
}
