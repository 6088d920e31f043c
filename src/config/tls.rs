//! TLS towards clients, and the sockets beside the first one: what the rest of the house reads of `tls` and `listeners`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A socket beside those of `port` and `tls.port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// 1–65535 (0 lets the system choose, for tests).
    pub port: u16,
    /// Addresses to listen on; never empty.
    pub bind: Vec<IpAddr>,
    /// Whether its connections begin with a handshake; then [`super::Config::tls`] is there.
    pub tls: bool,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where clients connect; None: at `listeners` alone.
    pub port: Option<u16>,
    /// Addresses to listen on; never empty.
    pub bind: Vec<IpAddr>,
    /// In the order written; the first is for those whom none fits. Empty only with `acme`.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// A file of the authorities that clients' certificates are to be from; None: clients need none.
    pub client_ca: Option<PathBuf>,
    /// Files of what those authorities have revoked; only with `client_ca`.
    pub crl: Vec<PathBuf>,
    /// Whether a client may do without a certificate.
    pub client_auth: ClientAuth,
    /// The field in which backends are told of a client's certificate; only with `client_ca`.
    pub client_header: Option<String>,
    /// A file of keys for tickets, which others use too; None: keys of this process.
    pub ticket_keys: Option<PathBuf>,
    /// Clients that ask for a name without a certificate are refused.
    pub strict_sni: bool,
    /// Requests in clear are sent to the TLS port.
    pub redirect_http: bool,
    /// What browsers are told to remember; None: nothing.
    pub hsts: Option<Hsts>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Certificates that an authority is asked for; None: none.
    pub acme: Option<Acme>,
}

impl Tls {
    /// With every default, at these addresses; without a certificate.
    pub fn with_bind(bind: Vec<IpAddr>) -> Self {
        Self {
            port: Some(8443),
            bind,
            certificates: Vec::new(),
            min_version: TlsVersion::V1_2,
            client_ca: None,
            crl: Vec::new(),
            client_auth: ClientAuth::Require,
            client_header: None,
            ticket_keys: None,
            strict_sni: false,
            redirect_http: false,
            hsts: None,
            handshake_timeout: Duration::from_secs(10),
            acme: None,
        }
    }
}

/// The files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Its chain, PEM, its own certificate first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// An OCSP answer, DER.
    pub ocsp: Option<PathBuf>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// Whether clients need a certificate, where there is a `client_ca`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without a good one, the handshake fails.
    Require,
    /// A client may have none, but no bad one.
    Optional,
}

/// How long browsers are to use TLS alone (RFC 6797).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// In whole seconds; zero has browsers forget it.
    pub max_age: Duration,
    /// For names below this one too.
    pub include_subdomains: bool,
    /// The owner agrees to be built into browsers.
    pub preload: bool,
}

/// Certificates that an authority is asked for (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The URL of the authority's directory.
    pub directory: String,
    /// Where the authority writes to; None: nowhere.
    pub email: Option<String>,
    /// The names, in lower case, each of which gets a certificate of its own; never empty.
    pub domains: Vec<String>,
    /// The folder of the account and the certificates.
    pub cache: PathBuf,
    /// How the authority is shown that the names are ours.
    pub challenge: AcmeChallenge,
}

/// How an authority is shown that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// In a handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// By a file over HTTP on port 80 (RFC 8555 §8.3).
    Http01,
}
