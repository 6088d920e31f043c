//! How a message's body is delimited (RFC 9112 §6.3), and the fields that say so.

use super::field::list;

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
pub(super) fn repeated_content_length(value: &[u8]) -> Option<u64> {
    let mut lengths = list(value).map(content_length);
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

/// What one `Transfer-Encoding` line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// `chunked` and nothing else.
    Chunked,
    /// Other codings, then `chunked` once, as the last: sound, but not spoken here.
    UnknownThenChunked,
    /// Anything else: nobody can tell where the body ends.
    Faulty,
}

/// Reads one `Transfer-Encoding` line (RFC 9112 §6.1).
pub(super) fn coding(value: &[u8]) -> Coding {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Coding::Chunked;
    }
    let chunked = list(value).filter(|c| c.eq_ignore_ascii_case(b"chunked")).count();
    let last_is_chunked = list(value).last().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let tokens = list(value).all(|c| !c.is_empty() && c.iter().copied().all(super::field::is_token));
    if tokens && last_is_chunked && chunked == 1 { Coding::UnknownThenChunked } else { Coding::Faulty }
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
