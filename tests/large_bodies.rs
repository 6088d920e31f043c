//! Large bodies, which go from socket to socket through pipes of the kernel and not through the proxy's memory.

mod support;

use std::io::Write;
use std::sync::{LazyLock, Mutex, mpsc};
use std::thread;

use serde_json::json;
use support::{Client, Origin, Proxy, Tracer, eventually};

/// From here on a body goes through a pipe (`BODY_BYTES_MIN` in `src/runtime/pipe.rs`).
const LARGE: usize = 64 * 1024;
/// More than the sockets between origin and client hold.
const HUGE: usize = 16 * 1024 * 1024;
static HUGE_BODY: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(HUGE));

/// So many bytes that are different at every position that matters.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Answers with the body of the request.
fn mirror() -> Origin {
    Origin::start(|exchange| {
        let body = exchange.read_body().to_vec();
        exchange.answer(200, body);
    })
}

/// Answers with as many bytes of the pattern as the target names.
fn patterns() -> Origin {
    Origin::start(|exchange| {
        let length: usize = exchange.request.target()[1..].parse().expect("a length");
        exchange.answer(200, &HUGE_BODY[..length]);
    })
}

fn posted(body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// Sends from another thread, since the proxy takes no more than the other side does.
fn send_beside(client: &Client, bytes: Vec<u8>) -> thread::JoinHandle<std::io::Result<()>> {
    let mut writer = client.writer();
    thread::spawn(move || writer.write_all(&bytes))
}

#[test]
fn bodies_around_every_bound_arrive_whole_both_ways_over_one_connection() {
    let origin = mirror();
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    let mut client = proxy.client();
    for around in [LARGE, 2 * LARGE, 1 << 20, (1 << 20) + LARGE, 5 << 20] {
        for length in around - 1..=around + 1 {
            let body = pattern(length);
            let sending = send_beside(&client, posted(&body));
            let answer = client.answer();
            sending.join().expect("no panic").expect("the proxy takes it all");
            assert!(answer.complete && answer.body == body, "{length} bytes: {} came", answer.body.len());
        }
    }
    assert_eq!(origin.connections() - origin.probes(), 1, "the backend's connection stays in step too");
}

#[test]
fn a_request_right_behind_a_large_body_is_the_next_one() {
    let origin = mirror();
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    let bodies = [pattern(LARGE), b"small".to_vec(), pattern(LARGE + 1), b"last".to_vec()];
    let requests = bodies.iter().flat_map(|body| posted(body)).collect();
    let sending = send_beside(&client, requests);
    for body in bodies {
        let answer = client.answer();
        assert!(answer.body == body, "{} bytes: {} came", body.len(), answer.body.len());
    }
    sending.join().expect("no panic").expect("the proxy takes it all");
}

#[test]
fn a_large_body_passes_the_proxys_memory_by() {
    let origin = mirror();
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1, "health_check_frequency": "1h" }));
    let calls = "splice,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg";
    let Some(tracer) = Tracer::attach(&proxy, calls, None) else { return };
    let mut client = proxy.client();
    let moved = |splices: bool| -> usize {
        let calls = tracer.calls();
        let those = calls.lines().filter(|line| line.contains("splice(") == splices);
        those.filter_map(|line| line.rsplit_once("= ")?.1.parse::<usize>().ok()).sum()
    };
    for (length, piped) in [(LARGE - 1, false), (HUGE, true)] {
        let before = (moved(true), moved(false));
        let body = pattern(length);
        let sending = send_beside(&client, posted(&body));
        assert!(client.answer().body == body);
        sending.join().expect("no panic").expect("the proxy takes it all");
        // In and out, there and back.
        let all = 4 * length;
        eventually("the calls are written down", || moved(true) + moved(false) >= before.0 + before.1 + all);
        let (spliced, copied) = (moved(true) - before.0, moved(false) - before.1);
        println!("{length}: {spliced} spliced, {copied} copied");
        if piped {
            assert!(spliced > all - 2 * LARGE && copied < 2 * LARGE, "{spliced} spliced, {copied} copied");
        } else {
            assert_eq!(spliced, 0);
        }
    }
}

#[test]
fn where_there_is_no_pipe_or_it_does_not_work_bodies_are_copied() {
    for fault in ["pipe2:error=EMFILE", "splice:error=EINVAL"] {
        let origin = mirror();
        let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
        let name = fault.split(':').next().expect("a call");
        let Some(tracer) = Tracer::attach(&proxy, name, Some(fault)) else { return };
        let mut client = proxy.client();
        for _ in 0..2 {
            let body = pattern(3 << 20);
            let sending = send_beside(&client, posted(&body));
            assert!(client.answer().body == body, "{fault}");
            sending.join().expect("no panic").expect("the proxy takes it all");
        }
        assert!(tracer.calls().contains("INJECTED"), "{fault} was never met");
    }
}

#[test]
fn a_slow_reader_gets_its_body_whole_and_keeps_no_pipe() {
    const SLOW: usize = 6;
    let origin = patterns();
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    let inherited = proxy.pipes();
    let mut clients = Vec::new();
    for nth in 1..=SLOW {
        let mut client = Client::with_small_window(proxy.port).expect("the proxy listens");
        client.send(format!("GET /{HUGE} HTTP/1.1\r\nHost: a\r\n\r\n")).answer_head();
        eventually("its exchange is laid aside", || proxy.laid_aside() >= nth);
        clients.push(client);
    }
    let pipes = proxy.pipes() - inherited;
    assert!((1..SLOW).contains(&pipes), "{pipes} pipes for {SLOW} slow readers, one after another");
    for client in &mut clients {
        assert!(client.read_bytes(HUGE) == *HUGE_BODY);
    }
    let answer = clients[0].get("/1");
    assert_eq!(answer.body, HUGE_BODY[..1], "the connection is in step");
    eventually("the last one has left the count", || proxy.in_flight(&origin) == 0);
}

#[test]
fn a_slow_backend_gets_its_body_whole() {
    let (told, release) = mpsc::channel::<()>();
    let held = Mutex::new(release);
    let origin = Origin::with_small_window(move |exchange| {
        let _ = held.lock().expect("not poisoned").recv_timeout(support::PATIENCE);
        let body = exchange.read_body().to_vec();
        exchange.answer(200, body);
    });
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    let inherited = proxy.pipes();
    let mut client = proxy.client();
    let sending = send_beside(&client, posted(&HUGE_BODY));
    eventually("the request is on its way", || origin.count() == 1);
    // The pipe is there when the body moves, and empty when its wait has become a long one: nobody can see which.
    eventually("the body is on its way", || proxy.pipes() > inherited);
    told.send(()).expect("the origin waits");
    assert!(client.answer().body == *HUGE_BODY);
    sending.join().expect("no panic").expect("the proxy takes it all");
}

#[test]
fn a_large_body_that_its_backend_cuts_never_looks_whole() {
    for reset in [false, true] {
        let origin = Origin::start(move |exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n"));
            exchange.send(&HUGE_BODY[..HUGE / 2]);
            if reset { exchange.reset() } else { exchange.close() }
        });
        let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
        let mut client = proxy.client();
        let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer();
        assert!(!answer.complete, "reset: {reset}");
        assert!(HUGE_BODY.starts_with(&answer.body), "what came is the beginning");
        if !reset {
            assert_eq!(answer.body.len(), HUGE / 2, "all that was there comes");
        }
        assert_eq!(proxy.status()["failures"]["body_cut"], 1);
        assert_eq!(origin.count(), 1, "an answer that has begun is not asked for again");
    }
}

#[test]
fn a_client_that_leaves_a_large_body_leaves_nothing_of_it_behind() {
    let origin = patterns();
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    let inherited = proxy.pipes();
    for _ in 0..5 {
        let mut client = Client::with_small_window(proxy.port).expect("the proxy listens");
        client.send(format!("GET /{HUGE} HTTP/1.1\r\nHost: a\r\n\r\n")).answer_head();
        client.read_bytes(LARGE);
        client.reset();
        eventually("its exchange has ended", || proxy.in_flight(&origin) == 0);
        // What stood in its pipe is no part of another's body.
        let answer = proxy.client().get(&format!("/{LARGE}"));
        assert!(answer.complete && answer.body == HUGE_BODY[..LARGE]);
    }
    let pipes = proxy.pipes() - inherited;
    assert!(pipes <= 1, "{pipes} pipes, one body at a time");
}

#[test]
fn a_large_request_that_its_client_cuts_never_looks_whole_to_the_backend() {
    let (told, outcome) = mpsc::channel();
    let origin = Origin::start(move |exchange| {
        let came = exchange.read_body().to_vec();
        let _ = told.send((exchange.request.complete, came));
    });
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1 }));
    for reset in [false, true] {
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {HUGE}\r\n\r\n"));
        client.send(&HUGE_BODY[..HUGE / 2]);
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        let (complete, came) = outcome.recv_timeout(support::PATIENCE).expect("the backend's connection ends");
        assert!(!complete && HUGE_BODY.starts_with(&came) && came.len() <= HUGE / 2, "reset: {reset}");
        eventually("nothing is in flight", || proxy.in_flight(&origin) == 0);
    }
}
