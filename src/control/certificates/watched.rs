//! What is in use of the files of `tls`, and what has changed of them since they were looked at last.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use super::files::{Materials, Pair, Wrong, read_bounded, read_clients, read_ticket_keys};
use crate::config::Tls;
use crate::control::timestamp::rfc3339;
use crate::transport::{Certificate, ClientRules, TicketKey};

/// More of a file isn't looked at: what is larger isn't read either.
const LOOKED_AT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Each group of files that are read together, with what was last read of it that was whole.
#[derive(Debug)]
pub(super) struct Watched {
    tls: Tls,
    hash: RandomState,
    certificates: Vec<Group<Arc<Certificate>>>,
    clients: Group<Option<ClientRules>>,
    ticket_keys: Group<Option<Vec<TicketKey>>>,
}

/// What a look has found to be new and whole.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) certificates: bool,
    pub(super) clients: bool,
    pub(super) ticket_keys: Option<Vec<TicketKey>>,
}

/// Files that are read together.
#[derive(Debug)]
struct Group<T> {
    /// A hash of what was in them when they were looked at last; None: they weren't since the start.
    seen: Option<u64>,
    in_use: T,
    /// What is wrong with what was seen.
    wrong: Option<Wrong>,
}

impl Watched {
    /// With what was read at the start in use.
    pub(super) fn of(tls: &Tls, materials: Materials) -> Self {
        let Materials { certificates, clients, ticket_keys } = materials;
        Self {
            tls: tls.clone(),
            hash: RandomState::new(),
            certificates: certificates.into_iter().map(Group::of).collect(),
            clients: Group::of(clients),
            ticket_keys: Group::of(ticket_keys),
        }
    }

    /// Reads what has changed, and takes it into use where it is whole. Tells what is broken, once.
    pub(super) fn look(&mut self) -> Changed {
        let mut changed = Changed::default();
        let Self { tls, hash, certificates, clients, ticket_keys } = self;
        for (nth, (files, group)) in tls.certificates.iter().zip(certificates).enumerate() {
            let paths = [Some(&files.cert), Some(&files.key), files.ocsp.as_ref()];
            let seen = contents(hash, paths.into_iter().flatten());
            let before = *group.in_use.fingerprint();
            if group.look(seen, || Pair { nth, files }.read().map(Arc::new)) {
                changed.certificates = true;
                let now = &group.in_use;
                if *now.fingerprint() != before {
                    let names: Vec<_> = now.names().collect();
                    let (names, until) = (names.join(", "), rfc3339(now.not_after()));
                    log::info!("tls.certificates[{nth}]: a new certificate of {names} is in use, valid until {until}");
                }
            }
        }
        let seen = contents(hash, tls.client_ca.iter().chain(&tls.crl));
        let before = clients.in_use.clone();
        if clients.look(seen, || read_clients(tls)) && clients.in_use != before {
            changed.clients = true;
            log::info!("tls.client_ca: clients are held to what has changed; no session from before is resumed");
        }
        let seen = contents(hash, &tls.ticket_keys);
        if ticket_keys.look(seen, || read_ticket_keys(tls)) {
            changed.ticket_keys.clone_from(&ticket_keys.in_use);
        }
        changed
    }

    /// Nothing is wrong with what was seen last.
    pub(super) fn is_well(&self) -> bool {
        self.wrong().next().is_none()
    }

    /// What is.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &Wrong> {
        let certificates = self.certificates.iter().map(|group| &group.wrong);
        certificates.chain([&self.clients.wrong, &self.ticket_keys.wrong]).flatten()
    }

    pub(super) fn certificates(&self) -> Vec<Arc<Certificate>> {
        self.certificates.iter().map(|group| Arc::clone(&group.in_use)).collect()
    }

    pub(super) const fn clients(&self) -> Option<&ClientRules> {
        self.clients.in_use.as_ref()
    }
}

impl<T> Group<T> {
    const fn of(in_use: T) -> Self {
        Self { seen: None, in_use, wrong: None }
    }

    /// Reads them anew if they hold something else than when they were seen last. True when what was read is in use now.
    fn look(&mut self, seen: u64, read: impl FnOnce() -> Result<T, Wrong>) -> bool {
        if self.seen.replace(seen) == Some(seen) {
            return false;
        }
        match read() {
            Ok(read) => {
                if let Some(wrong) = self.wrong.take() {
                    log::info!("{}: it is well again", wrong.field);
                }
                self.in_use = read;
                true
            }
            Err(wrong) => {
                log::error!("{wrong}; what was there before stays in use");
                self.wrong = Some(wrong);
                false
            }
        }
    }
}

/// A hash of all that is in these files, and of why it isn't to be read.
fn contents<'p>(hash: &RandomState, paths: impl IntoIterator<Item = &'p (impl AsRef<Path> + 'p)>) -> u64 {
    let mut hasher = hash.build_hasher();
    for path in paths {
        read_bounded(path.as_ref(), LOOKED_AT_BYTES_MAX).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(reason: &str) -> Wrong {
        Wrong { field: "tls.x".to_owned(), file: "x".into(), reason: reason.to_owned() }
    }

    #[test]
    fn what_is_broken_leaves_what_was_before_in_use_and_is_read_again_when_it_changes() {
        let mut group = Group::of("old");
        assert!(group.look(1, || Ok("old")), "what changed while it started is found");
        assert!(!group.look(1, || unreachable!("nothing has changed")));
        assert!(!group.look(2, || Err(wrong("half"))));
        assert_eq!((group.in_use, &group.wrong), ("old", &Some(wrong("half"))));
        assert!(!group.look(2, || unreachable!("it was told")));
        assert!(group.look(3, || Ok("new")));
        assert_eq!((group.in_use, &group.wrong), ("new", &None));
        assert!(
            !group.look(4, || Err(wrong("half"))) && group.look(3, || Ok("new")),
            "the same as before is well again"
        );
        assert_eq!(group.wrong, None);
    }
}
