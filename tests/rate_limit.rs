//! Rate limits: each client gets what is configured, exactly and over all workers, and costs nobody else anything.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Message, Origin, Proxy, eventually};

#[expect(clippy::needless_pass_by_value, reason = "each caller makes one for this call")]
fn limited(origin: &Origin, rate_limit: Value) -> Proxy {
    Proxy::with(&[origin], json!({ "rate_limit": rate_limit }))
}

/// A proxy that lets each client send two requests, and no third within this test.
fn two_each(origin: &Origin, mut rate_limit: Value) -> Proxy {
    rate_limit["requests"] = 1.into();
    rate_limit["per"] = "1h".into();
    rate_limit["burst"] = 2.into();
    limited(origin, rate_limit)
}

/// Sends a GET with this line in its head.
fn get_with(client: &mut Client, line: &str) -> Message {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")).answer()
}

fn statuses<const N: usize>(mut send: impl FnMut() -> Message) -> [u16; N] {
    [(); N].map(|()| send().status())
}

#[test]
fn who_asks_too_often_gets_429_and_is_told_when_to_come_back() {
    let origin = Origin::answering("ok");
    let proxy = two_each(&origin, json!({}));
    let mut client = proxy.client();
    for remaining in [1, 0] {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("ratelimit-policy"), Some("\"maypole\";q=2;w=7200"));
        assert_eq!(answer.field("ratelimit"), Some(format!("\"maypole\";r={remaining};t=3600").as_str()));
    }
    // Its connection goes on.
    for _ in 0..2 {
        let refused = client.get("/");
        assert_eq!(refused.status(), 429);
        assert!(refused.start.ends_with("429 Too Many Requests"), "{refused:?}");
        assert!(refused.list("proxy-status").contains("error=http_request_denied"), "{refused:?}");
        let seconds: u64 = refused.field("retry-after").and_then(|text| text.parse().ok()).expect("a number");
        assert!((3500..=3600).contains(&seconds), "{seconds}");
        assert_eq!(refused.field("ratelimit"), Some(format!("\"maypole\";r=0;t={seconds}").as_str()));
        assert_eq!(refused.field("ratelimit-policy"), Some("\"maypole\";q=2;w=7200"));
    }
    assert_eq!(origin.count(), 2);
    assert_eq!(proxy.status()["failures"]["rate_limited"], 2);
}

#[test]
fn a_request_that_is_tried_again_is_charged_for_once() {
    // Every other one meets a kept connection that its backend closes.
    let origin = Origin::start(
        |exchange| if exchange.on_connection == 0 { exchange.answer(200, "ok") } else { exchange.close() },
    );
    let limit = json!({ "requests": 1, "per": "1h", "burst": 4 });
    let proxy = Proxy::with(&[&origin], json!({ "workers": 1, "rate_limit": limit }));
    let mut client = proxy.client();
    assert_eq!(statuses(|| client.get("/")), [200, 200, 200, 200, 429]);
    assert!(origin.count() > 4, "none was tried again");
}

#[test]
fn a_backends_own_fields_are_passed_on_beside_maypoles() {
    let origin = Origin::start(|exchange| exchange.answer_with(200, &["RateLimit: \"own\";r=5"], "ok"));
    let answer = two_each(&origin, json!({})).get("/");
    assert_eq!(answer.all("ratelimit"), ["\"own\";r=5", "\"maypole\";r=1;t=3600"]);
}

#[test]
fn without_a_limit_nothing_is_said_of_one() {
    let origin = Origin::answering("ok");
    let answer = Proxy::over(&[&origin]).get("/");
    assert_eq!((answer.field("ratelimit"), answer.field("ratelimit-policy")), (None, None));
}

#[test]
fn a_refused_body_ends_the_connection_and_reaches_nobody() {
    let origin = Origin::answering("ok");
    let proxy = two_each(&origin, json!({}));
    let mut client = proxy.client();
    assert_eq!(statuses(|| client.get("/")), [200, 200]);
    let answer = client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc").answer();
    assert_eq!((answer.status(), answer.field("connection")), (429, Some("close")));
    client.wait_for_end();
    assert_eq!(origin.count(), 2);
}

#[test]
fn clients_are_told_apart_by_a_field_and_by_address_where_it_is_missing() {
    let origin = Origin::answering("ok");
    let proxy = two_each(&origin, json!({ "key": "header:X-Api-Key" }));
    let mut client = proxy.client();
    for key in ["one", "two"] {
        assert_eq!(statuses(|| get_with(&mut client, &format!("x-api-key: {key}"))), [200, 200, 429], "{key}");
    }
    assert_eq!(statuses(|| client.get("/")), [200, 200, 429], "by address");
    let mut other = Client::connect_from(Ipv4Addr::new(127, 0, 0, 9), proxy.port);
    assert_eq!(statuses(|| other.get("/")), [200, 200, 429], "by another address");
}

#[test]
fn behind_a_trusted_proxy_it_is_the_client_that_counts_and_ipv6_clients_are_networks() {
    let origin = Origin::answering("ok");
    let on_top = json!({
        "trusted_proxies": ["127.0.0.1"],
        "rate_limit": {"requests": 1, "per": "1h", "burst": 2, "allow": ["192.0.2.128/25", "2001:db8:9::/48"]},
    });
    let proxy = Proxy::with(&[&origin], on_top);
    let mut client = proxy.client();
    let mut of = |address: &str| get_with(&mut client, &format!("X-Forwarded-For: {address}")).status();
    assert_eq!([of("192.0.2.1"), of("192.0.2.1"), of("192.0.2.1"), of("192.0.2.2")], [200, 200, 429, 200]);
    assert_eq!([of("2001:db8:1:2::1"), of("2001:db8:1:2::2"), of("2001:db8:1:2:3::")], [200, 200, 429]);
    assert_eq!([of("2001:db8:1:3::1"), of("2001:db8:9::1")], [200, 200]);
    assert_eq!([of("192.0.2.200"), of("192.0.2.200"), of("192.0.2.200"), of("2001:db8:9::1")], [200; 4], "allowed");
}

#[test]
fn the_client_that_asked_the_longest_ago_is_forgotten_when_there_are_too_many() {
    let origin = Origin::answering("ok");
    let proxy = two_each(&origin, json!({ "key": "header:X-Key", "max_keys": 2 }));
    let mut client = proxy.client();
    let mut of = |key: &str| get_with(&mut client, &format!("X-Key: {key}")).status();
    assert_eq!([of("a"), of("a"), of("b"), of("b"), of("a"), of("b")], [200, 200, 200, 200, 429, 429]);
    assert_eq!([of("c"), of("b"), of("a")], [200, 429, 200], "the oldest, a, had to leave for c");
}

/// One request of a load: when it was sent, when its answer was there, and whether it was let pass. The limiter looked at
/// it at some moment in between.
struct Asked {
    sent: Duration,
    answered: Duration,
    passed: bool,
}

/// Sends a GET every `every` over so many connections for `lasts`, in order of their answers. They are sent when they are
/// due, whatever became of those before.
#[test]
fn a_key_that_is_sent_twice_is_no_way_around_the_limit() {
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, json!({ "requests": 1, "per": "1h", "key": "header:X-Key" }));
    let ask = |lines: &str| proxy.client().send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).answer().status();
    assert_eq!([ask("X-Key: real\r\n"), ask("X-Key: real\r\n")], [200, 429]);
    // Equal lines are the same key; of different ones nobody knows which the backend believes: the address counts.
    assert_eq!(ask("X-Key: real\r\nX: 1\r\nx-key: real\r\n"), 429);
    let asked = (0..4).map(|nth| ask(&format!("X-Key: made-up-{nth}\r\nX-Key: real\r\n"))).collect::<Vec<_>>();
    assert_eq!(asked, [200, 429, 429, 429]);
    assert_eq!(ask("X-Key: real\r\nX-Key: made-up\r\n"), 429);
    assert_eq!(ask("X-Key: another\r\n"), 200);
}

#[test]
fn clients_behind_trusted_proxies_are_told_apart_however_these_write_their_addresses() {
    let origin = Origin::answering("ok");
    let limit = json!({ "rate_limit": { "requests": 1, "per": "1h" }, "trusted_proxies": ["127.0.0.0/8"] });
    let proxy = Proxy::with(&[&origin], limit);
    let ask = |lines: &str| proxy.client().send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).answer().status();
    for (one, same, other) in [
        ("X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 203.0.113.1,", "X-Forwarded-For: 203.0.113.2, ,"),
        ("X-Forwarded-For: [2001:db8:1::1]", "X-Forwarded-For: 2001:db8:1::2", "X-Forwarded-For: [2001:db8:2::1]:9"),
        ("X-Forwarded-For: \"203.0.113.3\"", "X-Forwarded-For: 203.0.113.3:80", "X-Forwarded-For: \"203.0.113.4\""),
        (
            "Forwarded: for=203.0.113.5",
            "Forwarded: For=\"203.0.113.5:1\";by=x",
            "Forwarded: for=6.6.6.6, for=203.0.113.6",
        ),
        (
            "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 203.0.113.7",
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-For: 9.9.9.9",
        ),
    ] {
        let asked = [one, same, other].map(|line| ask(&format!("{line}\r\n")));
        assert_eq!(asked, [200, 429, 200], "{one} / {same} / {other}");
    }
}

fn load(proxy: &Proxy, from: Ipv4Addr, connections: u32, every: Duration, lasts: Duration) -> Vec<Asked> {
    let began = Instant::now();
    let of_one = |number: u32| {
        let mut client = Client::connect_from(from, proxy.port);
        let mut asked = Vec::new();
        for due in (0..).map(|nth| every * (nth * connections + number)).take_while(|due| *due < lasts) {
            thread::sleep(due.saturating_sub(began.elapsed())); // the pace is the load, nothing is waited for
            let sent = began.elapsed();
            let answer = client.get("/");
            assert!([200, 429].contains(&answer.status()), "{answer:?}");
            asked.push(Asked { sent, answered: began.elapsed(), passed: answer.status() == 200 });
        }
        asked
    };
    let mut all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|number| scope.spawn(move || of_one(number))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
    });
    all.sort_by_key(|asked| asked.answered);
    all
}

/// The bounds hold on a machine however busy: what a stall hides is when the limiter looked at a request, and they give
/// each its whole time from sending to answer.
#[test]
fn a_thousand_a_second_of_one_client_over_two_workers_give_a_hundred_and_nobody_else_is_refused() {
    const BURST: u32 = 200;
    const PER_SECOND: f64 = 100.0;
    const LASTS: Duration = Duration::from_secs(6);
    let origin = Origin::answering("ok");
    let proxy = limited(&origin, json!({ "requests": 100, "per": "1s", "burst": 200 }));
    let (greedy, modest) = thread::scope(|scope| {
        let start = |last, connections, every_ms| {
            let (proxy, every) = (&proxy, Duration::from_millis(every_ms));
            scope.spawn(move || load(proxy, Ipv4Addr::new(127, 0, 0, last), connections, every, LASTS))
        };
        // The other asks for fewer in all than its burst.
        let (greedy, modest) = (start(2, 8, 1), start(3, 2, 40));
        (greedy.join().expect("it ends"), modest.join().expect("it ends"))
    });
    assert!(
        modest.len() < BURST as usize && modest.iter().all(|asked| asked.passed),
        "the other was refused something"
    );

    let passed = |within: &dyn Fn(&Asked) -> bool| {
        greedy.iter().filter(|one| one.passed && within(one)).map(|_| 1.0).sum::<f64>()
    };
    let (began, ended) = (greedy.iter().map(|one| one.sent).min(), greedy.iter().map(|one| one.answered).max());
    let whole = ended.expect("some").saturating_sub(began.expect("some")).as_secs_f64();
    let all = passed(&|_| true);
    assert!(all <= f64::from(BURST) + PER_SECOND * whole + 1.0, "{all} in {whole} s");
    // Whoever is refused has used up its share: from one refusal to another a second after it the rate is exact.
    let refused: Vec<_> = greedy.iter().filter(|one| !one.passed).collect();
    let mut from = refused.first().expect("a thousand a second are too many");
    let mut windows = 0;
    for to in &refused {
        if to.sent < from.answered + Duration::from_secs(1) {
            continue;
        }
        let surely = passed(&|one| one.sent >= from.answered && one.answered <= to.sent);
        let maybe = passed(&|one| one.answered >= from.sent && one.sent <= to.answered);
        let least = PER_SECOND * (to.sent.saturating_sub(from.answered)).as_secs_f64();
        let most = PER_SECOND * (to.answered.saturating_sub(from.sent)).as_secs_f64();
        assert!(surely <= most + 1.0, "{surely} of at most {most}");
        assert!(maybe >= least - 1.0, "{maybe} of at least {least}");
        (from, windows) = (to, windows + 1);
    }
    assert!(windows > 0, "no second between two refusals");
}

/// Sends so many GETs, pipelined, each with a key of its own, and returns how many weren't refused with 429.
fn send_keys(port: u16, keys: std::ops::Range<u32>) -> usize {
    const BATCH: u32 = 50;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the proxy listens");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("a socket");
    let mut passed = 0;
    for first in keys.clone().step_by(BATCH as usize) {
        let keys = first..keys.end.min(first + BATCH);
        let wanted = keys.len();
        let batch: Vec<_> = keys.map(|key| format!("GET / HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\n\r\n")).collect();
        stream.write_all(batch.concat().as_bytes()).expect("it takes the bytes");
        let (mut answers, mut bytes) = (Vec::new(), [0; 16 * 1024]);
        while memchr::memmem::find_iter(&answers, b"\r\n\r\n").count() < wanted {
            let n = stream.read(&mut bytes).expect("answers come");
            assert!(n > 0, "the connection ended");
            answers.extend_from_slice(&bytes[..n]);
        }
        passed += wanted - memchr::memmem::find_iter(&answers, b"HTTP/1.1 429 ").count();
    }
    passed
}

fn resident_kibibytes_max(proxy: &Proxy) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.program.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux has it");
    line.split_whitespace().nth(1).and_then(|kibibytes| kibibytes.parse().ok()).expect("a number")
}

/// Without a backend, which the requests that pass would only make slower.
#[test]
#[ignore = "takes minutes: cargo test --release --test rate_limit -- --ignored"]
fn a_million_clients_stay_under_64_mib() {
    const KEYS: u32 = 1_000_000;
    for max_keys in [100_000, KEYS] {
        let limit = json!({ "requests": 1, "per": "1h", "burst": 1, "key": "header:X-Key", "max_keys": max_keys });
        let proxy = Proxy::with(&[], json!({ "rate_limit": limit }));
        let passed: usize = thread::scope(|scope| {
            let port = proxy.port;
            let threads = [0, 1, 2, 3].map(|n| scope.spawn(move || send_keys(port, n * KEYS / 4..(n + 1) * KEYS / 4)));
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        assert_eq!(passed, KEYS as usize);
        if max_keys == KEYS {
            // Keys don't fall quite evenly into equal shares of the room: a few of the oldest had to leave.
            assert_eq!(send_keys(proxy.port, KEYS - 10_000..KEYS), 0, "they are known");
        }
        eventually("all have left", || proxy.status()["connections"]["open"] == 0);
        let kibibytes = resident_kibibytes_max(&proxy);
        println!("max_keys {max_keys}: {kibibytes} KiB at the peak");
        assert!(kibibytes < 64 * 1024, "{kibibytes} KiB");
    }
}
