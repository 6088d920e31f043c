//! What `tls` names in files, read and checked: certificates with their keys, whom clients are vouched for by, keys of tickets.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::age::Age;
use crate::config::{CertificateFiles, ClientAuth, Tls};
use crate::control::acme::{self, CacheError};
use crate::transport::{Certificate, CertificateError, ClientRules, Source, TicketKey, pem};

/// A chain, a key, an OCSP answer: a hundred times what they take.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Authorities may be many, and have revoked much.
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

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
        let certificates =
            pairs.filter_map(|(nth, files)| Pair { nth, files }.read().map_err(&mut take).ok()).map(Arc::new).collect();
        let clients = read_clients(tls).map_err(&mut take).unwrap_or_default();
        let ticket_keys = read_ticket_keys(tls).map_err(&mut take).unwrap_or_default();
        if wrong.is_empty() { Ok(Self { certificates, clients, ticket_keys }) } else { Err(wrong) }
    }
}

/// Everything that is wrong with the files of `tls`; certificates that aren't valid at this moment are, too.
pub fn examine(tls: &Tls, now: SystemTime) -> Vec<Wrong> {
    let pairs = tls.certificates.iter().enumerate();
    let mut wrong: Vec<_> = pairs
        .filter_map(|(nth, files)| {
            let pair = Pair { nth, files };
            pair.read().and_then(|certificate| pair.is_valid(&certificate, now)).err()
        })
        .collect();
    wrong.extend(read_clients(tls).err());
    wrong.extend(read_ticket_keys(tls).err());
    let cache = tls.acme.as_ref().and_then(|acme| acme::check(acme).err());
    let of_cache =
        |error: CacheError| Wrong { field: "tls.acme.cache".into(), reason: error.because(), file: error.path };
    wrong.extend(cache.map(of_cache));
    wrong
}

/// The files of one certificate.
pub(super) struct Pair<'t> {
    pub(super) nth: usize,
    pub(super) files: &'t CertificateFiles,
}

impl Pair<'_> {
    pub(super) fn read(&self) -> Result<Certificate, Wrong> {
        let CertificateFiles { cert, key, ocsp } = self.files;
        let of_pem = |field: &str, file: &Path, error: pem::PemError| self.wrong(field, file, error.to_string());
        let chain = self.bytes("cert", cert)?;
        let chain = pem::certificates(&chain).map_err(|error| of_pem("cert", cert, error))?;
        let der = self.bytes("key", key)?;
        let der = pem::private_key(&der).map_err(|error| of_pem("key", key, error))?;
        let ocsp = ocsp.as_deref().map(|file| self.ocsp(file)).transpose()?;
        let made = Certificate::of(chain, der, ocsp).map_err(|error| match error {
            CertificateError::Key { .. } => self.wrong("key", key, error.to_string()),
            CertificateError::KeyOfAnother => self.wrong("key", key, format!("{error} in {}", cert.display())),
            error => self.wrong("cert", cert, error.to_string()),
        })?;
        Ok(made.with_source(Source::Files { cert: cert.clone(), key: key.clone() }))
    }

    fn ocsp(&self, file: &Path) -> Result<Vec<u8>, Wrong> {
        let bytes = self.bytes("ocsp", file)?;
        let wanted = "found no OCSP answer, wanted DER of one that says how the certificate is (RFC 6960 §4.2.1)";
        if is_ocsp_answer(&bytes) { Ok(bytes) } else { Err(self.wrong("ocsp", file, wanted.to_owned())) }
    }

    fn is_valid(&self, certificate: &Certificate, now: SystemTime) -> Result<(), Wrong> {
        let age = Age::of(certificate, now);
        if age.is_valid() { Ok(()) } else { Err(self.wrong("cert", &self.files.cert, age.told(certificate))) }
    }

    fn bytes(&self, field: &str, file: &Path) -> Result<Vec<u8>, Wrong> {
        read_bounded(file, FILE_BYTES_MAX).map_err(|reason| self.wrong(field, file, reason))
    }

    fn wrong(&self, field: &str, file: &Path, reason: String) -> Wrong {
        Wrong { field: format!("tls.certificates[{}].{field}", self.nth), file: file.to_owned(), reason }
    }
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
