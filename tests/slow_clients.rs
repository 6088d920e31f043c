//! Clients that are slow by the hundred: what an exchange keeps while it waits for one.

mod support;

use std::io::Write;
use std::sync::Arc;

use serde_json::json;
use support::{Client, Gate, Origin, Proxy, eventually};

const CLIENTS: usize = 400;
/// A coroutine alone takes two pages.
const KEPT_BYTES_MAX: usize = 4096;
const BODY: &str = "the body of a slow client";

#[test]
fn requests_whose_bodies_come_slowly_keep_no_coroutine_and_arrive_whole() {
    let origin = Origin::start(|exchange| {
        let body = exchange.read_body().to_vec();
        exchange.answer(200, body);
    });
    let proxy = Proxy::with(&[&origin], json!({"workers": 1}));
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    // The first round pays for what the worker keeps for its next connections.
    let mut before = usize::MAX;
    for round in 1..=2 {
        let (first, rest) = BODY.split_at(3);
        for client in &mut clients {
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{first}", BODY.len()));
        }
        eventually("every request is on its way", || origin.count() == round * CLIENTS);
        eventually("each keeps little", || resident_bytes(&proxy).saturating_sub(before) / CLIENTS <= KEPT_BYTES_MAX);
        // The rest in two pieces: each has to wait once more in between.
        let (second, third) = rest.split_at(7);
        for client in &mut clients {
            client.send(second);
        }
        for client in &mut clients {
            client.send(third);
            assert_eq!(client.answer().text(), BODY);
        }
        before = resident_bytes(&proxy);
    }
    eventually("the last one has left the count", || proxy.in_flight(&origin) == 0);
}

#[test]
fn a_crowd_whose_answers_take_long_keeps_no_coroutines_and_is_answered() {
    let all_are_there = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &all_are_there);
    let proxy = Proxy::with(&[&origin], json!({"workers": 1}));
    let before = mappings(&proxy);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("every request waits for its answer", || origin.count() == CLIENTS);
    eventually("all are laid aside", || proxy.laid_aside() == CLIENTS);
    eventually("most of the stacks are gone, which are two mappings each", || mappings(&proxy) < before + CLIENTS);
    // Whoever leaves is noticed all the same.
    clients.drain(..CLIENTS / 2).for_each(Client::reset);
    eventually("they aren't waited for", || proxy.in_flight(&origin) == CLIENTS as u64 / 2);
    all_are_there.open();
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    eventually("no request is in flight", || proxy.in_flight(&origin) == 0);
}

#[test]
fn clients_that_do_not_read_the_proxys_own_answers_keep_no_coroutine_and_get_all_of_them() {
    // Each is answered for as long as its answers fit into its sockets' buffers, so that these are few.
    const FLOODING: usize = 40;
    let proxy = Proxy::with(&[], json!({"workers": 1}));
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let mut clients: Vec<_> = (0..FLOODING).map(|_| Client::with_small_pieces(proxy.port).expect("a socket")).collect();
    let mut unsent = Vec::new();
    for client in &mut clients {
        let writer = client.writer();
        writer.set_nonblocking(true).expect("a socket");
        unsent.push((writer, 0));
    }
    eventually("the proxy takes no more, and has laid all of them aside", || {
        for (writer, sent) in &mut unsent {
            while let Ok(n) = writer.write(&requests.as_bytes()[*sent % requests.len()..]) {
                *sent += n;
            }
        }
        proxy.laid_aside() == FLOODING
    });
    for (client, (mut writer, sent)) in clients.iter_mut().zip(unsent).take(2) {
        writer.set_nonblocking(false).expect("a socket");
        let rest = requests[sent % requests.len()..].to_owned();
        let writing = std::thread::spawn(move || writer.write_all(rest.as_bytes()));
        for _ in 0..(sent / requests.len() + 1) * 100 {
            assert_eq!(client.answer().status(), 503);
        }
        writing.join().expect("no panic").expect("it is taken");
    }
    let answered = proxy.status()["failures"]["no_backend"].as_u64().expect("a number");
    assert!(answered > 100 * FLOODING as u64, "{answered} answers fill no buffer");
}

#[test]
fn clients_that_do_not_read_an_interim_answer_keep_no_coroutine_and_get_it_and_the_next() {
    const SLOW: usize = 60;
    let fields = (0..4).map(|n| format!("X-{n}: {}\r\n", "x".repeat(3500))).collect::<Vec<_>>().concat();
    let hint = format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n");
    let sent = hint.clone();
    let origin = Origin::start(move |exchange| {
        for _ in 0..30 {
            exchange.send(&sent);
        }
        exchange.answer(200, "ok");
    });
    let proxy = Proxy::with(&[&origin], json!({"workers": 1}));
    let mut clients: Vec<_> = (0..SLOW).map(|_| Client::with_small_pieces(proxy.port).expect("a socket")).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("every request is on its way", || origin.count() == SLOW);
    eventually("all are laid aside", || proxy.laid_aside() == SLOW);
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.interim.len(), answer.text().as_str()), (30, "ok"));
        assert!(answer.interim.iter().all(|head| head.field("x-3").is_some_and(|value| value.len() == 3500)));
    }
    eventually("no request is in flight", || proxy.in_flight(&origin) == 0);
}

#[test]
fn tunnels_that_stand_still_keep_no_coroutine_and_go_on() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello");
        exchange.echo();
    });
    let proxy = Proxy::with(&[&origin], json!({"workers": 1}));
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.answer_head().status(), 101);
        assert_eq!(client.read_bytes(5), b"hello");
    }
    for round in 0..2 {
        eventually("all are laid aside", || proxy.laid_aside() == CLIENTS);
        assert_eq!(proxy.in_flight(&origin), CLIENTS as u64, "they count as requests in flight");
        for client in &mut clients {
            let message = format!("message {round}");
            assert_eq!(client.send(&message).read_bytes(message.len()), message.as_bytes());
        }
    }
    // One side's end, and then the other's.
    for client in &mut clients {
        client.finish();
        assert!(client.rest().is_empty());
    }
    eventually("no tunnel is left", || proxy.in_flight(&origin) == 0);
    assert_eq!(proxy.status()["failures"]["tunnel_idle"], 0);
}

/// Pieces of the process's memory. A stack is two.
fn mappings(proxy: &Proxy) -> usize {
    let path = format!("/proc/{}/maps", proxy.program.pid());
    std::fs::read_to_string(path).expect("it runs").lines().count()
}

fn resident_bytes(proxy: &Proxy) -> usize {
    let path = format!("/proc/{}/statm", proxy.program.pid());
    let statm = std::fs::read_to_string(path).expect("it runs");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}
