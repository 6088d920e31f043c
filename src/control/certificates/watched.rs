//! What is in use of the files of `tls`, and what has changed of them since they were looked at last.

use std::hash::RandomState;
use std::path::Path;
use std::sync::Arc;

use super::age::{Dated, Peers};
use super::files::{Materials, Pair, Wrong, read_clients, read_ticket_keys};
use super::group::{Group, contents};
use crate::config::Tls;
use crate::control::timestamp::rfc3339;
use crate::transport::{Certificate, ClientRules, Summary, TicketKey};

/// Each group of files that are read together, with what was last read of it that was whole.
#[derive(Debug)]
pub(super) struct Watched {
    tls: Tls,
    hash: RandomState,
    certificates: Vec<Group<Arc<Certificate>>>,
    clients: Group<Option<ClientRules>>,
    /// Those whom clients are vouched for by.
    authorities: Vec<Summary>,
    ticket_keys: Group<Option<Vec<TicketKey>>>,
}

/// What a look has found to be new and whole.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) certificates: bool,
    pub(super) clients: bool,
    pub(super) ticket_keys: Option<Vec<TicketKey>>,
}

impl Watched {
    /// With what was read at the start in use.
    pub(super) fn of(tls: &Tls, materials: Materials) -> Self {
        let Materials { certificates, clients, ticket_keys } = materials;
        Self {
            tls: tls.clone(),
            hash: RandomState::new(),
            certificates: certificates.into_iter().map(Group::of).collect(),
            authorities: authorities(clients.as_ref()),
            clients: Group::of(clients),
            ticket_keys: Group::of(ticket_keys),
        }
    }

    /// Reads what has changed, and takes it into use where it is whole. Tells what is broken, once.
    pub(super) fn look(&mut self) -> Changed {
        let mut changed = Changed::default();
        let Self { tls, hash, certificates, clients, authorities: of_clients, ticket_keys } = self;
        for (nth, (files, group)) in tls.certificates.iter().zip(certificates).enumerate() {
            let paths = [Some(&files.cert), Some(&files.key), files.ocsp.as_ref()];
            let seen = contents(hash, paths.into_iter().flatten());
            let before = *group.in_use.fingerprint();
            if group.look(seen, || Pair::of_clients(nth, files).read().map(Arc::new)) {
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
            *of_clients = authorities(clients.in_use.as_ref());
            log::info!("tls.client_ca: clients are held to what has changed; no session from before is resumed");
        }
        let seen = contents(hash, &tls.ticket_keys);
        if ticket_keys.look(seen, || read_ticket_keys(tls)) {
            changed.ticket_keys.clone_from(&ticket_keys.in_use);
        }
        changed
    }

    /// What is wrong with what was seen last.
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

    /// Whose time is looked at beside that of what is shown.
    pub(super) fn dated(&self) -> impl Iterator<Item = Dated<'_>> {
        let file = self.tls.client_ca.as_deref().unwrap_or_else(|| Path::new(""));
        self.authorities.iter().map(move |authority| Dated::authority(authority, file, Peers::Clients))
    }
}

fn authorities(clients: Option<&ClientRules>) -> Vec<Summary> {
    clients.map(|rules| Summary::of_all(&rules.authorities)).unwrap_or_default()
}
