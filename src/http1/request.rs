//! A request's head: from bytes to something that can no longer be misread.

use std::fmt;

use httparse::{Header, ParserConfig, Status};

use super::field::{self, Known};
use super::framing::{self, BodyFields, Framing, FramingError};
use super::head::{self, BARE_LF, HEAD_END, HeadLimits, Parsed, Slot, Version};
use super::hop::{ConnectionOptions, HopFields, HopTrailers};
use super::method::Method;
use super::target::{Target, is_host};

/// A whole and sound request head.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that have nothing to do with each other")]
pub struct Request<'h, 'b> {
    /// What is asked for.
    pub method: Method,
    /// The method as it was sent.
    pub method_bytes: &'b [u8],
    /// What it is asked of.
    pub target: Target<'b>,
    /// The client's version.
    pub version: Version,
    /// Every field, in order; values without spaces around them.
    pub fields: &'h [Header<'b>],
    /// The host that is meant: that of an absolute-form target, else `Host` (RFC 9112 §3.2.2). Only an HTTP/1.0
    /// request may have none.
    pub host: Option<&'b [u8]>,
    /// How its body is delimited; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Does the client want to keep its connection (RFC 9112 §9.3)?
    pub keep_alive: bool,
    /// Does it wait for `100 Continue` before it sends its body? Only in HTTP/1.1, and only when a body is to come
    /// (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// The protocols it offers to switch to. Only in HTTP/1.1, when `Connection` names `upgrade`, from a single field
    /// that doesn't offer h2c.
    pub upgrade: Option<&'b [u8]>,
    /// `Max-Forwards`, where it counts: in OPTIONS and TRACE (RFC 9110 §7.6.2). At 0 the request is to be answered
    /// here.
    pub max_forwards: Option<u64>,
    /// It came through proxies that say so.
    pub has_via: bool,
    /// It logs in by NTLM or Negotiate, which authenticate the connection and not the request (RFC 4559 §6).
    pub binds_connection: bool,
    /// `Connection` names fields, see [`Self::connection_options`].
    pub(super) names_fields: bool,
    /// From the method to the blank line, that included.
    pub(super) head: &'b [u8],
}

impl<'b> Request<'_, 'b> {
    /// The value of the first field of this name (in any case).
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        let mut fields = self.fields.iter();
        fields.find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The values of all fields of this name (in any case), in order.
    pub fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + 's {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
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

/// Why a request head is refused. After any of these it isn't known where the next request would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// It breaks the grammar or contradicts itself: 400.
    Malformed(&'static str),
    /// Its target is longer than [`HeadLimits::uri_bytes`]: 414.
    UriTooLong,
    /// It is longer than [`HeadLimits::head_bytes`]: 431.
    HeadTooLarge,
    /// It has more fields than [`HeadLimits::headers`]: 431.
    TooManyFields,
    /// It is neither HTTP/1.0 nor HTTP/1.1: 505.
    UnsupportedVersion,
    /// It is sound, but asks for what isn't done here: 501.
    NotImplemented(&'static str),
}

impl RequestError {
    /// What the request is answered with.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::UriTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::UnsupportedVersion => 505,
            Self::NotImplemented(_) => 501,
        }
    }

    /// What is wrong, in a few words of ASCII.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(reason) | Self::NotImplemented(reason) => reason,
            Self::UriTooLong => "request target too long",
            Self::HeadTooLarge => "request head too large",
            Self::TooManyFields => "too many header fields",
            Self::UnsupportedVersion => "HTTP version not supported",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for RequestError {}

/// Reads the request head that `bytes` begin with and calls `with` on it once it is whole. A head that can't become a
/// sound one is refused as soon as that shows, however many bytes are still to come; how the bytes were split on their
/// way makes no difference to the outcome. Allocates nothing for a head of up to 64 fields.
///
/// # Errors
/// See [`RequestError`]; RFC 9112 §2–§3 and §5–§6 say what is refused.
// Not inlined: the table of fields would lie in the stack of a coroutine that waits for what this returns.
#[inline(never)]
pub fn parse_request<'b, R>(
    bytes: &'b [u8],
    limits: &HeadLimits,
    with: impl FnOnce(&Request<'_, 'b>) -> R,
) -> Result<Parsed<R>, RequestError> {
    let mut slots = head::slots();
    let fields = limits.headers.min(slots.len());
    match read(bytes, limits, &mut slots[..fields]) {
        Err(RequestError::TooManyFields) if limits.headers > fields => {}
        outcome => return Ok(outcome?.map(|request| with(&request))),
    }
    let mut slots = head::slots_on_heap(limits.headers, limits.head_bytes.min(bytes.len()));
    Ok(read(bytes, limits, &mut slots)?.map(|request| with(&request)))
}

/// Empty lines before a request that are tolerated (RFC 9112 §2.2 asks for one).
const EMPTY_LINES_MAX: usize = 4;

fn read<'h, 'b>(
    bytes: &'b [u8],
    limits: &HeadLimits,
    slots: &'h mut [Slot<'b>],
) -> Result<Parsed<Request<'h, 'b>>, RequestError> {
    // What lies beyond the limit must make no difference, or the outcome would depend on how much has come already.
    let within = &bytes[..bytes.len().min(limits.head_bytes)];
    let skipped = empty_lines_bytes(within)?;
    let text = &within[skipped..];
    let slots_len = slots.len();

    let mut parsed = httparse::Request::new(&mut []);
    let outcome = ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, text, slots);

    // First the request line, then the fields, as a reader of single bytes would meet them.
    let line = request_line(&parsed, text, limits)?;
    let refused = match (outcome, line) {
        (Ok(Status::Complete(head_bytes)), Some(line)) => {
            let value = check(line, parsed.headers, &text[..head_bytes])?;
            return Ok(Parsed::Complete { head_bytes: skipped + head_bytes, value });
        }
        (Ok(_), _) => None,
        (Err(httparse::Error::Version), _) => version_error(text, parsed.path)?,
        (Err(error), _) => Some(error),
    };
    let lines_seen = match refused {
        Some(httparse::Error::TooManyHeaders) => slots_len + 2,
        _ => usize::MAX,
    };
    if head::has_bare_lf(text, lines_seen) {
        return Err(RequestError::Malformed(BARE_LF));
    }
    Err(match refused {
        None if within.len() < limits.head_bytes => return Ok(Parsed::Partial),
        None => RequestError::HeadTooLarge,
        Some(httparse::Error::TooManyHeaders) => RequestError::TooManyFields,
        Some(httparse::Error::Token) if parsed.method.is_some() => RequestError::Malformed("bad request target"),
        Some(httparse::Error::Token) => RequestError::Malformed("bad method"),
        Some(error) => RequestError::Malformed(head::reason(error)),
    })
}

#[derive(Clone, Copy)]
struct RequestLine<'b> {
    method: Method,
    method_bytes: &'b [u8],
    target: Target<'b>,
    version: Version,
}

/// Checks what httparse has found of the request line; None when it didn't come to the target's end.
fn request_line<'b>(
    parsed: &httparse::Request<'_, 'b>,
    text: &'b [u8],
    limits: &HeadLimits,
) -> Result<Option<RequestLine<'b>>, RequestError> {
    let Some(method_bytes) = parsed.method.map(str::as_bytes) else {
        return Ok(None);
    };
    let method = Method::of(method_bytes);
    if method == Method::Connect {
        return Err(RequestError::NotImplemented("CONNECT is not served"));
    }
    let target_bytes = parsed.path.map_or_else(|| unfinished_target_bytes(text), str::len);
    if target_bytes > limits.uri_bytes {
        return Err(RequestError::UriTooLong);
    }
    let Some(target) = parsed.path else {
        return Ok(None);
    };
    let target = Target::parse(method, target.as_bytes()).map_err(RequestError::Malformed)?;
    let version = if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 };
    Ok(Some(RequestLine { method, method_bytes, target, version }))
}

/// How many bytes of empty lines come before the request.
fn empty_lines_bytes(bytes: &[u8]) -> Result<usize, RequestError> {
    let mut skipped = 0;
    while let Some(rest) = bytes[skipped..].strip_prefix(b"\r\n") {
        skipped = bytes.len() - rest.len();
        if skipped > 2 * EMPTY_LINES_MAX {
            return Err(RequestError::Malformed("empty lines instead of a request"));
        }
    }
    match bytes[skipped..] {
        [b'\n', ..] => Err(RequestError::Malformed(BARE_LF)),
        _ => Ok(skipped),
    }
}

/// The length so far of a target that didn't come to its end, or to a good one.
fn unfinished_target_bytes(text: &[u8]) -> usize {
    let Some(space) = memchr::memchr(b' ', text) else {
        return 0;
    };
    text[space + 1..].iter().take_while(|&&byte| byte > b' ' && byte != 0x7f).count()
}

/// What to make of a version that httparse doesn't know: it also refuses the beginning of one. None: wait for the rest.
fn version_error(text: &[u8], path: Option<&str>) -> Result<Option<httparse::Error>, RequestError> {
    const PATTERN: &[u8; 8] = b"HTTP/1.1";
    let garbled = RequestError::Malformed("bad HTTP version");
    let path = path.ok_or(garbled)?;
    let start = field::offset_in(text, path.as_bytes()) + path.len() + 1;
    let version = text.get(start..).ok_or(garbled)?;
    let fits = |(&byte, &wanted): (&u8, &u8)| match wanted {
        b'1' => byte.is_ascii_digit(),
        _ => byte == wanted,
    };
    if !version.iter().zip(PATTERN).all(fits) {
        return Err(garbled);
    }
    if version.len() < PATTERN.len() { Ok(None) } else { Err(RequestError::UnsupportedVersion) }
}

/// The rules beyond the grammar, on a head that httparse has taken; one pass over the fields.
fn check<'h, 'b>(
    line: RequestLine<'b>,
    fields: &'h [Header<'b>],
    head: &'b [u8],
) -> Result<Request<'h, 'b>, RequestError> {
    let RequestLine { method, method_bytes, target, version } = line;
    let malformed = |reason| Err(RequestError::Malformed(reason));
    let mut host = None;
    let mut body = BodyFields::default();
    let mut hop = HopFields::default();
    let mut expects_continue = false;
    let mut max_forwards: Option<u64> = None;
    let mut has_via = false;
    let mut binds_connection = false;

    for field in fields {
        if !head::follows_crlf(head, field::offset_in(head, field.name.as_bytes())) {
            return malformed(BARE_LF);
        }
        let value = field.value;
        match Known::of(field.name) {
            Known::Host if host.is_some() => return malformed("more than one Host"),
            Known::Host => host = Some(value),
            Known::ContentLength => {
                body.add_single_length(value).map_err(RequestError::Malformed)?;
            }
            Known::TransferEncoding => body.add_coding(value),
            Known::Connection => hop.add_connection(value).map_err(RequestError::Malformed)?,
            Known::Upgrade => hop.add_upgrade(value),
            Known::Authentication => binds_connection |= field::binds_connection(value),
            Known::Expect => {
                expects_continue |= field::list(value).any(|one| one.eq_ignore_ascii_case(b"100-continue"));
            }
            // Of several the least counts, so that none makes it go further than another allows.
            Known::MaxForwards if matches!(method, Method::Options | Method::Trace) => {
                let hops = framing::content_length(value);
                max_forwards = max_forwards.map_or(hops, |least| Some(hops.map_or(least, |hops| hops.min(least))));
            }
            Known::Via => has_via = true,
            _ => {}
        }
    }
    if !head.ends_with(HEAD_END) {
        return malformed(BARE_LF);
    }
    match host {
        None if version == Version::Http11 => return malformed("no Host"),
        Some(host) if !is_host(host) => return malformed("bad Host"),
        _ => {}
    }
    if let Target::Absolute { authority, .. } = target {
        host = Some(authority);
    }
    let framing = match body.framing(version) {
        Ok(framing) => framing.unwrap_or(Framing::None),
        Err(FramingError::Malformed(reason)) => return malformed(reason),
        Err(FramingError::UnknownCoding) => {
            return Err(RequestError::NotImplemented("transfer coding not spoken"));
        }
    };
    let is_11 = version == Version::Http11;
    Ok(Request {
        method,
        method_bytes,
        target,
        version,
        fields,
        host,
        framing,
        keep_alive: hop.keep_alive(version),
        expect_continue: expects_continue && is_11 && framing.has_body(),
        upgrade: hop.upgrade().filter(|_| is_11),
        max_forwards,
        has_via,
        binds_connection,
        names_fields: hop.names_fields(),
        head,
    })
}

#[cfg(test)]
mod tests;
