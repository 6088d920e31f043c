//! A request's id: what its backend (`X-Request-Id`), the log, and whoever asks have in common.

use std::fmt;

/// Longer ones, which only a trusted peer can send, are cut here for the log; the backend gets them whole.
const BYTES_MAX: usize = 64;

/// An id, held without a piece of memory of its own.
#[derive(Clone, Copy)]
pub(super) struct RequestId {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl RequestId {
    /// 128 random bits in hexadecimal.
    pub(super) fn random(bits: u128) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = [0; BYTES_MAX];
        for (n, digit) in bytes[..32].iter_mut().enumerate() {
            *digit = DIGITS[(bits >> (4 * n)) as usize & 15];
        }
        Self { bytes, length: 32 }
    }

    /// The one that was sent.
    pub(super) fn sent(id: &[u8]) -> Self {
        let mut bytes = [0; BYTES_MAX];
        let length = id.len().min(BYTES_MAX);
        bytes[..length].copy_from_slice(&id[..length]);
        Self { bytes, length }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// For the log: on one line, whatever was sent.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_shows_all_its_bits() {
        let id = RequestId::random(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef).to_string();
        assert_eq!(id, "fedcba98765432100123456789abcdef".chars().rev().collect::<String>());
    }

    #[test]
    fn what_was_sent_is_shown_on_one_line_and_cut() {
        assert_eq!(RequestId::sent(b"a\tb\xe9").to_string(), "a\\tb\\xe9");
        assert_eq!(RequestId::sent(&[b'a'; 100]).to_string(), "a".repeat(BYTES_MAX));
    }
}
