//! One certificate: its chain, its private key, its OCSP staple, and what is known of it. What can't be served isn't one: a
//! key that isn't the certificate's, a chain whose links don't fit each other.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, SignatureAlgorithm};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// What a server shows its clients, or a client its servers.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    ips: Vec<IpAddr>,
    subject: String,
    issuer: String,
    serial: String,
    validity: Validity,
    fingerprint: [u8; 32],
    /// Of the rest of its chain, but for one that has signed itself.
    issuers: Vec<Summary>,
    source: Source,
}

/// The moments between which a certificate is valid, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first.
    pub not_before: SystemTime,
    /// The last.
    pub not_after: SystemTime,
}

/// What is told of a certificate that only vouches for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its owner, as RFC 4514 writes names.
    pub subject: String,
    /// When it is valid.
    pub validity: Validity,
    /// SHA-256 of its DER.
    pub fingerprint: [u8; 32],
}

impl Summary {
    /// Of a certificate in DER; None where it can't be read.
    pub fn of(der: &[u8]) -> Option<Self> {
        X509Certificate::from_der(der).ok().map(|(_, read)| Self::with(&read, der))
    }

    /// Of all certificates in DER that can be read.
    pub fn of_all(ders: &[Vec<u8>]) -> Vec<Self> {
        ders.iter().filter_map(|der| Self::of(der)).collect()
    }

    fn with(read: &X509Certificate, der: &[u8]) -> Self {
        Self { subject: read.subject().to_string(), validity: validity(read), fingerprint: sha256(der) }
    }
}

/// What a request is for, as certificates say it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Host<'h> {
    Address(IpAddr),
    /// In any case, without the last dot.
    Name(&'h str),
}

impl<'h> Host<'h> {
    pub(super) fn of(host: &'h str) -> Self {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        // Asked of each request: most hosts are told from an address without reading it as one.
        let is_address = bare.as_bytes().last().is_some_and(u8::is_ascii_digit) || bare.contains(':');
        let address = if is_address { bare.parse().ok() } else { None };
        address.map_or_else(|| Self::Name(host.strip_suffix('.').unwrap_or(host)), Self::Address)
    }
}

/// Where a certificate comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Made by this process, for want of a better one.
    #[default]
    Own,
    /// Files that are configured.
    Files {
        /// The chain's.
        cert: PathBuf,
        /// The private key's.
        key: PathBuf,
    },
    /// An authority that was asked for it.
    Acme {
        /// Its directory's URL.
        directory: String,
    },
}

/// Why something is no certificate that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// There is no certificate at all.
    Empty,
    /// One of the chain can't be read; the first is 0.
    Unreadable {
        /// Which.
        nth: usize,
        /// Why.
        reason: String,
    },
    /// The key can't be read, or is of a kind that isn't known.
    Key {
        /// Why.
        reason: String,
    },
    /// The key isn't that of the first certificate.
    KeyOfAnother,
    /// A certificate isn't followed by its issuer's; the first is 0.
    Chain {
        /// Which.
        nth: usize,
        /// The issuer that it names.
        issuer: String,
        /// Whose certificate follows it.
        followed_by: String,
    },
    /// The links name each other, but their signatures don't fit.
    Signature,
}

impl Certificate {
    /// The owner of `key` (DER of PKCS#8, PKCS#1 or SEC1), whose certificate is the first of `chain` (DER), each of which the
    /// next one's owner signed. Says nothing of when it is valid.
    ///
    /// # Errors
    /// What of it can't be read, or doesn't fit.
    pub fn of(chain: Vec<Vec<u8>>, key: Vec<u8>, ocsp: Option<Vec<u8>>) -> Result<Self, CertificateError> {
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let read = read_chain(&chain)?;
        let first = read.first().ok_or(CertificateError::Empty)?;
        let key = certified(chain.clone(), key, ocsp)?;
        fits(&key)?;
        let certificate = Self::with_facts(first, &chain[0], key);
        links_fit(&read)?;
        signatures_fit(&chain, &read)?;
        // Nobody looks at a root that is sent along: who trusts it has it.
        let issuers = read.iter().zip(&chain).skip(1).filter(|(read, _)| read.issuer() != read.subject());
        let issuers = issuers.map(|(read, der)| Summary::with(read, der)).collect();
        Ok(Self { issuers, ..certificate })
    }

    /// One that is shown to an authority alone, which asks by `tls-alpn-01` (RFC 8737): signed by itself, with this key, and of no
    /// use to anybody else by an extension for which even what compares keys refuses it.
    ///
    /// # Errors
    /// It can't be read.
    pub fn of_challenge(der: Vec<u8>, key: Vec<u8>) -> Result<Self, CertificateError> {
        let chain = vec![CertificateDer::from(der)];
        let read = read_chain(&chain)?;
        let first = read.first().ok_or(CertificateError::Empty)?;
        Ok(Self::with_facts(first, &chain[0], certified(chain.clone(), key, None)?))
    }

    fn with_facts(first: &X509Certificate, der: &[u8], key: Arc<CertifiedKey>) -> Self {
        let (names, ips) = names(first);
        Self {
            key,
            names,
            ips,
            subject: first.subject().to_string(),
            issuer: first.issuer().to_string(),
            serial: first.raw_serial_as_string(),
            validity: validity(first),
            fingerprint: sha256(der),
            issuers: Vec::new(),
            source: Source::default(),
        }
    }

    /// The same, and where it is from.
    #[must_use]
    pub fn with_source(self, source: Source) -> Self {
        Self { source, ..self }
    }

    /// The hosts that it is for, in lower case: names of which the first label may be `*`, then IP addresses.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.names.iter().cloned().chain(self.ips.iter().map(ToString::to_string))
    }

    /// Whether it is for `host`, a name or an IP address: in any case, and with or without the last dot.
    pub fn covers(&self, host: &str) -> bool {
        self.is_for(Host::of(host))
    }

    pub(super) fn is_for(&self, host: Host<'_>) -> bool {
        match host {
            Host::Address(address) => self.ips.contains(&address),
            Host::Name(host) => self.names.iter().any(|name| match name.strip_prefix("*.") {
                Some(parent) => above(host).is_some_and(|above| above.eq_ignore_ascii_case(parent)),
                None => name.eq_ignore_ascii_case(host),
            }),
        }
    }

    /// Its owner, as RFC 4514 writes names.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Who signed it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its number among those of its issuer: bytes in hex, with colons.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// When it is valid.
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// From when on it is valid.
    pub const fn not_before(&self) -> SystemTime {
        self.validity.not_before
    }

    /// The last moment at which it is valid.
    pub const fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    /// The others of its chain, in their order, but for a root.
    pub fn issuers(&self) -> &[Summary] {
        &self.issuers
    }

    /// SHA-256 of its DER.
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Where it is from.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// What its key is for: `"ECDSA"`, `"RSA"` or `"Ed25519"`.
    pub fn key_kind(&self) -> &'static str {
        match self.algorithm() {
            SignatureAlgorithm::ECDSA => "ECDSA",
            SignatureAlgorithm::RSA => "RSA",
            SignatureAlgorithm::ED25519 => "Ed25519",
            _ => "other",
        }
    }

    /// Whether an OCSP answer goes with it.
    pub fn has_ocsp(&self) -> bool {
        self.key.ocsp.is_some()
    }

    /// The authorities' certificates that go with it.
    pub fn chain_length(&self) -> usize {
        self.key.cert.len()
    }

    /// The chain, each in DER, its own first.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.key.cert.iter().map(AsRef::as_ref)
    }

    pub(super) fn algorithm(&self) -> SignatureAlgorithm {
        self.key.key.algorithm()
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub(super) fn dns_names(&self) -> &[String] {
        &self.names
    }
}

/// The name without its first label; None where nothing is left.
pub(super) fn above(host: &str) -> Option<&str> {
    host.split_once('.').filter(|(label, rest)| !label.is_empty() && !rest.is_empty()).map(|(_, rest)| rest)
}

fn read_chain<'c>(chain: &'c [CertificateDer<'_>]) -> Result<Vec<X509Certificate<'c>>, CertificateError> {
    let read = |(nth, der): (usize, &CertificateDer<'_>)| match X509Certificate::from_der(der) {
        Ok(([], _)) => Ok(()),
        Ok(_) => Err(CertificateError::Unreadable { nth, reason: "bytes follow it".to_owned() }),
        Err(error) => Err(CertificateError::Unreadable { nth, reason: error.to_string() }),
    };
    chain.iter().enumerate().try_for_each(read)?;
    Ok(chain.iter().filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, read)| read).collect())
}

/// The hosts that it names: in its subject's common name only where there is no other (RFC 9525 §2 has clients look at none
/// there, but a server may be told what it is for).
fn names(certificate: &X509Certificate) -> (Vec<String>, Vec<IpAddr>) {
    let (mut names, mut ips) = (Vec::new(), Vec::new());
    if let Ok(Some(listed)) = certificate.subject_alternative_name() {
        for name in &listed.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                _ => {}
            }
        }
    } else {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.filter(|name| !name.contains(' ')).map(str::to_ascii_lowercase));
    }
    (names, ips)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    ocsp: Option<Vec<u8>>,
) -> Result<Arc<CertifiedKey>, CertificateError> {
    // Never what is in it.
    let unread = |reason: &str| CertificateError::Key { reason: reason.to_owned() };
    let key = PrivateKeyDer::try_from(key).map_err(unread)?;
    let provider: CryptoProvider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key).map_err(|_| unread("no key of a known kind"))?;
    let mut made = CertifiedKey::new(chain, key);
    made.ocsp = ocsp;
    Ok(Arc::new(made))
}

/// The key is the certificate's.
fn fits(made: &CertifiedKey) -> Result<(), CertificateError> {
    match made.keys_match() {
        // A kind of key that doesn't tell its public half can't be compared.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::KeyOfAnother),
        Err(error) => Err(CertificateError::Unreadable { nth: 0, reason: error.to_string() }),
    }
}

/// Each but the last is followed by its issuer's.
fn links_fit(chain: &[X509Certificate]) -> Result<(), CertificateError> {
    let broken = chain.windows(2).position(|pair| pair[0].issuer().as_raw() != pair[1].subject().as_raw());
    broken.map_or(Ok(()), |nth| {
        let (issuer, followed_by) = (chain[nth].issuer().to_string(), chain[nth + 1].subject().to_string());
        Err(CertificateError::Chain { nth, issuer, followed_by })
    })
}

/// Each but the last was signed by the next. What else a client may dislike, it will say.
fn signatures_fit(chain: &[CertificateDer<'_>], read: &[X509Certificate]) -> Result<(), CertificateError> {
    let ([first, between @ .., last], false) = (chain, chain.len() < 2) else { return Ok(()) };
    let mut roots = RootCertStore::empty();
    let nth = chain.len() - 1;
    let unread = |reason: String| CertificateError::Unreadable { nth, reason };
    roots.add(last.clone().into_owned()).map_err(|error| unread(error.to_string()))?;
    let Ok(first) = ParsedCertificate::try_from(first) else { return Ok(()) };
    // A moment at which all of them are valid, whatever the time is.
    let begun = read.iter().map(|one| one.validity().not_before.timestamp()).max().unwrap_or(0);
    let when = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(begun).unwrap_or(0)));
    let known = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&first, &roots, between, when, known) {
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::BadSignature | rustls::CertificateError::UnknownIssuer,
        )) => Err(CertificateError::Signature),
        _ => Ok(()),
    }
}

fn validity(certificate: &X509Certificate) -> Validity {
    let given = certificate.validity();
    Validity { not_before: moment(given.not_before), not_after: moment(given.not_after) }
}

fn moment(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13();
    let hashed = suite.map(|suite| suite.common.hash_provider.hash(bytes));
    let mut out = [0; 32];
    if let Some(hashed) = hashed {
        out.copy_from_slice(hashed.as_ref());
    }
    out
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, issuer, validity, .. } = self;
        let mut shown = f.debug_struct("Certificate");
        shown
            .field("names", names)
            .field("issuer", issuer)
            .field("not_after", &validity.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("found no certificate, wanted at least one"),
            Self::Unreadable { nth, reason } => {
                write!(f, "certificate {} of the chain can't be read: {reason}", nth + 1)
            }
            Self::Key { reason } => write!(f, "the private key can't be read: {reason}"),
            Self::KeyOfAnother => f.write_str("found the key of another certificate, wanted that of the first one"),
            Self::Chain { nth, issuer, followed_by } => write!(
                f,
                "a broken chain: found the certificate of {followed_by:?} behind certificate {}, wanted that of its issuer {issuer:?}",
                nth + 1
            ),
            Self::Signature => {
                f.write_str("a broken chain: the names fit, but a certificate isn't signed by the one that follows it")
            }
        }
    }
}

impl std::error::Error for CertificateError {}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    struct Made {
        der: Vec<u8>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn parameters(name: &str, is_ca: IsCa) -> CertificateParams {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = is_ca;
        parameters
    }

    fn authority(name: &str, by: Option<&Made>) -> Made {
        let key = KeyPair::generate().unwrap();
        let parameters = parameters(name, IsCa::Ca(BasicConstraints::Unconstrained));
        let der = match by {
            Some(by) => parameters.signed_by(&key, &by.issuer),
            None => parameters.self_signed(&key),
        };
        Made { der: der.unwrap().der().to_vec(), issuer: Issuer::new(parameters, key) }
    }

    fn leaf(name: &str, by: &Made) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let signed = parameters(name, IsCa::NoCa).signed_by(&key, &by.issuer).unwrap();
        (signed.der().to_vec(), key.serialize_der())
    }

    #[test]
    fn a_chain_is_whole_when_each_is_followed_by_its_issuer() {
        let root = authority("root", None);
        let middle = authority("middle", Some(&root));
        let (own, key) = leaf("a.example", &middle);
        let of = |chain: &[&Vec<u8>]| Certificate::of(chain.iter().copied().cloned().collect(), key.clone(), None);
        for chain in [&[&own][..], &[&own, &middle.der], &[&own, &middle.der, &root.der]] {
            let made = of(chain).unwrap();
            assert_eq!((made.issuer(), made.subject()), ("CN=middle", "CN=a.example"));
            assert_eq!(made.names().collect::<Vec<_>>(), ["a.example"]);
        }
        let broken = |nth, issuer: &str, found: &str| {
            let (issuer, followed_by) = (format!("CN={issuer}"), format!("CN={found}"));
            Some(CertificateError::Chain { nth, issuer, followed_by })
        };
        assert_eq!(of(&[&own, &root.der]).err(), broken(0, "middle", "root"));
        assert_eq!(of(&[&own, &middle.der, &own]).err(), broken(1, "root", "a.example"));
        assert_eq!(of(&[]).err(), Some(CertificateError::Empty));
        assert_eq!(of(&[&middle.der, &own]).err(), Some(CertificateError::KeyOfAnother));
    }

    #[test]
    fn a_link_that_only_bears_the_right_name_breaks_a_chain() {
        let root = authority("root", None);
        let (own, key) = leaf("a.example", &root);
        let namesake = authority("root", None);
        let made = Certificate::of(vec![own, namesake.der], key, None);
        assert_eq!(made.err(), Some(CertificateError::Signature));
    }

    #[test]
    fn what_cannot_be_read_is_told_without_what_is_in_it() {
        let root = authority("root", None);
        let (own, key) = leaf("a.example", &root);
        let longer = [&own[..], b"x"].concat();
        for (chain, key, want) in [
            (vec![b"secret".to_vec()], key.clone(), "certificate 1 of the chain can't be read: "),
            (vec![longer], key, "certificate 1 of the chain can't be read: bytes follow it"),
            (vec![own.clone()], b"secret".to_vec(), "the private key can't be read: "),
            (vec![own], vec![0x30, 0x03, 0x02, 0x01, 0x00], "the private key can't be read: "),
        ] {
            let told = Certificate::of(chain, key, None).unwrap_err().to_string();
            assert!(told.starts_with(want) && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn a_host_is_covered_by_its_name_by_a_wildcard_of_its_parent_or_by_its_address() {
        let names = ["a.example", "*.b.example", "192.0.2.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let made = Certificate::of(vec![made.cert.der().to_vec()], made.signing_key.serialize_der(), None).unwrap();
        for host in ["a.example", "A.Example.", "x.b.example", "192.0.2.1", "::1", "[::1]"] {
            assert!(made.covers(host), "{host}");
        }
        for host in ["b.example", "x.y.b.example", ".b.example", "a.example..", "192.0.2.2", "", ".", "*.a.example"] {
            assert!(!made.covers(host), "{host}");
        }
        assert_eq!(made.names().collect::<Vec<_>>(), ["a.example", "*.b.example", "192.0.2.1", "::1"]);
        assert!(made.not_before() < made.not_after());
        assert_eq!(made.key_kind(), "ECDSA");
    }
}
