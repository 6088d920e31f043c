//! The chunked coding, both ways (RFC 9112 §7.1).
//!
//! ```text
//!            ┌──────────────── CRLF ◄─── data of that length ◄──┐
//!            ▼                                                  │
//! size line: digits ─► extensions ─► CRLF ── size above 0 ──────┘
//!                                     └───── size 0 ─► trailer lines ─► empty line: end
//! ```
//!
//! Backends may put white space at the end of a size line, as some do and every peer takes from them; clients may not.

use std::fmt;

use super::field::{is_token, is_value};
use super::hop::{ConnectionOptions, HopTrailers};
use super::names::FieldNames;
use super::trailers;

/// What ends the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The size line of the last chunk; trailer lines and an empty line follow.
pub const LAST_CHUNK: &[u8] = b"0\r\n";

/// The size line of a chunk of `len` bytes (not 0, that would be the last one), written into `out`.
pub fn chunk_header(len: usize, out: &mut [u8; 18]) -> &[u8] {
    let mut at = out.len() - CHUNK_END.len();
    out[at..].copy_from_slice(CHUNK_END);
    let mut left = len;
    loop {
        at -= 1;
        out[at] = b"0123456789abcdef"[left & 0xf];
        left >>= 4;
        if left == 0 {
            return &out[at..];
        }
    }
}

/// What [`Decoder::decode`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are used up: all of them, unless the body ended.
    pub consumed: usize,
    /// Payload bytes that now stand at the front of the buffer.
    pub body: usize,
    /// The body and its trailers are complete; bytes from `consumed` on belong to the next message.
    pub end: bool,
}

/// Why a chunked body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A size line that isn't hex digits, 15 at most behind zeros, and extensions.
    BadSize,
    /// An extension that breaks the grammar.
    BadExtension,
    /// Far more bytes of size lines than of data.
    TooMuchOverhead,
    /// The data isn't followed by CRLF.
    BadChunkEnd,
    /// A trailer line that is no field.
    BadTrailer,
    /// The trailer section is longer than allowed.
    TrailersTooLarge,
}

impl ChunkError {
    /// What is wrong, in a few words of ASCII.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadSize => "bad chunk size",
            Self::BadExtension => "bad chunk extension",
            Self::TooMuchOverhead => "too many bytes in chunk size lines",
            Self::BadChunkEnd => "chunk data not followed by CRLF",
            Self::BadTrailer => "bad trailer field",
            Self::TrailersTooLarge => "trailers too large",
        }
    }
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for ChunkError {}

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the zeros before the digits of a size that say something (RFC 9112 §7.1 allows any number).
    Zeros,
    /// In these digits, of which there have been so many; at 0 the size line begins.
    Size(u8),
    /// In white space before a `;`.
    BeforeExtension,
    /// Behind `;`, before the name.
    BeforeName,
    /// In an extension's name.
    Name,
    /// In white space behind the name.
    AfterName,
    /// Behind `=`, before the value.
    BeforeValue,
    /// In a value that is a token.
    Token,
    /// In a value that is a quoted string.
    Quoted,
    /// Behind a backslash in it.
    Escaped,
    /// Behind its closing quote.
    AfterQuoted,
    /// Behind the CR of a size line.
    SizeLf,
    /// In the data, of which so many bytes are to come (not 0).
    Data(u64),
    /// Behind the data.
    DataCr,
    /// Behind its CR.
    DataLf,
    /// At the start of a trailer line.
    LineStart,
    /// In a trailer's name.
    TrailerName,
    /// Behind the colon, before the value.
    TrailerSpace,
    /// In its value.
    TrailerValue,
    /// Behind the CR of a trailer line.
    TrailerLf,
    /// Behind the CR of the empty line.
    EndLf,
    /// Behind it all.
    End,
}

/// Size-line bytes that may pile up beyond a fair share of the data, and so the longest size line; an endless
/// extension, or a long one on each small chunk, would have the proxy work for nothing.
const OVERHEAD_MAX: u64 = 4096;

/// Bytes of size line that every chunk may have for nothing: digits, CRLF, and a little more.
const OVERHEAD_FREE: u64 = 20;

/// Digits of a size without the zeros before them: the largest, 2^60 - 1, can be counted with and never overflows a sum.
const DIGITS_MAX: u8 = 15;

/// Takes a chunked body apart as it comes. Strict: lines end in CRLF, sizes are hex digits alone, extensions follow
/// their grammar (and are dropped), trailers are fields.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// White space may stand at the end of a size line.
    takes_padding: bool,
    size: u64,
    overhead: u64,
    trailers: Vec<u8>,
    line_start: usize,
    name_bytes: usize,
    trailer_bytes_left: usize,
}

impl Decoder {
    /// At the start of a body whose trailer section may take up to `trailer_bytes_max` bytes.
    pub fn new(trailer_bytes_max: usize) -> Self {
        Self {
            state: State::Size(0),
            takes_padding: false,
            size: 0,
            overhead: 0,
            trailers: Vec::new(),
            line_start: 0,
            name_bytes: 0,
            trailer_bytes_left: trailer_bytes_max,
        }
    }

    /// The same for the body of a backend's answer: size lines may be padded with white space.
    #[must_use]
    pub fn padded(self) -> Self {
        Self { takes_padding: true, ..self }
    }

    /// Decodes `buf` in place: moves the payload found in it to its front. Splitting the input anywhere gives the same
    /// payload, trailers, end and error.
    ///
    /// # Errors
    /// At the first byte that can't be right. The payload before it is not to be relied on, nor the decoder to be used
    /// again.
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<Decoded, ChunkError> {
        let mut consumed = 0;
        let mut body = 0;
        while self.state != State::End && consumed < buf.len() {
            if let State::Data(left) = self.state {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len() - consumed);
                if body != consumed {
                    buf.copy_within(consumed..consumed + here, body);
                }
                consumed += here;
                body += here;
                let left = left - here as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
            } else {
                self.state = self.step(buf[consumed])?;
                consumed += 1;
            }
        }
        Ok(Decoded { consumed, body, end: self.state == State::End })
    }

    /// The body and its trailers are complete.
    pub fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// The trailer fields that may be passed on, as lines `Name: value\r\n`, without the empty line that ends them.
    /// Complete once the body has ended. Those that would frame, route, authorise or control the message are left out
    /// (RFC 9110 §6.5.1).
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Drops those trailers that the sender couldn't set in a head either, and those that `Connection` names.
    pub fn withhold(&mut self, names: Option<&FieldNames>, hop: Option<&HopTrailers>) {
        let hop = hop.map_or_else(ConnectionOptions::none, HopTrailers::names);
        let is_withheld = |name: &str| hop.name(name) || names.is_some_and(|names| names.contains(name));
        let may_pass = |line: &&[u8]| {
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
            !str::from_utf8(name).is_ok_and(is_withheld)
        };
        let kept = self.trailers.split_inclusive(|&byte| byte == b'\n').filter(may_pass);
        self.trailers = kept.collect::<Vec<_>>().concat();
    }

    /// The state behind `byte`, which isn't data.
    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::Data(_) | State::DataCr | State::DataLf | State::End => self.step_chunk_end(byte),
            State::LineStart
            | State::TrailerName
            | State::TrailerSpace
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => self.step_trailer(byte),
            _ => {
                self.overhead += 1;
                if self.overhead > OVERHEAD_MAX {
                    return Err(ChunkError::TooMuchOverhead);
                }
                self.step_size_line(byte)
            }
        }
    }

    fn step_size_line(&mut self, byte: u8) -> Result<State, ChunkError> {
        match (self.state, byte) {
            (State::Size(0) | State::Zeros, b'0') => {
                self.size = 0;
                Ok(State::Zeros)
            }
            (State::Size(DIGITS_MAX), _) if byte.is_ascii_hexdigit() => Err(ChunkError::BadSize),
            (State::Size(_) | State::Zeros, _) if byte.is_ascii_hexdigit() => {
                let digits = if let State::Size(digits) = self.state { digits } else { 0 };
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let so_far = if digits == 0 { 0 } else { self.size };
                self.size = (so_far << 4) | u64::from(digit);
                Ok(State::Size(digits + 1))
            }
            (State::Size(1..) | State::Zeros, b'\r') => Ok(State::SizeLf),
            (State::Size(1..) | State::Zeros, b';') => Ok(State::BeforeName),
            (State::Size(1..) | State::Zeros, b' ' | b'\t') => Ok(State::BeforeExtension),
            (State::BeforeExtension | State::AfterName, b'\r') if self.takes_padding => Ok(State::SizeLf),
            (State::SizeLf, b'\n') => Ok(self.end_size_line()),
            (State::Size(_) | State::Zeros | State::SizeLf, _) => Err(ChunkError::BadSize),
            (state, _) => step_extension(state, byte).ok_or(ChunkError::BadExtension),
        }
    }

    fn end_size_line(&mut self) -> State {
        let fair_share = OVERHEAD_FREE + 2 * self.size;
        self.overhead = self.overhead.saturating_sub(fair_share);
        if self.size == 0 { State::LineStart } else { State::Data(self.size) }
    }

    fn step_chunk_end(&self, byte: u8) -> Result<State, ChunkError> {
        match (self.state, byte) {
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0)),
            _ => Err(ChunkError::BadChunkEnd),
        }
    }

    fn step_trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.trailer_bytes_left = self.trailer_bytes_left.checked_sub(1).ok_or(ChunkError::TrailersTooLarge)?;
        match (self.state, byte) {
            (State::LineStart, b'\r') => Ok(State::EndLf),
            (State::EndLf, b'\n') => Ok(State::End),
            (State::LineStart | State::TrailerName, _) if is_token(byte) => {
                self.trailers.push(byte);
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => {
                self.name_bytes = self.trailers.len() - self.line_start;
                self.trailers.extend_from_slice(b": ");
                Ok(State::TrailerSpace)
            }
            (State::TrailerSpace, b' ' | b'\t') => Ok(State::TrailerSpace),
            (State::TrailerSpace | State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerSpace | State::TrailerValue, _) if is_value(byte) => {
                self.trailers.push(byte);
                Ok(State::TrailerValue)
            }
            (State::TrailerLf, b'\n') => {
                self.end_trailer_line();
                Ok(State::LineStart)
            }
            _ => Err(ChunkError::BadTrailer),
        }
    }

    /// Keeps the line that was collected, or drops it.
    fn end_trailer_line(&mut self) {
        let value_start = self.line_start + self.name_bytes + 2;
        let name = &self.trailers[self.line_start..self.line_start + self.name_bytes];
        if trailers::may_pass(name) {
            let value = self.trailers[value_start..].trim_ascii_end().len();
            self.trailers.truncate(value_start + value);
            self.trailers.extend_from_slice(b"\r\n");
        } else {
            self.trailers.truncate(self.line_start);
        }
        self.line_start = self.trailers.len();
    }
}

/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 §7.1.1).
fn step_extension(state: State, byte: u8) -> Option<State> {
    use State::{
        AfterName, AfterQuoted, BeforeExtension, BeforeName, BeforeValue, Escaped, Name, Quoted, SizeLf, Token,
    };
    let next = match (state, byte) {
        (Quoted, b'"') => AfterQuoted,
        (Quoted, b'\\') => Escaped,
        (Quoted | Escaped, _) if is_value(byte) => Quoted,

        (BeforeName | BeforeValue, b' ' | b'\t') => state,
        (Name | AfterName, b' ' | b'\t') => AfterName,
        (BeforeExtension | Token | AfterQuoted, b' ' | b'\t') => BeforeExtension,

        (Name | Token | AfterQuoted, b'\r') => SizeLf,
        (BeforeExtension | Name | AfterName | Token | AfterQuoted, b';') => BeforeName,
        (Name | AfterName, b'=') => BeforeValue,

        (BeforeName | Name, _) if is_token(byte) => Name,
        (BeforeValue, b'"') => Quoted,
        (BeforeValue | Token, _) if is_token(byte) => Token,
        _ => return None,
    };
    Some(next)
}

#[cfg(test)]
mod tests;
