//! A response's head, read and rewritten for a client.

use maypole::http1::{
    Framing, HeadLimits, Method, Parsed, Response, ResponseError, ResponseFault, ResponseReader, Version,
    parse_response,
};
use maypole::proxy::forward::{ResponseForwarding, client_framing, write_response_head};

use super::strict::{self, Head};
use super::{cuts, one_hop};

/// Small, so that the limits are met often.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 512, headers: 12, uri_bytes: 0 };
const DATE: &[u8] = b"Mon, 23 Nov 2026 00:00:00 GMT";

/// However the bytes are split, the outcome is one; what is taken is within the limits, is what the grammar alone would
/// read, and is rewritten into a head that every client takes for the same response.
pub fn check(bytes: &[u8]) {
    for method in [Method::Get, Method::Head] {
        let whole = outcome(bytes, method);
        for cut in cuts(bytes, 4) {
            let part = outcome(&bytes[..cut], method);
            assert!(part == Ok(Parsed::Partial) || part == whole, "cut at {cut}: {part:?}, but whole {whole:?}");
        }
        is_judged_alike_by_health_checks(bytes, method);
        let _ = parse_response(bytes, method, &LIMITS, |response| {
            is_what_the_grammar_reads(response, method, bytes);
            for client_version in [Version::Http10, Version::Http11] {
                let (framing, must_close) = client_framing(response, client_version);
                for close in [must_close, true] {
                    let how = ResponseForwarding {
                        client_version,
                        framing,
                        close,
                        date: DATE,
                        upgrade: response.status == 101,
                        allowance: None,
                        session: None,
                        hsts: None,
                    };
                    let mut out = Vec::new();
                    write_response_head(&mut out, response, &how);
                    says_the_same(response, method, &how, &out);
                }
            }
        });
    }
}

/// A health check takes and refuses the heads that the proxy does, and reads the same answer however it comes.
fn is_judged_alike_by_health_checks(bytes: &[u8], method: Method) {
    let read = |pieces: &[&[u8]]| {
        let mut reader = ResponseReader::new(method, LIMITS);
        let mut payload = Vec::new();
        let outcome = pieces.iter().try_for_each(|piece| reader.take(piece, &mut payload));
        (outcome.and_then(|()| reader.end()), reader.status(), payload)
    };
    let (whole, status, payload) = read(&[bytes]);
    match outcome(bytes, method) {
        Err(error) => match whole {
            Err(ResponseFault::Head(found)) => assert_eq!(without_reason(found), error),
            other => panic!("{other:?}, but the proxy refuses it: {error:?}"),
        },
        Ok(Parsed::Partial) => assert_eq!(whole, Err(ResponseFault::ClosedBeforeHead)),
        Ok(Parsed::Complete { .. }) => {
            let _ = parse_response(bytes, method, &LIMITS, |first| match first.status {
                101 => assert_eq!(whole, Err(ResponseFault::UnaskedSwitch)),
                100..200 => {} // another one follows
                final_status => assert_eq!(status, Some(final_status), "{whole:?}"),
            });
        }
    }
    for cut in cuts(bytes, 2) {
        let (outcome, its_status, its_payload) = read(&[&bytes[..cut], &bytes[cut..]]);
        let kind = |outcome: Result<(), ResponseFault>| {
            outcome.map_err(|fault| match fault {
                ResponseFault::Head(error) => ResponseFault::Head(without_reason(error)),
                other => other,
            })
        };
        assert_eq!((kind(outcome), its_status), (kind(whole), status), "cut at {cut}");
        assert!(whole.is_err() || its_payload == payload, "cut at {cut}");
    }
}

/// What is to be the same however the bytes come. For what a head is malformed may depend on how much of it is there.
fn outcome(bytes: &[u8], method: Method) -> Result<Parsed<String>, ResponseError> {
    parse_response(bytes, method, &LIMITS, |response| format!("{response:?}")).map_err(without_reason)
}

fn without_reason(error: ResponseError) -> ResponseError {
    match error {
        ResponseError::Malformed(_) => ResponseError::Malformed(""),
        other => other,
    }
}

fn is_what_the_grammar_reads(response: &Response<'_, '_>, method: Method, bytes: &[u8]) {
    let head = Head::read(bytes).expect("the grammar takes what was taken");
    assert!(head.bytes <= LIMITS.head_bytes && head.fields.len() <= LIMITS.headers);
    assert_eq!(head.status_line(), Some((response.status, response.reason)));
    assert!((100..=999).contains(&response.status));
    let fields: Vec<_> = response.fields.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
    assert_eq!(fields, head.fields);

    let announced = if head.all("content-length").count() == 0 {
        match head.framing().expect("its framing leaves no doubt") {
            strict::Framing::Chunked => Framing::Chunked,
            _ => Framing::UntilClose,
        }
    } else {
        // A backend may repeat its length, as long as it is the same each time (RFC 9110 §8.6).
        assert_eq!(head.all("transfer-encoding").count(), 0, "two framings");
        let lengths = head.list("content-length");
        let read = |digits: &Vec<u8>| std::str::from_utf8(digits).expect("digits").parse::<u64>().expect("a length");
        let length = read(&lengths[0]);
        assert!(lengths.iter().all(|other| read(other) == length));
        assert_eq!(response.content_length, Some(length));
        Framing::Length(length)
    };
    let bodiless = matches!(response.status, 100..200 | 204 | 304) || method == Method::Head;
    assert_eq!(response.framing, if bodiless { Framing::None } else { announced });
    assert!(!(response.keep_alive && response.framing == Framing::UntilClose));
}

fn says_the_same(response: &Response<'_, '_>, method: Method, how: &ResponseForwarding<'_>, out: &[u8]) {
    let head = Head::read(out).unwrap_or_else(|| panic!("rewritten into nonsense: {}", out.escape_ascii()));
    assert_eq!(head.bytes, out.len(), "bytes behind the head: {}", out.escape_ascii());
    assert!(out.starts_with(b"HTTP/1.1 "));
    assert_eq!(head.status_line(), Some((response.status, response.reason)));

    let framing = head.framing().expect("one framing");
    let has_body = !(matches!(response.status, 100..200 | 204 | 304) || method == Method::Head);
    match (framing, how.framing) {
        (strict::Framing::Length(said), Framing::Length(meant)) => assert_eq!(said, meant),
        (strict::Framing::Length(said), Framing::None) => assert_eq!(Some(said), response.content_length),
        (strict::Framing::Chunked, Framing::Chunked) => assert_eq!(how.client_version, Version::Http11),
        (strict::Framing::Unsaid, Framing::UntilClose) => assert!(how.close),
        (strict::Framing::Unsaid, Framing::None) => {}
        (said, meant) => panic!("{said:?} is said, {meant:?} is meant"),
    }
    assert_eq!(has_body, how.framing != Framing::None);
    if matches!(response.status, 100..200 | 204) {
        assert_eq!(framing, strict::Framing::Unsaid, "RFC 9110 §8.6, RFC 9112 §6.1");
    }

    let interim = response.status < 200;
    assert!(interim || head.all("date").count() > 0);
    let options = head.list("connection");
    let says_close = options.contains(&b"close".to_vec());
    assert_eq!(says_close, how.close && !interim);
    assert!(options.iter().all(|option| [&b"close"[..], b"keep-alive", b"upgrade"].contains(&&option[..])));
    assert_eq!(options.contains(&b"upgrade".to_vec()), head.only("upgrade").is_some());
    let kept_10 = how.client_version == Version::Http10 && !how.close && !interim;
    assert_eq!(options.contains(&b"keep-alive".to_vec()), kept_10, "an HTTP/1.0 client goes by it");
    for name in one_hop::NAMES {
        assert_eq!(head.all(name).count(), 0, "{name} is passed on");
    }
    one_hop::nothing_else_changed(&head, response.fields, OWN);
}

/// What the proxy says itself on this hop, whatever `Connection` names.
const OWN: &[&str] = &["connection", "content-length", "date", "transfer-encoding", "upgrade"];
