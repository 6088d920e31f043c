//! Header fields: the names that mean something to a proxy, the comma-separated lists in their values, and copying
//! their lines.

use httparse::Header;

/// A field name that a proxy treats in its own way. Recognised in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// `Authorization`, `WWW-Authenticate`, or what a proxy has instead of them: either side's part in a login.
    Authentication,
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Date`.
    Date,
    /// `Expect`.
    Expect,
    /// `Host`.
    Host,
    /// `Keep-Alive`, `Proxy-Connection`, `TE` or `HTTP2-Settings`: hop-by-hop whatever `Connection` says
    /// (RFC 9110 §7.6.1, RFC 7540 §3.2.1).
    HopByHop,
    /// `Max-Forwards`.
    MaxForwards,
    /// `Trailer`.
    Trailer,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Upgrade`.
    Upgrade,
    /// `Via`.
    Via,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `X-Forwarded-Host`.
    XForwardedHost,
    /// `X-Forwarded-Proto`.
    XForwardedProto,
    /// `X-Request-Id`.
    XRequestId,
    /// Any other.
    Other,
}

impl Known {
    /// Which of them `name` is.
    #[inline]
    pub fn of(name: &str) -> Self {
        // The length and the first letter leave one candidate at most.
        let bytes = name.as_bytes();
        let Some(first) = bytes.first().map(u8::to_ascii_lowercase) else {
            return Self::Other;
        };
        let (same, known) = match (bytes.len(), first) {
            (2, b't') => (is(bytes, b"te"), Self::HopByHop),
            (3, b'v') => (is(bytes, b"via"), Self::Via),
            (4, b'h') => (is(bytes, b"host"), Self::Host),
            (4, b'd') => (is(bytes, b"date"), Self::Date),
            (6, b'e') => (is(bytes, b"expect"), Self::Expect),
            (7, b'u') => (is(bytes, b"upgrade"), Self::Upgrade),
            (7, b't') => (is(bytes, b"trailer"), Self::Trailer),
            (10, b'c') => (is(bytes, b"connection"), Self::Connection),
            (10, b'k') => (is(bytes, b"keep-alive"), Self::HopByHop),
            (12, b'm') => (is(bytes, b"max-forwards"), Self::MaxForwards),
            (12, b'x') => (is(bytes, b"x-request-id"), Self::XRequestId),
            (13, b'a') => (is(bytes, b"authorization"), Self::Authentication),
            (14, b'c') => (is(bytes, b"content-length"), Self::ContentLength),
            (14, b'h') => (is(bytes, b"http2-settings"), Self::HopByHop),
            (15, b'x') => (is(bytes, b"x-forwarded-for"), Self::XForwardedFor),
            (16, b'x') => (is(bytes, b"x-forwarded-host"), Self::XForwardedHost),
            (16, b'w') => (is(bytes, b"www-authenticate"), Self::Authentication),
            (16, b'p') => (is(bytes, b"proxy-connection"), Self::HopByHop),
            (17, b't') => (is(bytes, b"transfer-encoding"), Self::TransferEncoding),
            (17, b'x') => (is(bytes, b"x-forwarded-proto"), Self::XForwardedProto),
            (18, b'p') => (is(bytes, b"proxy-authenticate"), Self::Authentication),
            (19, b'p') => (is(bytes, b"proxy-authorization"), Self::Authentication),
            _ => return Self::Other,
        };
        if same { known } else { Self::Other }
    }
}

/// Is `name` this one, in any case? Compares all bytes whatever comes first, since a loop of known length without an
/// early end becomes a few vector instructions: this runs twice for every field of every head.
#[inline]
fn is<const LEN: usize>(name: &[u8], lower: &[u8; LEN]) -> bool {
    <&[u8; LEN]>::try_from(name).is_ok_and(|name| {
        let differences = name.iter().zip(lower).map(|(byte, lower)| byte.to_ascii_lowercase() ^ lower);
        differences.fold(0, |all, one| all | one) == 0
    })
}

/// The elements of a comma-separated value, trimmed of spaces and tabs; empty ones included (RFC 9110 §5.6.1). Not for
/// values that may hold quoted strings.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// Does a value of a [`Known::Authentication`] field name a scheme that authenticates a connection instead of a request
/// (RFC 4559 §6)? Taken for a list of whatever is between commas: one within a quoted string may be taken for such a
/// scheme, which does no harm, and none is missed.
pub(super) fn binds_connection(value: &[u8]) -> bool {
    list(value).any(|element| {
        let scheme = element.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

/// Without spaces and tabs around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A byte of a token (RFC 9110 §5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// A byte of a field value: visible, a space, a tab, or obs-text (RFC 9110 §5.5).
pub(super) const fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=0x7e | 0x80..=0xff)
}

/// Appends to `out` the lines of those `fields` that `keep` wants, as they stand in `head`. Neighbours are copied
/// together, which is most of what makes forwarding a head cheap.
pub(super) fn copy_lines<'b>(
    out: &mut Vec<u8>,
    head: &'b [u8],
    fields: &[Header<'b>],
    mut keep: impl FnMut(Known, &Header<'b>) -> bool,
) {
    let mut run_start = None;
    for field in fields {
        let line = offset_in(head, field.name.as_bytes());
        if keep(Known::of(field.name), field) {
            run_start.get_or_insert(line);
        } else if let Some(start) = run_start.take() {
            out.extend_from_slice(&head[start..line]);
        }
    }
    if let Some(start) = run_start {
        let blank_line = head.len() - 2;
        out.extend_from_slice(&head[start..blank_line]);
    }
}

/// Where `part`, which is a slice of `whole`, begins in it.
pub(super) fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        for (name, want) in [
            ("Host", Known::Host),
            ("HOST", Known::Host),
            ("content-length", Known::ContentLength),
            ("Content_Length", Known::Other),
            ("Transfer-Encoding", Known::TransferEncoding),
            ("Keep-Alive", Known::HopByHop),
            ("Proxy-Connection", Known::HopByHop),
            ("TE", Known::HopByHop),
            ("HTTP2-Settings", Known::HopByHop),
            ("Authorization", Known::Authentication),
            ("WWW-Authenticate", Known::Authentication),
            ("Proxy-Authenticate", Known::Authentication),
            ("proxy-authorization", Known::Authentication),
            ("X-Authenticate-X", Known::Other),
            ("X-Forwarded-For", Known::XForwardedFor),
            ("X-Forwarded-Fox", Known::Other),
            ("", Known::Other),
        ] {
            assert_eq!(Known::of(name), want, "{name}");
        }
    }

    #[test]
    fn schemes_that_authenticate_a_connection_are_found_wherever_they_stand() {
        for value in [
            "NTLM",
            "ntlm TlRMTVNTUAABAAAA",
            "Negotiate",
            "nEGOTIATE YIIJvw==",
            "Negotiate\tYIIJvw==",
            "Basic realm=\"a\", NTLM",
            "Digest realm=\"a, b\", nonce=\"\\\"\",Negotiate , Basic realm=x",
            ",, NTLM",
        ] {
            assert!(binds_connection(value.as_bytes()), "{value}");
        }
        for value in ["", "Basic TlRMTQ==", "Bearer NTLM", "Digest username=\"NTLM\"", "NTLMv2 x", "XNegotiate"] {
            assert!(!binds_connection(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn lists_are_split_at_commas_and_trimmed() {
        assert!(list(b" a ,\tb,,c").eq([&b"a"[..], b"b", b"", b"c"]));
        assert!(list(b"").eq([b""]));
    }
}
