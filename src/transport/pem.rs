//! PEM (RFC 7468): the certificates, keys and revocation lists of a file, as DER.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Why a text holds nothing of the kind that was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemError {
    /// It has no section of this kind.
    None {
        /// Such as `CERTIFICATE`.
        wanted: &'static str,
    },
    /// It has a key that can be read with a password alone.
    Encrypted,
    /// It isn't PEM.
    Broken {
        /// Why.
        reason: &'static str,
    },
}

/// Characters in a line of what is written (RFC 7468 §2).
const LINE_CHARACTERS: usize = 64;

/// A section of this kind, such as `CERTIFICATE`, that holds `der`.
pub fn write(kind: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {kind}-----\n");
    for line in text.as_bytes().chunks(LINE_CHARACTERS) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + &format!("-----END {kind}-----\n")
}

/// All certificates in it, at least one.
///
/// # Errors
/// There is none, or something isn't PEM.
pub fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let found =
        CertificateDer::pem_slice_iter(text).map(|one| one.map(|one| one.to_vec()).map_err(|error| broken(&error)));
    some(found.collect::<Result<_, _>>()?, "CERTIFICATE")
}

/// All revocation lists in it, at least one.
///
/// # Errors
/// There is none, or something isn't PEM.
pub fn revocation_lists(text: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let found = CertificateRevocationListDer::pem_slice_iter(text);
    let found = found.map(|one| one.map(|one| one.as_ref().to_vec()).map_err(|error| broken(&error)));
    some(found.collect::<Result<_, _>>()?, "X509 CRL")
}

/// The first private key in it.
///
/// # Errors
/// There is none, or something isn't PEM.
pub fn private_key(text: &[u8]) -> Result<Vec<u8>, PemError> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key.secret_der().to_vec()),
        Err(Error::NoItemsFound) if is_encrypted(text) => Err(PemError::Encrypted),
        Err(Error::NoItemsFound) => Err(PemError::None { wanted: "PRIVATE KEY" }),
        Err(error) => Err(broken(&error)),
    }
}

fn some(found: Vec<Vec<u8>>, wanted: &'static str) -> Result<Vec<Vec<u8>>, PemError> {
    if found.is_empty() { Err(PemError::None { wanted }) } else { Ok(found) }
}

fn is_encrypted(text: &[u8]) -> bool {
    let has = |what: &[u8]| memchr::memmem::find(text, what).is_some();
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

/// Its own words may hold a line of the file, and with it a part of a key.
fn broken(error: &Error) -> PemError {
    let reason = match error {
        Error::MissingSectionEnd { .. } => "a section has no end: is the file whole?",
        Error::IllegalSectionStart { .. } => "a line that begins a section isn't whole",
        Error::Base64Decode(_) => "what stands in a section isn't base64",
        _ => "it can't be read",
    };
    PemError::Broken { reason }
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None { wanted } => {
                write!(f, "found no section of the wanted kind, wanted PEM with \"-----BEGIN {wanted}-----\"")
            }
            Self::Encrypted => f.write_str("found a key with a password, wanted one without"),
            Self::Broken { reason } => write!(f, "found no PEM: {reason}"),
        }
    }
}

impl std::error::Error for PemError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_hold_more_than_what_is_wanted() {
        let section = |kind: &str| format!("words\n-----BEGIN {kind}-----\nAAEC\n-----END {kind}-----\n");
        let all = ["CERTIFICATE", "EC PRIVATE KEY", "X509 CRL", "CERTIFICATE"].map(section).concat();
        assert_eq!(certificates(all.as_bytes()), Ok(vec![vec![0, 1, 2]; 2]));
        assert_eq!(private_key(all.as_bytes()), Ok(vec![0, 1, 2]));
        assert_eq!(revocation_lists(all.as_bytes()), Ok(vec![vec![0, 1, 2]]));
    }

    #[test]
    fn what_is_written_can_be_read() {
        for bytes in [0, 1, 47, 48, 49, 1000] {
            let der: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
            assert_eq!(certificates(write("CERTIFICATE", &der).as_bytes()), Ok(vec![der]));
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_in_it() {
        let key = |kind: &str, body: &str| format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n");
        for (text, want) in [
            (String::new(), PemError::None { wanted: "PRIVATE KEY" }),
            (key("CERTIFICATE", "AAEC"), PemError::None { wanted: "PRIVATE KEY" }),
            (key("ENCRYPTED PRIVATE KEY", "AAEC"), PemError::Encrypted),
            (key("PRIVATE KEY", "s!e!c!r!e!t"), PemError::Broken { reason: "what stands in a section isn't base64" }),
            (
                "-----BEGIN PRIVATE KEY-----\nAAEC\n".to_owned(),
                PemError::Broken { reason: "a section has no end: is the file whole?" },
            ),
        ] {
            assert_eq!(private_key(text.as_bytes()), Err(want), "{text}");
        }
    }
}
