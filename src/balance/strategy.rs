//! How a backend is picked, and what a strategy may ask of the request that one is picked for.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::Sessions;
pub use crate::config::{HashKey, Strategy};

/// What the operator chose. It stays the same over all snapshots of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How a backend is picked.
    pub strategy: Strategy,
    /// For hashing strategies: no backend gets more than this many times its fair share of what is in flight. None: no
    /// bound.
    pub balance_factor: Option<f64>,
    /// By what clients are bound to a backend, if they are.
    pub sessions: Sessions,
}

/// What a pick may ask of the request and its surroundings. Each is asked for only by a strategy that uses it, so the
/// others pay nothing for it.
pub trait Occasion {
    /// 64 random bits.
    fn random(&self) -> u64;

    /// Nanoseconds on a clock that all workers share and that never goes back.
    fn now_ns(&self) -> u64;

    /// The hash of the request's key, see [`hash`]; None when the request has none.
    fn key(&self, source: &HashKey) -> Option<u64>;
}

impl Policy {
    /// A strategy with everything else left at its default.
    pub const fn of(strategy: Strategy) -> Self {
        Self { strategy, balance_factor: None, sessions: Sessions::Off }
    }
}

/// `SipHash` 1-3 of a key. Without a secret, on purpose: every maypole with the same backends sends a key to the same
/// one, before and after a restart. Who makes up keys that meet on one backend is stopped by the balance factor.
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
