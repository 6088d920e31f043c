//! `maypole check`: everything that is wrong with a configuration, without starting anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use crate::config::{self, BackendUrl, FieldError, FieldPlace, Problem};

/// Names looked up at once: a resolver that doesn't answer costs seconds a name, and a file may have thousands.
const LOOKUPS_AT_ONCE: usize = 16;

/// Checks the configuration in `path`, names of backends included. Prints `PATH: ok, N backends` to stdout and ends with
/// 0, or one line for each error to stderr and ends with 2.
pub(super) fn run(path: &Path) -> ExitCode {
    let mut found = config::examine(path);
    found.errors.errors.extend(unresolved(&found.backends));
    found.errors.errors.sort_by_key(|error| error.position.map(|place| (place.line, place.column)));
    match found.config {
        Some(config) if found.errors.errors.is_empty() => {
            let count = config.backends.len();
            let plural = if count == 1 { "" } else { "s" };
            super::print(&format!("{}: ok, {count} backend{plural}", path.display()))
        }
        _ => super::bad_config(&found.errors),
    }
}

/// An error for each backend whose name has no address.
fn unresolved(backends: &[(BackendUrl, FieldPlace)]) -> Vec<FieldError> {
    let names: Vec<&str> =
        backends.iter().map(|(url, _)| url.host.as_str()).filter(|host| host.parse::<IpAddr>().is_err()).collect();
    let reasons = look_up(names);
    let error = |(url, place): &(BackendUrl, FieldPlace)| {
        let reason = reasons.get(&url.host)?.clone()?;
        let problem = Problem::Unresolved { host: url.host.clone(), reason };
        Some(FieldError { path: place.path.clone(), position: place.position, problem })
    };
    backends.iter().filter_map(error).collect()
}

/// Each name once, with the reason why it has no address; none when it has one.
fn look_up(mut names: Vec<&str>) -> BTreeMap<String, Option<String>> {
    names.sort_unstable();
    names.dedup();
    let reasons = Mutex::new(BTreeMap::new());
    let threads = names.len().min(LOOKUPS_AT_ONCE);
    let next = Mutex::new(names.into_iter());
    let take = || next.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(name) = take() {
                    let reason = why_no_address(name);
                    if let Ok(mut reasons) = reasons.lock() {
                        reasons.insert(name.to_owned(), reason);
                    }
                }
            });
        }
    });
    reasons.into_inner().unwrap_or_default()
}

fn why_no_address(name: &str) -> Option<String> {
    match (name, 0).to_socket_addrs() {
        Ok(mut addresses) => addresses.next().is_none().then(|| "it has no address".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
