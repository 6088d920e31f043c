//! What `tls` names in files, read and checked: certificates with their keys, whom clients are vouched for by, keys of tickets.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::age::{Dated, Peers};
use crate::config::{CertificateFiles, ClientAuth, Tls};
use crate::control::acme::{self, CacheError};
use crate::transport::{Certificate, CertificateError, ClientRules, Source, Summary, TicketKey, pem};

/// A chain, a key, an OCSP answer: a hundred times what they take.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Authorities may be many, and have revoked much.
pub(super) const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// All that the files of `tls` hold.
#[derive(Debug, Default)]
pub struct Materials {
    /// In the order of the file.
    pub certificates: Vec<Arc<Certificate>>,
    /// What clients are held to; None: nothing.
    pub clients: Option<ClientRules>,
    /// The newest first; None: the process has its own.
    pub ticket_keys: Option<Vec<TicketKey>>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The field that names it.
    pub field: String,
    /// The file.
    pub file: PathBuf,
    /// What was found, and what was wanted.
    pub reason: String,
}

impl Materials {
    /// Reads all files.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(tls: &Tls) -> Result<Self, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let mut take = |found: Wrong| wrong.push(found);
        let pairs = tls.certificates.iter().enumerate();
        let read = |(nth, files)| Pair::of_clients(nth, files).read().map_err(&mut take).ok();
        let certificates = pairs.filter_map(read).map(Arc::new).collect();
        let clients = read_clients(tls).map_err(&mut take).unwrap_or_default();
        let ticket_keys = read_ticket_keys(tls).map_err(&mut take).unwrap_or_default();
        if wrong.is_empty() { Ok(Self { certificates, clients, ticket_keys }) } else { Err(wrong) }
    }
}

/// Everything that is wrong with the files of `tls`; certificates that aren't valid at this moment are, too.
pub fn examine(tls: &Tls, now: SystemTime) -> Vec<Wrong> {
    let pairs = tls.certificates.iter().enumerate();
    let mut wrong: Vec<_> =
        pairs.flat_map(|(nth, files)| Pair::of_clients(nth, files).faults(Peers::Clients, now)).collect();
    wrong.extend(read_clients(tls).err());
    wrong.extend(read_ticket_keys(tls).err());
    let cache = tls.acme.as_ref().and_then(|acme| acme::check(acme).err());
    let of_cache =
        |error: CacheError| Wrong { field: "tls.acme.cache".into(), reason: error.because(), file: error.path };
    wrong.extend(cache.map(of_cache));
    wrong
}

/// The authorities in `tls.client_ca` that aren't valid at this moment, whose clients are taken all the same.
pub fn outdated(tls: &Tls, now: SystemTime) -> Vec<Wrong> {
    let (Some(file), Ok(Some(rules))) = (&tls.client_ca, read_clients(tls)) else { return Vec::new() };
    Named { field: "tls.client_ca".to_owned(), file }.outdated(&rules.authorities, Peers::Clients, now)
}

/// The files of one certificate.
pub(super) struct Pair<'p> {
    cert: Named<'p>,
    key: Named<'p>,
    ocsp: Option<Named<'p>>,
}

/// A file, and the field that names it.
pub(super) struct Named<'p> {
    pub(super) field: String,
    pub(super) file: &'p Path,
}

impl<'p> Pair<'p> {
    /// What clients are shown.
    pub(super) fn of_clients(nth: usize, files: &'p CertificateFiles) -> Self {
        let named = |field: &str, file| Named { field: format!("tls.certificates[{nth}].{field}"), file };
        Self {
            cert: named("cert", &files.cert),
            key: named("key", &files.key),
            ocsp: files.ocsp.as_deref().map(|file| named("ocsp", file)),
        }
    }

    /// Without an OCSP answer.
    pub(super) const fn of(cert: Named<'p>, key: Named<'p>) -> Self {
        Self { cert, key, ocsp: None }
    }

    pub(super) fn read(&self) -> Result<Certificate, Wrong> {
        let Self { cert, key, ocsp } = self;
        let chain = cert.read(FILE_BYTES_MAX)?;
        let chain = pem::certificates(&chain).map_err(|error| cert.wrong(error.to_string()))?;
        let der = key.read(FILE_BYTES_MAX)?;
        let der = pem::private_key(&der).map_err(|error| key.wrong(error.to_string()))?;
        let ocsp = ocsp.as_ref().map(read_ocsp).transpose()?;
        let made = Certificate::of(chain, der, ocsp).map_err(|error| match error {
            CertificateError::Key { .. } => key.wrong(error.to_string()),
            CertificateError::KeyOfAnother => key.wrong(format!("{error} in {}", cert.file.display())),
            error => cert.wrong(error.to_string()),
        })?;
        Ok(made.with_source(Source::Files { cert: cert.file.to_owned(), key: key.file.to_owned() }))
    }

    /// Everything that is wrong with them; one of the chain that isn't valid at this moment is, too.
    pub(super) fn faults(&self, peers: Peers, now: SystemTime) -> Vec<Wrong> {
        match self.read() {
            Ok(certificate) => {
                let faults = Dated::chain(&certificate, peers).filter_map(|dated| dated.fault(now));
                faults.map(|reason| self.cert.wrong(reason)).collect()
            }
            Err(wrong) => vec![wrong],
        }
    }
}

impl Named<'_> {
    pub(super) fn read(&self, bytes_max: u64) -> Result<Vec<u8>, Wrong> {
        read_bounded(self.file, bytes_max).map_err(|reason| self.wrong(reason))
    }

    pub(super) fn wrong(&self, reason: String) -> Wrong {
        Wrong { field: self.field.clone(), file: self.file.to_owned(), reason }
    }

    /// Those of the authorities in it that aren't valid at this moment.
    pub(super) fn outdated(&self, authorities: &[Vec<u8>], peers: Peers, now: SystemTime) -> Vec<Wrong> {
        let read = Summary::of_all(authorities).into_iter();
        let told = |authority| self.wrong(Dated::authority(&authority, self.file, peers).fault(now)?).into();
        read.filter_map(told).collect()
    }
}

fn read_ocsp(file: &Named) -> Result<Vec<u8>, Wrong> {
    let bytes = file.read(FILE_BYTES_MAX)?;
    let wanted = "found no OCSP answer, wanted DER of one that says how the certificate is (RFC 6960 §4.2.1)";
    if is_ocsp_answer(&bytes) { Ok(bytes) } else { Err(file.wrong(wanted.to_owned())) }
}

pub(super) fn read_clients(tls: &Tls) -> Result<Option<ClientRules>, Wrong> {
    let Some(file) = &tls.client_ca else { return Ok(None) };
    let of_ca = |reason| Wrong { field: "tls.client_ca".to_owned(), file: file.clone(), reason };
    let bytes = read_bounded(file, LIST_BYTES_MAX).map_err(of_ca)?;
    let authorities = pem::certificates(&bytes).map_err(|error| of_ca(error.to_string()))?;
    let optional = tls.client_auth == ClientAuth::Optional;
    let mut rules = ClientRules { authorities, revoked: Vec::new(), optional };
    rules.check().map_err(|error| of_ca(error.to_string()))?;
    let mut revoked = Vec::new();
    for (nth, file) in tls.crl.iter().enumerate() {
        let of_crl = |reason| Wrong { field: format!("tls.crl[{nth}]"), file: file.clone(), reason };
        let bytes = read_bounded(file, LIST_BYTES_MAX).map_err(of_crl)?;
        rules.revoked = pem::revocation_lists(&bytes).map_err(|error| of_crl(error.to_string()))?;
        rules.check().map_err(|error| of_crl(error.to_string()))?;
        revoked.append(&mut rules.revoked);
    }
    let rules = ClientRules { revoked, ..rules };
    if let Some(name) = rules.unlisted() {
        let reason = format!(
            "found no list from {name}, wanted one from each authority in this file: without it all of its clients are refused"
        );
        return Err(Wrong { field: "tls.crl".to_owned(), file: file.clone(), reason });
    }
    Ok(Some(rules))
}

pub(super) fn read_ticket_keys(tls: &Tls) -> Result<Option<Vec<TicketKey>>, Wrong> {
    let Some(file) = &tls.ticket_keys else { return Ok(None) };
    let wrong = |reason| Wrong { field: "tls.ticket_keys".to_owned(), file: file.clone(), reason };
    let mode = file.metadata().map_err(|error| wrong(unreadable(&error)))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let found = format!("found mode {mode:04o}, wanted 0600: with these keys one reads what clients have sent");
        return Err(wrong(found));
    }
    let bytes = read_bounded(file, FILE_BYTES_MAX).map_err(wrong)?;
    TicketKey::read(&bytes).map(Some).map_err(|error| wrong(error.to_string()))
}

pub(super) fn read_bounded(file: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    // A folder opens, and a pipe without a writer keeps whoever opens it.
    let opened = match file.metadata() {
        Ok(what) if !what.is_file() => return Err("found something else than a file".to_owned()),
        Ok(_) => File::open(file),
        Err(error) => Err(error),
    };
    let read = opened.and_then(|opened| opened.take(bytes_max + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(unreadable(&error)),
        Ok(_) if bytes.len() as u64 > bytes_max => Err(format!("found more than {bytes_max} bytes, wanted fewer")),
        Ok(_) => Ok(bytes),
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("can't be read: {error}")
}

/// Whether it is one whole DER sequence that begins with `successful` (RFC 6960 §4.2.1). What stands in it is the client's to
/// judge.
fn is_ocsp_answer(bytes: &[u8]) -> bool {
    let Some((&[0x30, first], rest)) = bytes.split_first_chunk() else { return false };
    let (length, body) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let digits = usize::from(first & 0x7f);
            let Some((digits, body)) = rest.split_at_checked(digits) else { return false };
            (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), body)
        }
        _ => return false,
    };
    body.len() == length && body.starts_with(&[0x0a, 0x01, 0x00])
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.field, self.file.display(), self.reason)
    }
}
