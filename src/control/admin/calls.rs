//! One function a call of the API. What can't be done comes back as its problem document.

use std::time::Duration;

use serde_json::json;

use super::ReadCounts;
use super::bodies;
use super::views::{FullBackend, Status, millis};
use crate::balance::Backend;
use crate::config::{BackendUrl, parse_duration};
use crate::control::ControlPlane;
use crate::control::entry::{Entry, Which};
use crate::control::server::{Answer, Call};

/// The longest that a call waits for a drain.
const WAIT_MAX: Duration = Duration::from_secs(3600);

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
    // Entries are cloned under the lock and shown outside of it: quantiles of many backends take their time.
    let entries = control.registry().read(<[_]>::to_vec);
    Ok(Answer::json(200, &entries.iter().map(FullBackend::from).collect::<Vec<_>>()))
}

pub(super) fn show(control: &ControlPlane, call: &Call, segment: &str) -> Outcome {
    Parameters::none(call)?;
    let name = decode(segment)?;
    let entry = control.registry().find(Which::Name(&name)).ok_or_else(|| no_such_name(&name))?;
    Ok(Answer::json(200, &FullBackend::from(&entry)))
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
    let entry = control.add(config).map_err(|error| Answer::problem(409, &error.to_string()))?;
    let place = format!("/backends/{}", encode(&entry.config.name));
    Ok(Answer::json(201, &FullBackend::from(&entry)).with("Location", place))
}

pub(super) fn remove_by_url(control: &ControlPlane, call: &Call) -> Outcome {
    let wait = Parameters::wait(call)?;
    let url = bodies::url(&call.body)?;
    let removed = control.remove(Which::Url(&url.normalized));
    let backend = removed.ok_or_else(|| no_such_url(&url))?;
    Ok(drained(&backend, wait))
}

pub(super) fn remove_by_name(control: &ControlPlane, call: &Call, segment: &str) -> Outcome {
    let wait = Parameters::wait(call)?;
    let name = decode(segment)?;
    let backend = control.remove(Which::Name(&name)).ok_or_else(|| no_such_name(&name))?;
    Ok(drained(&backend, wait))
}

pub(super) fn change_by_url(control: &ControlPlane, call: &Call) -> Outcome {
    let wait = Parameters::wait(call)?;
    let (url, change) = bodies::change_by_url(&call.body)?;
    let changed = control.change(Which::Url(&url.normalized), change);
    Ok(changed_to(&changed.ok_or_else(|| no_such_url(&url))?, wait))
}

pub(super) fn change_by_name(control: &ControlPlane, call: &Call, segment: &str) -> Outcome {
    let wait = Parameters::wait(call)?;
    let name = decode(segment)?;
    let change = bodies::change(&call.body)?;
    Ok(changed_to(&control.change(Which::Name(&name), change).ok_or_else(|| no_such_name(&name))?, wait))
}

/// Changed; and if that was asked for and it gets no new requests now, with nothing in flight any more.
fn changed_to(entry: &Entry, wait: Option<Duration>) -> Answer {
    let wait = wait.filter(|_| entry.is_out_of_service());
    match wait.map(|wait| ControlPlane::wait_for_drain(&entry.backend, wait)) {
        None | Some(0) => Answer::json(200, &FullBackend::from(entry)),
        Some(left) => still_in_flight(&entry.backend, left),
    }
}

/// Removed; and if that was asked for, with nothing in flight any more.
fn drained(backend: &Backend, wait: Option<Duration>) -> Answer {
    match wait.map(|wait| ControlPlane::wait_for_drain(backend, wait)) {
        None | Some(0) => Answer::empty(204),
        Some(left) => still_in_flight(backend, left),
    }
}

fn still_in_flight(backend: &Backend, left: usize) -> Answer {
    Answer::json(202, &json!({ "name": backend.name, "url": backend.url, "in_flight": left }))
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

/// Percent-encodes what a path segment can't hold; in names those are the brackets of an IPv6 address.
fn encode(name: &str) -> String {
    name.replace('[', "%5B").replace(']', "%5D")
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
        assert_eq!(decode(&encode("[::1]:80")).ok().as_deref(), Some("[::1]:80"));
    }
}
