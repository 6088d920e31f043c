//! The hash of keys, by which strategies and tables of clients tell requests apart.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// `SipHash` 1-3 of a key. Without a secret, on purpose: every maypole with the same backends sends a key to the same
/// one, before and after a restart. A client that makes up keys which meet on one backend is stopped by the balance factor.
pub fn hash(key: &[u8]) -> u64 {
    hash_with(0, key)
}

/// The same of bytes that come in pieces.
pub fn hash_pieces<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    pieces.into_iter().for_each(|piece| hasher.write(piece));
    hasher.finish()
}

/// One of many independent hashes of the same bytes.
pub(super) fn hash_with(number: u64, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(number, 0);
    hasher.write(bytes);
    hasher.finish()
}
