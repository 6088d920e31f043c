//! Sessions that are bound to a backend: by what they name it.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

/// By what the backends of a pool are known to sessions. The same over all snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// No session is bound to a backend.
    #[default]
    Off,
    /// By their ids, for sessions that never leave the process.
    ById,
    /// By their names, hashed with this key, for sessions that clients keep.
    ByName(MarkKey),
}

/// By what a session names its backend.
///
/// One that clients see is 96 bits of a keyed hash, in 16 characters of base64url (RFC 4648 §5). It is kept as those
/// characters, so that what a client sends is compared without being decoded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(u128);

/// What the marks of backends' names are hashed with. With it one can tell which name a mark belongs to.
#[derive(Clone, PartialEq, Eq)]
pub struct MarkKey([u64; 2]);

impl Mark {
    /// Characters of a mark that clients see.
    pub const BYTES: usize = 16;
    /// No backend's.
    pub const NONE: Self = Self(0);

    /// That of a backend that is known by its id, which is at least 1.
    pub const fn of_id(id: u64) -> Self {
        Self(id as u128)
    }

    /// That of a backend that is known by its name.
    pub fn of_name(name: &str, key: &MarkKey) -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = key.hash(name.as_bytes());
        let character = |nth: usize| ALPHABET[(bits >> (6 * nth)) as usize % ALPHABET.len()];
        Self::from_text(&std::array::from_fn(character))
    }

    /// What a client sent, which may be no backend's.
    pub const fn from_text(text: &[u8; Self::BYTES]) -> Self {
        Self(u128::from_be_bytes(*text))
    }

    pub(super) const fn halves(self) -> [u64; 2] {
        [(self.0 >> 64) as u64, self.0 as u64]
    }

    pub(super) const fn from_halves([upper, lower]: [u64; 2]) -> Self {
        Self((upper as u128) << 64 | lower as u128)
    }

    /// What a client is to send.
    pub const fn text(self) -> [u8; Self::BYTES] {
        self.0.to_be_bytes()
    }
}

impl Sessions {
    /// By what they name the backend with this id and name, if any does.
    pub fn mark(&self, id: u64, name: &str) -> Mark {
        match self {
            Self::Off | Self::ById => Mark::of_id(id),
            Self::ByName(key) => Mark::of_name(name, key),
        }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mark({})", self.text().escape_ascii())
    }
}

impl MarkKey {
    /// A key of 128 bits, which should be random.
    pub const fn new(bits: [u64; 2]) -> Self {
        Self(bits)
    }

    /// The key that a secret text stands for, the same in every maypole.
    pub fn of_secret(secret: &[u8]) -> Self {
        let bits = Self([0, 0]).hash(secret);
        Self([bits as u64, (bits >> 64) as u64])
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_keys(self.0[0], self.0[1]);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }
}

/// It is a secret.
impl fmt::Debug for MarkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MarkKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_same_for_the_same_name_and_key_and_for_no_other() {
        let key = MarkKey::of_secret(b"one");
        let mark = Mark::of_name("a:80", &key);
        assert_eq!(mark, Mark::of_name("a:80", &MarkKey::of_secret(b"one")));
        assert_ne!(mark, Mark::of_name("a:81", &key));
        assert_ne!(mark, Mark::of_name("a:80", &MarkKey::of_secret(b"two")));
        assert_ne!(mark, Mark::of_name("a:80", &MarkKey::new([1, 2])));
    }

    /// Another value here would take every client of a pool to another backend at an upgrade.
    #[test]
    fn marks_stay_what_they_were_in_earlier_versions() {
        let mark = Mark::of_name("10.0.0.1:8080", &MarkKey::of_secret(b"a secret of sixteen bytes"));
        assert_eq!(&mark.text(), b"h-d8GTRIklYlruVW");
    }

    #[test]
    fn a_mark_goes_through_a_cookie_unchanged() {
        for n in 0..1_000 {
            let mark = Mark::of_name(&n.to_string(), &MarkKey::new([n, 7]));
            let text = mark.text();
            assert!(text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)), "{mark:?}");
            assert_eq!(Mark::from_text(&text), mark);
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", MarkKey::of_secret(b"secret")), "MarkKey(…)");
    }
}
