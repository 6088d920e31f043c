//! The answers that the proxy gives itself when an exchange fails.

use super::error::Failure;
use super::throttle::Allowance;
use crate::http1::{RequestError, Version, list, reason_phrase};

/// An answer of the proxy's own that says what went wrong.
pub struct OwnAnswer<'a> {
    /// What did.
    pub failure: Failure,
    /// What the request's `Accept` chose.
    pub representation: Representation,
    /// Now as an IMF-fixdate.
    pub date: &'a [u8],
    /// What the client has left of its rate, if that is limited.
    pub allowance: Option<Allowance<'a>>,
    /// What `Strict-Transport-Security` says, if anything.
    pub hsts: Option<&'a [u8]>,
    /// What becomes of the client's connection, which a failure that must close does in any case.
    pub fate: Fate,
    /// It answers HEAD: without its body.
    pub head_only: bool,
}

impl OwnAnswer<'_> {
    /// Appends all of it; nothing for a failure without a status.
    pub fn write(&self, out: &mut Vec<u8>) {
        let view = self.failure.view();
        let Some(status) = view.status else { return };
        let title = reason_phrase(status);
        let (media_type, body) = self.representation.body(status, title, view.detail);
        let mut number = itoa::Buffer::new();
        write_line(out, &[b"HTTP/1.1 ", number.format(status).as_bytes(), b" ", title.as_bytes()]);
        write_line(out, &[b"Date: ", self.date]);
        write_line(out, &[b"Server: maypole"]);
        write_line(
            out,
            &[
                b"Proxy-Status: maypole; error=",
                view.proxy_status.as_bytes(),
                b"; details=\"",
                view.detail.as_bytes(),
                b"\"",
            ],
        );
        if let Some(seconds) = view.retry_after_seconds {
            write_line(out, &[b"Retry-After: ", number.format(seconds).as_bytes()]);
        }
        if let Some(allowance) = self.allowance {
            allowance.write(out);
        }
        if let Some(hsts) = self.hsts {
            write_line(out, &[b"Strict-Transport-Security: ", hsts]);
        }
        // Some of these codes may be cached for a while by default (RFC 9110 §15.1), and none should.
        write_line(out, &[b"Cache-Control: no-store"]);
        write_line(out, &[b"Content-Type: ", media_type.as_bytes()]);
        write_line(out, &[b"Content-Length: ", number.format(body.len()).as_bytes()]);
        match self.fate {
            Fate::Closes => write_line(out, &[b"Connection: close"]),
            Fate::Stays(_) if view.must_close => write_line(out, &[b"Connection: close"]),
            Fate::Stays(Version::Http10) => write_line(out, &[b"Connection: keep-alive"]),
            Fate::Stays(Version::Http11) => {}
        }
        write_line(out, &[]);
        if !self.head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// What a client is answered that speaks HTTP in clear where a handshake is wanted; `date` is an IMF-fixdate.
pub fn in_clear(date: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let failure = Failure::BadRequest(RequestError::Malformed("this port speaks TLS: the URL begins with https://"));
    let representation = Representation::Text;
    let answer =
        OwnAnswer { failure, representation, date, allowance: None, hsts: None, fate: Fate::Closes, head_only: false };
    answer.write(&mut out);
    out
}

/// What becomes of a client's connection behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ends.
    Closes,
    /// It serves the next request of a client of this version; one of HTTP/1.0 has to be told (RFC 9112 §9.3).
    Stays(Version),
}

pub(super) fn write_line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
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
    /// The one of highest weight in `Accept`, of which there may be several lines (RFC 9110 §12.5.1); the first among equals;
    /// text when none is named.
    pub fn of<'a>(accept: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut best = (Self::Text, 0);
        for range in accept.into_iter().flat_map(list) {
            let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let Some(media) = Self::of_media_type(parts.next().unwrap_or_default()) else { continue };
            let weight = parts.find_map(thousandths).unwrap_or(1000);
            if weight > best.1 {
                best = (media, weight);
            }
        }
        best.0
    }

    fn of_media_type(range: &[u8]) -> Option<Self> {
        let is_one_of = |types: &[&[u8]]| types.iter().any(|media| range.eq_ignore_ascii_case(media));
        if is_one_of(&[b"text/html", b"application/xhtml+xml"]) {
            Some(Self::Html)
        } else if is_one_of(&[b"application/json", b"application/problem+json"]) {
            Some(Self::Problem)
        } else {
            is_one_of(&[b"text/plain", b"text/*", b"*/*"]).then_some(Self::Text)
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{Framing, HeadLimits, Method, Parsed, parse_response};

    const DATE: &[u8] = b"Mon, 23 Nov 2026 00:00:00 GMT";
    const HTML: &[u8] = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    fn answer(failure: Failure, accept: Option<&[u8]>, close: bool, head_only: bool) -> String {
        let mut out = Vec::new();
        let fate = if close { Fate::Closes } else { Fate::Stays(Version::Http11) };
        let representation = Representation::of(accept);
        OwnAnswer { failure, representation, date: DATE, allowance: None, hsts: None, fate, head_only }.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_is_a_sound_response_whose_length_is_its_body_s() {
        let limits = HeadLimits { head_bytes: 4096, headers: 100, uri_bytes: 100 };
        for accept in [None, Some(HTML), Some(&b"application/json"[..])] {
            let text = answer(Failure::ConnectRefused, accept, false, false);
            let parsed = parse_response(text.as_bytes(), Method::Get, &limits, |response| {
                assert_eq!(response.status, 502);
                assert!(response.has_date && response.keep_alive);
                response.framing
            });
            let Ok(Parsed::Complete { head_bytes, value: Framing::Length(bytes) }) = parsed else {
                panic!("{parsed:?}")
            };
            assert_eq!(text.len() - head_bytes, usize::try_from(bytes).unwrap());
        }
    }

    #[test]
    fn an_answer_says_who_failed_and_why() {
        let text = answer(Failure::NoBackend, None, false, false);
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\nDate: Mon, 23 Nov 2026"));
        assert!(text.contains("\r\nServer: maypole\r\n"));
        assert!(
            text.contains(
                "\r\nProxy-Status: maypole; error=destination_unavailable; details=\"no healthy backend\"\r\n"
            )
        );
        assert!(text.contains("\r\nRetry-After: 5\r\n"));
        assert!(!text.contains("Connection:"));
    }

    #[test]
    fn a_connection_is_closed_when_asked_or_when_it_must() {
        assert!(answer(Failure::NoBackend, None, true, false).contains("\r\nConnection: close\r\n"));
        let malformed = Failure::BadRequest(RequestError::Malformed("bad Host"));
        assert!(answer(malformed, None, false, false).contains("\r\nConnection: close\r\n"));
    }

    #[test]
    fn head_gets_the_head_alone() {
        let whole = answer(Failure::BodyTooLarge, None, true, false);
        let head = answer(Failure::BodyTooLarge, None, true, true);
        assert!(head.ends_with("\r\n\r\n") && whole.starts_with(&head) && whole.len() > head.len());
    }

    #[test]
    fn nothing_is_said_where_nothing_can_be() {
        assert_eq!(answer(Failure::ClientGone, None, true, false), "");
    }

    #[test]
    fn accept_chooses_the_media_type() {
        for (accept, want) in [
            (None, Representation::Text),
            (Some(&b"*/*"[..]), Representation::Text),
            (Some(HTML), Representation::Html),
            (Some(b"application/json"), Representation::Problem),
            (Some(b"application/json, text/plain, */*"), Representation::Problem),
            (Some(b"Application/Problem+JSON"), Representation::Problem),
            (Some(b"text/html;q=0.5, application/json;q=0.7"), Representation::Problem),
            (Some(b"text/html;q=1, application/json;q=0.9"), Representation::Html),
            (Some(b"text/html;q=0.9, application/json;q=1.0"), Representation::Problem),
            (Some(b"text/html;q=0, */*;q=0.1"), Representation::Text),
            (Some(b"text/html;level=1;q=0.9, text/plain;q=0.95"), Representation::Text),
            (Some(b"image/png"), Representation::Text),
            (Some(b"\xff;;q=,=,q=9.999"), Representation::Text),
        ] {
            assert_eq!(Representation::of(accept), want, "{accept:?}");
        }
        assert_eq!(Representation::of([&b"text/plain;q=0.5"[..], b"", b"text/html"]), Representation::Html);
    }
}
