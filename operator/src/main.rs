//! `tartan-operator`: wiring only; see the library.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tartan_operator::{cli::Cli, command::execute};

/// It could not be done, or found out.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    // Before anything asks for TLS: with several providers in the graph rustls would not choose one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    execute(Cli::parse()).unwrap_or_else(|error| {
        // Logging may be what failed.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::from(FAILED)
    })
}
