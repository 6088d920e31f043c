use super::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 16_384, headers: 100, uri_bytes: 8_192 };

fn read_head<R>(head: &[u8], method: Method, look: impl FnOnce(&Response<'_, '_>) -> R) -> R {
    match parse_response(head, method, &LIMITS, look) {
        Ok(Parsed::Complete { value, .. }) => value,
        Ok(Parsed::Partial) => panic!("partial: {}", head.escape_ascii()),
        Err(error) => panic!("{error}: {}", head.escape_ascii()),
    }
}

fn is_malformed(head: &[u8]) -> bool {
    let outcome = parse_response(head, Method::Get, &LIMITS, |_| ());
    matches!(outcome, Err(ResponseError::Malformed(_)))
}

#[test]
fn a_plain_response_is_read() {
    let head = b"HTTP/1.1 299 Odd one\r\nDate: x\r\nContent-Length: 3\r\n\r\n";
    read_head(head, Method::Get, |response| {
        assert_eq!(response.version, Version::Http11);
        assert_eq!((response.status, response.reason), (299, &b"Odd one"[..]));
        assert_eq!(response.framing, Framing::Length(3));
        assert!(response.keep_alive && response.has_date && response.upgrade.is_none());
    });
}

#[test]
fn reasons_are_kept_whatever_they_are() {
    for (line, want) in [
        (&b"HTTP/1.1 200 OK"[..], &b"OK"[..]),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200", b""),
        (b"HTTP/1.1 200 caf\xe9 \t!", b"caf\xe9 \t!"),
        (b"HTTP/1.1 200  two", b" two"),
    ] {
        let head = [line, b"\r\n\r\n"].concat();
        assert_eq!(read_head(&head, Method::Get, |response| response.reason.to_vec()), want);
    }
}

/// Framing and persistence of the answer with this version and status, and this line.
fn framed(method: Method, start: &str, line: &str) -> (Framing, bool) {
    let end = if line.is_empty() { "" } else { "\r\n" };
    let head = format!("HTTP/{start} \r\n{line}{end}\r\n");
    read_head(head.as_bytes(), method, |response| (response.framing, response.keep_alive))
}

#[test]
fn bodies_are_framed_by_fields_and_version() {
    use Framing::{Chunked, Length, UntilClose};
    for (start, line, framing, keep_alive) in [
        ("1.1 200", "", UntilClose, false),
        ("1.1 200", "Content-Length: 5", Length(5), true),
        ("1.1 200", "Content-Length: 5\r\nContent-Length: 5", Length(5), true),
        ("1.1 200", "Content-Length: 5, 5", Length(5), true),
        ("1.1 200", "Content-Length: 5\r\nConnection: close", Length(5), false),
        ("1.1 200", "Transfer-Encoding: Chunked", Chunked, true),
        ("1.1 205", "Content-Length: 0", Length(0), true),
        ("1.0 200", "", UntilClose, false),
        ("1.0 200", "Connection: keep-alive", UntilClose, false),
        ("1.0 200", "Content-Length: 5", Length(5), false),
        ("1.0 200", "Content-Length: 5\r\nConnection: keep-alive", Length(5), true),
    ] {
        let got = framed(Method::Get, start, line);
        assert_eq!(got, (framing, keep_alive), "{start} {line}");
    }
}

#[test]
fn some_answers_never_have_a_body() {
    for (method, start, line, keep_alive) in [
        (Method::Head, "1.1 200", "", true),
        (Method::Head, "1.1 200", "Content-Length: 5", true),
        (Method::Head, "1.1 200", "Transfer-Encoding: chunked", true),
        (Method::Get, "1.1 304", "Content-Length: 5", true),
        (Method::Get, "1.1 204", "", true),
        (Method::Get, "1.1 204", "Content-Length: 0", true),
        // The body that these announce may follow, and would be taken for the next answer.
        (Method::Get, "1.1 204", "Content-Length: 5", false),
        (Method::Get, "1.1 204", "Transfer-Encoding: chunked", false),
        (Method::Get, "1.1 100", "", true),
        (Method::Get, "1.1 103", "Link: x", true),
    ] {
        let got = framed(method, start, line);
        assert_eq!(got, (Framing::None, keep_alive), "{method:?} {start} {line}");
    }
}

#[test]
fn a_length_is_known_where_no_body_follows() {
    let head = b"HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n";
    assert_eq!(read_head(head, Method::Get, |response| response.content_length), Some(5));
}

#[test]
fn upgrades_count_in_101_and_426() {
    for (head, want) in [
        ("HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true),
        ("HTTP/1.1 426 \r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true),
        ("HTTP/1.1 200 \r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", false),
        ("HTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n", false),
        ("HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", false),
    ] {
        let got = read_head(head.as_bytes(), Method::Get, |response| response.upgrade.is_some());
        assert_eq!(got, want, "{head}");
    }
}

#[test]
fn interim_responses_are_all_1xx_but_101() {
    for (status, want) in [(100, true), (101, false), (103, true), (199, true), (200, false)] {
        let head = format!("HTTP/1.1 {status} \r\n\r\n");
        let got = read_head(head.as_bytes(), Method::Get, |response| (response.status, response.is_interim()));
        assert_eq!(got, (status, want));
    }
}

#[test]
fn unsound_responses_are_refused() {
    for head in [
        &b"this is no HTTP\r\n\r\n"[..],
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\r\n",
        b"HTTP/1.1 200 OK\r\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert!(is_malformed(head), "{}", head.escape_ascii());
    }
}

#[test]
fn limits_hold_for_responses_too() {
    let limits = HeadLimits { head_bytes: 100, headers: 2, uri_bytes: 0 };
    let parse = |head: &str| parse_response(head.as_bytes(), Method::Get, &limits, |_| ());
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "v".repeat(100));
    assert_eq!(parse(&long), Err(ResponseError::HeadTooLarge));
    assert_eq!(parse(&long[..99]), Ok(Parsed::Partial));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(3));
    assert_eq!(parse(&many), Err(ResponseError::TooManyFields));
}
