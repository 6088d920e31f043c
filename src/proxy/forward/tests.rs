use std::sync::LazyLock;

use super::*;
use crate::http1::{HeadLimits, Parsed, parse_request, parse_response};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 16_384, headers: 100, uri_bytes: 8_192 };
const DATE: &[u8] = b"Mon, 23 Nov 2026 00:00:00 GMT";

static STRANGERS: LazyLock<FieldNames> = LazyLock::new(|| FieldNames::new(["X-Real-IP"]));
static NOBODY: LazyLock<FieldNames> = LazyLock::new(|| FieldNames::alone(["X-Client"]));
static VIA: LazyLock<Via> = LazyLock::new(|| Via::new("maypole"));

fn how() -> RequestForwarding<'static> {
    RequestForwarding {
        base_path: b"",
        default_host: b"backend:81",
        peer: IpAddr::from([127, 0, 0, 1]),
        trusted: false,
        withheld: &STRANGERS,
        identity: None,
        encrypted: false,
        request_id: b"made-1",
        via: Some(&VIA),
        upgrade: true,
    }
}

/// The head that a backend gets, as lines.
fn forwarded(head: &str, how: &RequestForwarding<'_>) -> Vec<String> {
    let mut out = b"before".to_vec();
    let parsed = parse_request(head.as_bytes(), &LIMITS, |request| {
        write_request_head(&mut out, request, how);
    });
    assert!(matches!(parsed, Ok(Parsed::Complete { .. })), "{head}: {parsed:?}");
    lines(&out, "before")
}

fn lines(out: &[u8], prefix: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(out);
    let text = text.strip_prefix(prefix).unwrap();
    text.strip_suffix("\r\n\r\n").unwrap().split("\r\n").map(str::to_owned).collect()
}

/// The lines of one name.
fn of<'l>(lines: &'l [String], name: &str) -> Vec<&'l str> {
    let fields = lines[1..].iter().filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

fn get(lines: &str) -> String {
    format!("GET /p HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

#[test]
fn a_plain_request_gains_five_lines_and_loses_none() {
    let got = forwarded(&get("User-Agent: t/1 (x)\r\nX-A:  1 \r\n"), &how());
    assert_eq!(
        got,
        [
            "GET /p HTTP/1.1",
            "Host: a.example",
            "User-Agent: t/1 (x)",
            "X-A:  1 ",
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: a.example",
            "X-Request-Id: made-1",
            "Via: 1.1 maypole",
        ]
    );
}

#[test]
fn targets_become_origin_form_behind_the_base_path() {
    for (line, base, want) in [
        ("GET /a?b=%2F&&=+x HTTP/1.1", "", "GET /a?b=%2F&&=+x HTTP/1.1"),
        ("GET /a HTTP/1.1", "/base", "GET /base/a HTTP/1.1"),
        ("GET / HTTP/1.1", "/base", "GET /base/ HTTP/1.1"),
        ("brew //a/../b HTTP/1.0", "", "brew //a/../b HTTP/1.1"),
        ("GET http://b.example/x?q=1 HTTP/1.1", "", "GET /x?q=1 HTTP/1.1"),
        ("GET http://b.example HTTP/1.1", "/base", "GET /base/ HTTP/1.1"),
        ("GET http://b.example?q HTTP/1.1", "", "GET /?q HTTP/1.1"),
        ("OPTIONS * HTTP/1.1", "/base", "OPTIONS * HTTP/1.1"),
        ("OPTIONS http://b.example HTTP/1.1", "/base", "OPTIONS * HTTP/1.1"),
        ("OPTIONS http://b.example/ HTTP/1.1", "", "OPTIONS / HTTP/1.1"),
    ] {
        let how = RequestForwarding { base_path: base.as_bytes(), ..how() };
        assert_eq!(forwarded(&format!("{line}\r\nHost: a\r\n\r\n"), &how)[0], want);
    }
}

#[test]
fn host_is_the_one_that_is_meant() {
    for (head, want) in [
        ("GET / HTTP/1.1\r\nX: 1\r\nhost:a:80\r\n\r\n", "a:80"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "b"),
        ("GET / HTTP/1.0\r\n\r\n", "backend:81"),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", "a"),
    ] {
        assert_eq!(of(&forwarded(head, &how()), "host"), [want], "{head}");
    }
    assert!(of(&forwarded("GET / HTTP/1.0\r\n\r\n", &how()), "x-forwarded-host").is_empty());
    let absolute = forwarded("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", &how());
    assert_eq!(of(&absolute, "x-forwarded-host"), ["b"]);
}

#[test]
fn hop_by_hop_fields_go_no_further() {
    let got = forwarded(
        &get("Connection: x-hop, te, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 2\r\n\
              Proxy-Connection: keep-alive\r\nTE: gzip\r\nTrailer: X\r\nUpgrade: x\r\nHTTP2-Settings: AA\r\n\
              Transfer-Encoding: chunked\r\n"),
        &how(),
    );
    for name in ["connection", "x-hop", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings"] {
        assert!(of(&got, name).is_empty(), "{name}");
    }
    assert_eq!(of(&got, "x-end"), ["2"]);
    assert_eq!(of(&got, "transfer-encoding"), ["chunked"]);
}

#[test]
fn a_trailer_section_is_announced_where_there_may_be_one() {
    for (fields, want) in [
        ("Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n", &["X-Sum"][..]),
        ("Trailer: X-Sum\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n", &["X-Sum", "X-T"]),
        ("Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\nConnection: trailer\r\n", &[]),
        ("Trailer: X-Sum\r\nContent-Length: 0\r\n", &[]),
        ("Trailer: X-Sum\r\n", &[]),
    ] {
        assert_eq!(of(&forwarded(&get(fields), &how()), "trailer"), want, "{fields}");
    }
    let of_10 = forwarded("POST / HTTP/1.0\r\nTrailer: X-Sum\r\nContent-Length: 1\r\n\r\n", &how());
    assert!(of(&of_10, "trailer").is_empty());
}

#[test]
fn the_proxy_tells_of_itself_by_its_name_or_not_at_all() {
    let edge = Via::new("edge-1");
    let how = RequestForwarding { via: Some(&edge), ..how() };
    assert_eq!(of(&forwarded(&get("Via: 1.0 fred\r\n"), &how), "via"), ["1.0 fred", "1.1 edge-1"]);
    assert_eq!(of(&forwarded("GET / HTTP/1.0\r\n\r\n", &how), "via"), ["1.0 edge-1"]);
    let how = RequestForwarding { via: None, ..how };
    assert_eq!(of(&forwarded(&get("Via: 1.0 fred\r\n"), &how), "via"), ["1.0 fred"]);
    assert!(of(&forwarded(&get(""), &how), "via").is_empty());
}

#[test]
fn connection_strips_nothing_that_frames_routes_or_is_added() {
    let head = get("Connection: host, content-length, via, x-forwarded-for, x-forwarded-proto, x-request-id\r\n\
                    Content-Length: 005\r\nVia: 1.0 fred\r\n");
    let got = forwarded(&head, &how());
    assert_eq!(of(&got, "host"), ["a.example"]);
    assert_eq!(of(&got, "content-length"), ["5"]);
    assert_eq!(of(&got, "via"), ["1.0 fred", "1.1 maypole"]);
    assert_eq!(of(&got, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(of(&got, "x-forwarded-proto"), ["http"]);
    assert_eq!(of(&got, "x-request-id"), ["made-1"]);
}

const CLAIMS: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Host: h\r\nX-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\n\
                      X_Forwarded_For: 6.6.6.6\r\nX-Request-Id: \r\nX-Request-Id: theirs\r\n\
                      X_Request-ID: other\r\nX-Real-IP: 6.6.6.6\r\nX_REAL_IP: 6.6.6.6\r\nContent_Length: 5\r\n";

#[test]
fn an_untrusted_peer_speaks_for_nobody_else() {
    let got = forwarded(&get(CLAIMS), &how());
    assert_eq!(of(&got, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(of(&got, "x-forwarded-proto"), ["http"]);
    assert_eq!(of(&got, "x-forwarded-host"), ["a.example"]);
    assert_eq!(of(&got, "x-request-id"), ["made-1"]);
    for name in
        ["x-forwarded-port", "forwarded", "x_forwarded_for", "x_request-id", "x-real-ip", "x_real_ip", "content_length"]
    {
        assert!(of(&got, name).is_empty(), "{name}");
    }
}

#[test]
fn a_trusted_peer_is_believed_and_added_to() {
    let how = RequestForwarding { trusted: true, withheld: &NOBODY, ..how() };
    let got = forwarded(&get(CLAIMS), &how);
    assert_eq!(of(&got, "x-forwarded-for"), ["6.6.6.6, 7.7.7.7, 127.0.0.1"]);
    assert_eq!(of(&got, "x-forwarded-proto"), ["https"]);
    assert_eq!(of(&got, "x-forwarded-host"), ["h"]);
    assert_eq!(of(&got, "x-forwarded-port"), ["1"]);
    assert_eq!(of(&got, "forwarded"), ["for=6.6.6.6"]);
    assert_eq!(of(&got, "x-request-id"), ["theirs"]);
    for (name, want) in [("x-real-ip", "6.6.6.6"), ("x_real_ip", "6.6.6.6"), ("x_forwarded_for", "6.6.6.6")] {
        assert_eq!(of(&got, name), [want]);
    }
    let empty = forwarded(&get("X-Forwarded-Proto:\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host:\r\n"), &how);
    assert_eq!((of(&empty, "x-forwarded-proto"), of(&empty, "x-forwarded-host")), (vec!["https"], vec!["a.example"]));
    let bare = forwarded(&get(""), &how);
    assert_eq!(of(&bare, "x-forwarded-for"), ["127.0.0.1"]);
    let encrypted = forwarded(&get(""), &RequestForwarding { encrypted: true, ..how });
    assert_eq!((of(&bare, "x-forwarded-proto"), of(&encrypted, "x-forwarded-proto")), (vec!["http"], vec!["https"]));
    assert_eq!(of(&bare, "x-request-id"), ["made-1"]);
}

#[test]
fn addresses_are_written_as_what_they_are() {
    for (peer, want) in [("::ffff:10.0.0.200", "10.0.0.200"), ("2001:db8::1", "2001:db8::1"), ("1.2.3.4", "1.2.3.4")] {
        let how = RequestForwarding { peer: peer.parse().unwrap(), ..how() };
        assert_eq!(of(&forwarded(&get(""), &how), "x-forwarded-for"), [want]);
    }
}

#[test]
fn upgrades_pass_when_asked_for_and_wanted() {
    let head = get("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n");
    let got = forwarded(&head, &how());
    assert_eq!(of(&got, "connection"), ["Upgrade"]);
    assert_eq!(of(&got, "upgrade"), ["websocket"]);
    let got = forwarded(&head, &RequestForwarding { upgrade: false, ..how() });
    assert!(of(&got, "connection").is_empty() && of(&got, "upgrade").is_empty());
    let h2c = get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n");
    let got = forwarded(&h2c, &how());
    assert!(of(&got, "connection").is_empty() && of(&got, "upgrade").is_empty());
}

#[test]
fn an_http_10_request_is_passed_on_as_what_it_can_be() {
    let got = forwarded("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", &how());
    assert_eq!(got[0], "POST / HTTP/1.1");
    assert_eq!(of(&got, "via"), ["1.0 maypole"]);
    assert!(of(&got, "expect").is_empty());
    let got = forwarded(&get("Expect: 100-continue\r\nContent-Length: 1\r\n"), &how());
    assert_eq!(of(&got, "expect"), ["100-continue"]);
}

#[test]
fn max_forwards_counts_down() {
    let head = |n: &str| format!("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {n}\r\n\r\n");
    for (sent, want) in [
        ("7", "6"),
        ("0", "0"),
        ("x", "x"),
        ("7\r\nMax-Forwards: 3", "2"),
        ("3\r\nMax-Forwards: x\r\nMax-Forwards: 7", "2"),
    ] {
        assert_eq!(of(&forwarded(&head(sent), &how()), "max-forwards"), [want]);
    }
}

fn answer(head: &str, method: Method, client_version: Version, close: bool) -> Vec<String> {
    let mut out = b"before".to_vec();
    let parsed = parse_response(head.as_bytes(), method, &LIMITS, |response| {
        let (framing, must_close) = client_framing(response, client_version);
        let how = ResponseForwarding {
            client_version,
            framing,
            close: close || must_close,
            date: DATE,
            upgrade: true,
            allowance: None,
            session: None,
            hsts: None,
        };
        write_response_head(&mut out, response, &how);
    });
    assert!(matches!(parsed, Ok(Parsed::Complete { .. })), "{head}: {parsed:?}");
    lines(&out, "before")
}

#[test]
fn a_response_is_passed_on_as_it_came() {
    let head = "HTTP/1.0 299 Odd one\r\nServer: o/1\r\nSet-Cookie: a=1; Path=/\r\nDate: D\r\n\
                Content-Length: 3\r\nSet-Cookie: b=2\r\n\r\n";
    assert_eq!(
        answer(head, Method::Get, Version::Http11, false),
        [
            "HTTP/1.1 299 Odd one",
            "Server: o/1",
            "Set-Cookie: a=1; Path=/",
            "Date: D",
            "Set-Cookie: b=2",
            "Content-Length: 3",
        ]
    );
}

#[test]
fn a_missing_date_and_the_connections_fate_are_told() {
    let head = "HTTP/1.1 200 \r\nContent-Length: 0\r\nConnection: close, X-Hop, Date, Content-Length\r\n\
                X-Hop: 1\r\nKeep-Alive: x\r\nX-End: 2\r\nProxy-Connection: y\r\n\r\n";
    for (version, close, connection) in [
        (Version::Http11, false, &[][..]),
        (Version::Http11, true, &["close"]),
        (Version::Http10, false, &["keep-alive"]),
        (Version::Http10, true, &["close"]),
    ] {
        let got = answer(head, Method::Get, version, close);
        assert_eq!(got[0], "HTTP/1.1 200 ");
        assert_eq!(of(&got, "connection"), connection);
        assert_eq!(of(&got, "date"), [str::from_utf8(DATE).unwrap()]);
        assert_eq!(of(&got, "x-end"), ["2"]);
        assert_eq!(of(&got, "content-length"), ["0"]);
        assert!(of(&got, "x-hop").is_empty() && of(&got, "keep-alive").is_empty());
    }
}

#[test]
fn bodies_without_a_length_are_chunked_or_end_with_the_connection() {
    for (head, trailer) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n", &["X"][..]),
        ("HTTP/1.1 200 OK\r\n\r\n", &[]),
    ] {
        let got = answer(head, Method::Get, Version::Http11, false);
        assert_eq!(of(&got, "transfer-encoding"), ["chunked"]);
        assert_eq!(of(&got, "trailer"), trailer);
        assert!(of(&got, "connection").is_empty());
        let got = answer(head, Method::Get, Version::Http10, false);
        assert!(of(&got, "transfer-encoding").is_empty() && of(&got, "trailer").is_empty());
        assert_eq!(of(&got, "connection"), ["close"]);
    }
}

#[test]
fn answers_without_a_body_keep_the_length_where_it_means_something() {
    for (method, status, kept) in [
        (Method::Head, 200, true),
        (Method::Get, 304, true),
        (Method::Get, 204, false),
        (Method::Head, 204, false),
        (Method::Get, 103, false),
    ] {
        let head = format!("HTTP/1.1 {status} \r\nContent-Length: 5\r\n\r\n");
        let got = answer(&head, method, Version::Http11, false);
        assert_eq!(!of(&got, "content-length").is_empty(), kept, "{method:?} {status}");
    }
    let got = answer("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", Method::Head, Version::Http11, false);
    assert!(of(&got, "transfer-encoding").is_empty() && of(&got, "content-length").is_empty());
}

#[test]
fn interim_answers_carry_nothing_of_their_own() {
    let got = answer("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", Method::Get, Version::Http11, true);
    assert_eq!(got, ["HTTP/1.1 103 Early Hints", "Link: x"]);
}

#[test]
fn switching_protocols_keeps_what_makes_it_so() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Accept: s\r\n\r\n";
    assert_eq!(
        answer(head, Method::Get, Version::Http11, false),
        ["HTTP/1.1 101 Switching Protocols", "Sec-WebSocket-Accept: s", "Connection: Upgrade", "Upgrade: websocket",]
    );
    let head = "HTTP/1.1 426 \r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n";
    let got = answer(head, Method::Get, Version::Http11, true);
    assert_eq!(of(&got, "connection"), ["close, Upgrade"]);
    assert_eq!(of(&got, "upgrade"), ["websocket"]);
    let kept = answer(head, Method::Get, Version::Http10, false);
    assert_eq!((of(&kept, "connection"), of(&kept, "upgrade")), (vec!["keep-alive, Upgrade"], vec!["websocket"]));
}

#[test]
fn writing_into_a_used_vector_allocates_nothing_new() {
    let head = get("Cookie: c\r\nAccept: */*\r\n");
    let mut out = Vec::with_capacity(1024);
    let start = out.as_ptr();
    for _ in 0..3 {
        out.clear();
        let parsed = parse_request(head.as_bytes(), &LIMITS, |request| {
            write_request_head(&mut out, request, &how());
        });
        assert!(parsed.is_ok());
    }
    assert_eq!((out.capacity(), out.as_ptr()), (1024, start));
}

#[test]
fn a_client_s_identity_is_told_by_the_proxy_alone() {
    let sent = get("X-Client: root\r\nx_client: root\r\nX-Clients: 1\r\nConnection: X-Client\r\n");
    let trusting = RequestForwarding { trusted: true, withheld: &NOBODY, ..how() };
    assert!(!forwarded(&sent, &trusting).iter().any(|line| line.contains("root")));
    let identity = Some((&b"X-Client"[..], "verified;subject=\"CN=a\""));
    let lines = forwarded(&sent, &RequestForwarding { identity, ..trusting });
    let told: Vec<_> = lines.iter().filter(|line| line.to_ascii_lowercase().contains("client")).collect();
    assert_eq!(told, ["X-Clients: 1", "X-Client: verified;subject=\"CN=a\""]);
}

#[test]
fn hsts_is_said_once_and_in_the_proxys_words() {
    let says = |hsts, answer: &str| {
        let mut out = Vec::new();
        let parsed = parse_response(answer.as_bytes(), Method::Get, &LIMITS, |response| {
            let (framing, _) = client_framing(response, Version::Http11);
            let how = ResponseForwarding {
                client_version: Version::Http11,
                framing,
                close: false,
                date: DATE,
                upgrade: true,
                allowance: None,
                session: None,
                hsts,
            };
            write_response_head(&mut out, response, &how);
        });
        assert!(matches!(parsed, Ok(Parsed::Complete { .. })), "{answer}: {parsed:?}");
        let text = String::from_utf8(out).expect("text").to_ascii_lowercase();
        text.lines().filter(|line| line.starts_with("strict-")).map(str::to_owned).collect::<Vec<_>>()
    };
    let own = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSTRICT-Transport-Security: max-age=0\r\n\r\n";
    assert_eq!(says(None, own), ["strict-transport-security: max-age=0"]);
    assert_eq!(says(Some(b"max-age=9"), own), ["strict-transport-security: max-age=9"]);
    assert_eq!(says(Some(b"max-age=9"), "HTTP/1.1 204 No Content\r\n\r\n"), ["strict-transport-security: max-age=9"]);
    assert_eq!(says(Some(b"max-age=9"), "HTTP/1.1 103 Early Hints\r\n\r\n"), [""; 0]);
}
