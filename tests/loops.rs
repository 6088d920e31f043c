//! A request that comes by again and again ends, and proxies that stand one behind the other work.

mod support;

use serde_json::{Value, json};
use support::{Message, Origin, Proxy};

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
