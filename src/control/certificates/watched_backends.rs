//! What is in use of the files of `upstream_tls`, and what has changed of them since they were looked at last.

use std::hash::RandomState;
use std::path::Path;
use std::sync::Arc;

use super::age::{Dated, Peers};
use super::backends::{read_authorities, read_certificate};
use super::files::Wrong;
use super::group::{Group, contents};
use crate::config::UpstreamTls;
use crate::control::timestamp::rfc3339;
use crate::transport::client::{BackendTls, ClientRules};
use crate::transport::{Certificate, Summary};

/// Both groups of files, with what was last read of them that was whole, and who goes by it.
#[derive(Debug)]
pub(super) struct WatchedBackends {
    config: UpstreamTls,
    tls: Arc<BackendTls>,
    hash: RandomState,
    authorities: Group<Option<Vec<Vec<u8>>>>,
    summaries: Vec<Summary>,
    certificate: Group<Option<Arc<Certificate>>>,
}

impl WatchedBackends {
    /// With what `tls` goes by in use.
    pub(super) fn of(config: UpstreamTls, tls: Arc<BackendTls>) -> Self {
        let ClientRules { authorities, certificate, .. } = tls.rules();
        Self {
            config,
            tls,
            hash: RandomState::new(),
            summaries: Summary::of_all(authorities.as_deref().unwrap_or_default()),
            authorities: Group::of(authorities),
            certificate: Group::of(certificate),
        }
    }

    /// Reads what has changed, and has new connections go by it where it is whole. Tells what is broken, once.
    pub(super) fn look(&mut self) {
        let Self { config, hash, authorities, certificate, .. } = self;
        let seen = contents(hash, &config.ca);
        let before = authorities.in_use.clone();
        let authorities_changed = authorities.look(seen, || read_authorities(config)) && authorities.in_use != before;
        let seen = contents(hash, config.client.iter().flat_map(|files| [&files.cert, &files.key]));
        let before = certificate.in_use.clone();
        let certificate_changed = certificate.look(seen, || read_certificate(config))
            && !is_same(certificate.in_use.as_ref(), before.as_ref());
        if !authorities_changed && !certificate_changed {
            return;
        }
        if authorities_changed {
            self.summaries = Summary::of_all(self.authorities.in_use.as_deref().unwrap_or_default());
        }
        let (authorities, certificate) = (self.authorities.in_use.clone(), self.certificate.in_use.clone());
        // It was tried when it was read.
        if let Err(error) = self.tls.replace(ClientRules { authorities, certificate, ..self.tls.rules() }) {
            log::error!("upstream_tls: {error}; connections to backends go by what they did before");
            return;
        }
        if authorities_changed {
            log::info!("upstream_tls.ca: backends are held to what has changed; no session from before is resumed");
        }
        if let Some(shown) = self.certificate.in_use.as_ref().filter(|_| certificate_changed) {
            let (owner, until) = (shown.subject(), rfc3339(shown.not_after()));
            log::info!(
                "upstream_tls.client_cert: backends are shown a new certificate, of {owner:?}, valid until {until}; no session from before is resumed"
            );
        }
    }

    /// What is wrong with what was seen last.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &Wrong> {
        [&self.authorities.wrong, &self.certificate.wrong].into_iter().flatten()
    }

    /// Whose time is looked at.
    pub(super) fn dated(&self) -> impl Iterator<Item = Dated<'_>> {
        let file = self.config.ca.as_deref().unwrap_or_else(|| Path::new(""));
        let authorities = self.summaries.iter().map(move |one| Dated::authority(one, file, Peers::Backends));
        let shown = self.certificate.in_use.iter().flat_map(|one| Dated::chain(one, Peers::Backends));
        authorities.chain(shown)
    }
}

/// Of the key nothing is compared: it is that of the first certificate.
fn is_same(one: Option<&Arc<Certificate>>, other: Option<&Arc<Certificate>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.chain().eq(other.chain()),
        (one, other) => one.is_none() && other.is_none(),
    }
}
