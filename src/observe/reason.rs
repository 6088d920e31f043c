//! Why an exchange failed, as one word.

/// Defines [`Reason`] from its variants and their labels, so that no list of them can fall behind.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident = $label:literal,)+) => {
        /// Why an exchange failed: a metric's label, and the reason in the log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[doc = $doc])+ $reason,)+
        }

        impl Reason {
            /// Each of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)+];

            /// Lower-case letters and underscores; what each means to people stands in `docs/admin-api.md`.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$reason => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// The request's head is malformed.
    BadRequest = "bad_request",
    /// Its target is over `limits.uri_bytes`.
    UriTooLong = "uri_too_long",
    /// Its head is over `limits.head_bytes`.
    HeadTooLarge = "head_too_large",
    /// It has more fields than `limits.headers`.
    TooManyFields = "too_many_fields",
    /// Its HTTP version isn't spoken.
    UnsupportedVersion = "unsupported_version",
    /// Its method or transfer coding isn't served.
    NotImplemented = "not_implemented",
    /// Its head didn't come within `timeouts.head`.
    HeadTimeout = "head_timeout",
    /// Its chunks are malformed.
    BadChunk = "bad_chunk",
    /// Its body is over `limits.body_bytes`.
    BodyTooLarge = "body_too_large",
    /// Its body stalled for `timeouts.body_idle`.
    BodyTimeout = "body_timeout",
    /// Its body came below `limits.min_body_rate`.
    BodyTooSlow = "body_too_slow",
    /// The client is over its `rate_limit`.
    RateLimited = "rate_limited",
    /// Its host is that of another certificate than its connection's.
    Misdirected = "misdirected",
    /// It had come by `limits.hops` times.
    LoopDetected = "loop_detected",
    /// No backend is eligible.
    NoBackend = "no_backend",
    /// The last eligible backend refused connections for a second.
    BackendAway = "backend_away",
    /// There is no room at the backends, and as many wait as `queue.size` allows.
    QueueFull = "queue_full",
    /// There was no room at the backends for `queue.timeout`.
    QueueTimeout = "queue_timeout",
    /// `limits.connections` is reached.
    ConnectionLimit = "connection_limit",
    /// `limits.connections_per_client` is reached.
    ClientConnectionLimit = "client_connection_limit",
    /// The backend's name has no address.
    Dns = "dns",
    /// The backend refused the connection.
    ConnectRefused = "connect_refused",
    /// There is no way to the backend.
    ConnectUnroutable = "connect_unroutable",
    /// Every local port towards the backend is in use, or no local address fits the backend's.
    NoLocalPort = "no_local_port",
    /// No file descriptor is left for a connection to the backend.
    NoDescriptor = "no_descriptor",
    /// Connecting failed in another way.
    ConnectFailed = "connect_failed",
    /// Connecting took longer than `timeouts.connect`.
    ConnectTimeout = "connect_timeout",
    /// The backend's certificate isn't accepted.
    TlsCertificate = "tls_certificate",
    /// The backend refused the TLS handshake.
    TlsAlert = "tls_alert",
    /// The TLS handshake with the backend failed in another way.
    TlsProtocol = "tls_protocol",
    /// No head of an answer within `request_timeout`.
    ResponseTimeout = "response_timeout",
    /// The backend closed or reset the connection before the answer's head was whole.
    ClosedBeforeHead = "closed_before_head",
    /// The answer's head is malformed.
    BadResponse = "bad_response",
    /// It is over `limits.head_bytes`.
    ResponseHeadTooLarge = "response_head_too_large",
    /// It has more fields than `limits.headers`.
    ResponseTooManyFields = "response_too_many_fields",
    /// A 101 that the request didn't ask for.
    UnaskedSwitch = "unasked_switch",
    /// The answer's chunks are malformed.
    BadResponseChunk = "bad_response_chunk",
    /// The backend closed or reset the connection before the answer's body was whole.
    BodyCut = "body_cut",
    /// The answer's body stalled for `timeouts.body_idle`.
    ResponseBodyTimeout = "response_body_timeout",
    /// The client left before its answer was whole.
    ClientGone = "client_gone",
    /// The client didn't read its answer for `timeouts.write`.
    ClientWriteStalled = "client_write_stalled",
    /// Nothing moved in a tunnel for `timeouts.tunnel_idle`.
    TunnelIdle = "tunnel_idle",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_words_and_reasons_stand_at_their_numbers() {
        let labels: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(reason.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{reason:?}");
        }
    }
}
