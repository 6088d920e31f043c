use std::io::Read;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A server that answers with what it was asked, and a way to talk to it byte by byte.
fn serve(bounds: Bounds) -> Serving {
    let echo = |call: &Call| match call.path.as_str() {
        "/panic" => panic!("asked to"),
        "/empty" => Answer::empty(204),
        _ => Answer::text(200, format!("{}|{}", call.request_line(), String::from_utf8_lossy(&call.body))),
    };
    Server::bind("127.0.0.1:0".parse().unwrap()).unwrap().serve(echo, bounds).unwrap()
}

fn connect(serving: &Serving) -> TcpStream {
    let stream = TcpStream::connect(serving.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn say(serving: &Serving, bytes: &str) -> TcpStream {
    let mut stream = connect(serving);
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// Everything up to the end of the connection.
fn to_end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Everything up to and including `end`.
fn up_to(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end.as_bytes()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {text:?}"));
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

fn talk(bounds: Bounds, bytes: &str) -> String {
    let serving = serve(bounds);
    to_end(say(&serving, bytes))
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let text = talk(
        Bounds::default(),
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2?x=y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         PUT /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n\
         GET http://a/4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /5 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let places = ["GET /1 HTTP/1.1|", "POST /2?x=y HTTP/1.1|abc", "PUT /3 HTTP/1.1|def", "GET /4 HTTP/1.1|"]
        .map(|answer| text.find(answer).unwrap_or_else(|| panic!("no {answer:?} in {text}")));
    assert!(places.is_sorted(), "{text}");
    assert!(!text.contains("/5"), "{text}");
    assert_eq!(text.matches("Connection: close").count(), 1);
}

#[test]
fn bytes_that_come_one_by_one_make_the_same_request() {
    let serving = serve(Bounds::default());
    let mut stream = connect(&serving);
    stream.set_nodelay(true).unwrap();
    for byte in b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(to_end(stream).ends_with("POST / HTTP/1.1|hi"));
}

#[test]
fn a_client_of_http_1_0_is_kept_only_if_it_asks() {
    let text = talk(
        Bounds::default(),
        "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\nGET /3 HTTP/1.0\r\n\r\n",
    );
    assert!(text.contains("GET /1") && text.contains("GET /2") && !text.contains("GET /3"), "{text}");
    assert_eq!(text.matches("Connection: keep-alive").count(), 1);
    assert_eq!(text.matches("Connection: close").count(), 1);
}

#[test]
fn a_head_request_gets_the_head_alone_and_204_has_no_length() {
    let text = talk(
        Bounds::default(),
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /empty HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Length: 16"), "{head}");
    assert!(rest.starts_with("HTTP/1.1 204 No Content\r\n") && !rest.contains("Content-Length"), "{rest}");
}

#[test]
fn an_expected_100_is_sent_before_the_body_is_waited_for() {
    let serving = serve(Bounds::default());
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n";
    let mut stream = say(&serving, head);
    assert_eq!(up_to(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").unwrap();
    assert!(to_end(stream).ends_with("|ok"));
}

#[test]
fn bodies_over_the_bound_get_413_and_the_answer_arrives() {
    let bounds = Bounds { body_bytes: 1000, ..Bounds::default() };
    let serving = serve(bounds);
    // A client that sends on regardless must still be able to read the answer.
    let big = "x".repeat(500_000);
    let announced = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{big}", big.len());
    let chunked = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{big}", big.len());
    let waiting = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n".to_owned();
    for request in [announced, chunked, waiting] {
        let text = to_end(say(&serving, &request));
        assert!(text.starts_with("HTTP/1.1 413 Content Too Large\r\n"), "{text}");
        assert!(text.contains("Connection: close"), "{text}");
        assert!(text.contains("over 1000 bytes"), "{text}");
    }
    let fits = format!("POST / HTTP/1.0\r\nContent-Length: 1000\r\n\r\n{}", &big[..1000]);
    assert!(to_end(say(&serving, &fits)).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn what_is_malformed_is_refused_and_closed() {
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
        (&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000)), "414"),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "431"),
    ] {
        let text = talk(Bounds::default(), request);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}: {text}");
        assert!(text.contains("Connection: close"), "{text}");
        assert!(text.contains("application/problem+json"), "{text}");
    }
}

#[test]
fn a_panicking_handler_is_a_500_and_the_next_request_is_served() {
    let serving = serve(Bounds::default());
    let text = to_end(say(&serving, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
    let text = to_end(say(&serving, "GET / HTTP/1.0\r\n\r\n"));
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[test]
fn each_deadline_ends_what_it_is_for() {
    let short = Duration::from_millis(100);
    let bounds = Bounds { head: short, body: short, idle: short, ..Bounds::default() };
    assert_eq!(talk(bounds, ""), "", "nothing was asked, nothing is answered");
    let text = talk(bounds, "GET / HTTP/1.1\r\nHo");
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    let text = talk(bounds, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    let text = talk(bounds, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let bounds = Bounds { write: Duration::from_millis(100), ..Bounds::default() };
    let huge = |_: &Call| Answer::text(200, "x".repeat(64 * 1024 * 1024));
    let serving = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap().serve(huge, bounds).unwrap();
    let stream = say(&serving, "GET / HTTP/1.0\r\n\r\n");
    wait_for(|| serving.0.connections.lock().is_empty());
    drop(stream);
}

#[test]
fn one_connection_too_many_is_told_so() {
    let serving = serve(Bounds { connections: 1, ..Bounds::default() });
    let mut seated = say(&serving, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    up_to(&mut seated, "GET / HTTP/1.1|");
    let text = to_end(say(&serving, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    drop(seated);
    wait_for(|| to_end(say(&serving, "GET / HTTP/1.0\r\n\r\n")).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_taken_port_is_an_error_at_bind() {
    let serving = serve(Bounds::default());
    assert_eq!(Server::bind(serving.address()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

/// A server whose handler says when it runs, and waits to be let go.
fn gated() -> (Serving, Receiver<()>, Sender<()>) {
    let (enter, entered) = unbounded();
    let (go, gate) = unbounded::<()>();
    let wait = move |_: &Call| {
        let _ = enter.send(());
        let _ = gate.recv_timeout(SOON);
        Answer::text(200, "done")
    };
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (server.serve(wait, Bounds::default()).unwrap(), entered, go)
}

#[test]
fn stopping_ends_idle_connections_and_lets_the_request_in_progress_finish() {
    let (serving, entered, go) = gated();
    let idle = connect(&serving);
    let busy = say(&serving, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    entered.recv_timeout(SOON).unwrap();
    assert!(!serving.stop(Duration::from_millis(20)), "one request is in progress");
    assert_eq!(to_end(idle), "");
    assert!(TcpStream::connect(serving.address()).is_err(), "it still accepts");
    go.send(()).unwrap();
    let text = to_end(busy);
    assert!(text.contains("Connection: close") && text.ends_with("done"), "{text}");
    assert!(serving.stop(SOON));
}

fn wait_for(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < SOON, "it never came true");
        thread::yield_now();
    }
}
