//! `maypole check`: everything that is wrong with a configuration, without starting anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::SystemTime;

use super::files;
use super::output::{bad_config, print, warn};
use crate::config::{self, BackendUrl, ConfigErrors, FieldError, FieldPlace, Problem};
use crate::control::certificates::{self, backends};
use crate::control::own::OwnListeners;

/// Names looked up at once: a resolver that doesn't answer costs seconds a name, and a file may have thousands.
const LOOKUPS_AT_ONCE: usize = 16;

/// Checks the configuration in `path`, names of backends and files included. Prints `PATH: ok, N backends` to stdout and ends with
/// 0, or one line for each error to stderr and ends with 2. What goes on working although it is out of date is told on stderr too.
pub(super) fn run(path: &Path) -> ExitCode {
    let mut found = config::examine(path);
    let now = SystemTime::now();
    let of_tls = |tls: &_| certificates::examine(tls, now);
    found.errors.errors.extend(files::unusable(&found, of_tls, |tls| backends::examine(tls, now)));
    let of_tls = |tls: &_| certificates::outdated(tls, now);
    let warnings = files::unusable(&found, of_tls, |tls| backends::outdated(tls, now));
    found.errors.errors.extend(unreachable(&found.backends, &OwnListeners(found.listeners)));
    found.errors.errors.sort_by_key(|error| error.position.map(|place| (place.line, place.column)));
    warn(&ConfigErrors { errors: warnings, file: found.errors.file.clone() });
    match found.config {
        Some(config) if found.errors.errors.is_empty() => {
            let count = config.backends.len();
            let plural = if count == 1 { "" } else { "s" };
            print(&format!("{}: ok, {count} backend{plural}", path.display()))
        }
        _ => bad_config(&found.errors),
    }
}

/// An error for each backend whose name has no address, or that is the proxy itself.
fn unreachable(backends: &[(BackendUrl, FieldPlace)], own: &OwnListeners) -> Vec<FieldError> {
    let names: Vec<&str> =
        backends.iter().map(|(url, _)| url.host.as_str()).filter(|host| host.parse::<IpAddr>().is_err()).collect();
    let found = look_up(names);
    let problem = |url: &BackendUrl| {
        let addresses = match (url.host.parse::<IpAddr>(), found.get(&url.host)) {
            (Ok(ip), _) => vec![ip],
            (Err(_), Some(Ok(addresses))) => addresses.clone(),
            (Err(_), Some(Err(reason))) => {
                return Some(Problem::Unresolved { host: url.host.clone(), reason: reason.clone() });
            }
            (Err(_), None) => return None,
        };
        let reached = addresses.into_iter().find_map(|ip| own.reached_by(SocketAddr::new(ip, url.port)));
        reached.map(|(listener, field)| Problem::Itself { listener, field })
    };
    let error = |(url, place): &(BackendUrl, FieldPlace)| {
        Some(FieldError { path: place.path.clone(), position: place.position, problem: problem(url)? })
    };
    backends.iter().filter_map(error).collect()
}

/// Each name once, with its addresses, or the reason why it has none.
fn look_up(mut names: Vec<&str>) -> BTreeMap<String, Result<Vec<IpAddr>, String>> {
    names.sort_unstable();
    names.dedup();
    let found = Mutex::new(BTreeMap::new());
    let threads = names.len().min(LOOKUPS_AT_ONCE);
    let next = Mutex::new(names.into_iter());
    let take = || next.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(name) = take() {
                    let addresses = addresses(name);
                    if let Ok(mut found) = found.lock() {
                        found.insert(name.to_owned(), addresses);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_default()
}

fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    let found: Vec<IpAddr> =
        (name, 0).to_socket_addrs().map_err(|error| error.to_string())?.map(|address| address.ip()).collect();
    if found.is_empty() { Err("it has no address".to_owned()) } else { Ok(found) }
}
