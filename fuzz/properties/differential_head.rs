//! Heads as maypole reads them, beside heads as `httparse` reads them. maypole is never laxer: what it takes, httparse
//! takes too, with the same parts. Where it is stricter, its reason is one of those below, and the fault that it names is
//! there to be seen.

use httparse::{EMPTY_HEADER, Error, Status};
use maypole::http1::{HeadLimits, Method, Parsed, RequestError, ResponseError, Version, parse_request, parse_response};

/// Out of the way: this is about grammar.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 65536, headers: 100, uri_bytes: 65536 };

/// Both parsers, on both kinds of heads.
pub fn check(bytes: &[u8]) {
    if bytes.len() < LIMITS.head_bytes {
        requests(bytes);
        responses(bytes);
    }
}

/// A head by its parts: method or status, target or reason, minor version, fields, and length.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    first: String,
    second: Vec<u8>,
    minor: u8,
    fields: Vec<(String, Vec<u8>)>,
    bytes: usize,
}

impl Parts {
    fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice()).collect()
    }

    /// How many elements the comma-separated fields of this name have.
    fn elements(&self, name: &str) -> usize {
        self.all(name).iter().map(|value| value.split(|&byte| byte == b',').count()).sum()
    }
}

fn requests(bytes: &[u8]) {
    let ours = parse_request(bytes, &LIMITS, |request| Parts {
        first: String::from_utf8_lossy(request.method_bytes).into_owned(),
        second: Vec::new(),
        minor: u8::from(request.version == Version::Http11),
        fields: owned(request.fields),
        bytes: 0,
    });
    let mut slots = [EMPTY_HEADER; LIMITS.headers];
    let mut parsed = httparse::Request::new(&mut slots);
    let theirs = parsed.parse(bytes).map(|status| match status {
        Status::Partial => None,
        Status::Complete(bytes) => Some(Parts {
            first: parsed.method.unwrap_or_default().to_owned(),
            second: Vec::new(),
            minor: parsed.version.unwrap_or(9),
            fields: owned(parsed.headers),
            bytes,
        }),
    });
    match (ours, theirs) {
        (Ok(Parsed::Complete { head_bytes, value }), Ok(Some(theirs))) => {
            assert_eq!(Parts { bytes: head_bytes, ..value }, theirs);
        }
        (Ok(Parsed::Partial), Ok(None)) | (Err(_), Err(_)) => {}
        // httparse refuses the beginning of a version that isn't whole yet.
        (Ok(Parsed::Partial), Err(Error::Version)) => assert!(ends_within_a_version(bytes)),
        (Err(error), Ok(head)) => {
            assert!(request_fault(error, bytes, head.as_ref()), "{error:?} isn't to be seen in {head:?}");
        }
        (ours, theirs) => panic!("laxer than httparse: {ours:?}, but {theirs:?}"),
    }
}

fn responses(bytes: &[u8]) {
    let ours = parse_response(bytes, Method::Get, &LIMITS, |response| Parts {
        first: response.status.to_string(),
        second: response.reason.to_vec(),
        minor: u8::from(response.version == Version::Http11),
        fields: owned(response.fields),
        bytes: 0,
    });
    let mut slots = [EMPTY_HEADER; LIMITS.headers];
    let mut parsed = httparse::Response::new(&mut slots);
    let theirs = parsed.parse(bytes).map(|status| match status {
        Status::Partial => None,
        Status::Complete(bytes) => Some(Parts {
            first: parsed.code.unwrap_or_default().to_string(),
            second: parsed.reason.unwrap_or_default().as_bytes().to_vec(),
            minor: parsed.version.unwrap_or(9),
            fields: owned(parsed.headers),
            bytes,
        }),
    });
    match (ours, theirs) {
        (Ok(Parsed::Complete { head_bytes, mut value }), Ok(Some(theirs))) => {
            if theirs.second.is_empty() && !value.second.is_ascii() {
                value.second.clear(); // httparse leaves a reason with obs-text out
            }
            assert_eq!(Parts { bytes: head_bytes, ..value }, theirs);
        }
        (Ok(Parsed::Partial), Ok(None)) | (Err(_), Err(_)) => {}
        (Err(error), Ok(head)) => {
            assert!(response_fault(error, bytes, head.as_ref()), "{error:?} isn't to be seen in {head:?}");
        }
        (ours, theirs) => panic!("laxer than httparse: {ours:?}, but {theirs:?}"),
    }
}

fn owned(fields: &[httparse::Header<'_>]) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect()
}

/// Where maypole is stricter with requests than httparse: the whole list, for heads that httparse has read to their end
/// (`head`), and for those whose beginning it would wait with. Each is looked for without maypole's own code.
fn request_fault(error: RequestError, bytes: &[u8], head: Option<&Parts>) -> bool {
    let line = bytes.trim_ascii_start().split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let method = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    let target = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    let hosts = || head.map(|head| head.all("host")).unwrap_or_default();
    match error {
        RequestError::NotImplemented("CONNECT is not served") => method == b"CONNECT",
        RequestError::NotImplemented("transfer coding not spoken") => codings(head) > 1,
        RequestError::Malformed("empty lines instead of a request") => empty_lines_bytes(bytes) > 4 * 2,
        RequestError::Malformed("non-ASCII byte in the target") => !target.is_ascii(),
        RequestError::Malformed("fragment in the target") => target.contains(&b'#'),
        RequestError::Malformed("target is neither a path nor an http URL") => {
            !target.starts_with(b"/") && !has_http_scheme(target)
        }
        RequestError::Malformed("bad authority in the target") => has_http_scheme(target),
        RequestError::Malformed("no Host") => head.is_some_and(|head| head.minor == 1) && hosts().is_empty(),
        RequestError::Malformed("more than one Host") => hosts().len() > 1,
        RequestError::Malformed("bad Host") => matches!(hosts()[..], [host] if is_no_plain_host(host)),
        RequestError::Malformed("more than one Content-Length") => {
            head.is_some_and(|head| head.all("content-length").len() > 1)
        }
        RequestError::Malformed(reason) => fault_of_any_head(reason, bytes, head),
        // Both parsers have the same bounds here, and one opinion of versions.
        _ => false,
    }
}

/// Where maypole is stricter with responses than httparse: the whole list.
fn response_fault(error: ResponseError, bytes: &[u8], head: Option<&Parts>) -> bool {
    match error {
        ResponseError::Malformed("empty line instead of a response") => {
            bytes.starts_with(b"\r") || bytes.starts_with(b"\n")
        }
        ResponseError::Malformed("status below 100") => bytes.get("HTTP/1.1 ".len()) == Some(&b'0'),
        ResponseError::Malformed("different Content-Lengths") => {
            head.is_some_and(|head| head.elements("content-length") > 1)
        }
        ResponseError::Malformed("transfer coding not spoken") => codings(head) > 1,
        ResponseError::Malformed(reason) => fault_of_any_head(reason, bytes, head),
        _ => false,
    }
}

fn fault_of_any_head(reason: &str, bytes: &[u8], head: Option<&Parts>) -> bool {
    if reason == "line ends in LF without CR" {
        return bytes.starts_with(b"\n") || bytes.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r');
    }
    let Some(head) = head else { return false };
    let codings = head.all("transfer-encoding");
    match reason {
        "bad Content-Length" => head.all("content-length").iter().any(|value| !is_plain_length(value)),
        "both Content-Length and Transfer-Encoding" => !head.all("content-length").is_empty() && !codings.is_empty(),
        "Transfer-Encoding in HTTP/1.0" => !codings.is_empty() && head.minor == 0,
        "bad Transfer-Encoding" => {
            !codings.is_empty() && !matches!(codings[..], [only] if only.eq_ignore_ascii_case(b"chunked"))
        }
        "too many options in Connection" => head.elements("connection") > 64,
        _ => false,
    }
}

fn codings(head: Option<&Parts>) -> usize {
    head.map(|head| head.elements("transfer-encoding")).unwrap_or_default()
}

/// How many bytes of `\r\n` stand in front.
fn empty_lines_bytes(bytes: &[u8]) -> usize {
    bytes.chunks(2).take_while(|two| two == b"\r\n").count() * 2
}

fn has_http_scheme(target: &[u8]) -> bool {
    let target = target.to_ascii_lowercase();
    target.starts_with(b"http://") || target.starts_with(b"https://")
}

/// Not a name or an IPv4 address with or without a port: what is refused as a host has to be among these.
fn is_no_plain_host(value: &[u8]) -> bool {
    let mut parts = value.splitn(2, |&byte| byte == b':');
    let host = parts.next().unwrap_or_default();
    let port = parts.next().unwrap_or_default();
    let plain = !host.is_empty() && host.iter().all(|&byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let number = std::str::from_utf8(port).ok().and_then(|digits| digits.parse::<u16>().ok());
    !plain || !(port.is_empty() || port.iter().all(u8::is_ascii_digit) && number.is_some())
}

/// Digits alone that fit into 63 bits.
fn is_plain_length(value: &[u8]) -> bool {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits && std::str::from_utf8(value).is_ok_and(|digits| digits.parse::<i64>().is_ok())
}

fn ends_within_a_version(bytes: &[u8]) -> bool {
    let start = bytes.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    b"HTTP/1.1".starts_with(start)
        || b"HTTP/1.0".starts_with(start)
        || start.len() < 8
            && start.starts_with(b"HTTP/")
            && start[5..].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
}
