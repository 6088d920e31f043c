//! How a message's body is delimited (RFC 9112 §6.3), and the fields that say so.

use super::field::{is_token, list};
use super::head::Version;

/// How a body is delimited. Both a length and chunks at once can't be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body, and none was announced.
    None,
    /// Exactly this many bytes; below 2^63.
    Length(u64),
    /// Chunks and a trailer section.
    Chunked,
    /// Everything up to the end of the connection; only in responses.
    UntilClose,
}

impl Framing {
    /// False when not one byte of a body follows.
    pub fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// What all framing fields of a head say together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodyFields {
    length: Option<u64>,
    coding: Option<Coding>,
}

/// Why the framing fields of a head don't say where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramingError {
    /// They break the grammar or contradict each other.
    Malformed(&'static str),
    /// They are sound, but speak of a coding besides `chunked`.
    UnknownCoding,
}

impl BodyFields {
    /// Adds the only `Content-Length` line of a request: a second one is refused even if it is equal.
    pub(super) fn add_single_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.length.is_some() {
            return Err("more than one Content-Length");
        }
        self.length = Some(content_length(value).ok_or("bad Content-Length")?);
        Ok(())
    }

    /// Adds a `Content-Length` line of a response: backends do repeat it, and equal ones leave no doubt
    /// (RFC 9110 §8.6).
    pub(super) fn add_repeatable_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        let length = repeated_content_length(value).ok_or("bad Content-Length")?;
        if self.length.is_some_and(|before| before != length) {
            return Err("different Content-Lengths");
        }
        self.length = Some(length);
        Ok(())
    }

    /// Adds a `Transfer-Encoding` line.
    pub(super) fn add_coding(&mut self, value: &[u8]) {
        // A second line could only put codings behind a final `chunked`, or have one ahead that isn't spoken.
        self.coding = Some(if self.coding.is_none() { coding(value) } else { Coding::Faulty });
    }

    /// The length that was said.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The framing that the fields call for; None when there are none (RFC 9112 §6.3).
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, FramingError> {
        match (self.coding, self.length) {
            (None, None) => Ok(None),
            (None, Some(bytes)) => Ok(Some(Framing::Length(bytes))),
            (Some(_), Some(_)) => Err(FramingError::Malformed("both Content-Length and Transfer-Encoding")),
            (Some(_), None) if version == Version::Http10 => {
                Err(FramingError::Malformed("Transfer-Encoding in HTTP/1.0"))
            }
            (Some(Coding::Chunked), None) => Ok(Some(Framing::Chunked)),
            (Some(Coding::UnknownThenChunked), None) => Err(FramingError::UnknownCoding),
            (Some(Coding::Faulty), None) => Err(FramingError::Malformed("bad Transfer-Encoding")),
        }
    }
}

/// What one `Transfer-Encoding` line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// `chunked` and nothing else.
    Chunked,
    /// Other codings, then `chunked` once, as the last: sound, but not spoken here.
    UnknownThenChunked,
    /// Anything else: where the body ends can't be told.
    Faulty,
}

/// Reads one `Transfer-Encoding` line (RFC 9112 §6.1).
fn coding(value: &[u8]) -> Coding {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Coding::Chunked;
    }
    let chunked = list(value).filter(|c| c.eq_ignore_ascii_case(b"chunked")).count();
    let last_is_chunked = list(value).last().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let tokens = list(value).all(|c| !c.is_empty() && c.iter().copied().all(is_token));
    if tokens && last_is_chunked && chunked == 1 { Coding::UnknownThenChunked } else { Coding::Faulty }
}

/// The largest length that is believed: sums of a few of them don't overflow, and it fits a signed 64-bit number, which
/// is what most peers count in.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// A `Content-Length` value: digits alone, at most 2^63 - 1 (RFC 9110 §8.6).
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let mut length = 0u64;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return None;
        }
        length = length.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (length <= LENGTH_MAX).then_some(length)
}

/// A `Content-Length` value that may have been merged from equal lines, `5, 5` (RFC 9110 §8.6).
fn repeated_content_length(value: &[u8]) -> Option<u64> {
    let mut lengths = list(value).map(content_length);
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_below_two_to_the_63() {
        for (value, want) in [
            (&b"0"[..], Some(0)),
            (b"5", Some(5)),
            (b"007", Some(7)),
            (b"9223372036854775807", Some(i64::MAX as u64)),
            (b"9223372036854775808", None),
            (b"18446744073709551615", None),
            (b"99999999999999999999999", None),
            (b"", None),
            (b"+5", None),
            (b"-1", None),
            (b"5x", None),
            (b"0x5", None),
            (b"5 5", None),
            (b"5.0", None),
            (b"5,5", None),
            (b"1_0", None),
            (b"\x0b5", None),
            (b"\xef\xbc\x95", None),
        ] {
            assert_eq!(content_length(value), want, "{value:?}");
        }
    }

    #[test]
    fn a_repeated_length_counts_when_all_are_equal() {
        for (value, want) in [
            (&b"5"[..], Some(5)),
            (b"5, 5", Some(5)),
            (b"5,05", Some(5)),
            (b"5, 6", None),
            (b"5,", None),
            (b",5", None),
            (b"", None),
        ] {
            assert_eq!(repeated_content_length(value), want, "{value:?}");
        }
    }

    #[test]
    fn only_chunked_alone_is_spoken() {
        for (value, want) in [
            (&b"chunked"[..], Coding::Chunked),
            (b"CHUNKED", Coding::Chunked),
            (b"gzip, chunked", Coding::UnknownThenChunked),
            (b"xchunked", Coding::Faulty),
            (b"chunked, chunked", Coding::Faulty),
            (b"chunked, identity", Coding::Faulty),
            (b"identity", Coding::Faulty),
            (b"chunked;x=1", Coding::Faulty),
            (b"\x0bchunked", Coding::Faulty),
            (b"\"chunked\"", Coding::Faulty),
            (b",chunked", Coding::Faulty),
            (b"chunked,", Coding::Faulty),
            (b",chunked,gzip", Coding::Faulty),
            (b"chun ked", Coding::Faulty),
            (b"a b, chunked", Coding::Faulty),
            (b"", Coding::Faulty),
        ] {
            assert_eq!(coding(value), want, "{value:?}");
        }
    }
}
