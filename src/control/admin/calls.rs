//! One function a call of the API. What can't be done comes back as its problem document.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use super::bodies;
use super::views::{FullBackend, InFull, Status, millis};
use crate::balance::Backend;
use crate::config::{BackendUrl, parse_duration};
use crate::control::entry::{Entry, Which};
use crate::control::server::{Answer, Call};
use crate::control::{ControlPlane, Made};
use crate::observe::Counts;

/// The longest that a call waits for a drain.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Held while a list is made, one at a time: thousands of backends take megabytes and tens of milliseconds, and changes that
/// come beside many lists want their share of the processors.
static LISTING: Mutex<()> = Mutex::new(());

/// Adds up what the data plane has counted so far. It never waits.
pub type ReadCounts = Box<dyn Fn() -> Counts + Send + Sync>;

pub(super) type Outcome = Result<Answer, Answer>;

pub(super) fn status(control: &ControlPlane, counts: &ReadCounts, call: &Call) -> Outcome {
    Parameters::none(call)?;
    let counts = counts();
    let registry = control.registry();
    let panic_mode = registry.is_in_panic_mode();
    Ok(Answer::json(200, &registry.read(|entries| Status::of(entries, panic_mode, &counts))))
}

pub(super) fn list(control: &ControlPlane, call: &Call) -> Outcome {
    Parameters::none(call)?;
    let _one = LISTING.lock();
    // Entries are cloned under the lock and shown outside of it: quantiles of many backends take their time.
    let entries = control.registry().read(<[_]>::to_vec);
    Ok(Answer::json(200, &InFull(&entries)))
}

pub(super) fn show(control: &ControlPlane, call: &Call, segment: &str) -> Outcome {
    Parameters::none(call)?;
    let name = decode(segment)?;
    let entry = control.registry().find(Which::Name(&name)).ok_or_else(|| no_such_name(&name))?;
    Ok(Answer::json(200, &FullBackend::from(&entry)))
}

pub(super) fn certificates(control: &ControlPlane, call: &Call) -> Outcome {
    Parameters::none(call)?;
    Ok(Answer::json(200, &control.certificates()))
}

pub(super) fn healthz(control: &ControlPlane, call: &Call) -> Outcome {
    Parameters::none(call)?;
    let lateness = control.lateness();
    Ok(Answer::json(
        200,
        &json!({
            "status": "ok",
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": control.uptime().as_secs(),
            "probe_lateness_ms": { "recent_max": millis(lateness.recent_max), "max": millis(lateness.max) },
        }),
    ))
}

pub(super) fn readyz(control: &ControlPlane, call: &Call) -> Outcome {
    Parameters::none(call)?;
    match control.readiness() {
        Ok(()) => Ok(Answer::json(200, &json!({ "status": "ready" }))),
        Err(why) => Err(Answer::problem(503, &format!("not ready: {why}"))),
    }
}

pub(super) fn add(control: &ControlPlane, call: &Call) -> Outcome {
    Parameters::none(call)?;
    let config = bodies::backend(&call.body)?;
    let Made { of: entry, workers_behind } =
        control.add(config).map_err(|error| Answer::problem(409, &error.to_string()))?;
    let answer = match workers_behind {
        0 => Answer::json(201, &FullBackend::from(&entry)),
        behind => unfinished(&entry.backend, entry.backend.in_flight(), behind),
    };
    Ok(answer.with("Location", format!("/backends/{}", encode(&entry.config.name))))
}

pub(super) fn remove_by_url(control: &ControlPlane, call: &Call) -> Outcome {
    let wait = Parameters::wait(call)?;
    let url = bodies::url(&call.body)?;
    let removed = control.remove(Which::Url(&url.normalized));
    Ok(drained(control, &removed.ok_or_else(|| no_such_url(&url))?, wait))
}

pub(super) fn remove_by_name(control: &ControlPlane, call: &Call, segment: &str) -> Outcome {
    let wait = Parameters::wait(call)?;
    let name = decode(segment)?;
    let removed = control.remove(Which::Name(&name));
    Ok(drained(control, &removed.ok_or_else(|| no_such_name(&name))?, wait))
}

pub(super) fn change_by_url(control: &ControlPlane, call: &Call) -> Outcome {
    let wait = Parameters::wait(call)?;
    let (url, change) = bodies::change_by_url(&call.body)?;
    let changed = control.change(Which::Url(&url.normalized), change);
    Ok(changed_to(control, &changed.ok_or_else(|| no_such_url(&url))?, wait))
}

pub(super) fn change_by_name(control: &ControlPlane, call: &Call, segment: &str) -> Outcome {
    let wait = Parameters::wait(call)?;
    let name = decode(segment)?;
    let change = bodies::change(&call.body)?;
    let changed = control.change(Which::Name(&name), change);
    Ok(changed_to(control, &changed.ok_or_else(|| no_such_name(&name))?, wait))
}

/// Changed; and if that was asked for and it gets no new requests now, with nothing in flight any more.
fn changed_to(control: &ControlPlane, made: &Made<Entry>, wait: Option<Duration>) -> Answer {
    let entry = &made.of;
    match wait_until_done(control, &entry.backend, made.workers_behind, wait, entry.is_out_of_service()) {
        Some(unfinished) => unfinished,
        None => Answer::json(200, &FullBackend::from(entry)),
    }
}

/// Removed; and if that was asked for, with nothing in flight any more.
fn drained(control: &ControlPlane, made: &Made<Arc<Backend>>, wait: Option<Duration>) -> Answer {
    wait_until_done(control, &made.of, made.workers_behind, wait, true).unwrap_or_else(|| Answer::empty(204))
}

/// Waits, if that was asked for, until every worker knows of a change, and until nothing is in flight to a backend that
/// `drains`. The answer that tells what is left, if anything is.
fn wait_until_done(
    control: &ControlPlane,
    backend: &Backend,
    mut behind: usize,
    wait: Option<Duration>,
    drains: bool,
) -> Option<Answer> {
    let mut left = 0;
    if let Some(wait) = wait {
        let deadline = Instant::now() + wait;
        if behind > 0 {
            behind = control.wait_for_workers(wait);
        }
        if drains {
            left = ControlPlane::wait_for_drain(backend, deadline.saturating_duration_since(Instant::now()));
        }
    }
    match (behind, left) {
        (0, 0) => None,
        (0, left) => Some(unfinished(backend, left, 0)),
        (behind, _) => Some(unfinished(backend, backend.in_flight(), behind)),
    }
}

/// The change is made, and what was to follow it hasn't happened yet: requests are in flight, workers don't know of it.
fn unfinished(backend: &Backend, in_flight: usize, behind: usize) -> Answer {
    let mut document = json!({ "name": backend.name, "url": backend.url, "in_flight": in_flight });
    if behind > 0 {
        document["workers_behind"] = behind.into();
    }
    Answer::json(202, &document)
}

/// The query's parameters, of which each call knows its own.
struct Parameters;

impl Parameters {
    fn none(call: &Call) -> Result<(), Answer> {
        match Self::pairs(call).next() {
            None => Ok(()),
            Some((name, _)) => Err(Self::unknown(name, "this call takes none")),
        }
    }

    /// `?wait=30s`, if there is one.
    fn wait(call: &Call) -> Result<Option<Duration>, Answer> {
        let mut wait = None;
        for (name, value) in Self::pairs(call) {
            if name != "wait" {
                return Err(Self::unknown(name, "this call takes \"wait\""));
            }
            let parsed = parse_duration(&decode(value)?)
                .map_err(|error| Answer::problem(400, &format!("wait={value}: {error}")))?;
            if parsed > WAIT_MAX {
                return Err(Answer::problem(400, &format!("wait={value}: an hour is the longest")));
            }
            if wait.replace(parsed).is_some() {
                return Err(Answer::problem(400, "the query parameter \"wait\" is given twice"));
            }
        }
        Ok(wait)
    }

    fn pairs(call: &Call) -> impl Iterator<Item = (&str, &str)> {
        let pairs = call.query.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn unknown(name: &str, known: &str) -> Answer {
        Answer::problem(400, &format!("unknown query parameter {name:?}: {known}"))
    }
}

fn no_such_url(url: &BackendUrl) -> Answer {
    Answer::problem(404, &format!("there is no backend at {url}"))
}

fn no_such_name(name: &str) -> Answer {
    Answer::problem(404, &format!("there is no backend named {name:?}"))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, Answer> {
    let refuse = || Answer::problem(400, &format!("{text:?} isn't percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(refuse)?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| refuse())
}

/// Percent-encodes what a path segment can't hold; in names those are the brackets of an IPv6 address, and what a base path
/// brings along.
fn encode(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F").replace('[', "%5B").replace(']', "%5D")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_or_refused() {
        for (text, want) in [("a:80", Some("a:80")), ("%5B::1%5d:80", Some("[::1]:80")), ("%C3%A9", Some("é"))] {
            assert_eq!(decode(text).ok().as_deref(), want, "{text}");
        }
        for text in ["%", "%5", "%+5", "%zz", "%ff"] {
            assert_eq!(decode(text).unwrap_err().status(), 400, "{text}");
        }
        assert_eq!(encode("[::1]:80/a%20b"), "%5B::1%5D:80%2Fa%2520b");
        assert_eq!(decode(&encode("[::1]:80/a%20b")).ok().as_deref(), Some("[::1]:80/a%20b"));
    }
}
