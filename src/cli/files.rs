//! What is wrong with files that a configuration names, told of the fields that name them.

use crate::config::{Examined, FieldError, FieldPlace, Problem, Tls, UpstreamTls};
use crate::control::certificates::Wrong;

/// An error for each file that can't be used: those of `tls` are looked at by `of_tls`, if there is one and it names them well,
/// those of `upstream_tls` by `of_backends`.
pub(super) fn unusable(
    found: &Examined,
    of_tls: impl FnOnce(&Tls) -> Vec<Wrong>,
    of_backends: impl FnOnce(&UpstreamTls) -> Vec<Wrong>,
) -> Vec<FieldError> {
    let (upstream_tls, backends_places) = &found.upstream_tls;
    let wrong = found.tls.as_ref().map(of_tls).unwrap_or_default();
    let of_clients = wrong.into_iter().map(|wrong| located(&found.files, wrong));
    let of_backends = of_backends(upstream_tls).into_iter().map(|wrong| located(backends_places, wrong));
    of_clients.chain(of_backends).collect()
}

fn located(places: &[FieldPlace], wrong: Wrong) -> FieldError {
    let Wrong { field, file, reason } = wrong;
    let position = places.iter().find(|place| place.path == field).and_then(|place| place.position);
    FieldError { path: field, position, problem: Problem::File { file, reason } }
}
