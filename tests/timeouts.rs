//! Deadlines towards backends, and of clients that have half left. Those of requests are in `limits.rs`, of idle
//! connections in `keep_alive.rs`.

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};
use support::{Exchange, Origin, Proxy, eventually};

/// The address of a listener that accepts nothing and whose queue is full, so that to connect there takes for ever; and
/// the sockets that keep it so.
fn crowded() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, support::free_port())).into()).expect("free");
    listener.listen(0).expect("bound");
    let address = listener.local_addr().expect("bound").as_socket().expect("IPv4");
    let mut sockets = vec![listener];
    // The queue holds one or two; whoever comes then gets no answer to its SYN.
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        sockets.push(stream.into());
    }
    (address, sockets)
}

#[test]
fn a_backend_that_takes_no_connection_is_a_504_in_time() {
    let (address, _sockets) = crowded();
    let proxy = Proxy::with(
        &[],
        json!({
            "backends": [format!("http://{}", address)],
            "health_check": {"timeout": "30s"},
            "timeouts": {"connect": "400ms"},
            "retries": {"attempts": 1},
        }),
    );
    let began = Instant::now();
    let answer = proxy.get("/");
    let took = began.elapsed();
    assert_eq!(answer.status(), 504, "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=connection_timeout"), "{answer:?}");
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(proxy.status()["failures"]["connect_timeout"], 1);
}

#[test]
fn an_answer_that_stalls_is_cut_in_time() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        exchange.wait_for_end();
    });
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"body_idle": "400ms"} }));
    let mut client = proxy.client();
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer_head();
    assert_eq!(client.rest(), b"hello");
    let took = began.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(proxy.status()["failures"]["response_body_timeout"], 1);
}

#[test]
fn the_request_of_a_client_that_has_half_left_is_given_up_in_time() {
    let origin = Origin::start(Exchange::wait_for_end);
    let proxy = Proxy::with(&[&origin], json!({ "timeouts": {"half_closed": "400ms"} }));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").finish();
    let took = client.wait_for_end();
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&took), "{took:?}");
    eventually("nothing is in flight", || proxy.in_flight(&origin) == 0);
    assert_eq!(proxy.status()["failures"]["client_gone"], 1);
}
