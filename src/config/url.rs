//! A backend's URL: `http://host[:port][/base]` or `https://…`, parsed as strictly as RFC 3986 lets it and normalised, so that two ways
//! to write one backend compare equal.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest URL that is read, in bytes: a DNS name has at most 253, the rest is its base path.
const URL_BYTES_MAX: usize = 2048;

/// A checked backend URL: `http://host[:port][/base]` or `https://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendUrl {
    /// As written.
    pub written: String,
    /// Scheme and host in lower case, default port and trailing slash left out: equal for equal backends.
    pub normalized: String,
    /// Lower case, an IPv6 literal without its brackets.
    pub host: String,
    /// 80 where none is written, 443 with `https`.
    pub port: u16,
    /// Its scheme is `https`.
    pub is_https: bool,
    /// Empty, or `/…` without a trailing slash.
    pub base_path: String,
}

/// Why a text is no backend URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// No `scheme://` at its start.
    NoScheme,
    /// Any other scheme.
    OtherScheme,
    /// `user@` before the host.
    UserInfo,
    /// `?…` after the path.
    Query,
    /// `#…` at the end.
    Fragment,
    /// Nothing where the host should be.
    NoHost,
    /// Neither a DNS name nor an IPv4 address.
    BadHost,
    /// Letters beyond ASCII in the host.
    NotAscii,
    /// Not an IPv6 address between the brackets, or a zone in it.
    BadIpv6,
    /// Not a number from 1 to 65535 after the colon.
    BadPort,
    /// A byte that a URL path can't hold, or a `%` that no two hex digits follow (RFC 3986 §3.3).
    BadPath,
    /// `.` or `..` as a segment: put before a request's path it would say something else than it shows.
    DotSegment,
    /// More than 2,048 bytes.
    TooLong,
}

impl BackendUrl {
    /// Parses and normalises a backend's URL. Refused: any scheme but `http` and `https`, user info, query, fragment, a host that is
    /// no DNS name (RFC 1123 letters, digits, hyphens; underscores too, as container networks have them) and no address,
    /// a port outside 1–65535, and a path that isn't valid in a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        let is_https = is_https(scheme)?;
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_end);
        let (host, port) = split_authority(authority)?;
        check_path(path)?;

        let base_path = path.trim_end_matches('/').to_owned();
        let (scheme, default_port) = if is_https { ("https", 443) } else { ("http", 80) };
        let port = port.unwrap_or(default_port);
        let shown_port = if port == default_port { String::new() } else { format!(":{port}") };
        let normalized = format!("{scheme}://{}{shown_port}{base_path}", bracketed(&host));
        Ok(Self { written: text.to_owned(), normalized, host, port, is_https, base_path })
    }

    /// `host:port`, an IPv6 address in brackets: the backend's default name, and what its `Host` field would say.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// `host:port`, an IPv6 address in brackets, as it stands in a URL and in `Host` (RFC 3986 §3.2).
pub fn authority(host: &str, port: u16) -> String {
    format!("{}:{port}", bracketed(host))
}

/// Whether `text` is `host` or `host:port`, as in a URL or a `Host` field (RFC 9110 §7.2).
pub(super) fn is_authority(text: &str) -> bool {
    text.len() <= URL_BYTES_MAX && split_authority(text).is_ok()
}

/// Whether `text` is a host's name or address, an IPv6 one without brackets.
pub(super) fn is_host(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok() || check_host(text).is_ok()
}

/// Whether `text` holds only what a URL path may (RFC 3986 §3.3), every `%` with its two hex digits.
pub(super) fn is_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(at, &byte)| match byte {
        b'%' => matches!(bytes.get(at + 1..at + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit)),
        byte => byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte),
    })
}

fn is_https(scheme: &str) -> Result<bool, UrlError> {
    if scheme.eq_ignore_ascii_case("http") {
        Ok(false)
    } else if scheme.eq_ignore_ascii_case("https") {
        Ok(true)
    } else if scheme.is_empty() {
        Err(UrlError::NoScheme)
    } else {
        Err(UrlError::OtherScheme)
    }
}

fn check_path(path: &str) -> Result<(), UrlError> {
    // Whichever comes first is the one that is there: a '?' behind a '#' belongs to the fragment.
    match path.find(['?', '#']).map(|at| path.as_bytes()[at]) {
        Some(b'?') => return Err(UrlError::Query),
        Some(_) => return Err(UrlError::Fragment),
        None => {}
    }
    if !is_path(path) {
        return Err(UrlError::BadPath);
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(UrlError::DotSegment);
    }
    Ok(())
}

/// The host in lower case and without brackets, and the port if one is written.
fn split_authority(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (literal, after) = rest.split_once(']').ok_or(UrlError::BadIpv6)?;
        let address: Ipv6Addr = literal.parse().map_err(|_| UrlError::BadIpv6)?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err(UrlError::BadIpv6),
        };
        (address.to_string(), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        check_host(host)?;
        (host.to_ascii_lowercase(), port)
    };
    Ok((host, port.map(parse_port).transpose()?))
}

fn check_host(host: &str) -> Result<(), UrlError> {
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    if !host.is_ascii() {
        return Err(UrlError::NotAscii);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(label_fits) {
        return Err(UrlError::BadHost);
    }
    // No top-level domain is a number: `10.0.0.256`, `127.1` and `0x7f.1` are mistyped addresses, which a resolver would
    // read in its own way.
    let last = name.rsplit('.').next().unwrap_or(name);
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(UrlError::BadHost);
    }
    Ok(())
}

/// Digits only: `u16::from_str` alone would take `+80`.
fn parse_port(text: &str) -> Result<u16, UrlError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::BadPort);
    }
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(UrlError::BadPort),
        Ok(port) => Ok(port),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoScheme => "it has no http:// or https:// at its start",
            Self::OtherScheme => "its scheme is neither http nor https",
            Self::UserInfo => "user info before the host isn't used",
            Self::Query => "a query isn't used",
            Self::Fragment => "a fragment isn't used",
            Self::NoHost => "it has no host",
            Self::BadHost => "its host is neither a DNS name nor an IP address",
            Self::NotAscii => "its host has letters beyond ASCII (write it as xn--…)",
            Self::BadIpv6 => "what stands in brackets isn't an IPv6 address",
            Self::BadPort => "its port isn't a number from 1 to 65535",
            Self::BadPath => "its path holds what a URL path can't (write it as %XX)",
            Self::DotSegment => "its path has a '.' or '..' segment",
            Self::TooLong => "it is longer than 2048 bytes",
        })
    }
}

impl std::error::Error for UrlError {}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::UrlError::{
        BadHost, BadIpv6, BadPath, BadPort, DotSegment, Fragment, NoHost, NoScheme, NotAscii, OtherScheme, Query,
        TooLong, UserInfo,
    };
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_normalised() {
        // written → normalised, host, port, base path, authority
        let cases: &[(&str, &str, &str, u16, &str, &str)] = &[
            ("http://localhost:8082", "http://localhost:8082", "localhost", 8082, "", "localhost:8082"),
            ("http://a", "http://a", "a", 80, "", "a:80"),
            ("HTTP://A.Example:80/", "http://a.example", "a.example", 80, "", "a.example:80"),
            ("http://a:080", "http://a", "a", 80, "", "a:80"),
            ("http://a:1/base", "http://a:1/base", "a", 1, "/base", "a:1"),
            ("http://a:1/Base/x/", "http://a:1/Base/x", "a", 1, "/Base/x", "a:1"),
            ("http://a//", "http://a", "a", 80, "", "a:80"),
            ("http://a/%7Eme/;v=1,2:@", "http://a/%7Eme/;v=1,2:@", "a", 80, "/%7Eme/;v=1,2:@", "a:80"),
            ("http://10.0.0.1:65535", "http://10.0.0.1:65535", "10.0.0.1", 65535, "", "10.0.0.1:65535"),
            ("http://[::1]:8080", "http://[::1]:8080", "::1", 8080, "", "[::1]:8080"),
            ("http://[0:0::0:1]", "http://[::1]", "::1", 80, "", "[::1]:80"),
            ("http://my_app.internal.", "http://my_app.internal.", "my_app.internal.", 80, "", "my_app.internal.:80"),
            ("http://3com", "http://3com", "3com", 80, "", "3com:80"),
            ("https://a", "https://a", "a", 443, "", "a:443"),
            ("HTTPS://A:443/x/", "https://a/x", "a", 443, "/x", "a:443"),
            ("https://a:80", "https://a:80", "a", 80, "", "a:80"),
            ("http://a:443", "http://a:443", "a", 443, "", "a:443"),
        ];
        for &(written, normalized, host, port, base_path, authority) in cases {
            let url = BackendUrl::parse(written).unwrap_or_else(|error| panic!("{written:?}: {error}"));
            let parts = (url.normalized.as_str(), url.host.as_str(), url.port, url.base_path.as_str());
            assert_eq!(parts, (normalized, host, port, base_path), "{written:?}");
            assert_eq!(url.authority(), authority, "{written:?}");
            assert_eq!(url.is_https, normalized.starts_with("https:"), "{written:?}");
            assert_eq!(url.written, written);
            let again = BackendUrl::parse(normalized).map(|url| url.normalized);
            assert_eq!(again.as_deref(), Ok(normalized), "normalising twice changes nothing");
        }
    }

    #[test]
    fn what_is_no_backend_url_is_refused_with_its_reason() {
        let long = format!("http://a/{}", "b".repeat(URL_BYTES_MAX));
        let long_label = format!("http://{}", "b".repeat(64));
        let cases: &[(&str, UrlError)] = &[
            ("", NoScheme),
            ("localhost:8082", NoScheme),
            ("://a", NoScheme),
            ("//a", NoScheme),
            ("http:/a", NoScheme),
            ("https://", NoHost),
            ("ftp://a", OtherScheme),
            ("httpss://a", OtherScheme),
            (" http://a", OtherScheme),
            ("http://", NoHost),
            ("http:///x", NoHost),
            ("http://:80", NoHost),
            ("http://user@a", UserInfo),
            ("http://user:pw@a:1", UserInfo),
            ("http://a?x=1", Query),
            ("http://a/b?", Query),
            ("http://a#x", Fragment),
            ("http://a/b#c?d", Fragment),
            ("http://a b", BadHost),
            ("http://a\t", BadHost),
            ("http://a..b", BadHost),
            ("http://-a", BadHost),
            ("http://a-.b", BadHost),
            ("http://.", BadHost),
            ("http://a%41", BadHost),
            ("http://a\\b", BadHost),
            ("http://256.1.1.1", BadHost),
            ("http://127.1", BadHost),
            ("http://2130706433", BadHost),
            ("http://0x7f000001", BadHost),
            ("http://1.2.3.4.", BadHost),
            (&long_label, BadHost),
            ("http://bücher.example", NotAscii),
            ("http://[::1", BadIpv6),
            ("http://[::g]", BadIpv6),
            ("http://[fe80::1%25eth0]", BadIpv6),
            ("http://[::1]80", BadIpv6),
            ("http://[v1.x]", BadIpv6),
            ("http://::1", NoHost),
            ("http://a:", BadPort),
            ("http://a:0", BadPort),
            ("http://a:65536", BadPort),
            ("http://a:+80", BadPort),
            ("http://a:8o", BadPort),
            ("http://a:1:2", BadPort),
            ("http://a/b c", BadPath),
            ("http://a/%", BadPath),
            ("http://a/%4", BadPath),
            ("http://a/%zz", BadPath),
            ("http://a/é", BadPath),
            ("http://a/\"", BadPath),
            ("http://a/\r\nX: y", BadPath),
            ("http://a/b/../c", DotSegment),
            ("http://a/.", DotSegment),
            (&long, TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(BackendUrl::parse(text), Err(*error), "{text:?}");
        }
    }
}
