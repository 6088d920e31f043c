//! How commands speak and how they fail: results on stdout, everything else on stderr.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::ConfigErrors;

/// Bad usage or configuration: nothing was started.
const BAD_USAGE: u8 = 2;

/// A result, on stdout. A reader that has gone is no failure: `maypole --help | head -1` is fine.
pub(super) fn print(text: &str) -> ExitCode {
    let _ = writeln!(io::stdout(), "{text}");
    ExitCode::SUCCESS
}

/// Says what is wrong with the call. Nothing was started.
pub(super) fn bad_usage(wrong: &str) -> ExitCode {
    tell(wrong);
    ExitCode::from(BAD_USAGE)
}

/// Why nothing runs, on stderr. It waits for that stream's reader, so what runs is told by the log instead.
pub(super) fn tell(wrong: &str) {
    let _ = writeln!(io::stderr(), "maypole: {wrong}");
}

/// Says what somebody should look at in the configuration, a line for each, although it can be used.
pub(super) fn warn(doubts: &ConfigErrors) {
    if !doubts.errors.is_empty() {
        let _ = writeln!(io::stderr(), "{doubts}");
    }
}

/// Says what is wrong with the configuration, a line for each mistake.
pub(super) fn bad_config(errors: &ConfigErrors) -> ExitCode {
    let _ = writeln!(io::stderr(), "{errors}");
    ExitCode::from(BAD_USAGE)
}
