//! What lives here: the commands that a person types, one file each, and how they end. They may know every other room;
//! no other room knows them.
//!
//! Exit codes: 0 done, 1 failed while running, 2 bad usage or configuration. Results go to stdout, everything else to
//! stderr.

mod args;
mod authority;
mod backend;
mod check;
mod demo;
mod files;
mod log;
mod output;
mod run;
mod stop;
mod tls;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::args::{Command, Maypole, Parsed};
use self::output::{bad_config, bad_usage, print};
use crate::config;
use crate::control::certificates::{Materials, backends};

/// What runs when no configuration is named.
const DEFAULT_CONFIG: &str = "conf/maypole.json";

/// Runs the command that `arguments` (without the program's name) ask for, and says how it ended.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let ended = match args::parse(arguments) {
        Ok(Parsed::Command(asked)) => dispatch(asked),
        Ok(Parsed::Help(text)) => print(text.trim_end()),
        Err(wrong) => bad_usage(&wrong),
    };
    log::flush();
    ended
}

fn dispatch(asked: Maypole) -> ExitCode {
    if asked.version {
        return print(concat!("maypole ", env!("CARGO_PKG_VERSION")));
    }
    match (asked.command, asked.config) {
        (None, named) => with_config(named, run_file),
        (Some(Command::Check(check)), named) => with_config(check.config.or(named), check::run),
        (Some(_), Some(_)) => bad_usage("--config belongs to the proxy and to check, not to this command"),
        (Some(Command::Demo(demo)), None) if demo.port == demo.admin_port && demo.port != 0 => {
            bad_usage("--port and --admin-port must differ")
        }
        (Some(Command::Demo(demo)), None) if demo.tls && demo.tls_port != 0 && demo.has_on(demo.tls_port) => {
            bad_usage("--tls-port must differ from --port and --admin-port")
        }
        (Some(Command::Demo(demo)), None) => demo::run(demo.port, demo.admin_port, demo.tls.then_some(demo.tls_port)),
        (Some(Command::Backend(backend)), None) => {
            backend::run(backend.port, backend.name, backend.latency, backend.failure_rate)
        }
    }
}

/// Runs `command` with the configuration that was named, or else with the one that lies where it is looked for.
fn with_config(named: Option<PathBuf>, command: fn(&Path) -> ExitCode) -> ExitCode {
    let default = Path::new(DEFAULT_CONFIG);
    match named {
        Some(path) => command(&path),
        None if default.exists() => command(default),
        None => bad_usage(&format!(
            "no configuration: {DEFAULT_CONFIG} isn't here; name one with --config FILE, or try: maypole demo"
        )),
    }
}

fn run_file(path: &Path) -> ExitCode {
    run::run(|| {
        let mut found = config::examine(path);
        let of_tls = |tls: &_| Materials::read(tls).err().unwrap_or_default();
        let wrong = files::unusable(&found, of_tls, |tls| backends::read(tls).err().unwrap_or_default());
        found.errors.errors.extend(wrong);
        match found.config {
            Some(config) if found.errors.errors.is_empty() => Ok(config),
            _ => Err(bad_config(&found.errors)),
        }
    })
}
