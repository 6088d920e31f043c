//! Logins that belong to a connection (NTLM, Negotiate): who is served on a backend's connection after one has logged in there
//! is taken for that one.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};

use serde_json::json;
use support::{Client, Message, Origin, PATIENCE, Proxy, eventually};

/// A backend whose connections are whose who logged in on them. It asks for a login with these fields, `*` standing for the
/// challenge.
fn intranet(asks: &'static [&'static str]) -> Origin {
    let users = Arc::new(Mutex::new(HashMap::<SocketAddr, String>::new()));
    Origin::start(move |exchange| {
        let here = exchange.peer();
        let said = exchange.request.field("authorization").unwrap_or_default().to_owned();
        let words: Vec<_> = said.split(' ').collect();
        let mut users = users.lock().expect("not poisoned");
        let known = match words[..] {
            // Kerberos needs one round.
            ["Negotiate", "ticket", user] => Some(user.to_owned()),
            ["NTLM", "type3", user, challenge] if challenge == here.port().to_string() => Some(user.to_owned()),
            ["NTLM", ..] => None,
            _ => users.get(&here).cloned(),
        };
        let Some(user) = known else {
            let asks: Vec<_> = asks.iter().map(|field| field.replace('*', &here.port().to_string())).collect();
            let asks: Vec<_> = asks.iter().map(String::as_str).collect();
            return exchange.answer_with(401, &asks, "who are you?");
        };
        users.insert(here, user.clone());
        drop(users);
        exchange.answer(200, format!("{user} {}", here.port()));
    })
}

const ASKS: &[&str] = &["WWW-Authenticate: NTLM *"];

fn get_saying(client: &mut Client, authorization: &str) -> Message {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n\r\n")).answer()
}

/// Logs in by a challenge; what the last answer said.
fn log_in(client: &mut Client, user: &str) -> String {
    let refused = get_saying(client, "NTLM type1");
    assert_eq!(refused.status(), 401, "{refused:?}");
    let fields = refused.all("www-authenticate").join(",") + &refused.all("proxy-authenticate").join(",");
    let challenge: String = fields.chars().filter(char::is_ascii_digit).collect();
    let answer = get_saying(client, &format!("NTLM type3 {user} {challenge}"));
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.text()
}

fn said_by(request: &support::Message, user: &str) -> bool {
    request.field("authorization").is_some_and(|said| said.contains(user))
}

/// Whether the proxy's end of a connection to this origin is open, by its port, which others may have too that lead elsewhere.
fn is_open(origin: &Origin, port: u16) -> bool {
    const ESTABLISHED: &str = "01";
    const CLOSE_WAIT: &str = "08";
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    sockets.lines().any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let leads =
            columns[1].ends_with(&format!(":{port:04X}")) && columns[2].ends_with(&format!(":{:04X}", origin.port()));
        leads && matches!(columns[3], ESTABLISHED | CLOSE_WAIT)
    })
}

fn one_worker() -> serde_json::Value {
    json!({ "workers": 1, "health_check_frequency": "1h" })
}

#[test]
fn a_connection_that_somebody_has_logged_in_on_serves_nobody_else() {
    for asks in [
        ASKS,
        &["www-authenticate: ntlm *"],
        &["WWW-Authenticate: Basic realm=\"a, b\"", "WWW-AUTHENTICATE: Digest realm=\"c\", nEGOTIATE *"],
        &["WWW-Authenticate: Negotiate, NTLM *"],
        &["Proxy-Authenticate: NTLM *"],
    ] {
        let origin = intranet(asks);
        let proxy = Proxy::with(&[&origin], one_worker());
        let mut alice = proxy.client();
        assert_eq!(alice.get("/").status(), 401);
        let greeting = log_in(&mut alice, "alice");
        for _ in 0..3 {
            assert_eq!(proxy.get("/").status(), 401, "a stranger is somebody: {asks:?}");
            assert_eq!(alice.get("/").text(), greeting);
        }
        // Two log in at the same time, each in two steps.
        let mut bob = proxy.client();
        let mut carol = proxy.client();
        assert_eq!(get_saying(&mut bob, "NTLM type1").status(), 401);
        assert!(log_in(&mut carol, "carol").starts_with("carol "));
        assert!(log_in(&mut bob, "bob").starts_with("bob "));
        assert_eq!(alice.get("/").text(), greeting);
    }
}

#[test]
fn a_login_that_nobody_asked_for_binds_the_connection_too() {
    // It never names a scheme itself.
    let origin = intranet(&[]);
    let proxy = Proxy::with(&[&origin], one_worker());
    assert_eq!(proxy.get("/").status(), 401);
    let mut alice = proxy.client();
    let greeting = get_saying(&mut alice, "Negotiate ticket alice").text();
    assert!(greeting.starts_with("alice "), "{greeting}");
    assert_eq!(proxy.get("/").status(), 401);
    assert_eq!(alice.get("/").text(), greeting);
}

#[test]
fn other_logins_leave_connections_in_the_pool() {
    let origin = intranet(&["WWW-Authenticate: Basic realm=\"NTLM\""]);
    let proxy = Proxy::with(&[&origin], one_worker());
    let before = origin.connections();
    for _ in 0..5 {
        assert_eq!(get_saying(&mut proxy.client(), "Basic TlRMTQ==").status(), 401);
    }
    assert!(origin.connections() - before <= 2, "{} connections", origin.connections() - before);
}

#[test]
fn whatever_the_strategy_a_client_stays_where_it_logged_in_pipelined_requests_too() {
    let origins = [intranet(ASKS), intranet(ASKS), intranet(ASKS)];
    let proxy = Proxy::with(&origins.each_ref(), one_worker());
    let mut alice = proxy.client();
    let greeting = log_in(&mut alice, "alice");
    alice.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8));
    for _ in 0..8 {
        assert_eq!(alice.answer().text(), greeting);
    }
    let served: Vec<_> = origins.iter().filter(|origin| origin.count() > 0).collect();
    assert_eq!(served.len(), 1);
    let away = |way: &str, body: &str| {
        let path = served[0].url().replace("http://", "/backends/");
        assert!(proxy.admin(way, &path, body).status() < 300);
    };
    away("PATCH", r#"{"state": "drain"}"#);
    assert_eq!(alice.get("/").text(), greeting, "a drained backend serves those that are bound to it");
    away("DELETE", "");
    assert_eq!(alice.get("/").status(), 401, "one that is removed does not: it begins anew elsewhere");
    assert!(log_in(&mut alice, "alice").starts_with("alice "));
}

#[test]
fn a_parked_client_keeps_its_connection_until_one_of_the_two_ends() {
    let origin = intranet(ASKS);
    let proxy = Proxy::with(&[&origin], one_worker());
    let mut alice = proxy.client();
    let greeting = log_in(&mut alice, "alice");
    for _ in 0..2 {
        eventually("the client is parked", || proxy.parked() > 0);
        assert_eq!(proxy.get("/").status(), 401);
        assert_eq!(alice.get("/").text(), greeting);
    }
    let port: u16 = greeting.trim_start_matches("alice ").parse().expect("a port");
    assert!(is_open(&origin, port));
    drop(alice);
    eventually("it is closed with its client", || !is_open(&origin, port));
}

#[test]
fn a_parked_clients_connection_to_a_backend_that_is_removed_is_closed_without_waiting_for_its_client() {
    let origins = [intranet(ASKS), intranet(ASKS)];
    let proxy = Proxy::with(&origins.each_ref(), one_worker());
    let mut alice = proxy.client();
    let mut bob = proxy.client();
    let (of_alice, of_bob) = (log_in(&mut alice, "alice"), log_in(&mut bob, "bob"));
    let port = |greeting: &str| greeting.split(' ').next_back().and_then(|port| port.parse().ok()).expect("a port");
    // Round robin: each has logged in at another one.
    let home =
        origins.iter().find(|origin| origin.requests().iter().any(|r| said_by(r, "alice"))).expect("one of them");
    assert!(!home.requests().iter().any(|request| said_by(request, "bob")));
    eventually("both are parked", || proxy.parked() == 2);
    let removed = proxy.admin("DELETE", &home.url().replace("http://", "/backends/"), "");
    assert!(removed.status() < 300, "{removed:?}");
    eventually("it is closed", || !is_open(home, port(&of_alice)));
    assert_eq!(proxy.parked(), 2, "its client stays where it is");
    assert!(origins.iter().any(|origin| is_open(origin, port(&of_bob))));
    assert_eq!(alice.get("/").status(), 401, "she begins anew elsewhere");
    assert!(log_in(&mut alice, "alice").starts_with("alice "));
    assert_eq!(bob.get("/").text(), of_bob);
}

#[test]
fn when_the_backend_ends_the_connection_its_client_begins_anew() {
    let (close_it, order) = mpsc::channel::<()>();
    let order = Mutex::new(order);
    let origin = Origin::start(move |exchange| {
        exchange.answer_with(401, &["WWW-Authenticate: NTLM"], exchange.peer().port().to_string());
        if exchange.nth == 0 {
            let _ = order.lock().expect("not poisoned").recv_timeout(PATIENCE);
            exchange.close();
        }
    });
    let proxy = Proxy::with(&[&origin], one_worker());
    let mut alice = proxy.client();
    let first = alice.get("/").text();
    eventually("the client is parked", || proxy.parked() > 0);
    close_it.send(()).expect("it waits");
    let port: u16 = first.parse().expect("a port");
    eventually("the proxy hears of it and closes its end", || !is_open(&origin, port));
    let again = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let answer = alice.send(again).answer();
    assert_eq!(answer.status(), 401, "{answer:?}");
    assert_ne!(answer.text(), first);
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_request_that_may_not_be_sent_twice_is_not_when_its_own_connection_ends_under_it() {
    let origin = Origin::start(|exchange| {
        if exchange.request.method() == "POST" {
            exchange.read_body();
            return exchange.close();
        }
        exchange.answer_with(401, &["WWW-Authenticate: Negotiate"], "");
    });
    let proxy = Proxy::with(&[&origin], one_worker());
    let mut alice = proxy.client();
    assert_eq!(alice.get("/").status(), 401);
    let answer = alice.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
    assert_eq!(answer.status(), 502, "{answer:?}");
    assert_eq!(origin.requests().iter().filter(|request| request.method() == "POST").count(), 1);
    assert_eq!(alice.get("/").status(), 401);
}

#[test]
fn where_its_backend_is_full_a_client_that_logged_in_waits_for_it_and_for_no_other() {
    let gate = Arc::new(support::Gate::default());
    let held = Arc::clone(&gate);
    let users = Mutex::new(HashMap::<SocketAddr, String>::new());
    let full = Origin::start(move |exchange| {
        if exchange.request.target() == "/hold" {
            held.wait();
        }
        let here = exchange.peer();
        if let Some(said) = exchange.request.field("authorization") {
            users.lock().expect("not poisoned").insert(here, said.to_owned());
        }
        let user = users.lock().expect("not poisoned").get(&here).cloned().unwrap_or_default();
        exchange.answer(200, user);
    });
    let other = Origin::answering("elsewhere");
    let backends = json!([{"url": full.url(), "max_connections": 1}, {"url": other.url(), "backup": true}]);
    let on_top = json!({"workers": 1, "backends": backends, "queue": {"timeout": "10s"}});
    let proxy = Proxy::with(&[], on_top);
    let mut alice = proxy.client();
    assert_eq!(get_saying(&mut alice, "Negotiate alice").text(), "Negotiate alice");
    let mut slow = proxy.client();
    slow.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is full", || full.count() == 2);
    assert_eq!(proxy.get("/").text(), "elsewhere");
    alice.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("she waits", || proxy.status()["queue"]["waiting"] == 1);
    gate.open();
    assert_eq!(alice.answer().text(), "Negotiate alice");
    assert_eq!(slow.answer().status(), 200);
}

#[test]
fn where_its_backend_stays_full_a_client_that_logged_in_begins_anew_elsewhere() {
    let gate = Arc::new(support::Gate::default());
    let full = Origin::holding("here", &gate);
    let other = Origin::answering("elsewhere");
    let backends = json!([{"url": full.url(), "max_connections": 1}, {"url": other.url(), "backup": true}]);
    let proxy = Proxy::with(&[], json!({"workers": 1, "backends": backends, "queue": {"timeout": "100ms"}}));
    let mut alice = proxy.client();
    assert_eq!(get_saying(&mut alice, "Negotiate alice").text(), "here");
    let mut slow = proxy.client();
    slow.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is full", || full.count() == 2);
    assert_eq!(alice.get("/").text(), "elsewhere");
    gate.open();
    assert_eq!(slow.answer().status(), 200);
}

#[test]
fn where_nobody_may_wait_a_client_that_logged_in_begins_anew_elsewhere_or_stays() {
    for has_other in [true, false] {
        let gate = Arc::new(support::Gate::default());
        let full = Origin::holding("here", &gate);
        let other = Origin::answering("elsewhere");
        let mut backends = vec![json!({"url": full.url(), "max_connections": 1})];
        if has_other {
            backends.push(json!({"url": other.url(), "backup": true}));
        }
        let proxy = Proxy::with(&[], json!({"workers": 1, "backends": backends, "queue": {"size": 0}}));
        let mut alice = proxy.client();
        assert_eq!(get_saying(&mut alice, "Negotiate alice").text(), "here");
        eventually("its place is free", || proxy.in_flight(&full) == 0);
        let mut slow = proxy.client();
        slow.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("it is full", || full.count() == 2);
        let connections = full.connections();
        if has_other {
            assert_eq!(alice.get("/").text(), "elsewhere");
        } else {
            assert_eq!(alice.get("/").status(), 503);
        }
        gate.open();
        assert_eq!(slow.answer().status(), 200);
        eventually("its place is free", || proxy.in_flight(&full) == 0);
        if !has_other {
            assert_eq!(alice.get("/").text(), "here");
            assert_eq!(full.connections(), connections, "it is logged in still");
        }
    }
}
