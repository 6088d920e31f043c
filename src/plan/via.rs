//! The name by which this proxy is known in `Via` (RFC 9110 §7.6.3): it is written for the backends, and looked for, so
//! that a request that comes by again and again ends.

use crate::http1::{Request, Version};

/// A pseudonym, ready to be written.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    /// The line for a request of HTTP/1.0, and for one of HTTP/1.1: the version is that in which it was received.
    lines: [Box<[u8]>; 2],
}

impl Via {
    /// A proxy of this name, which is a token.
    pub fn new(pseudonym: &str) -> Self {
        let line = |version| format!("Via: {version} {pseudonym}\r\n").into_bytes().into_boxed_slice();
        Self { lines: ["1.0", "1.1"].map(line), pseudonym: pseudonym.to_owned() }
    }

    /// The line to add to a request.
    #[inline]
    pub fn line(&self, received: Version) -> &[u8] {
        &self.lines[usize::from(received == Version::Http11)]
    }

    /// How often the request has come by, as its `Via` lines say.
    pub fn visits(&self, request: &Request<'_, '_>) -> usize {
        if !request.has_via {
            return 0;
        }
        let own =
            |hop: &&[u8]| received_by(hop).is_some_and(|name| name.eq_ignore_ascii_case(self.pseudonym.as_bytes()));
        request.values("via").flat_map(hops).filter(own).count()
    }
}

/// What stands between the commas of a `Via` line that aren't in a comment. One that never ends is none: else a client that begins
/// one would hide all that a later proxy adds to the same line.
fn hops(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut scan = Comments::default();
    let ends = line.iter().fold(true, |_, &byte| scan.is_outside(byte));
    let mut scan = Comments::default();
    line.split(move |&byte| (scan.is_outside(byte) || !ends) && byte == b',')
}

/// A walk through comments, which nest, and in which a backslash takes the meaning from what follows (RFC 9110 §5.6.5).
#[derive(Default)]
struct Comments {
    depth: usize,
    escaped: bool,
}

impl Comments {
    /// Whether the next byte, or what follows it if it is a bracket, is outside of any comment.
    fn is_outside(&mut self, byte: u8) -> bool {
        let escapes = self.depth > 0 && !self.escaped && byte == b'\\';
        match byte {
            _ if std::mem::replace(&mut self.escaped, escapes) => {}
            b'(' => self.depth += 1,
            b')' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0
    }
}

/// `[ protocol-name "/" ] protocol-version RWS received-by [ RWS comment ]`
fn received_by(hop: &[u8]) -> Option<&[u8]> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    hop.split(is_space).filter(|word| !word.is_empty()).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadLimits, Parsed, parse_request};

    #[test]
    fn visits_are_counted_by_name_over_all_lines_and_not_in_comments() {
        let limits = HeadLimits { head_bytes: 4096, headers: 20, uri_bytes: 1000 };
        for (lines, want) in [
            ("", 0),
            ("Via: 1.1 maypole\r\n", 1),
            ("via: 1.0 fred, HTTP/1.1 MayPole (x), 1.1 maypole\r\nX: 1\r\nVIA:1.1\tmaypole\r\n", 3),
            ("Via: 1.1 maypole:80, 1.1 maypoles, maypole, 1.1, , 1.1 x maypole\r\n", 0),
            ("Via: 1.1 fred (a, 1.1 maypole), 1.1 fred (\\), 1.1 maypole (, 1.1 maypole)) , 1.1 maypole\r\n", 1),
            ("Via: 1.1 fred ), 1.1 maypole\r\n", 1),
            ("Via: 1.1 fred (, 1.1 maypole, 1.1 maypole\r\nVia: 1.1 maypole\r\n", 3),
            ("X-Via: 1.1 maypole\r\n", 0),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let counted = parse_request(head.as_bytes(), &limits, |request| Via::new("maypole").visits(request));
            assert!(matches!(counted, Ok(Parsed::Complete { value, .. }) if value == want), "{lines}: {counted:?}");
        }
    }
}
