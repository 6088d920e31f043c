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

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::session::{Session, Shelves};
use crate::runtime::handshake::HandshakeFault;

/// Addresses whose sessions are kept: what was used last the longest ago leaves first.
const ADDRESSES_MAX: usize = 1024;
/// Sessions of one address; each is good for one connection (RFC 8446 §C.4).
const SESSIONS_OF_ADDRESS: usize = 8;

/// By what backends are known to be those that they should be, and what they are shown.
#[derive(Default)]
pub struct ClientRules {
    /// Certificates of the authorities that are trusted, in DER; None: those of this system.
    pub authorities: Option<Vec<Vec<u8>>>,
    /// The name that is asked for and verified; None: the host of each backend's URL.
    pub server_name: Option<String>,
    /// A chain and its private key (PKCS#8, PKCS#1 or SEC1), in DER, for backends that ask for one.
    pub certificate: Option<(Vec<Vec<u8>>, Vec<u8>)>,
    /// TLS 1.2 isn't spoken.
    pub tls13_only: bool,
    /// Any certificate will do.
    pub unverified: bool,
}

/// What can't be used of [`ClientRules`], and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRulesError {
    /// Nothing among `authorities` is the certificate of one.
    Authorities,
    /// `server_name` is no name.
    ServerName,
    /// The certificate can't be read.
    Chain(String),
    /// The key can't be used, or isn't the certificate's.
    Key(String),
}

/// TLS towards backends, with the sessions that can be resumed. All workers share it, and health checks.
pub struct BackendTls {
    rules: ClientRules,
    /// Made by [`Self::make_ready`], since reading the system's authorities takes a while.
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
        if let Some(name) = &rules.server_name {
            server_name(name).ok_or(ClientRulesError::ServerName)?;
        }
        let tls = Self { rules, config: OnceLock::new(), sessions: Mutex::default() };
        match &tls.rules.authorities {
            Some(authorities) => {
                let roots = roots(authorities.iter().cloned().map(CertificateDer::from));
                let roots = roots.ok_or(ClientRulesError::Authorities)?;
                let _ = tls.config.set(tls.config_with(roots)?);
            }
            // Nothing else of it is found out later.
            None => drop(tls.config_with(RootCertStore::empty())?),
        }
        Ok(tls)
    }

    /// Whether backends have to prove who they are.
    pub const fn verifies(&self) -> bool {
        !self.rules.unverified
    }

    /// To be called before the first connection: reads the authorities of this system where those are trusted, which takes
    /// milliseconds and reads files, so never on a worker. Once is enough, more do no harm. False where there are none, so
    /// that no backend is accepted.
    pub fn make_ready(&self) -> bool {
        let mut found = true;
        self.config.get_or_init(|| {
            let roots = if self.rules.unverified { None } else { system_roots() };
            found = roots.is_some() || self.rules.unverified;
            // It was tried with none.
            self.config_with(roots.unwrap_or_else(RootCertStore::empty)).unwrap_or_else(|_| unreachable!())
        });
        found
    }

    /// A connection of a kind that reads and writes by itself: for health checks, which resume nothing, so that each sees the
    /// backend's certificate.
    ///
    /// # Errors
    /// The host is none, or [`Self::make_ready`] wasn't called.
    pub fn connection(&self, host: &str) -> io::Result<ClientConnection> {
        let mut config = ClientConfig::clone(self.config.get().ok_or(io::ErrorKind::Unsupported)?);
        config.resumption = Resumption::disabled();
        ClientConnection::new(Arc::new(config), self.name(host)?).map_err(io::Error::other)
    }

    /// The session of a new connection to `address`, whose server is to prove that it is `host`.
    pub(super) fn session(&self, address: SocketAddr, host: &str, shelves: &Rc<Shelves>) -> io::Result<Session> {
        let config = self.config.get().ok_or(io::ErrorKind::Unsupported)?;
        let config = self.sessions.lock().of(address, host, config);
        let client = UnbufferedClientConnection::new(config, self.name(host)?).map_err(io::Error::other)?;
        Ok(Session::of_client(client, shelves))
    }

    fn name(&self, host: &str) -> io::Result<ServerName<'static>> {
        let name = self.rules.server_name.as_deref().unwrap_or(host);
        server_name(name).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn config_with(&self, roots: RootCertStore) -> Result<Arc<ClientConfig>, ClientRulesError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = if self.rules.tls13_only { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
        let builder = builder.map_err(|error| ClientRulesError::Key(error.to_string()))?;
        let builder = if self.rules.unverified {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            builder.with_root_certificates(roots)
        };
        let mut config = match &self.rules.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = chain.iter().cloned().map(CertificateDer::from).collect();
                let key = PrivateKeyDer::try_from(key.clone());
                let key = key.map_err(|reason| ClientRulesError::Key(reason.to_owned()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| unfit(&error))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn unfit(error: &Error) -> ClientRulesError {
    match error {
        Error::InvalidCertificate(_) => {
            ClientRulesError::Chain(format!("found a certificate that can't be read: {error}"))
        }
        Error::InconsistentKeys(_) => {
            ClientRulesError::Key("found the key of another certificate, wanted client_cert's".to_owned())
        }
        error => ClientRulesError::Key(format!("found a key that can't be used: {error}")),
    }
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
fn roots<'a>(certificates: impl IntoIterator<Item = CertificateDer<'a>>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    (!roots.is_empty()).then_some(roots)
}

fn system_roots() -> Option<RootCertStore> {
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
            Self::Chain(reason) | Self::Key(reason) => f.write_str(reason),
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
