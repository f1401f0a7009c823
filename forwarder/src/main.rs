//! `tartan-forwarder`: wiring only; see the library.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use tartan_forwarder::{cli::Options, control::run};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may be what failed.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let options = Options::parse();
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    // One thread for all but the packets, which have their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options))
}
