//! Circuit breakers: a backend that fails its requests is left out, tried again and brought back, and when all fail, all
//! go on being asked.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use support::{Client, Exchange, Gate, Origin, Proxy, eventually, free_port};

/// Answers with a status that the test can change at any time.
struct Mood(Arc<AtomicU16>);

impl Mood {
    fn origin(status: u16) -> (Origin, Self) {
        let mood = Arc::new(AtomicU16::new(status));
        let seen = Arc::clone(&mood);
        let origin = Origin::start(move |exchange| exchange.answer(seen.load(Ordering::SeqCst), "moody"));
        (origin, Self(mood))
    }

    fn set(&self, status: u16) {
        self.0.store(status, Ordering::SeqCst);
    }
}

/// A breaker that opens for so long that no test sees it half-open, unless the test says otherwise.
#[expect(clippy::needless_pass_by_value, reason = "each caller makes one for this call")]
fn with_breaker(origins: &[&Origin], breaker: Value) -> Proxy {
    let mut long = json!({ "open": "1h", "max_open": "1h" });
    for (name, value) in breaker.as_object().expect("an object") {
        long[name] = value.clone();
    }
    Proxy::with(origins, json!({ "circuit_breaker": long }))
}

fn named(origin: &Origin) -> String {
    format!("/backends/127.0.0.1:{}", origin.port())
}

fn shown(proxy: &Proxy, origin: &Origin) -> Value {
    proxy.admin("GET", &named(origin), "").json()
}

fn state(proxy: &Proxy, origin: &Origin) -> String {
    shown(proxy, origin)["circuit_breaker"]["state"].as_str().unwrap_or("none").to_owned()
}

/// Sends GETs on connections of their own, so that both workers get some, until the origin's breaker is in that state.
fn get_until(proxy: &Proxy, origin: &Origin, wanted: &str) {
    eventually(wanted, || {
        proxy.get("/");
        state(proxy, origin) == wanted
    });
}

fn post(client: &mut Client) -> u16 {
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").answer().status()
}

#[test]
fn a_backend_that_answers_500_to_everything_is_out_at_once_and_comes_back_once_it_is_mended() {
    let ((bad, mood), good) = (Mood::origin(500), Origin::answering("fine"));
    let proxy = with_breaker(&[&bad, &good], json!({ "open": "200ms" }));
    let statuses: Vec<u16> = (0..40).map(|_| proxy.get("/").status()).collect();
    let seen = statuses.iter().filter(|status| **status == 500).count();
    // The fifth isn't passed on, since the other one can be asked.
    assert_eq!(seen, 4, "{statuses:?}");
    eventually("it was tried again", || {
        let status = proxy.get("/").status();
        assert_eq!(status, 200, "a trial that fails is nobody's answer");
        shown(&proxy, &bad)["circuit_breaker"]["ejections"].as_u64() >= Some(2)
    });
    mood.set(200);
    get_until(&proxy, &bad, "closed");
    let breaker = &shown(&proxy, &bad)["circuit_breaker"];
    assert_eq!((&breaker["reason"], &breaker["until"]), (&json!("its trials passed"), &json!(null)));
    assert_eq!(breaker["consecutive_failures"], 0);
    let before = bad.count();
    (0..10).for_each(|_| assert_eq!(proxy.get("/").status(), 200));
    assert_eq!(bad.count() - before, 5, "it has its share again");
    let changes = shown(&proxy, &bad)["changes"].clone();
    let said: Vec<&str> =
        changes.as_array().expect("a list").iter().filter_map(|change| change["what"].as_str()).collect();
    assert_eq!(said[..2], ["breaker closed: its trials passed", "breaker half-open: its stay outside is over"]);
    assert!(said.iter().any(|what| what.ends_with("5 failures in a row")), "{said:?}");
    assert!(said.iter().any(|what| what.ends_with("a trial failed")), "{said:?}");
}

#[test]
fn many_connections_at_once_see_no_more_failures_than_are_allowed_in_a_row() {
    let ((bad, _), good) = (Mood::origin(500), Origin::answering("fine"));
    // As many as are under way when it trips are tried again, however many that are.
    let long = json!({"open": "1h", "max_open": "1h"});
    let proxy = Proxy::with(&[&bad, &good], json!({"circuit_breaker": long, "retries": {"budget_percent": 100}}));
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..10 {
                    let status = client.get("/").status();
                    assert!([200, 500].contains(&status), "{status}");
                    failed.fetch_add(usize::from(status == 500), Ordering::SeqCst);
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!((1..=5).contains(&failed), "{failed} were seen");
    assert_eq!(state(&proxy, &bad), "open");
}

#[test]
fn a_share_of_failures_trips_it_too() {
    let turns = AtomicUsize::new(0);
    let bad = Origin::start(move |exchange| {
        let status = if turns.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) { 200 } else { 503 };
        exchange.answer(status, "mostly not");
    });
    let good = Origin::answering("fine");
    let proxy = with_breaker(&[&bad, &good], json!({ "minimum_requests": 12 }));
    get_until(&proxy, &bad, "open");
    assert_eq!(shown(&proxy, &bad)["circuit_breaker"]["reason"], "8 of 12 requests failed");
    assert_eq!(bad.count(), 12);
}

#[test]
fn only_listed_statuses_count() {
    let ((bad, mood), good) = (Mood::origin(500), Origin::answering("fine"));
    let proxy = with_breaker(&[&bad, &good], json!({ "on": "404,502-504" }));
    (0..30).for_each(|_| drop(proxy.get("/")));
    assert_eq!(state(&proxy, &bad), "closed");
    mood.set(404);
    get_until(&proxy, &bad, "open");
}

#[test]
fn whatever_else_a_backend_fails_by_counts_and_what_its_client_does_does_not() {
    let scripts: [(&str, support::ScriptFn); 4] = [
        ("reset", Exchange::reset),
        ("nonsense", |exchange| {
            exchange.send("nonsense\r\n\r\n");
        }),
        ("silence", Exchange::wait_for_end),
        ("half an answer", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            exchange.close();
        }),
    ];
    for (what, script) in scripts {
        let (bad, good) = (Origin::start(script), Origin::answering("fine"));
        let on_top = json!({
            "request_timeout": "100ms",
            "circuit_breaker": {"open": "1h", "max_open": "1h", "minimum_requests": 5},
        });
        let proxy = Proxy::with(&[&bad, &good], on_top);
        eventually(what, || {
            proxy.client().send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").rest();
            state(&proxy, &bad) == "open"
        });
    }
    let gate = Arc::new(Gate::default());
    let slow = Origin::holding("late", &gate);
    let proxy = with_breaker(&[&slow], json!({ "consecutive_failures": 1, "max_ejected_percent": 100 }));
    let mut client = proxy.client();
    client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || slow.count() == 1);
    client.reset();
    eventually("its client has gone", || shown(&proxy, &slow)["totals"]["abandoned"] == 1);
    gate.open();
    assert_eq!(proxy.get("/").text(), "late");
    assert_eq!(state(&proxy, &slow), "closed");
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_is_no_failure() {
    let origin =
        Origin::start(
            |exchange| {
                if exchange.on_connection == 0 { exchange.answer(200, "once") } else { exchange.close() }
            },
        );
    let proxy = with_breaker(&[&origin], json!({ "consecutive_failures": 1, "max_ejected_percent": 100 }));
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/").status(), 200));
    assert_eq!(state(&proxy, &origin), "closed");
}

#[test]
fn a_kept_connection_on_which_nothing_is_answered_is_a_failure() {
    let origin =
        Origin::start(
            |exchange| {
                if exchange.on_connection == 0 { exchange.answer(200, "once") } else { exchange.wait_for_end() }
            },
        );
    let on_top = json!({
        "workers": 1,
        "request_timeout": "100ms",
        "circuit_breaker": {"open": "1h", "max_open": "1h", "consecutive_failures": 1, "max_ejected_percent": 100},
    });
    let proxy = Proxy::with(&[&origin], on_top);
    get_until(&proxy, &origin, "open");
}

#[test]
fn when_all_fail_answers_go_on_and_status_says_so() {
    let ((one, mood), (two, _)) = (Mood::origin(500), Mood::origin(500));
    let proxy = with_breaker(&[&one, &two], json!({ "open": "200ms", "max_open": "200ms" }));
    eventually("both have tripped", || {
        assert_eq!(proxy.get("/").status(), 500);
        proxy.status()["panic_mode"] == true
    });
    assert_eq!(proxy.status()["active_backends"], 2);
    for _ in 0..50 {
        assert_eq!(proxy.get("/").status(), 500);
    }
    assert!(proxy.admin("GET", "/readyz", "").status() == 200);
    mood.set(200);
    get_until(&proxy, &one, "closed");
    assert_eq!(proxy.status()["panic_mode"], false);
    let logged = |line: &str| proxy.program.stderr().matches(line).count();
    eventually("the end of it is logged", || logged("panic mode is over") == 1);
    assert_eq!(logged("panic mode: "), 1, "{}", proxy.program.stderr());
    eventually("the other one alone is out", || proxy.get("/").status() == 200 && state(&proxy, &two) == "open");
}

#[test]
fn with_no_bound_all_are_ejected_and_a_trial_brings_one_back() {
    let (only, mood) = Mood::origin(500);
    let proxy = with_breaker(&[&only], json!({ "open": "1s", "max_ejected_percent": 100 }));
    let statuses: Vec<u16> = (0..5).map(|_| proxy.get("/").status()).collect();
    assert_eq!(statuses, [500; 5], "the last one's answers are passed on");
    eventually("it is ejected", || proxy.status()["active_backends"] == 0);
    mood.set(200);
    assert_eq!(proxy.get("/").status(), 503);
    assert_eq!(proxy.admin("GET", "/readyz", "").status(), 503);
    eventually("it is back", || proxy.get("/").status() == 200);
    eventually("its breaker is known to be closed", || state(&proxy, &only) == "closed");
}

#[test]
fn trials_are_as_many_as_are_configured() {
    let gate = Arc::new(Gate::default());
    let (mended, held) = (Arc::new(AtomicBool::new(false)), Arc::clone(&gate));
    let is_mended = Arc::clone(&mended);
    let bad = Origin::start(move |exchange| {
        if is_mended.load(Ordering::SeqCst) {
            held.wait();
            exchange.answer(200, "mended");
        } else {
            exchange.answer(500, "bad");
        }
    });
    let good = Origin::answering("fine");
    let proxy = with_breaker(&[&bad, &good], json!({ "open": "100ms", "half_open_requests": 2 }));
    get_until(&proxy, &bad, "open");
    mended.store(true, Ordering::SeqCst);
    let before = bad.count();
    thread::scope(|scope| {
        let trials: Vec<_> = (0..2).map(|_| scope.spawn(|| get_text_until(&proxy, "mended"))).collect();
        eventually("both trials are there", || bad.count() - before == 2);
        gate.open();
        for trial in trials {
            trial.join().expect("it ends");
        }
    });
    eventually("it is back", || state(&proxy, &bad) == "closed");
}

/// Sends GETs until one of them has that answer.
fn get_text_until(proxy: &Proxy, wanted: &str) {
    eventually(wanted, || proxy.get("/").text() == wanted);
}

#[test]
fn an_operator_takes_one_out_that_is_ejected_and_brings_it_back() {
    let ((bad, mood), good) = (Mood::origin(500), Origin::answering("fine"));
    let proxy = with_breaker(&[&bad, &good], json!({ "open": "200ms" }));
    get_until(&proxy, &bad, "open");
    mood.set(200);
    assert_eq!(proxy.admin("PATCH", &named(&bad), "{\"state\": \"drain\"}").status(), 200);
    assert_eq!(shown(&proxy, &bad)["ineligible_reason"], "drained by an operator");
    eventually("its stay is over", || state(&proxy, &bad) == "half-open");
    let before = bad.count();
    (0..10).for_each(|_| assert_eq!(proxy.get("/").text(), "fine"));
    assert_eq!(bad.count(), before);
    assert_eq!(proxy.admin("PATCH", &named(&bad), "{\"state\": \"ready\"}").status(), 200);
    get_until(&proxy, &bad, "closed");
    mood.set(500);
    get_until(&proxy, &bad, "open");
    assert_eq!(proxy.mutate("DELETE", &bad).status(), 204);
    assert_eq!(proxy.mutate("POST", &bad).status(), 201);
    assert_eq!(state(&proxy, &bad), "closed", "who is added anew has a clean slate");
}

#[test]
fn a_post_is_never_passed_over() {
    let ((bad, _), good) = (Mood::origin(500), Origin::answering("fine"));
    let proxy = with_breaker(&[&bad, &good], json!({}));
    let mut client = proxy.client();
    let failed = (0..30).filter(|_| post(&mut client) == 500).count();
    assert_eq!((failed, bad.count(), good.count()), (5, 5, 25));
}

#[test]
fn without_a_breaker_nothing_is_left_out_and_nothing_is_shown() {
    let ((bad, _), good) = (Mood::origin(500), Origin::answering("fine"));
    let proxy = Proxy::over(&[&bad, &good]);
    (0..40).for_each(|_| drop(proxy.get("/")));
    assert_eq!(bad.count(), 20);
    assert_eq!(shown(&proxy, &bad)["circuit_breaker"], json!(null));
    assert_eq!(proxy.status_of(&bad)["circuit_breaker"], json!(null));
}

#[test]
fn a_session_leaves_a_backend_that_is_ejected() {
    let ((bad, mood), good) = (Mood::origin(200), Origin::answering("fine"));
    let on_top = json!({
        "circuit_breaker": {"open": "1h", "max_open": "1h"},
        "sticky": {"by": "cookie", "name": "HOME"},
    });
    let proxy = Proxy::with(&[&bad, &good], on_top);
    let home = eventually_at_home(&proxy, "moody");
    let get = || proxy.client().send(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {home}\r\n\r\n")).answer();
    (0..6).for_each(|_| assert_eq!(get().text(), "moody"));
    mood.set(500);
    let failed = (0..20).filter(|_| get().status() == 500).count();
    assert_eq!((failed, state(&proxy, &bad).as_str()), (4, "open"));
    assert_eq!(get().text(), "fine");
    assert!(get().field("set-cookie").is_some(), "it has moved for good");
}

/// The cookie of a session at the backend with this answer.
fn eventually_at_home(proxy: &Proxy, text: &str) -> String {
    let mut home = None;
    eventually("a session is there", || {
        let answer = proxy.get("/");
        let cookie = answer.field("set-cookie").and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        home = cookie.filter(|_| answer.text() == text);
        home.is_some()
    });
    home.expect("just seen")
}

#[test]
fn when_all_are_down_by_their_checks_they_are_tried_if_that_is_wanted() {
    for (when_all_down, status) in [("refuse", 503), ("try", 200)] {
        let origin = Origin::answering("fine all the same");
        origin.set_healthy(false);
        let proxy = Proxy::with(&[&origin], json!({ "when_all_down": when_all_down }));
        eventually("it is down", || !proxy.is_alive(&origin));
        assert_eq!(proxy.get("/").status(), status, "{when_all_down}");
        assert_eq!(proxy.admin("GET", "/readyz", "").status(), 503);
    }
    // An address and no one behind it: tried in vain for a while.
    let dead = format!("http://127.0.0.1:{}", free_port());
    let proxy = Proxy::with(&[], json!({ "backends": [dead], "when_all_down": "try" }));
    eventually("it is down", || proxy.status()["backends"][0]["alive"] == false);
    assert_eq!(proxy.get("/").status(), 503);
}
