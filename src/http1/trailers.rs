//! Which trailer fields may be passed on (RFC 9110 §6.5.1).

use super::field::Known;

/// May a trailer field of this name go further? Not those that frame or route the message, say who sent it, control how
/// it is processed, or belong to one connection: a recipient that merged them with its header fields would take a
/// sender's late word for what was decided on the head.
pub(super) fn may_pass(name: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(name) else {
        return false;
    };
    let prefixed = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    Known::of(name) == Known::Other
        && !WITHHELD.iter().any(|withheld| withheld.eq_ignore_ascii_case(name))
        && !prefixed("x-forwarded-")
        && !prefixed("if-")
        && !prefixed("access-control-")
}

/// Beyond the names that [`Known`] has.
const WITHHELD: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "expires",
    "forwarded",
    "location",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "retry-after",
    "set-cookie",
    "vary",
    "warning",
    "www-authenticate",
    "x-real-ip",
];

#[cfg(test)]
mod tests {
    use super::may_pass;

    #[test]
    fn trailers_that_say_something_new_pass_and_no_others() {
        for name in ["X-T", "ETag", "Digest", "Server-Timing", "grpc-status", "Content-MD5"] {
            assert!(may_pass(name.as_bytes()), "{name}");
        }
        for name in [
            "Content-Length",
            "transfer-encoding",
            "HOST",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "Authorization",
            "Cookie",
            "Set-Cookie",
            "Content-Type",
            "Content-Encoding",
            "X-Forwarded-For",
            "x-forwarded-port",
            "Forwarded",
            "Via",
            "X-Request-Id",
            "If-Match",
            "Cache-Control",
            "Max-Forwards",
            "Expect",
            "Range",
            "Date",
            "Location",
        ] {
            assert!(!may_pass(name.as_bytes()), "{name}");
        }
    }
}
