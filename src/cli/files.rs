//! What is wrong with files that a configuration names, told of the fields that name them.

use std::path::PathBuf;

use crate::config::{Examined, FieldError, FieldPlace, Problem, Tls};
use crate::control::backend_tls;
use crate::control::certificates::Wrong;

/// An error for each file that can't be used; those of `tls` are looked at by `of_tls`, if there is one and it names them well.
pub(super) fn unusable(found: &Examined, of_tls: impl FnOnce(&Tls) -> Vec<Wrong>) -> Vec<FieldError> {
    let wrong = found.tls.as_ref().map(of_tls).unwrap_or_default();
    let located = |wrong: Wrong| located(&found.files, wrong.field, wrong.file, wrong.reason);
    let mut errors: Vec<_> = wrong.into_iter().map(located).collect();
    let (upstream_tls, places) = &found.upstream_tls;
    if let Err(unusable) = backend_tls::read(upstream_tls) {
        errors.push(self::located(places, unusable.field.to_owned(), unusable.file, unusable.reason));
    }
    errors
}

fn located(places: &[FieldPlace], field: String, file: PathBuf, reason: String) -> FieldError {
    let position = places.iter().find(|place| place.path == field).and_then(|place| place.position);
    FieldError { path: field, position, problem: Problem::File { file, reason } }
}
