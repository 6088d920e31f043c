//! A response's head. A backend is trusted no more than a client: what could be read in two ways is refused.

use std::fmt;

use httparse::{Header, ParserConfig, Status};

use super::field::{self, Known};
use super::framing::{BodyFields, Framing, FramingError};
use super::head::{self, BARE_LF, HEAD_END, HeadLimits, Parsed, Slot, Version};
use super::hop::{self, ConnectionOptions, HopFields, HopTrailers};
use super::method::Method;

/// A whole and sound response head.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
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
    /// `Content-Length` as it was sent, whether or not a body follows: in answers to HEAD and in 304 it says how long
    /// one would be.
    pub content_length: Option<u64>,
    /// May the connection be used again (RFC 9112 §9.3)? False when the body ends with it, and when a status that has
    /// no body was sent with fields that announce one, since then one may follow.
    pub keep_alive: bool,
    /// The protocol of a 101, or those that a 426 asks for: only when `Connection` names `upgrade`, from a single field
    /// that doesn't speak of h2c.
    pub upgrade: Option<&'b [u8]>,
    /// It has a `Date`.
    pub has_date: bool,
    /// How long its backend says that it keeps the connection without a request (`Keep-Alive: timeout=`), in seconds.
    pub kept_seconds: Option<u32>,
    /// It asks for a login by NTLM or Negotiate, or is a step of one: they authenticate the connection (RFC 4559 §6).
    pub binds_connection: bool,
    /// `Connection` names fields, see [`Self::connection_options`].
    pub(super) names_fields: bool,
    /// From the status line to the blank line, that included.
    pub(super) head: &'b [u8],
}

impl<'b> Response<'_, 'b> {
    /// 1xx but for 101: others follow before the final one (RFC 9110 §15.2).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Takes in which fields `Connection` names, so that they go no further (RFC 9110 §7.6.1); `options` is empty before.
    // Not returned, since that would copy their room, which is unwritten for nearly all heads.
    #[inline]
    pub fn connection_options(&self, options: &mut ConnectionOptions<'b>) {
        if self.names_fields {
            options.collect(self.fields);
        }
    }

    /// Which of them are to go no further as trailers either.
    #[inline]
    pub fn hop_trailers(&self) -> Option<HopTrailers> {
        HopTrailers::of_head(self.names_fields, self.framing, self.fields)
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
// Not inlined: the table of fields would lie in the stack of a coroutine that waits for what this returns.
#[inline(never)]
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
    let mut slots = head::slots_on_heap(limits.headers, limits.head_bytes.min(bytes.len()));
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
            let version = if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 };
            let status = parsed.code.unwrap_or_default();
            let value = check(method, version, status, parsed.headers, &text[..head_bytes])?;
            return Ok(Parsed::Complete { head_bytes, value });
        }
        Ok(Status::Partial) => None,
        Err(error) => Some(error),
    };
    let lines_seen = match refused {
        Some(httparse::Error::TooManyHeaders) => slots_len + 2,
        _ => usize::MAX,
    };
    if head::has_bare_lf(text, lines_seen) {
        return malformed(BARE_LF);
    }
    match refused {
        None if text.len() < limits.head_bytes => Ok(Parsed::Partial),
        None => Err(ResponseError::HeadTooLarge),
        Some(httparse::Error::TooManyHeaders) => Err(ResponseError::TooManyFields),
        Some(error) => malformed(head::reason(error)),
    }
}

/// The rules beyond the grammar, on a head that httparse has taken; one pass over the fields.
fn check<'h, 'b>(
    method: Method,
    version: Version,
    status: u16,
    fields: &'h [Header<'b>],
    head: &'b [u8],
) -> Result<Response<'h, 'b>, ResponseError> {
    let malformed = |reason| Err(ResponseError::Malformed(reason));
    let mut body = BodyFields::default();
    let mut hop = HopFields::default();
    let mut has_date = false;
    let mut binds_connection = false;
    let mut kept_seconds: Option<u32> = None;
    for field in fields {
        if !head::follows_crlf(head, field::offset_in(head, field.name.as_bytes())) {
            return malformed(BARE_LF);
        }
        let value = field.value;
        match Known::of(field.name) {
            Known::ContentLength => {
                body.add_repeatable_length(value).map_err(ResponseError::Malformed)?;
            }
            Known::TransferEncoding => body.add_coding(value),
            Known::Connection => hop.add_connection(value).map_err(ResponseError::Malformed)?,
            Known::Upgrade => hop.add_upgrade(value),
            Known::Date => has_date = true,
            // `Keep-Alive`, by its length.
            Known::HopByHop if field.name.len() == 10 => {
                kept_seconds = hop::kept_seconds(value).into_iter().chain(kept_seconds).min();
            }
            Known::Authentication => binds_connection |= field::binds_connection(value),
            _ => {}
        }
    }
    if !head.ends_with(HEAD_END) {
        return malformed(BARE_LF);
    }
    let announced = match body.framing(version) {
        Ok(framing) => framing,
        Err(FramingError::Malformed(reason)) => return malformed(reason),
        Err(FramingError::UnknownCoding) => return malformed("transfer coding not spoken"),
    };
    let never_has_body = matches!(status, 100..200 | 204);
    let framing = if never_has_body || status == 304 || method == Method::Head {
        Framing::None
    } else {
        announced.unwrap_or(Framing::UntilClose)
    };
    let leaves_doubt = never_has_body && announced.is_some_and(Framing::has_body) || framing == Framing::UntilClose;
    Ok(Response {
        version,
        status,
        reason: reason(head),
        fields,
        framing,
        content_length: body.length(),
        keep_alive: hop.keep_alive(version) && !leaves_doubt,
        upgrade: hop.upgrade().filter(|_| matches!(status, 101 | 426)),
        has_date,
        kept_seconds,
        binds_connection,
        names_fields: hop.names_fields(),
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

#[cfg(test)]
mod tests;
