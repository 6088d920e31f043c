//! What the bodies of calls may hold: JSON, read by the configuration's own rules, so that what one takes the other does
//! too. What is wrong comes back as its problem document.

use crate::config::{
    BackendChange, BackendConfig, BackendUrl, FieldError, Problem, parse_backend, parse_backend_change,
    parse_backend_change_by_url, parse_backend_url,
};
use crate::control::server::Answer;

/// So many errors of one body are told.
const REASONS_MAX: usize = 8;

/// The backend that a `POST` describes.
///
/// # Errors
/// 400, with everything that is wrong.
pub fn backend(body: &[u8]) -> Result<BackendConfig, Answer> {
    read(body, parse_backend)
}

/// The URL by which a `DELETE` names a backend.
///
/// # Errors
/// 400, with everything that is wrong.
pub fn url(body: &[u8]) -> Result<BackendUrl, Answer> {
    read(body, parse_backend_url)
}

/// What a `PATCH` of a backend that its path names is to change.
///
/// # Errors
/// 400, with everything that is wrong.
pub fn change(body: &[u8]) -> Result<BackendChange, Answer> {
    read(body, parse_backend_change)
}

/// What a `PATCH` is to change, and the URL of the backend.
///
/// # Errors
/// 400, with everything that is wrong.
pub fn change_by_url(body: &[u8]) -> Result<(BackendUrl, BackendChange), Answer> {
    read(body, parse_backend_change_by_url)
}

fn read<T>(body: &[u8], parse: impl FnOnce(&str) -> Result<T, Vec<FieldError>>) -> Result<T, Answer> {
    let refuse = |detail: &str| Answer::problem(400, detail);
    if body.is_empty() {
        return Err(refuse("a JSON body is missing"));
    }
    let text =
        std::str::from_utf8(body).map_err(|error| refuse(&Problem::NotUtf8 { at: error.valid_up_to() }.to_string()))?;
    parse(text).map_err(|errors| refuse(&told(&errors)))
}

/// All errors in one line.
fn told(errors: &[FieldError]) -> String {
    let mut reasons: Vec<_> = errors
        .iter()
        .take(REASONS_MAX)
        .map(|error| match error.position {
            Some(place) => format!("line {} column {}: {error}", place.line, place.column),
            None => error.to_string(),
        })
        .collect();
    if errors.len() > REASONS_MAX {
        reasons.push(format!("and {} more", errors.len() - REASONS_MAX));
    }
    reasons.join("; ")
}
