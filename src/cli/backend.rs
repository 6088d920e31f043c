//! `maypole backend`. Not joined to the rest yet.

use std::process::ExitCode;
use std::time::Duration;

pub(super) fn run(port: u16, name: Option<String>, latency: Duration, failure_rate: f64) -> ExitCode {
    let name = name.unwrap_or_else(|| format!("backend-{port}"));
    eprintln!("maypole: {name} isn't joined yet ({latency:?}, {failure_rate})");
    ExitCode::FAILURE
}
