//! The proxy itself. Not joined to the rest yet.

use std::process::ExitCode;

use crate::config::Config;

pub(super) fn run(config: Config) -> ExitCode {
    let Config { backends, .. } = config;
    eprintln!("maypole: the proxy isn't joined yet ({} backends)", backends.len());
    ExitCode::FAILURE
}
