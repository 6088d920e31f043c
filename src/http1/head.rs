//! What request heads and response heads have in common: bounds, outcome, version, the table of fields, line ends.

use std::mem::MaybeUninit;

use httparse::Header;

/// The two versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// The bounds of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The whole head with its blank line (and empty lines before it), in bytes.
    pub head_bytes: usize,
    /// Fields.
    pub headers: usize,
    /// The request target, in bytes.
    pub uri_bytes: usize,
}

/// What has become of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// So far so good; more bytes must come.
    Partial,
    /// It is whole.
    Complete {
        /// The bytes it took, empty lines before a request included; a body begins behind them.
        head_bytes: usize,
        /// What was made of it.
        value: T,
    },
}

impl<T> Parsed<T> {
    /// The same with another value.
    pub(super) fn map<R>(self, with: impl FnOnce(T) -> R) -> Parsed<R> {
        match self {
            Self::Partial => Parsed::Partial,
            Self::Complete { head_bytes, value } => Parsed::Complete { head_bytes, value: with(value) },
        }
    }
}

/// Room for one field of a head while it is parsed; written before it is read.
pub(super) type Slot<'b> = MaybeUninit<Header<'b>>;

/// Fields for which there is room on the stack: 2 KiB. A browser sends fewer than 20; a head with more than these gets
/// a table from the heap, so that a generous `limits.headers` doesn't cost every coroutine its stack.
pub(super) const SLOTS_ON_STACK: usize = 64;

/// A table on the stack.
pub(super) fn slots<'b>() -> [Slot<'b>; SLOTS_ON_STACK] {
    [const { MaybeUninit::uninit() }; SLOTS_ON_STACK]
}

/// A table on the heap for up to `fields` fields, or for as many as fit into `head_bytes`, whichever is less.
pub(super) fn slots_on_heap<'b>(fields: usize, head_bytes: usize) -> Vec<Slot<'b>> {
    const SHORTEST_LINE: usize = b"X:\n".len();
    let fields = fields.min(head_bytes / SHORTEST_LINE);
    std::iter::repeat_with(MaybeUninit::uninit).take(fields).collect()
}

/// Does one of the first `lines` lines end in LF without CR? httparse takes such lines, RFC 9112 §2.2 lets a recipient
/// do so too, and since peers differ in it, it is a way to hide a field from one of them.
pub(super) fn has_bare_lf(bytes: &[u8], lines: usize) -> bool {
    memchr::memchr_iter(b'\n', bytes)
        .take(lines)
        .any(|at| at.checked_sub(1).and_then(|before| bytes.get(before)) != Some(&b'\r'))
}

/// Does the line before the one that begins at `at` end in CRLF? For lines that httparse has split, which end in CRLF
/// or LF.
pub(super) fn follows_crlf(head: &[u8], at: usize) -> bool {
    at.checked_sub(2).and_then(|cr| head.get(cr)) == Some(&b'\r')
}

/// What is wrong with a line that [`has_bare_lf`] or [`follows_crlf`] found.
pub(super) const BARE_LF: &str = "line ends in LF without CR";

/// What httparse found wrong, in a few words.
pub(super) fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "bad field name or folded line",
        httparse::Error::HeaderValue => "bad byte in a field value",
        httparse::Error::NewLine => "bad line end",
        httparse::Error::Status => "bad status line",
        httparse::Error::Token => "bad request line",
        httparse::Error::TooManyHeaders => "too many header fields",
        httparse::Error::Version => "bad HTTP version",
    }
}

/// How a whole head ends.
pub(super) const HEAD_END: &[u8] = b"\r\n\r\n";
