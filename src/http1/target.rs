//! The request target (RFC 9112 §3.2) and the host in `Host` or an authority (RFC 9110 §7.2).

use std::net::Ipv6Addr;

use super::method::Method;

/// What a request is for. Every byte is visible ASCII, and none is `#`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path?query`, as it was sent.
    Origin(&'b [u8]),
    /// `http://authority/path?query`.
    Absolute {
        /// Host and optional port, valid as a `Host`.
        authority: &'b [u8],
        /// From the slash on; may be empty, or begin with `?`.
        path: &'b [u8],
    },
    /// `*`: the server itself; only with OPTIONS.
    Asterisk,
}

impl<'b> Target<'b> {
    /// Reads a target that has no spaces and no control characters. The error says what is wrong with it.
    pub(super) fn parse(method: Method, target: &'b [u8]) -> Result<Self, &'static str> {
        if !target.is_ascii() {
            return Err("non-ASCII byte in the target");
        }
        if memchr::memchr(b'#', target).is_some() {
            return Err("fragment in the target");
        }
        match target {
            [b'/', ..] => Ok(Self::Origin(target)),
            b"*" if method == Method::Options => Ok(Self::Asterisk),
            _ => Self::absolute(target),
        }
    }

    fn absolute(target: &'b [u8]) -> Result<Self, &'static str> {
        let rest = strip_prefix_any_case(target, b"http://")
            .or_else(|| strip_prefix_any_case(target, b"https://"))
            .ok_or("target is neither a path nor an http URL")?;
        let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !is_host(authority) {
            return Err("bad authority in the target");
        }
        Ok(Self::Absolute { authority, path })
    }
}

fn strip_prefix_any_case<'b>(text: &'b [u8], prefix: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Is this `host [":" port]` with a host that isn't empty (RFC 9110 §4.2.1, RFC 3986 §3.2.2)? User info, `IPvFuture`
/// and zone identifiers are refused.
pub(super) fn is_host(value: &[u8]) -> bool {
    let after_host = if let [b'[', rest @ ..] = value {
        after_ipv6_literal(rest)
    } else {
        let name_bytes = reg_name_bytes(value);
        (name_bytes > 0).then(|| &value[name_bytes..])
    };
    match after_host {
        Some([]) => true,
        Some([b':', port @ ..]) => is_port(port),
        _ => false,
    }
}

/// The host of `host [":" port]`, as [`Request::host`] has it: a name, or an address, an IPv6 one in brackets.
///
/// [`Request::host`]: super::Request::host
pub fn without_port(host: &[u8]) -> &[u8] {
    let name_bytes = match host {
        [b'[', ..] => memchr::memchr(b']', host).map_or(host.len(), |at| at + 1),
        _ => memchr::memchr(b':', host).unwrap_or(host.len()),
    };
    &host[..name_bytes]
}

/// What comes behind the closing bracket, if there is an IPv6 address before it.
fn after_ipv6_literal(value: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b']', value)?;
    let (literal, after) = value.split_at(end);
    str::from_utf8(literal).ok()?.parse::<Ipv6Addr>().ok()?;
    after.strip_prefix(b"]")
}

/// How many bytes from the start can be a registered name or an IPv4 address.
fn reg_name_bytes(value: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        at += match byte {
            b'%' => match value.get(at + 1..at + 3) {
                Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => 3,
                _ => break,
            },
            _ if REG_NAME[usize::from(byte)] => 1,
            _ => break,
        };
    }
    at
}

/// Unreserved characters and sub-delimiters (RFC 3986 §2.2, §2.3). A table, since every request is held against it.
const REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// Empty (RFC 3986 §3.2.3 allows it), or digits up to 65535.
fn is_port(port: &[u8]) -> bool {
    let mut number = 0u32;
    for &byte in port {
        if !byte.is_ascii_digit() {
            return false;
        }
        number = number * 10 + u32::from(byte - b'0');
        if number > 65_535 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_an_optional_port() {
        for good in [
            "a.example",
            "a.example:8080",
            "a.example:",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8080",
            "[2001:db8::7.8.9.10]",
            "a_b",
            "xn--bcher-kva.example",
            "a%20b",
            "a.example.",
            "a:65535",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/x",
            "u@a",
            "u:p@a",
            "a:80x",
            "a:-1",
            "a:65536",
            "a:1:2",
            "[::1",
            "[::1]x",
            "[]",
            "[v1.x]",
            "[fe80::1%25eth0]",
            "::1",
            "a?x",
            "a#x",
            "a\\b",
            "a%2",
            "a%zz",
            "é",
            "a\"",
            "<a>",
            "a:99999999999999999999",
            "[127.0.0.1]",
            "a\tb",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_host_is_told_from_its_port() {
        for (host, want) in [
            ("a:80", "a"),
            ("a", "a"),
            ("a:", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("1.2.3.4:5", "1.2.3.4"),
        ] {
            assert_eq!(without_port(host.as_bytes()), want.as_bytes(), "{host}");
        }
    }

    #[test]
    fn targets_have_three_forms() {
        let origin = Target::parse(Method::Get, b"//a/../b?c=%zz").unwrap();
        assert_eq!(origin, Target::Origin(b"//a/../b?c=%zz"));
        for (target, authority, path) in [
            ("http://a.example/x?y", "a.example", "/x?y"),
            ("HTTPS://a:1", "a:1", ""),
            ("http://[::1]?q", "[::1]", "?q"),
        ] {
            let want = Target::Absolute { authority: authority.as_bytes(), path: path.as_bytes() };
            assert_eq!(Target::parse(Method::Get, target.as_bytes()), Ok(want), "{target}");
        }
        assert_eq!(Target::parse(Method::Options, b"*"), Ok(Target::Asterisk));
    }

    #[test]
    fn other_targets_are_refused() {
        for bad in [
            "foo",
            "*",
            "a.example:443",
            "ftp://a/",
            "http:/a",
            "http://",
            "http:///x",
            "http://u@a/",
            "http://u:p@a/",
            "http://a b/",
            "/x#f",
            "/é",
            "?x",
            "http://a:x/",
            "http://a\\b/",
            "",
        ] {
            assert!(Target::parse(Method::Get, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
