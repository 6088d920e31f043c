//! What is the same for both heads that a proxy rewrites (RFC 9110 §7.6.1).

use httparse::Header;

use super::strict::Head;

/// Fields that never go further, whatever `Connection` says.
pub const NAMES: &[&str] = &["keep-alive", "proxy-connection", "te", "http2-settings"];

/// The fields of `out` that the proxy doesn't say itself (`own`) are those of `received`, in their order and as they
/// were; and none of them is named by a `Connection` there.
pub fn nothing_else_changed(out: &Head<'_>, received: &[Header<'_>], own: &[&str]) {
    let is_own = |name: &[u8]| own.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()));
    let named: Vec<_> = received
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .flat_map(|field| field.value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    let mut before = received.iter();
    for (name, value) in out.fields.iter().filter(|(name, _)| !is_own(name)) {
        assert!(
            before.any(|field| field.name.as_bytes() == *name && field.value == *value),
            "nobody sent {}, or not there",
            name.escape_ascii()
        );
        assert!(!named.iter().any(|named| named.eq_ignore_ascii_case(name)), "{} is passed on", name.escape_ascii());
    }
}
