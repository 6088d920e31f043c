//! Limits of concurrency: a backend never has more than it may, and requests that find no room wait in one queue.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Gate, Message, Origin, Proxy, eventually};

/// A proxy in front of these origins, each with its bound, and with these settings on top.
fn bounded(origins: &[(&Origin, usize)], mut on_top: Value) -> Proxy {
    let backend = |(origin, bound): &(&Origin, usize)| json!({ "url": origin.url(), "max_connections": bound });
    on_top["backends"] = origins.iter().map(backend).collect();
    Proxy::with(&[], on_top)
}

/// A client that has sent a request and waits with it.
#[track_caller]
fn asking(proxy: &Proxy, path: &str) -> Client {
    let mut client = proxy.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[track_caller]
fn expect_waiting(proxy: &Proxy, count: usize) {
    eventually(&format!("{count} wait"), || proxy.status()["queue"]["waiting"] == count);
}

/// One that holds the only place, and so many that wait behind it, in this order.
#[track_caller]
fn line_up(proxy: &Proxy, origin: &Origin, count: usize) -> (Client, Vec<Client>) {
    let holder = asking(proxy, "/hold");
    eventually("the place is taken", || origin.count() == 1);
    let mut line = Vec::new();
    for number in 0..count {
        line.push(asking(proxy, &format!("/{number}")));
        expect_waiting(proxy, number + 1);
    }
    (holder, line)
}

#[track_caller]
fn expect_turned_away(answer: &Message) {
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert!(answer.list("proxy-status").contains("error=connection_limit_reached"), "{answer:?}");
}

#[test]
fn a_backend_never_has_more_than_it_may_and_all_are_served_in_the_end() {
    let (gate, now, most) = (Arc::new(Gate::default()), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (until_open, seen) = (Arc::clone(&gate), Arc::clone(&most));
    let origin = Origin::start(move |exchange| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        until_open.wait();
        now.fetch_sub(1, Ordering::SeqCst);
        exchange.answer(200, "ok");
    });
    let proxy = bounded(&[(&origin, 2)], json!({ "queue": { "timeout": "30s" } }));
    let clients: Vec<_> = (0..20).map(|_| asking(&proxy, "/")).collect();
    expect_waiting(&proxy, 18);
    assert_eq!((proxy.in_flight(&origin), origin.count()), (2, 2));
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    let queue = &proxy.status()["queue"];
    assert_eq!(queue, &json!({ "waiting": 0, "queued": 18, "timed_out": 0, "turned_away": 0 }));
    eventually("the last one has left the count", || proxy.in_flight(&origin) == 0);
}

#[test]
fn who_came_first_is_served_first_whichever_worker_it_is_on() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let proxy = bounded(&[(&origin, 1)], json!({ "queue": { "timeout": "30s" } }));
    let (_holder, line) = line_up(&proxy, &origin, 12);
    gate.open();
    for mut client in line {
        assert_eq!(client.answer().status(), 200);
    }
    let targets: Vec<_> = origin.requests().iter().skip(1).map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, (0..12).map(|number| format!("/{number}")).collect::<Vec<_>>());
}

#[test]
fn who_finds_the_queue_full_is_told_at_once_and_its_connection_goes_on() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let proxy = bounded(&[(&origin, 1)], json!({ "queue": { "size": 1, "timeout": "30s" } }));
    let (mut holder, mut line) = line_up(&proxy, &origin, 1);
    let mut late = proxy.client();
    for _ in 0..2 {
        expect_turned_away(&late.get("/late"));
    }
    gate.open();
    assert_eq!((holder.answer().status(), line[0].answer().status(), late.get("/late").status()), (200, 200, 200));
    let status = proxy.status();
    assert_eq!((&status["queue"]["turned_away"], &status["failures"]["queue_full"]), (&2.into(), &2.into()));
}

#[test]
fn with_a_queue_of_size_zero_nobody_waits() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let proxy = bounded(&[(&origin, 1)], json!({ "queue": { "size": 0 } }));
    let (mut holder, _) = line_up(&proxy, &origin, 0);
    expect_turned_away(&proxy.get("/"));
    gate.open();
    assert_eq!(holder.answer().status(), 200);
    eventually("its place is free", || proxy.in_flight(&origin) == 0);
    assert_eq!(proxy.get("/").status(), 200);
}

#[test]
fn nobody_waits_longer_than_the_timeout() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let proxy = bounded(&[(&origin, 1)], json!({ "queue": { "timeout": "400ms" } }));
    let (_holder, _) = line_up(&proxy, &origin, 0);
    let mut client = proxy.client();
    let began = Instant::now();
    expect_turned_away(&client.get("/"));
    let took = began.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_millis(900)).contains(&took), "{took:?}");
    gate.open();
    assert_eq!(client.get("/").status(), 200, "its connection goes on");
    let status = proxy.status();
    assert_eq!((&status["queue"]["timed_out"], &status["failures"]["queue_timeout"]), (&1.into(), &1.into()));
}

#[test]
fn a_client_that_leaves_goes_out_of_the_queue() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let on_top = json!({ "queue": { "timeout": "30s" }, "timeouts": { "half_closed": "100ms" } });
    let proxy = bounded(&[(&origin, 1)], on_top);
    let (mut holder, mut line) = line_up(&proxy, &origin, 3);
    line.remove(0).reset();
    expect_waiting(&proxy, 2);
    drop(line.remove(0));
    expect_waiting(&proxy, 1);
    gate.open();
    assert_eq!((holder.answer().status(), line[0].answer().status()), (200, 200));
    assert_eq!(origin.count(), 2, "who had left is asked for nothing");
    assert_eq!(proxy.status()["failures"]["client_gone"], 2);
}

#[test]
fn all_requests_in_flight_together_have_a_bound_too() {
    let gate = Arc::new(Gate::default());
    let (a, b) = (Origin::holding("a", &gate), Origin::holding("b", &gate));
    let limits = json!({ "limits": { "max_in_flight": 3 }, "queue": { "timeout": "30s" } });
    let proxy = Proxy::with(&[&a, &b], limits);
    let clients: Vec<_> = (0..7).map(|_| asking(&proxy, "/hold")).collect();
    expect_waiting(&proxy, 4);
    eventually("as many as may have arrived", || a.count() + b.count() == 3);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().status(), 200);
    }
}

#[test]
fn a_full_backend_is_passed_over_while_another_has_room() {
    let gate = Arc::new(Gate::default());
    for strategy in ["round-robin", "least-conn", "p2c", "peak-ewma", "random", "ip-hash"] {
        let (narrow, wide) = (Origin::holding("narrow", &gate), Origin::holding("wide", &gate));
        let proxy = bounded(&[(&narrow, 1), (&wide, 0)], json!({ "strategy": strategy, "queue": { "size": 0 } }));
        let _clients: Vec<_> = (0..30).map(|_| asking(&proxy, "/hold")).collect();
        eventually("all have arrived", || narrow.count() + wide.count() == 30);
        assert!(narrow.count() <= 1, "{strategy}");
    }
    gate.open();
}

#[test]
fn a_backend_that_is_added_or_gets_more_room_serves_those_that_wait() {
    let gate = Arc::new(Gate::default());
    let (first, second) = (Origin::holding("first", &gate), Origin::answering("second"));
    let proxy = bounded(&[(&first, 1)], json!({ "queue": { "timeout": "30s" } }));
    let (mut holder, mut line) = line_up(&proxy, &first, 2);
    let name = format!("/backends/127.0.0.1:{}", first.port());
    let raised = proxy.admin("PATCH", &name, r#"{"max_connections": 2}"#);
    assert_eq!((raised.status(), &raised.json()["max_connections"]), (200, &2.into()));
    assert_eq!(line.remove(0).answer().text(), "first");

    // The room that the other one has left is taken again.
    assert_eq!(line.remove(0).answer().status(), 200);
    let mut again = asking(&proxy, "/hold");
    eventually("it has arrived", || first.count() == 4);
    let mut last = asking(&proxy, "/last");
    expect_waiting(&proxy, 1);
    let added = proxy.admin("POST", "/backends", &json!({ "url": second.url(), "max_connections": 5 }).to_string());
    assert_eq!((added.status(), &added.json()["max_connections"]), (201, &5.into()));
    assert_eq!(last.answer().text(), "second");
    gate.open();
    assert_eq!((holder.answer().status(), again.answer().status()), (200, 200));
}

#[test]
fn nobody_waits_for_a_backend_that_is_gone() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let proxy = bounded(&[(&origin, 1)], json!({ "queue": { "timeout": "30s" } }));
    let (mut holder, mut line) = line_up(&proxy, &origin, 2);
    assert_eq!(proxy.mutate("DELETE", &origin).status(), 204);
    for client in &mut line {
        let answer = client.answer();
        assert_eq!(answer.status(), 503);
        assert!(answer.list("proxy-status").contains("error=destination_unavailable"), "{answer:?}");
    }
    gate.open();
    assert_eq!(holder.answer().status(), 200);
    assert_eq!(proxy.status()["failures"]["no_backend"], 2);
}

#[test]
fn bodies_that_have_waited_for_long_arrive_whole() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let proxy = bounded(&[(&origin, 1)], json!({ "queue": { "timeout": "30s" } }));
    let (mut holder, _) = line_up(&proxy, &origin, 0);
    // One that is there with its head, one of which the kernel holds most, and one behind another on one connection.
    let (short, long) = ("x".repeat(3_000), "y".repeat(100_000));
    let post = |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (mut first, mut second) = (proxy.client(), proxy.client());
    first.send(post(&short)).send(post("behind"));
    second.send(post(&long));
    expect_waiting(&proxy, 2);
    // Longer than a wait keeps its buffers: the test is about what comes after that.
    std::thread::sleep(Duration::from_millis(400));
    gate.open();
    assert_eq!(holder.answer().status(), 200);
    assert_eq!([first.answer(), first.answer(), second.answer()].map(|answer| answer.status()), [200; 3]);
    let mut bodies: Vec<_> = origin.requests().into_iter().skip(1).map(|request| request.text()).collect();
    bodies.sort();
    assert_eq!(bodies, ["behind".to_owned(), short, long]);
}

#[test]
fn those_that_wait_when_the_proxy_is_told_to_stop_are_served() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("ok", &gate);
    let mut proxy = bounded(&[(&origin, 1)], json!({ "queue": { "timeout": "30s" } }));
    let (mut holder, mut line) = line_up(&proxy, &origin, 2);
    proxy.program.signal("TERM");
    eventually("it drains", || proxy.program.stderr().contains("draining"));
    gate.open();
    assert_eq!(holder.answer().status(), 200);
    for client in &mut line {
        let answer = client.answer();
        assert_eq!((answer.status(), answer.field("connection")), (200, Some("close")));
    }
    assert!(proxy.program.wait_for_exit(Duration::from_secs(10)).success());
}

#[test]
fn a_tunnel_keeps_its_place_until_it_ends() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        exchange.echo();
    });
    let proxy = bounded(&[(&origin, 1)], json!({ "queue": { "timeout": "30s" } }));
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut first = proxy.client();
    assert_eq!(first.send(upgrade).answer_head().status(), 101);
    let mut second = proxy.client();
    second.send(upgrade);
    expect_waiting(&proxy, 1);
    first.send("still here");
    assert_eq!(first.read_bytes(10), b"still here");
    drop(first);
    assert_eq!(second.answer_head().status(), 101);
}

#[test]
fn a_session_whose_backend_has_no_room_is_served_by_another_one_and_stays_bound() {
    let gate = Arc::new(Gate::default());
    let (a, b) = (Origin::holding("a", &gate), Origin::holding("b", &gate));
    let sticky = json!({ "sticky": { "by": "cookie" }, "queue": { "size": 0 } });
    let proxy = bounded(&[(&a, 1), (&b, 2)], sticky);
    let mut client = proxy.client();
    let mut get_as = |cookie: &str, path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
        client.send(head).answer()
    };
    let mut cookies = std::iter::repeat_with(|| {
        let first = get_as("x=y", "/");
        let cookie = first.field("set-cookie").expect("a cookie").split(';').next().expect("a part").to_owned();
        (first.text(), cookie)
    });
    let (_, cookie) = cookies.find(|(text, _)| text == "a").expect("it takes turns");
    eventually("its place is free", || proxy.in_flight(&a) == 0);
    let mut holder = proxy.client();
    holder.send(format!("GET /hold HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
    eventually("its place is taken", || proxy.in_flight(&a) == 1);

    let elsewhere = get_as(&cookie, "/");
    assert_eq!((elsewhere.text().as_str(), elsewhere.field("set-cookie")), ("b", None));
    gate.open();
    assert_eq!(holder.answer().text(), "a");
    eventually("its place is free", || proxy.in_flight(&a) == 0);
    assert_eq!(get_as(&cookie, "/").text(), "a");
}

#[test]
fn a_request_that_is_sent_again_has_its_turn_before_those_that_come_later() {
    let [close, serve] = [(); 2].map(|()| Arc::new(Gate::default()));
    let (closing, serving, sent) = (Arc::clone(&close), Arc::clone(&serve), AtomicUsize::new(0));
    let origin = Origin::start(move |exchange| match exchange.request.target() {
        "/warm" => exchange.answer(200, "ok"),
        "/again" if sent.fetch_add(1, Ordering::SeqCst) == 0 => {
            closing.wait();
            exchange.close();
        }
        _ => {
            serving.wait();
            exchange.answer(200, "ok");
        }
    });
    let proxy = bounded(&[(&origin, 1)], json!({ "workers": 1, "queue": { "timeout": "30s" } }));
    assert_eq!(proxy.get("/warm").status(), 200);
    let again = asking(&proxy, "/again");
    eventually("it goes over the kept connection", || origin.count() == 2);
    let before = asking(&proxy, "/before");
    expect_waiting(&proxy, 1);
    close.open();
    eventually("its place is the other's", || origin.count() == 3);
    expect_waiting(&proxy, 1);
    let later: Vec<_> = (0..5).map(|number| asking(&proxy, &format!("/later/{number}"))).collect();
    expect_waiting(&proxy, 6);
    serve.open();
    for mut client in [again, before].into_iter().chain(later) {
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(origin.requests()[3].target(), "/again");
}
