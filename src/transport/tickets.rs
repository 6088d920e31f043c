//! Session tickets: what a server would have to remember of a session, sealed for the client to keep. Whoever has the key that
//! sealed one goes on with its session, whichever worker or process that is.
//!
//! A ticket is the name of its key, a seed, and what AES-256-GCM makes of the session with a key that HKDF makes of the secret,
//! the seed and what clients are held to ([`Tickets`]): no two tickets have the same one, so that chance never repeats a nonce,
//! and no ticket outlives a change of who is let in, since a session that is resumed isn't verified anew. For the same reason
//! none outlives the certificate of its client.

use std::fmt;
use std::iter;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ContentType;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::cipher::{AeadKey, InboundOpaqueMessage, Iv, OutboundChunks, OutboundPlainMessage};
use rustls::server::ProducesTickets;
use rustls::{ProtocolVersion, Tls13CipherSuite};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// How long one of the process's own keys seals. It opens for as long again.
const ROTATION: Duration = Duration::from_secs(24 * 60 * 60);
/// What clients are told of how long a ticket is good for.
const LIFETIME_SECONDS: u32 = 24 * 60 * 60;
/// Of the process's own keys, those that are kept.
const OWN_KEYS: usize = 2;
/// The same of a file's; the others are too old.
const FILE_KEYS_MAX: usize = 8;
/// A client's chain is part of its session. What is larger goes without a ticket.
const SESSION_BYTES_MAX: usize = 16 * 1024;

const NAME_BYTES: usize = 16;
const SEED_BYTES: usize = 32;
/// Tells these keys from those of other uses of the same secret.
const LABEL: &[u8] = b"maypole session ticket";

/// A key: 16 bytes by which tickets name it, and 64 that are secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey([u8; Self::BYTES]);

/// Why a file's bytes are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketKeysError {
    /// There are none.
    Empty,
    /// So many bytes aren't a number of whole keys.
    Length(usize),
    /// Two keys have the same name.
    Twice,
}

/// The keys of now.
pub struct TicketKeys(ArcSwap<Ring>);

struct Ring {
    /// The first one seals, each opens.
    keys: Vec<TicketKey>,
    /// They are the process's own, since then; None: a file's.
    own_since: Option<SystemTime>,
}

/// The tickets of a server that holds its clients to something: those that were sealed under anything else open no more.
#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) keys: Arc<TicketKeys>,
    pub(super) bound_to: Box<[u8]>,
}

impl TicketKey {
    /// How long one is.
    pub const BYTES: usize = 80;

    /// The keys in a file's bytes, one behind the other, the newest first.
    ///
    /// # Errors
    /// It holds none, or not whole ones.
    pub fn read(bytes: &[u8]) -> Result<Vec<Self>, TicketKeysError> {
        let (keys, rest) = bytes.as_chunks::<{ Self::BYTES }>();
        if !rest.is_empty() {
            return Err(TicketKeysError::Length(bytes.len()));
        }
        let keys: Vec<_> = keys.iter().take(FILE_KEYS_MAX).map(|key| Self(*key)).collect();
        let is_twice = |(nth, key): (usize, &Self)| keys[..nth].iter().any(|other| other.name() == key.name());
        match keys.iter().enumerate().any(is_twice) {
            _ if keys.is_empty() => Err(TicketKeysError::Empty),
            true => Err(TicketKeysError::Twice),
            false => Ok(keys),
        }
    }

    /// None without chance from the system.
    fn random() -> Option<Self> {
        random().map(Self)
    }

    fn name(&self) -> &[u8] {
        &self.0[..NAME_BYTES]
    }

    fn secret(&self) -> &[u8] {
        &self.0[NAME_BYTES..]
    }

    /// Of the ticket with this seed.
    fn derive(&self, seed: &[u8], bound_to: &[u8]) -> Option<(AeadKey, Iv)> {
        let prk = suite()?.hkdf_provider.extract_from_secret(Some(seed), self.secret());
        let mut made = [0; 32 + 12];
        prk.expand_slice(&[LABEL, bound_to], &mut made).ok()?;
        let (key, iv) = made.split_first_chunk::<32>()?;
        Some((AeadKey::from(*key), Iv::copy(iv)))
    }
}

impl TicketKeys {
    /// Keys of the process's own, at this time.
    pub fn own(now: SystemTime) -> Self {
        let keys = TicketKey::random().into_iter().collect();
        Self(ArcSwap::from_pointee(Ring { keys, own_since: Some(now) }))
    }

    /// Those of a file, the newest first.
    pub fn shared(keys: Vec<TicketKey>) -> Self {
        Self(ArcSwap::from_pointee(Ring { keys, own_since: None }))
    }

    /// The file has others now. True when they differ.
    pub fn replace(&self, keys: Vec<TicketKey>) -> bool {
        let differ = self.0.load().keys != keys;
        if differ {
            self.0.store(Arc::new(Ring { keys, own_since: None }));
        }
        differ
    }

    /// To be called now and then: the process's own keys are replaced when their time has come. One day's are kept for the next.
    /// True when that happened.
    pub fn rotate(&self, now: SystemTime) -> bool {
        let is_due = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= ROTATION);
        if !self.0.load().own_since.is_some_and(is_due) {
            return false;
        }
        let Some(fresh) = TicketKey::random() else { return false };
        self.0.rcu(|ring| {
            // Nobody called for days: what is older than one is forgotten.
            let is_old = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= 2 * ROTATION);
            let kept = if ring.own_since.is_some_and(is_old) { 0 } else { OWN_KEYS - 1 };
            let keys = std::iter::once(&fresh).chain(ring.keys.iter().take(kept)).cloned().collect();
            Ring { keys, own_since: Some(now) }
        });
        true
    }
}

impl Ring {
    fn seal(&self, session: &[u8], bound_to: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first().filter(|_| session.len() <= SESSION_BYTES_MAX)?;
        let seed: [u8; SEED_BYTES] = random()?;
        let (secret, iv) = key.derive(&seed, bound_to)?;
        let payload = OutboundChunks::Single(session);
        let message =
            OutboundPlainMessage { typ: ContentType::ApplicationData, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = suite()?.aead_alg.encrypter(secret, iv).encrypt(message, 0).ok()?;
        Some([key.name(), &seed, sealed.payload.as_ref()].concat())
    }

    /// Whatever a client has sent.
    fn open(&self, ticket: &[u8], bound_to: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (seed, sealed) = rest.split_at_checked(SEED_BYTES)?;
        let key = self.keys.iter().find(|key| key.name() == name)?;
        let (secret, iv) = key.derive(seed, bound_to)?;
        let mut sealed = sealed.to_vec();
        let message = InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, &mut sealed);
        let opened = suite()?.aead_alg.decrypter(secret, iv).decrypt(message, 0).ok()?;
        Some(opened.payload.to_vec())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.0.load().seal(plain, &self.bound_to)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let session = self.keys.0.load().open(cipher, &self.bound_to)?;
        let is_over = !self.bound_to.is_empty() && certificates(&session).any(|one| !one.validity().is_valid());
        (!is_over).then_some(session)
    }
}

/// Those of the client, which rustls keeps in a session as they came.
fn certificates(session: &[u8]) -> impl Iterator<Item = X509Certificate<'_>> {
    /// A sequence (X.690 §8.9.1).
    const SEQUENCE: u8 = 0x30;
    let mut rest = session;
    iter::from_fn(move || {
        while !rest.is_empty() {
            if rest[0] == SEQUENCE
                && let Ok((behind, certificate)) = X509Certificate::from_der(rest)
            {
                rest = behind;
                return Some(certificate);
            }
            rest = &rest[1..];
        }
        None
    })
}

fn suite() -> Option<&'static Tls13CipherSuite> {
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384.tls13()
}

fn random<const BYTES: usize>() -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes)
}

// Never what they are.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("keys", &self.0.load().keys.len()).finish_non_exhaustive()
    }
}

impl fmt::Display for TicketKeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = TicketKey::BYTES;
        match self {
            Self::Empty => write!(f, "found no key, wanted one or more of {bytes} bytes each, the newest first"),
            Self::Length(found) => write!(f, "found {found} bytes, wanted whole keys of {bytes} bytes each"),
            Self::Twice => write!(f, "found two keys that begin with the same 16 bytes, wanted each once"),
        }
    }
}

impl std::error::Error for TicketKeysError {}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = ROTATION;

    fn key(nth: u8) -> TicketKey {
        TicketKey([nth; TicketKey::BYTES])
    }

    fn tickets(keys: TicketKeys) -> Tickets {
        Tickets { keys: Arc::new(keys), bound_to: Box::new([]) }
    }

    #[test]
    fn a_ticket_is_opened_by_any_who_has_its_key_and_by_no_other() {
        let shared = |keys: &[TicketKey]| tickets(TicketKeys::shared(keys.to_vec()));
        let (one, other) = (shared(&[key(1), key(2)]), shared(&[key(3), key(1)]));
        let session = vec![7; 300];
        let ticket = one.encrypt(&session).expect("a ticket");
        assert!(!ticket.windows(8).any(|piece| piece == [7; 8]));
        assert_eq!(other.decrypt(&ticket), Some(session.clone()), "another process");
        assert_ne!(one.encrypt(&session), Some(ticket.clone()), "none is like another");
        assert!(other.keys.replace(vec![key(3)]) && !other.keys.replace(vec![key(3)]));
        assert_eq!(other.decrypt(&ticket), None);
        assert_eq!(tickets(TicketKeys::own(SystemTime::now())).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_opens_nothing() {
        let keys = tickets(TicketKeys::shared(vec![key(1)]));
        let ticket = keys.encrypt(b"a session").expect("a ticket");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(keys.decrypt(&changed), None, "{at}");
            assert_eq!(keys.decrypt(&ticket[..at]), None, "{at}");
        }
        assert_eq!(keys.decrypt(&[ticket.clone(), vec![0]].concat()), None);
        assert_eq!(keys.encrypt(&vec![0; SESSION_BYTES_MAX + 1]), None);
        let longest = vec![1; SESSION_BYTES_MAX];
        assert_eq!(keys.encrypt(&longest).and_then(|ticket| keys.decrypt(&ticket)), Some(longest));
    }

    #[test]
    fn own_keys_seal_for_a_day_and_open_for_another() {
        let begun = SystemTime::UNIX_EPOCH;
        let tickets = tickets(TicketKeys::own(begun));
        let keys = &tickets.keys;
        let first = tickets.encrypt(b"first").expect("a ticket");
        assert!(!keys.rotate(begun + DAY - Duration::from_secs(1)));
        assert!(keys.rotate(begun + DAY) && !keys.rotate(begun + DAY));
        let second = tickets.encrypt(b"second").expect("a ticket");
        assert!(tickets.decrypt(&first).is_some());
        assert!(keys.rotate(begun + 2 * DAY));
        assert!(tickets.decrypt(&first).is_none() && tickets.decrypt(&second).is_some());
        assert!(keys.rotate(begun + 9 * DAY));
        assert!(tickets.decrypt(&second).is_none(), "its time had passed long before");
        assert!(!keys.rotate(begun), "a clock that was set back");
        assert!(!TicketKeys::shared(vec![key(1)]).rotate(begun + 9 * DAY), "a file's are its owner's matter");
    }

    #[test]
    fn who_changes_what_clients_are_held_to_ends_all_tickets() {
        let keys = Arc::new(TicketKeys::shared(vec![key(1)]));
        let bound_to = |what: &[u8]| Tickets { keys: Arc::clone(&keys), bound_to: what.into() };
        let ticket = bound_to(b"an authority").encrypt(b"a session").expect("a ticket");
        assert_eq!(bound_to(b"").decrypt(&ticket), None);
        assert_eq!(bound_to(b"another").decrypt(&ticket), None);
        assert!(keys.replace(vec![key(2), key(1)]));
        assert!(
            bound_to(b"an authority").decrypt(&ticket).is_some(),
            "other keys beside the old one change nothing of it"
        );
    }

    #[test]
    fn a_ticket_ends_with_any_certificate_of_its_client() {
        let of = |until: i32| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            params.self_signed(&key).expect("a certificate").der().to_vec()
        };
        let (good, over) = (of(2100), of(2020));
        let keys = Arc::new(TicketKeys::shared(vec![key(1)]));
        let opens = |bound_to: &[u8], session: &[u8]| {
            let tickets = Tickets { keys: Arc::clone(&keys), bound_to: bound_to.into() };
            tickets.encrypt(session).and_then(|ticket| tickets.decrypt(&ticket)).is_some()
        };
        let junk: &[u8] = &[0x30, 0x82, 0x30, 0x82, 0xff, 0xff, 0x30];
        for (certificates, is_good) in [
            (vec![], true),
            (vec![&good], true),
            (vec![&over], false),
            (vec![&good, &over], false),
            (vec![&good, &good], true),
        ] {
            let certificates: Vec<u8> = certificates.into_iter().flat_map(|der| [junk, der].concat()).collect();
            let session = [&certificates, junk].concat();
            assert_eq!(opens(b"an authority", &session), is_good);
            assert!(opens(b"", &session), "nobody is asked for one");
            assert!(opens(b"an authority", &session[..session.len() / 2]), "none that is over is whole");
        }
    }

    #[test]
    fn a_file_has_whole_keys() {
        assert_eq!(TicketKey::read(&[]), Err(TicketKeysError::Empty));
        assert_eq!(TicketKey::read(&[0; 48]), Err(TicketKeysError::Length(48)));
        assert_eq!(TicketKey::read(&[0; 160]), Err(TicketKeysError::Twice));
        let bytes: Vec<u8> = (0..20).flat_map(|nth| [nth; TicketKey::BYTES]).collect();
        let keys = TicketKey::read(&bytes).expect("keys");
        assert_eq!((keys.len(), &keys[0], &keys[7]), (FILE_KEYS_MAX, &key(0), &key(7)));
        assert_eq!(
            format!("{:?} {:?}", keys[0], TicketKeys::shared(keys.clone())),
            "TicketKey TicketKeys { keys: 8, .. }"
        );
    }
}
