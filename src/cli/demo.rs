//! `maypole demo`. Not joined to the rest yet.

use std::process::ExitCode;

pub(super) fn run(port: u16, admin_port: u16) -> ExitCode {
    eprintln!("maypole: demo isn't joined yet ({port}, {admin_port})");
    ExitCode::FAILURE
}
