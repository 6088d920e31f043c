//! A request's head, read and rewritten for a backend.

use maypole::http1::{FieldNames, Framing, HeadLimits, Parsed, Request, RequestError, Target, Version, parse_request};
use maypole::plan::Via;
use maypole::proxy::forward::{RequestForwarding, write_request_head};

use super::strict::{self, Head};
use super::{cuts, one_hop};

/// Small, so that the limits are met often.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 512, headers: 12, uri_bytes: 100 };

/// However the bytes are split, the outcome is one; what is taken is within the limits, is what the grammar alone would
/// read, and is rewritten into a head that every reader takes for the same request.
pub fn check(bytes: &[u8]) {
    let whole = outcome(bytes);
    for cut in cuts(bytes, 4) {
        let part = outcome(&bytes[..cut]);
        assert!(part == Ok(Parsed::Partial) || part == whole, "cut at {cut}: {part:?}, but whole {whole:?}");
    }
    let [strangers, nobody] = [FieldNames::new(UNTRUSTED), FieldNames::alone([])];
    let via = Via::new("maypole");
    let _ = parse_request(bytes, &LIMITS, |request| {
        is_what_the_grammar_reads(request, bytes);
        for (trusted, upgrade) in [(false, false), (false, true), (true, false), (true, true)] {
            let how = RequestForwarding {
                base_path: if upgrade { b"/base" } else { b"" },
                default_host: b"backend:81",
                peer: [127, 0, 0, 1].into(),
                trusted,
                withheld: if trusted { &nobody } else { &strangers },
                identity: None,
                encrypted: false,
                request_id: b"id",
                via: Some(&via).filter(|_| trusted || upgrade),
                upgrade,
            };
            let mut out = Vec::new();
            write_request_head(&mut out, request, &how);
            says_the_same(request, &how, &out);
        }
    });
}

/// What is to be the same however the bytes come. For what a head is malformed may depend on how much of it is there.
fn outcome(bytes: &[u8]) -> Result<Parsed<String>, RequestError> {
    parse_request(bytes, &LIMITS, |request| format!("{request:?}")).map_err(|error| match error {
        RequestError::Malformed(_) => RequestError::Malformed(""),
        other => other,
    })
}

fn is_what_the_grammar_reads(request: &Request<'_, '_>, bytes: &[u8]) {
    let empty_lines = bytes.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
    let head = Head::read(&bytes[empty_lines..]).expect("the grammar takes what was taken");
    assert!(empty_lines + head.bytes <= LIMITS.head_bytes);
    let [method, target, version] = head.request_line().expect("a sound request line");
    assert_eq!(request.method_bytes, method);
    assert_eq!(request.version == Version::Http11, version == b"HTTP/1.1");
    assert!(target.len() <= LIMITS.uri_bytes && head.fields.len() <= LIMITS.headers);
    let fields: Vec<_> = request.fields.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
    assert_eq!(fields, head.fields);

    let hosts = head.all("host").count();
    assert!(hosts == 1 || hosts == 0 && version == b"HTTP/1.0", "{hosts} hosts");
    match request.target {
        Target::Origin(path) => assert!(path == target && path.starts_with(b"/")),
        Target::Absolute { authority, path } => {
            let scheme = target.len() - authority.len() - path.len();
            let scheme = target[..scheme].to_ascii_lowercase();
            assert!(scheme == b"http://" || scheme == b"https://", "{}", target.escape_ascii());
            assert!(target.ends_with(&[authority, path].concat()));
        }
        Target::Asterisk => assert!(target == b"*" && method == b"OPTIONS"),
    }
    let framing = head.framing().expect("its framing leaves no doubt");
    assert_eq!(request.framing, meant(framing, Framing::None));
}

/// The product's word for what the fields say.
fn meant(framing: strict::Framing, unsaid: Framing) -> Framing {
    match framing {
        strict::Framing::Unsaid => unsaid,
        strict::Framing::Length(bytes) => Framing::Length(bytes),
        strict::Framing::Chunked => Framing::Chunked,
    }
}

fn says_the_same(request: &Request<'_, '_>, how: &RequestForwarding<'_>, out: &[u8]) {
    let head = Head::read(out).unwrap_or_else(|| panic!("rewritten into nonsense: {}", out.escape_ascii()));
    assert_eq!(head.bytes, out.len(), "bytes behind the head: {}", out.escape_ascii());
    let [method, target, version] = head.request_line().expect("a sound request line");
    assert_eq!((method, version), (request.method_bytes, &b"HTTP/1.1"[..]));
    match request.target {
        Target::Origin(path) => assert_eq!(target, [how.base_path, path].concat()),
        Target::Absolute { path, .. } => assert!(target == b"*" || target.ends_with(path) && target.starts_with(b"/")),
        Target::Asterisk => assert_eq!(target, b"*"),
    }
    assert_eq!(head.only("host"), Some(request.host.unwrap_or(how.default_host)));
    assert_eq!(meant(head.framing().expect("one framing"), Framing::None), request.framing);

    let upgrade = if how.upgrade { request.upgrade } else { None };
    assert_eq!(head.only("upgrade"), upgrade);
    assert_eq!(head.list("connection"), upgrade.map(|_| vec![b"upgrade".to_vec()]).unwrap_or_default());
    for name in one_hop::NAMES {
        assert_eq!(head.all(name).count(), 0, "{name} is passed on");
    }

    let forwarded_for = head.only("x-forwarded-for").expect("one X-Forwarded-For");
    assert!(forwarded_for.ends_with(b"127.0.0.1"));
    let lone = ["x-forwarded-proto", "x-request-id"];
    assert!(lone.iter().all(|name| head.only(name).is_some()));
    assert!(head.all("x-forwarded-host").count() <= 1);
    let vias = head.all("via").count() - usize::from(how.via.is_some());
    assert_eq!(vias, request.values("via").count());
    if how.via.is_some() {
        assert_eq!(head.all("via").last(), Some(via(request.version)));
    }
    let announced = head.all("trailer").count();
    assert!(announced == 0 || request.framing == Framing::Chunked, "trailers that can't come are announced");
    if !how.trusted {
        assert_eq!(forwarded_for, b"127.0.0.1");
        assert_eq!(head.only("x-request-id"), Some(how.request_id));
        assert_eq!(head.all("forwarded").count(), 0);
        for (name, _) in &head.fields {
            let name = name.to_ascii_lowercase();
            // An underscore counts as a hyphen: CGI and its heirs don't tell them apart.
            let as_cgi: Vec<u8> = name.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).collect();
            let own = [&b"x-forwarded-for"[..], b"x-forwarded-proto", b"x-forwarded-host"].contains(&&name[..]);
            assert!(own || !as_cgi.starts_with(b"x-forwarded-"), "a stranger is believed: {}", name.escape_ascii());
            let untrusted = UNTRUSTED.iter().any(|untrusted| as_cgi == untrusted.to_ascii_lowercase().as_bytes());
            assert!(!untrusted, "a stranger is believed: {}", name.escape_ascii());
            let respelled = name != as_cgi && OWN.iter().any(|own| as_cgi == own.as_bytes());
            assert!(!respelled, "another spelling of what the proxy says: {}", name.escape_ascii());
        }
    }
    one_hop::nothing_else_changed(&head, request.fields, OWN);
}

fn via(version: Version) -> &'static [u8] {
    if version == Version::Http11 { b"1.1 maypole" } else { b"1.0 maypole" }
}

/// Fields that only trusted peers may set, for these properties.
const UNTRUSTED: [&str; 2] = ["X-Real-IP", "A"];

/// What the proxy says itself on this hop, whatever `Connection` names.
const OWN: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "max-forwards",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];
