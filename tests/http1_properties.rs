//! Properties of the HTTP/1.1 engine that hold for all bytes: how they are split on their way makes no difference,
//! nothing makes a parser panic, and what is written is read back as what was meant.

use maypole::http1::{
    CHUNK_END, ChunkError, Decoder, FieldNames, Framing, HeadLimits, LAST_CHUNK, Method, Parsed, Request, RequestError,
    Version, chunk_header, parse_request, parse_response,
};
use maypole::plan::Via;
use maypole::proxy::forward::{
    RequestForwarding, ResponseForwarding, client_framing, write_request_head, write_response_head,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Small, so that the limits are met often.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 250, headers: 8, uri_bytes: 60 };

// ---- what is fed in

/// One of these or, now and then, something else.
fn mostly(usual: &'static [&'static str], odd: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![20 => select(usual), 1 => select(odd)]
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![60 => Just("\r\n"), 1 => select(&["\n", "\r", "\r\r\n", "\n\r\n", "\r\n "][..])]
}

fn field_line() -> impl Strategy<Value = String> {
    let name = mostly(
        &["Host", "Connection", "Content-Length", "Transfer-Encoding", "X-A", "Upgrade", "Via", "X-Forwarded-For"],
        &["content_length", "X A", "", "Keep-Alive", "TE", "X\u{e9}", "Trailer", "Max-Forwards"],
    );
    let colon = mostly(&[":", ": ", ":\t "], &[" :", "", " "]);
    let value = mostly(
        &["a.example", "5", "chunked", "close", "x-a", "keep-alive", "upgrade", "", "caf\u{e9}", "websocket"],
        &["0, 0", "5, 6", "gzip, chunked", "+5", "a b", "\0", "\u{1}", "[::1]:80", "h2c", "host, via, content-length"],
    );
    (name, colon, value, line_end()).prop_map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}"))
}

fn head(start_line: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(field_line(), 0..10);
    let before = mostly(&[""], &["\r\n", "\r\n\r\n", "\n", " "]);
    let behind = mostly(&[""], &["GET / HTTP/1.1\r\n", "\n", "body", "\0"]);
    (before, start_line, fields, line_end(), behind).prop_map(|(before, start, fields, end, behind)| {
        format!("{before}{start}{}{end}{behind}", fields.concat()).into_bytes()
    })
}

fn request_head() -> impl Strategy<Value = Vec<u8>> {
    let method = mostly(&["GET", "POST", "HEAD", "OPTIONS", "BREW"], &["CONNECT", "", "G(T", "get"]);
    let space = mostly(&[" "], &["  ", "\t", ""]);
    let target = prop_oneof![
        12 => mostly(
            &["/", "/a?b", "http://b.example/x", "*"],
            &["x", "/#", "http://u@a/", "", "/\u{e9}"]
        )
        .prop_map(str::to_owned),
        1 => "/[a-z%]{50,70}",
    ];
    let version = mostly(&["HTTP/1.1", "HTTP/1.0"], &["HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1x", "HTTP/"]);
    let line = (method, space, target, space_again(), version, line_end())
        .prop_map(|(method, one, target, two, version, end)| format!("{method}{one}{target}{two}{version}{end}"));
    // Most heads get the one field without which they would be refused for nothing else.
    let host = mostly(&["Host: a.example\r\n"], &[""]);
    head((line, host).prop_map(|(line, host)| line + host))
}

fn space_again() -> impl Strategy<Value = &'static str> {
    mostly(&[" "], &["  ", "\t", ""])
}

fn response_head() -> impl Strategy<Value = Vec<u8>> {
    let version = mostly(&["HTTP/1.1", "HTTP/1.0"], &["HTTP/1.2", "http/1.1", "ICY"]);
    let status = mostly(&["200", "204", "304", "101", "103", "426", "502"], &["99", "099", "2000", "2x0"]);
    let reason = mostly(&[" OK", " ", "", " caf\u{e9}"], &["OK", " \0", "  x"]);
    head(
        (version, status, reason, line_end())
            .prop_map(|(version, status, reason, end)| format!("{version} {status}{reason}{end}")),
    )
}

fn chunked_bytes() -> impl Strategy<Value = Vec<u8>> {
    let sound = select(
        &[
            ("1", "x"),
            ("5", "hello"),
            ("00000000000000000005", "hello"),
            ("00a", "0123456789"),
            ("2", "\r\n"),
            ("5", "0\r\n\r\n"),
        ][..],
    );
    let odd = select(
        &[("", ""), ("x", "x"), ("+5", "hello"), ("fffffffffffffffff", "x"), (" 1", "x"), ("5", "x"), ("0", "")][..],
    );
    let extension = mostly(&["", "", ";a", ";a=b", " ; a = \"q;\\\"\""], &[";", ";a=\0", " ", "\t ", ";a ", ";a=\"x"]);
    let chunk = (prop_oneof![20 => sound, 1 => odd], extension, line_end(), line_end())
        .prop_map(|((size, payload), extension, end, after)| format!("{size}{extension}{end}{payload}{after}"));
    let trailer = prop_oneof![1 => Just(String::new()), 1 => field_line()];
    (prop::collection::vec(chunk, 0..6), trailer, line_end())
        .prop_map(|(chunks, trailer, end)| format!("{}0\r\n{trailer}{end}next", chunks.concat()).into_bytes())
}

// ---- heads

/// What a request is, apart from where its bytes lie.
fn summary(request: &Request<'_, '_>) -> String {
    format!("{request:?}")
}

/// Malformed heads may be refused for another reason once more bytes are there, but refused as malformed.
fn kind<T>(parsed: Result<T, RequestError>) -> Result<T, RequestError> {
    parsed.map_err(|error| match error {
        RequestError::Malformed(_) => RequestError::Malformed(""),
        other => other,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_head_means_the_same_however_it_comes(head in request_head()) {
        let whole = kind(parse_request(&head, &LIMITS, summary));
        let mut first = Ok(Parsed::Partial);
        for come in 0..=head.len() {
            first = kind(parse_request(&head[..come], &LIMITS, summary));
            if first != Ok(Parsed::Partial) {
                break;
            }
        }
        prop_assert_eq!(first, whole, "{}", head.escape_ascii());
    }

    #[test]
    fn a_response_head_means_the_same_however_it_comes(head in response_head()) {
        let parse = |bytes: &[u8]| {
            parse_response(bytes, Method::Get, &LIMITS, |response| format!("{response:?}"))
                .map_err(|error| std::mem::discriminant(&error))
        };
        let whole = parse(&head);
        let mut first = Ok(Parsed::Partial);
        for come in 0..=head.len() {
            first = parse(&head[..come]);
            if first != Ok(Parsed::Partial) {
                break;
            }
        }
        prop_assert_eq!(first, whole, "{}", head.escape_ascii());
    }

    #[test]
    fn a_sound_head_ends_at_its_first_empty_line(head in request_head()) {
        if let Ok(Parsed::Complete { head_bytes, .. }) = parse_request(&head, &LIMITS, |_| ()) {
            let start = head.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            let end = head[start..].windows(4).position(|four| four == b"\r\n\r\n").unwrap();
            prop_assert_eq!(head_bytes, start + end + 4);
            let bare = |at: usize| head[at] == b'\n' && head[at - 1] != b'\r';
            prop_assert!(!(1..head_bytes).any(bare));
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse_request(&bytes, &LIMITS, summary);
        let _ = parse_response(&bytes, Method::Head, &LIMITS, |response| response.status);
        let _ = Decoder::new(100).decode(&mut bytes.clone());
    }

    #[test]
    fn no_damage_to_a_head_makes_a_parser_panic(mut head in request_head(), at in any::<Index>(), byte in any::<u8>()) {
        let at = at.index(head.len());
        head[at] = byte;
        let _ = parse_request(&head, &LIMITS, summary);
    }

    #[test]
    fn a_rewritten_request_says_what_the_request_said(head in request_head(), trusted in any::<bool>()) {
        let mut out = Vec::new();
        let [strangers, nobody] = [FieldNames::new(["X-Real-IP"]), FieldNames::alone([])];
        let via = Via::new("maypole");
        let meant = parse_request(&head, &LIMITS, |request| {
            let how = RequestForwarding {
                base_path: b"/base",
                default_host: b"backend:81",
                peer: [127, 0, 0, 1].into(),
                trusted,
                withheld: if trusted { &nobody } else { &strangers },
                identity: None,
                encrypted: false,
                request_id: b"id",
                via: Some(&via),
                upgrade: true,
            };
            write_request_head(&mut out, request, &how);
            let host = request.host.unwrap_or(b"backend:81").to_vec();
            (request.framing, request.method_bytes.to_vec(), host, request.upgrade.map(<[u8]>::to_vec))
        });
        if let Ok(Parsed::Complete { value, .. }) = meant {
            let roomy = HeadLimits { head_bytes: 4000, headers: 30, uri_bytes: 200 };
            let again = parse_request(&out, &roomy, |request| {
                assert_eq!(request.version, Version::Http11);
                assert!(request.keep_alive);
                let host = request.host.unwrap_or_default().to_vec();
                (request.framing, request.method_bytes.to_vec(), host, request.upgrade.map(<[u8]>::to_vec))
            });
            prop_assert_eq!(
                again,
                Ok(Parsed::Complete { head_bytes: out.len(), value }),
                "{} became {}", head.escape_ascii(), out.escape_ascii()
            );
        }
    }

    #[test]
    fn a_rewritten_response_says_what_the_response_said(
        head in response_head(),
        method in select(&[Method::Get, Method::Head][..]),
        client_version in select(&[Version::Http10, Version::Http11][..]),
    ) {
        let mut out = Vec::new();
        let meant = parse_response(&head, method, &LIMITS, |response| {
            let (framing, close) = client_framing(response, client_version);
            let how = ResponseForwarding {
                client_version,
                framing,
                close,
                date: b"Mon, 23 Nov 2026 00:00:00 GMT",
                upgrade: true,
                allowance: None,
                session: None,
                hsts: None,
            };
            write_response_head(&mut out, response, &how);
            (response.status, response.reason.to_vec(), framing)
        });
        if let Ok(Parsed::Complete { value, .. }) = meant {
            let roomy = HeadLimits { head_bytes: 4000, headers: 30, uri_bytes: 200 };
            let again = parse_response(&out, method, &roomy, |response| {
                assert_eq!(response.version, Version::Http11);
                let has_date = response.has_date || response.status < 200;
                assert!(has_date);
                (response.status, response.reason.to_vec(), response.framing)
            });
            prop_assert_eq!(
                again,
                Ok(Parsed::Complete { head_bytes: out.len(), value }),
                "{} became {}", head.escape_ascii(), out.escape_ascii()
            );
        }
    }
}

// ---- chunks

/// What a decoder makes of a body that comes in these pieces: payload, trailers, bytes used, and whether it ended.
type Outcome = (Vec<u8>, Vec<u8>, usize, bool);

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Outcome, (ChunkError, usize)> {
    decode_with(Decoder::new(100), pieces)
}

fn decode_with<'a>(
    mut decoder: Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Outcome, (ChunkError, usize)> {
    let mut payload = Vec::new();
    let mut used = 0;
    for piece in pieces {
        let mut piece = piece.to_vec();
        let done = decoder.decode(&mut piece).map_err(|error| (error, used))?;
        payload.extend_from_slice(&piece[..done.body]);
        used += done.consumed;
        assert!(done.body <= done.consumed);
        if done.end {
            return Ok((payload, decoder.trailers().to_vec(), used, true));
        }
        assert_eq!(done.consumed, piece.len());
    }
    Ok((payload, decoder.trailers().to_vec(), used, false))
}

/// `bytes`, cut at these places.
fn pieces<'b>(bytes: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chunked_body_means_the_same_however_it_comes(
        bytes in chunked_bytes(),
        cuts in prop::collection::vec(any::<Index>(), 0..8),
    ) {
        for decoder in [Decoder::new(100), Decoder::new(100).padded()] {
            let whole = decode_with(decoder.clone(), [&bytes[..]]).map_err(|(error, _)| error);
            let split = decode_with(decoder.clone(), pieces(&bytes, &cuts)).map_err(|(error, _)| error);
            let single = decode_with(decoder, bytes.chunks(1)).map_err(|(error, _)| error);
            prop_assert_eq!(&split, &whole, "{}", bytes.escape_ascii());
            prop_assert_eq!(&single, &whole, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
        cuts in prop::collection::vec(any::<Index>(), 0..8),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend_from_slice(chunk_header(chunk.len(), &mut [0; 18]));
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(CHUNK_END);
        }
        bytes.extend_from_slice(LAST_CHUNK);
        bytes.extend_from_slice(b"X-Sum: 1\r\n");
        bytes.extend_from_slice(CHUNK_END);
        let want = (chunks.concat(), b"X-Sum: 1\r\n".to_vec(), bytes.len(), true);
        prop_assert_eq!(decode(pieces(&bytes, &cuts)), Ok(want));
    }

    #[test]
    fn trailers_that_are_passed_on_are_fields_that_frame_nothing(lines in prop::collection::vec(field_line(), 0..4)) {
        let bytes = format!("0\r\n{}\r\n", lines.concat()).into_bytes();
        if let Ok((_, trailers, _, true)) = decode([&bytes[..]]) {
            let head = [&b"GET / HTTP/1.0\r\n"[..], &trailers, b"\r\n"].concat();
            let framing = parse_request(&head, &LIMITS, |request| (request.framing, request.host.is_some()));
            let value = (Framing::None, false);
            prop_assert_eq!(framing, Ok(Parsed::Complete { head_bytes: head.len(), value }));
        }
    }
}
