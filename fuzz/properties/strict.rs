//! A second reader of heads, written from the grammar of RFC 9112 alone and sharing nothing with the one under test. It
//! takes a whole head or none, and is as strict as the grammar lets a recipient be.

/// A head by its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'b> {
    /// The first line.
    pub start: &'b [u8],
    /// Names and values, these without white space around them.
    pub fields: Vec<(&'b [u8], &'b [u8])>,
    /// How long it is, the empty line included.
    pub bytes: usize,
}

/// How a body is delimited, as the fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Unsaid,
    Length(u64),
    Chunked,
}

impl<'b> Head<'b> {
    /// Reads `start-line CRLF *( field-line CRLF ) CRLF` at the front of `bytes` (RFC 9112 §2.1).
    pub fn read(bytes: &'b [u8]) -> Option<Self> {
        let mut at = 0;
        let start = line(bytes, &mut at)?;
        let mut fields = Vec::new();
        loop {
            let line = line(bytes, &mut at)?;
            if line.is_empty() {
                return Some(Self { start, fields, bytes: at });
            }
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if !is_token(name) || !line[colon + 1..].iter().copied().all(is_value) {
                return None;
            }
            fields.push((name, value));
        }
    }

    /// `method SP request-target SP HTTP-version` (RFC 9112 §3).
    pub fn request_line(&self) -> Option<[&'b [u8]; 3]> {
        let mut parts = self.start.split(|&byte| byte == b' ');
        let [method, target, version] = [parts.next()?, parts.next()?, parts.next()?];
        let sound = parts.next().is_none() && is_token(method) && target.iter().all(|&byte| byte > b' ' && byte < 0x7f);
        (sound && !target.is_empty() && is_version(version)).then_some([method, target, version])
    }

    /// `HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112 §4); the space behind the code may be missing.
    pub fn status_line(&self) -> Option<(u16, &'b [u8])> {
        let (version, rest) = self.start.split_at_checked("HTTP/1.1 ".len())?;
        let (code, reason) = rest.split_at_checked(3)?;
        let sound = is_version(version.strip_suffix(b" ")?) && code.iter().all(u8::is_ascii_digit);
        let reason = if reason.is_empty() { reason } else { reason.strip_prefix(b" ")? };
        let status = std::str::from_utf8(code).ok()?.parse().ok()?;
        (sound && reason.iter().copied().all(is_value)).then_some((status, reason))
    }

    /// The values of the fields of this name.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + 's {
        let named = self.fields.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|&(_, value)| value)
    }

    /// The only value of this name; None when there is none or more than one.
    pub fn only(&self, name: &str) -> Option<&'b [u8]> {
        let mut values = self.all(name);
        let only = values.next()?;
        values.next().is_none().then_some(only)
    }

    /// The elements of the comma-separated fields of this name, in lower case, empty ones left out.
    pub fn list(&self, name: &str) -> Vec<Vec<u8>> {
        let elements = self.all(name).flat_map(|value| value.split(|&byte| byte == b','));
        elements
            .map(|element| element.trim_ascii().to_ascii_lowercase())
            .filter(|element| !element.is_empty())
            .collect()
    }

    /// What `Content-Length` and `Transfer-Encoding` say together. None when any two readers could differ in it: more
    /// than one of them, a coding besides `chunked`, a length that isn't digits alone.
    pub fn framing(&self) -> Option<Framing> {
        let lengths: Vec<_> = self.all("content-length").collect();
        let codings: Vec<_> = self.all("transfer-encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => Some(Framing::Unsaid),
            ([], [coding]) => coding.eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked),
            ([digits], []) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                std::str::from_utf8(digits).ok()?.parse().ok().map(Framing::Length)
            }
            _ => None,
        }
    }
}

/// The line at `at`, without its CRLF, if it is whole and holds no other CR or LF.
fn line<'b>(bytes: &'b [u8], at: &mut usize) -> Option<&'b [u8]> {
    let rest = &bytes[*at..];
    let end = rest.iter().position(|&byte| byte == b'\r' || byte == b'\n')?;
    rest[end..].starts_with(b"\r\n").then(|| {
        *at += end + 2;
        &rest[..end]
    })
}

fn is_version(text: &[u8]) -> bool {
    text == b"HTTP/1.0" || text == b"HTTP/1.1"
}

/// A token (RFC 9110 §5.6.2).
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A byte that may stand in a field's value, or in a reason phrase (RFC 9110 §5.5).
pub fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
