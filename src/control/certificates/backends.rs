//! What `upstream_tls` names in files, read and checked: whom backends are vouched for by, and what they are shown.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::age::Peers;
use super::files::{LIST_BYTES_MAX, Named, Pair, Wrong};
use crate::config::{TlsVersion, UpstreamTls};
use crate::transport::client::{BackendTls, ClientRules};
use crate::transport::{Certificate, pem};

const CA: &str = "upstream_tls.ca";

/// Reads the files that are named, and makes of them what connections to backends go by. Authorities of the system aren't
/// read yet, see [`BackendTls::make_ready`].
///
/// # Errors
/// Everything that is wrong with them.
pub fn read(config: &UpstreamTls) -> Result<BackendTls, Vec<Wrong>> {
    let (authorities, certificate) = match (read_authorities(config), read_certificate(config)) {
        (Ok(authorities), Ok(certificate)) => (authorities, certificate),
        (authorities, certificate) => return Err(authorities.err().into_iter().chain(certificate.err()).collect()),
    };
    let rules = ClientRules {
        authorities,
        server_name: config.server_name.clone(),
        certificate,
        tls13_only: config.min_version == TlsVersion::V1_3,
        unverified: !config.verify,
    };
    // Whatever is in the files has been looked at.
    let of_name = |error: &dyn ToString| {
        vec![Wrong { field: "upstream_tls.server_name".to_owned(), file: PathBuf::new(), reason: error.to_string() }]
    };
    BackendTls::new(rules).map_err(|error| of_name(&error))
}

/// Everything that is wrong with the files of `upstream_tls`; a certificate that isn't valid at this moment is, too.
pub fn examine(config: &UpstreamTls, now: SystemTime) -> Vec<Wrong> {
    let mut wrong: Vec<_> = read_authorities(config).err().into_iter().collect();
    wrong.extend(pair(config).into_iter().flat_map(|pair| pair.faults(Peers::Backends, now)));
    wrong
}

/// The authorities in `upstream_tls.ca` that aren't valid at this moment, whose backends are taken all the same.
pub fn outdated(config: &UpstreamTls, now: SystemTime) -> Vec<Wrong> {
    let (Some(file), Ok(Some(authorities))) = (&config.ca, read_authorities(config)) else { return Vec::new() };
    Named { field: CA.to_owned(), file }.outdated(&authorities, Peers::Backends, now)
}

/// The authorities that are named, in DER.
pub(super) fn read_authorities(config: &UpstreamTls) -> Result<Option<Vec<Vec<u8>>>, Wrong> {
    let Some(file) = &config.ca else { return Ok(None) };
    let named = Named { field: CA.to_owned(), file };
    let authorities =
        pem::certificates(&named.read(LIST_BYTES_MAX)?).map_err(|error| named.wrong(error.to_string()))?;
    let rules = ClientRules { authorities: Some(authorities), ..ClientRules::default() };
    rules.check().map_err(|error| named.wrong(error.to_string()))?;
    Ok(rules.authorities)
}

/// What backends are shown that ask for a certificate.
pub(super) fn read_certificate(config: &UpstreamTls) -> Result<Option<Arc<Certificate>>, Wrong> {
    pair(config).map(|pair| pair.read().map(Arc::new)).transpose()
}

fn pair(config: &UpstreamTls) -> Option<Pair<'_>> {
    let named = |name, file| Named { field: format!("upstream_tls.{name}"), file };
    config.client.as_ref().map(|files| Pair::of(named("client_cert", &files.cert), named("client_key", &files.key)))
}
