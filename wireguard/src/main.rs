//! `tartan-wireguard`: wiring only; see the library.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use tartan_wireguard::{cli::Options, control::run};

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
    // Its memory holds keys: no core dump of it, and no debugger but root's.
    nix::sys::prctl::set_dumpable(false).context("cannot forbid core dumps")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options))
}
