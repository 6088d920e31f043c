//! What lives here: the JSON as people write it (`json`, `schema`, `fields`, `raw`), and the checked configuration that can't be
//! wrong (`checked`, `url`, `duration`). It is read by all and reads none.
//!
//! The way from one to the other: text → `json` (a tree with positions) → `raw` (which fields there are, what they may
//! hold, and what must fit together) → [`Config`]. Every step goes on after a mistake, so that all of them are told at
//! once, each with its JSON path and its place in the file.

mod backends;
mod checked;
mod circuit_breaker;
mod duration;
mod error;
mod expect;
mod fields;
mod hash_key;
mod json;
mod listening;
mod nearest;
mod number;
mod queue;
mod rate_limit;
mod raw;
mod schema;
mod sticky;
mod tls;
mod tls_fields;
mod upstream_tls;
mod url;
mod values;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

pub use backends::{BACKENDS_MAX, parse_backend, parse_backend_change, parse_backend_change_by_url, parse_backend_url};
pub use checked::{
    BackendChange, BackendConfig, BackendState, CircuitBreaker, Config, HashKey, HealthCheck, Limits, Queue, RateKey,
    RateLimit, Retries, Strategy, Timeouts, WhenAllDown,
};
pub use duration::{DurationError, parse_duration};
pub use error::{ConfigErrors, FieldError, FieldPlace, Position, Problem};
pub use nearest::nearest;
pub use sticky::{SameSite, Secret, Secure, Sticky, StickyCookie};
pub use tls::{Acme, AcmeChallenge, CertificateFiles, ClientAuth, Hsts, Listener, Tls, TlsVersion};
pub use upstream_tls::{ClientFiles, UpstreamTls};
pub use url::{BackendUrl, UrlError, authority};

/// The largest file that is read as a configuration: far above 4,096 backends, far below what would hurt.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads and checks the configuration in `path`. Reports everything that is wrong in it, in the file's order.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let found = examine(path);
    found.config.ok_or(found.errors)
}

/// Checks a configuration that is at hand as text (JSON, RFC 8259); its errors name no file.
pub fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let found = examine_text(text, None);
    found.config.ok_or(found.errors)
}

/// Everything that can be said of a configuration file, right or wrong.
#[derive(Debug)]
pub struct Examined {
    /// The configuration; none when there is any error.
    pub config: Option<Config>,
    /// Everything that is wrong, in the file's order; empty when `config` is there.
    pub errors: ConfigErrors,
    /// The backends that are right, each with where its URL stands, whatever is wrong elsewhere: so that their names
    /// can be looked up and all errors told at once.
    pub backends: Vec<(BackendUrl, FieldPlace)>,
    /// As [`Config::listens_on`], whatever is wrong elsewhere.
    pub listeners: Vec<(SocketAddr, &'static str)>,
    /// What `upstream_tls` says, whatever is wrong elsewhere, and where its fields stand: so that what is wrong with files can
    /// be told of these.
    pub upstream_tls: (UpstreamTls, Vec<FieldPlace>),
    /// `tls`, if all is well with it, whatever is wrong elsewhere: so that its files can be looked at.
    pub tls: Option<Tls>,
    /// Where the files of `tls` are named.
    pub files: Vec<FieldPlace>,
}

/// Reads `path` as [`load`] does, and keeps what is right in a file that has errors.
pub fn examine(path: &Path) -> Examined {
    match read_bounded(path) {
        Ok(text) => examine_text(&text, Some(path)),
        Err(problem) => Examined {
            config: None,
            errors: ConfigErrors::new(Some(path), vec![FieldError { path: String::new(), position: None, problem }]),
            backends: Vec::new(),
            listeners: Vec::new(),
            upstream_tls: (UpstreamTls::default(), Vec::new()),
            tls: None,
            files: Vec::new(),
        },
    }
}

fn examine_text(text: &str, file: Option<&Path>) -> Examined {
    let mut tls_places = Vec::new();
    let read = match json::parse(text) {
        Ok((root, text)) => {
            tls_places = upstream_tls::places(&root, text);
            raw::check(&root, text)
        }
        Err(error) => raw::Read { errors: vec![error], ..raw::Read::default() },
    };
    let raw::Read { config, backends: places, files, is_tls_right, errors } = read;
    let backends = config.backends.iter().map(|backend| backend.url.clone()).zip(places).collect();
    Examined {
        upstream_tls: (config.upstream_tls.clone(), tls_places),
        listeners: config.listens_on(),
        tls: config.tls.clone().filter(|_| is_tls_right),
        files,
        config: errors.is_empty().then_some(config),
        errors: ConfigErrors::new(file, errors),
        backends,
    }
}

fn read_bounded(path: &Path) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| Problem::Unreadable { reason: error.to_string() };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Problem::TooLarge { bytes_max: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|error| Problem::NotUtf8 { at: error.utf8_error().valid_up_to() })
}

#[cfg(test)]
mod tests;
