//! A request's id: what its backend (`X-Request-Id`), the log, and a client that asks for help have in common.

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
    /// Of a request that has none.
    pub(super) const NONE: Self = Self { bytes: [0; BYTES_MAX], length: 0 };

    /// 128 random bits in hexadecimal.
    #[inline]
    pub(super) fn random(bits: [u64; 2]) -> Self {
        let mut bytes = [0; BYTES_MAX];
        let halves = bits.into_iter().flat_map(|bits| [bits as u32, (bits >> 32) as u32]);
        for (digits, bits) in bytes.chunks_exact_mut(8).zip(halves) {
            digits.copy_from_slice(&hexadecimal(bits));
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

/// Eight digits, the lowest first; all at once, each in a byte of one word.
#[inline]
fn hexadecimal(bits: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Each half of what is left goes where it has room for itself: 32 bits to 64, four of them in each byte.
    let bits = u64::from(bits);
    let bits = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    let bits = (bits | bits << 8) & 0x00ff_00ff_00ff_00ff;
    let digits = (bits | bits << 4) & (0xf * ONES);
    // 1 in each byte whose digit is a letter.
    let letters = ((digits + 6 * ONES) >> 4) & ONES;
    (digits + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'0' - 10)).to_le_bytes()
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
        let id = RequestId::random([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]).to_string();
        assert_eq!(id, "fedcba98765432100123456789abcdef".chars().rev().collect::<String>());
    }

    #[test]
    fn what_was_sent_is_shown_on_one_line_and_cut() {
        assert_eq!(RequestId::sent(b"a\tb\xe9").to_string(), "a\\tb\\xe9");
        assert_eq!(RequestId::sent(&[b'a'; 100]).to_string(), "a".repeat(BYTES_MAX));
    }
}
