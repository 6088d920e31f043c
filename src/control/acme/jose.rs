//! Signed requests (RFC 7515, as RFC 8555 §6.2 narrows it: flattened JSON, ES256), and what of the account's key a challenge
//! asks for.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::encoding::base64url;

/// An uncompressed point of P-256: a 4, and two coordinates.
const POINT_BYTES: usize = 65;

/// The key that an account's requests are signed with.
#[derive(Debug)]
pub(super) struct AccountKey {
    pair: EcdsaKeyPair,
    x: String,
    y: String,
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signer<'a> {
    /// One that the authority doesn't know yet: by its key.
    New,
    /// An account, by its URL.
    Account(&'a str),
}

/// The provider has no key, or no signature, to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoSignature;

impl AccountKey {
    /// A new one, and its PKCS#8.
    pub(super) fn generate() -> Result<(Self, Vec<u8>), NoSignature> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pkcs8 = document.map_err(|_| NoSignature)?.as_ref().to_vec();
        Ok((Self::from_pkcs8(&pkcs8).ok_or(NoSignature)?, pkcs8))
    }

    /// None: that is no key for P-256.
    pub(super) fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
        let point: [u8; POINT_BYTES] = pair.public_key().as_ref().try_into().ok()?;
        let (x, y) = point[1..].split_at(POINT_BYTES / 2);
        Some(Self { x: base64url(x), y: base64url(y), pair })
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y })
    }

    /// RFC 7638.
    pub(super) fn thumbprint(&self) -> String {
        thumbprint(&[("crv", "P-256"), ("kty", "EC"), ("x", &self.x), ("y", &self.y)])
    }

    /// What proves that the account controls where it is shown (RFC 8555 §8.1).
    pub(super) fn authorize(&self, token: &str) -> String {
        format!("{token}.{}", self.thumbprint())
    }

    /// The body of a request to `url`. `payload` is JSON, or nothing for what is a GET otherwise (RFC 8555 §6.3).
    pub(super) fn sign(&self, signer: Signer, url: &str, nonce: &str, payload: &str) -> Result<String, NoSignature> {
        let mut protected = json!({ "alg": "ES256", "nonce": nonce, "url": url });
        match signer {
            Signer::New => protected["jwk"] = self.jwk(),
            Signer::Account(kid) => protected["kid"] = kid.into(),
        }
        let (protected, payload) = (base64url(protected.to_string()), base64url(payload));
        let input = format!("{protected}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| NoSignature)?;
        Ok(json!({ "protected": protected, "payload": payload, "signature": base64url(signature) }).to_string())
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// Of a key's members, which have to be in order, and need no escapes (RFC 7638 §3).
fn thumbprint(members: &[(&str, &str)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    base64url(sha256(format!("{{{}}}", members.join(",")).as_bytes()))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn a_thumbprint_is_as_in_rfc_7638() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3o\
                 knjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6\
                 qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awap\
                 JzKnqDKgw";
        assert_eq!(
            thumbprint(&[("e", "AQAB"), ("kty", "RSA"), ("n", n)]),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    /// Made, and its thumbprint taken, by other means (Python's `cryptography`).
    #[test]
    fn a_key_s_coordinates_and_its_thumbprint_are_as_others_see_them() {
        let pkcs8 = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze-hRANCAARH\
                     HD51jEkEKFu6flMRjtD1JK3rB1fSW9L457DXbfpxTN1SD3rKiouResw39R3o8Mm7462Fg4LnAtwloS0J96hY";
        let key = AccountKey::from_pkcs8(&URL_SAFE_NO_PAD.decode(pkcs8).unwrap()).expect("a key");
        assert_eq!(key.x, "Rxw-dYxJBChbun5TEY7Q9SSt6wdX0lvS-Oew1236cUw");
        assert_eq!(key.y, "3VIPesqKi5F6zDf1HejwybvjrYWDgucC3CWhLQn3qFg");
        assert_eq!(key.thumbprint(), "D8HvZq-fumkXpCwYIpjAPoqJx7WoEcJUS7tPPyIEJKI");
    }

    #[test]
    fn a_request_says_who_signed_it_for_which_url_and_its_signature_is_right() {
        let (key, pkcs8) = AccountKey::generate().unwrap();
        let again = AccountKey::from_pkcs8(&pkcs8).unwrap();
        assert_eq!(key.thumbprint(), again.thumbprint());
        assert_eq!(key.authorize("token"), format!("token.{}", key.thumbprint()));
        for (signer, who, other) in [(Signer::New, "jwk", "kid"), (Signer::Account("https://a/1"), "kid", "jwk")] {
            let body = key.sign(signer, "https://a/new-order", "n0nce", "{\"a\":1}").unwrap();
            let body: Value = serde_json::from_str(&body).unwrap();
            let part = |name: &str| body[name].as_str().unwrap().to_owned();
            let decoded = |name: &str| URL_SAFE_NO_PAD.decode(part(name)).unwrap();
            let protected: Value = serde_json::from_slice(&decoded("protected")).unwrap();
            assert_eq!(
                (&protected["alg"], &protected["nonce"], &protected["url"]),
                (&"ES256".into(), &"n0nce".into(), &"https://a/new-order".into())
            );
            assert!(!protected[who].is_null() && protected[other].is_null(), "{protected}");
            assert_eq!(decoded("payload"), b"{\"a\":1}");
            let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key().as_ref().to_vec());
            let input = format!("{}.{}", part("protected"), part("payload"));
            verifier.verify(input.as_bytes(), &decoded("signature")).expect("its signature");
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        assert!(AccountKey::from_pkcs8(b"").is_none() && AccountKey::from_pkcs8(&[0x30; 200]).is_none());
    }
}
