//! Backends that are reached by TLS: who they have to be, what they are shown, and what becomes of those that aren't.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::proxy::{empty_folder, settings};
use support::secure::{Authority, Manner, SecureOrigin, config};
use support::{Client, Origin, Program, Proxy, eventually};

/// A proxy in front of these, which trusts this authority; with these settings on top.
fn proxy(backends: &[String], authority: &Authority, on_top: &[(&str, Value)]) -> Proxy {
    let (ca, _) = ca_file(authority);
    let mut tls = json!({ "ca": ca });
    let mut settings = settings(backends);
    for (name, value) in on_top {
        match name.strip_prefix("upstream_tls.") {
            Some(name) => tls[name] = value.clone(),
            None => settings[*name] = value.clone(),
        }
    }
    settings["upstream_tls"] = tls;
    Proxy::start(&settings)
}

fn ca_file(authority: &Authority) -> (String, PathBuf) {
    let folder = empty_folder();
    (authority.file(&folder).to_str().expect("UTF-8").to_owned(), folder)
}

fn backend(proxy: &Proxy, name: &str) -> Value {
    let list = proxy.admin("GET", "/backends", "").json();
    let found = list.as_array().expect("a list").iter().find(|backend| backend["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("{name} isn't in {list}"))
}

/// Health checks that come often.
fn quick() -> (&'static str, Value) {
    let check = json!({ "path": "/__probe", "fast_interval": "50ms", "rise": 1, "fall": 1, "timeout": "1s" });
    ("health_check", check)
}

#[test]
fn a_backend_is_asked_by_its_name_and_its_connection_is_used_again() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::start(&authority.sign(&["localhost"]));
    let proxy = proxy(&[origin.url()], &authority, &[("workers", json!(1))]);
    let mut client = proxy.client();
    for _ in 0..5 {
        let answer = client.get("/");
        assert_eq!((answer.status(), &*answer.text()), (200, "localhost"), "{answer:?}");
    }
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(origin.handshakes(), (1, 0));
    let request = &origin.requests()[0];
    assert_eq!(request.field("x-forwarded-proto"), Some("http"), "the client came in clear");
    let shown = backend(&proxy, &format!("localhost:{}", origin.port()));
    assert_eq!((&shown["tls"], &shown["url"]), (&json!({ "verify": true }), &json!(origin.url())), "{shown}");
    eventually("it is probed", || origin.probes() > 0);
    eventually("and up", || backend(&proxy, &format!("localhost:{}", origin.port()))["health"] == "up");
}

#[test]
fn sessions_are_resumed_where_connections_are_not_used_again() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::start(&authority.sign(&["localhost"]));
    let proxy = proxy(&[origin.url()], &authority, &[("workers", json!(1))]);
    for _ in 0..5 {
        // It ends the connection, so that each request needs a new one.
        assert_eq!(proxy.get("/whole").text(), "half");
    }
    let (full, resumed) = origin.handshakes();
    assert_eq!((full, resumed), (1, 4));
}

#[test]
fn an_address_is_verified_by_itself_and_without_a_name() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::start(&authority.sign(&["127.0.0.1"]));
    let proxy = proxy(&[format!("https://127.0.0.1:{}", origin.port())], &authority, &[]);
    let answer = proxy.get("/");
    assert_eq!((answer.status(), &*answer.text()), (200, "none"), "{answer:?}");
}

#[test]
fn another_name_is_asked_for_and_verified_where_it_is_configured() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::start(&authority.sign(&["inside.example"]));
    let name = ("upstream_tls.server_name", json!("inside.example"));
    let proxy = proxy(&[origin.url()], &authority, &[name, quick(), ("health_check_frequency", json!("50ms"))]);
    assert_eq!(proxy.get("/").text(), "inside.example");
    eventually("probes ask for it too", || backend(&proxy, &format!("localhost:{}", origin.port()))["health"] == "up");
}

#[test]
fn who_is_not_accepted_is_told_of_and_is_asked_nothing() {
    let (authority, stranger) = (Authority::new("a test's"), Authority::new("a stranger's"));
    for (what, origin, told) in [
        ("name", SecureOrigin::start(&authority.sign(&["b.example"])), "not valid for name"),
        ("time", SecureOrigin::start(&authority.sign_expired(&["localhost"])), "expired"),
        ("authority", SecureOrigin::start(&stranger.sign(&["localhost"])), "UnknownIssuer"),
    ] {
        let on_top = [("workers", json!(1)), ("when_all_down", json!("try")), quick()];
        let proxy = proxy(&[origin.url()], &authority, &on_top);
        let answer = proxy.client().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").answer();
        assert_eq!(answer.status(), 502, "{what}: {answer:?}");
        let status = answer.list("proxy-status");
        assert!(status.contains("error=tls_certificate_error"), "{what}: {status}");
        assert!(origin.requests().is_empty(), "{what}");
        assert!(proxy.status()["failures"]["tls_certificate"].as_u64() >= Some(1), "{what}: {}", proxy.status());
        let name = format!("localhost:{}", origin.port());
        eventually("its health says why", || {
            let reason = backend(&proxy, &name)["health_reason"].as_str().expect("a text").to_owned();
            reason.contains("backend certificate is not accepted") && reason.contains(told)
        });
        assert!(backend(&proxy, &name)["totals"]["failed"].as_u64() >= Some(1), "it is to blame");
        for _ in 0..20 {
            assert_eq!(proxy.get("/").status(), 502);
        }
        let lines = proxy.program.stderr();
        let lines = lines.lines().filter(|line| line.contains("not accepted")).count();
        assert_eq!(lines, 1, "one line, and not one a request: {}", proxy.program.stderr());
    }
}

#[test]
fn requests_of_any_method_go_elsewhere_where_a_backend_is_not_accepted() {
    let authority = Authority::new("a test's");
    let wrong = SecureOrigin::start(&authority.sign(&["b.example"]));
    let right = Origin::answering("right");
    // So rare that the first of them alone tells of the wrong one.
    let check = ("health_check", json!({ "path": "/__probe", "fall": 1000, "fast_interval": "30s" }));
    let proxy = proxy(&[wrong.url(), right.url()], &authority, &[("workers", json!(1)), check]);
    for _ in 0..6 {
        let answer = proxy.client().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").answer();
        assert_eq!((answer.status(), &*answer.text()), (200, "right"), "{answer:?}");
    }
    assert!(wrong.requests().is_empty());
}

#[test]
fn a_handshake_that_fails_in_another_way_has_a_reason_of_its_own() {
    let authority = Authority::new("a test's");
    let shown = authority.sign(&["localhost"]);
    for (manner, status, error, reason) in [
        (Manner::Resets, 502, "tls_protocol_error", "tls_protocol"),
        (Manner::Plain, 502, "tls_protocol_error", "tls_protocol"),
        (Manner::Silent, 504, "connection_timeout", "connect_timeout"),
    ] {
        let origin = SecureOrigin::behaving(&shown, manner);
        let timeouts = json!({ "connect": "300ms", "drain": "5s" });
        let on_top = [("timeouts", timeouts), ("when_all_down", json!("try")), quick()];
        let proxy = proxy(&[origin.url()], &authority, &on_top);
        let began = Instant::now();
        let answer = proxy.get("/");
        assert!(began.elapsed() < Duration::from_secs(5), "{manner:?}");
        assert_eq!(answer.status(), status, "{manner:?}: {answer:?}");
        assert!(answer.list("proxy-status").contains(error), "{manner:?}: {answer:?}");
        assert!(proxy.status()["failures"][reason].as_u64() >= Some(1), "{manner:?}: {}", proxy.status());
    }
}

#[test]
fn a_client_that_leaves_ends_the_wait_for_a_handshake() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::behaving(&authority.sign(&["localhost"]), Manner::Silent);
    let timeouts = json!({ "connect": "60s", "drain": "5s" });
    let on_top = [("timeouts", timeouts), ("when_all_down", json!("try")), ("workers", json!(1))];
    let proxy = proxy(&[origin.url()], &authority, &on_top);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let name = format!("localhost:{}", origin.port());
    eventually("it waits", || backend(&proxy, &name)["in_flight"] == 1);
    client.reset();
    eventually("it waits no more", || backend(&proxy, &name)["in_flight"] == 0);
}

#[test]
fn a_version_that_is_too_old_is_refused() {
    let authority = Authority::new("a test's");
    let shown = authority.sign(&["localhost"]);
    let mut old = config(&shown, None);
    old = {
        let provider = std::sync::Arc::clone(old.crypto_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).expect("a version");
        let chain = shown.chain.iter().cloned().map(Into::into).collect();
        let key = rustls::pki_types::PrivateKeyDer::try_from(shown.key.clone()).expect("a key");
        builder.with_no_client_auth().with_single_cert(chain, key).expect("they fit")
    };
    let origin = SecureOrigin::with(old, Manner::Good);
    let both = proxy(&[origin.url()], &authority, &[]);
    assert_eq!(both.get("/").status(), 200);
    let on_top = [("upstream_tls.min_version", json!("1.3")), ("when_all_down", json!("try"))];
    let newer = proxy(&[origin.url()], &authority, &on_top);
    let answer = newer.get("/");
    assert_eq!(answer.status(), 502, "{answer:?}");
    assert!(answer.list("proxy-status").contains("error=tls_"), "{answer:?}");
}

#[test]
fn backends_that_ask_for_a_certificate_are_shown_one() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::asking(&authority.sign(&["localhost"]), &authority);
    let folder = empty_folder();
    let (cert, key) = authority.sign(&["proxy.example"]).files(&folder, "client");
    let mut on_top = vec![quick(), ("health_check_frequency", json!("50ms")), ("when_all_down", json!("try"))];
    let name = format!("localhost:{}", origin.port());
    {
        let without = proxy(&[origin.url()], &authority, &on_top);
        eventually("probes say why", || {
            let reason = backend(&without, &name)["health_reason"].as_str().expect("a text").to_owned();
            reason.contains("backend refused the TLS handshake") && reason.contains("CertificateRequired")
        });
        // Whether its alert comes before the end of its connection is a race.
        eventually("requests say why", || {
            let answer = without.get("/");
            assert_eq!(answer.status(), 502, "{answer:?}");
            answer.list("proxy-status").contains("error=tls_alert_received")
        });
    }
    on_top.extend([("upstream_tls.client_cert", json!(cert)), ("upstream_tls.client_key", json!(key))]);
    let with = proxy(&[origin.url()], &authority, &on_top);
    assert_eq!(with.get("/").status(), 200);
    eventually("probes show it too", || backend(&with, &name)["health"] == "up");
}

#[test]
fn a_body_that_was_cut_never_looks_whole() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::start(&authority.sign(&["localhost"]));
    let proxy = proxy(&[origin.url()], &authority, &[]);
    let whole = proxy.get("/whole");
    assert!(whole.complete && whole.text() == "half", "{whole:?}");
    let cut = proxy.get("/cut");
    assert!(!cut.complete, "{cut:?}");
    eventually("it is counted", || proxy.status()["failures"]["body_cut"] == 1);
}

#[test]
fn idle_connections_end_with_a_word_and_those_that_ended_are_not_used() {
    let authority = Authority::new("a test's");
    let origin = SecureOrigin::start(&authority.sign(&["localhost"]));
    let timeouts = json!({ "upstream_keep_alive": "1s", "drain": "5s" });
    let proxy = proxy(&[origin.url()], &authority, &[("timeouts", timeouts), ("workers", json!(1))]);
    assert_eq!(proxy.get("/").status(), 200);
    eventually("it is closed, and a probe's too", || matches!(origin.closed(), [probes, 1] if probes > 0));
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(origin.handshakes(), (1, 1));
}

#[test]
fn a_backend_that_is_added_later_is_verified_too() {
    let (authority, stranger) = (Authority::new("a test's"), Authority::new("a stranger's"));
    let plain = Origin::answering("plain");
    let right = SecureOrigin::start(&authority.sign(&["localhost"]));
    let wrong = SecureOrigin::start(&stranger.sign(&["localhost"]));
    let proxy = proxy(&[plain.url()], &authority, &[quick()]);
    assert_eq!(proxy.mutate("DELETE", &plain).status(), 204);
    for origin in [&right, &wrong] {
        let answer = proxy.admin("POST", "/backends", &json!({ "url": origin.url() }).to_string());
        assert_eq!(answer.status(), 201, "{answer:?}");
        assert_eq!(answer.json()["tls"], json!({ "verify": true }));
    }
    for _ in 0..6 {
        assert_eq!(proxy.get("/").text(), "localhost");
    }
    assert!(wrong.requests().is_empty() && !right.requests().is_empty());
}

#[test]
fn the_authorities_of_the_system_are_those_that_it_names() {
    let authority = Authority::new("a test's");
    let (ca, folder) = ca_file(&authority);
    let origin = SecureOrigin::start(&authority.sign(&["localhost"]));
    let settings = settings(&[origin.url()]);
    let file = folder.join("maypole.json");
    std::fs::write(&file, settings.to_string()).expect("writable");
    let arguments = ["--config", file.to_str().expect("UTF-8")];
    let piped = || [std::process::Stdio::piped(), std::process::Stdio::piped()];
    let environment = [("SSL_CERT_FILE", ca.as_str()), ("SSL_CERT_DIR", "")];
    let _program = Program::start_with(&folder, &arguments, &environment, piped());
    let port = u16::try_from(settings["port"].as_u64().expect("a port")).expect("a port");
    eventually("it listens", || Client::try_connect(port).is_ok());
    assert_eq!(Client::connect(port).get("/").text(), "localhost");
}

#[test]
fn unverified_backends_are_warned_of_and_shown() {
    let stranger = Authority::new("a stranger's");
    let origin = SecureOrigin::start(&stranger.sign(&["b.example"]));
    let mut settings = settings(&[origin.url()]);
    settings["upstream_tls"] = json!({ "verify": false });
    let proxy = Proxy::start(&settings);
    assert_eq!(proxy.get("/").status(), 200);
    let name = format!("localhost:{}", origin.port());
    assert_eq!(backend(&proxy, &name)["tls"], json!({ "verify": false }));
    eventually("probes don't verify either", || backend(&proxy, &name)["health"] == "up");
    let said = proxy.program.stderr();
    assert!(said.contains("upstream_tls.verify is false"), "{said}");
}

#[test]
fn files_that_can_not_be_used_are_told_of_at_check_and_at_start() {
    let authority = Authority::new("a test's");
    let folder = empty_folder();
    let (cert, key) = authority.sign(&["a.example"]).files(&folder, "one");
    let (_, other) = authority.sign(&["b.example"]).files(&folder, "other");
    std::fs::write(folder.join("empty.pem"), "nothing\n").expect("writable");
    let (cert, key, other) = (cert.to_str().unwrap(), key.to_str().unwrap(), other.to_str().unwrap());
    for (tls, told) in [
        (json!({ "ca": "none.pem" }), "p.json:1:23: upstream_tls.ca: none.pem: can't be read"),
        (json!({ "ca": "empty.pem" }), "p.json:1:23: upstream_tls.ca: empty.pem: found no section"),
        (json!({ "ca": key }), "p.json:1:23: upstream_tls.ca: "),
        (json!({ "client_cert": cert, "client_key": other }), "upstream_tls.client_key: "),
        (json!({ "client_cert": key, "client_key": key }), "upstream_tls.client_cert: "),
        (json!({ "client_cert": cert, "client_key": cert }), "upstream_tls.client_key: "),
    ] {
        std::fs::write(folder.join("p.json"), json!({ "upstream_tls": tls }).to_string()).expect("writable");
        for arguments in [&["check", "--config", "p.json"][..], &["--config", "p.json"]] {
            let mut program = Program::start_in(&folder, arguments);
            assert_eq!(program.wait_for_exit(Duration::from_secs(10)).code(), Some(2), "{tls}");
            assert!(program.stderr().contains(told), "{tls}: {}", program.stderr());
        }
    }
    let good = json!({ "client_cert": cert, "client_key": key, "ca": cert });
    std::fs::write(folder.join("p.json"), json!({ "upstream_tls": good }).to_string()).expect("writable");
    let mut program = Program::start_in(&folder, &["check", "--config", "p.json"]);
    assert_eq!(program.wait_for_exit(Duration::from_secs(10)).code(), Some(0), "{}", program.stderr());
}
