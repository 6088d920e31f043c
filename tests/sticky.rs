//! Sticky sessions: a client stays at its backend while that one serves, and is bound to another one when it doesn't.

mod support;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::proxy::settings;
use support::{Client, Message, Origin, Program, Proxy, eventually, free_port};

/// A client that keeps the proxy's cookie as a browser does.
struct Visitor {
    client: Client,
    /// `NAME=VALUE`, once it has one.
    cookie: Option<String>,
    /// How often it was set.
    set: usize,
}

impl Visitor {
    fn new(proxy: &Proxy) -> Self {
        Self { client: proxy.client(), cookie: None, set: 0 }
    }

    /// Goes on over a new connection.
    fn reconnect(&mut self, proxy: &Proxy) {
        self.client = proxy.client();
    }

    /// The answer to a GET with the cookie and these lines in its head.
    #[track_caller]
    fn get_with(&mut self, lines: &str) -> Message {
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: a=b; {cookie}; c=d\r\n")).unwrap_or_default();
        let answer = self.client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}{cookie}\r\n")).answer_to("GET");
        if let Some(set) = set_cookie(&answer) {
            self.cookie = set.split(';').next().map(str::to_owned);
            self.set += 1;
        }
        answer
    }

    #[track_caller]
    fn get(&mut self) -> String {
        let answer = self.get_with("");
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.text()
    }

    /// Asks until it is at this backend.
    #[track_caller]
    fn settle_at(&mut self, proxy: &Proxy, text: &str) {
        eventually("it comes to that backend", || {
            self.cookie = None;
            self.reconnect(proxy);
            self.get() == text
        });
        self.set = 0;
    }
}

/// What the answer sets the proxy's cookie to, attributes included; there is one such line at most.
#[track_caller]
fn set_cookie(answer: &Message) -> Option<&str> {
    let all = answer.all("set-cookie");
    let ours: Vec<_> = all.into_iter().filter(|line| line.starts_with("MAYPOLE=")).collect();
    assert!(ours.len() <= 1, "{ours:?}");
    ours.first().copied()
}

fn by_cookie(origins: &[&Origin], mut on_top: Value) -> Proxy {
    on_top["by"] = "cookie".into();
    Proxy::with(origins, json!({ "sticky": on_top }))
}

fn three() -> [Origin; 3] {
    ["a", "b", "c"].map(Origin::answering)
}

fn change(proxy: &Proxy, origin: &Origin, change: &Value) {
    let name = format!("/backends/127.0.0.1:{}", origin.port());
    assert_eq!(proxy.admin("PATCH", &name, &change.to_string()).status(), 200);
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn clients_are_spread_evenly_and_each_stays_over_connections_and_workers() {
    let [a, b, c] = three();
    let proxy = by_cookie(&[&a, &b, &c], json!({}));
    let mut visitors: Vec<_> = (0..64).map(|_| Visitor::new(&proxy)).collect();
    let at: Vec<_> = visitors.iter_mut().map(Visitor::get).collect();
    let shares = ["a", "b", "c"].map(|text| at.iter().filter(|at| *at == text).count());
    assert!(shares.iter().all(|share| (21..=22).contains(share)), "{shares:?}");
    for _ in 0..5 {
        for (visitor, at) in visitors.iter_mut().zip(&at) {
            assert_eq!(visitor.get(), *at);
            visitor.reconnect(&proxy);
        }
    }
    assert!(visitors.iter().all(|visitor| visitor.set == 1), "it was told at its first request, and not again");
}

#[test]
fn a_cookie_is_set_with_its_attributes_beside_the_backends_own() {
    let origin = Origin::start(|exchange| {
        exchange.answer_with(200, &["Set-Cookie: MINE=1; Path=/x", "Cache-Control: max-age=60"], "ok");
    });
    let proxy = by_cookie(&[&origin], json!({ "name": "MAYPOLE", "ttl": "1h", "same_site": "Strict" }));
    let mut visitor = Visitor::new(&proxy);
    let answer = visitor.get_with("");
    let line = set_cookie(&answer).expect("it is set");
    let (value, attributes) = line["MAYPOLE=".len()..].split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict; Max-Age=3600");
    let (mark, set_at_s) = value.split_once('.').expect("a time");
    assert_eq!(mark.len(), 16);
    assert!((now_s() - 60..=now_s()).contains(&set_at_s.parse().expect("seconds")), "{value}");
    assert!(!mark.contains(&origin.port().to_string()), "{value}");
    assert_eq!(answer.all("set-cookie").len(), 2, "{answer:?}");
    assert_eq!(answer.all("cache-control"), ["max-age=60", "private"]);

    let again = visitor.get_with("");
    assert_eq!(again.all("set-cookie"), ["MINE=1; Path=/x"], "the client knows it already");
    assert_eq!(again.all("cache-control"), ["max-age=60"]);
    assert_eq!(origin.requests()[1].field("cookie"), Some(format!("a=b; MAYPOLE={value}; c=d").as_str()), "passed on");
}

#[test]
fn a_cookie_is_secure_when_it_is_said_or_a_trusted_peer_says_that_the_client_is() {
    let origin = Origin::answering("ok");
    let cases = [
        (json!("auto"), json!(["127.0.0.1"]), "https", true),
        (json!("auto"), json!(["127.0.0.1"]), "http", false),
        (json!("auto"), json!([]), "https", false),
        (json!(true), json!([]), "http", true),
        (json!(false), json!(["127.0.0.1"]), "https", false),
    ];
    for (secure, trusted_proxies, scheme, want) in cases {
        let sticky = json!({ "by": "cookie", "secure": secure });
        let proxy = Proxy::with(&[&origin], json!({ "trusted_proxies": trusted_proxies, "sticky": sticky }));
        let answer = Visitor::new(&proxy).get_with(&format!("X-Forwarded-Proto: {scheme}\r\n"));
        let line = set_cookie(&answer).expect("it is set");
        assert_eq!(line.ends_with("; Secure"), want, "{sticky} {trusted_proxies} {scheme}: {line}");
    }
}

#[test]
fn an_ageing_cookie_is_renewed_and_one_past_its_time_or_forged_is_ignored() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = by_cookie(&[&a, &b], json!({ "ttl": "800s" }));
    let mut visitor = Visitor::new(&proxy);
    let at = visitor.get();
    let cookie = visitor.cookie.clone().expect("it has one");
    let mark = cookie.split_once('.').expect("a time").0;
    for (value, renewed) in [(format!("{mark}.{}", now_s() - 50), false), (format!("{mark}.{}", now_s() - 400), true)] {
        visitor.set = 0;
        for _ in 0..4 {
            visitor.cookie = Some(value.clone());
            assert_eq!(visitor.get(), at);
        }
        assert_eq!(visitor.set, if renewed { 4 } else { 0 }, "{value}");
    }
    let text = &mark["MAYPOLE=".len()..];
    let forged = format!("MAYPOLE={}{}", if text.starts_with('A') { 'B' } else { 'A' }, &text[1..]);
    for value in [format!("{mark}.{}", now_s() - 900), forged, "MAYPOLE=127.0.0.1:80".to_owned()] {
        let texts: Vec<_> = (0..2)
            .map(|_| {
                visitor.cookie = Some(value.clone());
                visitor.set = 0;
                let text = visitor.get();
                assert_eq!(visitor.set, 1, "{value}");
                text
            })
            .collect();
        assert_ne!(texts[0], texts[1], "each in turn, whatever {value} says");
    }
}

#[test]
fn who_is_drained_or_has_no_weight_serves_its_own_clients_and_one_that_is_taken_down_does_not() {
    let [a, b, c] = three();
    let proxy = by_cookie(&[&a, &b, &c], json!({}));
    let mut visitor = Visitor::new(&proxy);
    for (state, honoured) in [
        (json!({ "state": "drain" }), true),
        (json!({ "weight": 0 }), true),
        (json!({ "state": "drain", "weight": 0 }), true),
        (json!({ "state": "down" }), false),
    ] {
        visitor.settle_at(&proxy, "a");
        change(&proxy, &a, &state);
        let others: Vec<_> = (0..6).map(|_| proxy.get("/").text()).collect();
        assert!(!others.contains(&"a".to_owned()), "{state}: {others:?}");
        let at = visitor.get();
        assert_eq!((at == "a", visitor.set), (honoured, usize::from(!honoured)), "{state}");
        visitor.reconnect(&proxy);
        assert_eq!((visitor.get(), visitor.set), (at, usize::from(!honoured)), "{state}: it stays");
        change(&proxy, &a, &json!({ "state": "ready", "weight": 1 }));
    }
}

#[test]
fn a_removed_backends_clients_go_elsewhere_and_come_back_to_it_no_more() {
    let [a, b, c] = three();
    let proxy = by_cookie(&[&a, &b, &c], json!({}));
    let mut visitor = Visitor::new(&proxy);
    visitor.settle_at(&proxy, "a");
    assert_eq!(proxy.mutate("DELETE", &a).status(), 204);
    let at = visitor.get();
    assert_ne!((at.as_str(), visitor.set), ("a", 0));
    assert_eq!(proxy.mutate("POST", &a).status(), 201);
    assert_eq!((visitor.get(), visitor.set), (at, 1));
}

/// Real processes, and a real kill -9 under load.
#[test]
fn when_a_backend_is_killed_its_clients_lose_no_request_and_stay_at_another_one() {
    let ports = [free_port(), free_port(), free_port()];
    let start = |port: u16| Some(Program::start(&["backend", "--port", &port.to_string()]));
    let mut backends = ports.map(start);
    eventually("the backends listen", || ports.iter().all(|port| Client::try_connect(*port).is_ok()));
    let urls: Vec<_> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let mut config = settings(&urls);
    config["health_check"] = json!({ "path": "/health" });
    config["sticky"] = json!({ "by": "cookie" });
    let proxy = Proxy::start(&config);

    let name = |text: String| text.lines().next().expect("its name").to_owned();
    let stop = AtomicBool::new(false);
    let moves: Vec<_> = thread::scope(|scope| {
        let visit = || {
            let mut visitor = Visitor::new(&proxy);
            let mut seen = vec![name(visitor.get())];
            while !stop.load(Ordering::Relaxed) {
                let at = name(visitor.get());
                if seen.last() != Some(&at) {
                    seen.push(at);
                }
            }
            (seen, visitor.set)
        };
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(visit)).collect();
        eventually("all are at work", || proxy.status()["connections"]["open"].as_u64() >= Some(12));
        let victim = backends[0].take().expect("it runs");
        victim.signal("KILL");
        eventually("it is seen to be down", || proxy.status()["active_backends"] == 2);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("no request failed")).collect()
    });
    let dead = moves.iter().filter(|(seen, _)| seen[0].ends_with(&ports[0].to_string())).count();
    assert!(dead > 0, "nobody was at the backend that died: {moves:?}");
    for (seen, set) in &moves {
        let was_hit = seen[0].ends_with(&ports[0].to_string());
        assert!(seen.len() == 1 || was_hit && seen.len() == 2, "it moved without need: {seen:?}");
        assert_eq!(*set, seen.len(), "{seen:?}");
    }
}

#[test]
fn a_kept_connection_that_its_backend_has_closed_costs_nobody_its_backend() {
    // Closes each connection when its second request comes.
    let script = |text: &'static str| {
        move |exchange: &mut support::Exchange| {
            if exchange.on_connection == 0 { exchange.answer(200, text) } else { exchange.close() }
        }
    };
    let origins = ["a", "b", "c"].map(|text| Origin::start(script(text)));
    let sticky = json!({ "by": "cookie" });
    let proxy = Proxy::with(&origins.each_ref(), json!({ "workers": 1, "sticky": sticky }));
    let mut visitor = Visitor::new(&proxy);
    let at = visitor.get();
    for _ in 0..10 {
        assert_eq!((visitor.get(), visitor.set), (at.clone(), 1));
    }
    let counts: usize = origins.iter().map(Origin::count).sum();
    assert!(counts > 11, "no kept connection was closed");
}

#[test]
fn a_backend_that_fails_a_request_loses_its_client_to_the_one_that_serves_it() {
    let (a, b) = (Origin::start(|exchange| exchange.answer(503, "a")), Origin::answering("b"));
    let on = json!({ "retries": { "on": ["connect", "reset", "503"] }, "sticky": { "by": "cookie" } });
    let proxy = Proxy::with(&[&a, &b], on);
    let mut visitor = Visitor::new(&proxy);
    visitor.settle_at(&proxy, "b");
    let before = a.count();
    for _ in 0..5 {
        assert_eq!((visitor.get(), visitor.set), ("b".to_owned(), 0));
    }
    assert_eq!(a.count(), before, "who is at b isn't sent to a");
}

#[test]
fn with_a_secret_sessions_outlast_a_restart_and_hold_at_every_proxy_and_without_one_they_do_not() {
    let [a, b, c] = three();
    let origins = [&a, &b, &c];
    let secret = json!({ "secret": "not to be guessed by anyone" });
    let first = by_cookie(&origins, secret.clone());
    let other = by_cookie(&[&c, &a, &b], secret.clone());
    let mut visitor = Visitor::new(&first);
    let at = visitor.get();
    for _ in 0..4 {
        visitor.reconnect(&other);
        assert_eq!((visitor.get(), visitor.set), (at.clone(), 1));
    }
    drop(first);
    let again = by_cookie(&origins, secret);
    visitor.reconnect(&again);
    assert_eq!((visitor.get(), visitor.set), (at, 1));
    assert!(!again.program.stderr().contains("guessed") && !again.program.stdout().contains("guessed"));

    let without = [(); 2].map(|()| by_cookie(&origins, json!({})));
    let mut visitor = Visitor::new(&without[0]);
    visitor.get();
    visitor.reconnect(&without[1]);
    visitor.get();
    assert_eq!(visitor.set, 2, "another key");
}

#[test]
fn answers_of_the_proxys_own_set_no_cookie() {
    let origin = Origin::start(support::Exchange::reset);
    let proxy = by_cookie(&[&origin], json!({}));
    let answer = Visitor::new(&proxy).get_with("");
    assert_eq!((answer.status(), set_cookie(&answer)), (502, None));
    change(&proxy, &origin, &json!({ "state": "down" }));
    let answer = Visitor::new(&proxy).get_with("");
    assert_eq!((answer.status(), set_cookie(&answer)), (503, None));
}

#[test]
fn a_tunnel_binds_its_client_too_and_interim_answers_do_not() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
        exchange.echo();
    });
    let proxy = by_cookie(&[&origin], json!({}));
    let mut client = proxy.client();
    let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").answer_head();
    assert_eq!((answer.status(), answer.interim.len()), (101, 1));
    assert!(set_cookie(&answer).is_some() && set_cookie(&answer.interim[0]).is_none());
    assert_eq!(client.send("through").read_bytes(7), b"through");
}

#[test]
fn by_address_a_client_stays_without_a_cookie_until_its_backend_is_down() {
    let [a, b, c] = three();
    let proxy = Proxy::with(&[&a, &b, &c], json!({ "sticky": { "by": "ip" } }));
    let of = |last: u8| {
        let answer = Client::connect_from(Ipv4Addr::new(127, 0, 0, last), proxy.port).get("/");
        assert_eq!((answer.status(), answer.field("set-cookie"), answer.field("cache-control")), (200, None, None));
        answer.text()
    };
    let at: Vec<_> = (10..22).map(of).collect();
    let shares = ["a", "b", "c"].map(|text| at.iter().filter(|at| *at == text).count());
    assert_eq!(shares, [4, 4, 4]);
    for _ in 0..3 {
        assert_eq!((10..22).map(of).collect::<Vec<_>>(), at);
    }
    change(&proxy, &a, &json!({ "state": "drain" }));
    assert_eq!((10..22).map(of).collect::<Vec<_>>(), at, "its own clients stay");
    let port = a.stop();
    let moved: Vec<_> = (10..22).map(of).collect();
    for (before, now) in at.iter().zip(&moved) {
        assert!(if before == "a" { now != "a" } else { now == before }, "{at:?} {moved:?}");
    }
    let back = Origin::start_on(port, |exchange| exchange.answer(200, "a"));
    change(&proxy, &back, &json!({ "state": "ready" }));
    eventually("it is back", || proxy.is_alive(&back));
    assert_eq!((10..22).map(of).collect::<Vec<_>>(), moved, "they stay where they went");
}

#[test]
fn by_address_it_is_the_client_behind_a_trusted_proxy_that_counts_and_ipv6_clients_are_networks() {
    let [a, b, c] = three();
    let sticky = json!({ "by": "ip", "ttl": "1h", "max_keys": 100 });
    let proxy = Proxy::with(&[&a, &b, &c], json!({ "trusted_proxies": ["127.0.0.1"], "sticky": sticky }));
    let mut client = proxy.client();
    let mut of = |address: &str| {
        let lines = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n");
        client.send(lines).answer().text()
    };
    let at = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(&mut of);
    assert_eq!(at.iter().collect::<std::collections::HashSet<_>>().len(), 3, "{at:?}");
    assert_eq!(["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(&mut of), at);
    let network = of("2001:db8:1:2::1");
    assert_eq!(
        ["2001:db8:1:2::2", "2001:db8:1:2:ffff::", "2001:db8:1:2::1"].map(&mut of),
        [(); 3].map(|()| network.clone())
    );
}

#[test]
fn by_address_the_client_that_came_the_longest_ago_is_forgotten_when_there_are_too_many() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::with(&[&a, &b], json!({ "sticky": { "by": "ip", "max_keys": 2 } }));
    let of = |last: u8| Client::connect_from(Ipv4Addr::new(127, 0, 0, last), proxy.port).get("/").text();
    assert_eq!([10, 11, 12].map(of), ["a", "b", "a"], "each in turn");
    assert_eq!([12, 11, 12].map(of), ["a", "b", "a"], "each at its own");
    assert_eq!([10, 10].map(of), ["b", "b"], "the first had to leave for the third, and takes the next turn");
}

#[test]
fn without_stickiness_a_cookie_of_that_name_means_nothing() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let sticky = by_cookie(&[&a, &b], json!({ "secret": "not to be guessed by anyone" }));
    let mut visitor = Visitor::new(&sticky);
    visitor.get();
    let plain = Proxy::over(&[&a, &b]);
    visitor.reconnect(&plain);
    let texts = [visitor.get(), visitor.get()];
    assert!(texts[0] != texts[1] && visitor.set == 1, "{texts:?}");
}

#[test]
fn a_session_leaves_a_backend_whose_breaker_has_tripped() {
    let fails = std::sync::Arc::new(AtomicBool::new(false));
    let failing = fails.clone();
    let a = Origin::start(move |exchange| {
        let status = if failing.load(Ordering::SeqCst) { 500 } else { 200 };
        exchange.answer(status, "a");
    });
    let [_, b, c] = three();
    let breaker = json!({ "consecutive_failures": 3, "open": "1h", "max_open": "1h" });
    let proxy = Proxy::with(&[&a, &b, &c], json!({ "circuit_breaker": breaker, "sticky": { "by": "cookie" } }));
    let mut visitor = Visitor::new(&proxy);
    visitor.settle_at(&proxy, "a");
    fails.store(true, Ordering::SeqCst);
    let statuses: Vec<_> = (0..6).map(|_| visitor.get_with("").status()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 2, "the third was passed over: {statuses:?}");
    assert_eq!(visitor.set, 1, "bound to another one");
    eventually("it is ejected", || proxy.status()["active_backends"] == 2);
    let at = visitor.get();
    assert_ne!(at, "a");
    assert_eq!((visitor.get(), visitor.set), (at, 1));
}
