use super::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 16_384, headers: 100, uri_bytes: 8_192 };

/// What `look` finds in a whole head.
fn read_head<R>(head: &[u8], look: impl FnOnce(&Request<'_, '_>) -> R) -> R {
    match parse_request(head, &LIMITS, look) {
        Ok(Parsed::Complete { value, .. }) => value,
        Ok(Parsed::Partial) => panic!("partial: {}", head.escape_ascii()),
        Err(error) => panic!("{error}: {}", head.escape_ascii()),
    }
}

fn outcome(head: &[u8]) -> Result<Parsed<()>, RequestError> {
    parse_request(head, &LIMITS, |_| ())
}

/// A head with these lines behind request line and `Host`.
fn post(lines: &[&[u8]]) -> Vec<u8> {
    let mut head = b"POST /p HTTP/1.1\r\nHost: a.example\r\n".to_vec();
    for line in lines {
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn is_malformed(head: &[u8]) -> bool {
    matches!(outcome(head), Err(RequestError::Malformed(_)))
}

#[test]
fn a_plain_request_is_read() {
    let bytes = b"GET /a?b HTTP/1.1\r\nHost: a.example\r\nX-A:  \t1 \t\r\n\r\nrest";
    let head_bytes = bytes.len() - 4;
    let parsed = parse_request(bytes, &LIMITS, |request| {
        assert_eq!(request.method, Method::Get);
        assert_eq!(request.target, Target::Origin(b"/a?b"));
        assert_eq!(request.version, Version::Http11);
        assert_eq!(request.host, Some(&b"a.example"[..]));
        assert_eq!(request.framing, Framing::None);
        assert!(request.keep_alive && !request.expect_continue && request.upgrade.is_none());
        assert_eq!(request.field("x-a"), Some(&b"1"[..]));
        request.method_bytes
    });
    assert_eq!(parsed, Ok(Parsed::Complete { head_bytes, value: &b"GET"[..] }));
}

#[test]
fn request_lines_are_taken_or_refused() {
    use RequestError::{NotImplemented, UnsupportedVersion};
    for (line, want) in [
        ("BREW /x HTTP/1.1", None),
        ("get /x HTTP/1.1", None),
        ("M-SEARCH /x HTTP/1.1", None),
        ("OPTIONS * HTTP/1.1", None),
        ("GET http://b.example/x?q=1 HTTP/1.1", None),
        ("GET http://b.example HTTP/1.1", None),
        ("GET /%2e%2e/a//b/./%C3%A9;p=1?a=%2F&&=+x HTTP/1.1", None),
        ("GET /a|b{c}\"d\\e^` HTTP/1.1", None),
        ("GET /x HTTP/1.0", None),
        ("CONNECT a.example:443 HTTP/1.1", Some(NotImplemented(""))),
        ("GET /x HTTP/2.0", Some(UnsupportedVersion)),
        ("GET /x HTTP/1.2", Some(UnsupportedVersion)),
        ("GET /x HTTP/0.9", Some(UnsupportedVersion)),
        ("PRI /x HTTP/2.0", Some(UnsupportedVersion)),
    ] {
        let got = outcome(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).err();
        let same = match (got, want) {
            (None, None) => true,
            (Some(got), Some(want)) => std::mem::discriminant(&got) == std::mem::discriminant(&want),
            _ => false,
        };
        assert!(same, "{line}: {got:?}, wanted {want:?}");
    }
    for line in [
        "GET  /x HTTP/1.1",
        "GET /x  HTTP/1.1",
        " GET /x HTTP/1.1",
        "GET\t/x\tHTTP/1.1",
        "GET /x y HTTP/1.1",
        "GET /x\x01 HTTP/1.1",
        "GET /x\x00 HTTP/1.1",
        "GET /x\x7f HTTP/1.1",
        "GET /x\r HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /x#f HTTP/1.1",
        "GET /x",
        "GET /x ",
        "GET",
        "/x HTTP/1.1",
        "GET /x HTTP/1.1x",
        "GET /x HTTP/1.1 ",
        "GET /x http/1.1",
        "GET /x HTTP/11",
        "GET /x HTTP/1,1",
        "GET /x HTTP /1.1",
        "GET /x HTTPS/1.1",
        "GET /x FTP/1.1",
        "GET foo HTTP/1.1",
        "GET * HTTP/1.1",
        "GET a.example:80 HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http://u:p@b.example/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "G(T /x HTTP/1.1",
        "G\u{e9}T /x HTTP/1.1",
        "\x16\x03\x01\x02\x00\x01",
    ] {
        let head = format!("{line}\r\nHost: a\r\n\r\n");
        assert!(is_malformed(head.as_bytes()), "{line:?}: {:?}", outcome(head.as_bytes()));
    }
}

#[test]
fn a_host_is_needed_once_and_well_formed() {
    for (head, want) in [
        ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", Some("[::1]:8080")),
        ("GET / HTTP/1.0\r\n\r\n", None),
        ("GET / HTTP/1.0\r\nHost: a:1\r\n\r\n", Some("a:1")),
        ("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", Some("b")),
        ("GET http://b:2/x HTTP/1.0\r\n\r\n", Some("b:2")),
    ] {
        let host = |request: &Request<'_, '_>| request.host.map(<[u8]>::to_vec);
        assert_eq!(read_head(head.as_bytes(), host).as_deref(), want.map(str::as_bytes), "{head}");
    }
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n",
    ] {
        assert!(is_malformed(head.as_bytes()), "{head}");
    }
}

#[test]
fn bad_field_lines_are_refused() {
    for line in [
        &b"X-A : 1"[..],
        b"X-A\t: 1",
        b"X-A: 1\r\n 2",
        b"X-A: 1\r\n\t2",
        b"X-A",
        b": 1",
        b" X-A: 1",
        b"X(A): 1",
        b"X A: 1",
        b"X-\xc3\xa9: 1",
        b"X-A: 1\x002",
        b"X-A: 1\r2",
        b"X-A: 1\x012",
        b"X-A: 1\x7f",
        b"X-A: 1\x0b",
        b"X-A: 1\n",
        b"X-A: 1\nX-B: 2",
        b"X-A:\nX-B: 2",
        b"X-A: \nX-B: 2",
        b"X-A: 1\n\r\n",
        b"X-A: 1\r\n\n",
        b"X-A: 1\r\r",
    ] {
        assert!(is_malformed(&post(&[line])), "{}", line.escape_ascii());
    }
    assert!(is_malformed(b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"));
    assert!(is_malformed(b"GET / HTTP/1.1\nHost: a\r\n\r\n"));
    assert!(is_malformed(b"GET / HTTP/1.0\n\r\n"));
    assert!(is_malformed(b"GET / HTTP/1.0\r\n\n"));
    assert!(is_malformed(b"\nGET / HTTP/1.0\r\n\r\n"));
}

#[test]
fn odd_but_sound_field_lines_pass() {
    for (line, value) in [
        (&b"X-A: 1\t2"[..], &b"1\t2"[..]),
        (b"X-A: caf\xe9", b"caf\xe9"),
        (b"X-A:", b""),
        (b"X-A: ", b""),
        (b"X-A:\t 1 \t", b"1"),
        (b"x-a:1", b"1"),
        (b"X-A: a:b", b"a:b"),
    ] {
        let head = post(&[line]);
        let got = read_head(&head, |request| request.field("x-a").unwrap().to_vec());
        assert_eq!(got, value, "{}", line.escape_ascii());
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped_up_to_a_bound() {
    let request = b"GET / HTTP/1.0\r\n\r\n";
    for lines in 0..=EMPTY_LINES_MAX + 1 {
        let head = [&b"\r\n".repeat(lines)[..], request].concat();
        let want = if lines <= EMPTY_LINES_MAX {
            Ok(Parsed::Complete { head_bytes: head.len(), value: () })
        } else {
            Err(RequestError::Malformed("empty lines instead of a request"))
        };
        assert_eq!(outcome(&head), want);
    }
    assert_eq!(outcome(b"\r"), Ok(Parsed::Partial));
    assert!(is_malformed(b"\rX"));
}

#[test]
fn framing_is_said_once_and_clearly() {
    for (lines, want) in [
        (&[][..], Framing::None),
        (&[&b"Content-Length: 5"[..]], Framing::Length(5)),
        (&[b"Content-Length: 0"], Framing::Length(0)),
        (&[b"Content_Length: 0", b"Content-Length: 7"], Framing::Length(7)),
        (&[b"Transfer-Encoding: chunked"], Framing::Chunked),
        (&[b"TRANSFER-ENCODING:\tChunked "], Framing::Chunked),
    ] {
        let head = post(lines);
        assert_eq!(read_head(&head, |request| request.framing), want);
    }
    for lines in [
        &[&b"Content-Length: 5"[..], b"Transfer-Encoding: chunked"][..],
        &[b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        &[b"Content-Length: 5", b"Content-Length: 6"],
        &[b"Content-Length: 5", b"Content-Length: 5"],
        &[b"Content-Length: 5, 5"],
        &[b"Content-Length: +5"],
        &[b"Content-Length:"],
        &[b"Content-Length: 18446744073709551616"],
        &[b"Content-Length: 9223372036854775808"],
        &[b"Transfer-Encoding: xchunked"],
        &[b"Transfer-Encoding: chunked, chunked"],
        &[b"Transfer-Encoding: chunked, identity"],
        &[b"Transfer-Encoding: identity"],
        &[b"Transfer-Encoding:"],
        &[b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"],
        &[b"Transfer-Encoding: x", b"Transfer-Encoding: chunked"],
        &[b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        &[b"Transfer-Encoding : chunked"],
        &[b"X: y\rTransfer-Encoding: chunked"],
        &[b"X: y\nTransfer-Encoding: chunked"],
    ] {
        assert!(is_malformed(&post(lines)), "{lines:?}");
    }
    assert_eq!(
        outcome(&post(&[b"Transfer-Encoding: gzip, chunked"])),
        Err(RequestError::NotImplemented("transfer coding not spoken"))
    );
    assert!(is_malformed(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"));
}

#[test]
fn connections_persist_by_version_and_wish() {
    for (head, want) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x-foo, CLOSE\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ] {
        assert_eq!(read_head(head.as_bytes(), |request| request.keep_alive), want, "{head}");
    }
}

#[test]
fn expectations_count_in_http_11_with_a_body() {
    for (head, want) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", true),
        ("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", false),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", false),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 1\r\n\r\n", false),
    ] {
        assert_eq!(read_head(head.as_bytes(), |request| request.expect_continue), want, "{head}");
    }
}

#[test]
fn upgrades_count_in_http_11() {
    let lines = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let upgrade = |request: &Request<'_, '_>| request.upgrade.is_some();
    assert!(read_head(format!("GET / HTTP/1.1\r\n{lines}").as_bytes(), upgrade));
    assert!(!read_head(format!("GET / HTTP/1.0\r\n{lines}").as_bytes(), upgrade));
}

#[test]
fn connection_names_fields_beyond_its_own_options() {
    let head = post(&[b"Connection: close, X-Hop", b"Connection: x-b"]);
    read_head(&head, |request| {
        let mut options = ConnectionOptions::none();
        request.connection_options(&mut options);
        assert!(options.name("x-hop") && options.name("X-B") && !options.name("x-c"));
    });
    assert!(is_malformed(&post(&[&[&b"Connection: a"[..], &b",a".repeat(64)].concat()])));
}

#[test]
fn max_forwards_counts_for_options_and_trace() {
    for (method, want) in [("OPTIONS", Some(7)), ("TRACE", Some(7)), ("GET", None)] {
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 7\r\n\r\n");
        assert_eq!(read_head(head.as_bytes(), |request| request.max_forwards), want);
    }
}

#[test]
fn idempotent_methods_are_those_of_rfc_9110() {
    for (method, want) in [
        ("GET", true),
        ("HEAD", true),
        ("PUT", true),
        ("DELETE", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("POST", false),
        ("PATCH", false),
        ("CONNECT", false),
        ("get", false),
    ] {
        assert_eq!(Method::of(method.as_bytes()).is_idempotent(), want, "{method}");
    }
}

#[test]
fn each_limit_has_its_error_and_holds_exactly() {
    let limits = HeadLimits { head_bytes: 200, headers: 3, uri_bytes: 20 };
    let parse = |head: &[u8]| parse_request(head, &limits, |_| ());
    let head = |path: usize, fields: usize, value: usize| {
        let mut head = format!("GET /{} HTTP/1.0\r\n", "p".repeat(path - 1));
        for _ in 0..fields {
            head.extend(["X: ", &"v".repeat(value), "\r\n"]);
        }
        (head + "\r\n").into_bytes()
    };
    assert!(matches!(parse(&head(20, 3, 1)), Ok(Parsed::Complete { .. })));
    assert_eq!(parse(&head(21, 3, 1)), Err(RequestError::UriTooLong));
    assert_eq!(parse(&head(20, 4, 1)), Err(RequestError::TooManyFields));
    let exact = head(20, 1, 200 - head(20, 1, 0).len());
    assert_eq!(exact.len(), 200);
    assert_eq!(parse(&exact), Ok(Parsed::Complete { head_bytes: 200, value: () }));
    let over = head(20, 1, 201 - head(20, 1, 0).len());
    assert_eq!(parse(&over), Err(RequestError::HeadTooLarge));
    // Before the head is whole, too.
    assert_eq!(parse(b"GET /ppppppppppppppppppp"), Ok(Parsed::Partial));
    assert_eq!(parse(b"GET /pppppppppppppppppppp"), Err(RequestError::UriTooLong));
    assert_eq!(parse(&over[..199]), Ok(Parsed::Partial));
    assert_eq!(parse(&over[..200]), Err(RequestError::HeadTooLarge));
    assert_eq!(parse(&[b'M'; 200]), Err(RequestError::HeadTooLarge));
}

#[test]
fn more_fields_than_fit_on_the_stack_are_read_where_the_limit_allows() {
    let limits = HeadLimits { headers: 300, ..LIMITS };
    for (fields, fits) in [(64, true), (65, true), (300, true), (301, false)] {
        let head = format!("GET / HTTP/1.0\r\n{}\r\n", "X: 1\r\n".repeat(fields));
        let seen = parse_request(head.as_bytes(), &limits, |request| request.fields.len());
        let want = Parsed::Complete { head_bytes: head.len(), value: fields };
        assert_eq!(seen, if fits { Ok(want) } else { Err(RequestError::TooManyFields) });
    }
}

#[test]
fn garbage_is_refused_before_the_head_is_whole() {
    for start in [
        &b"\x16\x03"[..],
        b"GET  ",
        b"GET /a\x01",
        b"GET foo ",
        b"GET /#a ",
        b"CONNECT ",
        b"GET / HTTQ",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nHost: a\nX",
        b"GET / HTTP/1.1\r\nX-A ",
        b"GET / HTTP/1.1\r\n ",
    ] {
        assert!(outcome(start).is_err(), "{}", start.escape_ascii());
    }
}
