//! A request that comes by again and again ends, and proxies that stand one behind the other work.

mod support;

use serde_json::{Value, json};
use support::proxy::Program;
use support::{Client, Message, Origin, Proxy, eventually};

/// A proxy with these settings, and no backends yet. Its checks are content with anything, since a backend may be itself.
fn proxy(on_top: Value) -> Proxy {
    let mut on_top = on_top;
    on_top["health_check"] = json!({ "expect": "100-599" });
    Proxy::with(&[], on_top)
}

fn add(proxy: &Proxy, url: &str) {
    let added = proxy.admin("POST", "/backends", &json!({ "url": url }).to_string());
    assert_eq!(added.status(), 201, "{added:?}");
}

fn is_a_loop(answer: &Message) {
    assert_eq!(answer.status(), 508, "{answer:?}");
    let status = answer.field("proxy-status").expect("the proxy's own word");
    assert!(status.starts_with("maypole; error=proxy_loop_detected"), "{status}");
}

#[test]
fn a_request_that_goes_round_ends_at_the_limit_of_hops() {
    let limit = json!({ "limits": { "hops": 3 } });
    let (one, other) = (proxy(limit.clone()), proxy(limit));
    add(&one, &other.url(""));
    add(&other, &one.url(""));
    let before = other.status()["failures"]["loop_detected"].as_u64();
    is_a_loop(&one.get("/"));
    // One, other, one, and the other finds that it has come by three times. Probes go round, too.
    assert!(other.status()["failures"]["loop_detected"].as_u64() > before);
}

#[test]
fn a_proxy_that_is_its_own_backend_answers_after_eight_rounds() {
    let origin = Origin::answering("ok");
    let proxy = proxy(json!({}));
    add(&proxy, &proxy.url(""));
    let answer = proxy.client().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").answer();
    is_a_loop(&answer);
    // Where it isn't its only backend, a request may get out before it has gone round too often.
    add(&proxy, &origin.url());
    let answers: Vec<_> = (0..20).map(|_| proxy.get("/").status()).collect();
    assert!(answers.contains(&200), "{answers:?}");
    for request in origin.requests() {
        assert!(request.all("via").len() <= 8, "it went round {request:?}");
    }
}

#[test]
fn proxies_stand_one_behind_the_other_up_to_the_limit() {
    let origin = Origin::answering("ok");
    let [last, middle, first] = [(); 3].map(|()| proxy(json!({ "limits": { "hops": 2 } })));
    add(&last, &origin.url());
    add(&middle, &last.url(""));
    add(&first, &middle.url(""));
    assert_eq!(middle.get("/").text(), "ok");
    assert_eq!(origin.only_request().list("via"), "1.1 maypole, 1.1 maypole");
    is_a_loop(&first.get("/"));
}

#[test]
fn proxies_of_other_names_and_of_none_are_not_counted() {
    let origin = Origin::answering("ok");
    let named = |via: Value| json!({ "via": via, "limits": { "hops": 1 } });
    let [last, middle, first] = [json!("edge"), json!(false), json!("maypole")].map(|via| proxy(named(via)));
    add(&last, &origin.url());
    add(&middle, &last.url(""));
    add(&first, &middle.url(""));
    let answer = first.client().send("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 fred\r\n\r\n").answer();
    assert_eq!(answer.text(), "ok");
    assert_eq!(origin.only_request().list("via"), "1.0 fred, 1.1 maypole, 1.1 edge");
    let tagged = middle.client().send("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 edge\r\n\r\n").answer();
    is_a_loop(&tagged);
}

#[test]
fn a_backend_that_is_the_proxy_itself_is_warned_of_when_it_comes() {
    let origin = Origin::answering("ok");
    let other = Proxy::over(&[&origin]);
    let [port, admin_port] = [(); 2].map(|()| support::free_port());
    let backends = json!([format!("http://localhost:{port}/self"), origin.url(), other.url("")]);
    let on_top = json!({ "port": port, "admin_port": admin_port, "bind": "0.0.0.0", "backends": backends });
    let mut config = support::proxy::settings(&[]);
    for (name, value) in on_top.as_object().expect("an object") {
        config[name] = value.clone();
    }
    config["health_check_frequency"] = json!("1h");
    let folder = support::proxy::empty_folder();
    let file = folder.join("maypole.json");
    std::fs::write(&file, config.to_string()).expect("writable");
    let program = Program::start_in(&folder, &["--config", file.to_str().expect("UTF-8")]);
    let warnings = || {
        let log = program.stderr();
        log.lines().filter(|line| line.contains("WARN") && line.contains("maypole itself")).count()
    };
    eventually("it warns of the one", || warnings() == 1);
    let add = |url: String| {
        let body = json!({ "url": url }).to_string();
        let request =
            format!("POST /backends HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(Client::connect(admin_port).send(request).answer().status(), 201);
    };
    add(format!("http://127.0.0.1:{admin_port}"));
    eventually("it warns of its admin API", || warnings() == 2);
    add(format!("http://0.0.0.0:{port}/x"));
    eventually("it warns of itself by no address", || warnings() == 3);
    add(format!("http://127.0.0.1:{}", support::free_port()));
    assert_eq!(warnings(), 3, "{}", program.stderr());
}
