//! What `tls` and `listeners` may hold, and the very lines that are told of what is wrong.

use std::net::IpAddr;

use super::*;
use crate::config::{Config, Listener, examine_text, parse};

fn read(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{text}: {errors}"))
}

fn told(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text).errors;
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_certificate_is_all_that_tls_needs() {
    assert_eq!(read("{\"tls\": null}").tls, None);
    let tls = read(r#"{"bind": "::1", "tls": {"certificates": [{"cert": "a.pem", "key": "a.key"}]}}"#).tls.unwrap();
    let files = CertificateFiles { cert: "a.pem".into(), key: "a.key".into(), ocsp: None };
    let bind: IpAddr = "::1".parse().unwrap();
    assert_eq!(tls, Tls { certificates: vec![files], ..Tls::with_bind(vec![bind]) });
    assert_eq!((tls.port, tls.min_version, tls.handshake_timeout.as_secs()), (Some(8443), TlsVersion::V1_2, 10));
}

#[test]
fn every_field_arrives_where_it_belongs() {
    let text = r#"{"listeners": [{"port": 1, "bind": "127.0.0.1", "tls": true}, {"port": 2}], "tls": {
        "port": 443, "bind": ["127.0.0.1", "::1"], "min_version": "1.3", "client_ca": "ca.pem", "crl": ["1.crl", "2.crl"],
        "certificates": [{"cert": "a.pem", "key": "a.key", "ocsp": "a.ocsp"}, {"cert": "b.pem", "key": "b.key", "ocsp": null}],
        "client_auth": "optional", "client_header": "X-Client-Certificate", "ticket_keys": "keys", "strict_sni": true,
        "redirect_http": true, "hsts": {"max_age": "8760h", "include_subdomains": true, "preload": true},
        "handshake_timeout": "5s"}}"#;
    let config = read(text);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let listener = |port, bind: &str, tls| Listener { port, bind: vec![address(bind)], tls };
    assert_eq!(config.listeners, [listener(1, "127.0.0.1", true), listener(2, "0.0.0.0", false)]);
    let files = |name: &str, ocsp: Option<&str>| CertificateFiles {
        cert: format!("{name}.pem").into(),
        key: format!("{name}.key").into(),
        ocsp: ocsp.map(Into::into),
    };
    let want = Tls {
        port: Some(443),
        bind: vec![address("127.0.0.1"), address("::1")],
        certificates: vec![files("a", Some("a.ocsp")), files("b", None)],
        min_version: TlsVersion::V1_3,
        client_ca: Some("ca.pem".into()),
        crl: vec!["1.crl".into(), "2.crl".into()],
        client_auth: ClientAuth::Optional,
        client_header: Some("X-Client-Certificate".to_owned()),
        ticket_keys: Some("keys".into()),
        strict_sni: true,
        redirect_http: true,
        hsts: Some(Hsts { max_age: YEAR, include_subdomains: true, preload: true }),
        handshake_timeout: Duration::from_secs(5),
        acme: None,
    };
    assert_eq!(config.tls, Some(want));
    let on: Vec<_> = config.listens_on().iter().map(|(at, field)| format!("{at} {field}")).collect();
    let want = [
        "0.0.0.0:8080 port",
        "127.0.0.1:443 tls.port",
        "[::1]:443 tls.port",
        "127.0.0.1:1 listeners",
        "0.0.0.0:2 listeners",
        "127.0.0.1:8081 admin_port",
    ];
    assert_eq!(on, want);
}

#[test]
fn where_files_are_named_is_known_for_those_who_read_them() {
    let text = "{\"tls\": {\"client_ca\": \"ca\",\n \"certificates\": [{\"cert\": \"a\", \"key\": \"b\"}]}}";
    let found = examine_text(text, None);
    let places: Vec<_> = found.files.iter().map(|place| (&*place.path, place.position.unwrap().line)).collect();
    let want = [("tls.certificates[0].cert", 2), ("tls.certificates[0].key", 2), ("tls.client_ca", 1)];
    assert_eq!(places, want);
    assert!(found.tls.is_some());
    let wrong = examine_text(r#"{"port": -1, "tls": {"certificates": [{"cert": "a", "key": "b"}]}}"#, None);
    assert!(wrong.tls.is_some() && wrong.config.is_none(), "its files can be looked at whatever is wrong elsewhere");
    let wrong = examine_text(r#"{"tls": {"certificates": [{"cert": "a", "key": 7}]}}"#, None);
    assert!(wrong.tls.is_none());
}

/// `tls` with a certificate, and more.
fn with(more: &str) -> String {
    format!(r#"{{"tls": {{"certificates": [{{"cert": "a", "key": "b"}}], {more}}}}}"#)
}

#[test]
fn what_is_wrong_with_tls_is_told() {
    let cases: &[(&str, &[&str])] = &[
        (r#"{"tls": {}}"#, &["tls.certificates: missing, wanted at least one certificate, or \"acme\""]),
        (
            r#"{"tls": {"certificates": []}}"#,
            &["tls.certificates: found a list, wanted at least one certificate, or \"acme\""],
        ),
        (
            r#"{"tls": {"certificates": [{"cert": "a"}, {"key": "", "cert": 7}]}}"#,
            &[
                "tls.certificates[0].key: missing, wanted the path of a file",
                "tls.certificates[1].key: found \"\", wanted the path of a file",
                "tls.certificates[1].cert: found 7, wanted the path of a file",
            ],
        ),
        (
            &with(r#""min_version": "1.1""#),
            &["tls.min_version: found \"1.1\", wanted \"1.2\" or \"1.3\"; did you mean \"1.2\"?"],
        ),
        (
            &with(r#""handshake_timeout": "1ms""#),
            &["tls.handshake_timeout: found \"1ms\", wanted a duration from 100ms to 10m"],
        ),
        (
            &with(r#""crl": ["a"], "client_auth": "optional", "client_header": "X-C""#),
            &[
                "tls.crl: found a list, wanted none, since there is no \"client_ca\"",
                "tls.client_auth: found \"optional\", wanted none, since there is no \"client_ca\"",
                "tls.client_header: found \"X-C\", wanted none, since there is no \"client_ca\"",
            ],
        ),
        (
            &with(r#""client_ca": "ca", "client_header": "a b""#),
            &["tls.client_header: found \"a b\", wanted the name of a field such as \"X-Client-Certificate\""],
        ),
        (
            &with(r#""client_ca": "ca", "client_header": "X-C"}, "rate_limit": {"requests": 1, "key": "header:x-c""#),
            &[
                "tls.client_header: found \"X-C\", wanted the name of a field such as \"X-Client-Certificate\": by this one \"rate_limit.key\" or \"hash_key\" takes what a client says of itself",
            ],
        ),
        (
            &with(
                r#""client_ca": "ca", "client_header": "X-C"}, "strategy": "hash", "hash_key": "header:X-C", "timeouts": {"connect": "1s""#,
            ),
            &[
                "tls.client_header: found \"X-C\", wanted the name of a field such as \"X-Client-Certificate\": by this one \"rate_limit.key\" or \"hash_key\" takes what a client says of itself",
            ],
        ),
        (
            &with(r#""client_ca": "ca", "client_header": "Keep_Alive""#),
            &[
                "tls.client_header: found \"Keep_Alive\", wanted the name of a field such as \"X-Client-Certificate\": this one ends at the next hop, or maypole writes it itself",
            ],
        ),
        (
            &with(r#""client_ca": "ca", "client_header": "x-forwarded-client-cert""#),
            &[
                "tls.client_header: found \"x-forwarded-client-cert\", wanted the name of a field such as \"X-Client-Certificate\": this one ends at the next hop, or maypole writes it itself",
            ],
        ),
        (
            &with(r#""port": null, "redirect_http": true"#),
            &["tls.redirect_http: found true, wanted false, since no port has TLS: there is nowhere to send clients"],
        ),
        (&with(r#""hsts": {"max_age": "1500ms"}"#), &["tls.hsts.max_age: found \"1500ms\", wanted whole seconds"]),
        (
            &with(r#""hsts": {"max_age": "8759h", "include_subdomains": true, "preload": true}"#),
            &[
                "tls.hsts.preload: found true, wanted false, since browsers' lists take it with \"include_subdomains\" and a year of \"max_age\" alone",
            ],
        ),
        (&with(r#""hsts": true"#), &["tls.hsts: found true, wanted an object"]),
        (r#"{"tls": "a.pem"}"#, &["tls: found \"a.pem\", wanted an object"]),
        (r#"{"strict_sni": true}"#, &["strict_sni: unknown field here, it belongs to \"tls\""]),
        (&with(r#""certificate": []"#), &["tls.certificate: unknown field, did you mean \"certificates\"?"]),
    ];
    for (text, wanted) in cases {
        assert_eq!(told(text), *wanted, "{text}");
    }
}

#[test]
fn no_two_listeners_share_an_address() {
    let taken = |path: &str, port: u16, other: &str| {
        vec![format!("{path}: found {port}, wanted another port than {other:?}, which listens on the same address")]
    };
    for (text, wanted) in [
        (with(r#""port": 8080"#), taken("tls.port", 8080, "port")),
        (with(r#""port": 8081"#), taken("tls.port", 8081, "admin_port")),
        (r#"{"listeners": [{"port": 8081}]}"#.to_owned(), taken("listeners[0].port", 8081, "admin_port")),
        (r#"{"listeners": [{"port": 8080}]}"#.to_owned(), taken("listeners[0].port", 8080, "port")),
        (
            r#"{"listeners": [{"port": 1}, {"port": 1, "bind": ["::", "127.0.0.1"]}]}"#.to_owned(),
            taken("listeners[1].port", 1, "listeners[0].port"),
        ),
    ] {
        assert_eq!(told(&text), wanted, "{text}");
    }
    let admin = r#"{"admin_port": 8443, "tls": {"certificates": [{"cert": "a", "key": "b"}]}}"#;
    assert_eq!(told(admin), taken("admin_port", 8443, "tls.port"));
    for text in [
        r#"{"listeners": [{"port": 0}, {"port": 0}]}"#,
        r#"{"bind": "127.0.0.1", "listeners": [{"port": 8080, "bind": "127.0.0.2"}]}"#,
        r#"{"listeners": [{"port": 8080, "bind": "::"}]}"#,
    ] {
        read(text);
    }
}

#[test]
fn what_is_wrong_with_a_listener_is_told() {
    for (text, wanted) in [
        (r#"{"listeners": [{}]}"#, "listeners[0].port: missing, wanted a port"),
        (r#"{"listeners": {}}"#, "listeners: found an object, wanted a list of objects with \"port\""),
        (
            r#"{"listeners": [{"port": 1, "tls": true}]}"#,
            "listeners[0].tls: found true, wanted false, since there is no \"tls\" that says which certificates it has",
        ),
    ] {
        assert_eq!(told(text), [wanted], "{text}");
    }
}

#[test]
fn what_is_asked_of_an_authority_is_read_and_what_is_wrong_with_it_told() {
    let text = r#"{"tls": {"acme": {"directory": "https://localhost:14000/dir", "email": "ops@example.com",
        "domains": ["WWW.example.com", "example.com"], "cache": "acme", "challenge": "http-01"}}}"#;
    let want = Acme {
        directory: "https://localhost:14000/dir".to_owned(),
        email: Some("ops@example.com".to_owned()),
        domains: vec!["www.example.com".to_owned(), "example.com".to_owned()],
        cache: "acme".into(),
        challenge: AcmeChallenge::Http01,
    };
    assert_eq!(read(text).tls.and_then(|tls| tls.acme), Some(want));
    let cases: &[(&str, &[&str])] = &[
        (
            r#"{"tls": {"acme": {"domains": []}}}"#,
            &[
                "tls.acme.cache: missing, wanted the path of a file",
                "tls.acme.domains: found a list of 0, wanted a list of the names that certificates are for (1 to 100 of them)",
            ],
        ),
        (
            r#"{"tls": {"acme": {"cache": "c", "domains": ["*.a.example", "a.example", "A.example", "10.0.0.1", "a..b"],
                "directory": "http://a", "email": "ops", "challenge": "dns-01"}}}"#,
            &[
                "tls.acme.domains[0]: found \"*.a.example\", wanted a name such as \"www.example.com\", without a wildcard",
                "tls.acme.domains[2]: found \"A.example\", wanted each name once",
                "tls.acme.domains[3]: found \"10.0.0.1\", wanted a name such as \"www.example.com\", without a wildcard",
                "tls.acme.domains[4]: found \"a..b\", wanted a name such as \"www.example.com\", without a wildcard",
                "tls.acme.directory: found \"http://a\", wanted an https:// URL",
                "tls.acme.email: found \"ops\", wanted an address such as \"ops@example.com\", or null",
                "tls.acme.challenge: found \"dns-01\", wanted \"tls-alpn-01\" or \"http-01\"",
            ],
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(told(text), *wanted, "{text}");
    }
}
