//! Who speaks TLS in a run, and by what. Keys and certificates are made once a process; Ed25519's signatures are of one length, so
//! that a run has the same lengths each time, although its bytes aren't the seed's. Sessions to resume are a run's own.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maypole::observe::{HandshakeCounts, HandshakeEnd};
use maypole::transport::client::{BackendTls, ClientRules};
use maypole::transport::{Certificate, CertificateStore, ServerSettings, TicketKeys, TlsRules, TlsServer};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use crate::chance::Chance;
use crate::noting::Served;
use crate::sim::{SECOND, Sim, Time};
use crate::tally::{Fault, Promise};
use crate::trail::Trail;
use crate::verdict::Judge;

/// The host of the first certificate that clients are shown, and of the second.
pub const FRONT_HOST: &str = "front.example";
pub const OTHER_HOST: &str = "other.example";
/// Origins that the certificate is for.
const ORIGINS: usize = 8;
/// The slowest of networks takes a few seconds for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// A worker looks each second at what its connections are encrypted by.
const LOOKED_AT_WITHIN: Time = 2 * SECOND;
/// The longest records that a run's clients, or origins, send; None: as long as they may be.
const RECORD_BYTES: [Option<usize>; 4] = [None, None, Some(64), Some(1_000)];
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS13], &[&version::TLS12]];

/// Which sides speak TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secrecy {
    pub clients: bool,
    pub backends: bool,
}

/// What a process has of it.
struct Keys {
    front: Arc<TlsServer>,
    /// By version.
    clients: [ClientConfig; 2],
    origins: [ServerConfig; 2],
    /// What the origins' certificate is known by.
    authority: Vec<u8>,
    /// Of an origin that isn't to be trusted.
    untrusted: Arc<ServerConfig>,
}

/// What a run has of it.
pub struct Ciphers {
    pub secrecy: Secrecy,
    /// Decides what depends on it, so that plain runs are what they were without it.
    pub chance: Chance,
    clients: [Arc<ClientConfig>; 2],
    origins: [Arc<ServerConfig>; 2],
    /// What all workers go by towards backends, if they speak TLS.
    pub backends: Option<Arc<BackendTls>>,
    counts: Arc<HandshakeCounts>,
}

impl Secrecy {
    /// A third of all seeds have TLS on one side, or on both.
    pub fn any(seed: u64) -> Self {
        let chance = Chance::new(seed ^ 0x7157_7157);
        let (clients, backends) = chance.pick(&[(true, false), (false, true), (true, true)]);
        if chance.percent(33) { Self { clients, backends } } else { Self::default() }
    }
}

impl Ciphers {
    pub fn new(secrecy: Secrecy, seed: u64, workers: usize) -> Self {
        let chance = Chance::new(seed ^ 0xc1f4_c1f4);
        let keys = keys();
        let [of_clients, of_origins] = [(); 2].map(|()| chance.pick(&RECORD_BYTES));
        let client = |config: &ClientConfig| {
            let mut config = config.clone();
            (config.resumption, config.max_fragment_size) = (Resumption::in_memory_sessions(16), of_clients);
            Arc::new(config)
        };
        let origin = |config: &ServerConfig| {
            let mut config = config.clone();
            config.max_fragment_size = of_origins;
            Arc::new(config)
        };
        Self {
            secrecy,
            clients: keys.clients.each_ref().map(client),
            origins: keys.origins.each_ref().map(origin),
            backends: secrecy.backends.then(|| {
                let rules = ClientRules { authorities: Some(vec![keys.authority.clone()]), ..ClientRules::default() };
                Arc::new(BackendTls::new(rules).expect("an authority's certificate"))
            }),
            counts: Arc::new(HandshakeCounts::new(workers)),
            chance,
        }
    }

    /// Counts what makes this run's records unlike others.
    pub fn note(&self, sim: &Sim) {
        let Secrecy { clients, backends } = self.secrecy;
        if clients && self.clients[0].max_fragment_size.is_some() {
            sim.struck(Fault::ClientSealsSmall);
        }
        if backends && self.origins[0].max_fragment_size.is_some() {
            sim.struck(Fault::BackendSealsSmall);
        }
    }

    /// Has a worker's layer speak TLS where it is to.
    pub fn arm(&self, mut served: Served) -> Served {
        if let Some(rules) = self.rules() {
            served = served.with_tls(rules);
        }
        match &self.backends {
            Some(backends) => served.with_backends(Arc::clone(backends)),
            None => served,
        }
    }

    /// How workers take clients, if that is by TLS.
    fn rules(&self) -> Option<TlsRules> {
        self.secrecy.clients.then(|| TlsRules {
            listeners: vec![0],
            server: Arc::clone(&keys().front),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            handshakes_max: 1_000,
            counts: Arc::clone(&self.counts),
            in_clear: |seconds| {
                let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
                maypole::proxy::in_clear(date.as_bytes())
            },
        })
    }

    /// How the next client speaks, if it is by TLS.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.secrecy.clients.then(|| Arc::clone(&self.clients[self.chance.pick(&[0, 0, 1])]))
    }

    /// How the next origin speaks, if it is by TLS.
    pub fn origin(&self) -> Option<Arc<ServerConfig>> {
        self.secrecy.backends.then(|| Arc::clone(&self.origins[self.chance.pick(&[0, 0, 1])]))
    }
}

/// Judges how handshakes with clients were counted.
pub fn judge(judge: &mut Judge<'_>, ciphers: &Ciphers, trail: &Trail) {
    if ciphers.secrecy.clients {
        let ((begun, in_order), counted) = (trail.accepted_in_order(), all(&ciphers.counts));
        let holds = counted == begun || (counted < begun && !in_order);
        judge.expect(Promise::HandshakesCounted, holds, || format!("{begun} handshakes, {counted} are counted"));
    }
    let ways = trail.ways();
    for at in trail.held_anew() {
        for way in ways.iter().filter(|way| way.dialled.at < at) {
            // The first is what it was made for, however long the handshake takes.
            for (moment, id) in way.offers.iter().skip(1) {
                judge.expect(Promise::HeldAnew, moment.at <= at + LOOKED_AT_WITHIN, || {
                    format!("request {id} was sent at {} on a connection from before {at}", moment.at)
                });
            }
        }
    }
}

/// All that were counted, whatever their end.
fn all(counts: &HandshakeCounts) -> u64 {
    use HandshakeEnd::{CrowdedOut, Declined, Done, InClear, Left, Refused, Resumed, TimedOut};
    // Alerts without a name are counted as one.
    let nameless = 1;
    let named = (0..=u8::MAX).filter(|&alert| HandshakeEnd::alert_name(alert) != HandshakeEnd::alert_name(nameless));
    let alerts = named.chain([nameless]).flat_map(|alert| [Refused(alert), Declined(alert)]);
    [Done, Resumed, Left, TimedOut, CrowdedOut, InClear].into_iter().chain(alerts).map(|end| counts.of(end)).sum()
}

/// How an origin speaks that nobody is to trust.
pub fn untrusted() -> &'static Arc<ServerConfig> {
    &keys().untrusted
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let [front, other] = [FRONT_HOST, OTHER_HOST].map(|host| Signed::by_itself(vec![host.to_owned()]));
        let hosts = (0..ORIGINS).map(|number| format!("origin{number}.example")).collect::<Vec<_>>();
        let (origins, untrusted) = (Signed::by_itself(hosts.clone()), Signed::by_itself(hosts));
        let mut roots = RootCertStore::empty();
        for signed in [&front, &other] {
            roots.add(CertificateDer::from(signed.der.clone())).expect("a certificate");
        }
        let roots = Arc::new(roots);
        Keys {
            clients: VERSIONS.map(|versions| client(versions, &roots)),
            origins: VERSIONS.map(|versions| origins.serving(versions)),
            authority: origins.der.clone(),
            untrusted: Arc::new(untrusted.serving(VERSIONS[0])),
            front: Arc::new(front_of([front, other])),
        }
    })
}

/// A certificate that its own key has signed.
struct Signed {
    der: Vec<u8>,
    key: Vec<u8>,
}

impl Signed {
    fn by_itself(names: Vec<String>) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let certificate = CertificateParams::new(names).expect("names").self_signed(&key).expect("a certificate");
        Self { der: certificate.der().to_vec(), key: key.serialize_der() }
    }

    fn serving(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect("versions");
        let chain = vec![CertificateDer::from(self.der.clone())];
        let key = PrivateKeyDer::try_from(self.key.clone()).expect("a key");
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).expect("they fit");
        // What is resumed doesn't depend on other runs.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().expect("a key");
        config
    }
}

fn front_of(signed: [Signed; 2]) -> TlsServer {
    let certificates =
        signed.map(|Signed { der, key }| Arc::new(Certificate::of(vec![der], key, None).expect("they fit")));
    let store = Arc::new(CertificateStore::holding(certificates.into()));
    let tickets = Arc::new(TicketKeys::own(SystemTime::now()));
    TlsServer::new(ServerSettings::default(), store, tickets, None).expect("clients are held to nothing")
}

fn client(versions: &[&'static SupportedProtocolVersion], roots: &Arc<RootCertStore>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect("versions");
    builder.with_root_certificates(Arc::clone(roots)).with_no_client_auth()
}

/// With the quickest of key exchanges alone.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() })
}
