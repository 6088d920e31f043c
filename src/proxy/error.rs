//! What can go wrong with an exchange, and the five views of it: a status code, a `Proxy-Status` error type (RFC 9209),
//! the reason that metrics count and the log names, words for people, and whether the backend is to blame.

use std::io;

use crate::http1::{ChunkError, RequestError, ResponseError, ResponseFault};
use crate::observe::Reason;
use crate::policy::NoSeat;
use crate::runtime::handshake::HandshakeFault;
use crate::upstream::ConnectError;

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
    /// The body came below `limits.min_body_rate`.
    RequestBodyTooSlow,
    /// The client is over its `rate_limit`.
    RateLimited {
        /// Until it may send one more.
        retry_after_seconds: u32,
    },
    /// Its host is that of another certificate than its connection's.
    Misdirected,
    /// The request has come by `limits.hops` times already.
    LoopDetected,
    /// No backend is eligible.
    NoBackend,
    /// There is no room at the backends, and as many wait as `queue.size` allows.
    QueueFull,
    /// There was no room at the backends for `queue.timeout`.
    QueueTimeout,
    /// `limits.connections` is reached.
    ConnectionLimit,
    /// `limits.connections_per_client` is reached.
    ClientConnectionLimit,
    /// The only backend, or all of them, refused connections for as long as a request waits for that to pass.
    BackendAway,
    /// The backend's name has no address.
    NameNotResolved,
    /// The backend refused the connection.
    ConnectRefused,
    /// There is no way to the backend.
    ConnectUnroutable,
    /// Every local port towards the backend is in use, or no local address fits the backend's.
    NoLocalPort,
    /// No file descriptor is left for a connection to the backend.
    NoDescriptor,
    /// Connecting failed in another way.
    ConnectFailed(io::ErrorKind),
    /// It took longer than `timeouts.connect`.
    ConnectTimeout,
    /// The backend's certificate isn't accepted.
    TlsCertificate,
    /// The backend refused the TLS handshake.
    TlsAlert,
    /// The TLS handshake failed in another way.
    TlsProtocol,
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
}

/// What a [`Failure`] says of the backend that was asked (`docs/decisions/018-blame.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Its own doing, whatever its client does.
    Backend,
    /// Its own doing, unless its client has held the exchange up: a backend gives up on a client that neither sends nor
    /// reads, and then this is what is seen of it.
    BackendUnlessHeldUp,
    /// Its own doing, unless it was the client that was waited for last.
    BackendUnlessClientWasWaitedFor,
    /// Nothing: it is the client's doing, or what this machine lacks, or all backends together.
    Other,
}

/// What people and programs are told of a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What the client is answered, if nothing of an answer has gone out yet. None: nothing can be said, the connection
    /// is cut.
    pub status: Option<u16>,
    /// The `error` parameter of `Proxy-Status`: a registered type (RFC 9209 §2.3).
    pub proxy_status: &'static str,
    /// The metric that counts it, and the log's reason.
    pub reason: Reason,
    /// A few words for people; printable ASCII without quotes.
    pub detail: &'static str,
    /// `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u32>,
    /// The client's connection can't be used again, since it isn't known where the next request begins on it.
    pub must_close: bool,
}

/// How long a client should wait when no backend is healthy: a dead one is probed every second by default.
const NO_BACKEND_RETRY_SECONDS: u32 = 5;

/// How long a client should wait when a limit is reached: exchanges are short.
const LIMIT_RETRY_SECONDS: u32 = 1;

impl Failure {
    /// What is told of it.
    pub fn view(self) -> View {
        match self {
            Self::BadRequest(error) => refused_head(error),
            Self::BadChunk(error) => request_fault(400, Reason::BadChunk, error.reason()),
            Self::BodyTooLarge => request_fault(413, Reason::BodyTooLarge, "request body over the limit"),
            Self::RequestHeadTimeout => request_fault(408, Reason::HeadTimeout, "request head took too long"),
            Self::RequestBodyTimeout => request_fault(408, Reason::BodyTimeout, "request body stalled"),
            Self::RequestBodyTooSlow => request_fault(408, Reason::BodyTooSlow, "request body came too slowly"),
            // RFC 9209 §2.3.17: refused by what is configured, and sent nowhere.
            Self::RateLimited { retry_after_seconds } => View {
                retry_after_seconds: Some(retry_after_seconds),
                ..backend_fault(429, "http_request_denied", Reason::RateLimited, "too many requests")
            },
            // RFC 9110 §15.5.20: over another connection it may be answered.
            Self::Misdirected => backend_fault(
                421,
                "http_request_error",
                Reason::Misdirected,
                "the connection is for another host's certificate",
            ),
            // RFC 5842 §7.2, RFC 9209 §2.3
            Self::LoopDetected => {
                backend_fault(508, "proxy_loop_detected", Reason::LoopDetected, "the request goes round in a loop")
            }
            Self::NoBackend => View {
                retry_after_seconds: Some(NO_BACKEND_RETRY_SECONDS),
                ..backend_fault(503, "destination_unavailable", Reason::NoBackend, "no healthy backend")
            },
            Self::BackendAway => View {
                retry_after_seconds: Some(NO_BACKEND_RETRY_SECONDS),
                ..backend_fault(503, "destination_unavailable", Reason::BackendAway, "no backend takes connections")
            },
            Self::QueueFull => over_limit(Reason::QueueFull, "too many requests at once"),
            Self::QueueTimeout => over_limit(Reason::QueueTimeout, "too many requests at once, waited for too long"),
            Self::ConnectionLimit => over_limit(Reason::ConnectionLimit, "too many connections"),
            Self::ClientConnectionLimit => {
                over_limit(Reason::ClientConnectionLimit, "too many connections from this address")
            }
            Self::NameNotResolved
            | Self::ConnectRefused
            | Self::ConnectUnroutable
            | Self::NoLocalPort
            | Self::NoDescriptor
            | Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::TlsCertificate
            | Self::TlsAlert
            | Self::TlsProtocol => self.connect_view(),
            Self::ResponseTimeout => {
                backend_fault(504, "http_response_timeout", Reason::ResponseTimeout, "no response in time")
            }
            Self::ClosedBeforeHead => backend_fault(
                502,
                "connection_terminated",
                Reason::ClosedBeforeHead,
                ResponseFault::ClosedBeforeHead.reason(),
            ),
            Self::BadResponse(error) => refused_response(error),
            Self::UnaskedSwitch => {
                let detail = ResponseFault::UnaskedSwitch.reason();
                backend_fault(502, "http_protocol_error", Reason::UnaskedSwitch, detail)
            }
            Self::BadResponseChunk(error) => {
                backend_fault(502, "http_protocol_error", Reason::BadResponseChunk, error.reason())
            }
            Self::BodyCut => {
                backend_fault(502, "http_response_incomplete", Reason::BodyCut, ResponseFault::BodyCut.reason())
            }
            Self::ResponseBodyTimeout => {
                backend_fault(504, "http_response_incomplete", Reason::ResponseBodyTimeout, "response body stalled")
            }
            Self::ClientGone => cut("connection_terminated", Reason::ClientGone, "client left"),
            Self::ClientWriteStalled => {
                cut("connection_write_timeout", Reason::ClientWriteStalled, "client did not read its response")
            }
            Self::TunnelIdle => cut("connection_read_timeout", Reason::TunnelIdle, "tunnel was idle"),
        }
    }

    /// Whether the backend is to blame.
    pub const fn blame(self) -> Blame {
        match self {
            Self::NameNotResolved
            | Self::ConnectRefused
            | Self::ConnectUnroutable
            | Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::TlsCertificate
            | Self::TlsAlert
            | Self::TlsProtocol
            | Self::BadResponse(_)
            | Self::BadResponseChunk(_)
            | Self::UnaskedSwitch => Blame::Backend,
            Self::ClosedBeforeHead | Self::BodyCut => Blame::BackendUnlessHeldUp,
            Self::ResponseTimeout | Self::ResponseBodyTimeout => Blame::BackendUnlessClientWasWaitedFor,
            Self::ClientGone
            | Self::ClientWriteStalled
            | Self::RequestHeadTimeout
            | Self::RequestBodyTimeout
            | Self::RequestBodyTooSlow
            | Self::BodyTooLarge
            | Self::BadRequest(_)
            | Self::BadChunk(_)
            | Self::RateLimited { .. }
            | Self::Misdirected
            | Self::LoopDetected
            | Self::TunnelIdle
            | Self::NoLocalPort
            | Self::NoDescriptor
            | Self::NoBackend
            | Self::BackendAway
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::ConnectionLimit
            | Self::ClientConnectionLimit => Blame::Other,
        }
    }

    /// Of those that happen before a byte could be sent to the backend.
    fn connect_view(self) -> View {
        let (status, proxy_status, reason, detail) = match self {
            Self::NoDescriptor => {
                return over_limit(Reason::NoDescriptor, "no file descriptor left to connect with");
            }
            // RFC 9209 §2.3: an error that has nothing to do with the backend.
            Self::NoLocalPort => {
                (502, "proxy_internal_error", Reason::NoLocalPort, "no local port or address left to connect from")
            }
            Self::NameNotResolved => (502, "dns_error", Reason::Dns, "backend name has no address"),
            Self::ConnectRefused => {
                (502, "connection_refused", Reason::ConnectRefused, "backend refused the connection")
            }
            Self::ConnectUnroutable => {
                (502, "destination_ip_unroutable", Reason::ConnectUnroutable, "no route to the backend")
            }
            Self::ConnectTimeout => (504, "connection_timeout", Reason::ConnectTimeout, "connecting took too long"),
            Self::TlsCertificate => {
                let detail = HandshakeFault::Certificate.reason();
                (502, "tls_certificate_error", Reason::TlsCertificate, detail)
            }
            Self::TlsAlert => (502, "tls_alert_received", Reason::TlsAlert, HandshakeFault::Alert.reason()),
            Self::TlsProtocol => (502, "tls_protocol_error", Reason::TlsProtocol, HandshakeFault::Protocol.reason()),
            _ => (502, "destination_unavailable", Reason::ConnectFailed, "could not connect"),
        };
        backend_fault(status, proxy_status, reason, detail)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NotResolved => Self::NameNotResolved,
            ConnectError::Refused => Self::ConnectRefused,
            ConnectError::Unroutable => Self::ConnectUnroutable,
            ConnectError::Timeout => Self::ConnectTimeout,
            ConnectError::NoLocalPort => Self::NoLocalPort,
            ConnectError::NoDescriptor => Self::NoDescriptor,
            ConnectError::Handshake(fault) => fault.into(),
            ConnectError::Failed(kind) => Self::ConnectFailed(kind),
            ConnectError::ClientGone => Self::ClientGone,
        }
    }
}

impl From<HandshakeFault> for Failure {
    fn from(fault: HandshakeFault) -> Self {
        match fault {
            HandshakeFault::Certificate => Self::TlsCertificate,
            HandshakeFault::Alert => Self::TlsAlert,
            HandshakeFault::Protocol => Self::TlsProtocol,
        }
    }
}

impl From<NoSeat> for Failure {
    fn from(limit: NoSeat) -> Self {
        match limit {
            NoSeat::InAll => Self::ConnectionLimit,
            NoSeat::OfClient => Self::ClientConnectionLimit,
        }
    }
}

fn refused_head(error: RequestError) -> View {
    let reason = match error {
        RequestError::Malformed(_) => Reason::BadRequest,
        RequestError::UriTooLong => Reason::UriTooLong,
        RequestError::HeadTooLarge => Reason::HeadTooLarge,
        RequestError::TooManyFields => Reason::TooManyFields,
        RequestError::UnsupportedVersion => Reason::UnsupportedVersion,
        RequestError::NotImplemented(_) => Reason::NotImplemented,
    };
    request_fault(error.status(), reason, error.reason())
}

fn refused_response(error: ResponseError) -> View {
    let (proxy_status, reason) = match error {
        ResponseError::Malformed(_) => ("http_protocol_error", Reason::BadResponse),
        ResponseError::HeadTooLarge => ("http_response_header_section_size", Reason::ResponseHeadTooLarge),
        ResponseError::TooManyFields => ("http_response_header_section_size", Reason::ResponseTooManyFields),
    };
    backend_fault(502, proxy_status, reason, error.reason())
}

/// The client did something wrong, and where its next request begins is lost.
fn request_fault(status: u16, reason: Reason, detail: &'static str) -> View {
    View { must_close: true, ..backend_fault(status, "http_request_error", reason, detail) }
}

fn over_limit(reason: Reason, detail: &'static str) -> View {
    View {
        retry_after_seconds: Some(LIMIT_RETRY_SECONDS),
        ..backend_fault(503, "connection_limit_reached", reason, detail)
    }
}

/// The client did nothing wrong; its connection may go on.
fn backend_fault(status: u16, proxy_status: &'static str, reason: Reason, detail: &'static str) -> View {
    View { status: Some(status), proxy_status, reason, detail, retry_after_seconds: None, must_close: false }
}

/// The client is gone and can't be answered, or the answer has long begun.
fn cut(proxy_status: &'static str, reason: Reason, detail: &'static str) -> View {
    View { status: None, proxy_status, reason, detail, retry_after_seconds: None, must_close: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each situation. A new one that is missing here leaves its reason without a failure, which a test sees.
    const ALL: &[Failure] = &[
        Failure::BadRequest(RequestError::Malformed("bad Host")),
        Failure::BadRequest(RequestError::UriTooLong),
        Failure::BadRequest(RequestError::HeadTooLarge),
        Failure::BadRequest(RequestError::TooManyFields),
        Failure::BadRequest(RequestError::UnsupportedVersion),
        Failure::BadRequest(RequestError::NotImplemented("CONNECT is not served")),
        Failure::BadChunk(ChunkError::BadSize),
        Failure::BodyTooLarge,
        Failure::RequestHeadTimeout,
        Failure::RequestBodyTimeout,
        Failure::RequestBodyTooSlow,
        Failure::RateLimited { retry_after_seconds: 1 },
        Failure::Misdirected,
        Failure::LoopDetected,
        Failure::NoBackend,
        Failure::QueueFull,
        Failure::QueueTimeout,
        Failure::ConnectionLimit,
        Failure::ClientConnectionLimit,
        Failure::BackendAway,
        Failure::NameNotResolved,
        Failure::ConnectRefused,
        Failure::ConnectUnroutable,
        Failure::NoLocalPort,
        Failure::NoDescriptor,
        Failure::ConnectFailed(io::ErrorKind::Other),
        Failure::ConnectTimeout,
        Failure::TlsCertificate,
        Failure::TlsAlert,
        Failure::TlsProtocol,
        Failure::ResponseTimeout,
        Failure::ClosedBeforeHead,
        Failure::BadResponse(ResponseError::Malformed("bad status line")),
        Failure::BadResponse(ResponseError::HeadTooLarge),
        Failure::BadResponse(ResponseError::TooManyFields),
        Failure::UnaskedSwitch,
        Failure::BadResponseChunk(ChunkError::BadSize),
        Failure::BodyCut,
        Failure::ResponseBodyTimeout,
        Failure::ClientGone,
        Failure::ClientWriteStalled,
        Failure::TunnelIdle,
    ];

    #[test]
    fn reasons_tell_situations_apart_and_details_need_no_escaping() {
        let mut reasons = Vec::new();
        for failure in ALL {
            let view = failure.view();
            let plain = |text: &str| text.bytes().all(|b| matches!(b, b' '..=b'~' if !b"\"\\<>&".contains(&b)));
            assert!(plain(view.detail) && !view.detail.is_empty(), "{failure:?}");
            assert!(!reasons.contains(&view.reason), "{failure:?}");
            reasons.push(view.reason);
        }
        assert_eq!(reasons.len(), Reason::ALL.len(), "a reason that no failure has");
    }

    #[test]
    fn statuses_and_types_are_those_of_the_contract() {
        for (failure, status, proxy_status, retry) in [
            (Failure::BodyTooLarge, 413, "http_request_error", false),
            (Failure::RequestHeadTimeout, 408, "http_request_error", false),
            (Failure::RequestBodyTimeout, 408, "http_request_error", false),
            (Failure::RequestBodyTooSlow, 408, "http_request_error", false),
            (Failure::BadRequest(RequestError::NotImplemented("x")), 501, "http_request_error", false),
            (Failure::RateLimited { retry_after_seconds: 1 }, 429, "http_request_denied", true),
            (Failure::NoBackend, 503, "destination_unavailable", true),
            (Failure::BackendAway, 503, "destination_unavailable", true),
            (Failure::QueueFull, 503, "connection_limit_reached", true),
            (Failure::QueueTimeout, 503, "connection_limit_reached", true),
            (Failure::ConnectRefused, 502, "connection_refused", false),
            (Failure::ConnectUnroutable, 502, "destination_ip_unroutable", false),
            (Failure::NameNotResolved, 502, "dns_error", false),
            (Failure::NoLocalPort, 502, "proxy_internal_error", false),
            (Failure::NoDescriptor, 503, "connection_limit_reached", true),
            (Failure::ConnectFailed(io::ErrorKind::Other), 502, "destination_unavailable", false),
            (Failure::ConnectTimeout, 504, "connection_timeout", false),
            (Failure::TlsCertificate, 502, "tls_certificate_error", false),
            (Failure::TlsAlert, 502, "tls_alert_received", false),
            (Failure::TlsProtocol, 502, "tls_protocol_error", false),
            (Failure::ResponseTimeout, 504, "http_response_timeout", false),
            (Failure::ClosedBeforeHead, 502, "connection_terminated", false),
            (Failure::BodyCut, 502, "http_response_incomplete", false),
            (Failure::ConnectionLimit, 503, "connection_limit_reached", true),
            (Failure::ClientConnectionLimit, 503, "connection_limit_reached", true),
            (Failure::BadRequest(RequestError::Malformed("x")), 400, "http_request_error", false),
            (Failure::BadRequest(RequestError::UriTooLong), 414, "http_request_error", false),
            (Failure::BadRequest(RequestError::HeadTooLarge), 431, "http_request_error", false),
            (Failure::BadRequest(RequestError::UnsupportedVersion), 505, "http_request_error", false),
            (Failure::BadResponse(ResponseError::Malformed("x")), 502, "http_protocol_error", false),
        ] {
            let view = failure.view();
            assert_eq!(view.status, Some(status), "{failure:?}");
            assert_eq!(view.proxy_status, proxy_status, "{failure:?}");
            assert_eq!(view.retry_after_seconds.is_some(), retry, "{failure:?}");
        }
    }

    #[test]
    fn a_backend_is_blamed_for_what_it_does_and_for_nothing_else() {
        for failure in ALL {
            let is_gateways = matches!(failure.view().status, Some(502 | 504)) && *failure != Failure::NoLocalPort;
            assert_eq!(failure.blame() != Blame::Other, is_gateways, "{failure:?}");
        }
    }
}
