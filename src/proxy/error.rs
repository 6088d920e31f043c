//! What can go wrong with an exchange, and the four views of it: a status code, a `Proxy-Status` error type (RFC 9209),
//! a label for metrics, and words for the log.

use std::io;

use crate::http1::{ChunkError, RequestError, ResponseError};

/// Why an exchange didn't come to its proper end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request's head was refused.
    BadRequest(RequestError),
    /// The request's chunks were.
    BadChunk(ChunkError),
    /// The request's body is over `limits.body_bytes`.
    BodyTooLarge,
    /// The head didn't come within `timeouts.head`.
    RequestHeadTimeout,
    /// The body stalled for `timeouts.body_idle`.
    RequestBodyTimeout,
    /// A method or an upgrade that can't be served; says which.
    NotImplemented(&'static str),
    /// No backend is eligible.
    NoBackend,
    /// A limit on connections or requests in flight is reached.
    ConnectionLimit,
    /// The backend's name has no address.
    NameNotResolved,
    /// The backend refused the connection.
    ConnectRefused,
    /// There is no way to the backend.
    ConnectUnroutable,
    /// Every local port towards the backend is in use.
    NoLocalPort,
    /// No file descriptor is left.
    NoDescriptor,
    /// Connecting failed in another way.
    ConnectFailed(io::ErrorKind),
    /// It took longer than `timeouts.connect`.
    ConnectTimeout,
    /// No response head within `request_timeout`.
    ResponseTimeout,
    /// The backend closed or reset the connection before its head was whole.
    ClosedBeforeHead,
    /// The response's head was refused.
    BadResponse(ResponseError),
    /// A 101 to a request that didn't ask to switch protocols, or to another protocol than it offered.
    UnaskedSwitch,
    /// The response's chunks were refused.
    BadResponseChunk(ChunkError),
    /// The backend closed or reset the connection before its body was whole.
    BodyCut,
    /// The response's body stalled for `timeouts.body_idle`.
    ResponseBodyTimeout,
    /// The client reset the connection, or closed it and nothing more was to be said.
    ClientGone,
    /// The client didn't read its answer for `timeouts.write`.
    ClientWriteStalled,
    /// Nothing moved in a tunnel for `timeouts.tunnel_idle`.
    TunnelIdle,
    /// The drain's time was over before the exchange was.
    DrainTimeout,
    /// A defect in the proxy itself.
    Panicked,
}

/// The views of a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What the client is answered, if nothing of an answer has gone out yet. None: nothing can be said, the connection
    /// is cut.
    pub status: Option<u16>,
    /// The `error` parameter of `Proxy-Status`: a registered type (RFC 9209 §2.3).
    pub proxy_status: &'static str,
    /// The value of a metric's label, and of the log's reason; unique to the situation.
    pub label: &'static str,
    /// A few words for people; printable ASCII without quotes.
    pub detail: &'static str,
    /// `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u32>,
    /// The client's connection can't be used again, since nobody knows where the next request begins on it.
    pub must_close: bool,
}

/// How long a client should wait when no backend is healthy: a dead one is probed every second by default.
const NO_BACKEND_RETRY_SECONDS: u32 = 5;

/// How long a client should wait when a limit is reached: exchanges are short.
const LIMIT_RETRY_SECONDS: u32 = 1;

impl Failure {
    /// What an attempt to connect to a backend has failed of.
    pub fn of_connect(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => return Self::NoDescriptor,
            Some(libc::EADDRNOTAVAIL) => return Self::NoLocalPort,
            _ => {}
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectRefused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::ConnectUnroutable,
            io::ErrorKind::AddrNotAvailable => Self::NoLocalPort,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            other => Self::ConnectFailed(other),
        }
    }

    /// Its four views.
    pub fn view(self) -> View {
        match self {
            Self::BadRequest(error) => refused_head(error),
            Self::BadChunk(error) => request_fault(400, "bad_chunk", error.reason()),
            Self::BodyTooLarge => request_fault(413, "body_too_large", "request body over the limit"),
            Self::RequestHeadTimeout => request_fault(408, "head_timeout", "request head took too long"),
            Self::RequestBodyTimeout => request_fault(408, "body_timeout", "request body stalled"),
            Self::NotImplemented(what) => View { must_close: false, ..request_fault(501, "not_implemented", what) },
            Self::NoBackend => View {
                retry_after_seconds: Some(NO_BACKEND_RETRY_SECONDS),
                ..backend_fault(503, "destination_unavailable", "no_backend", "no healthy backend")
            },
            Self::ConnectionLimit => over_limit("connection_limit", "too many connections"),
            Self::NoLocalPort => over_limit("no_local_port", "no local port left to connect from"),
            Self::NoDescriptor => over_limit("no_descriptor", "no file descriptor left"),
            Self::NameNotResolved => backend_fault(502, "dns_error", "dns", "backend name has no address"),
            Self::ConnectRefused => backend_fault(502, "connection_refused", "connect_refused", "connection refused"),
            Self::ConnectUnroutable => {
                backend_fault(502, "destination_ip_unroutable", "connect_unroutable", "no route to the backend")
            }
            Self::ConnectFailed(_) => {
                backend_fault(502, "destination_unavailable", "connect_failed", "could not connect to the backend")
            }
            Self::ConnectTimeout => {
                backend_fault(504, "connection_timeout", "connect_timeout", "connecting took too long")
            }
            Self::ResponseTimeout => {
                backend_fault(504, "http_response_timeout", "response_timeout", "no response in time")
            }
            Self::ClosedBeforeHead => backend_fault(
                502,
                "connection_terminated",
                "closed_before_head",
                "backend closed the connection before its response",
            ),
            Self::BadResponse(error) => refused_response(error),
            Self::UnaskedSwitch => {
                backend_fault(502, "http_protocol_error", "unasked_switch", "backend switched protocols unasked")
            }
            Self::BadResponseChunk(error) => {
                backend_fault(502, "http_protocol_error", "bad_response_chunk", error.reason())
            }
            Self::BodyCut => backend_fault(
                502,
                "http_response_incomplete",
                "body_cut",
                "backend closed the connection within its response",
            ),
            Self::ResponseBodyTimeout => {
                backend_fault(504, "http_response_incomplete", "response_body_timeout", "response body stalled")
            }
            Self::ClientGone => cut("connection_terminated", "client_gone", "client left"),
            Self::ClientWriteStalled => {
                cut("connection_write_timeout", "client_write_stalled", "client did not read its response")
            }
            Self::TunnelIdle => cut("connection_read_timeout", "tunnel_idle", "tunnel was idle"),
            Self::DrainTimeout => cut("connection_terminated", "drain_timeout", "proxy stopped within the exchange"),
            Self::Panicked => View {
                must_close: true,
                ..backend_fault(500, "proxy_internal_error", "panicked", "defect in the proxy")
            },
        }
    }
}

fn refused_head(error: RequestError) -> View {
    let (status, label) = match error {
        RequestError::Malformed(_) => (400, "bad_request"),
        RequestError::UriTooLong => (414, "uri_too_long"),
        RequestError::HeadTooLarge => (431, "head_too_large"),
        RequestError::TooManyFields => (431, "too_many_fields"),
        RequestError::UnsupportedVersion => (505, "unsupported_version"),
        RequestError::NotImplemented(_) => (501, "not_implemented"),
    };
    request_fault(status, label, error.reason())
}

fn refused_response(error: ResponseError) -> View {
    let (proxy_status, label) = match error {
        ResponseError::Malformed(_) => ("http_protocol_error", "bad_response"),
        ResponseError::HeadTooLarge => ("http_response_header_section_size", "response_head_too_large"),
        ResponseError::TooManyFields => ("http_response_header_section_size", "response_too_many_fields"),
    };
    backend_fault(502, proxy_status, label, error.reason())
}

/// The client did something wrong, and where its next request begins is lost.
fn request_fault(status: u16, label: &'static str, detail: &'static str) -> View {
    View { must_close: true, ..backend_fault(status, "http_request_error", label, detail) }
}

fn over_limit(label: &'static str, detail: &'static str) -> View {
    View {
        retry_after_seconds: Some(LIMIT_RETRY_SECONDS),
        ..backend_fault(503, "connection_limit_reached", label, detail)
    }
}

/// The client did nothing wrong; its connection may go on.
fn backend_fault(status: u16, proxy_status: &'static str, label: &'static str, detail: &'static str) -> View {
    View { status: Some(status), proxy_status, label, detail, retry_after_seconds: None, must_close: false }
}

/// Nobody is there to be answered, or the answer has long begun.
fn cut(proxy_status: &'static str, label: &'static str, detail: &'static str) -> View {
    View { status: None, proxy_status, label, detail, retry_after_seconds: None, must_close: true }
}

/// Appends a whole answer that says what went wrong; nothing for a failure without a status.
///
/// `representation` is what the request's `Accept` chose; `date` is now as an IMF-fixdate; `close` adds `Connection: close` (a failure that must close does so anyway); `head_only`
/// leaves the body out, for HEAD.
pub fn write_error_answer(
    out: &mut Vec<u8>,
    failure: &Failure,
    representation: Representation,
    date: &[u8],
    close: bool,
    head_only: bool,
) {
    let view = failure.view();
    let Some(status) = view.status else { return };
    let title = reason_phrase(status);
    let (media_type, body) = representation.body(status, title, view.detail);
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(b"\r\n");
    };
    let mut number = itoa::Buffer::new();
    line(&[b"HTTP/1.1 ", number.format(status).as_bytes(), b" ", title.as_bytes()]);
    line(&[b"Date: ", date]);
    line(&[b"Server: maypole"]);
    line(&[
        b"Proxy-Status: maypole; error=",
        view.proxy_status.as_bytes(),
        b"; details=\"",
        view.detail.as_bytes(),
        b"\"",
    ]);
    if let Some(seconds) = view.retry_after_seconds {
        line(&[b"Retry-After: ", number.format(seconds).as_bytes()]);
    }
    // Some of these codes may be cached for a while by default (RFC 9110 §15.1), and none should.
    line(&[b"Cache-Control: no-store"]);
    line(&[b"Content-Type: ", media_type.as_bytes()]);
    line(&[b"Content-Length: ", number.format(body.len()).as_bytes()]);
    if close || view.must_close {
        line(&[b"Connection: close"]);
    }
    line(&[]);
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// What an error answer's body is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Representation {
    /// Plain text.
    Text,
    /// A small page.
    Html,
    /// A problem document (RFC 9457).
    Problem,
}

impl Representation {
    /// The one of highest weight in `Accept` (RFC 9110 §12.5.1); the first named among equals; text when none is named.
    pub fn of(accept: Option<&[u8]>) -> Self {
        let mut best = (Self::Text, 0);
        for range in accept.unwrap_or_default().split(|&byte| byte == b',') {
            let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let media = match parts.next().unwrap_or_default().to_ascii_lowercase().as_slice() {
                b"text/html" | b"application/xhtml+xml" => Self::Html,
                b"application/json" | b"application/problem+json" => Self::Problem,
                b"text/plain" | b"text/*" | b"*/*" => Self::Text,
                _ => continue,
            };
            let weight = parts.find_map(thousandths).unwrap_or(1000);
            if weight > best.1 {
                best = (media, weight);
            }
        }
        best.0
    }

    fn body(self, status: u16, title: &str, detail: &str) -> (&'static str, String) {
        match self {
            Self::Text => ("text/plain; charset=utf-8", format!("{status} {title}: {detail}\n")),
            Self::Html => (
                "text/html; charset=utf-8",
                format!(
                    "<!doctype html>\n<title>{status} {title}</title>\n<h1>{status} {title}</h1>\n<p>{detail}</p>\n"
                ),
            ),
            Self::Problem => (
                "application/problem+json",
                format!(
                    "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"detail\":\"{detail}\"}}\n"
                ),
            ),
        }
    }
}

/// `q=0.8` in thousandths; None for another parameter.
fn thousandths(parameter: &[u8]) -> Option<u32> {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    let mut weight = match value.first() {
        Some(b'1') => 1000,
        _ => 0,
    };
    for (place, &digit) in [100, 10, 1].into_iter().zip(value.get(2..).unwrap_or_default()) {
        weight += place * u32::from(digit.saturating_sub(b'0').min(9));
    }
    Some(weight.min(1000))
}
