//! The admin API: what it says, what it changes, and that changes lose nothing.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use support::{Client, Gate, Message, Origin, Proxy, curl, eventually};

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Checks an error answer (RFC 9457) and returns its detail.
#[track_caller]
fn problem(answer: &Message, status: u16) -> String {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert!(answer.list("content-type").starts_with("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{problem}");
    for name in ["type", "title", "detail"] {
        assert!(problem[name].as_str().is_some_and(|text| !text.is_empty()), "no {name}: {problem}");
    }
    problem["detail"].as_str().expect("checked").to_owned()
}

#[test]
fn status_has_exactly_the_promised_fields_first() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::over(&[&a, &b]);
    let status = proxy.status();
    assert_eq!(keys(&status)[..3], ["total_backends", "active_backends", "backends"]);
    assert_eq!(status["total_backends"], 2);
    assert_eq!(status["active_backends"], 2);
    let backends = status["backends"].as_array().expect("an array");
    assert_eq!(backends.len(), 2);
    for (backend, origin) in backends.iter().zip([&a, &b]) {
        assert_eq!(keys(backend)[..3], ["url", "alive", "current_connections"]);
        assert_eq!(backend["url"], origin.url());
        assert_eq!(backend["alive"], true);
        assert_eq!(backend["current_connections"], 0);
    }
}

#[test]
fn current_connections_counts_requests_in_flight_now() {
    let gate = Arc::new(Gate::default());
    let origin = Origin::holding("a", &gate);
    let proxy = Proxy::over(&[&origin]);
    let mut idle = proxy.client();
    assert_eq!(idle.get("/").status(), 200);
    let mut held: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut held {
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("three in flight", || proxy.in_flight(&origin) == 3);
    gate.open();
    for client in &mut held {
        assert_eq!(client.answer().status(), 200);
    }
    eventually("none in flight", || proxy.in_flight(&origin) == 0);
}

#[test]
fn an_added_backend_is_among_the_next_picks() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::over(&[&a]);
    assert_eq!(proxy.get("/").text(), "a");
    let answer = proxy.mutate("POST", &b);
    assert_eq!(answer.status(), 201, "{answer:?}");
    assert_eq!(answer.json()["url"], b.url());
    let mut texts = [proxy.get("/").text(), proxy.get("/").text()];
    texts.sort();
    assert_eq!(texts, ["a", "b"]);
    assert_eq!(proxy.status()["total_backends"], 2);
    eventually("it is probed", || b.probes() > 0);
}

#[test]
fn a_backend_object_may_be_posted() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::over(&[&a]);
    let body = json!({ "url": b.url(), "name": "second" }).to_string();
    let answer = proxy.admin("POST", "/backends", &body);
    assert_eq!(answer.status(), 201, "{answer:?}");
    assert_eq!(answer.json()["name"], "second");
    assert!(proxy.admin("GET", "/backends", "").text().contains("\"second\""));
}

#[test]
fn a_removed_backend_finishes_what_it_has_and_gets_nothing_new() {
    let gate = Arc::new(Gate::default());
    let (a, b) = (Origin::holding("a", &gate), Origin::holding("b", &gate));
    let proxy = Proxy::over(&[&a, &b]);
    let mut held = [proxy.client(), proxy.client()];
    for client in &mut held {
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("each has one", || a.count() == 1 && b.count() == 1);

    let answer = proxy.mutate("DELETE", &a);
    assert_eq!(answer.status(), 204, "{answer:?}");
    for _ in 0..10 {
        assert_eq!(proxy.get("/").text(), "b");
    }
    assert_eq!(a.count(), 1, "a request reached it after its removal");
    assert_eq!(proxy.status()["total_backends"], 1);

    gate.open();
    let mut texts = held.each_mut().map(|client| client.answer().text());
    texts.sort();
    assert_eq!(texts, ["a", "b"], "what was in flight finishes");
}

#[test]
fn a_removed_backend_may_be_added_again() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    for _ in 0..3 {
        assert_eq!(proxy.mutate("DELETE", &origin).status(), 204);
        assert_eq!(proxy.get("/").status(), 503);
        assert_eq!(proxy.mutate("POST", &origin).status(), 201);
        assert_eq!(proxy.get("/").text(), "a");
    }
}

#[test]
fn the_walk_throughs_curl_lines_work() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::over(&[&a]);
    let backends = format!("http://127.0.0.1:{}/backends", proxy.admin_port);
    for (method, status) in [("POST", "201"), ("DELETE", "204")] {
        let body = json!({ "url": b.url() }).to_string();
        let arguments = [
            "-X",
            method,
            &backends,
            "-H",
            "Content-Type: application/json",
            "-d",
            &body,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ];
        assert_eq!(String::from_utf8_lossy(&curl(&arguments).stdout), status);
    }
}

#[test]
fn the_same_backend_in_other_words_is_a_conflict() {
    let origin = Origin::answering("a");
    let proxy = Proxy::with(&[], json!({ "backends": [format!("http://localhost:{}", origin.port())] }));
    for url in [format!("http://localhost:{}", origin.port()), format!("HTTP://LocalHost:{}/", origin.port())] {
        let detail = problem(&proxy.admin("POST", "/backends", &json!({ "url": url }).to_string()), 409);
        assert!(detail.contains("localhost"), "{detail}");
    }
    assert_eq!(proxy.status()["total_backends"], 1);
    let shouted = json!({ "url": format!("HTTP://LOCALHOST:{}/", origin.port()) }).to_string();
    assert_eq!(proxy.admin("DELETE", "/backends", &shouted).status(), 204);
}

#[test]
fn removing_what_is_not_there_is_a_404() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    let detail = problem(&proxy.admin("DELETE", "/backends", r#"{"url": "http://127.0.0.1:1"}"#), 404);
    assert!(detail.contains("127.0.0.1:1"), "{detail}");
    assert_eq!(proxy.status()["total_backends"], 1);
}

#[test]
fn a_bad_body_is_a_400_that_says_why_and_changes_nothing() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    let bodies = [
        "",
        "{",
        "[]",
        "{}",
        r#"{"url": 5}"#,
        r#"{"url": ""}"#,
        r#"{"url": "localhost:8085"}"#,
        r#"{"url": "ftp://localhost:8085"}"#,
        r#"{"url": "http://"}"#,
        r#"{"url": "http://:80"}"#,
        r#"{"url": "http://a:99999"}"#,
        r#"{"url": "http://user:pw@a"}"#,
        r#"{"url": "http://a/?q"}"#,
        r#"{"url": "http://a", "colour": "red"}"#,
        r#"{"url": "http://a"} more"#,
    ];
    let before = proxy.status()["backends"].clone();
    for body in bodies {
        let detail = problem(&proxy.admin("POST", "/backends", body), 400);
        assert!(!detail.contains('\n'), "one line, please: {detail:?}");
    }
    problem(&proxy.admin("DELETE", "/backends", "{"), 400);
    problem(&proxy.admin("DELETE", "/backends", r#"{"url": "nonsense"}"#), 400);
    assert_eq!(proxy.status()["backends"], before);
}

#[test]
fn backends_that_differ_by_their_base_path_alone_have_names_of_their_own() {
    let origin = Origin::answering("a");
    let url = |base: &str| format!("{}{base}", origin.url());
    let proxy = Proxy::with(&[], json!({ "backends": [url("/v1"), url("")] }));
    let host = format!("127.0.0.1:{}", origin.port());
    for (base, name) in [("/v2/", "%2Fv2"), ("/v%203", "%2Fv%25203")] {
        let answer = proxy.admin("POST", "/backends", &json!({ "url": url(base) }).to_string());
        assert_eq!(answer.status(), 201, "{answer:?}");
        let place = format!("/backends/{host}{name}");
        assert_eq!(answer.field("location"), Some(place.as_str()));
        assert_eq!(proxy.admin("GET", &place, "").json()["url"], url(base));
    }
    let list = proxy.admin("GET", "/backends", "").json();
    let names: Vec<_> = list.as_array().expect("a list").iter().map(|backend| backend["name"].clone()).collect();
    assert_eq!(names, [host.clone(), format!("{host}/"), format!("{host}/v2"), format!("{host}/v%203")]);

    let given = json!({ "url": url("/v4"), "name": host }).to_string();
    problem(&proxy.admin("POST", "/backends", &given), 409);
    assert_eq!(proxy.admin("DELETE", &format!("/backends/{host}%2F"), "").status(), 204);
    assert_eq!(proxy.admin("GET", &format!("/backends/{host}%2F"), "").status(), 404);
    assert_eq!(proxy.status()["total_backends"], 3);
}

#[test]
fn a_body_is_read_as_the_configuration_file_is() {
    let proxy = Proxy::over(&[]);
    let mark = "\u{feff}";
    let posted = |body: &str| proxy.admin("POST", "/backends", body);
    let answer =
        posted(&format!("{mark}{{\"url\": \"http://127.0.0.1:1\", \"weight\": 3.0, \"max_connections\": 1e3}}"));
    assert_eq!(answer.status(), 201, "{answer:?}");
    assert_eq!((&answer.json()["weight"], &answer.json()["max_connections"]), (&json!(3), &json!(1000)));
    let url = r#""url": "http://127.0.0.1:1""#;
    for (method, path, body, status) in [
        ("PATCH", "/backends", format!("{mark}{{{url}, \"weight\": 20e-1}}"), 200),
        ("PATCH", "/backends/127.0.0.1:1", format!("{mark}{{\"weight\": 0.2e1}}"), 200),
        ("PATCH", "/backends", format!("{{{url}, \"weight\": 2.5}}"), 400),
        ("PATCH", "/backends", format!("{{{url}, \"weight\": 2,}}"), 400),
        ("PATCH", "/backends", format!("{{{url}, \"weight\": 2}} // two"), 400),
        ("PATCH", "/backends", format!("{{{url}, \"weight\": null}}"), 400),
        ("PATCH", "/backends", format!("{{{url}, \"weight\": 3, \"weight\": 3}}"), 400),
        ("PATCH", "/backends", format!("{mark}{mark}{{{url}, \"weight\": 3}}"), 400),
        ("PATCH", "/backends", format!("{{\"//\": 1, {url}, \"weight\": 2, \"//\": 2}}"), 200),
    ] {
        let answer = proxy.admin(method, path, &body);
        assert_eq!(answer.status(), status, "{body}: {answer:?}");
        if status == 200 {
            assert_eq!(answer.json()["weight"], 2, "{body}");
        }
    }
    assert_eq!(proxy.admin("DELETE", "/backends", &format!("{mark}{{{url}}}")).status(), 204);
}

#[test]
fn a_query_parameter_that_is_given_twice_is_a_400() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    let path = format!("/backends/127.0.0.1:{}?wait=1s&wait=2s", origin.port());
    problem(&proxy.admin("DELETE", &path, ""), 400);
    assert_eq!(proxy.status()["total_backends"], 1);
}

/// Texts of so many levels, of each shape that nests; the last two never close.
fn nested(levels: usize) -> [String; 6] {
    let of = |open: &str, inner: &str, close: &str| open.repeat(levels) + inner + &close.repeat(levels);
    [
        of("[", "", "]"),
        of("{\"a\":", "1", "}"),
        of("[{\"\\\"]\":", "1", "}]"),
        of("[\"]\",", "1", "]"),
        of("[", "", ""),
        of("{\"a\": ", "", ""),
    ]
}

#[test]
fn json_that_nests_deep_is_refused_wherever_it_stands_and_ends_nothing() {
    let origin = Origin::answering("a");
    let mut proxy = Proxy::over(&[&origin]);
    let calls =
        [("POST", "/backends"), ("DELETE", "/backends"), ("PATCH", "/backends"), ("PATCH", "/backends/127.0.0.1:1")];
    for levels in [17, 511, 512, 10_000, 80_000] {
        for deep in nested(levels) {
            let url = r#"{"url": "http://127.0.0.1:9""#;
            for body in [deep.clone(), format!("{url}, \"x\": {deep}}}"), format!("{url}, \"//\": {deep}}}")] {
                for (method, path) in calls {
                    let detail = problem(&proxy.admin(method, path, &body), 400);
                    assert!(detail.contains("more than 16") && detail.contains("wanted at most 16"), "{detail}");
                    assert!(detail.starts_with("line 1 column "), "{detail}");
                }
            }
        }
    }
    assert_eq!(proxy.get("/").text(), "a");
    assert_eq!(proxy.status()["total_backends"], 1);
    assert!(proxy.program.is_running());
}

#[test]
fn brackets_in_strings_and_remarks_of_sixteen_levels_are_no_deep_nesting() {
    let proxy = Proxy::over(&[]);
    let lists = "[".repeat(15) + &"]".repeat(15);
    let text = "[{".repeat(1000);
    let bodies = [
        format!(r#"{{"url": "http://127.0.0.1:1", "//": {lists}}}"#),
        format!(r#"{{"url": "http://127.0.0.1:2", "//": "{text}"}}"#),
        format!(r#"{{"url": "http://127.0.0.1:3", "//": "\\\"{text}\\"}}"#),
        format!(r#"{{"url": "http://127.0.0.1:4", "//": [{}{{}}]}}"#, "{}, [], ".repeat(1000)),
    ];
    for body in bodies {
        let answer = proxy.admin("POST", "/backends", &body);
        assert_eq!(answer.status(), 201, "{answer:?}");
    }
}

#[test]
fn a_wrong_method_is_a_405_that_names_the_right_ones() {
    let proxy = Proxy::over(&[]);
    for (method, path, allowed) in
        [("POST", "/status", "GET"), ("PUT", "/backends", "POST"), ("DELETE", "/healthz", "GET")]
    {
        let answer = proxy.admin(method, path, "");
        problem(&answer, 405);
        assert!(answer.list("allow").contains(allowed), "{answer:?}");
    }
}

#[test]
fn an_unknown_path_is_a_404() {
    let proxy = Proxy::over(&[]);
    problem(&proxy.admin("GET", "/nonsense", ""), 404);
    problem(&proxy.admin("GET", "/status/more", ""), 404);
}

#[test]
fn a_body_over_a_mebibyte_is_a_413() {
    let proxy = Proxy::over(&[]);
    let mut client = Client::connect(proxy.admin_port);
    let length = (1 << 20) + 1;
    let host = proxy.admin_port;
    client.send(format!("POST /backends HTTP/1.1\r\nHost: 127.0.0.1:{host}\r\nContent-Length: {length}\r\n\r\n"));
    problem(&client.answer(), 413);
}

#[test]
fn a_page_on_another_origin_may_not_ask() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    let host = format!("127.0.0.1:{}", proxy.admin_port);
    let body = json!({ "url": origin.url() }).to_string();
    for (host, field) in
        [(&*host, "Origin: http://evil.example"), (&*host, "Sec-Fetch-Site: cross-site"), ("evil.example", "X: y")]
    {
        let request = format!(
            "DELETE /backends HTTP/1.1\r\nHost: {host}\r\n{field}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        problem(&Client::connect(proxy.admin_port).send(request).answer(), 403);
    }
    assert_eq!(proxy.status()["total_backends"], 1);
}

#[test]
fn readiness_follows_the_backends_and_health_does_not() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    assert_eq!(proxy.admin("GET", "/readyz", "").status(), 200);
    assert_eq!(proxy.mutate("DELETE", &origin).status(), 204);
    assert_eq!(proxy.admin("GET", "/readyz", "").status(), 503);
    assert_eq!(proxy.admin("GET", "/healthz", "").status(), 200);
}

#[test]
fn the_full_objects_tell_health_and_eligibility_apart() {
    let origin = Origin::answering("a");
    let proxy = Proxy::over(&[&origin]);
    eventually("the first probe is known", || proxy.admin("GET", "/backends", "").text().contains("\"up\""));
    let list = proxy.admin("GET", "/backends", "").json();
    let backend = &list.as_array().or_else(|| list["backends"].as_array()).expect("a list")[0];
    assert_eq!(backend["url"], origin.url());
    assert_eq!(backend["name"], format!("127.0.0.1:{}", origin.port()));
    assert_eq!(backend["state"], "ready");
    assert_eq!(backend["source"], "config");
    assert!(backend.get("health").is_some() && backend.get("eligible").is_some(), "{backend}");
}

#[test]
fn changes_under_load_lose_nothing_and_a_removed_backend_gets_no_later_request() {
    let tickets = Arc::new(AtomicUsize::new(0));
    let origins = [Origin::answering("a"), Origin::answering("b"), Origin::answering("c")];
    let [a, b, c] = &origins;
    let proxy = Proxy::over(&[a, b]);
    let running = AtomicBool::new(true);
    // Each request carries a ticket drawn before it is sent: one drawn after the 204 was read began after it.
    let ticket = |request: &Message| -> usize { request.target()[1..].parse().expect("a ticket") };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = proxy.client();
                while running.load(Ordering::SeqCst) {
                    let answer = client.get(&format!("/{}", tickets.fetch_add(1, Ordering::SeqCst)));
                    assert_eq!(answer.status(), 200, "{answer:?}");
                }
            });
        }
        for round in 0..50 {
            assert_eq!(proxy.mutate("POST", c).status(), 201);
            eventually("it gets traffic", || c.requests().last().is_some_and(|last| ticket(last) > round));
            assert_eq!(proxy.mutate("DELETE", c).status(), 204);
            let removed_at = tickets.load(Ordering::SeqCst);
            let later = removed_at + 20;
            eventually("the load goes on", || tickets.load(Ordering::SeqCst) > later);
            let late: Vec<_> = c.requests().iter().map(ticket).filter(|ticket| *ticket >= removed_at).collect();
            assert!(late.is_empty(), "round {round}: requests {late:?} began after the 204 for {removed_at}");
        }
        running.store(false, Ordering::SeqCst);
    });
    assert!(c.count() > 0);
}
