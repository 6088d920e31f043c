//! The bodies of admin calls: what is taken is sound, and the configuration takes it too and means the same; what isn't
//! taken it doesn't take either, and it is answered with a short problem document.

use maypole::config::{self, Config, ConfigErrors};
use maypole::control::admin::bodies;
use maypole::control::server::Answer;
use serde_json::{Value, json};

/// See the module.
pub fn check(bytes: &[u8]) {
    let in_file = in_a_file(bytes);
    match bodies::backend(bytes) {
        Ok(backend) => {
            super::config::is_sound(&backend.url);
            if let Some(file) = in_file {
                assert_eq!(file.expect("the configuration takes it too").backends, std::slice::from_ref(&backend));
            }
            let written = super::config::written_backend(&backend).to_string();
            assert_eq!(bodies::backend(written.as_bytes()).as_ref(), Ok(&backend), "written as {written}");
            let named = json!({ "url": backend.url.written }).to_string();
            assert_eq!(bodies::url(named.as_bytes()).as_ref(), Ok(&backend.url), "named as {named}");
        }
        Err(answer) => {
            is_a_problem(&answer);
            assert!(in_file.is_none_or(|file| file.is_err()), "the configuration takes it");
        }
    }
    match bodies::change_by_url(bytes) {
        Ok((url, change)) => {
            super::config::is_sound(&url);
            assert!(change.weight.is_some() || change.state.is_some() || change.max_connections.is_some());
            assert!(change.weight.is_none_or(|weight| weight <= 256));
        }
        Err(answer) => is_a_problem(&answer),
    }
    match bodies::url(bytes) {
        // Who can name a backend so can add it so.
        Ok(url) => assert_eq!(bodies::backend(bytes).expect("it has a URL").url, url),
        Err(answer) => is_a_problem(&answer),
    }
}

/// What a configuration makes of the object as its only backend; None where it is no object, or has so many lists and
/// objects that they may lie too deep in one another there.
fn in_a_file(bytes: &[u8]) -> Option<Result<Config, ConfigErrors>> {
    const NESTED_MAX: usize = 14;
    let text = std::str::from_utf8(bytes).ok()?;
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let nested = body.bytes().filter(|byte| b"[{".contains(byte)).count();
    let is_object = nested <= NESTED_MAX && serde_json::from_str(body).is_ok_and(|value: Value| value.is_object());
    is_object.then(|| config::parse(&format!("{{\"backends\": [{body}]}}")))
}

/// 400, on one line, and short whatever the body was.
fn is_a_problem(answer: &Answer) {
    assert_eq!(answer.status(), 400);
    assert!(answer.body().len() < 8 * 1024, "{} bytes", answer.body().len());
    let document: Value = serde_json::from_slice(answer.body()).expect("JSON");
    let detail = document["detail"].as_str().expect("a detail");
    assert!(!detail.is_empty() && !detail.chars().any(char::is_control), "{detail:?}");
}
