//! The object `upstream_tls`: how backends are known that are reached by TLS, and what they are shown.

use std::path::PathBuf;

use super::error::{FieldPlace, Position, Problem};
use super::fields::Fields;
use super::json::Node;
use super::schema::{UPSTREAM_TLS, home_of};
use super::tls::TlsVersion;
use super::url;

const PATH_BYTES_MAX: usize = 4096;

/// How backends are known that are reached by TLS, and what they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// A file of the authorities that are trusted, PEM; None: those of the system.
    pub ca: Option<PathBuf>,
    /// The name that is asked for and verified; None: the host of each backend's URL.
    pub server_name: Option<String>,
    /// What is shown to backends that ask for a certificate.
    pub client: Option<ClientFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether backends have to prove who they are.
    pub verify: bool,
}

/// The files of the certificate that backends are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// Its chain, PEM, its own certificate first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { ca: None, server_name: None, client: None, min_version: TlsVersion::V1_2, verify: true }
    }
}

/// Reads `upstream_tls`; null, and what is missing, is every default.
pub(super) fn read(root: &mut Fields, into: &mut UpstreamTls) {
    let Some(field) = root.find_set("upstream_tls") else { return };
    let Some(mut fields) = field.open(UPSTREAM_TLS, home_of, root.problems) else { return };
    into.ca = file(&mut fields, "ca");
    let wanted = "a host name or an IP address, or null";
    fields.optional_text("server_name", wanted, url::is_host, &mut into.server_name);
    into.client = match (file(&mut fields, "client_cert"), file(&mut fields, "client_key")) {
        (Some(cert), Some(key)) => Some(ClientFiles { cert, key }),
        _ => None,
    };
    for (given, other, wanted) in [
        ("client_cert", "client_key", "the file of its private key"),
        ("client_key", "client_cert", "the file of its certificate"),
    ] {
        if let (Some(given), None) = (fields.find_set(given), fields.find_set(other)) {
            fields.problems.note(&field.path_of(other), given.node.at, Problem::Missing { wanted });
        }
    }
    if let Some(nth) = fields.word("min_version", &["1.2", "1.3"]) {
        into.min_version = [TlsVersion::V1_2, TlsVersion::V1_3][nth];
    }
    fields.flag("verify", &mut into.verify);
    if let (false, Some(ca)) = (into.verify, fields.find_set("ca")) {
        ca.unfit(fields.problems, "none, since \"verify\" is false");
    }
}

/// A path; null is none.
fn file(fields: &mut Fields, name: &str) -> Option<PathBuf> {
    let mut path = None;
    let fits = |text: &str| (1..=PATH_BYTES_MAX).contains(&text.len()) && !text.contains('\0');
    fields.optional_text(name, "the path of a file, or null", fits, &mut path);
    path.map(PathBuf::from)
}

/// Where each of its fields stands that is there, for what the files hold that they name.
pub(super) fn places(root: &Node, text: &str) -> Vec<FieldPlace> {
    let place = |name: &&str| {
        let at = root.member("upstream_tls")?.member(name)?.at;
        Some(FieldPlace { path: format!("upstream_tls.{name}"), position: Some(Position::of(text, at)) })
    };
    UPSTREAM_TLS.iter().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn what_backends_are_known_by_is_read() {
        let read = |text: &str| parse(text).unwrap_or_else(|errors| panic!("{errors}")).upstream_tls;
        assert_eq!(read("{}"), UpstreamTls::default());
        assert_eq!(read(r#"{"upstream_tls": null}"#), UpstreamTls::default());
        assert!(read("{}").verify);
        let full = r#"{"upstream_tls": {"ca": "ca.pem", "server_name": "a.example", "client_cert": "c.pem",
            "client_key": "k.pem", "min_version": "1.3", "verify": true}}"#;
        let want = UpstreamTls {
            ca: Some("ca.pem".into()),
            server_name: Some("a.example".into()),
            client: Some(ClientFiles { cert: "c.pem".into(), key: "k.pem".into() }),
            min_version: TlsVersion::V1_3,
            verify: true,
        };
        assert_eq!(read(full), want);
        assert!(!read(r#"{"upstream_tls": {"ca": null, "verify": false}}"#).verify);
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        let cases: &[(&str, &[&str])] = &[
            (r#"{"upstream_tls": []}"#, &["upstream_tls: found a list, wanted an object"]),
            (
                r#"{"upstream_tls": {"ca": "", "server_name": "a b", "min_version": "1.1", "verify": "no"}}"#,
                &[
                    "upstream_tls.ca: found \"\", wanted the path of a file, or null",
                    "upstream_tls.server_name: found \"a b\", wanted a host name or an IP address, or null",
                    "upstream_tls.min_version: found \"1.1\", wanted \"1.2\" or \"1.3\"; did you mean \"1.2\"?",
                    "upstream_tls.verify: found \"no\", wanted true or false",
                ],
            ),
            (
                r#"{"upstream_tls": {"client_cert": "c.pem"}}"#,
                &["upstream_tls.client_key: missing, wanted the file of its private key"],
            ),
            (
                r#"{"upstream_tls": {"client_key": "k.pem", "verfy": false}}"#,
                &[
                    "upstream_tls.client_cert: missing, wanted the file of its certificate",
                    "upstream_tls.verfy: unknown field, did you mean \"verify\"?",
                ],
            ),
            (
                r#"{"upstream_tls": {"ca": "ca.pem", "verify": false}}"#,
                &["upstream_tls.ca: found \"ca.pem\", wanted none, since \"verify\" is false"],
            ),
        ];
        for (text, wanted) in cases {
            let errors = parse(text).expect_err(text);
            let told: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, *wanted, "{text}");
        }
    }
}
