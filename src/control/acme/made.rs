//! What is made here, by `rcgen`: keys and requests for certificates, and the two kinds of certificates that are no authority's.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};

use super::error::AcmeError;
use super::jose::sha256;
use crate::transport::Certificate;

/// A certificate that nobody signed is good for so long: it is made anew at each start.
const PLACEHOLDER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// One that is shown to the authority alone.
const CHALLENGE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks differ.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// A request for a certificate, and the key that it will be for, which is of P-256 and new.
#[derive(Debug)]
pub(super) struct Csr {
    pub(super) key_pkcs8: Vec<u8>,
    pub(super) der: Vec<u8>,
}

impl Csr {
    pub(super) fn new(domain: &str) -> Result<Self, AcmeError> {
        let key = KeyPair::generate().map_err(not_made)?;
        let mut params = CertificateParams::new([domain.to_owned()]).map_err(not_made)?;
        // The authority writes the subject.
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(not_made)?;
        Ok(Self { key_pkcs8: key.serialize_der(), der: request.der().to_vec() })
    }
}

/// What is served until there is a better one.
pub(super) fn placeholder(domain: &str) -> Result<Certificate, AcmeError> {
    let mut params = params(domain, PLACEHOLDER_LIFE)?;
    params.distinguished_name.push(DnType::CommonName, "maypole: no certificate of an authority yet");
    let (der, key) = signed_by_itself(&params)?;
    Certificate::of(vec![der], key, None).map_err(AcmeError::Certificate)
}

/// What an authority is shown that asks by `tls-alpn-01` (RFC 8737 §3).
pub(super) fn challenge(domain: &str, key_authorization: &str) -> Result<Certificate, AcmeError> {
    let mut params = params(domain, CHALLENGE_LIFE)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&sha256(key_authorization.as_bytes()))];
    let (der, key) = signed_by_itself(&params)?;
    Certificate::of_challenge(der, key).map_err(AcmeError::Certificate)
}

fn params(domain: &str, life: Duration) -> Result<CertificateParams, AcmeError> {
    let mut params = CertificateParams::new([domain.to_owned()]).map_err(not_made)?;
    params.distinguished_name = DistinguishedName::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let begin = rcgen::date_time_ymd(1970, 1, 1);
    (params.not_before, params.not_after) = (begin + now.saturating_sub(BACKDATED), begin + now + life);
    Ok(params)
}

/// A certificate, and its new key.
fn signed_by_itself(params: &CertificateParams) -> Result<(Vec<u8>, Vec<u8>), AcmeError> {
    let key = KeyPair::generate().map_err(not_made)?;
    let made = params.self_signed(&key).map_err(not_made)?;
    Ok((made.der().to_vec(), key.serialize_der()))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn not_made(error: rcgen::Error) -> AcmeError {
    AcmeError::NotMade(format!("can't make a certificate or a request for one: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_for_its_domain_and_good_now() {
        let made = placeholder("a.example").unwrap();
        let now = SystemTime::now();
        assert!(made.covers("a.example") && made.not_before() < now && made.not_after() > now);
    }

    #[test]
    fn a_challenge_holds_the_hash_of_what_is_authorized_where_rfc_8737_has_it_and_critical() {
        let made = challenge("a.example", "token.thumbprint").unwrap();
        let der = made.chain().next().unwrap().to_vec();
        // 1.3.6.1.5.5.7.1.31, TRUE, an octet string of an octet string of 32 bytes.
        let head = [0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 1, 31, 0x01, 0x01, 0xff, 0x04, 34, 0x04, 32];
        let wanted = [&head[..], &sha256(b"token.thumbprint")].concat();
        assert!(der.windows(wanted.len()).any(|bytes| bytes == wanted));
        assert!(made.covers("a.example") && made.names().count() == 1);
    }

    #[test]
    fn each_request_has_a_key_of_its_own() {
        let (one, other) = (Csr::new("a.example").unwrap(), Csr::new("a.example").unwrap());
        assert_ne!(one.key_pkcs8, other.key_pkcs8);
        assert!(one.der.windows(9).any(|bytes| bytes == b"a.example"));
    }
}
