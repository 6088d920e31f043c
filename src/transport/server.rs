//! What a server's side of TLS is made of, for all connections of a process: versions, protocols, certificates, tickets, and what
//! clients have to show. Each worker has a greeter, which makes the settings its own, so that it knows what was picked for
//! the client whose hello it has just read.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Name;

use super::certificate::{Certificate, Host};
use super::store::{ACME_TLS_ALPN, CertificateStore};
use super::tickets::{TicketKeys, Tickets};

/// The protocol that is spoken behind a handshake.
const HTTP_ALPN: &[u8] = b"http/1.1";
/// Tickets that a client of TLS 1.3 gets at once: each costs a sealing, and most clients use one.
const TICKETS: usize = 1;

/// What doesn't change while the process runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerSettings {
    /// TLS 1.3 alone is spoken.
    pub tls13_only: bool,
    /// Clients that ask for a name without a certificate are refused.
    pub strict_sni: bool,
    /// An authority may ask by `tls-alpn-01` whether a name is ours.
    pub answers_challenges: bool,
}

/// What clients have to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRules {
    /// Certificates, in DER, of those who may vouch for them.
    pub authorities: Vec<Vec<u8>>,
    /// The lists, in DER, of what these have revoked. Where there are any, each authority has to have one.
    pub revoked: Vec<Vec<u8>>,
    /// One that shows nothing is let in too.
    pub optional: bool,
}

/// Why clients can't be held to [`ClientRules`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRulesError {
    /// There is nobody to vouch for them.
    NoAuthority,
    /// This authority's certificate can't be used; the first is 0.
    Authority {
        /// Which.
        nth: usize,
        /// Why.
        reason: String,
    },
    /// A list of what is revoked can't be read.
    Revoked {
        /// Why.
        reason: String,
    },
}

/// The server's side of TLS.
pub struct TlsServer {
    settings: ServerSettings,
    store: Arc<CertificateStore>,
    tickets: Arc<TicketKeys>,
    /// Swapped where clients are held to something else.
    config: ArcSwap<ServerConfig>,
}

impl TlsServer {
    /// One that shows what is in `store`, and holds its clients to nothing if `clients` is none.
    ///
    /// # Errors
    /// See [`ClientRulesError`].
    pub fn new(
        settings: ServerSettings,
        store: Arc<CertificateStore>,
        tickets: Arc<TicketKeys>,
        clients: Option<&ClientRules>,
    ) -> Result<Self, ClientRulesError> {
        let config = configure(settings, &store, &tickets, clients)?;
        Ok(Self { settings, store, tickets, config: ArcSwap::from_pointee(config) })
    }

    /// One that shows this certificate alone, and holds its clients to nothing.
    ///
    /// # Errors
    /// As [`TlsServer::new`].
    pub fn showing(certificate: Certificate) -> Result<Self, ClientRulesError> {
        let store = Arc::new(CertificateStore::holding(vec![Arc::new(certificate)]));
        Self::new(ServerSettings::default(), store, Arc::new(TicketKeys::own(SystemTime::now())), None)
    }

    /// Holds clients to this from now on. No session from before is resumed then, unless it was held to the very same.
    ///
    /// # Errors
    /// See [`ClientRulesError`]; then all stays as it was.
    pub fn hold_clients_to(&self, clients: Option<&ClientRules>) -> Result<(), ClientRulesError> {
        self.config.store(Arc::new(configure(self.settings, &self.store, &self.tickets, clients)?));
        Ok(())
    }

    /// The keys of its tickets.
    pub const fn tickets(&self) -> &Arc<TicketKeys> {
        &self.tickets
    }

    /// Whether one who was shown `certificate` is in the right place with what is meant for `host`: unless another of the
    /// certificates is for that host; with strict SNI only if this one is.
    pub(super) fn stands_for(&self, certificate: &Certificate, host: &str) -> bool {
        let host = Host::of(host);
        certificate.is_for(host) || !self.settings.strict_sni && !self.store.is_for(host)
    }
}

impl ClientRules {
    /// Whether clients can be held to this.
    ///
    /// # Errors
    /// See [`ClientRulesError`].
    pub fn check(&self) -> Result<(), ClientRulesError> {
        verifier(Some(self)).map(drop)
    }

    /// The first of the authorities, by its name, that none of the lists is from, if there are lists: all of its clients would
    /// be refused.
    pub fn unlisted(&self) -> Option<String> {
        let issuer = |list: &Vec<u8>| {
            CertificateRevocationList::from_der(list).map(|(_, list)| list.issuer().as_raw().to_vec()).ok()
        };
        // What can't be read here is left to rustls, which could read it.
        let issuers = self.revoked.iter().map(issuer).collect::<Option<Vec<_>>>()?;
        let authorities = self.authorities.iter().filter_map(|der| X509Certificate::from_der(der).ok());
        let mut names = authorities.map(|(_, authority)| authority.tbs_certificate.subject);
        let has_none = |name: &X509Name| issuers.iter().all(|issuer| issuer != name.as_raw());
        names.find(has_none).filter(|_| !issuers.is_empty()).map(|name| name.to_string())
    }
}

fn verifier(clients: Option<&ClientRules>) -> Result<Arc<dyn ClientCertVerifier>, ClientRulesError> {
    let Some(rules) = clients else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(rules)?), provider);
    let lists = rules.revoked.iter().map(|list| CertificateRevocationListDer::from(list.clone()));
    let builder = builder.with_crls(lists);
    let builder = if rules.optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| ClientRulesError::Revoked { reason: error.to_string() })
}

fn configure(
    settings: ServerSettings,
    store: &Arc<CertificateStore>,
    tickets: &Arc<TicketKeys>,
    clients: Option<&ClientRules>,
) -> Result<ServerConfig, ClientRulesError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(clients)?;
    let versions = if settings.tls13_only { &[&version::TLS13][..] } else { rustls::ALL_VERSIONS };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.expect("the provider has cipher suites of each version");
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::clone(store) as _);
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    if settings.answers_challenges {
        config.alpn_protocols.push(ACME_TLS_ALPN.to_vec());
    }
    // Nothing is kept here of who has left: tickets hold it. None may begin with data that could be sent again (early data).
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(Tickets { keys: Arc::clone(tickets), bound_to: digest(clients) });
    config.send_tls13_tickets = TICKETS;
    config.max_early_data_size = 0;
    Ok(config)
}

fn roots(rules: &ClientRules) -> Result<RootCertStore, ClientRulesError> {
    let mut roots = RootCertStore::empty();
    for (nth, authority) in rules.authorities.iter().enumerate() {
        let added = roots.add(CertificateDer::from(authority.clone()));
        added.map_err(|error| ClientRulesError::Authority { nth, reason: error.to_string() })?;
    }
    if roots.is_empty() { Err(ClientRulesError::NoAuthority) } else { Ok(roots) }
}

/// Tells what clients are held to from all else that they may be held to.
fn digest(clients: Option<&ClientRules>) -> Box<[u8]> {
    let Some(ClientRules { authorities, revoked, optional }) = clients else { return Box::default() };
    let Some(suite) = aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384.tls13() else { return Box::default() };
    let mut hash = suite.common.hash_provider.start();
    hash.update(&[u8::from(*optional)]);
    for list in [authorities, revoked] {
        hash.update(&list.len().to_be_bytes());
        for der in list {
            hash.update(&der.len().to_be_bytes());
            hash.update(der);
        }
    }
    hash.finish().as_ref().into()
}

/// What a client's hello was met with.
#[derive(Clone, Debug)]
pub(super) enum Pick {
    /// It is shown this.
    Shown(Arc<Certificate>),
    /// Nothing fits the name that it asks for.
    NoneFits,
}

/// A worker's own.
pub(super) struct Greeter {
    server: Arc<TlsServer>,
    /// The settings as they are shared, and as they are here.
    config: RefCell<(Arc<ServerConfig>, Arc<ServerConfig>)>,
    picker: Arc<Picker>,
}

/// Picks certificates, and notes which: it is asked while its worker's only thread reads a hello.
struct Picker {
    store: Arc<CertificateStore>,
    strict_sni: bool,
    picked: Mutex<Option<Pick>>,
}

impl Greeter {
    pub(super) fn new(server: Arc<TlsServer>) -> Self {
        let picker = Picker {
            store: Arc::clone(&server.store),
            strict_sni: server.settings.strict_sni,
            picked: Mutex::new(None),
        };
        let picker = Arc::new(picker);
        let shared = server.config.load_full();
        let config = RefCell::new((Arc::clone(&shared), own(&shared, &picker)));
        Self { server, config, picker }
    }

    pub(super) const fn server(&self) -> &Arc<TlsServer> {
        &self.server
    }

    /// The settings of now.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let shared = self.server.config.load();
        let mut config = self.config.borrow_mut();
        if !Arc::ptr_eq(&config.0, &shared) {
            *config = (Arc::clone(&shared), own(&shared, &self.picker));
        }
        Arc::clone(&config.1)
    }

    /// What the client is shown whose hello was read last, if any was since the last call.
    pub(super) fn take_pick(&self) -> Option<Pick> {
        self.picker.picked.lock().take()
    }
}

fn own(shared: &ServerConfig, picker: &Arc<Picker>) -> Arc<ServerConfig> {
    let mut config = shared.clone();
    config.cert_resolver = Arc::clone(picker) as _;
    Arc::new(config)
}

impl ResolvesServerCert for Picker {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.store.shown_to(&hello);
        let fits = |certificate: &Arc<Certificate>| {
            !self.strict_sni || hello.server_name().is_none_or(|name| certificate.covers(name))
        };
        let shown = shown.filter(fits);
        let key = shown.as_ref().map(|certificate| Arc::clone(certificate.certified()));
        *self.picked.lock() = Some(shown.map_or(Pick::NoneFits, Pick::Shown));
        key
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl fmt::Debug for Greeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeter").finish_non_exhaustive()
    }
}

impl fmt::Debug for Picker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Picker").finish_non_exhaustive()
    }
}

impl fmt::Display for ClientRulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAuthority => f.write_str("found no certificate, wanted that of an authority"),
            Self::Authority { nth, reason } => write!(f, "certificate {} can't be an authority's: {reason}", nth + 1),
            Self::Revoked { reason } => write!(f, "a list of revoked certificates can't be read: {reason}"),
        }
    }
}

impl std::error::Error for ClientRulesError {}
