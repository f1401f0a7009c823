//! `tartan-forwarder`: wiring only; see the library.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tartan_forwarder::{cli::Options, command::execute};

fn main() -> ExitCode {
    match execute(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may be what failed.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
