//! A response's head. A backend is trusted no more than a client: what could be read in two ways is refused.

use std::fmt;

use httparse::{Header, ParserConfig, Status};

use super::field::{self, ConnectionOptions, Known};
use super::framing::{self, Coding, Framing};
use super::head::{self, HEAD_END, HeadLimits, Parsed, Slot, Version};
use super::request::Method;

/// A whole and sound response head.
#[derive(Clone, Copy, Debug)]
pub struct Response<'h, 'b> {
    /// The backend's version.
    pub version: Version,
    /// 100–999.
    pub status: u16,
    /// As it was sent; may be empty, and may hold obs-text.
    pub reason: &'b [u8],
    /// Every field, in order; values without spaces around them.
    pub fields: &'h [Header<'b>],
    /// How its body is delimited; [`Framing::None`] for the answer to HEAD, and for 1xx, 204 and 304.
    pub framing: Framing,
    /// `Content-Length` as it was sent, whether or not a body follows: in answers to HEAD and in 304 it says how long one
    /// would be.
    pub content_length: Option<u64>,
    /// May the connection be used again (RFC 9112 §9.3)? False when the body ends with it, and when a status that has no
    /// body was sent with fields that announce one, since then one may follow.
    pub keep_alive: bool,
    /// The protocol of a 101, or those that a 426 asks for: only when `Connection` names `upgrade`, from a single field
    /// that doesn't speak of h2c.
    pub upgrade: Option<&'b [u8]>,
    /// It has a `Date`.
    pub has_date: bool,
    /// `Connection` names fields, see [`Self::connection_names`].
    pub(super) names_fields: bool,
    /// From the status line to the blank line, that included.
    pub(super) head: &'b [u8],
}

impl<'b> Response<'_, 'b> {
    /// 1xx but for 101: others follow before the final one (RFC 9110 §15.2).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Does `Connection` name this field, so that it goes no further (RFC 9110 §7.6.1)?
    pub fn connection_names(&self, name: &str) -> bool {
        self.names_fields && field::connection_names(self.fields, name)
    }

    /// Appends to `out`, as they were received, the lines of the fields that `keep` wants.
    pub fn copy_lines(&self, out: &mut Vec<u8>, keep: impl FnMut(Known, &Header<'b>) -> bool) {
        field::copy_lines(out, self.head, self.fields, keep);
    }
}

/// Why a response head is refused. Its connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// It breaks the grammar or contradicts itself.
    Malformed(&'static str),
    /// It is longer than [`HeadLimits::head_bytes`].
    HeadTooLarge,
    /// It has more fields than [`HeadLimits::headers`].
    TooManyFields,
}

impl ResponseError {
    /// What is wrong, in a few words of ASCII.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(reason) => reason,
            Self::HeadTooLarge => "response head too large",
            Self::TooManyFields => "too many header fields",
        }
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for ResponseError {}

/// Reads the response head that `bytes` begin with and calls `with` on it once it is whole. `method` is that of the
/// request it answers. As with requests, what can't become sound is refused at once, and how the bytes were split
/// makes no difference. Allocates nothing for a head of up to 64 fields.
///
/// # Errors
/// See [`ResponseError`]; RFC 9112 §4–§6 say what is refused.
pub fn parse_response<'b, R>(
    bytes: &'b [u8],
    method: Method,
    limits: &HeadLimits,
    with: impl FnOnce(&Response<'_, 'b>) -> R,
) -> Result<Parsed<R>, ResponseError> {
    let mut slots = head::slots();
    let fields = limits.headers.min(slots.len());
    match read(bytes, method, limits, &mut slots[..fields]) {
        Err(ResponseError::TooManyFields) if limits.headers > fields => {}
        outcome => return Ok(outcome?.map(|response| with(&response))),
    }
    let mut slots = head::slots_on_heap(limits.headers);
    Ok(read(bytes, method, limits, &mut slots)?.map(|response| with(&response)))
}

fn read<'h, 'b>(
    bytes: &'b [u8],
    method: Method,
    limits: &HeadLimits,
    slots: &'h mut [Slot<'b>],
) -> Result<Parsed<Response<'h, 'b>>, ResponseError> {
    let malformed = |reason| Err(ResponseError::Malformed(reason));
    // What lies beyond the limit must make no difference, or the outcome would depend on how much has come already.
    let text = &bytes[..bytes.len().min(limits.head_bytes)];
    // httparse skips empty lines here too; nothing in RFC 9112 lets a response begin with one.
    if matches!(text, [b'\r' | b'\n', ..]) {
        return malformed("empty line instead of a response");
    }
    let slots_len = slots.len();
    let mut parsed = httparse::Response::new(&mut []);
    let outcome = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, text, slots);
    if parsed.code.is_some_and(|status| status < 100) {
        return malformed("status below 100");
    }
    let refused = match outcome {
        Ok(Status::Complete(head_bytes)) => {
            let response = check(method, parsed, &text[..head_bytes])?;
            return Ok(Parsed::Complete { head_bytes, value: response });
        }
        Ok(Status::Partial) => None,
        Err(error) => Some(error),
    };

    let lines_seen = match refused {
        Some(httparse::Error::TooManyHeaders) => slots_len + 2,
        _ => usize::MAX,
    };
    if head::has_bare_lf(text, lines_seen) {
        return malformed("line ends in LF without CR");
    }
    match refused {
        None if text.len() < limits.head_bytes => Ok(Parsed::Partial),
        None => Err(ResponseError::HeadTooLarge),
        Some(httparse::Error::TooManyHeaders) => Err(ResponseError::TooManyFields),
        Some(httparse::Error::Version) => malformed("bad HTTP version"),
        Some(httparse::Error::Status) => malformed("bad status line"),
        Some(httparse::Error::HeaderName) => malformed("bad field name or folded line"),
        Some(httparse::Error::HeaderValue) => malformed("bad byte in a field value"),
        Some(_) => malformed("bad line end"),
    }
}

/// The rules beyond the grammar, on a head that httparse has taken; one pass over the fields.
fn check<'h, 'b>(
    method: Method,
    parsed: httparse::Response<'h, 'b>,
    head: &'b [u8],
) -> Result<Response<'h, 'b>, ResponseError> {
    let malformed = |reason| Err(ResponseError::Malformed(reason));
    let version = if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let status = parsed.code.unwrap_or_default();
    let mut length = None;
    let mut coding = None;
    let mut connection = ConnectionOptions::default();
    let mut upgrade = None;
    let mut upgrades = 0;
    let mut has_date = false;

    let fields: &'h [Header<'b>] = parsed.headers;
    for field in fields {
        if !head::follows_crlf(head, field::offset_in(head, field.name.as_bytes())) {
            return malformed("line ends in LF without CR");
        }
        match Known::of(field.name) {
            Known::ContentLength => {
                let bytes = framing::repeated_content_length(field.value);
                if bytes.is_none() || (length.is_some() && length != bytes) {
                    return malformed("bad Content-Length");
                }
                length = bytes;
            }
            Known::TransferEncoding => {
                let line = framing::coding(field.value);
                coding = Some(if coding.is_none() { line } else { Coding::Faulty });
            }
            Known::Connection => {
                if !connection.add(field.value) {
                    return malformed("too many options in Connection");
                }
            }
            Known::Upgrade => {
                upgrades += 1;
                upgrade = Some(field.value);
            }
            Known::Date => has_date = true,
            _ => {}
        }
    }
    if !head.ends_with(HEAD_END) {
        return malformed("line ends in LF without CR");
    }
    let announced = match (coding, length) {
        (None, None) => Framing::UntilClose,
        (None, Some(bytes)) => Framing::Length(bytes),
        (Some(_), Some(_)) => return malformed("both Content-Length and Transfer-Encoding"),
        (Some(_), None) if version == Version::Http10 => {
            return malformed("Transfer-Encoding in HTTP/1.0");
        }
        (Some(Coding::Chunked), None) => Framing::Chunked,
        (Some(_), None) => return malformed("transfer coding not spoken"),
    };
    let never_has_body = matches!(status, 100..200 | 204);
    let framing = if never_has_body || status == 304 || method == Method::Head { Framing::None } else { announced };
    let may_go_on = match framing {
        Framing::UntilClose => false,
        Framing::None if never_has_body => {
            matches!(announced, Framing::UntilClose | Framing::Length(0))
        }
        _ => true,
    };
    let asked_to_stay = version == Version::Http11 || connection.keep_alive;
    let upgrade = upgrade.filter(|value: &&[u8]| {
        matches!(status, 101 | 426)
            && connection.upgrade
            && upgrades == 1
            && !value.is_empty()
            && !field::offers_h2c(value)
    });
    Ok(Response {
        version,
        status,
        reason: reason(head),
        fields,
        framing,
        content_length: length,
        keep_alive: may_go_on && asked_to_stay && !connection.close,
        upgrade,
        has_date,
        names_fields: connection.names_fields,
        head,
    })
}

/// The reason phrase of a sound head. Taken from the bytes, since httparse leaves one with obs-text out.
fn reason(head: &[u8]) -> &[u8] {
    const BEFORE_REASON: usize = "HTTP/1.1 200".len();
    let line_end = memchr::memchr(b'\r', head).unwrap_or(BEFORE_REASON);
    match head.get(BEFORE_REASON..line_end) {
        Some([b' ', reason @ ..]) => reason,
        _ => b"",
    }
}
