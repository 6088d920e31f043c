//! Requests that are sent again, and those that never are (DESIGN: retries never submit twice).

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Exchange, Message, Origin, Proxy, eventually, free_port};

/// Answers each connection's first request and closes, without a word, on its second.
fn closes_on_reuse() -> Origin {
    Origin::start(|exchange| {
        if exchange.on_connection == 0 {
            exchange.answer(200, "ok");
        } else {
            exchange.read_body();
            exchange.close();
        }
    })
}

fn with_one_worker(origin: &Origin) -> Proxy {
    Proxy::with(&[origin], json!({ "workers": 1 }))
}

fn sent(origin: &Origin, method: &str) -> usize {
    origin.requests().iter().filter(|request| request.method() == method).count()
}

#[test]
fn a_get_that_meets_a_dead_connection_is_sent_again() {
    let origin = closes_on_reuse();
    let proxy = with_one_worker(&origin);
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").status(), 200);
    }
}

#[test]
fn a_request_that_is_sent_again_keeps_its_id() {
    let origin = closes_on_reuse();
    let proxy = with_one_worker(&origin);
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").status(), 200);
    }
    let ids: Vec<_> = origin.requests().iter().map(|request| request.list("x-request-id")).collect();
    assert_eq!(ids.len(), 3, "the second was sent twice: {ids:?}");
    assert!(ids[0] != ids[1] && ids[1] == ids[2], "{ids:?}");
}

/// Answers each connection's first request, and says on its second that it has waited for it for too long.
fn gives_up_on_reuse(fields: &'static [&'static str]) -> Origin {
    Origin::start(|exchange| {
        exchange.read_body();
        if exchange.on_connection == 0 {
            exchange.answer(200, "ok");
        } else {
            exchange.answer_with(408, fields, "too late");
        }
    })
}

/// The answer to `request` on a kept connection, and how often the origin saw it.
fn on_a_kept_connection(origin: &Origin, on_top: serde_json::Value, request: &str) -> (u16, usize) {
    let proxy = Proxy::with(&[origin], on_top);
    let mut client = proxy.client();
    assert_eq!(client.get("/first").status(), 200);
    let status = client.send(request).answer().status();
    (status, origin.count() - 1)
}

#[test]
fn a_408_that_says_that_a_kept_connection_had_been_given_up_has_the_request_sent_again() {
    let one_worker = || json!({ "workers": 1 });
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let method = request.split(' ').next().expect("a method");
        let origin = gives_up_on_reuse(&["Connection: close"]);
        let proxy = Proxy::with(&[&origin], one_worker());
        let mut client = proxy.client();
        assert_eq!(client.get("/first").status(), 200);
        assert_eq!(client.send(request).answer_to(method).status(), 200, "{request}");
        assert_eq!(origin.count(), 3, "{request}");
        let retries = &proxy.status()["retries"];
        assert_eq!(retries["sent"], 0, "it takes nothing out of the budget: {retries}");
    }
}

#[test]
fn a_408_of_any_other_kind_is_the_clients_answer() {
    let one_worker = || json!({ "workers": 1 });
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let closes = || gives_up_on_reuse(&["Connection: close"]);
    assert_eq!(on_a_kept_connection(&closes(), one_worker(), post), (408, 1), "it may be sent once only");
    let once = json!({ "workers": 1, "retries": {"attempts": 1} });
    assert_eq!(on_a_kept_connection(&closes(), once, get), (408, 1), "there is no other try");
    let never = json!({ "workers": 1, "retries": {"on": ["connect"]} });
    assert_eq!(on_a_kept_connection(&closes(), never, get), (408, 1), "it isn't to be tried again");
    assert_eq!(on_a_kept_connection(&gives_up_on_reuse(&[]), one_worker(), get), (408, 1), "the connection goes on");
    let at_once = Origin::start(|exchange| exchange.answer_with(408, &["Connection: close"], "too late"));
    let proxy = Proxy::with(&[&at_once], one_worker());
    assert_eq!((proxy.get("/").status(), at_once.count()), (408, 1), "nobody waited on a new connection");
}

#[test]
fn a_post_that_meets_a_dead_connection_is_never_sent_twice() {
    let origin = closes_on_reuse();
    let proxy = with_one_worker(&origin);
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    let answer = client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
    assert_eq!(answer.status(), 502, "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=connection_terminated"), "{answer:?}");
    assert_eq!(sent(&origin, "POST"), 1);
}

#[test]
fn a_put_whose_body_is_not_whole_in_hand_is_never_sent_twice() {
    let origin = Origin::start(|exchange| {
        if exchange.on_connection == 0 {
            exchange.answer(200, "ok");
        } else {
            exchange.reset();
        }
    });
    let proxy = with_one_worker(&origin);
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly the beginning");
    eventually("the beginning arrives", || sent(&origin, "PUT") == 1);
    assert_eq!(client.answer().status(), 502);
    assert_eq!(sent(&origin, "PUT"), 1);
}

#[test]
fn a_connection_that_the_backend_closed_while_idle_is_not_handed_out() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let origin = Origin::start(move |exchange| {
        exchange.answer(200, "ok");
        exchange.close();
        count.fetch_add(1, Ordering::SeqCst);
    });
    let proxy = with_one_worker(&origin);
    let mut client = proxy.client();
    for n in 1..=20 {
        // Even a POST: the close was there to be seen before it was sent.
        let answer = client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
        assert_eq!(answer.status(), 200, "request {n}: {answer:?}");
        eventually("the request is over", || proxy.in_flight(&origin) == 0 && closed.load(Ordering::SeqCst) == n);
    }
    assert_eq!(origin.count(), 20);
}

#[test]
fn an_answer_that_has_begun_is_never_asked_for_again() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        exchange.reset();
    });
    let proxy = with_one_worker(&origin);
    let rest = proxy.client().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_fresh_connection_that_dies_is_not_tried_for_ever() {
    let origin = Origin::start(Exchange::reset);
    let proxy = with_one_worker(&origin);
    assert_eq!(proxy.get("/").status(), 502);
    assert!(origin.count() <= 3, "{} tries", origin.count());
}

#[test]
fn a_refused_connection_is_tried_elsewhere_even_for_a_post() {
    let live = Origin::answering("ok");
    let dead = format!("http://127.0.0.1:{}", free_port());
    let proxy = Proxy::with(&[], json!({ "backends": [dead, live.url()] }));
    for _ in 0..6 {
        let answer = proxy.client().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    assert_eq!(live.count(), 6);
    assert!(live.requests().iter().all(|request| request.text() == "hi"));
}

#[test]
fn a_backend_that_refuses_leaves_rotation_at_once_and_comes_back_by_itself() {
    let stays = Origin::answering("stays");
    let falls = Origin::answering("falls");
    let quick =
        json!({ "health_check_frequency": "1s", "health_check": {"fast_interval": "100ms", "rise": 2, "fall": 100} });
    let proxy = Proxy::with(&[&stays, &falls], quick);
    eventually("both were probed", || stays.probes() > 0 && falls.probes() > 0);
    let url = falls.url();
    let port = falls.stop();
    let alive = || {
        let status = proxy.status();
        status["backends"].as_array().expect("an array").iter().any(|b| b["url"] == url.as_str() && b["alive"] == true)
    };
    // `fall` can't be what takes it out: it wants a hundred failures.
    for _ in 0..4 {
        assert_eq!(proxy.get("/").text(), "stays");
    }
    eventually("it left rotation", || !alive());
    assert_eq!(proxy.status()["active_backends"], 1);

    let back = Origin::start_on(port, |exchange| exchange.answer(200, "back"));
    eventually("it came back", alive);
    let texts: Vec<_> = (0..4).map(|_| proxy.get("/").text()).collect();
    assert_eq!(texts.iter().filter(|text| *text == "back").count(), 2, "{texts:?}");
    assert!(back.probes() >= 2, "`rise` asks for two good probes");
}

#[test]
fn when_every_backend_refuses_the_answers_say_so_at_once() {
    let dead = || format!("http://127.0.0.1:{}", free_port());
    let proxy = Proxy::with(&[], json!({ "backends": [dead(), dead()] }));
    let began = Instant::now();
    let explained = |answer: &Message, status: u16, error: &str| {
        answer.status() == status && answer.list("proxy-status").contains(&format!("error={error}"))
    };
    let first = proxy.get("/");
    let refused = explained(&first, 502, "connection_refused") || explained(&first, 503, "destination_unavailable");
    assert!(refused, "{first:?}");
    eventually("both are out", || proxy.status()["active_backends"] == 0);
    let next = proxy.get("/");
    assert!(explained(&next, 503, "destination_unavailable"), "{next:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_name_that_does_not_exist_is_a_502_that_says_so() {
    let proxy = Proxy::with(&[], json!({ "backends": ["http://no-such-host.invalid:80"] }));
    let answer = proxy.get("/");
    let why = answer.list("proxy-status");
    let said = why.contains("error=dns_error") || why.contains("error=destination_unavailable");
    assert!((answer.status() == 502 || answer.status() == 503) && said, "{answer:?}");
}

#[test]
fn an_answer_of_a_listed_status_is_passed_over_while_another_backend_is_there() {
    let (bad, good) = (Origin::start(|exchange| exchange.answer(503, "not now")), Origin::answering("fine"));
    let proxy = Proxy::with(&[&bad, &good], json!({"retries": {"on": ["503"]}}));
    let mut client = proxy.client();
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), "fine");
    }
    assert_eq!(good.count(), 6);
    assert!(bad.count() >= 3, "{}", bad.count());
    assert_eq!(proxy.status()["retries"], json!({"sent": bad.count(), "denied": 0}));
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let mut statuses = [client.send(post).answer().status(), client.send(post).answer().status()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503], "what isn't idempotent is asked once");
    proxy.mutate("DELETE", &good);
    assert_eq!(client.get("/").text(), "not now", "the last one's answer is passed on");
}

#[test]
fn a_status_that_is_not_listed_is_passed_on() {
    let (bad, good) = (Origin::start(|exchange| exchange.answer(503, "not now")), Origin::answering("fine"));
    let proxy = Proxy::with(&[&bad, &good], json!({"retries": {"on": ["connect", "reset", "502", "504"]}}));
    let mut client = proxy.client();
    let mut answers = [client.get("/").text(), client.get("/").text()];
    answers.sort_unstable();
    assert_eq!(answers, ["fine", "not now"]);
}

#[test]
fn retries_stay_within_their_budget() {
    let resets = || Origin::start(Exchange::reset);
    // At 20 percent of a hundred requests the least that is allowed is more: 30 in 10 s.
    for (percent, want) in [(20, 30), (50, 50)] {
        let (one, two) = (resets(), resets());
        let proxy = Proxy::with(&[&one, &two], json!({"retries": {"budget_percent": percent, "attempts": 2}}));
        let begin = Instant::now();
        for _ in 0..100 {
            assert_eq!(proxy.get("/").status(), 502);
        }
        let sent = proxy.status()["retries"]["sent"].as_u64().expect("a count");
        // A machine that is so busy that they take longer gives more than one budget.
        let budgets = 1 + begin.elapsed().as_secs() / 8;
        let least = if budgets == 1 { want } else { 30 };
        assert!((least..=want * budgets).contains(&sent), "{sent} of {percent} percent in {budgets} budgets");
        assert_eq!(one.count() + two.count(), 100 + usize::try_from(sent).unwrap());
    }
}

#[test]
fn kept_connections_that_turn_out_closed_cost_no_budget() {
    let origin = closes_on_reuse();
    let proxy = Proxy::with(&[&origin], json!({"workers": 1, "retries": {"budget_percent": 0}}));
    let mut client = proxy.client();
    for _ in 0..80 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(proxy.status()["retries"], json!({"sent": 0, "denied": 0}));
}
