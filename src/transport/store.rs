//! The certificates that clients are shown: an immutable set that is swapped whole, so that whoever begins a handshake finds
//! the old one or the new one, and waits for nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::certificate::{Certificate, Host, above};

/// The protocol by which an authority asks whether a name's server is ours (RFC 8737 §6.2).
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// A set of certificates, in order: the first is for those whom none fits. By a name's certificates: those that name it, then
/// those that have `*` for its first label.
#[derive(Debug, Default)]
pub struct Certificates {
    all: Vec<Arc<Certificate>>,
    /// Sorted, each with which certificate it is of; wildcards without their `*.`.
    exact: Vec<(Box<str>, usize)>,
    wildcards: Vec<(Box<str>, usize)>,
}

/// The set of now, and what an authority that asks is shown.
#[derive(Debug, Default)]
pub struct CertificateStore {
    now: ArcSwap<Certificates>,
    challenges: ArcSwap<BTreeMap<String, Arc<Certificate>>>,
    /// What the set is made of, for those that change it.
    parts: Mutex<Parts>,
}

/// Whose certificates are swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Those of configured files, which come first.
    Files,
    /// Those that an authority was asked for.
    Acme,
}

#[derive(Debug, Default)]
struct Parts {
    files: Vec<Arc<Certificate>>,
    acme: Vec<Arc<Certificate>>,
}

impl Certificates {
    /// Of these, the most wanted first.
    pub fn of(all: Vec<Arc<Certificate>>) -> Self {
        let (mut exact, mut wildcards) = (Vec::new(), Vec::new());
        for (nth, certificate) in all.iter().enumerate() {
            for name in certificate.dns_names() {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcards.push((parent.into(), nth)),
                    None => exact.push((name.as_str().into(), nth)),
                }
            }
        }
        exact.sort_unstable();
        wildcards.sort_unstable();
        Self { all, exact, wildcards }
    }

    /// All of them, in order.
    pub fn all(&self) -> &[Arc<Certificate>] {
        &self.all
    }

    /// Those for this name, the best first; the name in any case, and with or without its last dot.
    pub fn fitting<'c>(&'c self, name: &'c str) -> impl Iterator<Item = &'c Arc<Certificate>> + 'c {
        self.named(name.strip_suffix('.').unwrap_or(name))
    }

    fn named<'c>(&'c self, name: &'c str) -> impl Iterator<Item = &'c Arc<Certificate>> + 'c {
        let wildcards = above(name).into_iter().flat_map(|parent| named(&self.wildcards, parent));
        named(&self.exact, name).chain(wildcards).map(|nth| &self.all[nth])
    }

    /// Whether any is for this host.
    fn are_for(&self, host: Host<'_>) -> bool {
        match host {
            Host::Name(name) => self.named(name).next().is_some(),
            Host::Address(_) => self.all.iter().any(|certificate| certificate.is_for(host)),
        }
    }

    /// What a client that asks for `name` is shown, if it can check signatures that `can_check`: one for this name, else the
    /// first; of several that would do, one that the client can check.
    pub(super) fn pick<'c>(
        &'c self,
        name: Option<&'c str>,
        can_check: impl Fn(SignatureAlgorithm) -> bool,
    ) -> Option<&'c Arc<Certificate>> {
        let fits = |certificate: &&Arc<Certificate>| can_check(certificate.algorithm());
        let of_name = || name.into_iter().flat_map(|name| self.fitting(name));
        let first = of_name().find(fits).or_else(|| of_name().next());
        first.or_else(|| self.all.iter().find(fits)).or_else(|| self.all.first())
    }
}

impl CertificateStore {
    /// One that holds these.
    pub fn holding(files: Vec<Arc<Certificate>>) -> Self {
        let store = Self::default();
        store.swap(Part::Files, files);
        store
    }

    /// The set of now.
    pub fn now(&self) -> Arc<Certificates> {
        self.now.load_full()
    }

    /// Whether any of now is for this host.
    pub(super) fn is_for(&self, host: Host<'_>) -> bool {
        self.now.load().are_for(host)
    }

    /// Puts these in the place of those of the same part: who begins a handshake from now on finds them.
    pub fn swap(&self, part: Part, certificates: Vec<Arc<Certificate>>) {
        let mut parts = self.parts.lock();
        match part {
            Part::Files => parts.files = certificates,
            Part::Acme => parts.acme = certificates,
        }
        let all = parts.files.iter().chain(&parts.acme).cloned().collect();
        self.now.store(Arc::new(Certificates::of(all)));
    }

    /// What an authority that asks for `name` by `tls-alpn-01` is shown from now on (RFC 8737 §3).
    pub fn set_challenge(&self, name: &str, certificate: Arc<Certificate>) {
        self.change_challenges(|challenges| {
            challenges.insert(name.to_ascii_lowercase(), certificate);
        });
    }

    /// It was asked.
    pub fn clear_challenge(&self, name: &str) {
        self.change_challenges(|challenges| {
            challenges.remove(&name.to_ascii_lowercase());
        });
    }

    fn change_challenges(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Certificate>>)) {
        let _one = self.parts.lock();
        let mut challenges = BTreeMap::clone(&self.challenges.load());
        change(&mut challenges);
        self.challenges.store(Arc::new(challenges));
    }

    /// What a client that says hello so is shown.
    pub(super) fn shown_to(&self, hello: &ClientHello<'_>) -> Option<Arc<Certificate>> {
        let name = hello.server_name();
        if hello.alpn().is_some_and(|mut protocols| protocols.all(|protocol| protocol == ACME_TLS_ALPN)) {
            // Who speaks nothing else is an authority, and gets no other answer.
            return Some(Arc::clone(self.challenges.load().get(name?)?));
        }
        let can_check = |key| hello.signature_schemes().iter().any(|&scheme| algorithm(scheme) == Some(key));
        self.now.load().pick(name, can_check).map(Arc::clone)
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown_to(&hello).map(|certificate| Arc::clone(certificate.certified()))
    }
}

/// Which certificates of a sorted list are of this name.
fn named<'l>(list: &'l [(Box<str>, usize)], name: &'l str) -> impl Iterator<Item = usize> + 'l {
    let lower = || name.bytes().map(|byte| byte.to_ascii_lowercase());
    let from = list.partition_point(|(listed, _)| listed.bytes().lt(lower()));
    let equal = move |listed: &str| listed.eq_ignore_ascii_case(name);
    list[from..].iter().take_while(move |(listed, _)| equal(listed)).map(|(_, nth)| *nth)
}

fn algorithm(scheme: SignatureScheme) -> Option<SignatureAlgorithm> {
    Some(match scheme {
        SignatureScheme::RSA_PKCS1_SHA256
        | SignatureScheme::RSA_PKCS1_SHA384
        | SignatureScheme::RSA_PKCS1_SHA512
        | SignatureScheme::RSA_PSS_SHA256
        | SignatureScheme::RSA_PSS_SHA384
        | SignatureScheme::RSA_PSS_SHA512 => SignatureAlgorithm::RSA,
        SignatureScheme::ECDSA_NISTP256_SHA256
        | SignatureScheme::ECDSA_NISTP384_SHA384
        | SignatureScheme::ECDSA_NISTP521_SHA512 => SignatureAlgorithm::ECDSA,
        SignatureScheme::ED25519 => SignatureAlgorithm::ED25519,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> Arc<Certificate> {
        let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let made = made.expect("a certificate");
        let key = made.signing_key.serialize_der();
        Arc::new(Certificate::of(vec![made.cert.der().to_vec()], key, None).expect("one that can be served"))
    }

    fn picked<'c>(set: &'c Certificates, name: Option<&'c str>) -> Option<usize> {
        let picked = set.pick(name, |_| true)?;
        set.all().iter().position(|one| Arc::ptr_eq(one, picked))
    }

    #[test]
    fn a_name_finds_its_own_certificate_then_a_wildcard_then_the_first() {
        let names: [&[&str]; 4] =
            [&["first.example"], &["*.a.example"], &["www.a.example", "b.example"], &["*.B.example"]];
        let set = Certificates::of(names.map(certificate).into());
        for (name, want) in [
            (Some("www.a.example"), 2),
            (Some("WWW.A.example."), 2),
            (Some("api.a.example"), 1),
            (Some("a.example"), 0),
            (Some("x.api.a.example"), 0),
            (Some("b.example"), 2),
            (Some("x.b.example"), 3),
            (Some(".b.example"), 0),
            (Some("."), 0),
            (Some(""), 0),
            (None, 0),
        ] {
            assert_eq!(picked(&set, name), Some(want), "{name:?}");
        }
        assert_eq!(picked(&Certificates::default(), Some("a")), None);
        assert!(set.are_for(Host::of("api.a.example")) && !set.are_for(Host::of("x.api.a.example")));
    }

    #[test]
    fn of_several_for_a_name_the_first_that_the_client_can_check_is_shown() {
        let (one, other) = (certificate(&["a.example"]), certificate(&["a.example"]));
        let set = Certificates::of(vec![one, other]);
        assert_eq!(picked(&set, Some("a.example")), Some(0));
        let rsa_alone = |key| key == SignatureAlgorithm::RSA;
        assert!(Arc::ptr_eq(set.pick(Some("a.example"), rsa_alone).unwrap(), &set.all()[0]), "then it says so itself");
    }

    #[test]
    fn of_two_kinds_of_keys_a_client_gets_the_one_that_it_can_check() {
        let of = |name: &str, kind| {
            let key = rcgen::KeyPair::generate_for(kind).expect("a key");
            let made = rcgen::CertificateParams::new([name.to_owned()]).expect("a name").self_signed(&key);
            let made = made.expect("a certificate").der().to_vec();
            Arc::new(Certificate::of(vec![made], key.serialize_der(), None).expect("one that can be served"))
        };
        let (ecdsa, edwards) = (&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519);
        let set = Certificates::of(vec![
            of("*.a.example", edwards),
            of("b.a.example", ecdsa),
            of("b.a.example", edwards),
            of("c.example", ecdsa),
        ]);
        for (name, kind, want) in [
            (Some("b.a.example"), SignatureAlgorithm::ECDSA, 1),
            (Some("b.a.example"), SignatureAlgorithm::ED25519, 2),
            (Some("b.a.example"), SignatureAlgorithm::RSA, 1),
            (Some("x.a.example"), SignatureAlgorithm::ECDSA, 0),
            (Some("c.example"), SignatureAlgorithm::ED25519, 3),
            (Some("other.example"), SignatureAlgorithm::ECDSA, 1),
            (None, SignatureAlgorithm::ED25519, 0),
            (None, SignatureAlgorithm::ECDSA, 1),
            (None, SignatureAlgorithm::RSA, 0),
        ] {
            let picked = set.pick(name, |key| key == kind).expect("there is always one");
            assert!(Arc::ptr_eq(picked, &set.all()[want]), "{name:?} {kind:?}");
        }
    }

    #[test]
    fn both_parts_of_a_store_are_shown_the_files_first() {
        let (file, acme, newer) =
            (certificate(&["a.example"]), certificate(&["b.example"]), certificate(&["a.example"]));
        let store = CertificateStore::default();
        store.swap(Part::Acme, vec![Arc::clone(&acme)]);
        store.swap(Part::Files, vec![file]);
        store.swap(Part::Files, vec![Arc::clone(&newer)]);
        let now = store.now();
        assert!(Arc::ptr_eq(&now.all()[0], &newer) && Arc::ptr_eq(&now.all()[1], &acme));
        assert_eq!(now.all().len(), 2);
    }
}
