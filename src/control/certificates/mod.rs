//! The files of TLS: read at the start, looked at each minute and when a signal asks for it. What has changed and is whole takes
//! the place of what was before, for connections that begin from then on; what is broken is told loudly, and what was before
//! stays.
//!
//! `files.rs` reads what `tls` names, and `watched.rs` knows what has changed of it; `backends.rs` and `watched_backends.rs` are the
//! same of `upstream_tls`. `age.rs` knows what is soon too old; `view.rs` has what the admin API shows.

mod age;
pub mod backends;
mod files;
mod group;
mod view;
mod watched;
mod watched_backends;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use self::age::{Dated, Peers, Warnings};
pub use self::files::{Materials, Wrong, examine, outdated};
pub use self::view::CertificateList;
use self::watched::Watched;
use self::watched_backends::WatchedBackends;
use crate::config::{Tls, UpstreamTls};
use crate::transport::client::BackendTls;
use crate::transport::{CertificateStore, Part, TlsServer};

/// From one look at the files to the next.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The same while something is broken, at first: somebody may be about to write the other half.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(1);

/// Keeps what TLS goes by up to date with its files, towards clients and towards backends. Its thread ends when it is stopped or
/// dropped.
#[derive(Debug)]
pub struct CertificateKeeper {
    kept: Arc<Kept>,
    /// Asks for a look. None: it was stopped.
    wishes: Mutex<Option<Sender<()>>>,
}

/// TLS towards clients: its files, and who has what was read of them at the start.
#[derive(Debug)]
pub struct Served {
    /// The files.
    pub tls: Tls,
    /// What was in them.
    pub materials: Materials,
    /// Where the certificates are put.
    pub store: Arc<CertificateStore>,
    /// Who shows them.
    pub server: Arc<TlsServer>,
}

#[derive(Debug)]
struct Kept {
    /// None: there is no TLS towards clients.
    clients: Option<KeptClients>,
    /// None: no file is named for backends.
    backends: Option<Mutex<WatchedBackends>>,
    warnings: Mutex<Warnings>,
}

#[derive(Debug)]
struct KeptClients {
    store: Arc<CertificateStore>,
    server: Arc<TlsServer>,
    watched: Mutex<Watched>,
}

impl CertificateKeeper {
    /// Goes on from what was read at the start, which `clients` and `backends` have already, and looks at the files each
    /// `interval`. None where neither names any.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        clients: Option<Served>,
        (upstream, backends): (&UpstreamTls, Arc<BackendTls>),
        interval: Duration,
    ) -> io::Result<Option<Self>> {
        let clients = clients.map(|Served { tls, materials, store, server }| {
            let watched = Mutex::new(Watched::of(&tls, materials));
            KeptClients { store, server, watched }
        });
        let names_files = upstream.ca.is_some() || upstream.client.is_some();
        let backends = names_files.then(|| Mutex::new(WatchedBackends::of(upstream.clone(), backends)));
        if clients.is_none() && backends.is_none() {
            return Ok(None);
        }
        let (wishes, heard) = bounded(1);
        let kept = Arc::new(Kept { clients, backends, warnings: Mutex::default() });
        kept.warn(SystemTime::now());
        let work = Arc::clone(&kept);
        thread::Builder::new().name("maypole-certs".into()).spawn(move || work.look_each(interval, &heard))?;
        Ok(Some(Self { kept, wishes: Mutex::new(Some(wishes)) }))
    }

    /// Has the files looked at now, by the thread that does so anyway.
    pub fn look(&self) {
        if let Some(wishes) = &*self.wishes.lock() {
            // One that waits already says no less.
            let _ = wishes.try_send(());
        }
    }

    /// What is shown to clients now, and what is wrong with the files.
    pub fn list(&self) -> CertificateList {
        let shown = self.kept.clients.as_ref().map(|clients| clients.store.now()).unwrap_or_default();
        CertificateList::of(&shown, &self.kept.wrong(), SystemTime::now())
    }

    /// Ends its thread; what is shown stays as it is.
    pub fn stop(&self) {
        self.wishes.lock().take();
    }
}

impl Kept {
    fn look_each(&self, interval: Duration, heard: &Receiver<()>) {
        let mut next = interval;
        loop {
            match heard.recv_timeout(next) {
                Ok(()) => next = LOOK_AGAIN_MIN.min(interval),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let was_well = self.is_well();
            self.look(SystemTime::now());
            next = match (was_well, self.is_well()) {
                (_, true) => interval,
                (true, false) => LOOK_AGAIN_MIN.min(interval),
                (false, false) => (next * 2).min(interval),
            };
        }
    }

    /// Looks at all files, and lets what has changed and is whole take the place of what was before.
    fn look(&self, now: SystemTime) {
        if let Some(clients) = &self.clients {
            clients.look(now);
        }
        if let Some(backends) = &self.backends {
            backends.lock().look();
        }
        self.warn(now);
    }

    fn is_well(&self) -> bool {
        self.wrong().is_empty()
    }

    fn wrong(&self) -> Vec<Wrong> {
        let of_clients =
            self.clients.iter().flat_map(|clients| clients.watched.lock().wrong().cloned().collect::<Vec<_>>());
        let of_backends =
            self.backends.iter().flat_map(|backends| backends.lock().wrong().cloned().collect::<Vec<_>>());
        of_clients.chain(of_backends).collect()
    }

    fn warn(&self, now: SystemTime) {
        let shown = self.clients.as_ref().map(|clients| clients.store.now()).unwrap_or_default();
        let clients = self.clients.as_ref().map(|clients| clients.watched.lock());
        let backends = self.backends.as_ref().map(|backends| backends.lock());
        let mut used: Vec<_> = shown.all().iter().flat_map(|one| Dated::chain(one, Peers::Clients)).collect();
        used.extend(clients.iter().flat_map(|watched| watched.dated()));
        used.extend(backends.iter().flat_map(|watched| watched.dated()));
        let lines = self.warnings.lock().due(&used, now);
        for line in lines {
            log::warn!("{line}");
        }
    }
}

impl KeptClients {
    fn look(&self, now: SystemTime) {
        let mut watched = self.watched.lock();
        let changed = watched.look();
        if changed.certificates {
            self.store.swap(Part::Files, watched.certificates());
        }
        if changed.clients {
            // It was tried when it was read.
            if let Err(error) = self.server.hold_clients_to(watched.clients()) {
                log::error!("tls.client_ca: {error}; clients are held to what they were before");
            }
        }
        drop(watched);
        if let Some(keys) = changed.ticket_keys
            && self.server.tickets().replace(keys)
        {
            log::info!("tls.ticket_keys: others are in use now");
        }
        if self.server.tickets().rotate(now) {
            log::debug!("the keys of TLS tickets were rotated");
        }
    }
}
