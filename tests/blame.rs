//! A backend isn't judged by what its clients do: one that gives up on a client which neither sends nor reads hasn't failed,
//! and isn't slow. What it does of its own is held against it all the same.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, Exchange, Gate, Origin, PATIENCE, Proxy, ScriptFn, eventually};

/// How long the backends here wait for their client.
const GIVES_UP: Duration = Duration::from_millis(400);

/// Its breaker trips at the first failure, and stays.
#[expect(clippy::needless_pass_by_value, reason = "each caller makes one for this call")]
fn strict(origin: &Origin, on_top: Value) -> Proxy {
    let mut config = json!({ "circuit_breaker": {
        "consecutive_failures": 1, "max_ejected_percent": 100, "open": "1h", "max_open": "1h", "on": "408,500-599",
    }});
    for (name, value) in on_top.as_object().expect("an object") {
        config[name] = value.clone();
    }
    Proxy::with(&[origin], config)
}

fn shown(proxy: &Proxy, origin: &Origin) -> Value {
    proxy.admin("GET", &format!("/backends/127.0.0.1:{}", origin.port()), "").json()
}

/// What has been held against it: failures, and whether its breaker is closed.
fn verdict(proxy: &Proxy, origin: &Origin) -> (u64, bool) {
    let shown = shown(proxy, origin);
    let failed = shown["totals"]["failed"].as_u64().expect("a number");
    (failed, shown["circuit_breaker"]["state"] == "closed")
}

const BLAMELESS: (u64, bool) = (0, true);

#[track_caller]
fn is_over(proxy: &Proxy, origin: &Origin) {
    eventually("the exchange is over", || origin.count() > 0 && proxy.in_flight(origin) == 0);
}

const HALF_A_BODY: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello";

#[test]
fn a_backend_that_gives_up_on_half_a_body_has_not_failed() {
    let scripts: [(&str, ScriptFn, u16); 6] = [
        ("closes", |exchange| exchange.close(), 502),
        ("resets", |exchange| exchange.reset(), 502),
        ("answers 408", |exchange| give_up_with(exchange, "408 Request Timeout"), 408),
        ("answers 500", |exchange| give_up_with(exchange, "500 Internal Server Error"), 500),
        ("answers 503", |exchange| give_up_with(exchange, "503 Service Unavailable"), 503),
        ("begins to answer and closes", |exchange| give_up_with(exchange, "200 OK\r\nX-Cut: 1"), 200),
    ];
    let requests = [
        HALF_A_BODY,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ];
    for ((name, script, status), request) in scripts.into_iter().zip(requests.into_iter().cycle()) {
        let origin = Origin::start(move |exchange| {
            assert!(!exchange.body_comes_within(GIVES_UP), "half of it was sent");
            script(exchange);
        });
        let proxy = strict(&origin, json!({}));
        let mut client = proxy.client();
        let answer = client.send(request).answer_head();
        assert_eq!(answer.status(), status, "{name}");
        is_over(&proxy, &origin);
        assert_eq!(verdict(&proxy, &origin), BLAMELESS, "{name}: {request:?}");
        assert_eq!(origin.count(), 1, "{name}: it isn't tried again");
    }
}

fn give_up_with(exchange: &mut Exchange, status: &str) {
    // Where it is to be cut, more is announced than comes.
    let length = if status.contains("X-Cut") { 100 } else { 2 };
    exchange.send(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\nno"));
    exchange.close();
}

#[test]
fn a_body_that_trickles_in_holds_its_backend_up_however_short_each_pause_is() {
    let origin = Origin::start(|exchange| {
        // It times the whole.
        let began = std::time::Instant::now();
        while began.elapsed() < GIVES_UP && exchange.read(&mut [0]) > 0 {}
        exchange.reset();
    });
    let proxy = strict(&origin, json!({}));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    let mut writer = client.writer();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) && writer.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        client.rest();
        over.store(true, Ordering::SeqCst);
    });
    is_over(&proxy, &origin);
    assert_eq!(verdict(&proxy, &origin), BLAMELESS);
}

#[test]
fn a_backend_that_gives_up_on_a_client_which_does_not_read_has_not_failed() {
    let ends: [(&str, &str, ScriptFn); 4] = [
        ("length, close", "Content-Length: 400000000\r\n\r\n", Exchange::close),
        ("length, reset", "Content-Length: 400000000\r\n\r\n", Exchange::reset),
        ("chunks, close", "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", Exchange::close),
        ("until the close, reset", "\r\n", Exchange::reset),
    ];
    for (name, framing, end) in ends {
        let gave_up = Arc::new(Gate::default());
        let opens = Arc::clone(&gave_up);
        let origin = Origin::start(move |exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
            let piece = vec![b'x'; 100_000];
            assert!(!(0..4000).all(|_| exchange.is_taken_within(&piece, GIVES_UP)), "nobody reads");
            end(exchange);
            opens.open();
        });
        let proxy = strict(&origin, json!({}));
        let mut client = Client::with_small_window(proxy.port).expect("the proxy listens");
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        gave_up.wait();
        // Now it reads after all, to the end, so that the proxy comes upon the cut.
        let mut reading = client.writer();
        let _ = std::io::copy(&mut reading, &mut std::io::sink());
        is_over(&proxy, &origin);
        assert_eq!(verdict(&proxy, &origin), BLAMELESS, "{name}");
    }
}

#[test]
fn a_client_that_expects_a_100_and_never_sends_its_body_is_nobodys_failure() {
    let ask = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n";
    let scripts: [(&str, ScriptFn, u16); 3] = [
        ("says nothing", |exchange| exchange.wait_for_end(), 504),
        (
            "gives up on the body",
            |exchange| {
                exchange.body_comes_within(GIVES_UP);
                exchange.close();
            },
            502,
        ),
        (
            "asks for it in vain",
            |exchange| {
                exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
                exchange.body_comes_within(GIVES_UP);
                exchange.reset();
            },
            502,
        ),
    ];
    for (name, script, status) in scripts {
        let origin = Origin::start(script);
        let proxy = strict(&origin, json!({ "request_timeout": "700ms" }));
        let mut client = proxy.client();
        assert_eq!(client.send(ask).answer().status(), status, "{name}");
        is_over(&proxy, &origin);
        assert_eq!(verdict(&proxy, &origin), BLAMELESS, "{name}");
    }
}

#[test]
fn a_trial_is_not_failed_by_its_client() {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let origin = Origin::start(move |exchange| {
        if fails.load(Ordering::SeqCst) {
            exchange.answer(500, "no");
        } else if exchange.body_comes_within(GIVES_UP) {
            exchange.answer(200, "yes");
        } else {
            exchange.close();
        }
    });
    let breaker = json!({ "consecutive_failures": 1, "max_ejected_percent": 100, "open": "50ms", "max_open": "1h" });
    let proxy = Proxy::with(&[&origin], json!({ "circuit_breaker": breaker }));
    let state = || shown(&proxy, &origin)["circuit_breaker"]["state"].as_str().unwrap_or("none").to_owned();
    proxy.get("/");
    failing.store(false, Ordering::SeqCst);
    eventually("it is tried again", || state() == "half-open");
    let seen = origin.count();
    let mut hostile = proxy.client();
    hostile.send(HALF_A_BODY);
    eventually("the trial is on", || origin.count() > seen);
    assert_eq!(hostile.answer().status(), 502);
    assert_eq!(shown(&proxy, &origin)["circuit_breaker"]["ejections"], 1, "it has not relapsed");
    eventually("others pass it", || {
        proxy.get("/");
        state() == "closed"
    });
}

#[test]
fn what_a_backend_does_of_its_own_is_held_against_it_whatever_its_client_does() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let whole = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    let scripts: [(&str, &str, ScriptFn); 9] = [
        ("it resets as soon as it has a head", HALF_A_BODY, Exchange::reset),
        ("it closes as soon as it has a head", HALF_A_BODY, Exchange::close),
        ("it answers 500 as soon as it has a head", HALF_A_BODY, |exchange| {
            give_up_with(exchange, "500 Internal Server Error");
        }),
        ("it has nonsense to say to half a body", HALF_A_BODY, |exchange| {
            exchange.body_comes_within(GIVES_UP);
            exchange.send("nonsense\r\n\r\n");
        }),
        ("it switches protocols unasked at half a body", HALF_A_BODY, |exchange| {
            exchange.body_comes_within(GIVES_UP);
            exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        }),
        ("it never answers", whole, Exchange::wait_for_end),
        ("it takes its time, and resets", whole, |exchange| {
            exchange.body_comes_within(GIVES_UP);
            thread::sleep(GIVES_UP);
            exchange.reset();
        }),
        ("it cuts its answer short", get, |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            thread::sleep(GIVES_UP);
            exchange.close();
        }),
        ("it stalls in its answer", get, |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            exchange.wait_for_end();
        }),
    ];
    for (name, request, script) in scripts {
        let origin = Origin::start(script);
        let config = json!({
            "request_timeout": "1500ms", "timeouts": { "body_idle": "1500ms" }, "retries": { "attempts": 1 },
        });
        let proxy = strict(&origin, config);
        let mut client = proxy.client();
        client.send(request).rest();
        // The breaker's part is heard of a little later than the count.
        eventually(name, || !verdict(&proxy, &origin).1);
    }
}

#[test]
fn a_slow_upload_makes_no_slow_backend() {
    let origin = Origin::answering("done");
    let proxy = Proxy::with(&[&origin], json!({ "strategy": "peak-ewma" }));
    let mut client = proxy.client();
    client.send(HALF_A_BODY);
    eventually("its head is there", || origin.count() == 1);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(client.send("world").answer().status(), 200);
    is_over(&proxy, &origin);
    let took = shown(&proxy, &origin)["latency_ms"]["p99"].as_f64().expect("one was measured");
    assert!(took < 800.0, "{took} ms");
}

#[test]
fn an_answer_to_half_a_body_is_measured_only_when_nobody_waited_for_the_client() {
    let origin = Origin::start(|exchange| {
        let patience = if exchange.request.target() == "/late" { GIVES_UP } else { Duration::from_millis(1) };
        exchange.body_comes_within(patience);
        give_up_with(exchange, "413 Content Too Large");
    });
    let proxy = Proxy::with(&[&origin], json!({ "strategy": "peak-ewma" }));
    for (target, measured) in [("/late", false), ("/at-once", true)] {
        let ask = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
        assert_eq!(proxy.client().send(ask).answer().status(), 413);
        is_over(&proxy, &origin);
        let shown = shown(&proxy, &origin);
        assert_eq!(shown["latency_ms"]["p50"].is_number(), measured, "{target}: {shown}");
    }
    assert_eq!(shown(&proxy, &origin)["totals"]["4xx"], 2);
}

#[test]
fn hostile_clients_take_no_backend_from_others() {
    let script = |exchange: &mut Exchange| {
        if exchange.body_comes_within(GIVES_UP) { exchange.answer(200, "ok") } else { exchange.close() }
    };
    let origins: Vec<Origin> = (0..4).map(|_| Origin::start(script)).collect();
    let proxy =
        Proxy::with(&origins.iter().collect::<Vec<_>>(), json!({ "circuit_breaker": { "max_ejected_percent": 100 } }));
    let hostile: Vec<Client> = (0..48)
        .map(|_| {
            let mut client = proxy.client();
            client.send(HALF_A_BODY);
            client
        })
        .collect();
    let ended =
        || origins.iter().map(|origin| shown(&proxy, origin)["totals"]["abandoned"].as_u64().unwrap_or(0)).sum::<u64>();
    let began = std::time::Instant::now();
    while ended() < 48 {
        assert_eq!(proxy.get("/").status(), 200);
        assert!(began.elapsed() < PATIENCE, "{} of 48 have ended", ended());
    }
    drop(hostile);
    assert!(origins.iter().all(|origin| shown(&proxy, origin)["circuit_breaker"]["state"] == "closed"));
}
