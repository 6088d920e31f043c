//! The object `tls`: what clients find on a TLS port.

use std::path::PathBuf;
use std::time::Duration;

use super::checked::{Config, HashKey, RateKey, Strategy};
use super::error::{FieldPlace, Problem};
use super::fields::{Field, Fields};
use super::json::Json;
use super::listening;
use super::schema::{ACME, CERTIFICATE, HSTS, TLS, home_of};
use super::tls::{Acme, AcmeChallenge, CertificateFiles, ClientAuth, Hsts, Tls, TlsVersion};
use super::values::is_token;

const CERTIFICATES_MAX: usize = 1000;
const CRLS_MAX: usize = 64;
/// As many as the system takes.
const PATH_BYTES_MAX: usize = 4096;
const HANDSHAKE_TIMEOUT_MIN: Duration = Duration::from_millis(100);
const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// What those who keep the browsers' list ask for at most (<https://hstspreload.org>).
const MAX_AGE_MAX: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// Names that one certificate is for: what the largest public authority gives.
const DOMAINS_MAX: usize = 100;
const EMAIL_BYTES_MAX: usize = 254;
const DIRECTORY_BYTES_MAX: usize = 2048;
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Fields that end at the next hop (RFC 9110 §7.6.1), and those that maypole reads or writes itself.
const TAKEN: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "host",
    "content-length",
    "expect",
    "max-forwards",
    "via",
    "forwarded",
    "x-request-id",
];

/// Reads `tls`; null, and what is missing, is none. Where its files are named goes to `places`. Whether all is well with it.
pub(super) fn read(root: &mut Fields, config: &mut Config, places: &mut Vec<FieldPlace>) -> bool {
    let Some(field) = root.find_set("tls") else { return true };
    let before = root.problems.count();
    let Some(mut fields) = field.open(TLS, home_of, root.problems) else { return false };
    let mut tls = Tls::with_bind(config.bind.clone());
    let mut files = Files { places };
    if fields.find("port").is_some_and(|port| port.is_null()) {
        tls.port = None;
    } else {
        let mut port = 8443;
        fields.whole("port", 0..=65535, &mut port);
        tls.port = Some(port);
    }
    listening::addresses(&mut fields, &mut tls.bind);
    certificates(&mut fields, &mut files, &mut tls.certificates);
    if let Some(nth) = fields.word("min_version", &["1.2", "1.3"]) {
        tls.min_version = [TlsVersion::V1_2, TlsVersion::V1_3][nth];
    }
    tls.client_ca = files.optional(&mut fields, "client_ca");
    crl(&mut fields, &mut files, &mut tls.crl);
    if let Some(nth) = fields.word("client_auth", &["require", "optional"]) {
        tls.client_auth = [ClientAuth::Require, ClientAuth::Optional][nth];
    }
    client_header(&mut fields, &said_by_clients(config), &mut tls.client_header);
    tls.ticket_keys = files.optional(&mut fields, "ticket_keys");
    fields.flag("strict_sni", &mut tls.strict_sni);
    fields.flag("redirect_http", &mut tls.redirect_http);
    hsts(&mut fields, &mut tls.hsts);
    fields.duration("handshake_timeout", HANDSHAKE_TIMEOUT_MIN..=HANDSHAKE_TIMEOUT_MAX, &mut tls.handshake_timeout);
    acme(&mut fields, &mut files, &mut tls.acme);
    fit_together(&mut fields, &field, &tls);
    config.tls = Some(tls);
    root.problems.count() == before
}

/// Paths of files, and where they stand.
struct Files<'p> {
    places: &'p mut Vec<FieldPlace>,
}

const PATH_WANTED: &str = "the path of a file";

impl Files<'_> {
    /// The path in the field; none where it holds something else, which is noted.
    fn path(&mut self, fields: &mut Fields, field: &Field) -> Option<PathBuf> {
        let text = field.text(fields.problems, PATH_WANTED)?;
        if text.is_empty() || text.len() > PATH_BYTES_MAX || text.contains('\0') {
            field.unfit(fields.problems, PATH_WANTED);
            return None;
        }
        self.places.push(FieldPlace { path: field.path.clone(), position: fields.problems.position(field.node.at) });
        Some(text.into())
    }

    fn optional(&mut self, fields: &mut Fields, name: &str) -> Option<PathBuf> {
        let field = fields.find_set(name)?;
        self.path(fields, &field)
    }

    fn needed(&mut self, fields: &mut Fields, of: &Field, name: &str) -> Option<PathBuf> {
        let Some(field) = fields.find(name) else {
            fields.problems.note(&of.path_of(name), of.node.at, Problem::Missing { wanted: PATH_WANTED });
            return None;
        };
        self.path(fields, &field)
    }
}

fn certificates(fields: &mut Fields, files: &mut Files, into: &mut Vec<CertificateFiles>) {
    let Some(field) = fields.find("certificates") else { return };
    let wanted = "a list of objects with \"cert\" and \"key\"";
    let Some(list) = field.list(fields.problems, 0..=CERTIFICATES_MAX, wanted) else { return };
    for field in list {
        let Some(mut of_one) = field.open(CERTIFICATE, home_of, fields.problems) else { continue };
        let cert = files.needed(&mut of_one, &field, "cert");
        let key = files.needed(&mut of_one, &field, "key");
        let ocsp = files.optional(&mut of_one, "ocsp");
        if let (Some(cert), Some(key)) = (cert, key) {
            into.push(CertificateFiles { cert, key, ocsp });
        }
    }
}

fn crl(fields: &mut Fields, files: &mut Files, into: &mut Vec<PathBuf>) {
    let Some(field) = fields.find("crl") else { return };
    let Some(list) = field.list(fields.problems, 0..=CRLS_MAX, "a list of paths of files") else { return };
    for field in list {
        into.extend(files.path(fields, &field));
    }
}

/// Fields by which clients are told apart as they say themselves.
fn said_by_clients(config: &Config) -> Vec<&str> {
    let limited = config.rate_limit.as_ref().map(|limit| &limit.key);
    let limited = if let Some(RateKey::Header(name)) = limited { Some(name) } else { None };
    let hashed = if let Strategy::Hash(HashKey::Header(name)) = &config.strategy { Some(name) } else { None };
    [limited, hashed].into_iter().flatten().map(String::as_str).collect()
}

fn client_header(fields: &mut Fields, said_by_clients: &[&str], into: &mut Option<String>) {
    let Some(field) = fields.find_set("client_header") else { return };
    let wanted = "the name of a field such as \"X-Client-Certificate\"";
    let Some(name) = field.text(fields.problems, wanted) else { return };
    let lower = name.to_ascii_lowercase().replace('_', "-");
    if !is_token(&name) {
        field.unfit(fields.problems, wanted);
    } else if TAKEN.contains(&lower.as_str()) || lower.starts_with("x-forwarded-") {
        let wanted = format!("{wanted}: this one ends at the next hop, or maypole writes it itself");
        field.unfit(fields.problems, wanted);
    } else if said_by_clients.iter().any(|said| said.eq_ignore_ascii_case(name)) {
        let wanted =
            format!("{wanted}: by this one \"rate_limit.key\" or \"hash_key\" takes what a client says of itself");
        field.unfit(fields.problems, wanted);
    } else {
        *into = Some(name.to_owned());
    }
}

fn hsts(fields: &mut Fields, into: &mut Option<Hsts>) {
    let Some(field) = fields.find_set("hsts") else { return };
    let Some(mut fields) = field.open(HSTS, home_of, fields.problems) else { return };
    let mut hsts = Hsts { max_age: YEAR, include_subdomains: false, preload: false };
    fields.duration("max_age", Duration::ZERO..=MAX_AGE_MAX, &mut hsts.max_age);
    fields.flag("include_subdomains", &mut hsts.include_subdomains);
    fields.flag("preload", &mut hsts.preload);
    if let (true, Some(field)) = (hsts.max_age.subsec_nanos() > 0, fields.find("max_age")) {
        field.unfit(fields.problems, "whole seconds");
    }
    if let (true, Some(field)) = (hsts.preload, fields.find("preload"))
        && (!hsts.include_subdomains || hsts.max_age < YEAR)
    {
        let wanted = "false, since browsers' lists take it with \"include_subdomains\" and a year of \"max_age\" alone";
        field.unfit(fields.problems, wanted);
    }
    *into = Some(hsts);
}

fn acme(fields: &mut Fields, files: &mut Files, into: &mut Option<Acme>) {
    let Some(field) = fields.find_set("acme") else { return };
    let Some(mut fields) = field.open(ACME, home_of, fields.problems) else { return };
    let mut acme = Acme {
        directory: LETS_ENCRYPT.to_owned(),
        email: None,
        domains: Vec::new(),
        cache: PathBuf::new(),
        challenge: AcmeChallenge::TlsAlpn01,
    };
    let is_url = |url: &str| {
        let rest = url.strip_prefix("https://").unwrap_or_default();
        !rest.is_empty() && url.len() <= DIRECTORY_BYTES_MAX && url.bytes().all(|byte| byte.is_ascii_graphic())
    };
    fields.checked_text("directory", "an https:// URL", is_url, &mut acme.directory);
    let is_email = |text: &str| {
        let parts = text.split_once('@').filter(|(user, host)| !user.is_empty() && is_domain(host));
        parts.is_some() && text.len() <= EMAIL_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    fields.optional_text("email", "an address such as \"ops@example.com\", or null", is_email, &mut acme.email);
    domains(&mut fields, &field, &mut acme.domains);
    if let Some(path) = files.needed(&mut fields, &field, "cache") {
        acme.cache = path;
    }
    if let Some(nth) = fields.word("challenge", &["tls-alpn-01", "http-01"]) {
        acme.challenge = [AcmeChallenge::TlsAlpn01, AcmeChallenge::Http01][nth];
    }
    *into = Some(acme);
}

fn domains(fields: &mut Fields, of: &Field, into: &mut Vec<String>) {
    let wanted = "a list of the names that certificates are for";
    let Some(field) = fields.find("domains") else {
        fields.problems.note(&of.path_of("domains"), of.node.at, Problem::Missing { wanted });
        return;
    };
    let Some(list) = field.list(fields.problems, 1..=DOMAINS_MAX, wanted) else { return };
    for field in list {
        let wanted = "a name such as \"www.example.com\", without a wildcard";
        let Some(name) = field.text(fields.problems, wanted) else { continue };
        let lower = name.to_ascii_lowercase();
        if !is_domain(&lower) {
            field.unfit(fields.problems, wanted);
        } else if into.contains(&lower) {
            field.unfit(fields.problems, "each name once");
        } else {
            into.push(lower);
        }
    }
}

/// A host's name of which no part is empty (RFC 1123 §2.1), and which is no address.
fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(is_label)
        && !name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn fit_together(fields: &mut Fields, whole: &Field, tls: &Tls) {
    let has_acme = fields.find_set("acme").is_some();
    let wanted = "at least one certificate, or \"acme\"";
    if tls.certificates.is_empty() && tls.acme.is_none() && !has_acme {
        match fields.find("certificates") {
            None => {
                fields.problems.note(&whole.path_of("certificates"), whole.node.at, Problem::Missing { wanted });
            }
            Some(field) if matches!(&field.node.value, Json::List(list) if list.is_empty()) => {
                field.unfit(fields.problems, wanted);
            }
            // What is wrong with it has been told.
            Some(_) => {}
        }
    }
    if fields.find_set("client_ca").is_none() {
        for (name, is_there) in [
            ("crl", !tls.crl.is_empty()),
            ("client_auth", tls.client_auth == ClientAuth::Optional),
            ("client_header", tls.client_header.is_some()),
        ] {
            if let (true, Some(field)) = (is_there, fields.find(name)) {
                field.unfit(fields.problems, "none, since there is no \"client_ca\"");
            }
        }
    }
}

#[cfg(test)]
mod tests;
