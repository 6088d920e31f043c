//! Where challenges are shown: over HTTP, or in a handshake.

use std::fmt;
use std::sync::Arc;

use super::error::AcmeError;
use super::made;
use crate::config::AcmeChallenge;
use crate::plan::Challenges;
use crate::transport::CertificateStore;

/// What is shown to authorities and to clients.
#[derive(Clone, Default)]
pub struct Site {
    /// What is answered over HTTP.
    pub challenges: Arc<Challenges>,
    /// What is shown in handshakes.
    pub store: Arc<CertificateStore>,
}

/// A challenge that is shown, until this is dropped.
pub(super) struct Showing<'a> {
    site: &'a Site,
    what: What,
}

enum What {
    Answer { token: String },
    Certificate { domain: String },
}

impl Site {
    /// Shows that this account controls `domain`.
    pub(super) fn show(
        &self,
        kind: AcmeChallenge,
        domain: &str,
        token: &str,
        key_authorization: &str,
    ) -> Result<Showing<'_>, AcmeError> {
        let what = match kind {
            AcmeChallenge::Http01 => {
                self.challenges.show(token, key_authorization);
                What::Answer { token: token.to_owned() }
            }
            AcmeChallenge::TlsAlpn01 => {
                self.store.set_challenge(domain, Arc::new(made::challenge(domain, key_authorization)?));
                What::Certificate { domain: domain.to_owned() }
            }
        };
        Ok(Showing { site: self, what })
    }
}

impl Drop for Showing<'_> {
    fn drop(&mut self) {
        match &self.what {
            What::Answer { token } => self.site.challenges.hide(token),
            What::Certificate { domain } => self.site.store.clear_challenge(domain),
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").finish_non_exhaustive()
    }
}
