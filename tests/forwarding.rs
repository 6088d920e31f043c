//! What the proxy changes in a message on its way, and what it leaves alone (CONTRACT: what is forwarded).

mod support;

use serde_json::json;
use support::{Client, Message, Origin, Proxy};

/// Sends one request of these lines to the proxy and says what reached the origin.
fn forwarded(proxy: &Proxy, origin: &Origin, lines: &[&str]) -> Message {
    let before = origin.count();
    let answer = proxy.client().send(lines.join("\r\n") + "\r\n\r\n").answer();
    assert_eq!(answer.status(), 200, "{answer:?}");
    origin.requests().swap_remove(before)
}

#[test]
fn the_target_arrives_byte_for_byte() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    for target in ["/", "//a//b/../c", "/%7Euser/%2e%2E/%C3%BC?q=%20+&&x[]=1;y", "/a?b?c", "/?", "/~!$&'()*+,;=:@"] {
        let seen = forwarded(&proxy, &origin, &[&format!("GET {target} HTTP/1.1"), "Host: a.example"]);
        assert_eq!(seen.start, format!("GET {target} HTTP/1.1"));
    }
}

#[test]
fn the_host_is_kept_as_the_client_sent_it() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let seen = forwarded(&proxy, &origin, &["GET / HTTP/1.1", "Host: Shop.Example:8080"]);
    assert_eq!(seen.all("host"), ["Shop.Example:8080"]);
}

#[test]
fn a_backends_path_is_put_before_the_requests() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[], json!({ "backends": [origin.url() + "/base/"] }));
    let seen = forwarded(&proxy, &origin, &["GET /a?b HTTP/1.1", "Host: a.example"]);
    assert_eq!(seen.target(), "/base/a?b");
}

#[test]
fn fields_pass_in_their_order_and_spelling_with_their_repetitions() {
    let origin =
        Origin::start(|exchange| exchange.answer_with(200, &["X-One: 1", "set-cookie: a=1", "Set-Cookie: b=2"], "ok"));
    let proxy = Proxy::over(&[&origin]);
    let answer = proxy.client().send("GET / HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3, 4\r\n\r\n").answer();
    let seen = origin.only_request();
    let own = |message: &Message| -> Vec<(String, String)> {
        let wanted =
            |name: &String| ["x-a", "x-b", "x-one", "set-cookie"].contains(&name.to_ascii_lowercase().as_str());
        message.fields.iter().filter(|(name, _)| wanted(name)).cloned().collect()
    };
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(own(&seen), pairs(&[("X-B", "1"), ("x-a", "2"), ("X-B", "3, 4")]));
    assert_eq!(own(&answer), pairs(&[("X-One", "1"), ("set-cookie", "a=1"), ("Set-Cookie", "b=2")]));
}

#[test]
fn the_backend_is_told_who_asked_and_how() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let seen = forwarded(&proxy, &origin, &["GET / HTTP/1.1", "Host: shop.example"]);
    assert_eq!(seen.list("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.list("x-forwarded-proto"), "http");
    assert_eq!(seen.list("x-forwarded-host"), "shop.example");
    assert_eq!(seen.list("via"), "1.1 maypole");
}

#[test]
fn every_request_gets_an_id_of_its_own() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let ids: std::collections::HashSet<_> =
        (0..20).map(|_| forwarded(&proxy, &origin, &["GET / HTTP/1.1", "Host: a"]).list("x-request-id")).collect();
    assert_eq!(ids.len(), 20, "{ids:?}");
    assert!(ids.iter().all(|id| id.len() >= 16), "{ids:?}");
}

#[test]
fn a_stranger_can_not_pretend_to_be_forwarding() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let lies = [
        "GET / HTTP/1.1",
        "Host: a",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "X-Request-Id: mine",
    ];
    let seen = forwarded(&proxy, &origin, &lies);
    assert_eq!(seen.list("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.list("x-forwarded-proto"), "http");
    assert_eq!(seen.list("x-forwarded-host"), "a");
    assert_ne!(seen.list("x-request-id"), "mine");
}

#[test]
fn a_trusted_peer_is_believed_and_appended_to() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::with(&[&origin], json!({ "trusted_proxies": ["127.0.0.0/8"] }));
    let truth =
        ["GET / HTTP/1.1", "Host: a", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Request-Id: mine"];
    let seen = forwarded(&proxy, &origin, &truth);
    assert_eq!(seen.list("x-forwarded-for"), "6.6.6.6, 127.0.0.1");
    assert_eq!(seen.list("x-forwarded-proto"), "https");
    assert_eq!(seen.list("x-request-id"), "mine");
}

#[test]
fn an_older_via_is_kept_before_the_proxys_own() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let seen = forwarded(&proxy, &origin, &["GET / HTTP/1.1", "Host: a", "Via: 1.0 fred"]);
    assert_eq!(seen.list("via"), "1.0 fred, 1.1 maypole");
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop_both_ways() {
    let origin = Origin::start(|exchange| {
        exchange.answer_with(
            200,
            &["Connection: X-Private", "X-Private: 1", "Keep-Alive: timeout=5", "X-End: 1"],
            "ok",
        );
    });
    let proxy = Proxy::over(&[&origin]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=9\r\n\
                   Proxy-Connection: keep-alive\r\nTE: gzip\r\nX-End: 1\r\n\r\n";
    let answer = proxy.client().send(request).answer();
    let seen = origin.only_request();
    for name in ["x-secret", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(seen.field(name), None, "{seen:?}");
    }
    assert_eq!(seen.field("x-end"), Some("1"));
    for name in ["x-private", "keep-alive"] {
        assert_eq!(answer.field(name), None, "{answer:?}");
    }
    assert_eq!(answer.field("x-end"), Some("1"));
}

#[test]
fn connection_can_not_strike_out_what_the_proxy_adds() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let seen = forwarded(
        &proxy,
        &origin,
        &["GET / HTTP/1.1", "Host: a", "Connection: x-forwarded-for, via, x-request-id, host"],
    );
    assert_eq!(seen.list("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.list("via"), "1.1 maypole");
    assert!(seen.field("x-request-id").is_some());
}

#[test]
fn a_missing_date_is_added_and_a_given_one_is_kept() {
    const GIVEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = Origin::start(|exchange| match exchange.request.target() {
        "/dated" => exchange.answer_with(200, &["Date: Sun, 06 Nov 1994 08:49:37 GMT"], "ok"),
        _ => exchange.answer(200, "ok"),
    });
    let proxy = Proxy::over(&[&origin]);
    assert_eq!(proxy.get("/dated").all("date"), [GIVEN]);
    let answer = proxy.get("/");
    let date = httpdate::parse_http_date(answer.field("date").expect("a date")).expect("an HTTP date");
    let off = date.duration_since(std::time::SystemTime::now()).unwrap_or_else(|e| e.duration());
    assert!(off.as_secs() < 5, "{answer:?}");
}

#[test]
fn the_status_passes_whatever_it_is() {
    let origin = Origin::start(|exchange| {
        let status = exchange.request.target()[1..].parse().expect("a status");
        exchange.answer(status, "as it is");
    });
    let proxy = Proxy::over(&[&origin]);
    let mut client = proxy.client();
    for status in [200, 201, 299, 404, 418, 499, 500, 502, 503, 599] {
        let answer = client.get(&format!("/{status}"));
        assert_eq!(answer.status(), status);
        assert_eq!(answer.text(), "as it is");
        assert_eq!(answer.field("proxy-status"), None, "the backend's own answer is not the proxy's: {answer:?}");
    }
}

#[test]
fn every_method_passes_even_one_nobody_knows() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    for method in ["GET", "DELETE", "OPTIONS", "PATCH", "PURGE", "M-SEARCH"] {
        assert_eq!(forwarded(&proxy, &origin, &[&format!("{method} / HTTP/1.1"), "Host: a"]).method(), method);
    }
}

#[test]
fn an_absolute_target_decides_the_host() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let seen = forwarded(&proxy, &origin, &["GET http://right.example/a?b HTTP/1.1", "Host: wrong.example"]);
    assert_eq!(seen.all("host"), ["right.example"], "RFC 9112 §3.2.2");
}

#[test]
fn a_malformed_request_is_refused_and_reaches_no_backend() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::over(&[&origin]);
    let bad = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n",
        "GE\u{1}T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ];
    for request in bad {
        let mut client = Client::connect(proxy.port);
        let answer = client.send(request).answer();
        assert_eq!(answer.status(), 400, "{request:?} got {answer:?}");
        assert!(answer.list("proxy-status").contains("error=http_request_error"), "{answer:?}");
        assert_eq!(answer.field("server"), Some("maypole"));
        client.wait_for_end();
    }
    assert!(origin.requests().iter().all(|request| !request.complete), "{:?}", origin.requests());
}

#[test]
fn an_answer_of_the_proxys_own_speaks_the_clients_language() {
    let proxy = Proxy::over(&[]);
    for (accept, wanted) in
        [("text/html", "text/html"), ("application/json", "application/problem+json"), ("text/plain", "text/plain")]
    {
        let answer = proxy.client().send(format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n")).answer();
        assert_eq!(answer.status(), 503);
        assert!(answer.list("content-type").starts_with(wanted), "{answer:?}");
        assert!(!answer.body.is_empty());
    }
}
