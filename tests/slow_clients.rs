//! Clients that are slow by the hundred: what an exchange keeps while it waits for one.

mod support;

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
    assert_eq!(proxy.in_flight(&origin), 0);
}

#[test]
fn a_crowd_that_has_left_takes_its_coroutines_along() {
    let all_are_there = Arc::new(Gate::default());
    let gate = Arc::clone(&all_are_there);
    let origin = Origin::start(move |exchange| {
        gate.wait();
        exchange.answer(200, "");
    });
    let proxy = Proxy::with(&[&origin], json!({"workers": 1}));
    let before = mappings(&proxy);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("every request waits for its answer", || origin.count() == CLIENTS);
    assert!(mappings(&proxy) >= before + CLIENTS, "each has a stack, behind a page that guards it");
    all_are_there.open();
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    eventually("most of the stacks are gone", || mappings(&proxy) < before + CLIENTS / 2);
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
