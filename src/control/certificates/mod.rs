//! The files of TLS: read at the start, looked at each minute and when a signal asks for it. What has changed and is whole takes
//! the place of what was before, for connections that begin from then on; what is broken is told loudly, and what was before
//! stays.
//!
//! `files.rs` reads what `tls` names, `watched.rs` knows what has changed of it, `age.rs` what is soon too old; `view.rs` has
//! what the admin API shows.

mod age;
mod files;
mod view;
mod watched;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use self::age::Warnings;
pub use self::files::{Materials, Wrong, examine};
pub use self::view::CertificateList;
use self::watched::Watched;
use crate::config::Tls;
use crate::transport::{CertificateStore, Part, TlsServer};

/// From one look at the files to the next.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The same while something is broken, at first: somebody may be about to write the other half.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(1);

/// Keeps what a TLS server shows up to date with its files. Its thread ends when it is stopped or dropped.
#[derive(Debug)]
pub struct CertificateKeeper {
    kept: Arc<Kept>,
    /// Asks for a look. None: it was stopped.
    wishes: Mutex<Option<Sender<()>>>,
}

#[derive(Debug)]
struct Kept {
    store: Arc<CertificateStore>,
    server: Arc<TlsServer>,
    watched: Mutex<Watched>,
    warnings: Mutex<Warnings>,
}

impl CertificateKeeper {
    /// Goes on from what was read at the start, which `store` and `server` have already, and looks at its files each `interval`.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        tls: &Tls,
        materials: Materials,
        store: Arc<CertificateStore>,
        server: Arc<TlsServer>,
        interval: Duration,
    ) -> io::Result<Self> {
        let (wishes, heard) = bounded(1);
        let watched = Mutex::new(Watched::of(tls, materials));
        let kept = Arc::new(Kept { store, server, watched, warnings: Mutex::default() });
        kept.warn(SystemTime::now());
        let work = Arc::clone(&kept);
        thread::Builder::new().name("maypole-certs".into()).spawn(move || work.look_each(interval, &heard))?;
        Ok(Self { kept, wishes: Mutex::new(Some(wishes)) })
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
        CertificateList::of(&self.kept.store.now(), self.kept.watched.lock().wrong(), SystemTime::now())
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
            let was_well = self.watched.lock().is_well();
            let is_well = self.look(SystemTime::now());
            next = match (was_well, is_well) {
                (_, true) => interval,
                (true, false) => LOOK_AGAIN_MIN.min(interval),
                (false, false) => (next * 2).min(interval),
            };
        }
    }

    /// Looks at all files, and lets what has changed and is whole take the place of what was before. Whether all was well.
    fn look(&self, now: SystemTime) -> bool {
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
        if let Some(keys) = changed.ticket_keys
            && self.server.tickets().replace(keys)
        {
            log::info!("tls.ticket_keys: others are in use now");
        }
        let is_well = watched.is_well();
        drop(watched);
        if self.server.tickets().rotate(now) {
            log::debug!("the keys of TLS tickets were rotated");
        }
        self.warn(now);
        is_well
    }

    fn warn(&self, now: SystemTime) {
        let shown = self.store.now();
        let lines = self.warnings.lock().due(shown.all(), now);
        for line in lines {
            log::warn!("{line}");
        }
    }
}
