//! From what the configuration says of TLS towards backends to what connections and health checks go by.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{TlsVersion, UpstreamTls};
use crate::transport::client::{BackendTls, ClientRules, ClientRulesError};
use crate::transport::pem;

/// Far above a system's authorities together.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What can't be used of what `upstream_tls` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The field, such as `upstream_tls.ca`.
    pub field: &'static str,
    /// The file that it names.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads the files that are named, and makes of them what connections to backends go by. Authorities of the system aren't
/// read yet, see [`BackendTls::make_ready`].
///
/// # Errors
/// A file can't be read, or doesn't hold what it should.
pub fn read(config: &UpstreamTls) -> Result<Arc<BackendTls>, Unusable> {
    let authorities = match &config.ca {
        Some(file) => Some(section(CA, file, pem::certificates)?),
        None => None,
    };
    let certificate = match &config.client {
        Some(files) => {
            let chain = section(CERTIFICATE, &files.cert, pem::certificates)?;
            Some((chain, section(KEY, &files.key, pem::private_key)?))
        }
        None => None,
    };
    let rules = ClientRules {
        authorities,
        server_name: config.server_name.clone(),
        certificate,
        tls13_only: config.min_version == TlsVersion::V1_3,
        unverified: !config.verify,
    };
    let of = |field, file: Option<&PathBuf>, reason: String| {
        let file = file.cloned().unwrap_or_default();
        Unusable { field, file, reason }
    };
    BackendTls::new(rules).map(Arc::new).map_err(|error| match &error {
        ClientRulesError::Authorities => of(CA, config.ca.as_ref(), error.to_string()),
        ClientRulesError::ServerName => of("upstream_tls.server_name", None, error.to_string()),
        ClientRulesError::Chain(_) => {
            of(CERTIFICATE, config.client.as_ref().map(|files| &files.cert), error.to_string())
        }
        ClientRulesError::Key(_) => of(KEY, config.client.as_ref().map(|files| &files.key), error.to_string()),
    })
}

const CA: &str = "upstream_tls.ca";
const CERTIFICATE: &str = "upstream_tls.client_cert";
const KEY: &str = "upstream_tls.client_key";

/// What `parse` finds in a file.
fn section<T>(field: &'static str, file: &Path, parse: fn(&[u8]) -> Result<T, pem::PemError>) -> Result<T, Unusable> {
    let unusable = |reason| Unusable { field, file: file.to_owned(), reason };
    let text = bytes(file).map_err(|error| unusable(format!("can't be read: {error}")))?;
    parse(&text).map_err(|error| unusable(error.to_string()))
}

fn bytes(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.field, self.file.display(), self.reason)
    }
}

impl std::error::Error for Unusable {}
