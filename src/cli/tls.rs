//! TLS towards clients, put together: what its files hold, who shows it, and who looks after it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{AcmeChallenge, Config, Tls, TlsVersion};
use crate::control::ControlPlane;
use crate::control::acme::{Keeper, Keeping, Site};
use crate::control::certificates::{CertificateKeeper, LOOK_INTERVAL, Materials, Served};
use crate::observe::HandshakeCounts;
use crate::plan::Challenges;
use crate::proxy;
use crate::transport::{CertificateStore, ServerSettings, TicketKeys, TlsRules, TlsServer};

/// Has debug builds look at files so often, in milliseconds: for tests.
#[cfg(debug_assertions)]
const LOOK_VARIABLE: &str = "MAYPOLE_TEST_LOOK_MS";
/// Handshakes in progress on a worker, at most.
const HANDSHAKES_MAX: usize = 4096;
/// The part of clients' descriptors that handshakes may have.
const HANDSHAKES_PART: usize = 4;

/// The server's side of TLS, and what it is made of.
#[derive(Debug)]
pub(super) struct Front {
    tls: Tls,
    materials: Materials,
    store: Arc<CertificateStore>,
    server: Arc<TlsServer>,
    /// What authorities are answered that ask over HTTP.
    pub(super) challenges: Arc<Challenges>,
    /// None: no authority is asked for certificates.
    acme: Option<Keeper>,
}

impl Front {
    /// The one of these settings, whose files are read.
    ///
    /// # Errors
    /// A line for everything that is wrong with them.
    pub(super) fn open(tls: &Tls) -> Result<Self, String> {
        let materials = Materials::read(tls).map_err(|wrong| {
            let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
        let tickets = match &materials.ticket_keys {
            Some(keys) => TicketKeys::shared(keys.clone()),
            None => TicketKeys::own(SystemTime::now()),
        };
        let answers_challenges = tls.acme.as_ref().is_some_and(|acme| acme.challenge == AcmeChallenge::TlsAlpn01);
        let settings = ServerSettings {
            tls13_only: tls.min_version == TlsVersion::V1_3,
            strict_sni: tls.strict_sni,
            answers_challenges,
        };
        let store = Arc::new(CertificateStore::holding(materials.certificates.clone()));
        let server = TlsServer::new(settings, Arc::clone(&store), Arc::new(tickets), materials.clients.as_ref());
        let server = server.map_err(|error| format!("tls.client_ca: {error}"))?;
        let challenges = Arc::<Challenges>::default();
        let site = Site { challenges: Arc::clone(&challenges), store: Arc::clone(&store) };
        let acme = tls.acme.as_ref().map(|acme| Keeper::open(acme, site)).transpose();
        let acme = acme.map_err(|error| format!("tls.acme.cache: {error}"))?;
        Ok(Self { tls: tls.clone(), materials, store, server: Arc::new(server), challenges, acme })
    }

    /// How workers take connections that come by these listeners; `descriptors` are those that all workers have for clients.
    pub(super) fn rules(&self, listeners: Vec<usize>, workers: usize, descriptors: usize) -> TlsRules {
        TlsRules {
            listeners,
            server: Arc::clone(&self.server),
            handshake_timeout: self.tls.handshake_timeout,
            handshakes_max: (descriptors / workers / HANDSHAKES_PART).clamp(1, HANDSHAKES_MAX),
            counts: Arc::new(HandshakeCounts::new(workers)),
            in_clear,
        }
    }

    /// What its files are looked at for, and who asks an authority for certificates.
    fn part(self) -> (Served, Option<Keeper>) {
        let Self { tls, materials, store, server, acme, .. } = self;
        (Served { tls, materials, store, server }, acme)
    }
}

/// Has the files of TLS looked at from now on, those towards backends included, and certificates got that an authority is to
/// be asked for.
///
/// # Errors
/// The system has no thread to give.
pub(super) fn watch(front: Option<Front>, config: &Config, control: &ControlPlane) -> io::Result<Option<Keeping>> {
    let (served, acme) = front.map(Front::part).unzip();
    let backends = (&config.upstream_tls, control.backend_tls());
    if let Some(keeper) = CertificateKeeper::start(served, backends, look_interval())? {
        control.keeps_certificates(keeper);
    }
    acme.flatten().map(Keeper::start).transpose()
}

#[cfg(not(debug_assertions))]
const fn look_interval() -> Duration {
    LOOK_INTERVAL
}

#[cfg(debug_assertions)]
fn look_interval() -> Duration {
    let millis = std::env::var(LOOK_VARIABLE).ok().and_then(|text| text.parse().ok());
    millis.map_or(LOOK_INTERVAL, Duration::from_millis)
}

/// What a client is answered that speaks HTTP in clear on the TLS port.
fn in_clear(unix_seconds: u64) -> Vec<u8> {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds));
    proxy::in_clear(date.as_bytes())
}
