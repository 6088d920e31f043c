//! What `GET /certificates` answers. Fields: `docs/admin-api.md`.

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;

use super::age::Age;
use super::files::Wrong;
use crate::control::timestamp::rfc3339;
use crate::transport::{Certificate, Certificates, Source};

/// What is shown to clients now, and what is wrong with the files that it is from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CertificateList {
    certificates: Vec<View>,
    problems: Vec<Broken>,
}

#[derive(Clone, Debug, Serialize)]
struct View {
    names: Vec<String>,
    subject: String,
    issuer: String,
    serial: String,
    not_before: String,
    not_after: String,
    expires_in_s: u64,
    state: &'static str,
    key: &'static str,
    sha256: String,
    chain_length: usize,
    ocsp: bool,
    source: SourceView,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
enum SourceView {
    Files { cert: String, key: String },
    Acme { directory: String },
    Own,
}

#[derive(Clone, Debug, Serialize)]
struct Broken {
    field: String,
    file: String,
    problem: String,
}

impl CertificateList {
    pub(super) fn of(certificates: &Certificates, wrong: &[Wrong], now: SystemTime) -> Self {
        let problem = |wrong: &Wrong| Broken {
            field: wrong.field.clone(),
            file: wrong.file.display().to_string(),
            problem: wrong.reason.clone(),
        };
        let certificates = certificates.all().iter().map(|certificate| View::of(certificate, now)).collect();
        Self { certificates, problems: wrong.iter().map(problem).collect() }
    }
}

impl View {
    fn of(certificate: &Certificate, now: SystemTime) -> Self {
        Self {
            names: certificate.names().collect(),
            subject: certificate.subject().to_owned(),
            issuer: certificate.issuer().to_owned(),
            serial: certificate.serial().to_owned(),
            not_before: rfc3339(certificate.not_before()),
            not_after: rfc3339(certificate.not_after()),
            expires_in_s: certificate.not_after().duration_since(now).unwrap_or_default().as_secs(),
            state: Age::of(certificate.validity(), now).name(),
            key: certificate.key_kind(),
            sha256: hex(certificate.fingerprint()),
            chain_length: certificate.chain_length(),
            ocsp: certificate.has_ocsp(),
            source: match certificate.source() {
                Source::Files { cert, key } => {
                    SourceView::Files { cert: cert.display().to_string(), key: key.display().to_string() }
                }
                Source::Acme { directory } => SourceView::Acme { directory: directory.clone() },
                Source::Own => SourceView::Own,
            },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
