//! Arguments to commands, nothing else: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    maypole::cli::main(std::env::args_os().skip(1))
}
