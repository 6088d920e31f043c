//! The configuration as a whole: what is read, and the very lines that are printed for what is wrong.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::{Strategy as _, any, prop, prop_oneof, proptest};
use serde_json::json;

use super::*;

/// One case a line: a configuration on one line, and the lines that it earns, without their `1:COLUMN: `.
const WRONG: &[(&str, &[&str])] = &[
    // Not JSON
    ("", &["not JSON: there is nothing"]),
    ("{", &["not JSON: unterminated object"]),
    (r#"{"port": 1,}"#, &["not JSON: trailing commas are not allowed"]),
    (r#"{"port": 1} // x"#, &["not JSON: comments are not allowed"]),
    (r#"{"port": 01}"#, &["not JSON: expected comma"]),
    (r#"{"port": 0x10}"#, &["not JSON: hexadecimal numbers are not allowed"]),
    (r"{'port': 1}", &["not JSON: single-quoted strings are not allowed"]),
    (r"{port: 1}", &["not JSON: expected string for object property"]),
    ("{\"strategy\": \"a\tb\"}", &["not JSON: control character (\\u0000-\\u001F) found while parsing a string"]),
    (
        r#"{"strategy": "\ud800"}"#,
        &["not JSON: invalid unicode escape sequence. 'd800 (unpaired high surrogate)' is not a valid UTF8 character"],
    ),
    ("{} {}", &["not JSON: text cannot contain more than one JSON value"]),
    // Names
    ("[]", &["found a list, wanted an object"]),
    (r#"{"prot": 1}"#, &["prot: unknown field, did you mean \"port\"?"]),
    (r#"{"stratgy": 1}"#, &["stratgy: unknown field, did you mean \"strategy\"?"]),
    (
        r#"{"admin_token_file": "x"}"#,
        &[
            "admin_token_file: unknown field, known here: port, bind, admin_port, admin_bind, strategy, hash_key, hash_balance_factor, zone, slow_start, backends, health_check_frequency, health_check, request_timeout, timeouts, limits, retries, workers, trusted_proxies, untrusted_fields, via, queue, rate_limit, circuit_breaker, when_all_down, sticky, upstream_tls, tls, listeners",
        ],
    ),
    (r#"{"keep_alive": "1s"}"#, &["keep_alive: unknown field here, it belongs to \"timeouts\""]),
    (r#"{"limits": {"workers": 1}}"#, &["limits.workers: unknown field here, it belongs to the top level"]),
    (r#"{"limits": {"header": 1}}"#, &["limits.header: unknown field, did you mean \"headers\"?"]),
    (
        r#"{"limits": {"colour": 1}}"#,
        &[
            "limits.colour: unknown field, known here: connections, connections_per_client, head_bytes, headers, uri_bytes, body_bytes, requests_per_connection, min_body_rate, max_in_flight, hops",
        ],
    ),
    (r#"{"retries": {"budget": 20}}"#, &["retries.budget: unknown field, known here: attempts, budget_percent, on"]),
    (
        r#"{"a\nb": 1}"#,
        &[
            "[\"a\\nb\"]: unknown field, known here: port, bind, admin_port, admin_bind, strategy, hash_key, hash_balance_factor, zone, slow_start, backends, health_check_frequency, health_check, request_timeout, timeouts, limits, retries, workers, trusted_proxies, untrusted_fields, via, queue, rate_limit, circuit_breaker, when_all_down, sticky, upstream_tls, tls, listeners",
        ],
    ),
    (r#"{"port": 1, "port": 2}"#, &["port: given twice, first in line 1"]),
    // Numbers
    (r#"{"port": 65536}"#, &["port: found 65536, wanted a whole number from 0 to 65535"]),
    (r#"{"port": -1}"#, &["port: found -1, wanted a whole number from 0 to 65535"]),
    (r#"{"port": 80.5}"#, &["port: found 80.5, wanted a whole number from 0 to 65535"]),
    (r#"{"port": 1e5}"#, &["port: found 1e5, wanted a whole number from 0 to 65535"]),
    (r#"{"port": "8080"}"#, &["port: found \"8080\", wanted a whole number from 0 to 65535"]),
    (r#"{"port": null}"#, &["port: found null, wanted a whole number from 0 to 65535"]),
    (
        r#"{"port": 99999999999999999999999}"#,
        &["port: found 99999999999999999999999, wanted a whole number from 0 to 65535"],
    ),
    (r#"{"workers": 0}"#, &["workers: found 0, wanted a whole number from 1 to 1024"]),
    (r#"{"workers": 1025}"#, &["workers: found 1025, wanted a whole number from 1 to 1024"]),
    (
        r#"{"limits": {"head_bytes": 1023}}"#,
        &["limits.head_bytes: found 1023, wanted a whole number from 1024 to 65536"],
    ),
    (
        r#"{"limits": {"head_bytes": 4096, "uri_bytes": 8192}}"#,
        &["limits.uri_bytes: found 8192, wanted at most limits.head_bytes (4096)"],
    ),
    (r#"{"limits": {"headers": 0}}"#, &["limits.headers: found 0, wanted a whole number from 1 to 1000"]),
    (r#"{"limits": []}"#, &["limits: found a list, wanted an object"]),
    (r#"{"retries": {"attempts": 0}}"#, &["retries.attempts: found 0, wanted a whole number from 1 to 10"]),
    (r#"{"health_check": {"jitter": 1.5}}"#, &["health_check.jitter: found 1.5, wanted a number from 0 to 1"]),
    (r#"{"health_check": {"jitter": -0.1}}"#, &["health_check.jitter: found -0.1, wanted a number from 0 to 1"]),
    // Durations
    (r#"{"request_timeout": 10}"#, &["request_timeout: found 10, wanted a duration such as \"30s\" or \"1m30s\""]),
    (
        r#"{"request_timeout": "10"}"#,
        &[
            "request_timeout: found \"10\", wanted a duration such as \"30s\" or \"1m30s\": a number needs a unit after it (ns, us, ms, s, m, h)",
        ],
    ),
    (
        r#"{"request_timeout": "-1s"}"#,
        &["request_timeout: found \"-1s\", wanted a duration such as \"30s\" or \"1m30s\": it is negative"],
    ),
    (r#"{"request_timeout": "0s"}"#, &["request_timeout: found \"0s\", wanted a duration from 1ms to 8760h"]),
    (r#"{"request_timeout": "8761h"}"#, &["request_timeout: found \"8761h\", wanted a duration from 1ms to 8760h"]),
    (
        r#"{"health_check_frequency": "1ms"}"#,
        &["health_check_frequency: found \"1ms\", wanted a duration from 10ms to 8760h"],
    ),
    (r#"{"timeouts": {"connect": "0"}}"#, &["timeouts.connect: found \"0\", wanted a duration from 1ms to 8760h"]),
    (
        r#"{"health_check": {"fast_interval": "31s"}}"#,
        &["health_check.fast_interval: found \"31s\", wanted at most health_check_frequency"],
    ),
    // Words and texts
    (
        r#"{"strategy": "least-con"}"#,
        &[
            "strategy: found \"least-con\", wanted \"round-robin\" or \"least-conn\" or \"p2c\" or \"peak-ewma\" or \"random\" or \"ip-hash\" or \"hash\"; did you mean \"least-conn\"?",
        ],
    ),
    (
        r#"{"strategy": true}"#,
        &[
            "strategy: found true, wanted \"round-robin\" or \"least-conn\" or \"p2c\" or \"peak-ewma\" or \"random\" or \"ip-hash\" or \"hash\"",
        ],
    ),
    (
        r#"{"hash_key": "ip"}"#,
        &["hash_key: found \"ip\", wanted \"client-ip\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\""],
    ),
    (
        r#"{"hash_key": "header:"}"#,
        &[
            "hash_key: found \"header:\", wanted \"client-ip\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"",
        ],
    ),
    (
        r#"{"hash_key": "cookie:a b"}"#,
        &[
            "hash_key: found \"cookie:a b\", wanted \"client-ip\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"",
        ],
    ),
    (
        r#"{"hash_key": "query:a&b"}"#,
        &[
            "hash_key: found \"query:a&b\", wanted \"client-ip\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"",
        ],
    ),
    (
        r#"{"hash_balance_factor": 0.9}"#,
        &["hash_balance_factor: found 0.9, wanted a number from 1 to 100, or 0 for no bound"],
    ),
    (r#"{"slow_start": "999ms"}"#, &["slow_start: found \"999ms\", wanted \"0s\" or a duration from 1s to 1h"]),
    (r#"{"slow_start": "61m"}"#, &["slow_start: found \"61m\", wanted a duration from 0s to 1h"]),
    (
        r#"{"zone": "a/b"}"#,
        &["zone: found \"a/b\", wanted a zone of up to 64 letters, digits and any of - . _ ~ : @ [ ]"],
    ),
    (
        r#"{"backends": [{"url": "http://a", "weight": 257, "backup": 1, "zone": null}]}"#,
        &[
            "backends[0].weight: found 257, wanted a whole number from 0 to 256",
            "backends[0].backup: found 1, wanted true or false",
            "backends[0].zone: found null, wanted a zone of up to 64 letters, digits and any of - . _ ~ : @ [ ]",
        ],
    ),
    (
        r#"{"retries": {"on": ["500"]}}"#,
        &[
            "retries.on[0]: found \"500\", wanted \"connect\" or \"reset\" or \"502\" or \"503\" or \"504\"; did you mean \"502\"?",
        ],
    ),
    (r#"{"retries": {"on": ["reset", "reset"]}}"#, &["retries.on[1]: found \"reset\", wanted each word once"]),
    (
        r#"{"retries": {"on": "reset"}}"#,
        &["retries.on: found \"reset\", wanted a list of \"connect\", \"reset\" and statuses"],
    ),
    (
        r#"{"health_check": {"path": "health"}}"#,
        &["health_check.path: found \"health\", wanted a path such as \"/health\" (up to 1024 bytes)"],
    ),
    (
        r#"{"health_check": {"path": "/a b"}}"#,
        &["health_check.path: found \"/a b\", wanted a path such as \"/health\" (up to 1024 bytes)"],
    ),
    (
        r#"{"health_check": {"path": "/#x"}}"#,
        &["health_check.path: found \"/#x\", wanted a path such as \"/health\" (up to 1024 bytes)"],
    ),
    (
        r#"{"health_check": {"method": "get"}}"#,
        &["health_check.method: found \"get\", wanted \"GET\" or \"HEAD\" or \"OPTIONS\"; did you mean \"GET\"?"],
    ),
    (
        r#"{"health_check": {"host": "a\r\nb"}}"#,
        &["health_check.host: found \"a\\r\\nb\", wanted a host name, with or without a port, or null"],
    ),
    (
        r#"{"health_check": {"expect": "2xx"}}"#,
        &["health_check.expect: found \"2xx\", wanted status codes such as \"200-399\" or \"200,204\""],
    ),
    (
        r#"{"health_check": {"method": "HEAD", "body_contains": "ok"}}"#,
        &["health_check.body_contains: found \"ok\", wanted null, since the answer to a HEAD has no body"],
    ),
    (
        r#"{"health_check": {"body_contains": ""}}"#,
        &["health_check.body_contains: found \"\", wanted 1 to 1024 bytes of text, or null"],
    ),
    // Addresses
    (r#"{"bind": "localhost"}"#, &["bind: found \"localhost\", wanted an IP address such as \"0.0.0.0\" or \"::\""]),
    (
        r#"{"bind": "unix:/run/x"}"#,
        &["bind: found \"unix:/run/x\", wanted an IP address such as \"0.0.0.0\" or \"::\""],
    ),
    (
        r#"{"bind": []}"#,
        &[
            "bind: found a list of 0, wanted an IP address such as \"0.0.0.0\" or \"::\", or a list of them (1 to 64 of them)",
        ],
    ),
    (r#"{"bind": ["::1", "0::1"]}"#, &["bind[1]: found \"0::1\", wanted each address once"]),
    (r#"{"bind": [7]}"#, &["bind[0]: found 7, wanted an IP address"]),
    (
        r#"{"admin_bind": "0.0.0.0"}"#,
        &[
            "admin_bind: found \"0.0.0.0\", wanted a loopback address such as \"127.0.0.1\" or \"::1\": the admin API has no tokens yet, so nobody else may reach it",
        ],
    ),
    (
        r#"{"admin_bind": "here"}"#,
        &["admin_bind: found \"here\", wanted a loopback address such as \"127.0.0.1\" or \"::1\""],
    ),
    (
        r#"{"port": 8081}"#,
        &["port: found 8081, wanted another port than \"admin_port\", which listens on the same address"],
    ),
    (
        r#"{"admin_port": 8080}"#,
        &["admin_port: found 8080, wanted another port than \"port\", which listens on the same address"],
    ),
    (
        r#"{"bind": "::", "admin_port": 8080}"#,
        &["admin_port: found 8080, wanted another port than \"port\", which listens on the same address"],
    ),
    (
        r#"{"trusted_proxies": ["10.0.0.0/33"]}"#,
        &["trusted_proxies[0]: found \"10.0.0.0/33\", wanted a network such as \"10.0.0.0/8\" or an IP address"],
    ),
    // Backends
    (
        r#"{"backends": "http://a"}"#,
        &["backends: found \"http://a\", wanted a list of URLs or of objects with \"url\""],
    ),
    (r#"{"backends": [7]}"#, &["backends[0]: found 7, wanted a URL or an object with \"url\""]),
    (
        r#"{"backends": ["a:1"]}"#,
        &[
            "backends[0]: found \"a:1\", wanted http[s]://HOST[:PORT][/BASE]: it has no http:// or https:// at its start",
        ],
    ),
    (r#"{"backends": ["https://a", "http://a", "HTTPS://A:443/"]}"#, &["backends[2]: the same backend as backends[0]"]),
    (r#"{"backends": [{"name": "a"}]}"#, &["backends[0].url: missing, wanted the backend's URL"]),
    (
        r#"{"backends": [{"url": "http://a", "max_connections": -1}]}"#,
        &["backends[0].max_connections: found -1, wanted a whole number from 0 to 10000000"],
    ),
    (
        r#"{"backends": [{"url": "http://a", "name": "a/b"}]}"#,
        &["backends[0].name: found \"a/b\", wanted a name of 1 to 260 letters, digits and any of - . _ ~ : @ [ ]"],
    ),
    (
        r#"{"backends": ["http://a", {"url": "HTTP://A:80/", "name": "b"}]}"#,
        &["backends[1].url: the same backend as backends[0]"],
    ),
    // Several at once, in the file's order
    (
        r#"{"backends": [{"uri": "http://a", "name": ""}, "ftp://b"], "port": "x", "timeouts": {"head": "1", "hed": 1}}"#,
        &[
            "backends[0].url: missing, wanted the backend's URL",
            "backends[0].uri: unknown field, did you mean \"url\"?",
            "backends[0].name: found \"\", wanted a name of 1 to 260 letters, digits and any of - . _ ~ : @ [ ]",
            "backends[1]: found \"ftp://b\", wanted http[s]://HOST[:PORT][/BASE]: its scheme is neither http nor https",
            "port: found \"x\", wanted a whole number from 0 to 65535",
            "timeouts.head: found \"1\", wanted a duration such as \"30s\" or \"1m30s\": a number needs a unit after it (ns, us, ms, s, m, h)",
            "timeouts.hed: unknown field, did you mean \"head\"?",
        ],
    ),
];

#[test]
fn everything_wrong_is_told_in_one_line_each() {
    for (text, wanted) in WRONG {
        let errors = parse(text).expect_err(text);
        let told: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, *wanted, "{text}");
        for line in errors.to_string().lines() {
            assert!(line.starts_with("1:"), "{line}");
        }
        assert_eq!(errors.to_string().lines().count(), wanted.len(), "one line an error: {text}");
    }
}

#[test]
fn an_error_names_the_line_and_the_column() {
    let text =
        "{\n  \"//\": \"héllo\",\n  \"port\": 1, \"pört\": 2,\n\t\"backends\": [\n    \"x\",\r\n    {\"url\": 7}]\n}";
    let errors = parse(text).expect_err("it is wrong");
    let places: Vec<(usize, usize)> =
        errors.errors.iter().filter_map(|error| error.position).map(|place| (place.line, place.column)).collect();
    assert_eq!(places, [(3, 14), (5, 5), (6, 13)]);
}

#[test]
fn an_empty_object_gives_every_default() {
    assert_eq!(parse("{}"), Ok(Config::default()));
    assert_eq!(parse("\u{feff}{}"), Ok(Config::default()), "a byte order mark is let through");
}

#[test]
fn every_field_arrives_where_it_belongs() {
    let text = json!({
        "//": "a remark", "port": 1, "bind": ["127.0.0.1", "::1"], "admin_port": 2, "admin_bind": "::1",
        "strategy": "least-conn",
        "backends": ["http://A:1/", {"//": 7, "url": "http://b/base", "name": "bee"}],
        "health_check_frequency": "5s",
        "health_check": {"path": "/h?x=?", "method": "HEAD", "host": "h.example:1", "timeout": "3s",
            "expect": "204", "body_contains": null, "rise": 3, "fall": 4, "fast_interval": "2s", "jitter": 0},
        "request_timeout": "6s",
        "timeouts": {"connect": "1ms", "head": "2ms", "body_idle": "3ms", "keep_alive": "4ms",
            "upstream_keep_alive": "5ms", "tunnel_idle": "6ms", "write": "7ms", "half_closed": "0s",
            "grace": "8ms", "drain": "0"},
        "limits": {"connections": 1, "connections_per_client": 7, "head_bytes": 2048, "headers": 3, "uri_bytes": 100, "body_bytes": 5,
            "requests_per_connection": 6, "min_body_rate": 8, "max_in_flight": 9, "hops": 10},
        "retries": {"attempts": 1, "budget_percent": 7, "on": ["reset", "503"]},
        "workers": 7,
        "trusted_proxies": ["10.1.2.3/8", "::1"], "untrusted_fields": ["X-Tenant"], "via": "edge-1",
    })
    .to_string();
    let config = parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let ms = Duration::from_millis;
    assert_eq!((config.port, config.admin_port, config.workers), (1, 2, 7));
    assert_eq!(config.bind, ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().expect("an address")));
    assert_eq!(config.admin_bind.to_string(), "::1");
    assert_eq!(config.strategy, super::Strategy::LeastConn);
    let backends: Vec<_> =
        config.backends.iter().map(|backend| (backend.name.as_str(), backend.url.normalized.as_str())).collect();
    assert_eq!(backends, [("a:1", "http://a:1"), ("bee", "http://b/base")]);
    let check = HealthCheck {
        interval: ms(5000),
        path: "/h?x=?".to_owned(),
        method: "HEAD".to_owned(),
        host: Some("h.example:1".to_owned()),
        timeout: ms(3000),
        expect: vec![204..=204],
        body_contains: None,
        rise: 3,
        fall: 4,
        fast_interval: ms(2000),
        jitter: 0.0,
    };
    assert_eq!(config.health_check, check);
    assert_eq!(config.request_timeout, ms(6000));
    let timeouts = Timeouts {
        connect: ms(1),
        head: ms(2),
        body_idle: ms(3),
        keep_alive: ms(4),
        upstream_keep_alive: ms(5),
        tunnel_idle: ms(6),
        write: ms(7),
        half_closed: ms(0),
        grace: ms(8),
        drain: ms(0),
    };
    assert_eq!(config.timeouts, timeouts);
    let limits = Limits {
        connections: 1,
        connections_per_client: 7,
        head_bytes: 2048,
        headers: 3,
        uri_bytes: 100,
        body_bytes: 5,
        requests_per_connection: 6,
        min_body_rate: 8,
        max_in_flight: 9,
        hops: 10,
    };
    assert_eq!(config.limits, limits);
    assert_eq!(
        config.retries,
        Retries { attempts: 1, on_connect: false, on_reset: true, on_status: [false, true, false], budget_percent: 7 }
    );
    let networks: Vec<String> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128"]);
    assert_eq!((config.untrusted_fields, config.via), (vec!["X-Tenant".to_owned()], Some("edge-1".to_owned())));
    assert_eq!(parse(r#"{"via": false}"#).map(|config| config.via), Ok(None));
}

const FULL: &str = include_str!("../../conf/full.json");
const EXAMPLE: &str = include_str!("../../conf/maypole.json");
const MANUAL: &str = include_str!("../../docs/configuration.md");

#[test]
fn the_full_configuration_shows_every_field_with_its_default() {
    let full = parse(FULL).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> = full.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["localhost:8082", "localhost:8083", "third"]);
    assert_eq!(Config { backends: Vec::new(), ..full }, Config::default());

    let shown: serde_json::Value = serde_json::from_str(FULL).expect("it is JSON");
    for (section, fields) in schema::SECTIONS {
        let object = if section.is_empty() { &shown } else { &shown[section] };
        // What is off by default is null as a whole.
        for field in fields.iter().filter(|_| !object.is_null()) {
            assert!(object.get(field).is_some(), "conf/full.json lacks {section}.{field}");
        }
    }
}

#[test]
fn the_example_configuration_balances_over_three_backends_by_turns() {
    let example = parse(EXAMPLE).unwrap_or_else(|errors| panic!("{errors}"));
    let urls: Vec<&str> = example.backends.iter().map(|backend| backend.url.written.as_str()).collect();
    assert_eq!(urls, ["http://localhost:8082", "http://localhost:8083", "http://localhost:8084"]);
    assert_eq!(Config { backends: Vec::new(), ..example }, Config::default());
}

#[test]
fn the_manual_documents_every_field_once() {
    let sections = schema::SECTIONS.iter().map(|(section, fields)| (*section, *fields));
    let of_lists = [
        ("backends[]", schema::BACKEND),
        ("listeners[]", schema::LISTENER),
        ("tls.certificates[]", schema::CERTIFICATE),
        ("tls.hsts", schema::HSTS),
    ];
    for (section, fields) in sections.chain(of_lists) {
        for field in fields {
            let is_section = section.is_empty() && schema::SECTIONS.iter().any(|(name, _)| name == field);
            let path = if section.is_empty() { (*field).to_owned() } else { format!("{section}.{field}") };
            let rows = MANUAL.matches(&format!("\n| `{path}` |")).count();
            assert_eq!(rows, usize::from(!is_section), "rows of {path} in docs/configuration.md");
        }
    }
}

#[test]
fn a_default_follows_the_bound_that_it_depends_on() {
    let config = parse(r#"{"health_check_frequency": "100ms", "limits": {"head_bytes": 4096}}"#)
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.health_check.fast_interval, Duration::from_millis(100));
    assert_eq!(config.limits.uri_bytes, 4096);
}

#[test]
fn ports_may_be_equal_where_their_addresses_are_not() {
    for text in [
        r#"{"bind": "127.0.0.2", "port": 8081}"#,
        r#"{"bind": "0.0.0.0", "admin_bind": "::1", "port": 8081}"#,
        r#"{"port": 0, "admin_port": 0}"#,
    ] {
        assert!(parse(text).is_ok(), "{text}");
    }
}

#[test]
fn what_is_right_in_a_wrong_file_is_kept_for_look_ups() {
    let found = examine_text(r#"{"port": -1, "backends": ["x", "http://a", {"url": "http://b"}]}"#, None);
    assert!(found.config.is_none());
    assert_eq!(found.errors.errors.len(), 2);
    let places: Vec<_> = found.backends.iter().map(|(url, place)| (url.host.as_str(), place.path.as_str())).collect();
    assert_eq!(places, [("a", "backends[1]"), ("b", "backends[2].url")]);
}

#[test]
fn columns_count_characters_whoever_found_the_mistake() {
    // The first is found by the one parser, the second by the other, which counts bytes (up to the one before).
    for (text, wanted) in
        [("{\n\"\u{e9}\u{e9}\": x}", "2:7: not JSON:"), ("{\n\"\u{e9}\u{e9}\": \"\u{1}\"}", "2:7: not JSON:")]
    {
        let told = parse(text).expect_err("it is wrong").to_string();
        assert!(told.starts_with(wanted), "{told}");
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    for (text, place) in [
        ("[".repeat(17), "1:17"),
        ("{\"a\":".repeat(17), "1:81"),
        ("[".repeat(100_000), "1:17"),
        (format!("{{\n\"//\": {}}}", "[{\"\\\"\":".repeat(100_000)), "2:57"),
        ("[\n".repeat(16) + "\"]]]]\", {", "17:9"),
    ] {
        let errors = parse(&text).expect_err("it is too deep").to_string();
        let wanted = "found more than 16 lists and objects in one another, wanted at most 16";
        assert_eq!(errors, format!("{place}: {wanted}"));
    }
}

#[test]
fn what_nests_no_deeper_than_it_may_is_read() {
    let lists = "[".repeat(15) + &"]".repeat(15);
    let side_by_side = "{}, [[]], ".repeat(1000);
    for remark in [lists, format!("[{side_by_side}null]"), format!("{:?}", "\\\"[{".repeat(1000))] {
        parse(&format!("{{\"//\": {remark}}}")).expect("it is right");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in any::<String>(), pieces in prop::collection::vec(piece(), 0..20)) {
        for text in [text, pieces.concat()] {
            let _ = parse(&text);
            let _ = parse_duration(&text);
            let _ = BackendUrl::parse(&format!("http://{text}"));
        }
    }
}

fn piece() -> impl proptest::strategy::Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"backends\"",
        "\"limits\"",
        "null",
        "-1",
        "1e9",
        "\"é\\u00e9\"",
        "\n",
        "1.5h",
        "µs",
    ];
    prop_oneof![prop::sample::select(KNOWN).prop_map(str::to_owned), "\\PC{0,3}"]
}
