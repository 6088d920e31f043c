//! Which trailer fields may be passed on (RFC 9110 §6.5.1).

use super::field::Known;
use super::names::folded;

/// May a trailer field of this name go further? Not those that frame or route the message, say who sent it, control how it
/// is processed, or belong to one connection: a recipient that merged them with its header fields would take a sender's late
/// word for what was decided on the head. An underscore counts as a hyphen, as it does for some recipients.
pub(super) fn may_pass(name: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(name) else {
        return false;
    };
    let begins = |lower: &str| {
        name.len() >= lower.len() && name.iter().zip(lower.bytes()).all(|(&byte, lower)| folded(byte) == lower)
    };
    Known::of(text) == Known::Other
        && !WITHHELD.iter().any(|lower| lower.len() == name.len() && begins(lower))
        && !FAMILIES.iter().any(|family| begins(family))
}

/// What the names of whole groups begin with.
const FAMILIES: &[&str] = &["x-forwarded-", "if-", "access-control-"];

/// Beyond the names that [`Known`] has; of those, the ones that have a hyphen.
const WITHHELD: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expires",
    "forwarded",
    "http2-settings",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "transfer-encoding",
    "vary",
    "warning",
    "www-authenticate",
    "x-request-id",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_that_say_something_new_pass_and_no_others() {
        for name in ["X-T", "Real-IP", "X_T", "ETag", "Digest", "Server-Timing", "grpc-status", "Content-MD5"] {
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
            "Content_Length",
            "Transfer_Encoding",
            "X_Forwarded_For",
            "x_request-id",
            "Set_Cookie",
            "if_match",
        ] {
            assert!(!may_pass(name.as_bytes()), "{name}");
        }
    }
}
