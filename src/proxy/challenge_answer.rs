//! What an authority is answered that asks over HTTP whether a name is ours (RFC 8555 §8.3).

use super::error_answer::{Fate, write_line};
use crate::http1::Version;

/// Such an answer.
pub(super) struct ChallengeAnswer<'a> {
    /// What is shown.
    pub(super) shown: &'a str,
    /// Now as an IMF-fixdate.
    pub(super) date: &'a [u8],
    /// What becomes of the connection.
    pub(super) fate: Fate,
    /// It answers HEAD: without its body.
    pub(super) head_only: bool,
}

impl ChallengeAnswer<'_> {
    /// Appends all of it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        write_line(out, &[b"HTTP/1.1 200 OK"]);
        write_line(out, &[b"Date: ", self.date]);
        write_line(out, &[b"Server: maypole"]);
        write_line(out, &[b"Cache-Control: no-store"]);
        write_line(out, &[b"Content-Type: application/octet-stream"]);
        write_line(out, &[b"Content-Length: ", number.format(self.shown.len()).as_bytes()]);
        match self.fate {
            Fate::Closes => write_line(out, &[b"Connection: close"]),
            Fate::Stays(Version::Http10) => write_line(out, &[b"Connection: keep-alive"]),
            Fate::Stays(Version::Http11) => {}
        }
        write_line(out, &[]);
        if !self.head_only {
            out.extend_from_slice(self.shown.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{Framing, HeadLimits, Method, Parsed, parse_response};

    #[test]
    fn an_answer_is_a_sound_response_with_what_is_shown() {
        let limits = HeadLimits { head_bytes: 4096, headers: 100, uri_bytes: 100 };
        for (fate, head_only) in
            [(Fate::Closes, false), (Fate::Stays(Version::Http10), false), (Fate::Stays(Version::Http11), true)]
        {
            let mut out = Vec::new();
            let date = b"Mon, 23 Nov 2026 00:00:00 GMT";
            ChallengeAnswer { shown: "token.print", date, fate, head_only }.write(&mut out);
            let parsed = parse_response(&out, Method::Get, &limits, |response| (response.status, response.framing));
            let Ok(Parsed::Complete { head_bytes, value: (200, Framing::Length(11)) }) = parsed else {
                panic!("{parsed:?}")
            };
            assert_eq!(&out[head_bytes..], if head_only { &b""[..] } else { b"token.print" });
        }
    }
}
