//! TLS towards backends: what all connections to them have in common, and the handshake of one of them.
//!
//! A stream to a backend isn't writable before its handshake is over: [`Layered::wait`](super::Layered) takes it further with
//! each event, within the wait for the connection, so that who connects sees one kind of wait and its one deadline.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::{io, mem};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Certificate;
use super::session::{Session, Shelves};
use crate::runtime::handshake::HandshakeFault;

/// Addresses whose sessions are kept: what was used last the longest ago leaves first.
const ADDRESSES_MAX: usize = 1024;
/// Sessions of one address; each is good for one connection (RFC 8446 §C.4).
const SESSIONS_OF_ADDRESS: usize = 8;

/// By what backends are known to be those that they should be, and what they are shown.
#[derive(Clone, Debug, Default)]
pub struct ClientRules {
    /// Certificates of the authorities that are trusted, in DER; None: those of this system.
    pub authorities: Option<Vec<Vec<u8>>>,
    /// The name that is asked for and verified; None: the host of each backend's URL.
    pub server_name: Option<String>,
    /// For backends that ask for one.
    pub certificate: Option<Arc<Certificate>>,
    /// TLS 1.2 isn't spoken.
    pub tls13_only: bool,
    /// Any certificate will do.
    pub unverified: bool,
}

/// What can't be used of [`ClientRules`], and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRulesError {
    /// Nothing among `authorities` is the certificate of one.
    Authorities,
    /// `server_name` is no name.
    ServerName,
}

impl ClientRules {
    /// Whether connections can go by this.
    ///
    /// # Errors
    /// What of it can't be used.
    pub fn check(&self) -> Result<(), ClientRulesError> {
        self.own_roots().map(drop)?;
        let is_name = self.server_name.as_deref().is_none_or(|name| server_name(name).is_some());
        if is_name { Ok(()) } else { Err(ClientRulesError::ServerName) }
    }

    /// None: those of the system are trusted, or there is no need of any.
    fn own_roots(&self) -> Result<Option<Arc<RootCertStore>>, ClientRulesError> {
        if self.unverified {
            return Ok(Some(Arc::new(RootCertStore::empty())));
        }
        let Some(authorities) = &self.authorities else { return Ok(None) };
        let roots = roots(authorities.iter().cloned().map(CertificateDer::from));
        roots.map(Some).ok_or(ClientRulesError::Authorities)
    }
}

/// TLS towards backends, with the sessions that can be resumed. All workers share it, and health checks.
pub struct BackendTls {
    /// Swapped where backends are known by something else, or shown something else.
    now: ArcSwap<Settings>,
    /// Held while they are swapped or made ready; the authorities of this system, once they were read.
    system_roots: Mutex<Option<Arc<RootCertStore>>>,
}

/// What connections go by that begin now. A swap brings others with no sessions: one that was resumed would go on with what was
/// verified and shown before.
struct Settings {
    rules: ClientRules,
    /// How many there were before.
    generation: u32,
    /// Made by [`BackendTls::make_ready`] where the system's authorities are trusted, since reading those takes a while.
    config: OnceLock<Arc<ClientConfig>>,
    sessions: Mutex<Sessions>,
}

/// What is resumed, by the address that it is of and the name that was verified there.
#[derive(Default)]
struct Sessions {
    of: HashMap<(SocketAddr, String), Known>,
    uses: u64,
}

struct Known {
    config: Arc<ClientConfig>,
    last_use: u64,
}

impl BackendTls {
    /// By these rules. Authorities of the system are read by [`Self::make_ready`].
    ///
    /// # Errors
    /// What of the rules can't be used.
    pub fn new(rules: ClientRules) -> Result<Self, ClientRulesError> {
        let settings = Settings::of(rules, 0, None)?;
        Ok(Self { now: ArcSwap::from_pointee(settings), system_roots: Mutex::default() })
    }

    /// Has connections that begin from now on go by these rules. Sessions of before aren't resumed, and
    /// [`generation`](Self::generation) is another one, by which it is seen which connections are from before. Not for a
    /// worker.
    ///
    /// # Errors
    /// What of the rules can't be used; then all stays as it was.
    pub fn replace(&self, rules: ClientRules) -> Result<(), ClientRulesError> {
        let system_roots = self.system_roots.lock();
        let generation = self.generation().wrapping_add(1);
        self.now.store(Arc::new(Settings::of(rules, generation, system_roots.clone())?));
        drop(system_roots);
        Ok(())
    }

    /// Changes with each [`replace`](Self::replace).
    pub fn generation(&self) -> u32 {
        self.now.load().generation
    }

    /// What connections go by that begin now.
    pub fn rules(&self) -> ClientRules {
        self.now.load().rules.clone()
    }

    /// Whether backends have to prove who they are.
    pub fn verifies(&self) -> bool {
        !self.now.load().rules.unverified
    }

    /// To be called before the first connection: reads the authorities of this system where those are trusted, which takes
    /// milliseconds and reads files, so never on a worker. Once is enough, more do no harm. False where there are none, so
    /// that no backend is accepted.
    pub fn make_ready(&self) -> bool {
        let mut known = self.system_roots.lock();
        let settings = self.now.load();
        let mut found = true;
        settings.config.get_or_init(|| {
            let roots = known.get_or_insert_with(|| {
                system_roots().unwrap_or_else(|| {
                    found = false;
                    Arc::new(RootCertStore::empty())
                })
            });
            config(&settings.rules, Arc::clone(roots))
        });
        drop(known);
        found
    }

    /// A connection of a kind that reads and writes by itself: for health checks, which resume nothing, so that each sees the
    /// backend's certificate.
    ///
    /// # Errors
    /// The host is none, or [`Self::make_ready`] wasn't called.
    pub fn connection(&self, host: &str) -> io::Result<ClientConnection> {
        let settings = self.now.load();
        let mut config = ClientConfig::clone(settings.config()?);
        config.resumption = Resumption::disabled();
        ClientConnection::new(Arc::new(config), settings.name(host)?).map_err(io::Error::other)
    }

    /// The session of a new connection to `address`, whose server is to prove that it is `host`.
    pub(super) fn session(&self, address: SocketAddr, host: &str, shelves: &Rc<Shelves>) -> io::Result<Session> {
        let settings = self.now.load();
        let config = settings.sessions.lock().of(address, host, settings.config()?);
        let client = UnbufferedClientConnection::new(config, settings.name(host)?).map_err(io::Error::other)?;
        Ok(Session::of_client(client, shelves))
    }
}

impl Settings {
    fn of(
        rules: ClientRules,
        generation: u32,
        system_roots: Option<Arc<RootCertStore>>,
    ) -> Result<Self, ClientRulesError> {
        rules.check()?;
        let roots = rules.own_roots()?.or(system_roots);
        let ready = roots.map_or_else(OnceLock::new, |roots| OnceLock::from(config(&rules, roots)));
        Ok(Self { rules, generation, config: ready, sessions: Mutex::default() })
    }

    fn config(&self) -> io::Result<&Arc<ClientConfig>> {
        self.config.get().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn name(&self, host: &str) -> io::Result<ServerName<'static>> {
        let name = self.rules.server_name.as_deref().unwrap_or(host);
        server_name(name).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

fn config(rules: &ClientRules, roots: Arc<RootCertStore>) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = if rules.tls13_only { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
    let builder = builder.expect("the provider has cipher suites of each version");
    let builder = if rules.unverified {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let mut config = match &rules.certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let shown = SingleCertAndKey::from(Arc::clone(certificate.certified()));
            builder.with_client_cert_resolver(Arc::new(shown))
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

impl Sessions {
    /// What a connection to there goes by: as `config`, with what can be resumed there.
    fn of(&mut self, address: SocketAddr, host: &str, config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
        self.uses += 1;
        let place = (address, host.to_owned());
        if self.of.len() >= ADDRESSES_MAX && !self.of.contains_key(&place) {
            let oldest = self.of.iter().min_by_key(|(_, known)| known.last_use).map(|(place, _)| place.clone());
            oldest.and_then(|oldest| self.of.remove(&oldest));
        }
        let known = self.of.entry(place).or_insert_with(|| {
            let mut config = ClientConfig::clone(config);
            config.resumption = Resumption::in_memory_sessions(SESSIONS_OF_ADDRESS);
            Known { config: Arc::new(config), last_use: 0 }
        });
        known.last_use = self.uses;
        Arc::clone(&known.config)
    }
}

/// A host as a certificate names it, which knows no last dot (RFC 6066 §3).
fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host)).ok().map(|name| name.to_owned())
}

/// None where nothing among them is a certificate.
fn roots<'a>(certificates: impl IntoIterator<Item = CertificateDer<'a>>) -> Option<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    (!roots.is_empty()).then(|| Arc::new(roots))
}

fn system_roots() -> Option<Arc<RootCertStore>> {
    roots(rustls_native_certs::load_native_certs().certs)
}

/// What is wrong, in the words that operators are told.
pub fn words(error: &Error) -> String {
    match (fault(error), error) {
        (_, Error::InvalidCertificate(why)) => format!("{}: {why}", HandshakeFault::Certificate),
        (_, Error::AlertReceived(alert)) => format!("{} with the alert {alert:?}", HandshakeFault::Alert),
        (_, Error::InvalidMessage(_)) => format!("{}, its answer isn't TLS: {error}", HandshakeFault::Protocol),
        (fault, error) => format!("{fault}: {error}"),
    }
}

/// Which kind of fault that is.
pub(super) fn fault(error: &Error) -> HandshakeFault {
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => HandshakeFault::Certificate,
        Error::AlertReceived(_) => HandshakeFault::Alert,
        _ => HandshakeFault::Protocol,
    }
}

/// How far a stream has come that is to be encrypted.
#[derive(Debug)]
pub(super) enum Progress {
    /// Its handshake is over.
    Done,
    /// The socket isn't connected yet.
    Connecting,
    /// The handshake has begun.
    Shaking,
    /// It failed, and says so once it is asked.
    Failed(io::Error),
}

impl Progress {
    pub(super) const fn is_under_way(&self) -> bool {
        matches!(self, Self::Connecting | Self::Shaking)
    }

    /// What it failed by; it is told once.
    pub(super) fn take_error(&mut self) -> io::Result<()> {
        match mem::replace(self, Self::Done) {
            Self::Failed(error) => Err(error),
            before => {
                *self = before;
                Ok(())
            }
        }
    }
}

/// Takes any certificate, but only of a server that has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Display for ClientRulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorities => f.write_str("found no certificate of an authority"),
            Self::ServerName => f.write_str("found no host name"),
        }
    }
}

impl std::error::Error for ClientRulesError {}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendTls").field("verifies", &self.verifies()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
